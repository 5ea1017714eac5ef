//! The attention of training and its gradients.

use candle_core::{DType, Var};
use ttrl::engine::model::ops::{
    self, Attention, Paths,
    tiles::{KEPT, QueryTiles, SeenTiles},
};

use super::{
    assert_close, attention, branches,
    emulator::{Arg, Grid, Kernels, Memory},
    numbers, rounded, tensor,
    training::kernels,
    values, variants,
};

pub(super) const NAMES: [&str; 18] = [
    "attention_forward_64",
    "attention_backward_q_64",
    "attention_backward_kv_64",
    "attention_forward_128",
    "attention_backward_q_128",
    "attention_backward_kv_128",
    "attention_forward_256",
    "attention_backward_q_256",
    "attention_backward_kv_256",
    "attention_forward_bf16_64",
    "attention_backward_q_bf16_64",
    "attention_backward_kv_bf16_64",
    "attention_forward_bf16_128",
    "attention_backward_q_bf16_128",
    "attention_backward_kv_bf16_128",
    "attention_means",
    "attention_add_parts",
    "cast_to_bf16",
];

/// Queries, keys, values, and the gradient of the result.
struct Case {
    paths: std::sync::Arc<Paths>,
    rows: usize,
    attention: Attention,
    inputs: [Vec<f32>; 4],
}

impl Case {
    fn new((paths, rows): (std::sync::Arc<Paths>, usize), attention: Attention, on_matrix_units: bool) -> Self {
        let heads = attention.heads;
        let [width, kv_width] = [heads.heads, heads.kv_heads].map(|count| count * heads.head_dim);
        let counts = [paths.len() * width, rows * kv_width, rows * kv_width, paths.len() * width];
        let input = |index: usize| {
            let input = numbers(counts[index], index as u64 + 1);
            if on_matrix_units { rounded(&input) } else { input }
        };
        Self { paths, rows, attention, inputs: [0, 1, 2, 3].map(input) }
    }

    fn width(&self) -> usize {
        self.attention.heads.heads * self.attention.heads.head_dim
    }

    /// The result and the gradients for queries, keys and values.
    fn expected(&self) -> [Vec<f32>; 4] {
        let kv_width = self.attention.heads.kv_heads * self.attention.heads.head_dim;
        let [q, k, v, grad] = &self.inputs;
        let vars = [(q, self.width()), (k, kv_width), (v, kv_width)];
        let vars = vars.map(|(values, width)| Var::from_tensor(&tensor(values, width)).unwrap());
        let out = ops::attention([&vars[0], &vars[1], &vars[2]], &self.paths, self.attention, DType::F32).unwrap();
        let gradients = ops::seed_gradient(&out, tensor(grad, self.width())).unwrap().backward().unwrap();
        let [q, k, v] = vars.map(|var| values(gradients.get(&var).unwrap()));
        [values(&out), q, k, v]
    }

    fn shape(&self) -> Vec<Arg> {
        let Attention { heads, scale, window, softcap } = self.attention;
        vec![
            Arg::int(heads.heads),
            Arg::int(heads.kv_heads),
            Arg::int(heads.head_dim),
            Arg::float(scale),
            Arg::int(window.unwrap_or(0)),
            Arg::float(softcap.unwrap_or(0.0)),
        ]
    }

    fn found(&self, kernels: &Kernels, on_matrix_units: bool) -> [Vec<f32>; 4] {
        let heads = self.attention.heads;
        let (group, dim) = (heads.heads / heads.kv_heads, heads.head_dim);
        let (tiles, seen) =
            (QueryTiles::of(&self.paths, group).unwrap(), SeenTiles::of(&self.paths, self.rows, group).unwrap());
        let factor = |values: &[f32]| if on_matrix_units { Arg::bf16s(values) } else { Arg::f32s(values) };
        let factors = |count: usize| self.inputs[..count].iter().map(|values| factor(values)).collect::<Vec<_>>();
        let of_queries = || [Arg::u32s(self.paths.rows()), Arg::u32s(&tiles.spans), Arg::u32s(&tiles.tiles)];
        let [out_len, kv_len] = [self.inputs[0].len(), self.inputs[1].len()];
        let (width, name) = match on_matrix_units {
            true => (dim, "bf16_"),
            false => ([64, 128, 256].into_iter().find(|width| dim <= *width).unwrap(), ""),
        };
        // As the host does it.
        let grid = |blocks: usize, (rows, weights, visited): (usize, usize, usize)| {
            let shared_bytes = 4 * (rows * (width + 4) + weights * KEPT * (visited + 4));
            match on_matrix_units {
                true => Grid::of([blocks, heads.kv_heads, 1], 128),
                false => Grid { shared_bytes, ..Grid::of([blocks, heads.kv_heads, 1], 256) },
            }
        };
        let visited = if width == 256 { 32 } else { 64 };

        let mut args = factors(3);
        args.extend(of_queries());
        args.extend([Arg::results(4 * out_len), Arg::results(4 * out_len / dim)]);
        args.extend(self.shape());
        let name_of = |what: &str| format!("attention_{what}_{name}{width}");
        let launch = |what: &str, grid, args| kernels.launch(&name_of(what), grid, args);
        let forward = launch("forward", grid(tiles.count(), (KEPT + visited, 1, visited)), args);
        let (out, log_sums) = (forward.f32s(6), forward.f32s(7));

        let args = vec![Arg::f32s(&self.inputs[3]), Arg::f32s(&out), Arg::results(4 * out_len / dim)];
        let args = args.into_iter().chain([Arg::long(out_len / dim), Arg::int(dim)]).collect();
        let means = kernels.launch("attention_means", Grid::of([(out_len / dim).div_ceil(8), 1, 1], 256), args).f32s(2);

        let mut args = factors(4);
        args.extend(of_queries());
        args.extend([Arg::f32s(&log_sums), Arg::f32s(&means), Arg::results(4 * out_len)]);
        args.extend(self.shape());
        let d_q = launch("backward_q", grid(tiles.count(), (2 * (KEPT + 32), 1, 32)), args).f32s(9);

        let mut args = factors(4);
        let work = if on_matrix_units { &seen.pieces } else { &seen.tiles };
        args.extend([Arg::u32s(&seen.rows), Arg::u32s(&tiles.spans), Arg::u32s(work)]);
        args.extend([Arg::f32s(&log_sums), Arg::f32s(&means), Arg::results(4 * kv_len), Arg::results(4 * kv_len)]);
        let parts_len = seen.part_count * KEPT * heads.kv_heads * dim;
        if on_matrix_units {
            args.extend([Arg::results(4 * parts_len), Arg::results(4 * parts_len)]);
        }
        args.push(Arg::int(self.rows));
        args.extend(self.shape());
        let blocks = if on_matrix_units { seen.piece_count() } else { self.rows.div_ceil(KEPT) };
        let memory = launch("backward_kv", grid(blocks, (2 * (KEPT + 32), 2, 32)), args);
        let (mut d_k, mut d_v) = (memory.f32s(9), memory.f32s(10));
        if seen.split_count() > 0 {
            let memory = self.add_parts(kernels, &seen, [&memory.f32s(11), &memory.f32s(12), &d_k, &d_v]);
            (d_k, d_v) = (memory.f32s(3), memory.f32s(4));
        }
        [out, d_q, d_k, d_v]
    }

    fn add_parts(&self, kernels: &Kernels, seen: &SeenTiles, numbers: [&[f32]; 4]) -> Memory {
        let width = self.attention.heads.kv_heads * self.attention.heads.head_dim;
        let mut args = vec![Arg::u32s(&seen.parts)];
        args.extend(numbers.map(Arg::f32s));
        args.extend([Arg::int(self.rows), Arg::int(width)]);
        kernels.launch("attention_add_parts", Grid::of([seen.split_count(), 16, 1], 256), args)
    }

    fn check(&self, kernels: &Kernels, on_matrix_units: bool, share: f32) {
        let (found, expected) = (self.found(kernels, on_matrix_units), self.expected());
        for ((found, expected), what) in found.iter().zip(&expected).zip(["result", "d_q", "d_k", "d_v"]) {
            assert_close(found, expected, share, &format!("{what} of {:?}", self.attention));
        }
    }
}

#[test]
fn attention_of_training_and_its_gradients_are_those_of_the_cpu() {
    let kernels = kernels();
    for attention in variants(attention(6, 2, 64)) {
        Case::new(branches(90, 70, &[5, 2, 3]), attention, false).check(&kernels, false, 1e-5);
    }
    // Heads that are filled up with zeros, and wide ones.
    Case::new(branches(70, 9, &[2]), attention(2, 2, 12), false).check(&kernels, false, 1e-5);
    Case::new(branches(40, 3, &[2]), attention(3, 1, 80), false).check(&kernels, false, 1e-5);
    Case::new(branches(40, 3, &[2]), attention(2, 1, 256), false).check(&kernels, false, 1e-5);
}

#[test]
fn attention_on_matrix_units_and_its_gradients_are_those_of_the_cpu_up_to_rounding() {
    let kernels = kernels();
    for attention in variants(attention(6, 2, 64)) {
        Case::new(branches(90, 70, &[5, 2, 3]), attention, true).check(&kernels, true, 1e-2);
    }
    Case::new(branches(70, 20, &[2]), attention(4, 1, 128), true).check(&kernels, true, 1e-2);
}

#[test]
fn gradients_that_many_queries_have_a_part_in_are_summed_by_several_blocks() {
    // 64 heads to a key head: a block goes over 32 queries before others help.
    let case = Case::new(branches(70, 66, &[]), attention(64, 1, 64), true);
    assert!(SeenTiles::of(&case.paths, case.rows, 64).unwrap().split_count() > 0);
    case.check(&kernels(), true, 1e-2);
}
