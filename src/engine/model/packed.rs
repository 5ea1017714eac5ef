//! Frozen weight matrices as the CPU multiplies with them: compact, and laid out for vector registers.
//!
//! A general matrix product would want the weights in f32 and rearrange them at every call. Here they are rearranged once,
//! when the model is loaded, and stay small: Q4 and Q8 types in the bytes of the file, others in the next larger of 4 and 8
//! bits with scales in f32 (Q4_K takes 6 bits a weight, Q6_K 12). Codes are turned into numbers in registers, right where
//! they are multiplied. The arithmetic is f32 throughout, with the numbers of a matrix that was dequantised beforehand, to
//! rounding (`Quantised` says how close).

mod format;
mod product;
mod unpack;
mod words;

use std::{ops::Range, sync::Arc};

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};
use rayon::prelude::*;

pub use self::words::{Memory, Words};
use self::{
    format::{BLOCK, Bf16, F16, F32, Format, Halves, Header, PANEL, Quantised, Singles, block_words},
    product::{Added, Part, Rows, backward_panel, panel_product},
};

/// How the rows of a matrix are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    /// Blocks that share scales; one of the types that [`Self::of_gguf`] knows.
    Quantised(GgmlDType),
}

impl Encoding {
    /// Elements in a block, and bytes of it.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Quantised(kind) => (kind.block_size(), kind.type_size()),
        }
    }

    /// The encoding behind a type number of GGUF, if there is code for it.
    pub fn of_gguf(type_id: u32) -> Option<Self> {
        Some(match type_id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Quantised(GgmlDType::Q4_0),
            3 => Self::Quantised(GgmlDType::Q4_1),
            6 => Self::Quantised(GgmlDType::Q5_0),
            7 => Self::Quantised(GgmlDType::Q5_1),
            8 => Self::Quantised(GgmlDType::Q8_0),
            10 => Self::Quantised(GgmlDType::Q2K),
            11 => Self::Quantised(GgmlDType::Q3K),
            12 => Self::Quantised(GgmlDType::Q4K),
            13 => Self::Quantised(GgmlDType::Q5K),
            14 => Self::Quantised(GgmlDType::Q6K),
            30 => Self::Bf16,
            _ => return None,
        })
    }
}

/// A matrix `[outputs, inputs]`.
pub struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    encoding: Encoding,
    /// Panel after panel of [`PANEL`] outputs, each block after block of [`BLOCK`] inputs; outputs and inputs that fill
    /// up the last ones have weight 0.
    words: Words,
}

/// Runs `$body` with `$format` standing for the format in which weights of an encoding are packed.
macro_rules! with_format {
    ($encoding:expr, $format:ident => $body:expr) => {{
        use GgmlDType as Kind;
        match $encoding {
            Encoding::F32 => with_format!(@ F32, $format => $body),
            Encoding::F16 => with_format!(@ F16, $format => $body),
            Encoding::Bf16 => with_format!(@ Bf16, $format => $body),
            Encoding::Quantised(kind) => {
                let zero = zero(kind);
                match kind {
                    Kind::Q4_0 | Kind::Q4_1 => with_format!(@ Quantised::<4, _>::new(zero, Halves), $format => $body),
                    Kind::Q4K => with_format!(@ Quantised::<4, _>::new(zero, Singles::<1>), $format => $body),
                    Kind::Q2K => with_format!(@ Quantised::<4, _>::new(zero, Singles::<2>), $format => $body),
                    Kind::Q5K => with_format!(@ Quantised::<8, _>::new(zero, Singles::<1>), $format => $body),
                    Kind::Q3K | Kind::Q6K => with_format!(@ Quantised::<8, _>::new(zero, Singles::<2>), $format => $body),
                    _ => with_format!(@ Quantised::<8, _>::new(zero, Halves), $format => $body),
                }
            }
        }
    }};
    (@ $value:expr, $format:ident => $body:expr) => {{
        let $format = $value;
        $body
    }};
}

/// The code that stands for 0.
fn zero(kind: GgmlDType) -> u8 {
    match kind {
        GgmlDType::Q3K => 4,
        GgmlDType::Q4_0 => 8,
        GgmlDType::Q5_0 => 16,
        GgmlDType::Q6K => 32,
        GgmlDType::Q8_0 => 128,
        _ => 0,
    }
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

    /// The product of rows with each panel, and where it goes.
    fn panel_products<'a>(&'a self, x: &'a Rows<'a>, out: &'a mut [f32]) -> impl Iterator<Item = PanelProduct<'a>> {
        let panels = out.chunks_exact_mut(x.panel_len()).enumerate();
        panels.map(move |(panel, out)| PanelProduct { matrix: self, panel, x, out })
    }

    /// `y W`: rows of `outputs` numbers to rows of `inputs` numbers.
    pub fn multiply_backward(&self, y: &[f32]) -> Vec<f32> {
        if y.is_empty() {
            return vec![];
        }
        let y = Rows::pack(y, self.outputs, &[y.len() / self.outputs]);
        y.with_room(self.blocks(), |panels| {
            panels.par_chunks_exact_mut(y.panel_len()).enumerate().for_each(|(column, out)| {
                let words = (&*self.words, self.blocks());
                with_format!(self.encoding, format => backward_panel(format, words, column, &y, out));
            });
            y.unpack(panels, self.inputs)
        })
    }
}

/// What an adapter does to the products of some matrices with the same rows: each gets `t B^T` added, with its part of
/// `t = x A^T`.
#[derive(Debug)]
pub struct LowRank {
    /// The rows of all `A`, one under the other.
    a: PackedMatrix,
    /// For each matrix, if it is adapted, the first of its rows in `a` and its `B` with the scale in it.
    b: Vec<Option<(usize, PackedMatrix)>>,
}

impl LowRank {
    /// For each matrix, if it is adapted, `A` `[rank, inputs]` and `B` `[outputs, rank]`, the scale in it, as numbers.
    pub fn new(inputs: usize, parts: Vec<Option<(Vec<f32>, Vec<f32>)>>) -> Self {
        let (mut stacked, mut b) = (Vec::new(), Vec::with_capacity(parts.len()));
        for part in parts {
            b.push(part.map(|(a, b)| {
                let (first, rank) = (stacked.len() / inputs, a.len() / inputs);
                stacked.extend(a);
                (first, PackedMatrix::from_f32(&b, (b.len() / rank, rank)))
            }));
        }
        Self { a: PackedMatrix::from_f32(&stacked, (stacked.len() / inputs, inputs)), b }
    }

    /// What it adds to each matrix for some rows; `panels` are their products with [`Self::a`].
    fn added(&self, x: &Part, panels: &[f32]) -> Vec<Option<Added<'_>>> {
        let t = |first: usize, b: &PackedMatrix| x.rows.of_product(panels, &(first..first + b.inputs));
        let added =
            self.b.iter().map(|part| part.as_ref().map(|(first, b)| Added { slot: x.slot, t: t(*first, b), b }));
        added.collect()
    }
}

/// A task: the product of rows with one panel of a matrix.
struct PanelProduct<'a> {
    matrix: &'a PackedMatrix,
    panel: usize,
    x: &'a Rows<'a>,
    out: &'a mut [f32],
}

impl PanelProduct<'_> {
    fn compute(self) {
        let Self { matrix, panel, x, out } = self;
        with_format!(matrix.encoding, format => panel_product(format, matrix.panel(panel), x, out));
    }
}

/// `x W^T` for several matrices with the same inputs: rows of `inputs` numbers to rows of `outputs` numbers each.
/// Adapters are for rows of ranges that do not overlap, in ascending order.
pub fn multiply(x: &[f32], matrices: &[&PackedMatrix], adapters: &[(Range<usize>, &LowRank)]) -> Vec<Vec<f32>> {
    let Some(first) = matrices.first().filter(|_| !x.is_empty()) else { return vec![vec![]; matrices.len()] };
    let rows = x.len() / first.inputs;
    let x = Rows::pack(x, first.inputs, &parts(rows, adapters.iter().map(|(rows, _)| rows)));
    let used = adapters.iter().filter(|(rows, adapter)| adapter.a.outputs > 0 && !rows.is_empty());
    let used: Vec<(Part, &LowRank)> = used.map(|(rows, adapter)| (x.part(rows), *adapter)).collect();
    x.with_room(matrices.iter().map(|matrix| matrix.panels()).sum(), |room| {
        let lengths: Vec<usize> = matrices.iter().map(|matrix| matrix.panels() * x.panel_len()).collect();
        let mut products = split(room, &lengths);
        let mut low: Vec<Vec<f32>> =
            used.iter().map(|(part, adapter)| vec![0.0; adapter.a.panels() * part.rows.panel_len()]).collect();
        // The products with the adapters' `A`, too, which would be too few tasks by themselves.
        let own = matrices.iter().zip(&mut products).flat_map(|(matrix, out)| matrix.panel_products(&x, out));
        let low_rank = used.iter().zip(&mut low);
        let low_rank = low_rank.flat_map(|((part, adapter), out)| adapter.a.panel_products(&part.rows, out));
        let tasks: Vec<PanelProduct> = own.chain(low_rank).collect();
        tasks.into_par_iter().for_each(PanelProduct::compute);
        add_adapters(&used, &low, &mut products, x.panel_len());
        products.iter().zip(matrices).map(|(product, matrix)| x.unpack(product, matrix.outputs)).collect()
    })
}

/// Adds what adapters add to the products with some matrices, from their products `low` with the adapters' `A`.
fn add_adapters(used: &[(Part, &LowRank)], low: &[Vec<f32>], products: &mut [&mut [f32]], panel_len: usize) {
    let mut added: Vec<Vec<Added>> = products.iter().map(|_| vec![]).collect();
    for ((part, adapter), low) in used.iter().zip(low) {
        for (added, more) in added.iter_mut().zip(adapter.added(part, low)) {
            added.extend(more);
        }
    }
    let adapted = products.iter_mut().zip(&added).filter(|(_, added)| !added.is_empty());
    let panels = adapted.flat_map(|(product, added)| {
        product.chunks_exact_mut(panel_len).enumerate().map(move |(panel, out)| (panel, added, out))
    });
    let tasks: Vec<_> = panels.collect();
    tasks.into_par_iter().for_each(|(panel, added, out)| added.iter().for_each(|added| added.add(panel, out)));
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
pub fn multiply_apart(x: &[f32], matrix: &PackedMatrix) -> Vec<Vec<f32>> {
    if x.is_empty() {
        return vec![];
    }
    let x = Rows::pack(x, matrix.inputs, &[x.len() / matrix.inputs]);
    x.with_room(matrix.panels(), |room| {
        let tasks: Vec<PanelProduct> = matrix.panel_products(&x, room).collect();
        tasks.into_par_iter().for_each(PanelProduct::compute);
        x.unpack_apart(room, matrix.outputs)
    })
}

/// How many rows lie in each range, and between them.
fn parts<'a>(rows: usize, ranges: impl Iterator<Item = &'a Range<usize>>) -> Vec<usize> {
    let (mut parts, mut end) = (Vec::new(), 0);
    for range in ranges {
        parts.extend([range.start - end, range.len()]);
        end = range.end;
    }
    parts.push(rows - end);
    parts
}

/// How many words the weights of a matrix `[outputs, inputs]` take.
pub fn packed_words((outputs, inputs): (usize, usize), encoding: Encoding) -> usize {
    fn words<F: Format>(_: F) -> usize {
        block_words::<F>()
    }
    outputs.div_ceil(PANEL) * inputs.div_ceil(BLOCK) * with_format!(encoding, format => words(format))
}

/// Packs a matrix from its rows as they are in a file into words that are 0; `row` gives the bytes of a row, which hold
/// `inputs` weights.
pub fn pack<'a>(
    (outputs, inputs): (usize, usize),
    encoding: Encoding,
    row: impl Fn(usize) -> &'a [u8] + Sync,
    words: &mut [u32],
) {
    fn pack_row<F: Packing>(_: F, encoding: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        F::pack_row(encoding, row, panel, column);
    }
    let panel_words = packed_words((PANEL, inputs), encoding);
    words.par_chunks_mut(panel_words.max(1)).enumerate().for_each(|(panel, words)| {
        for output in panel * PANEL..outputs.min((panel + 1) * PANEL) {
            with_format!(encoding, format => pack_row(format, encoding, row(output), words, output % PANEL));
        }
    });
}

/// How a row of a file gets into the words of its panel.
trait Packing {
    fn pack_row(encoding: Encoding, row: &[u8], panel: &mut [u32], column: usize);
}

impl Packing for F32 {
    fn pack_row(_: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        for (bytes, input) in row.as_chunks().0.iter().zip(panel.chunks_exact_mut(PANEL)) {
            input[column] = u32::from_le_bytes(*bytes);
        }
    }
}

impl Packing for F16 {
    fn pack_row(_: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        pack_halves(row, panel, column);
    }
}

impl Packing for Bf16 {
    fn pack_row(_: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        pack_halves(row, panel, column);
    }
}

fn pack_halves(row: &[u8], panel: &mut [u32], column: usize) {
    for (input, bytes) in row.as_chunks().0.iter().enumerate() {
        panel[input / 2 * PANEL + column] |= u32::from(u16::from_le_bytes(*bytes)) << (16 * (input % 2));
    }
}

impl<const BITS: usize, H: Header> Packing for Quantised<BITS, H> {
    fn pack_row(encoding: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        let Encoding::Quantised(kind) = encoding else { return };
        let mut blocks = panel.chunks_exact_mut(block_words::<Self>());
        unpack::unpack(kind, row, |weights| {
            let Some(block) = blocks.next() else { return };
            let (header, codes) = block.split_at_mut(H::WORDS);
            for group in 0..H::GROUPS {
                H::write(header, group, column, weights.scales[group], weights.minima[group]);
            }
            for (input, code) in weights.codes.into_iter().enumerate() {
                codes[input / Self::PER_WORD * PANEL + column] |= u32::from(code) << (BITS * (input % Self::PER_WORD));
            }
        });
    }
}

/// The numbers of a tensor as it is in a file, for what is not a matrix or not for this CPU.
pub fn decode(encoding: Encoding, raw: &[u8]) -> Vec<f32> {
    match encoding {
        Encoding::F32 => raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Encoding::F16 => raw.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Encoding::Bf16 => raw.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        Encoding::Quantised(kind) => {
            let (mut numbers, zero) = (Vec::new(), f32::from(zero(kind)));
            unpack::unpack(kind, raw, |weights| {
                for (input, code) in weights.codes.into_iter().enumerate() {
                    let half = input / (BLOCK / 2);
                    numbers.push((f32::from(code) - zero).mul_add(weights.scales[half], weights.minima[half]));
                }
            });
            numbers
        }
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix([{}, {}], {:?})", self.outputs, self.inputs, self.encoding)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{
        Device,
        quantized::{QStorage, QTensor},
    };
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const KINDS: [GgmlDType; 10] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    /// Rows of random bytes of a type, with scales that are ordinary numbers.
    fn random_rows(kind: GgmlDType, rows: usize, inputs: usize, seed: u64) -> Vec<u8> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes: Vec<u8> =
            (0..rows * inputs / kind.block_size() * kind.type_size()).map(|_| rng.random()).collect();
        for block in bytes.chunks_exact_mut(kind.type_size()) {
            let halves: &[usize] = match kind {
                GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
                GgmlDType::Q2K => &[80, 82],
                GgmlDType::Q3K => &[108],
                GgmlDType::Q6K => &[208],
                _ => &[0, 2],
            };
            for &at in halves {
                let value = f16::from_f32(rng.random_range(-0.1..0.1f32));
                block[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }

    /// The same weights as candle reads them.
    fn reference(kind: GgmlDType, bytes: &[u8], rows: usize, inputs: usize) -> Vec<f32> {
        let storage = QStorage::from_data(bytes.into(), &Device::Cpu, kind).unwrap();
        let tensor = QTensor::new(storage, (rows, inputs)).unwrap().dequantize(&Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: impl IntoIterator<Item = f64>, tolerance: f64, what: &str) {
        let mut count = 0;
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() <= tolerance, "{what}: {found} against {expected}");
            count += 1;
        }
        assert_eq!(count, found.len(), "{what}");
    }

    /// `x W^T` and `y W` in f64.
    fn product(x: &[f32], w: &[f32], (outputs, inputs): (usize, usize)) -> Vec<f64> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        x.chunks_exact(inputs).flat_map(|x| (0..outputs).map(move |o| dot(x, &w[o * inputs..][..inputs]))).collect()
    }

    fn packed(kind: GgmlDType, shape: (usize, usize), bytes: &[u8]) -> PackedMatrix {
        let row_bytes = bytes.len() / shape.0;
        PackedMatrix::from_rows(shape, Encoding::Quantised(kind), |row| &bytes[row * row_bytes..][..row_bytes])
    }

    #[test]
    fn every_quantised_type_means_the_numbers_that_candle_reads() {
        for kind in KINDS {
            let (rows, inputs) = (37, 512);
            let bytes = random_rows(kind, rows, inputs, 1);
            let expected = reference(kind, &bytes, rows, inputs);
            // Where scales are products of two numbers, 2^-15 of a scale may be missing; it is at most 0.1 times this.
            let largest = match kind {
                GgmlDType::Q2K => 15.0,
                GgmlDType::Q3K => 31.0,
                GgmlDType::Q4K | GgmlDType::Q5K => 63.0,
                GgmlDType::Q6K => 127.0,
                _ => 0.0,
            };
            let tolerance = 1e-5 + 0.1 * largest / 32768.0;
            let matrix = packed(kind, (rows, inputs), &bytes);
            let mut row = vec![0.0; inputs];
            for (output, expected) in expected.chunks_exact(inputs).enumerate() {
                matrix.row(output, &mut row);
                assert_close(&row, expected.iter().map(|e| f64::from(*e)), tolerance, &format!("{kind:?}"));
            }
            let decoded = decode(Encoding::Quantised(kind), &bytes);
            assert_close(&decoded, expected.iter().map(|e| f64::from(*e)), 1e-5, &format!("{kind:?}"));
        }
    }

    #[test]
    fn products_equal_those_of_the_dequantised_weights_forward_and_backward() {
        for kind in KINDS {
            let shape @ (outputs, inputs) = (70, 256);
            let bytes = random_rows(kind, outputs, inputs, 2);
            let weights = reference(kind, &bytes, outputs, inputs);
            let matrix = packed(kind, shape, &bytes);
            let x = random(5 * inputs, 3);
            assert_close(&multiply(&x, &[&matrix], &[])[0], product(&x, &weights, shape), 1e-2, &format!("{kind:?}"));
            let y = random(5 * outputs, 4);
            let transposed: Vec<f32> =
                (0..inputs).flat_map(|i| (0..outputs).map(|o| weights[o * inputs + i]).collect::<Vec<_>>()).collect();
            let expected = product(&y, &transposed, (inputs, outputs));
            assert_close(&matrix.multiply_backward(&y), expected, 1e-2, &format!("{kind:?} backward"));
        }
    }

    #[test]
    fn plain_numbers_of_any_width_multiply_exactly_enough_for_any_number_of_rows() {
        for rows in [1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 25, 40] {
            for shape @ (outputs, inputs) in [(1, 1), (16, 48), (33, 95), (64, 130)] {
                let weights = random(outputs * inputs, 5);
                let x = random(rows * inputs, 6);
                let expected = product(&x, &weights, shape);
                let matrix = PackedMatrix::from_f32(&weights, shape);
                assert_close(&multiply(&x, &[&matrix], &[])[0], expected, 1e-4, &format!("{rows} rows, {shape:?}"));
            }
        }
    }

    #[test]
    fn halves_are_read_exactly() {
        let numbers = [0.0, -0.0, 1.0, -2.5, 65504.0, 6.1e-5, 5.96e-8, -3.0e-7, 0.333_25];
        let exactly = |encoding, bytes: Vec<u8>, expected: Vec<f32>| {
            let matrix = PackedMatrix::from_rows((1, numbers.len()), encoding, |_| &bytes);
            let mut row = vec![0.0; numbers.len()];
            matrix.row(0, &mut row);
            assert_eq!(row, expected, "{encoding:?}");
            assert_eq!(decode(encoding, &bytes), expected);
            // Through the vector registers, too.
            let units: Vec<f32> = (0..81).map(|i| if i % 10 == 0 { 1.0 } else { 0.0 }).collect();
            assert_eq!(multiply(&units, &[&matrix], &[])[0], expected, "{encoding:?}");
        };
        let halves = numbers.map(f16::from_f32);
        exactly(Encoding::F16, halves.iter().flat_map(|h| h.to_le_bytes()).collect(), halves.map(f16::to_f32).into());
        let halves = numbers.map(bf16::from_f32);
        exactly(Encoding::Bf16, halves.iter().flat_map(|h| h.to_le_bytes()).collect(), halves.map(bf16::to_f32).into());
    }

    #[test]
    fn a_row_is_the_same_to_the_last_bit_whatever_rows_are_with_it() {
        let shape @ (outputs, inputs) = (100, 192);
        let matrix = packed(GgmlDType::Q4_1, shape, &random_rows(GgmlDType::Q4_1, outputs, inputs, 7));
        let x = random(40 * inputs, 8);
        let together = &multiply(&x, &[&matrix], &[])[0];
        for rows in [1, 2, 3, 4, 6, 8, 12, 20] {
            for (x, together) in x.chunks(rows * inputs).zip(together.chunks(rows * outputs)) {
                assert_eq!(multiply(x, &[&matrix], &[])[0], together, "{rows} rows");
            }
        }
    }

    #[test]
    fn several_matrices_at_once_equal_one_after_another() {
        let matrices =
            [(40, 64), (8, 64), (70, 64)].map(|shape| PackedMatrix::from_f32(&random(shape.0 * 64, 9), shape));
        let x = random(6 * 64, 10);
        let together = multiply(&x, &matrices.iter().collect::<Vec<_>>(), &[]);
        for (matrix, together) in matrices.iter().zip(together) {
            assert_eq!(multiply(&x, &[matrix], &[])[0], together);
        }
    }

    #[test]
    fn adapters_add_their_products_to_their_own_rows_only() {
        let (inputs, outputs, rank) = (64, [40, 70], 5);
        let matrices = outputs.map(|outputs| PackedMatrix::from_f32(&random(outputs * inputs, 11), (outputs, inputs)));
        let matrices: Vec<&PackedMatrix> = matrices.iter().collect();
        let x = random(20 * inputs, 12);
        // The first adapter leaves the first matrix alone, the second adapts both.
        let pair = |outputs: usize, seed| (random(rank * inputs, seed), random(outputs * rank, seed + 1));
        let parts = [vec![None, Some(pair(70, 13))], vec![Some(pair(40, 15)), Some(pair(70, 17))]];
        let adapters = parts.clone().map(|parts| LowRank::new(inputs, parts));
        let ranges = [2..3, 7..20];
        let used: Vec<_> = ranges.iter().cloned().zip(&adapters).collect();
        let (plain, adapted) = (multiply(&x, &matrices, &[]), multiply(&x, &matrices, &used));
        for (index, width) in outputs.into_iter().enumerate() {
            let mut expected: Vec<f64> = plain[index].iter().map(|value| f64::from(*value)).collect();
            for (range, parts) in ranges.iter().zip(&parts) {
                let Some((a, b)) = &parts[index] else { continue };
                let t = product(&x[range.start * inputs..range.end * inputs], a, (rank, inputs));
                let t: Vec<f32> = t.into_iter().map(|value| value as f32).collect();
                let more = product(&t, b, (width, rank));
                expected[range.start * width..].iter_mut().zip(more).for_each(|(value, more)| *value += more);
            }
            assert_close(&adapted[index], expected, 1e-4, &format!("matrix {index}"));
        }
    }
}
