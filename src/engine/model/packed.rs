//! Frozen weight matrices as the CPU multiplies with them: compact, and laid out for vector registers.
//!
//! A general matrix product would want the weights in f32 and rearrange them at every call. Here they are rearranged once,
//! when the model is loaded, and stay small: Q4 and Q8 types in the bytes of the file, others in the next larger of 4 and 8
//! bits with scales in f32 (Q4_K takes 6 bits a weight, Q6_K 12). Codes are turned into numbers in registers, right where
//! they are multiplied. The arithmetic is f32 throughout, with the numbers of a matrix that was dequantised beforehand, to
//! rounding (`Quantised` says how close).

mod format;
mod low_rank;
mod pack;
mod product;
mod room;
mod rows;
mod unpack;
mod words;

use std::{ops::Range, sync::Arc};

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use self::{
    format::{BLOCK, Format, PANEL, block_words},
    low_rank::Added,
    pack::with_format,
    product::{backward_panel, panel_product},
    room::Room,
    rows::DEPTH,
};
pub use self::{
    low_rank::{PackedPair, PairShape},
    pack::{Encoding, decode, pack, packed_words},
    rows::Rows,
    words::{Memory, Words},
};

/// A matrix `[outputs, inputs]`.
pub struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    encoding: Encoding,
    /// Panel after panel of [`PANEL`] outputs, each block after block of [`BLOCK`] inputs; outputs and inputs that fill
    /// up the last ones have weight 0.
    words: Words,
}

impl PackedMatrix {
    /// A matrix in words that [`pack`] has filled.
    pub fn new((outputs, inputs): (usize, usize), encoding: Encoding, words: Words) -> Self {
        Self { outputs, inputs, encoding, words }
    }

    /// Packs `[outputs, inputs]` numbers as they are.
    pub fn from_f32(values: &[f32], shape @ (_, inputs): (usize, usize)) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let row_bytes = inputs * size_of::<f32>();
        Self::from_rows(shape, Encoding::F32, |row| &bytes[row * row_bytes..][..row_bytes])
    }

    /// A matrix in memory of its own; see [`pack`].
    fn from_rows<'a>(shape: (usize, usize), encoding: Encoding, row: impl Fn(usize) -> &'a [u8] + Sync) -> Self {
        let mut memory = Memory::zeros(packed_words(shape, encoding));
        pack(shape, encoding, row, &mut memory);
        let words = 0..memory.len();
        Self::new(shape, encoding, Words::new(&Arc::new(memory), words))
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// What the words take, in bytes.
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<u32>()
    }

    /// Writes the weights of one output to `out`, as long as there are inputs.
    pub fn row(&self, output: usize, out: &mut [f32]) {
        with_format!(self.encoding, format => self.decode_row(format, output, out));
    }

    fn decode_row<F: Format>(&self, format: F, output: usize, out: &mut [f32]) {
        let simd = pulp::Scalar;
        let column = output % PANEL;
        let blocks = self.panel(output / PANEL).chunks_exact(block_words::<F>());
        for (block, out) in blocks.zip(out.chunks_mut(BLOCK)) {
            let (header, codes) = block.split_at(F::HEADER);
            for (input, out) in out.iter_mut().enumerate() {
                let scale = format.scale(simd, header, input / (BLOCK / F::GROUPS), column);
                let word = codes[input / F::PER_WORD * PANEL + column];
                *out = format.weight(simd, word, input % F::PER_WORD, scale);
            }
        }
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    fn blocks(&self) -> usize {
        self.inputs.div_ceil(BLOCK)
    }

    fn panel(&self, panel: usize) -> &[u32] {
        let words = self.words.len() / self.panels();
        &self.words[panel * words..][..words]
    }

    /// The product of rows with each panel, what is added to it, and where it goes.
    fn panel_products<'a>(
        &'a self,
        x: &'a Rows,
        added: &'a [Added<'a>],
        out: &'a mut [f32],
    ) -> impl Iterator<Item = PanelProduct<'a>> {
        let panels = out.chunks_exact_mut(x.panel_len()).enumerate();
        panels.map(move |(panel, out)| PanelProduct { matrix: self, panel, x, added, out })
    }

    /// `y W`: rows of `outputs` numbers to rows of `inputs` numbers, added to those of `onto`.
    pub fn multiply_backward(&self, y: &[f32], onto: Option<&[f32]>) -> Vec<f32> {
        if y.is_empty() {
            return vec![];
        }
        let y = Rows::pack(y, self.outputs);
        let mut panels = Room::of(self.blocks() * y.panel_len());
        panels.par_chunks_exact_mut(y.panel_len()).enumerate().for_each(|(column, out)| {
            let words = (&*self.words, self.blocks());
            with_format!(self.encoding, format => backward_panel(format, words, column, &y, out));
        });
        y.unpack(&panels, self.inputs, onto)
    }
}

/// A task: the product of rows with one panel of a matrix, and what adapters add to it.
struct PanelProduct<'a> {
    matrix: &'a PackedMatrix,
    panel: usize,
    x: &'a Rows,
    added: &'a [Added<'a>],
    out: &'a mut [f32],
}

impl PanelProduct<'_> {
    fn compute(self) {
        let Self { matrix, panel, x, added, out } = self;
        let words = matrix.panel(panel);
        let next = added.first().map_or(words, |added| added.panel(panel));
        with_format!(matrix.encoding, format => panel_product(format, words, x, next, out));
        added.iter().for_each(|added| added.add(panel, out));
    }
}

/// What an adapter adds to products with `N` matrices: it has a pair for a matrix, or none, and is for a range of the rows.
pub type AdapterPairs<'a, const N: usize> = (Range<usize>, [Option<&'a PackedPair>; N]);

/// Ranges do not overlap, and are in ascending order.
pub type Adapters<'a, const N: usize> = [AdapterPairs<'a, N>];

/// What adapters add, for each matrix.
fn added<'a, const N: usize>(x: &'a Rows, adapters: &Adapters<'a, N>) -> [Vec<Added<'a>>; N] {
    std::array::from_fn(|index| {
        adapters.iter().filter_map(|(rows, pairs)| Some(Added::new(pairs[index]?, x, rows))).collect()
    })
}

/// `x W^T` for several matrices with the same inputs: rows of `inputs` numbers to rows of `outputs` numbers each, added to
/// those of `onto`.
pub fn multiply<const N: usize>(
    x: &Rows,
    matrices: [&PackedMatrix; N],
    adapters: &Adapters<N>,
    onto: [Option<&[f32]>; N],
) -> [Vec<f32>; N] {
    let added = added(x, adapters);
    let lengths = matrices.map(|matrix| matrix.panels() * x.panel_len());
    let mut room = Room::of(lengths.iter().sum());
    let mut products = split(&mut room, &lengths);
    let tasks = matrices.iter().zip(&mut products).zip(&added);
    let tasks: Vec<_> = tasks.flat_map(|((matrix, out), added)| matrix.panel_products(x, added, out)).collect();
    tasks.into_par_iter().for_each(PanelProduct::compute);
    std::array::from_fn(|index| x.unpack(products[index], matrices[index].outputs, onto[index]))
}

/// The products of `x` with two matrices of the same shape, and what `combine` makes of the numbers of both: it writes it
/// in the place of the first. They are rows for another product, and are combined while they are in the cache.
pub fn multiply_combined(
    x: &Rows,
    matrices: [&PackedMatrix; 2],
    adapters: &Adapters<2>,
    combine: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Rows {
    let [first, second] = added(x, adapters);
    let panels = matrices[0].panels();
    let mut combined = Rows::room(x.count(), matrices[0].outputs);
    combined.chunks_mut().enumerate().for_each(|(chunk, runs)| {
        let mut room = Room::of(2 * x.panel_len());
        let (out, other) = room.split_at_mut(x.panel_len());
        for part in 0..DEPTH / PANEL {
            let panel = chunk * (DEPTH / PANEL) + part;
            if panel < panels {
                PanelProduct { matrix: matrices[0], panel, x, added: &first, out }.compute();
                PanelProduct { matrix: matrices[1], panel, x, added: &second, out: other }.compute();
                combine(out, other);
            } else {
                out.fill(0.0);
            }
            for (run, out) in runs.iter_mut().zip(out.as_chunks::<PANEL>().0) {
                run[part * PANEL..][..PANEL].copy_from_slice(out);
            }
        }
    });
    combined
}

/// Cuts a slice into pieces of these lengths.
fn split<'a>(mut rest: &'a mut [f32], lengths: &[usize]) -> Vec<&'a mut [f32]> {
    let cut = |&length: &usize| {
        let (piece, others) = std::mem::take(&mut rest).split_at_mut(length);
        rest = others;
        piece
    };
    lengths.iter().map(cut).collect()
}

/// `x W^T`, each row of the result on its own.
pub fn multiply_apart(x: &Rows, matrix: &PackedMatrix) -> Vec<Vec<f32>> {
    let mut room = Room::of(matrix.panels() * x.panel_len());
    let tasks: Vec<PanelProduct> = matrix.panel_products(x, &[], &mut room).collect();
    tasks.into_par_iter().for_each(PanelProduct::compute);
    x.unpack_apart(&room, matrix.outputs)
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix([{}, {}], {:?})", self.outputs, self.inputs, self.encoding)
    }
}

#[cfg(test)]
mod tests;
