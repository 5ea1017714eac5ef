//! Low-rank adapters beside packed matrices: `(x A^T) B^T` is added to `x W^T`.
//!
//! The arithmetic is a few percent of that of the matrix, but the numbers of an adapter of rank 16 take a quarter of the
//! memory of a small model's weights: waiting for them is what costs time. So they lie without gaps in one piece of memory,
//! are read in order, and fetched ahead. `x A^T` is computed piece by piece by whichever tasks of the product need it first:
//! handing it out to threads beforehand, and waiting for all of them, would take longer than the arithmetic. Its product with
//! a panel of `B` is added while the matrix' panel is in the first-level cache.

use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use pulp::{Simd, WithSimd};

use super::{
    format::PANEL,
    product::{accumulate, dispatch, each_row, load, store},
    rows::{DEPTH, Rows, Segment},
    words::{Memory, Words, prefetch},
};

/// Rows of `A` side by side: as many as one vector register has numbers, at most.
const STRIP: usize = 16;

/// Inputs of a strip between the one that is computed with and the one that is fetched meanwhile.
const INPUTS_AHEAD: usize = 64;

/// How often it is looked whether another thread is ready with a piece, before this one sleeps: it takes microseconds, as
/// long as going to sleep does.
const PATIENCE: usize = 1000;

/// The shape of an adapter's pair of matrices: `A` is `[rank, inputs]`, `B` `[outputs, rank]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairShape {
    pub rank: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl PairShape {
    /// How many words of [`super::Memory`] a pair takes.
    pub fn words(self) -> usize {
        self.rank.div_ceil(STRIP) * self.strip_len() + self.outputs.div_ceil(PANEL) * self.panel_len()
    }

    /// Inputs are computed in twos.
    fn strip_len(self) -> usize {
        self.inputs.next_multiple_of(2) * STRIP
    }

    fn panel_len(self) -> usize {
        self.rank * PANEL
    }

    /// Lays out `A`, and `B` with the adapter's scale in it, in numbers that are 0.
    pub fn lay_out(self, a: &[f32], b: &[f32], out: &mut [f32]) {
        let (strips, panels) = out.split_at_mut(self.rank.div_ceil(STRIP) * self.strip_len());
        for (row, a) in a.chunks_exact(self.inputs).enumerate() {
            let strip = strips[row / STRIP * self.strip_len()..].chunks_exact_mut(STRIP);
            strip.zip(a).for_each(|(input, value)| input[row % STRIP] = *value);
        }
        for (output, b) in b.chunks_exact(self.rank).enumerate() {
            let panel = panels[output / PANEL * self.panel_len()..].chunks_exact_mut(PANEL);
            panel.zip(b).for_each(|(rank, value)| rank[output % PANEL] = *value);
        }
    }
}

/// An adapter's pair for one matrix.
#[derive(Clone)]
pub struct PackedPair {
    shape: PairShape,
    /// Strip after strip of `A`, each `[inputs, STRIP]`, then panel after panel of `B`, each `[rank, PANEL]`.
    words: Words,
}

impl PackedPair {
    /// A pair in memory of its own; see [`PairShape::lay_out`].
    pub fn from_f32(shape: PairShape, a: &[f32], b: &[f32]) -> Self {
        let mut memory = Memory::zeros(shape.words());
        shape.lay_out(a, b, memory.floats_mut());
        Self::new(shape, Words::new(&Arc::new(memory), 0..shape.words()))
    }

    /// A pair in words that [`PairShape::lay_out`] has filled.
    pub fn new(shape: PairShape, words: Words) -> Self {
        Self { shape, words }
    }

    fn strips(&self) -> impl Iterator<Item = &[f32]> {
        let strips: &[f32] = bytemuck::cast_slice(&self.words);
        strips.chunks_exact(self.shape.strip_len()).take(self.shape.rank.div_ceil(STRIP))
    }

    fn panel(&self, panel: usize) -> &[u32] {
        let start = self.shape.rank.div_ceil(STRIP) * self.shape.strip_len() + panel * self.shape.panel_len();
        &self.words[start..][..self.shape.panel_len()]
    }
}

impl std::fmt::Debug for PackedPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedPair({:?})", self.shape)
    }
}

/// What a pair adds to the product of a matrix with some of the rows.
pub struct Added<'a> {
    pair: &'a PackedPair,
    x: &'a Rows,
    segments: Vec<Segment>,
    /// `x A^T`, for strip after strip and segment after segment.
    pieces: Vec<Piece>,
}

/// The product of a segment with one strip of `A`, `[size, STRIP]`, and whether somebody computes it.
#[derive(Default)]
struct Piece {
    claimed: AtomicBool,
    product: OnceLock<Vec<f32>>,
}

impl<'a> Added<'a> {
    pub fn new(pair: &'a PackedPair, x: &'a Rows, rows: &Range<usize>) -> Self {
        let segments = x.segments(rows);
        let pieces = pair.strips().flat_map(|_| segments.iter().map(|_| Piece::default())).collect();
        Self { pair, x, segments, pieces }
    }

    /// What [`Self::add`] reads.
    pub fn panel(&self, panel: usize) -> &[u32] {
        self.pair.panel(panel)
    }

    /// Adds to a panel of the product with all rows.
    pub fn add(&self, panel: usize, out: &mut [f32]) {
        self.compute_pieces();
        dispatch(SecondProduct { added: self, b: bytemuck::cast_slice(self.pair.panel(panel)), out });
    }

    /// Computes the pieces that nobody has begun with, and waits for the others. Whoever has begun with one computes it
    /// without waiting for anything, so this ends.
    fn compute_pieces(&self) {
        let parts = || {
            let parts = self.pair.strips().flat_map(|a| self.segments.iter().map(move |segment| (a, *segment)));
            self.pieces.iter().zip(parts)
        };
        let compute = |a, segment| dispatch(FirstProduct { x: self.x, segment, a });
        for (piece, (a, segment)) in parts() {
            if !piece.claimed.load(Ordering::Relaxed) && !piece.claimed.swap(true, Ordering::Relaxed) {
                piece.product.get_or_init(|| compute(a, segment));
            }
        }
        for (piece, (a, segment)) in parts() {
            for _ in 0..PATIENCE {
                if piece.product.get().is_some() {
                    break;
                }
                std::hint::spin_loop();
            }
            // Sleeps until it is there.
            piece.product.get_or_init(|| compute(a, segment));
        }
    }
}

/// The product of a segment with one strip of `A`.
struct FirstProduct<'a> {
    x: &'a Rows,
    segment: Segment,
    a: &'a [f32],
}

/// Runs `$body` with `$m` standing for the size of a segment.
macro_rules! with_size {
    ($size:expr, $m:ident => $body:expr) => { with_size!(@ $size, $m, $body, 1 2 4 6 8 12) };
    (@ $size:expr, $m:ident, $body:expr, $($known:literal)*) => {
        match $size {
            $($known => {
                const $m: usize = $known;
                $body
            })*
            _ => {}
        }
    };
}

impl WithSimd for FirstProduct<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { x, segment, a } = self;
        let mut out = vec![0.0; segment.size * STRIP];
        with_size!(segment.size, M => strip::<S, M>(simd, (x, segment), a, &mut out));
        out
    }
}

/// `M` rows times a strip, in two sums for each number: those of the even and of the odd inputs, because one multiply-add
/// would wait for the last.
#[inline(always)]
fn strip<S: Simd, const M: usize>(simd: S, (x, segment): (&Rows, Segment), a: &[f32], out: &mut [f32]) {
    let registers = STRIP / S::F32_LANES;
    let (vectors, _) = S::as_simd_f32s(a);
    for part in 0..registers {
        let mut sums = [[simd.splat_f32s(0.0); 2]; M];
        for (chunk, (x, vectors)) in x.segment(segment).zip(vectors.chunks(DEPTH * registers)).enumerate() {
            let Some(x) = x.first_chunk::<M>() else { return };
            for (pair, vectors) in vectors.chunks_exact(2 * registers).enumerate().take(DEPTH / 2) {
                let inputs = [2 * pair, 2 * pair + 1];
                if part == 0 {
                    inputs.iter().for_each(|input| prefetch(a, (chunk * DEPTH + input + INPUTS_AHEAD) * STRIP));
                }
                let vectors = [vectors[part], vectors[registers + part]];
                each_row!(M, ROW => {
                    let x = inputs.map(#[inline(always)] |input| simd.splat_f32s(x[ROW][input]));
                    sums[ROW][0] = simd.mul_add_e_f32s(x[0], vectors[0], sums[ROW][0]);
                    sums[ROW][1] = simd.mul_add_e_f32s(x[1], vectors[1], sums[ROW][1]);
                });
            }
        }
        each_row!(M, ROW => {
            let (out, _) = S::as_mut_simd_f32s(&mut out[ROW * STRIP..][..STRIP]);
            out[part] = simd.add_f32s(sums[ROW][0], sums[ROW][1]);
        });
    }
}

/// Adds the product of `t` with one panel of `B`.
struct SecondProduct<'a> {
    added: &'a Added<'a>,
    b: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for SecondProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { added, b, out } = self;
        let pieces = added.pieces.chunks(added.segments.len().max(1));
        for (pieces, b) in pieces.zip(b.chunks(STRIP * PANEL)) {
            for (piece, segment) in pieces.iter().zip(&added.segments) {
                let Some(t) = piece.product.get() else { continue };
                let out = &mut out[segment.first() * PANEL..];
                with_size!(segment.size, M => ranks::<S, M>(simd, t, b, out));
            }
        }
    }
}

/// Adds `M` rows of [`STRIP`] numbers times as many rows of [`PANEL`], or fewer.
#[inline(always)]
fn ranks<S: Simd, const M: usize>(simd: S, t: &[f32], b: &[f32], out: &mut [f32]) {
    let Some(t) = t.as_chunks::<STRIP>().0.first_chunk::<M>() else { return };
    let registers = PANEL / S::F32_LANES;
    let (b, _) = S::as_simd_f32s(b);
    for part in 0..registers / 2 {
        let out = &mut out[part * 2 * S::F32_LANES..];
        let mut sums = load::<S, M>(simd, out);
        for (rank, b) in b.chunks_exact(registers).enumerate().take(STRIP) {
            accumulate(simd, &mut sums, t, rank, [b[2 * part], b[2 * part + 1]]);
        }
        store::<S, M>(&sums, out);
    }
}
