//! The kernels of the answering pass.

use candle_core::{DType, Device, Tensor};
use ttrl::engine::model::ops::{self, Activation, Angles, Attention, Paths};

use super::{
    assert_close, attention, branches,
    emulator::{Arg, Grid, Kernels, Memory},
    numbers, rounded, tensor, values, variants,
};

fn kernels() -> Kernels {
    let names = [
        "attend_tile_64",
        "attend_tile_128",
        "attend_group_64",
        "attend_group_128",
        "attend_4x4_1_f32",
        "attend_4x8_2_bf16",
        "attend_8x8_4_f32",
        "attend_16x8_8_bf16",
        "attend_32x8_1_f32",
        "combine_f32",
        "combine_bf16",
        "embed_bf16",
        "rms_norm_bf16",
        "rms_norm_f32",
        "gate_f32",
        "place_qkv_bf16",
        "add_to_residual",
        "softcap",
        "draw",
    ];
    Kernels::of("answering", &names)
}

/// Rows of queries, keys and values as a product leaves them, and the cache; both as far as bf16 has them.
struct Case {
    paths: std::sync::Arc<Paths>,
    attention: Attention,
    qkv: Vec<f32>,
    cache: Vec<f32>,
}

impl Case {
    fn new((paths, rows): (std::sync::Arc<Paths>, usize), attention: Attention) -> Self {
        let (width, kv_width) = widths(attention);
        let qkv = rounded(&numbers(paths.len() * (width + 2 * kv_width), 1));
        let cache = rounded(&numbers(rows * 2 * kv_width, 2));
        Self { paths, attention, qkv, cache }
    }

    fn expected(&self) -> Vec<f32> {
        let (width, kv_width) = widths(self.attention);
        let q = tensor(&self.qkv, width + 2 * kv_width).narrow(1, 0, width).unwrap();
        let cache = tensor(&self.cache, 2 * kv_width);
        let [k, v] = [0, kv_width].map(|start| cache.narrow(1, start, kv_width).unwrap());
        values(&ops::attention([&q, &k, &v], &self.paths, self.attention, DType::F32).unwrap())
    }

    /// Where queries begin, and what they see.
    fn given(&self, name: &str) -> Vec<Arg> {
        let (width, kv_width) = widths(self.attention);
        let cache = if name.ends_with("f32") { Arg::f32s(&self.cache) } else { Arg::bf16s(&self.cache) };
        vec![Arg::f32s(&self.qkv), Arg::int(width + 2 * kv_width), cache]
    }

    fn spans(&self) -> Arg {
        let spans = self.paths.spans().iter().flat_map(|span| [span.start as u32, span.len() as u32]);
        Arg::u32s(&spans.collect::<Vec<_>>())
    }

    fn numbers(&self, has_head_dim: bool) -> Vec<Arg> {
        let Attention { heads, scale, window, softcap } = self.attention;
        let mut numbers = vec![Arg::int(heads.heads), Arg::int(heads.kv_heads)];
        if has_head_dim {
            numbers.push(Arg::int(heads.head_dim));
        }
        numbers.extend([Arg::float(scale), Arg::int(window.unwrap_or(0)), Arg::float(softcap.unwrap_or(0.0))]);
        numbers
    }

    /// The results of all queries, one after another, each in `splits` parts.
    fn by_queries(&self, kernels: &Kernels, name: &str, heads_of_block: usize, splits: usize) -> Vec<f32> {
        let (heads, queries) = (self.attention.heads, self.paths.len());
        let len = queries * heads.heads * heads.head_dim;
        let mut args = self.given(name);
        args.extend([Arg::u32s(&(0..queries as u32).collect::<Vec<_>>()), Arg::u32s(self.paths.rows()), self.spans()]);
        args.extend(self.numbers(true));
        let is_f32 = name.ends_with("f32");
        let out = || Arg::results(len * if is_f32 { 4 } else { 2 });
        let partial = queries * heads.heads * splits * (heads.head_dim + 2);
        args.extend([Arg::int(splits), Arg::results(4 * partial), out(), Arg::results(4 * len)]);
        let chunks = (heads.heads / heads.kv_heads).div_ceil(heads_of_block);
        let memory = kernels.launch(name, Grid::of([queries, heads.kv_heads * chunks, splits], 128), args);
        if splits == 1 {
            return self.both(&memory, [6, 7], is_f32);
        }
        let mut args = vec![Arg::f32s(&memory.f32s(5)), Arg::u32s(&(0..queries as u32).collect::<Vec<_>>())];
        args.extend([heads.heads, heads.head_dim, splits].map(Arg::int));
        args.extend([out(), Arg::results(4 * len)]);
        let name = if is_f32 { "combine_f32" } else { "combine_bf16" };
        self.both(&kernels.launch(name, Grid::of([queries, heads.heads, 1], 64), args), [2, 3], is_f32)
    }

    /// What was written in f32, which is what was written in the type of the cache, too.
    fn both(&self, memory: &Memory, [narrow, wide]: [usize; 2], is_f32: bool) -> Vec<f32> {
        let found = memory.f32s(wide);
        match is_f32 {
            true => assert_eq!(memory.f32s(narrow), found),
            false => assert_eq!(memory.bf16s(narrow), rounded(&found)),
        }
        found
    }
}

fn widths(attention: Attention) -> (usize, usize) {
    let heads = attention.heads;
    (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim)
}

#[test]
fn neighbours_of_a_chain_attend_as_on_the_cpu_up_to_rounding() {
    let kernels = kernels();
    let cases = variants(attention(6, 2, 64)).into_iter().chain([attention(2, 1, 128)]);
    for attention in cases {
        // The last 90 of 150 rows: a tile that is full, and one that is not.
        let case = Case::new(branches(150, 90, &[]), attention);
        let (heads, len) = (attention.heads, 90 * widths(attention).0);
        let mut args = case.given("bf16");
        args.extend([Arg::u32s(&[0, 64, 64, 26]), Arg::u32s(case.paths.rows()), case.spans()]);
        args.extend(case.numbers(false));
        args.extend([Arg::results(2 * len), Arg::results(4 * len)]);
        let grid = Grid::of([2, heads.heads, 1], 128);
        let memory = kernels.launch(&format!("attend_tile_{}", heads.head_dim), grid, args);
        assert_close(&case.both(&memory, [5, 6], false), &case.expected(), 1e-2, &format!("{attention:?}"));
    }
}

#[test]
fn heads_of_a_query_attend_as_on_the_cpu_up_to_rounding() {
    let kernels = kernels();
    let cases = variants(attention(6, 2, 64)).into_iter().chain([attention(20, 1, 128)]);
    for attention in cases {
        let case = Case::new(branches(150, 1, &[3, 70]), attention);
        let name = format!("attend_group_{}", attention.heads.head_dim);
        for splits in [1, 3] {
            let found = case.by_queries(&kernels, &name, 16, splits);
            assert_close(&found, &case.expected(), 1e-2, &format!("{splits} parts of {attention:?}"));
        }
    }
}

#[test]
fn heads_of_other_sizes_attend_as_on_the_cpu() {
    let kernels = kernels();
    let cases = [
        ("attend_4x4_1_f32", 1, attention(2, 2, 16)),
        ("attend_4x4_1_f32", 1, attention(3, 1, 12)),
        ("attend_4x8_2_bf16", 2, attention(4, 2, 32)),
        ("attend_8x8_4_f32", 4, attention(6, 1, 64)),
        ("attend_16x8_8_bf16", 8, attention(7, 1, 80)),
        ("attend_32x8_1_f32", 1, attention(1, 1, 256)),
    ];
    for (name, heads_of_block, attention) in cases {
        for attention in variants(attention) {
            let case = Case::new(branches(90, 1, &[3, 40]), attention);
            for splits in [1, 3] {
                let found = case.by_queries(&kernels, name, heads_of_block, splits);
                assert_close(&found, &case.expected(), 2e-5, &format!("{name}, {splits} parts of {attention:?}"));
            }
        }
    }
}

#[test]
fn queries_are_turned_in_place_and_keys_and_values_go_to_the_cache() {
    let (rows, heads, kv_heads, dim, nodes) = (3, 4, 2, 24, [7u32, 0, 5]);
    let (width, kv_width) = (heads * dim, kv_heads * dim);
    let (qkv, bias) = (numbers(rows * (width + 2 * kv_width), 1), numbers(width + 2 * kv_width, 2));
    let (q_norm, k_norm) = (numbers(dim, 3), numbers(dim, 4));
    let frequencies: Vec<f32> = (0..dim / 2).map(|i| 0.3f32.powi(i as i32)).collect();
    let positions = [0u32, 11, 400];

    let biased = tensor(&qkv, width + 2 * kv_width).broadcast_add(&vector(&bias)).unwrap();
    let angles: Vec<f32> =
        positions.iter().flat_map(|p| frequencies.iter().map(|f| *p as f32 * f).collect::<Vec<_>>()).collect();
    let angles = tensor(&angles, dim / 2);
    let angles = Angles { cos: angles.cos().unwrap(), sin: angles.sin().unwrap() };
    let part = |start, width| biased.narrow(1, start, width).unwrap().contiguous().unwrap();
    let turned = |x: Tensor, norm: &[f32]| {
        values(&ops::rope(&ops::rms_norm(&x, &vector(norm), 1e-6).unwrap(), &angles).unwrap())
    };
    let (q, k) = (turned(part(0, width), &q_norm), turned(part(width, kv_width), &k_norm));
    let v = values(&part(width + kv_width, kv_width));

    let mut args = [&qkv, &bias, &q_norm, &k_norm].map(|numbers| Arg::f32s(numbers)).into_iter().collect::<Vec<_>>();
    args.extend([Arg::float(1e-6), Arg::f32s(&frequencies), Arg::u32s(&positions), Arg::u32s(&nodes)]);
    args.extend([heads, kv_heads, dim].map(Arg::int));
    args.push(Arg::results(2 * 8 * 2 * kv_width));
    let memory = kernels().launch("place_qkv_bf16", Grid::of([rows, 2, 1], 128), args);
    let (found, cache) = (memory.f32s(0), memory.bf16s(7));
    for (row, node) in nodes.into_iter().enumerate() {
        assert_close(&found[row * (width + 2 * kv_width)..][..width], &q[row * width..][..width], 1e-5, "queries");
        let at = &cache[node as usize * 2 * kv_width..][..2 * kv_width];
        assert_close(&at[..kv_width], &k[row * kv_width..][..kv_width], 4e-3, "keys");
        assert_close(&at[kv_width..], &v[row * kv_width..][..kv_width], 4e-3, "values");
    }
    assert!(cache[2 * kv_width..5 * 2 * kv_width].iter().all(|number| number.is_nan()), "other rows are as they were");
}

fn vector(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

#[test]
fn rows_are_looked_up_normalised_gated_and_capped_as_on_the_cpu() {
    let (kernels, width) = (kernels(), 300);
    let table = rounded(&numbers(5 * width, 1));
    let mut args = vec![Arg::bf16s(&table), Arg::u32s(&[4, 0, 4]), Arg::float(2.5), Arg::int(width)];
    args.push(Arg::results(4 * 3 * width));
    let found = kernels.launch("embed_bf16", Grid::of([3, 1, 1], 64), args).f32s(2);
    let expected: Vec<f32> =
        [4, 0, 4].iter().flat_map(|row| table[row * width..][..width].iter().map(|x| 2.5 * x)).collect();
    assert_eq!(found, expected);

    let (x, weight) = (numbers(4 * width, 2), numbers(width, 3));
    let norm = |x: &[f32]| values(&ops::rms_norm(&tensor(x, width), &vector(&weight), 1e-5).unwrap());
    let mut args = vec![Arg::f32s(&x), Arg::u32s(&[3, 1]), Arg::f32s(&weight), Arg::float(1e-5), Arg::int(width)];
    args.extend([Arg::results(2 * 2 * width), Arg::results(4 * 2 * width)]);
    let memory = kernels.launch("rms_norm_bf16", Grid::of([2, 1, 1], 64), args);
    let chosen = norm(&[&x[3 * width..], &x[width..2 * width]].concat());
    assert_close(&memory.f32s(4), &chosen, 1e-6, "norm in f32");
    assert_eq!(memory.bf16s(3), rounded(&memory.f32s(4)));
    // More numbers than the threads of a block hold.
    let mut args =
        vec![Arg::f32s(&x), Arg::NONE, Arg::f32s(&numbers(4 * width, 4)), Arg::float(1e-5), Arg::int(4 * width)];
    args.extend([Arg::results(4 * 4 * width), Arg::NONE]);
    let found = kernels.launch("rms_norm_f32", Grid::of([1, 1, 1], 32), args).f32s(3);
    let long = ops::rms_norm(&tensor(&x, 4 * width), &vector(&numbers(4 * width, 4)), 1e-5).unwrap();
    assert_close(&found, &values(&long), 1e-6, "a long row");

    let (y, bias) = (numbers(2 * width, 5), numbers(width, 6));
    let biased = values(&tensor(&y, width).broadcast_add(&vector(&bias)).unwrap());
    for (weight, added) in [(Arg::NONE, biased.clone()), (Arg::f32s(&weight), norm(&biased))] {
        let mut args = vec![Arg::f32s(&x[..2 * width]), Arg::f32s(&y), Arg::f32s(&bias), weight];
        args.extend([Arg::float(1e-5), Arg::int(width)]);
        let found = kernels.launch("add_to_residual", Grid::of([2, 1, 1], 64), args).f32s(0);
        let expected: Vec<f32> = x.iter().zip(added).map(|(x, added)| x + added).collect();
        assert_close(&found, &expected, 1e-6, "residual");
    }

    for (activation, gelu) in [(Activation::Silu, 0), (Activation::GeluTanh, 1)] {
        let rows = tensor(&x, 2 * width).broadcast_add(&vector(&numbers(2 * width, 7))).unwrap();
        let [gate, up] = [0, width].map(|start| rows.narrow(1, start, width).unwrap().contiguous().unwrap());
        let mut args = vec![Arg::f32s(&x), Arg::f32s(&numbers(2 * width, 7)), Arg::int(width), Arg::int(gelu)];
        args.extend([Arg::results(4 * 2 * width), Arg::NONE]);
        let found = kernels.launch("gate_f32", Grid::of([2, 2, 1], 32), args).f32s(2);
        assert_close(&found, &values(&ops::gated(&gate, &up, activation).unwrap()), 1e-5, "gate");
    }

    let args = vec![Arg::f32s(&x), Arg::float(0.4), Arg::long(x.len())];
    let found = kernels.launch("softcap", Grid::of([2, 1, 1], 64), args).f32s(0);
    assert_close(&found, &values(&ops::softcap(&tensor(&x, width), 0.4).unwrap()), 1e-6, "cap");
}

#[test]
fn tokens_are_drawn_where_the_running_sum_of_probabilities_exceeds_a_number() {
    let vocab = 2500;
    let mut logits: Vec<f32> = numbers(4 * vocab, 1).iter().map(|x| 6.0 * x).collect();
    // The likeliest token twice, of which the first counts, and tokens without any probability at the end.
    (logits[2 * vocab + 40], logits[2 * vocab + 900]) = (9.0, 9.0);
    logits[2 * vocab - 3..2 * vocab].fill(f32::NEG_INFINITY);
    let temperatures = [0.8f32, 1.3, 0.0, 1.0];
    // The second row's last number is beyond all that rounding leaves of the sum; nobody draws from the last row.
    let uniforms = [0.0f64, 0.25, 0.999, 0.5, 1.0, 0.3, 0.7];
    let ends = [3u32, 5, 7, 7];
    let mut args = vec![Arg::f32s(&logits), Arg::int(vocab), Arg::f32s(&temperatures), Arg::f64s(&uniforms)];
    args.extend([Arg::u32s(&ends), Arg::int(0), Arg::results(4 * 7), Arg::results(4 * 7)]);
    let memory = kernels().launch("draw", Grid::of([4, 1, 1], 1024), args);
    let (tokens, log_probs) = (memory.u32s(4), memory.f32s(5));

    let mut expected = vec![];
    for (row, &end) in ends.iter().enumerate() {
        let temperature = f64::from(temperatures[row]);
        let divisor = if temperature == 0.0 { 1.0 } else { temperature };
        let logits = &logits[row * vocab..][..vocab];
        let weights: Vec<f64> = logits.iter().map(|x| (f64::from(*x) / divisor).exp()).collect();
        let total: f64 = weights.iter().sum();
        for uniform in &uniforms[expected.len()..end as usize] {
            let mut sum = 0.0;
            let mut reaches = |weight: &f64| {
                sum += weight / total;
                *weight > 0.0 && sum > *uniform
            };
            let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap();
            let token = match temperature {
                0.0 => (0..vocab).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap(),
                _ => weights.iter().position(&mut reaches).unwrap_or(last),
            };
            expected.push((token as u32, (weights[token] / total).ln() as f32));
        }
    }
    assert_eq!(tokens, expected.iter().map(|(token, _)| *token).collect::<Vec<_>>());
    assert_close(
        &log_probs,
        &expected.iter().map(|(_, log_prob)| *log_prob).collect::<Vec<_>>(),
        1e-5,
        "log-probabilities",
    );
}
