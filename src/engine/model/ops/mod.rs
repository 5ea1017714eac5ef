//! The operations that a decoder is made of, each with its gradient.
//!
//! candle's own fused operations (`rms_norm`, `rope`, `softmax_last_dim`, CPU flash attention) cut the gradient in
//! silence, and its matrix product also computes and keeps the gradients of frozen weights. These do neither: on a CPU
//! ([`kernels`]) and on CUDA devices (`cuda`) each is one pass over memory with a hand-written backward pass; on others it
//! is composed of candle's differentiable operations ([`composed`]), which the tests also use as the reference. One set of
//! operations serves both answering and training, so the two cannot disagree.

mod attention;
pub mod composed;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod kernels;
mod linear;
mod paths;
mod rowwise;
pub mod tape;
pub mod tiles;

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor, bail};

pub use attention::{attention, attention_over};
pub use kernels::{Activation, Attention, Heads, KvRows};
pub use linear::{Input, adapted_linear, frozen_linear, packed_linear_onto, packed_linears, packed_mlp};
pub use paths::{Paths, Seen};
pub use rowwise::{Angles, add, add_bias, gated, rms_norm, rope, softcap};
pub use tape::seed_gradient;

/// Whether operations have kernels of their own on a device.
fn has_kernels(device: &Device) -> bool {
    !device.is_metal()
}

/// The elements of a contiguous f32 tensor.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// What a function makes of the elements of f32 tensors on the CPU; those that are contiguous are not copied.
pub fn on_cpu<T, const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let tensors = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>>>()?;
    let storages: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [[].as_slice(); N];
    for (elements, (storage, layout)) in slices.iter_mut().zip(&storages) {
        match &**storage {
            Storage::Cpu(storage) => *elements = slice(storage, layout)?,
            _ => bail!("expected a tensor on the CPU"),
        }
    }
    Ok(f(slices))
}
