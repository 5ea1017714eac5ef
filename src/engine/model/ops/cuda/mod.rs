//! The operations on a CUDA device: launches of the kernels in `cuda/training.cu`, and products by cuBLAS.
//!
//! Whatever a device computes is asynchronous and in the order of its one stream. All numbers are f32, but for frozen
//! matrices in bf16 and what is multiplied with them.

mod attention;
mod linear;
mod rowwise;
mod scores;

use std::sync::Arc;

use candle_core::{
    CudaDevice, CudaStorage, Layout, Result, Shape, Storage, Tensor, bail,
    cuda_backend::{
        CudaDType, WrapErr,
        cudarc::driver::{CudaFunction, CudaSlice, CudaStream, CudaView, DeviceRepr, LaunchArgs, LaunchConfig},
    },
    op::BackpropOp,
};

use crate::engine::model::cuda::Module;

pub use attention::{Attended, DevicePaths, attention, attention_backward, can_attend};
pub use linear::{adapted_linear, adapted_linear_backward, frozen_linear, frozen_linear_backward};
pub use rowwise::{gated, gated_backward, rms_norm, rms_norm_backward, rope};
pub use scores::ScoredRows;

/// Elements that a thread block of an elementwise kernel begins with; from [`MAX_BLOCKS`] blocks on each takes more.
const BLOCK: usize = 256;
const MAX_BLOCKS: usize = 1 << 16;

/// The elements of a contiguous tensor on its device.
fn view<'a, T: CudaDType>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// What a function makes of the elements of f32 tensors on a CUDA device; those that are contiguous are not copied.
fn on_cuda<T, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce(&CudaDevice, [CudaView<'_, f32>; N]) -> Result<T>,
) -> Result<T> {
    let device = tensors[0].device().as_cuda_device()?.clone();
    let tensors = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>>>()?;
    let storages: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut views = Vec::with_capacity(N);
    for (storage, layout) in &storages {
        match &**storage {
            Storage::Cuda(storage) => views.push(view(storage, layout)?),
            _ => bail!("expected a tensor on a CUDA device"),
        }
    }
    let views = views.try_into().map_err(|_| candle_core::Error::msg("one view for each tensor"))?;
    f(&device, views)
}

/// A tensor of its own, without a graph.
fn tensor(values: CudaSlice<f32>, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// What the forward pass of an operation gives.
fn result(values: CudaSlice<f32>, shape: impl Into<Shape>, device: &CudaDevice) -> (CudaStorage, Shape) {
    (CudaStorage::wrap_cuda_slice(values, device.clone()), shape.into())
}

#[expect(unsafe_code, reason = "what is allocated has no values yet")]
fn alloc<T: DeviceRepr>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: every function of this room hands such memory out only after a kernel or product that writes all of it, and
    // any bits are a number of the types that are asked for.
    unsafe { device.alloc::<T>(count) }
}

/// A kernel, and where it runs.
struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

fn kernel(device: &CudaDevice, name: &str) -> Result<Kernel> {
    let function = Module::Training.function(device, name)?;
    Ok(Kernel { function, stream: device.cuda_stream() })
}

/// Starts a kernel on a grid of `(x, y)` blocks; on none, there is nothing to do.
#[expect(unsafe_code, reason = "nothing checks that a kernel's arguments are those that it takes")]
fn launch(args: &mut LaunchArgs<'_>, (x, y): (usize, usize), threads: usize, shared_bytes: usize) -> Result<()> {
    if x == 0 || y == 0 {
        return Ok(());
    }
    let (Ok(x), Ok(y), Ok(shared_mem_bytes)) = (u32::try_from(x), u16::try_from(y), u32::try_from(shared_bytes)) else {
        bail!("a grid of {x} by {y} blocks with {shared_bytes} bytes each is larger than a device takes");
    };
    let grid_dim = (x, u32::from(y), 1);
    let config = LaunchConfig { grid_dim, block_dim: (threads as u32, 1, 1), shared_mem_bytes };
    // SAFETY: the functions of this room give each kernel the arguments of its signature in `training.cu`, in order and
    // of the same sizes; the lengths of the memory behind them are checked there.
    unsafe { args.launch(config) }.w()?;
    Ok(())
}

/// Blocks for a kernel whose threads go over `count` elements.
fn blocks(count: usize) -> (usize, usize) {
    (count.div_ceil(BLOCK).min(MAX_BLOCKS), 1)
}

/// As a kernel takes it.
fn int(number: usize) -> Result<i32> {
    i32::try_from(number).map_err(candle_core::Error::wrap)
}

fn check_len(found: usize, expected: usize) -> Result<()> {
    if found != expected {
        bail!("{found} numbers where there should be {expected}");
    }
    Ok(())
}

/// Threads for a row of `width` numbers: about four numbers each.
fn row_threads(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).min(BLOCK)
}

/// How many parts of a width there are, and the width as a kernel takes it.
fn parts(count: usize, width: usize) -> Result<(usize, i32)> {
    if width == 0 || !count.is_multiple_of(width) {
        bail!("{count} numbers are no rows of {width}");
    }
    Ok((count / width, int(width)?))
}

/// Puts numbers onto a device; one at least, as there is no memory of none.
fn upload(device: &CudaDevice, numbers: &[u32]) -> Result<CudaSlice<u32>> {
    if numbers.is_empty() { device.clone_htod(&[0]) } else { device.clone_htod(numbers) }
}
