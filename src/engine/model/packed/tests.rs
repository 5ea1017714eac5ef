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
    let mut bytes: Vec<u8> = (0..rows * inputs / kind.block_size() * kind.type_size()).map(|_| rng.random()).collect();
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
    let matrices = [(40, 64), (8, 64), (70, 64)].map(|shape| PackedMatrix::from_f32(&random(shape.0 * 64, 9), shape));
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
    let scaled: Vec<f32> = x.iter().enumerate().map(|(i, x)| x * of_rows[i / width] * of_inputs[i % width]).collect();
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
        let matrices = outputs.map(|outputs| PackedMatrix::from_f32(&random(outputs * inputs, 11), (outputs, inputs)));
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
            assert_close(&adapted[index], expected, 2e-4, &format!("matrix {index} of {inputs} inputs, rank {rank}"));
        }
    }
}

#[test]
fn an_adapted_row_is_the_same_to_the_last_bit_whatever_rows_are_with_it() {
    let (inputs, outputs) = (96, 70);
    let matrix = PackedMatrix::from_f32(&random(outputs * inputs, 20), (outputs, inputs));
    let (_, _, pair) = pair(24, inputs, outputs, 21);
    let adapted = |x: &[f32]| {
        let [product] = multiply(&Rows::pack(x, inputs), [&matrix], &[(0..x.len() / inputs, [Some(&pair)])], [None]);
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
