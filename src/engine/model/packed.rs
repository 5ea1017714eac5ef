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
mod tests {
    use candle_core::{
        Device,
        quantized::{QStorage, QTensor},
    };
    use half::{bf16, f16};
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
            assert_close(
                &multiply(&Rows::pack(&x, inputs), [&matrix], &[], [None])[0],
                product(&x, &weights, shape),
                1e-2,
                &format!("{kind:?}"),
            );
            let y = random(5 * outputs, 4);
            let transposed: Vec<f32> =
                (0..inputs).flat_map(|i| (0..outputs).map(|o| weights[o * inputs + i]).collect::<Vec<_>>()).collect();
            let expected = product(&y, &transposed, (inputs, outputs));
            assert_close(&matrix.multiply_backward(&y, None), expected, 1e-2, &format!("{kind:?} backward"));
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
                assert_close(
                    &multiply(&Rows::pack(&x, inputs), [&matrix], &[], [None])[0],
                    expected,
                    1e-4,
                    &format!("{rows} rows, {shape:?}"),
                );
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
            assert_eq!(multiply(&Rows::pack(&units, 9), [&matrix], &[], [None])[0], expected, "{encoding:?}");
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
        let together = &multiply(&Rows::pack(&x, inputs), [&matrix], &[], [None])[0];
        for rows in [1, 2, 3, 4, 6, 8, 12, 20] {
            for (x, together) in x.chunks(rows * inputs).zip(together.chunks(rows * outputs)) {
                assert_eq!(multiply(&Rows::pack(x, inputs), [&matrix], &[], [None])[0], together, "{rows} rows");
            }
        }
    }

    #[test]
    fn several_matrices_at_once_equal_one_after_another() {
        let matrices =
            [(40, 64), (8, 64), (70, 64)].map(|shape| PackedMatrix::from_f32(&random(shape.0 * 64, 9), shape));
        let (inputs, x) = (64, random(6 * 64, 10));
        let together = multiply(&Rows::pack(&x, inputs), matrices.each_ref(), &[], [None; 3]);
        for (matrix, together) in matrices.iter().zip(together) {
            assert_eq!(multiply(&Rows::pack(&x, inputs), [matrix], &[], [None])[0], together);
        }
    }

    #[test]
    fn products_that_are_combined_are_the_rows_that_separate_products_make() {
        for (outputs, count) in [(96, 1), (128, 5), (33, 13), (70, 40), (160, 30)] {
            let inputs = 80;
            let matrix = |seed| PackedMatrix::from_f32(&random(outputs * inputs, seed), (outputs, inputs));
            let (first, second) = (matrix(30), matrix(31));
            let down = PackedMatrix::from_f32(&random(48 * outputs, 32), (48, outputs));
            let (_, _, pair) = pair(16, inputs, outputs, 33);
            let adapters = [(0..usize::div_ceil(count, 2), [Some(&pair), None])];
            let x = Rows::pack(&random(count * inputs, 35), inputs);
            let [mut apart, other] = multiply(&x, [&first, &second], &adapters, [None; 2]);
            let combine = |a: &mut [f32], b: &[f32]| a.iter_mut().zip(b).for_each(|(a, b)| *a *= b + 1.0);
            combine(&mut apart, &other);
            let combined = multiply_combined(&x, [&first, &second], &adapters, combine);
            let last = |x: &Rows| multiply(x, [&down], &[], [None]);
            assert_eq!(last(&combined), last(&Rows::pack(&apart, outputs)), "{count} rows, {outputs} outputs");
        }
    }

    #[test]
    fn a_product_is_added_to_the_rows_that_it_is_given() {
        for (outputs, count) in [(64, 3), (70, 30)] {
            let matrix = PackedMatrix::from_f32(&random(outputs * 64, 36), (outputs, 64));
            let (x, onto) = (Rows::pack(&random(count * 64, 37), 64), random(count * outputs, 38));
            let [mut sum] = multiply(&x, [&matrix], &[], [None]);
            sum.iter_mut().zip(&onto).for_each(|(sum, onto)| *sum += onto);
            assert_eq!(multiply(&x, [&matrix], &[], [Some(&onto)]), [sum]);
        }
    }

    #[test]
    fn rows_that_are_scaled_on_their_way_in_are_those_that_were_scaled_before() {
        let (count, width) = (7, 95);
        let matrix = PackedMatrix::from_f32(&random(32 * width, 39), (32, width));
        let (x, of_rows, of_inputs) = (random(count * width, 40), random(count, 41), random(width, 42));
        let scaled: Vec<f32> =
            x.iter().enumerate().map(|(i, x)| x * of_rows[i / width] * of_inputs[i % width]).collect();
        let product = |x: &Rows| multiply(x, [&matrix], &[], [None]);
        assert_eq!(product(&Rows::pack_scaled(&x, &of_rows, &of_inputs)), product(&Rows::pack(&scaled, width)));
    }

    #[test]
    fn no_rows_have_no_products() {
        let matrix = PackedMatrix::from_f32(&random(32 * 64, 43), (32, 64));
        let none = Rows::pack(&[], 64);
        assert!(multiply(&none, [&matrix], &[], [None])[0].is_empty());
        assert!(multiply_apart(&none, &matrix).is_empty());
        assert_eq!(multiply_combined(&none, [&matrix, &matrix], &[], |_, _| {}).count(), 0);
    }

    /// A pair of random numbers, plain and packed.
    fn pair(rank: usize, inputs: usize, outputs: usize, seed: u64) -> (Vec<f32>, Vec<f32>, PackedPair) {
        let (a, b) = (random(rank * inputs, seed), random(outputs * rank, seed + 1));
        let shape = PairShape { rank, inputs, outputs };
        let mut memory = Memory::zeros(shape.words());
        shape.lay_out(&a, &b, memory.floats_mut());
        (a, b, PackedPair::new(shape, Words::new(&Arc::new(memory), 0..shape.words())))
    }

    #[test]
    fn adapters_add_their_products_to_their_own_rows_only() {
        for (inputs, rank) in [(64, 5), (95, 16), (130, 40)] {
            let outputs = [40, 70];
            let matrices =
                outputs.map(|outputs| PackedMatrix::from_f32(&random(outputs * inputs, 11), (outputs, inputs)));
            let x = random(20 * inputs, 12);
            // The first adapter leaves the first matrix alone, the second adapts both.
            let adapters = [
                (2..3, [None, Some(pair(rank, inputs, 70, 13))]),
                (7..20, [Some(pair(rank, inputs, 40, 15)), Some(pair(rank, inputs, 70, 17))]),
            ];
            let packed =
                |pair: &Option<(Vec<f32>, Vec<f32>, PackedPair)>| pair.as_ref().map(|(_, _, packed)| packed.clone());
            let used = adapters.each_ref().map(|(rows, pairs)| (rows.clone(), pairs.each_ref().map(packed)));
            let used = used.each_ref().map(|(rows, pairs)| (rows.clone(), pairs.each_ref().map(Option::as_ref)));
            let (plain, adapted) = (
                multiply(&Rows::pack(&x, inputs), matrices.each_ref(), &[], [None; 2]),
                multiply(&Rows::pack(&x, inputs), matrices.each_ref(), &used, [None; 2]),
            );
            for (index, width) in outputs.into_iter().enumerate() {
                let mut expected: Vec<f64> = plain[index].iter().map(|value| f64::from(*value)).collect();
                for (range, pairs) in &adapters {
                    let Some((a, b, _)) = &pairs[index] else { continue };
                    let t = product(&x[range.start * inputs..range.end * inputs], a, (rank, inputs));
                    let t: Vec<f32> = t.into_iter().map(|value| value as f32).collect();
                    let more = product(&t, b, (width, rank));
                    expected[range.start * width..].iter_mut().zip(more).for_each(|(value, more)| *value += more);
                }
                assert_close(
                    &adapted[index],
                    expected,
                    2e-4,
                    &format!("matrix {index} of {inputs} inputs, rank {rank}"),
                );
            }
        }
    }

    #[test]
    fn an_adapted_row_is_the_same_to_the_last_bit_whatever_rows_are_with_it() {
        let (inputs, outputs) = (96, 70);
        let matrix = PackedMatrix::from_f32(&random(outputs * inputs, 20), (outputs, inputs));
        let (_, _, pair) = pair(24, inputs, outputs, 21);
        let adapted = |x: &[f32]| {
            let [product] =
                multiply(&Rows::pack(x, inputs), [&matrix], &[(0..x.len() / inputs, [Some(&pair)])], [None]);
            product
        };
        let x = random(40 * inputs, 22);
        let together = adapted(&x);
        for rows in [1, 2, 3, 5, 8, 12, 20] {
            for (x, together) in x.chunks(rows * inputs).zip(together.chunks(rows * outputs)) {
                assert_eq!(adapted(x), together, "{rows} rows");
            }
        }
    }
}
