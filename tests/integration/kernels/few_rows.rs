//! Products of a matrix with a few rows.

use super::{
    assert_close,
    emulator::{Arg, Grid, Kernels},
    numbers, rounded, tensor, values,
};

const OUTPUTS: usize = 64;
const THREADS: usize = 128;

fn kernels() -> Kernels {
    Kernels::of("few_rows", &["multiply_8", "multiply_16", "multiply_32", "multiply_64"])
}

/// `y` afterwards, whose rows are a little apart, and which is all ones before.
fn multiply(
    kernels: &Kernels,
    size: usize,
    (rows, outputs, inputs): (usize, usize, usize),
    blocks: usize,
    adds: bool,
) -> Vec<f32> {
    let stride = outputs + 3;
    let (x, w) = (rounded(&numbers(rows * inputs, 1)), rounded(&numbers(outputs * inputs, 2)));
    let tiles = outputs.div_ceil(OUTPUTS);
    let args = vec![
        Arg::bf16s(&x),
        Arg::bf16s(&w),
        Arg::int(rows),
        Arg::int(outputs),
        Arg::int(inputs),
        Arg::f32s(&vec![1.0; rows * stride]),
        Arg::int(stride),
        Arg::int(adds.into()),
        Arg::results(blocks * 2 * size / 8 * THREADS * 16),
        Arg::u32s(&vec![0; tiles]),
    ];
    let memory = kernels.launch(&format!("multiply_{size}"), Grid::of([blocks, 1, 1], THREADS), args);
    assert!(memory.u32s(4).iter().all(|&arrived| arrived == 0), "the next product finds no zeros");
    let found = memory.f32s(2);
    let expected = values(&tensor(&x, inputs).matmul(&tensor(&w, inputs).t().unwrap()).unwrap());
    let more = if adds { 1.0 } else { 0.0 };
    for (row, found) in found.chunks(stride).enumerate() {
        let expected: Vec<f32> = expected[row * outputs..][..outputs].iter().map(|sum| sum + more).collect();
        let what = format!("row {row} of {rows}, {outputs} outputs of {inputs} inputs by {blocks} blocks");
        assert_close(&found[..outputs], &expected, 1e-5, &what);
        assert_eq!(found[outputs..], [1.0; 3], "{what}: what lies between rows");
    }
    found
}

#[test]
fn products_of_a_few_rows_are_those_of_the_cpu_however_the_work_is_divided() {
    let kernels = kernels();
    // Whole tiles for each block, parts of one, more than one and a part, a unit each, and all for one.
    for blocks in [1, 2, 3, 5, 6, 7, 11, 15] {
        multiply(&kernels, 16, (13, 150, 5 * 64), blocks, blocks % 2 == 0);
    }
    for (size, rows) in [(8, 1), (8, 8), (16, 9), (32, 30), (64, 33), (64, 64)] {
        multiply(&kernels, size, (rows, 200, 3 * 64), 5, false);
    }
}

#[test]
fn a_product_of_a_few_rows_repeats_to_the_last_bit_for_each_row_whatever_other_rows_are_there() {
    let kernels = kernels();
    let shape = |rows| (rows, 130, 4 * 64);
    let (few, many) = (multiply(&kernels, 64, shape(2), 7, true), multiply(&kernels, 64, shape(40), 7, true));
    assert_eq!(few[..], many[..few.len()]);
}
