//! Launching kernels and products on device memory. All that is unsafe about it is here.
//!
//! Memory is named by its address. That is sound as long as what is named lives until the launch is queued: there is one
//! stream, on which memory is also given back, so nothing is freed before what was queued earlier is done.

use std::sync::Arc;

use candle_core::{
    CudaDevice, DType, Result, Storage, Tensor, bail,
    cuda_backend::{
        CudaStorageSlice, WrapErr,
        cudarc::{
            cublas::{CudaBlas, result, sys},
            driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg},
        },
    },
};

use super::Module;

/// Where work is queued.
pub struct Queue {
    pub stream: Arc<CudaStream>,
    pub blas: Arc<CudaBlas>,
}

/// A kernel of ours.
pub struct Kernel(CudaFunction);

impl Kernel {
    /// A kernel of a module, by name.
    ///
    /// # Errors
    /// If the module has none of this name, or cannot be loaded.
    pub fn load(device: &CudaDevice, module: Module, name: &str) -> Result<Self> {
        module.function(device, name).map(Self)
    }
}

/// An argument of a kernel, of exactly the size that the kernel's parameter has.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// An address on the device; 0 where something optional is missing.
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl From<u64> for Arg {
    fn from(address: u64) -> Self {
        Self::Pointer(address)
    }
}

/// Blocks of a launch, and the threads of each.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub threads: u32,
}

impl Grid {
    /// A block a row.
    pub fn rows(rows: usize, threads: u32) -> Self {
        Self { x: rows, y: 1, z: 1, threads }
    }
}

/// Queues a kernel. A grid without blocks is nothing to do.
///
/// # Errors
/// If the launch is refused.
#[expect(unsafe_code, reason = "a kernel trusts its arguments; each caller's are beside the kernel's parameters")]
pub fn launch(queue: &Queue, kernel: &Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
    if grid.x * grid.y * grid.z == 0 {
        return Ok(());
    }
    let mut builder = queue.stream.launch_builder(&kernel.0);
    for arg in args {
        match arg {
            Arg::Pointer(address) => builder.arg(address),
            Arg::Int(number) => builder.arg(number),
            Arg::Long(number) => builder.arg(number),
            Arg::Float(number) => builder.arg(number),
        };
    }
    let config = LaunchConfig {
        grid_dim: (grid.x as u32, grid.y as u32, grid.z as u32),
        block_dim: (grid.threads, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: see the module; the arguments are as many and as large as the kernel's parameters.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// A row-major matrix `[outputs, inputs]` on the device.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    pub at: u64,
    pub dtype: DType,
    pub outputs: usize,
    pub inputs: usize,
}

impl Operand {
    /// Where the memory behind it begins.
    pub fn end(&self) -> u64 {
        self.at + (self.outputs * self.inputs * self.dtype.size_in_bytes()) as u64
    }

    fn kind(&self) -> Result<sys::cudaDataType> {
        match self.dtype {
            DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
            DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
            other => bail!("matrices of {other:?} are not multiplied"),
        }
    }
}

/// `y = alpha * x w^T + beta * y`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// `[rows, inputs]`, of the type of `w`; only its address and type count.
    pub x: Operand,
    pub w: Operand,
    pub rows: usize,
    /// f32 rows: their address, and how many numbers lie between the beginnings of two.
    pub y: (u64, usize),
    pub alpha: f32,
    pub beta: f32,
}

/// Queues a product, which is summed up in f32 whatever the type of the matrices.
///
/// # Errors
/// If cuBLAS refuses it.
#[expect(unsafe_code, reason = "cuBLAS is called with addresses")]
pub fn product(blas: &CudaBlas, product: Product) -> Result<()> {
    let Product { x, w, rows, y: (y, stride), alpha, beta } = product;
    if rows == 0 {
        return Ok(());
    }
    let (outputs, inputs) = (w.outputs as i32, w.inputs as i32);
    // cuBLAS counts in columns: y^T [outputs, rows] is w (whose columns are its rows, hence transposed) times x^T.
    // SAFETY: the operands have `outputs * inputs` and `rows * inputs` numbers, and `y` has `rows` rows of `stride`.
    unsafe {
        result::gemm_ex(
            *blas.handle(),
            sys::cublasOperation_t::CUBLAS_OP_T,
            sys::cublasOperation_t::CUBLAS_OP_N,
            outputs,
            rows as i32,
            inputs,
            (&raw const alpha).cast(),
            w.at as *const _,
            w.kind()?,
            inputs,
            x.at as *const _,
            x.kind()?,
            inputs,
            (&raw const beta).cast(),
            y as *mut _,
            sys::cudaDataType_t::CUDA_R_32F,
            stride as i32,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

/// Addresses on the device.
pub mod pointer {
    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};

    use super::*;

    /// Of a piece of memory.
    pub fn of_slice<T>(slice: &CudaSlice<T>, device: &CudaDevice) -> u64 {
        slice.device_ptr(&device.cuda_stream()).0
    }

    /// Of the first number of a contiguous tensor.
    ///
    /// # Errors
    /// If the tensor is not contiguous, not on a CUDA device, or neither f32 nor bf16.
    pub fn of_tensor(tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("expected a tensor on a CUDA device") };
        let Some((start, _)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
        let base = match &storage.slice {
            CudaStorageSlice::F32(slice) => of_slice(slice, &storage.device),
            CudaStorageSlice::BF16(slice) => of_slice(slice, &storage.device),
            _ => bail!("expected numbers in f32 or bf16"),
        };
        Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
    }
}
