//! The fused operations against the same ones composed of candle's, forwards and backwards.

use std::{ops::Range, sync::Arc};

use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;
use ttrl::engine::model::{
    frozen::Frozen,
    ops::{self, Activation, Angles, Attention, Heads, Paths, composed},
};

/// Numbers that look random and are a function of the seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(shape: (usize, usize), seed: u64) -> Tensor {
    Tensor::from_vec(numbers(shape.0 * shape.1, seed), shape, &Device::Cpu).unwrap()
}

fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(found.dims(), expected.dims(), "{what}");
    for (found, expected) in values(found).iter().zip(values(expected)) {
        assert!((found - expected).abs() < 2e-5 * (1.0 + expected.abs()), "{what}: {found} against {expected}");
    }
}

/// Compares values, and gradients for some gradient of the output.
fn check(inputs: &[Tensor], fused: impl Fn(&[Var]) -> Result<Tensor>, composed: impl Fn(&[Var]) -> Result<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let (found, expected) = (fused(&vars).unwrap(), composed(&vars).unwrap());
    assert_close(&found, &expected, "value");
    let seed = tensor(expected.dims2().unwrap(), 99);
    let gradients = |output: &Tensor| (output * &seed).unwrap().sum_all().unwrap().backward().unwrap();
    let (found, expected) = (gradients(&found), gradients(&expected));
    for (index, var) in vars.iter().enumerate() {
        assert_close(found.get(var).unwrap(), expected.get(var).unwrap(), &format!("gradient of input {index}"));
    }
}

#[test]
fn rms_norm_equals_its_composition() {
    let weight = Tensor::from_vec(numbers(36, 2), 36, &Device::Cpu).unwrap();
    check(
        &[tensor((5, 36), 1)],
        |vars| ops::rms_norm(&vars[0], &weight, 1e-5),
        |vars| composed::rms_norm(&vars[0], &weight, 1e-5),
    );
}

#[test]
fn rms_norm_of_each_head_equals_its_composition() {
    let weight = Tensor::from_vec(numbers(12, 2), 12, &Device::Cpu).unwrap();
    check(
        &[tensor((5, 36), 1)],
        |vars| ops::rms_norm(&vars[0], &weight, 1e-5),
        |vars| composed::rms_norm(&vars[0], &weight, 1e-5),
    );
}

#[test]
fn a_gated_activation_equals_its_composition() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        check(
            &[tensor((7, 33), 1), tensor((7, 33), 2)],
            |vars| ops::gated(&vars[0], &vars[1], activation),
            |vars| composed::gated(&vars[0], &vars[1], activation),
        );
    }
}

#[test]
fn a_bias_equals_its_composition_and_gets_no_gradient() {
    let bias = Var::from_tensor(&Tensor::from_vec(numbers(6, 3), 6, &Device::Cpu).unwrap()).unwrap();
    check(&[tensor((4, 6), 1)], |vars| ops::add_bias(&vars[0], &bias), |vars| composed::add_bias(&vars[0], &bias));
    let x = Var::from_tensor(&tensor((4, 6), 1)).unwrap();
    let gradients = ops::add_bias(&x, &bias).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&x).is_some() && gradients.get(&bias).is_none());
}

#[test]
fn rope_equals_its_composition() {
    let angles = Angles { cos: tensor((4, 3), 5).cos().unwrap(), sin: tensor((4, 3), 5).sin().unwrap() };
    check(&[tensor((4, 12), 1)], |vars| ops::rope(&vars[0], &angles), |vars| composed::rope(&vars[0], &angles));
}

#[test]
fn a_frozen_linear_map_equals_a_matrix_product() {
    let weight = tensor((11, 6), 3);
    let frozen = Frozen::new(&weight).unwrap();
    check(&[tensor((4, 6), 1)], |vars| ops::frozen_linear(&vars[0], &frozen), |vars| vars[0].matmul(&weight.t()?));
    let dense = Frozen::Dense(weight.clone());
    check(&[tensor((4, 6), 1)], |vars| ops::frozen_linear(&vars[0], &dense), |vars| vars[0].matmul(&weight.t()?));
}

#[test]
fn an_adapted_linear_map_equals_matrix_products_and_gives_the_adapter_gradients() {
    let weight = tensor((40, 21), 3);
    let inputs = [tensor((5, 21), 1), tensor((3, 21), 4), tensor((40, 3), 5)];
    for frozen in [Frozen::new(&weight).unwrap(), Frozen::Dense(weight.clone())] {
        check(
            &inputs,
            |vars| ops::adapted_linear(&vars[0], &frozen, [&vars[1], &vars[2]], 1.7),
            |vars| {
                let low_rank = vars[0].matmul(&vars[1].t()?)?.matmul(&vars[2].t()?)?;
                vars[0].matmul(&weight.t()?)? + (low_rank * 1.7)?
            },
        );
    }
}

#[test]
fn an_adapter_of_another_shape_is_refused() {
    let (x, frozen) = (tensor((2, 6), 1), Frozen::new(&tensor((11, 6), 2)).unwrap());
    let refused = ops::adapted_linear(&x, &frozen, [&tensor((3, 6), 3), &tensor((10, 3), 4)], 1.0).unwrap_err();
    assert!(refused.to_string().contains("does not fit"), "{refused}");
}

#[test]
fn a_frozen_linear_map_gives_its_weight_no_gradient() {
    let (x, weight) = (Var::from_tensor(&tensor((4, 6), 1)).unwrap(), Var::from_tensor(&tensor((11, 6), 2)).unwrap());
    let frozen = Frozen::Dense(weight.as_tensor().clone());
    let gradients = ops::frozen_linear(&x, &frozen).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&x).is_some() && gradients.get(&weight).is_none());
}

#[test]
fn a_seeded_gradient_goes_back_as_it_is() {
    let x = Var::from_tensor(&tensor((3, 4), 1)).unwrap();
    let seed = tensor((3, 4), 2);
    let gradients = ops::seed_gradient(&(x.as_tensor() * 3.0).unwrap(), seed.clone()).unwrap().backward().unwrap();
    assert_close(gradients.get(&x).unwrap(), &(seed * 3.0).unwrap(), "gradient");
}

fn plain(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    let scale = (head_dim as f32).sqrt().recip();
    Attention { heads: Heads { heads, kv_heads, head_dim }, scale, window: None, softcap: None }
}

#[test]
fn attention_needs_a_path_for_each_query() {
    let (q, k) = (tensor((2, 8), 1), tensor((2, 4), 2));
    let mut paths = Paths::default();
    paths.push([0]);
    let error = ops::attention([&q, &k, &k], &Arc::new(paths), plain(2, 1, 4), DType::F32).unwrap_err();
    assert!(error.to_string().contains("2 queries but 1 paths"));
}

#[test]
fn a_window_shows_the_end_of_a_path() {
    let (q, k, v) = (tensor((1, 8), 1), tensor((9, 4), 2), tensor((9, 4), 3));
    let attend = |path: &[u32], window| {
        let mut paths = Paths::default();
        paths.push(path.iter().copied());
        let out =
            ops::attention([&q, &k, &v], &Arc::new(paths), Attention { window, ..plain(2, 1, 4) }, DType::F32).unwrap();
        out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(attend(&[8, 1, 5, 2], Some(3)), attend(&[1, 5, 2], None));
    assert_eq!(attend(&[8, 1, 5, 2], Some(4)), attend(&[8, 1, 5, 2], None));
    assert_ne!(attend(&[8, 1, 5, 2], Some(3)), attend(&[8, 1, 5, 2], None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Random trees: each row sees its ancestors and itself. Only the last rows are asked for, as over a cache.
    #[test]
    fn attention_over_a_tree_equals_masked_attention(
        parents in prop::collection::vec(0usize..100, 1..40), (kv_heads, shared) in (1usize..4, 1usize..4),
        seed in 0u64..1000, window in prop::option::of(1usize..6), softcap in prop::option::of(0.5f32..4.0),
        asked in 1usize..40,
    ) {
        let attention = Attention { window, softcap, scale: 0.7, ..plain(kv_heads * shared, kv_heads, 8) };
        let mut paths: Vec<Vec<u32>> = Vec::new();
        for (row, parent) in parents.iter().enumerate() {
            let mut path = if row == 0 || parent % 5 == 0 { vec![] } else { paths[parent % row].clone() };
            path.push(row as u32);
            paths.push(path);
        }
        let (rows, asked) = (paths.len(), asked.min(paths.len()));
        let mut last = Paths::default();
        paths.into_iter().skip(rows - asked).for_each(|path| last.push(path));
        let last = Arc::new(last);
        check(
            &[
                tensor((asked, kv_heads * shared * 8), seed),
                tensor((rows, kv_heads * 8), seed + 1),
                tensor((rows, kv_heads * 8), seed + 2),
            ],
            |vars| ops::attention([&vars[0], &vars[1], &vars[2]], &last, attention, DType::F32),
            |vars| composed::attention([&vars[0], &vars[1], &vars[2]], &last, attention),
        );
    }
}

/// Queries whose paths begin alike: the last rows of a trunk, as of a prompt, and the last rows of branches, as of
/// samples. The rows lie anywhere.
#[derive(Clone, Debug)]
struct Branches {
    trunk: usize,
    /// How many of the trunk's last rows are queries.
    asked: usize,
    branches: usize,
    /// Rows of a branch, of which the last two are queries.
    own: usize,
}

impl Branches {
    fn any() -> impl Strategy<Value = Self> {
        (1usize..260, 0usize..40, 0usize..20, 1usize..40).prop_map(|(trunk, asked, branches, own)| Self {
            trunk,
            asked: asked.min(trunk - 1),
            branches,
            own,
        })
    }

    fn rows(&self) -> usize {
        self.trunk + self.branches * self.own
    }

    fn paths(&self) -> Vec<Vec<u32>> {
        // 7919 is a prime beyond the number of rows: each row has a place of its own.
        let place = |row: usize| (row * 7919 % self.rows()) as u32;
        let trunk: Vec<u32> = (0..self.trunk).map(place).collect();
        let mut paths: Vec<Vec<u32>> =
            (self.trunk - self.asked..=self.trunk).map(|end| trunk[..end].to_vec()).collect();
        for branch in 0..self.branches {
            let mut path = trunk.clone();
            path.extend((0..self.own).map(|row| place(self.trunk + branch * self.own + row)));
            paths.extend((self.own.saturating_sub(2).max(1)..=self.own).map(|own| path[..self.trunk + own].to_vec()));
        }
        paths
    }
}

/// Heads of some sizes, windows that end inside and outside of blocks, and caps.
fn any_attention() -> impl Strategy<Value = Attention> {
    let dims = prop::sample::select(vec![3usize, 16, 33, 64, 80]);
    let heads = prop::sample::select(vec![(1usize, 1usize), (1, 4), (2, 1), (3, 3), (2, 7)]);
    (heads, dims, prop::option::of(1usize..200), prop::option::of(0.5f32..4.0)).prop_map(
        |((kv_heads, shared), dim, window, softcap)| Attention {
            window,
            softcap,
            ..plain(kv_heads * shared, kv_heads, dim)
        },
    )
}

/// Queries, keys and values of some paths over a number of rows.
fn inputs(paths: &[Vec<u32>], rows: usize, heads: Heads) -> [Tensor; 3] {
    let [width, kv_width] = [heads.heads, heads.kv_heads].map(|count| count * heads.head_dim);
    [tensor((paths.len(), width), 1), tensor((rows, kv_width), 2), tensor((rows, kv_width), 3)]
}

fn collect(paths: &[Vec<u32>]) -> Arc<Paths> {
    let mut collected = Paths::default();
    paths.iter().for_each(|path| collected.push(path.iter().copied()));
    Arc::new(collected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// In one pass with others, alone, or in chunks of a prompt; with few threads or many.
    #[test]
    fn a_query_comes_out_the_same_to_the_last_bit_whatever_else_is_in_the_pass(
        branches in Branches::any(), attention in any_attention(), cut in 0usize..1000, threads in 1usize..4,
    ) {
        let paths = branches.paths();
        let [q, k, v] = inputs(&paths, branches.rows(), attention.heads);
        let bits = |queries: Range<usize>| {
            let q = q.narrow(0, queries.start, queries.len()).unwrap().contiguous().unwrap();
            let rows = ops::attention([&q, &k, &v], &collect(&paths[queries]), attention, DType::F32).unwrap().to_vec2::<f32>();
            rows.unwrap().iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect::<Vec<Vec<u32>>>()
        };
        let together = bits(0..paths.len());
        let cut = cut % paths.len();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let chunks = pool.install(|| [bits(0..cut), bits(cut..paths.len())].concat());
        prop_assert_eq!(&chunks, &together, "in two passes");
        for query in (0..paths.len()).step_by(3) {
            prop_assert_eq!(&bits(query..query + 1)[0], &together[query], "query {} alone", query);
        }
    }

    #[test]
    fn attention_over_long_paths_equals_masked_attention(branches in Branches::any(), attention in any_attention()) {
        let paths = branches.paths();
        let of_queries = collect(&paths);
        check(
            &inputs(&paths, branches.rows(), attention.heads),
            |vars| ops::attention([&vars[0], &vars[1], &vars[2]], &of_queries, attention, DType::F32),
            |vars| composed::attention([&vars[0], &vars[1], &vars[2]], &of_queries, attention),
        );
    }
}

#[test]
fn softmax_normaliser_and_entropy_are_those_of_double_precision() {
    for (count, temperature) in [(1, 1.0), (17, 0.8), (1000, 0.5), (49_152, 2.0)] {
        let logits: Vec<f32> = numbers(count, 3).into_iter().map(|x| x * 5.0).collect();
        let scaled: Vec<f64> = logits.iter().map(|&x| f64::from(x) / temperature).collect();
        let top = scaled.iter().copied().fold(f64::MIN, f64::max);
        let normaliser = top + scaled.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
        let entropy: f64 = scaled.iter().map(|x| -(x - normaliser) * (x - normaliser).exp()).sum();
        let mut found = logits;
        let sums = ops::kernels::softmax_in_place(&mut found, temperature as f32);
        assert!((f64::from(sums.normaliser) - normaliser).abs() < 1e-4, "{} {normaliser}", sums.normaliser);
        assert!((f64::from(sums.entropy) - entropy).abs() < 1e-3, "{} {entropy}", sums.entropy);
        for (found, scaled) in found.iter().zip(scaled) {
            let expected = (scaled - normaliser).exp();
            assert!((f64::from(*found) - expected).abs() < 1e-6 + 1e-5 * expected, "{found} {expected}");
        }
    }
}
