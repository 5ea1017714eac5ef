//! The CUDA kernels beside the operations of the crate, on a CPU: they are compiled as they are, and run thread by thread by
//! `tests/kernels/emulator.hpp`, which also finds what they read or write beyond their memory.

mod answering;
mod attention;
mod emulator;
mod faults;
mod few_rows;
mod training;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use ttrl::engine::model::ops::{Attention, Heads, Paths};

/// Numbers between -1 and 1 that look random and are a function of the seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Numbers as bf16 has them.
fn rounded(numbers: &[f32]) -> Vec<f32> {
    numbers.iter().map(|&number| half::bf16::from_f32(number).to_f32()).collect()
}

fn tensor(values: &[f32], width: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares with what is expected, as far as a share of the largest number.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], share: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |largest, number| largest.max(number.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let gap = (found - expected).abs();
        assert!(gap <= share * largest, "{what}: {found} instead of {expected} at {index}, the largest is {largest}");
    }
}

/// A prompt of `trunk` rows whose last `asked` are queries, as is the last row of some branches of it; the rows of a branch
/// are all queries if there are no more than three.
fn branches(trunk: usize, asked: usize, branches: &[usize]) -> (Arc<Paths>, usize) {
    let mut paths = Paths::default();
    let whole: Vec<u32> = (0..trunk as u32).collect();
    (trunk - asked..trunk).for_each(|end| paths.push(whole[..=end].iter().copied()));
    let mut rows = trunk;
    for &own in branches {
        let path: Vec<u32> = whole.iter().copied().chain((rows..rows + own).map(|row| row as u32)).collect();
        for end in if own <= 3 { 1..=own } else { own..=own } {
            paths.push(path[..trunk + end].iter().copied());
        }
        rows += own;
    }
    (Arc::new(paths), rows)
}

fn attention(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    let scale = (head_dim as f32).sqrt().recip() * 2.0;
    Attention { heads: Heads { heads, kv_heads, head_dim }, scale, window: None, softcap: None }
}

/// As it is, behind a window, and under a cap.
fn variants(attention: Attention) -> [Attention; 3] {
    [attention, Attention { window: Some(37), ..attention }, Attention { softcap: Some(1.5), ..attention }]
}
