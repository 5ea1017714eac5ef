//! The other kernels of training.

use candle_core::{Device, Tensor, Var};
use ttrl::engine::model::ops::{self, Activation, Angles};

use super::{
    assert_close, attention,
    emulator::{Arg, Grid, Kernels},
    numbers, rounded, tensor, values,
};

const NAMES: [&str; 12] = [
    "rms_norm",
    "rms_norm_backward",
    "gated",
    "gated_backward",
    "rope",
    "outer_parts",
    "add_outer_parts",
    "join_columns_f32",
    "join_columns_bf16",
    "join_rows",
    "score_rows",
    "logit_gradients",
];

pub(super) fn kernels() -> Kernels {
    Kernels::of("training", &[&NAMES[..], &attention::NAMES[..]].concat())
}

fn blocks(count: usize, threads: usize) -> Grid {
    Grid::of([count, 1, 1], threads)
}

#[test]
fn norms_and_their_gradients_are_those_of_the_cpu() {
    let (rows, width, kernels) = (5, 300, kernels());
    let [x, grad] = [1, 2].map(|seed| numbers(rows * width, seed));
    let weight = numbers(width, 3);
    let var = Var::from_tensor(&tensor(&x, width)).unwrap();
    let expected = ops::rms_norm(&var, &Tensor::from_slice(&weight, width, &Device::Cpu).unwrap(), 1e-5).unwrap();
    let gradients = ops::seed_gradient(&expected, tensor(&grad, width)).unwrap().backward().unwrap();

    let args = vec![Arg::f32s(&x), Arg::f32s(&weight), Arg::results(4 * x.len()), Arg::int(width), Arg::float(1e-5)];
    let found = kernels.launch("rms_norm", blocks(rows, 96), args).f32s(2);
    assert_close(&found, &values(&expected), 1e-6, "rms_norm");
    let mut args = vec![Arg::f32s(&x), Arg::f32s(&weight), Arg::f32s(&grad), Arg::results(4 * x.len())];
    args.extend([Arg::int(width), Arg::float(1e-5)]);
    let found = kernels.launch("rms_norm_backward", blocks(rows, 96), args).f32s(3);
    assert_close(&found, &values(gradients.get(&var).unwrap()), 1e-5, "rms_norm_backward");
}

#[test]
fn gates_and_their_gradients_are_those_of_the_cpu() {
    let (width, kernels) = (700, kernels());
    let [gate, up, grad] = [1, 2, 3].map(|seed| numbers(width, seed).iter().map(|x| 4.0 * x).collect::<Vec<_>>());
    for (activation, gelu) in [(Activation::Silu, 0), (Activation::GeluTanh, 1)] {
        let vars = [&gate, &up].map(|values| Var::from_tensor(&tensor(values, width)).unwrap());
        let expected = ops::gated(&vars[0], &vars[1], activation).unwrap();
        let gradients = ops::seed_gradient(&expected, tensor(&grad, width)).unwrap().backward().unwrap();
        let mut args = vec![Arg::f32s(&gate), Arg::f32s(&up), Arg::results(4 * width)];
        args.extend([Arg::long(width), Arg::int(gelu)]);
        let found = kernels.launch("gated", blocks(2, 256), args).f32s(2);
        assert_close(&found, &values(&expected), 1e-6, "gated");
        let mut args = vec![Arg::f32s(&gate), Arg::f32s(&up), Arg::f32s(&grad)];
        args.extend([Arg::results(4 * width), Arg::results(4 * width), Arg::long(width), Arg::int(gelu)]);
        let memory = kernels.launch("gated_backward", blocks(2, 256), args);
        for (index, var) in vars.iter().enumerate() {
            assert_close(&memory.f32s(3 + index), &values(gradients.get(var).unwrap()), 1e-5, "gated_backward");
        }
    }
}

#[test]
fn rotations_are_those_of_the_cpu_and_turn_back() {
    let (rows, heads, half) = (3, 5, 8);
    let x = numbers(rows * heads * 2 * half, 1);
    let angles = tensor(&numbers(rows * half, 2), half);
    let angles = Angles { cos: angles.cos().unwrap(), sin: angles.sin().unwrap() };
    let expected = values(&ops::rope(&tensor(&x, heads * 2 * half), &angles).unwrap());
    let turned = |x: &[f32], direction: f32| {
        let mut args = vec![Arg::f32s(x), Arg::f32s(&values(&angles.cos)), Arg::f32s(&values(&angles.sin))];
        args.extend([Arg::results(4 * x.len()), Arg::long(x.len() / 2), Arg::int(heads * 2 * half), Arg::int(half)]);
        args.push(Arg::float(direction));
        kernels().launch("rope", blocks(2, 64), args).f32s(3)
    };
    assert_close(&turned(&x, 1.0), &expected, 1e-6, "rope");
    assert_close(&turned(&expected, -1.0), &x, 1e-6, "back");
}

#[test]
fn gradients_of_adapters_are_sums_over_all_rows() {
    let (rows, rank, width, of_part, kernels) = (150, 19, 140, 64, kernels());
    let (low, x) = (numbers(rows * rank, 1), numbers(rows * width, 2));
    let product = tensor(&low, rank).t().unwrap().matmul(&tensor(&x, width)).unwrap();
    let parts = rows.div_ceil(of_part);
    let mut args = vec![Arg::f32s(&low), Arg::f32s(&x), Arg::results(4 * parts * rank * width)];
    args.extend([rows, rank, width, of_part].map(Arg::int));
    let grid = Grid::of([width.div_ceil(128) * rank.div_ceil(16), parts, 1], 128);
    let sums = kernels.launch("outer_parts", grid, args).f32s(2);
    for (transposed, expected) in [(0, product.clone()), (1, product.t().unwrap())] {
        let mut args = vec![Arg::f32s(&sums), Arg::results(4 * rank * width)];
        args.extend([parts, rank, width, transposed].map(Arg::int));
        let found = kernels.launch("add_outer_parts", blocks((rank * width).div_ceil(256), 256), args).f32s(1);
        assert_close(&found, &values(&expected.contiguous().unwrap()), 1e-5, "sums");
    }
}

#[test]
fn a_joined_product_in_bf16_keeps_what_f32_has_of_an_adapter() {
    let (rows, inputs, outputs, rank, kernels) = (4, 24, 10, 6, kernels());
    let (x, low) = (numbers(rows * inputs, 1), numbers(rows * rank, 2));
    let (w, factor) = (rounded(&numbers(outputs * inputs, 3)), numbers(outputs * rank, 4));
    let joined = |name: &str, matrix: Arg, (low, count): (&[f32], usize), of_second: usize| {
        let mut args = vec![matrix, Arg::f32s(low), Arg::results(2 * count * (inputs + 3 * rank))];
        args.extend([inputs, rank, of_second].map(Arg::int));
        tensor(&kernels.launch(name, blocks(count, 32), args).bf16s(2), inputs + 3 * rank)
    };
    let first = joined("join_columns_f32", Arg::f32s(&x), (&low, rows), 0);
    let second = joined("join_columns_bf16", Arg::bf16s(&w), (&factor, outputs), 1);
    let base = tensor(&rounded(&x), inputs).matmul(&tensor(&w, inputs).t().unwrap()).unwrap();
    let expected = (base + tensor(&low, rank).matmul(&tensor(&factor, rank).t().unwrap()).unwrap()).unwrap();
    // The smallest of four products of halves is left out: 2^-16 of a number.
    let product = first.matmul(&second.t().unwrap()).unwrap();
    assert_close(&values(&product), &values(&expected), 3e-5, "product with columns");

    // Backward, the second matrix goes on with rows: x [rows, outputs] times w [outputs, inputs] and a factor [rank, inputs].
    let (grad, factor) = (numbers(rows * outputs, 5), numbers(rank * inputs, 6));
    let mut args = vec![Arg::bf16s(&w), Arg::f32s(&factor), Arg::results(2 * (outputs + 3 * rank) * inputs)];
    args.extend([Arg::long(w.len()), Arg::long(factor.len())]);
    let second = tensor(&kernels.launch("join_rows", blocks(3, 64), args).bf16s(2), inputs);
    let mut args = vec![Arg::f32s(&grad), Arg::f32s(&low), Arg::results(2 * rows * (outputs + 3 * rank))];
    args.extend([outputs, rank, 0].map(Arg::int));
    let first = tensor(&kernels.launch("join_columns_f32", blocks(rows, 32), args).bf16s(2), outputs + 3 * rank);
    let base = tensor(&rounded(&grad), outputs).matmul(&tensor(&w, inputs)).unwrap();
    let expected = (base + tensor(&low, rank).matmul(&tensor(&factor, inputs)).unwrap()).unwrap();
    assert_close(&values(&first.matmul(&second).unwrap()), &values(&expected), 3e-5, "product with rows");
}

#[test]
fn scores_and_logit_gradients_are_those_of_the_softmax() {
    let (rows, vocab, temperature, kernels) = (3, 1000, 0.7f32, kernels());
    let mut logits: Vec<f32> = numbers(rows * vocab, 1).iter().map(|x| 8.0 * x).collect();
    // A token without any probability, and a row with two targets that are the same.
    logits[17] = f32::NEG_INFINITY;
    let (starts, tokens) = ([0u32, 1, 1, 3], [999u32, 4, 4]);
    let (of_tokens, of_rows) = ([0.5f32, -1.5, 0.25], [0.0f32, 0.3, -0.2]);
    let mut args = vec![Arg::f32s(&logits), Arg::u32s(&starts), Arg::u32s(&tokens)];
    args.extend([Arg::results(4 * rows), Arg::results(4 * rows), Arg::results(4 * tokens.len())]);
    args.extend([Arg::int(vocab), Arg::float(temperature)]);
    let scored = kernels.launch("score_rows", blocks(rows, 512), args);
    let (normalisers, entropies, log_probs) = (scored.f32s(3), scored.f32s(4), scored.f32s(5));

    let mut gradient = vec![0f32; logits.len()];
    let mut expected = (vec![], vec![], vec![0f32; tokens.len()]);
    for row in 0..rows {
        let scaled: Vec<f64> =
            logits[row * vocab..][..vocab].iter().map(|x| f64::from(*x) / f64::from(temperature)).collect();
        let top = scaled.iter().copied().fold(f64::MIN, f64::max);
        let normaliser = top + scaled.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
        let p: Vec<f64> = scaled.iter().map(|x| (x - normaliser).exp()).collect();
        let entropy: f64 = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        expected.0.push(normaliser as f32);
        expected.1.push(entropy as f32);
        let targets = starts[row] as usize..starts[row + 1] as usize;
        let total: f64 = targets.clone().map(|target| f64::from(of_tokens[target])).sum();
        for (j, p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            gradient[row * vocab + j] = (-p * (total + f64::from(of_rows[row]) * (p.ln() + entropy))) as f32;
        }
        for target in targets {
            expected.2[target] = (scaled[tokens[target] as usize] - normaliser) as f32;
            gradient[row * vocab + tokens[target] as usize] += of_tokens[target];
        }
    }
    assert_close(&normalisers, &expected.0, 1e-6, "normalisers");
    assert_close(&entropies, &expected.1, 1e-5, "entropies");
    assert_close(&log_probs, &expected.2, 1e-6, "log-probabilities");

    let mut args = vec![Arg::f32s(&logits), Arg::u32s(&starts), Arg::u32s(&tokens)];
    args.extend([&normalisers[..], &entropies, &of_tokens, &of_rows].map(Arg::f32s));
    args.extend([Arg::results(4 * logits.len()), Arg::int(vocab), Arg::float(temperature)]);
    let found = kernels.launch("logit_gradients", blocks(rows, 512), args).f32s(7);
    assert_close(&found, &gradient, 1e-6, "gradients");
}
