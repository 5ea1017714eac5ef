//! The operations on a CUDA device: launches of the kernels in `cuda/training.cu`, and products by cuBLAS.
//!
//! Whatever a device computes is asynchronous and in the order of its one stream. All numbers are f32, but for frozen
//! matrices in bf16 and what is multiplied with them.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail,
    cuda_backend::{
        CudaDType, WrapErr,
        cudarc::{
            cublas::{result::gemm_ex, sys as cublas},
            driver::{
                CudaFunction, CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, DeviceRepr, LaunchArgs,
                LaunchConfig, PushKernelArg,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            },
        },
    },
    op::BackpropOp,
};
use half::bf16;

use super::{Activation, Attention, Paths};
use crate::engine::model::cuda::Module;

/// Elements that a thread block of an elementwise kernel begins with; from [`MAX_BLOCKS`] blocks on each takes more.
const BLOCK: usize = 256;
const MAX_BLOCKS: usize = 1 << 16;

/// Rows that a block of attention keeps, the number of its threads, and how many rows it visits at a time in the backward
/// pass: constants of the kernels.
const KEPT: usize = 64;
const ATTENTION_THREADS: usize = 256;
const VISITED_BACKWARD: usize = 32;

/// Threads of a block of attention on matrix units, which keeps as many rows.
const TILE_THREADS: usize = 128;

/// Query heads that a block goes over at least before others are asked to help it with the rows that they see, and about
/// how many blocks there are for each key head once that is so: what the sums of the parts take is bounded by it.
const PIECE: usize = 2048;
const PIECES: usize = 512;

/// What a block sums of the gradients of an adapter: constants of the kernel.
const OUTER_THREADS: usize = 128;
const OUTER_RANK: usize = 16;

/// Parts that rows are summed in at most, and the rows of each at least.
const MAX_OUTER_PARTS: usize = 64;
const MIN_OUTER_ROWS: usize = 128;

/// Threads for a row of logits.
const ROW_THREADS: usize = 512;

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
    // SAFETY: every function of this file hands such memory out only after a kernel or product that writes all of it, and
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
    // SAFETY: the functions of this file give each kernel the arguments of its signature in `training.cu`, in order and
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

// ---- Products.

/// A matrix in memory, `rows` of `columns` numbers.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    values: &'a CudaView<'a, T>,
    rows: usize,
    columns: usize,
}

/// The types that cuBLAS multiplies here; it sums both in f32.
trait Factor {
    const TYPE: cublas::cudaDataType;
}

impl Factor for f32 {
    const TYPE: cublas::cudaDataType = cublas::cudaDataType::CUDA_R_32F;
}

impl Factor for bf16 {
    const TYPE: cublas::cudaDataType = cublas::cudaDataType::CUDA_R_16BF;
}

/// `scale * x w`, or `scale * x w^T` where `transposed`, added to `onto` if that is to be `kept`.
#[expect(unsafe_code, reason = "cuBLAS takes pointers")]
fn multiply<T: Factor>(
    device: &CudaDevice,
    x: Matrix<T>,
    (w, transposed): (Matrix<T>, bool),
    scale: f32,
    (onto, kept): (&mut CudaSlice<f32>, bool),
) -> Result<()> {
    let (inputs, outputs) = if transposed { (w.columns, w.rows) } else { (w.rows, w.columns) };
    check_len(x.columns, inputs)?;
    check_len(x.values.len(), x.rows * x.columns)?;
    check_len(w.values.len(), w.rows * w.columns)?;
    check_len(onto.len(), x.rows * outputs)?;
    if onto.is_empty() {
        return Ok(());
    }
    let (m, n, k, w_columns) = (int(outputs)?, int(x.rows)?, int(inputs)?, int(w.columns)?);
    let operation = |transposed| match transposed {
        true => cublas::cublasOperation_t::CUBLAS_OP_T,
        false => cublas::cublasOperation_t::CUBLAS_OP_N,
    };
    let (stream, blas) = (device.cuda_stream(), device.cublas_handle());
    let beta = if kept { 1f32 } else { 0f32 };
    let ((x_at, _x), (w_at, _w)) = (x.values.device_ptr(&stream), w.values.device_ptr(&stream));
    let (onto_at, _onto) = onto.device_ptr_mut(&stream);
    stream.context().bind_to_thread().w()?;
    // SAFETY: the three places hold as many numbers of these types as was checked above. cuBLAS has columns where there are
    // rows here, so it is asked for the transposed product, w^T x^T or w x^T, with each matrix transposed already.
    unsafe {
        gemm_ex(
            *blas.handle(),
            operation(transposed),
            operation(false),
            m,
            n,
            k,
            (&raw const scale).cast(),
            w_at as *const _,
            T::TYPE,
            w_columns,
            x_at as *const _,
            T::TYPE,
            k,
            (&raw const beta).cast(),
            onto_at as *mut _,
            cublas::cudaDataType::CUDA_R_32F,
            m,
            cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

fn cast_to_bf16(device: &CudaDevice, x: &CudaView<f32>) -> Result<CudaSlice<bf16>> {
    let mut out = alloc::<bf16>(device, x.len())?;
    let (func, count) = (kernel(device, "cast_to_bf16")?, x.len() as i64);
    let mut args = func.builder();
    args.arg(x).arg(&mut out).arg(&count);
    launch(&mut args, blocks(x.len()), BLOCK, 0)?;
    Ok(out)
}

/// The product of f32 rows with a frozen matrix `[outputs, inputs]`, or, backward, with the matrix itself instead of its
/// transposed form.
fn frozen_product(
    device: &CudaDevice,
    (x, rows): (&CudaView<f32>, usize),
    w: &Tensor,
    backward: bool,
) -> Result<CudaSlice<f32>> {
    let (outputs, inputs) = w.dims2()?;
    let (from, to) = if backward { (outputs, inputs) } else { (inputs, outputs) };
    let mut out = alloc::<f32>(device, rows * to)?;
    let (storage, layout) = w.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("expected a matrix on a CUDA device") };
    match w.dtype() {
        DType::BF16 => {
            let (x, w) = (cast_to_bf16(device, x)?, view::<bf16>(storage, layout)?);
            let x = Matrix { values: &x.as_view(), rows, columns: from };
            let w = Matrix { values: &w, rows: outputs, columns: inputs };
            multiply(device, x, (w, !backward), 1.0, (&mut out, false))?;
        }
        _ => {
            let x = Matrix { values: x, rows, columns: from };
            let w = Matrix { values: &view::<f32>(storage, layout)?, rows: outputs, columns: inputs };
            multiply(device, x, (w, !backward), 1.0, (&mut out, false))?;
        }
    }
    Ok(out)
}

/// `x w^T`.
pub fn frozen_linear(x: &CudaStorage, lx: &Layout, w: &Tensor) -> Result<(CudaStorage, Shape)> {
    let rows = lx.shape().dims2()?.0;
    let out = frozen_product(&x.device, (&view(x, lx)?, rows), w, false)?;
    Ok(result(out, (rows, w.dim(0)?), &x.device))
}

/// The gradient of [`frozen_linear`] for `x`.
pub fn frozen_linear_backward(w: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let rows = grad.dim(0)?;
    on_cuda([grad], |device, [grad]| {
        Ok(tensor(frozen_product(device, (&grad, rows), w, true)?, (rows, w.dim(1)?), device))
    })
}

/// `x w^T + low factor^T` with a factor `[outputs, rank]`, or, backward, `x w + low factor` with one of `[rank, inputs]`.
fn adapted_product(
    device: &CudaDevice,
    (x, rows): (&CudaView<f32>, usize),
    w: &Tensor,
    backward: bool,
    (low, factor, rank): (&CudaView<f32>, &CudaView<f32>, usize),
) -> Result<CudaSlice<f32>> {
    let (outputs, inputs) = w.dims2()?;
    let (from, to) = if backward { (outputs, inputs) } else { (inputs, outputs) };
    check_len(low.len(), rows * rank)?;
    check_len(factor.len(), to * rank)?;
    if w.dtype() != DType::BF16 || rows == 0 {
        let mut out = frozen_product(device, (x, rows), w, backward)?;
        let (factor_rows, factor_columns) = if backward { (rank, inputs) } else { (outputs, rank) };
        let factor = Matrix { values: factor, rows: factor_rows, columns: factor_columns };
        multiply(device, Matrix { values: low, rows, columns: rank }, (factor, !backward), 1.0, (&mut out, true))?;
        return Ok(out);
    }
    // One product: to add to a result takes two passes over it.
    let (storage, layout) = w.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("expected a matrix on a CUDA device") };
    let w = view::<bf16>(storage, layout)?;
    let depth = from + 3 * rank;
    let x = join_columns(device, (x, rows, from), (low, rank), false)?;
    let (w, w_rows, w_columns) = match backward {
        true => (join_rows(device, &w, factor)?, depth, inputs),
        false => (join_columns(device, (&w, outputs, inputs), (factor, rank), true)?, outputs, depth),
    };
    let mut out = alloc::<f32>(device, rows * to)?;
    let x = Matrix { values: &x.as_view(), rows, columns: depth };
    let w = Matrix { values: &w.as_view(), rows: w_rows, columns: w_columns };
    multiply(device, x, (w, !backward), 1.0, (&mut out, false))?;
    Ok(out)
}

/// A factor of a product in bf16 whose rows of `width` numbers go on with `rank` others in three parts each.
fn join_columns<T: Factor>(
    device: &CudaDevice,
    (matrix, rows, width): (&CudaView<T>, usize, usize),
    (low, rank): (&CudaView<f32>, usize),
    is_second: bool,
) -> Result<CudaSlice<bf16>> {
    check_len(matrix.len(), rows * width)?;
    check_len(low.len(), rows * rank)?;
    let depth = width + 3 * rank;
    let mut out = alloc::<bf16>(device, rows * depth)?;
    let name = if T::TYPE == bf16::TYPE { "join_columns_bf16" } else { "join_columns_f32" };
    let (func, width, rank, of_second) = (kernel(device, name)?, int(width)?, int(rank)?, i32::from(is_second));
    let mut args = func.builder();
    args.arg(matrix).arg(low).arg(&mut out).arg(&width).arg(&rank).arg(&of_second);
    launch(&mut args, (rows, 1), row_threads(depth), 0)?;
    drop(args);
    Ok(out)
}

/// The second factor of a product in bf16, whose rows others of f32 follow in three parts.
fn join_rows(device: &CudaDevice, matrix: &CudaView<bf16>, low: &CudaView<f32>) -> Result<CudaSlice<bf16>> {
    let total = matrix.len() + 3 * low.len();
    let mut out = alloc::<bf16>(device, total)?;
    let (func, count, low_count) = (kernel(device, "join_rows")?, matrix.len() as i64, low.len() as i64);
    let mut args = func.builder();
    args.arg(matrix).arg(low).arg(&mut out).arg(&count).arg(&low_count);
    launch(&mut args, blocks(total), BLOCK, 0)?;
    drop(args);
    Ok(out)
}

/// `x w^T + scale * (x a^T) b^T`, and `scale * x a^T`, which the backward pass takes.
pub fn adapted_linear(
    (x, lx): (&CudaStorage, &Layout),
    (a, la): (&CudaStorage, &Layout),
    (b, lb): (&CudaStorage, &Layout),
    w: &Tensor,
    scale: f32,
) -> Result<((CudaStorage, Shape), Tensor)> {
    let ((rows, inputs), (outputs, rank)) = (lx.shape().dims2()?, lb.shape().dims2()?);
    if w.dims() != [outputs, inputs] || la.dims() != [rank, inputs] {
        bail!("an adapter of {:?} and {:?} does not fit a matrix of {:?}", la.shape(), lb.shape(), w.shape());
    }
    let (device, x, a, b) = (&x.device, view(x, lx)?, view(a, la)?, view(b, lb)?);
    let mut low = alloc::<f32>(device, rows * rank)?;
    let of_x = Matrix { values: &x, rows, columns: inputs };
    multiply(device, of_x, (Matrix { values: &a, rows: rank, columns: inputs }, true), scale, (&mut low, false))?;
    let out = adapted_product(device, (&x, rows), w, false, (&low.as_view(), &b, rank))?;
    Ok((result(out, (rows, outputs), device), tensor(low, (rows, rank), device)))
}

/// The gradients of [`adapted_linear`] for `x`, `a` and `b`, from that of its result and what else it gave.
pub fn adapted_linear_backward(
    [x, a, b]: [&Tensor; 3],
    w: &Tensor,
    scale: f32,
    [low, grad]: [&Tensor; 2],
) -> Result<[Tensor; 3]> {
    let ((rows, inputs), (outputs, rank)) = (x.dims2()?, b.dims2()?);
    on_cuda([x, a, b, low, grad], |device, [x, a, b, low, grad]| {
        let mut to_a = alloc::<f32>(device, rows * rank)?;
        let of_grad = Matrix { values: &grad, rows, columns: outputs };
        let b = Matrix { values: &b, rows: outputs, columns: rank };
        multiply(device, of_grad, (b, false), scale, (&mut to_a, false))?;
        let to_a = to_a.as_view();
        let d_x = adapted_product(device, (&grad, rows), w, true, (&to_a, &a, rank))?;
        let d_a = sum_outer(device, (&to_a, rank), (&x, inputs), rows, false)?;
        let d_b = sum_outer(device, (&low, rank), (&grad, outputs), rows, true)?;
        let d_b = tensor(d_b, (outputs, rank), device);
        Ok([tensor(d_x, (rows, inputs), device), tensor(d_a, (rank, inputs), device), d_b])
    })
}

/// `low^T x` `[rank, width]` of `rows` rows each, or `x^T low` where `transposed`. cuBLAS would give so small a result to few
/// blocks, each of which goes through all rows.
fn sum_outer(
    device: &CudaDevice,
    (low, rank): (&CudaView<f32>, usize),
    (x, width): (&CudaView<f32>, usize),
    rows: usize,
    transposed: bool,
) -> Result<CudaSlice<f32>> {
    check_len(low.len(), rows * rank)?;
    check_len(x.len(), rows * width)?;
    let rows_of_part = rows.div_ceil(MAX_OUTER_PARTS).max(MIN_OUTER_ROWS);
    let part_count = rows.div_ceil(rows_of_part);
    let mut parts = alloc::<f32>(device, (part_count * rank * width).max(1))?;
    let mut out = alloc::<f32>(device, rank * width)?;
    let func = kernel(device, "outer_parts")?;
    let grid = (width.div_ceil(OUTER_THREADS) * rank.div_ceil(OUTER_RANK), part_count);
    let (count, of_part) = (int(rows)?, int(rows_of_part)?);
    let (parts_i32, rank_i32, width_i32) = (int(part_count)?, int(rank)?, int(width)?);
    let mut args = func.builder();
    args.arg(low).arg(x).arg(&mut parts).arg(&count).arg(&rank_i32).arg(&width_i32).arg(&of_part);
    launch(&mut args, grid, OUTER_THREADS, 0)?;
    drop(args);

    let (func, transposed) = (kernel(device, "add_outer_parts")?, i32::from(transposed));
    let mut args = func.builder();
    args.arg(&parts).arg(&mut out).arg(&parts_i32).arg(&rank_i32).arg(&width_i32).arg(&transposed);
    launch(&mut args, ((int(rank * width)? as usize).div_ceil(BLOCK), 1), BLOCK, 0)?;
    drop(args);
    Ok(out)
}

// ---- Norms, gates, rotations.

/// Threads for a row of `width` numbers: about four numbers each.
fn row_threads(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).min(BLOCK)
}

pub fn rms_norm(
    (x, lx): (&CudaStorage, &Layout),
    (w, lw): (&CudaStorage, &Layout),
    eps: f32,
) -> Result<(CudaStorage, Shape)> {
    let (device, x, w) = (&x.device, view::<f32>(x, lx)?, view::<f32>(w, lw)?);
    let (parts, width) = parts(x.len(), w.len())?;
    let mut out = alloc::<f32>(device, x.len())?;
    let func = kernel(device, "rms_norm")?;
    let mut args = func.builder();
    args.arg(&x).arg(&w).arg(&mut out).arg(&width).arg(&eps);
    launch(&mut args, (parts, 1), row_threads(w.len()), 0)?;
    Ok(result(out, lx.shape().clone(), device))
}

pub fn rms_norm_backward(x: &Tensor, w: &Tensor, grad: &Tensor, eps: f32) -> Result<Tensor> {
    on_cuda([x, w, grad], |device, [x_at, w, grad]| {
        let (parts, width) = parts(x_at.len(), w.len())?;
        check_len(grad.len(), x_at.len())?;
        let mut out = alloc::<f32>(device, x_at.len())?;
        let func = kernel(device, "rms_norm_backward")?;
        let mut args = func.builder();
        args.arg(&x_at).arg(&w).arg(&grad).arg(&mut out).arg(&width).arg(&eps);
        launch(&mut args, (parts, 1), row_threads(w.len()), 0)?;
        Ok(tensor(out, x.shape().clone(), device))
    })
}

/// How many parts of a width there are, and the width as a kernel takes it.
fn parts(count: usize, width: usize) -> Result<(usize, i32)> {
    if width == 0 || !count.is_multiple_of(width) {
        bail!("{count} numbers are no rows of {width}");
    }
    Ok((count / width, int(width)?))
}

pub fn gated(
    (gate, lg): (&CudaStorage, &Layout),
    (up, lu): (&CudaStorage, &Layout),
    activation: Activation,
) -> Result<(CudaStorage, Shape)> {
    let (device, gate, up) = (&gate.device, view::<f32>(gate, lg)?, view::<f32>(up, lu)?);
    check_len(up.len(), gate.len())?;
    let mut out = alloc::<f32>(device, gate.len())?;
    let (func, count, gelu) = (kernel(device, "gated")?, gate.len() as i64, is_gelu(activation));
    let mut args = func.builder();
    args.arg(&gate).arg(&up).arg(&mut out).arg(&count).arg(&gelu);
    launch(&mut args, blocks(gate.len()), BLOCK, 0)?;
    Ok(result(out, lg.shape().clone(), device))
}

/// The gradients of [`gated`] for `gate` and `up`.
pub fn gated_backward(gate: &Tensor, up: &Tensor, grad: &Tensor, activation: Activation) -> Result<(Tensor, Tensor)> {
    let shape = gate.shape().clone();
    on_cuda([gate, up, grad], |device, [gate, up, grad]| {
        check_len(up.len(), gate.len())?;
        check_len(grad.len(), gate.len())?;
        let (mut d_gate, mut d_up) = (alloc::<f32>(device, gate.len())?, alloc::<f32>(device, gate.len())?);
        let (func, count, gelu) = (kernel(device, "gated_backward")?, gate.len() as i64, is_gelu(activation));
        let mut args = func.builder();
        args.arg(&gate).arg(&up).arg(&grad).arg(&mut d_gate).arg(&mut d_up).arg(&count).arg(&gelu);
        launch(&mut args, blocks(gate.len()), BLOCK, 0)?;
        Ok((tensor(d_gate, shape.clone(), device), tensor(d_up, shape, device)))
    })
}

fn is_gelu(activation: Activation) -> i32 {
    i32::from(activation == Activation::GeluTanh)
}

pub fn rope(
    (x, lx): (&CudaStorage, &Layout),
    (cos, lc): (&CudaStorage, &Layout),
    (sin, ls): (&CudaStorage, &Layout),
    direction: f32,
) -> Result<(CudaStorage, Shape)> {
    let ((rows, width), half) = (lx.shape().dims2()?, lc.dims()[1]);
    let (device, x, cos, sin) = (&x.device, view::<f32>(x, lx)?, view::<f32>(cos, lc)?, view::<f32>(sin, ls)?);
    parts(width, 2 * half)?;
    check_len(cos.len(), rows * half)?;
    check_len(sin.len(), rows * half)?;
    let mut out = alloc::<f32>(device, x.len())?;
    let (func, pairs) = (kernel(device, "rope")?, x.len() / 2);
    let (count, width, half) = (pairs as i64, int(width)?, int(half)?);
    let mut args = func.builder();
    args.arg(&x).arg(&cos).arg(&sin).arg(&mut out).arg(&count).arg(&width).arg(&half).arg(&direction);
    launch(&mut args, blocks(pairs), BLOCK, 0)?;
    Ok(result(out, lx.shape().clone(), device))
}

// ---- Attention.

/// What paths are for the kernels of attention.
#[derive(Debug)]
pub struct DevicePaths {
    rows: CudaSlice<u32>,
    /// Of each query, where its path begins in `rows` and how long it is.
    spans: CudaSlice<u32>,
    /// How many query heads share a key head, on which tiles depend.
    group: usize,
    /// The first and the number of the queries of each tile.
    tiles: CudaSlice<u32>,
    tile_count: usize,
    /// One more than the largest row that is named.
    rows_named: usize,
    /// For the backward pass.
    seen: OnceLock<DeviceSeen>,
}

#[derive(Debug)]
struct DeviceSeen {
    /// How many rows it says it of.
    count: usize,
    /// Of each row, the first query that sees it, the first one after that does not, and its place in their paths.
    rows: CudaSlice<u32>,
    /// The same queries of every [`KEPT`] rows together.
    tiles: CudaSlice<u32>,
    /// `Piece`s of the kernels on matrix units, and what sums they leave to be added.
    pieces: CudaSlice<u32>,
    piece_count: usize,
    parts: CudaSlice<u32>,
    /// How many rows of tiles have their sums in parts, and how many parts there are.
    split_count: usize,
    part_count: usize,
}

impl DevicePaths {
    fn upload(paths: &Paths, group: usize, device: &CudaDevice) -> Result<Self> {
        let spans = paths.spans().iter().flat_map(|span| [span.start, span.len()]).map(small);
        let runs = paths.runs(KEPT / group);
        let tiles = runs.iter().flat_map(|run| [run.start, run.len()]).map(small);
        Ok(Self {
            rows: upload(device, paths.rows())?,
            spans: upload(device, &spans.collect::<Result<Vec<_>>>()?)?,
            group,
            tiles: upload(device, &tiles.collect::<Result<Vec<_>>>()?)?,
            tile_count: runs.len(),
            rows_named: paths.rows().iter().max().map_or(0, |row| *row as usize + 1),
            seen: OnceLock::new(),
        })
    }

    fn seen(&self, paths: &Paths, count: usize, device: &CudaDevice) -> Result<&DeviceSeen> {
        let seen = match self.seen.get() {
            Some(seen) => seen,
            None => {
                let seen = DeviceSeen::upload(paths, (count, self.group), device)?;
                self.seen.get_or_init(|| seen)
            }
        };
        check_len(count, seen.count)?;
        Ok(seen)
    }
}

impl DeviceSeen {
    fn upload(paths: &Paths, (count, group): (usize, usize), device: &CudaDevice) -> Result<Self> {
        let seen = paths.seen(count)?;
        let rows = seen.iter().flat_map(|seen| [seen.queries.start, seen.queries.end, seen.place]).map(small);
        let tiles = seen.chunks(KEPT).map(|rows| {
            let queries = || rows.iter().map(|row| row.queries.clone()).filter(|queries| !queries.is_empty());
            let start = queries().map(|queries| queries.start).min().unwrap_or(0);
            start..queries().map(|queries| queries.end).max().unwrap_or(start)
        });
        let tiles: Vec<_> = tiles.collect();
        let most = (PIECE / group).max(tiles.iter().map(Range::len).sum::<usize>().div_ceil(PIECES)).max(1);
        let (mut pieces, mut parts, mut piece_count, mut part_count) = (Vec::new(), Vec::new(), 0, 0);
        for (index, queries) in tiles.iter().enumerate() {
            // One at least, which also says that nothing sees the rows.
            let (row, splits) = (index * KEPT, queries.len().div_ceil(most).max(1));
            let size = queries.len().div_ceil(splits);
            for split in 0..splits {
                let first = (queries.start + split * size).min(queries.end);
                let part = if splits == 1 { 0 } else { part_count + split + 1 };
                pieces.extend([row, first, (first + size).min(queries.end), part]);
            }
            piece_count += splits;
            if splits > 1 {
                parts.extend([row, part_count, splits]);
                part_count += splits;
            }
        }
        let numbers = |numbers: Vec<usize>| {
            let numbers = numbers.into_iter().map(small).collect::<Result<Vec<_>>>()?;
            upload(device, &numbers)
        };
        Ok(Self {
            count,
            rows: upload(device, &rows.collect::<Result<Vec<_>>>()?)?,
            tiles: numbers(tiles.iter().flat_map(|queries| [queries.start, queries.end]).collect())?,
            pieces: numbers(pieces)?,
            piece_count,
            split_count: parts.len() / 3,
            parts: numbers(parts)?,
            part_count,
        })
    }
}

/// A number as the kernels take it: they count with signed ones.
fn small(number: usize) -> Result<u32> {
    Ok(int(number)? as u32)
}

/// Puts numbers onto a device; one at least, as there is no memory of none.
fn upload(device: &CudaDevice, numbers: &[u32]) -> Result<CudaSlice<u32>> {
    if numbers.is_empty() { device.clone_htod(&[0]) } else { device.clone_htod(numbers) }
}

/// Numbers of a head that the kernels have a variant for.
const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Whether the kernels can compute this.
pub fn can_attend(attention: Attention) -> bool {
    let heads = attention.heads;
    let group = heads.heads / heads.kv_heads;
    heads.head_dim.is_multiple_of(4) && heads.head_dim <= HEAD_DIMS[2] && group <= KEPT
}

/// The numbers that every kernel of attention takes last.
struct AttentionShape {
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    scale: f32,
    window: i32,
    softcap: f32,
}

impl AttentionShape {
    fn new(attention: Attention) -> Result<Self> {
        let heads = attention.heads;
        if attention.window == Some(0) {
            bail!("a window of no rows");
        }
        Ok(Self {
            heads: int(heads.heads)?,
            kv_heads: int(heads.kv_heads)?,
            head_dim: int(heads.head_dim)?,
            scale: attention.scale,
            // One of more rows than there are is none.
            window: attention.window.map_or(0, |window| int(window).unwrap_or(0)),
            softcap: attention.softcap.unwrap_or(0.0),
        })
    }

    fn push<'a>(&'a self, args: &mut LaunchArgs<'a>) {
        args.arg(&self.heads).arg(&self.kv_heads).arg(&self.head_dim);
        args.arg(&self.scale).arg(&self.window).arg(&self.softcap);
    }
}

/// The kernel's variant for these heads, and the numbers that its heads are filled up to.
fn attention_kernel(device: &CudaDevice, name: &str, head_dim: usize) -> Result<(Kernel, usize)> {
    let Some(width) = HEAD_DIMS.into_iter().find(|width| head_dim <= *width) else {
        bail!("heads of {head_dim} numbers are larger than the kernels of attention take");
    };
    Ok((kernel(device, &format!("{name}_{width}"))?, width))
}

/// Starts a kernel of attention with shared memory for `rows` rows of heads and for `weights` weights of the kept rows
/// for each of `visited` rows.
fn launch_attention(
    (kernel, args): (&Kernel, &mut LaunchArgs<'_>),
    grid: (usize, usize),
    width: usize,
    (rows, weights, visited): (usize, usize, usize),
) -> Result<()> {
    let numbers = rows * (width + 4) + weights * KEPT * (visited + 4);
    let bytes = numbers * size_of::<f32>();
    // Beyond 48 KB a kernel has to ask.
    kernel.function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, int(bytes)?).w()?;
    launch(args, grid, ATTENTION_THREADS, bytes)
}

/// The kernels read four numbers at a time.
fn check_aligned(device: &CudaDevice, views: &[&CudaView<'_, f32>]) -> Result<()> {
    let stream = device.cuda_stream();
    match views.iter().all(|view| view.device_ptr(&stream).0.is_multiple_of(16)) {
        true => Ok(()),
        false => bail!("queries, keys and values must begin at multiples of 16 bytes"),
    }
}

/// What the backward pass of attention takes of the forward pass.
#[derive(Debug)]
pub struct Attended {
    /// The log-sum-exp of the scores of each head of each query.
    log_sums: CudaSlice<f32>,
    /// Queries, keys and values as they were multiplied, if matrix units did it.
    rounded: Option<[CudaSlice<bf16>; 3]>,
}

/// Whether matrix units multiply, which take bf16.
fn on_matrix_units(attention: Attention, products: DType) -> bool {
    products == DType::BF16 && [64, 128].contains(&attention.heads.head_dim)
}

/// [`super::attention`]; leaves what the backward pass takes.
pub fn attention(
    [(q, lq), (k, lk), (v, lv)]: [(&CudaStorage, &Layout); 3],
    paths: &Paths,
    (attention, products): (Attention, DType),
    attended: &OnceLock<Attended>,
) -> Result<(CudaStorage, Shape)> {
    let (device, q, k, v) = (&q.device, view::<f32>(q, lq)?, view::<f32>(k, lk)?, view::<f32>(v, lv)?);
    check_aligned(device, &[&q, &k, &v])?;
    let (shape, heads) = (AttentionShape::new(attention)?, attention.heads);
    let kv_rows = check_rows([&q, &k, &v], paths, attention)?;
    let on_device = of_device(paths, attention, device)?;
    if on_device.rows_named > kv_rows {
        bail!("a path names row {} of {kv_rows}", on_device.rows_named - 1);
    }
    let mut out = alloc::<f32>(device, q.len())?;
    let mut log_sums = alloc::<f32>(device, paths.len() * heads.heads)?;
    let grid = (on_device.tile_count, heads.kv_heads);
    let rounded = if on_matrix_units(attention, products) {
        let rounded = [cast_to_bf16(device, &q)?, cast_to_bf16(device, &k)?, cast_to_bf16(device, &v)?];
        let func = kernel(device, &format!("attention_forward_bf16_{}", heads.head_dim))?;
        let mut args = func.builder();
        rounded.iter().for_each(|factor| {
            args.arg(factor);
        });
        args.arg(&on_device.rows).arg(&on_device.spans).arg(&on_device.tiles).arg(&mut out).arg(&mut log_sums);
        shape.push(&mut args);
        launch(&mut args, grid, TILE_THREADS, 0)?;
        drop(args);
        Some(rounded)
    } else {
        let (func, width) = attention_kernel(device, "attention_forward", heads.head_dim)?;
        let visited = if width == HEAD_DIMS[2] { 32 } else { 64 };
        let mut args = func.builder();
        args.arg(&q).arg(&k).arg(&v).arg(&on_device.rows).arg(&on_device.spans).arg(&on_device.tiles);
        args.arg(&mut out).arg(&mut log_sums);
        shape.push(&mut args);
        launch_attention((&func, &mut args), grid, width, (KEPT + visited, 1, visited))?;
        None
    };
    // An operation is computed once.
    let _ = attended.set(Attended { log_sums, rounded });
    Ok(result(out, lq.shape().clone(), device))
}

/// Checks that there are whole rows, a query for each path; gives the number of rows of keys.
fn check_rows([q, k, v]: [&CudaView<'_, f32>; 3], paths: &Paths, attention: Attention) -> Result<usize> {
    let heads = attention.heads;
    check_len(q.len(), paths.len() * heads.heads * heads.head_dim)?;
    check_len(v.len(), k.len())?;
    Ok(parts(k.len(), heads.kv_heads * heads.head_dim)?.0)
}

fn of_device<'a>(paths: &'a Paths, attention: Attention, device: &CudaDevice) -> Result<&'a DevicePaths> {
    let group = attention.heads.heads / attention.heads.kv_heads;
    let on_device = match paths.on_device.get() {
        Some(on_device) => on_device,
        None => {
            let on_device = DevicePaths::upload(paths, group, device)?;
            paths.on_device.get_or_init(|| on_device)
        }
    };
    if on_device.group != group {
        bail!("paths that were used with groups of {} heads are used with groups of {group}", on_device.group);
    }
    Ok(on_device)
}

/// The gradients of [`attention`] for `q`, `k` and `v`, from its result `out`.
///
/// # Errors
/// If the queries that see a row do not follow each other (see [`Paths::seen`]).
pub fn attention_backward(
    qkv: [&Tensor; 3],
    [out, grad]: [&Tensor; 2],
    paths: &Paths,
    attention: Attention,
    attended: &OnceLock<Attended>,
) -> Result<[Tensor; 3]> {
    let Some(Attended { log_sums, rounded }) = attended.get() else {
        bail!("attention goes backward before it went forward")
    };
    let heads = attention.heads;
    let [q, k, v] = qkv;
    on_cuda([q, k, v, out, grad], |device, [q, k, v, out, grad]| {
        check_aligned(device, &[&q, &k, &v, &grad])?;
        check_len(grad.len(), q.len())?;
        check_len(out.len(), q.len())?;
        let kv_rows = check_rows([&q, &k, &v], paths, attention)?;
        let on_device = of_device(paths, attention, device)?;
        let seen = on_device.seen(paths, kv_rows, device)?;
        let means = attention_means(device, [&grad, &out], heads.head_dim)?;
        check_len(log_sums.len(), means.len())?;
        let backward =
            AttentionBackward { attention, shape: AttentionShape::new(attention)?, on_device, seen, log_sums, means };
        let [d_q, d_k, d_v] = match rounded {
            Some([q, k, v]) => {
                let grad = cast_to_bf16(device, &grad)?;
                backward.on_matrix_units(device, [q, k, v, &grad])?
            }
            None => backward.in_f32(device, [&q, &k, &v, &grad])?,
        };
        let of = |values, like: &Tensor| tensor(values, like.shape().clone(), device);
        Ok([of(d_q, qkv[0]), of(d_k, qkv[1]), of(d_v, qkv[2])])
    })
}

/// What the backward pass of attention needs besides queries, keys, values and the gradient of its result.
struct AttentionBackward<'a> {
    attention: Attention,
    shape: AttentionShape,
    on_device: &'a DevicePaths,
    seen: &'a DeviceSeen,
    log_sums: &'a CudaSlice<f32>,
    means: CudaSlice<f32>,
}

impl AttentionBackward<'_> {
    fn in_f32(&self, device: &CudaDevice, [q, k, v, grad]: [&CudaView<'_, f32>; 4]) -> Result<[CudaSlice<f32>; 3]> {
        let Self { on_device, seen, log_sums, means, .. } = self;
        let heads = self.attention.heads;
        let mut d_q = alloc::<f32>(device, q.len())?;
        let (func, width) = attention_kernel(device, "attention_backward_q", heads.head_dim)?;
        let mut args = func.builder();
        args.arg(q).arg(k).arg(v).arg(grad).arg(&on_device.rows).arg(&on_device.spans).arg(&on_device.tiles);
        args.arg(*log_sums).arg(means).arg(&mut d_q);
        self.shape.push(&mut args);
        let (grid, rows) = ((on_device.tile_count, heads.kv_heads), 2 * (KEPT + VISITED_BACKWARD));
        launch_attention((&func, &mut args), grid, width, (rows, 1, VISITED_BACKWARD))?;
        drop(args);

        let (mut d_k, mut d_v) = (alloc::<f32>(device, k.len())?, alloc::<f32>(device, v.len())?);
        let (func, width) = attention_kernel(device, "attention_backward_kv", heads.head_dim)?;
        let count = int(seen.count)?;
        let mut args = func.builder();
        args.arg(q).arg(k).arg(v).arg(grad).arg(&seen.rows).arg(&on_device.spans).arg(&seen.tiles);
        args.arg(*log_sums).arg(means).arg(&mut d_k).arg(&mut d_v).arg(&count);
        self.shape.push(&mut args);
        let grid = (seen.count.div_ceil(KEPT), heads.kv_heads);
        launch_attention((&func, &mut args), grid, width, (rows, 2, VISITED_BACKWARD))?;
        drop(args);
        Ok([d_q, d_k, d_v])
    }

    fn on_matrix_units(
        &self,
        device: &CudaDevice,
        [q, k, v, grad]: [&CudaSlice<bf16>; 4],
    ) -> Result<[CudaSlice<f32>; 3]> {
        let Self { on_device, seen, log_sums, means, .. } = self;
        let heads = self.attention.heads;
        let mut d_q = alloc::<f32>(device, q.len())?;
        let func = kernel(device, &format!("attention_backward_q_bf16_{}", heads.head_dim))?;
        let mut args = func.builder();
        args.arg(q).arg(k).arg(v).arg(grad).arg(&on_device.rows).arg(&on_device.spans).arg(&on_device.tiles);
        args.arg(*log_sums).arg(means).arg(&mut d_q);
        self.shape.push(&mut args);
        launch(&mut args, (on_device.tile_count, heads.kv_heads), TILE_THREADS, 0)?;
        drop(args);

        let (mut d_k, mut d_v) = (alloc::<f32>(device, k.len())?, alloc::<f32>(device, v.len())?);
        let width = heads.kv_heads * heads.head_dim;
        let of_parts = (seen.part_count * KEPT * width).max(1);
        let (mut k_parts, mut v_parts) = (alloc::<f32>(device, of_parts)?, alloc::<f32>(device, of_parts)?);
        let func = kernel(device, &format!("attention_backward_kv_bf16_{}", heads.head_dim))?;
        let (count, width) = (int(seen.count)?, int(width)?);
        let mut args = func.builder();
        args.arg(q).arg(k).arg(v).arg(grad).arg(&seen.rows).arg(&on_device.spans).arg(&seen.pieces);
        args.arg(*log_sums).arg(means).arg(&mut d_k).arg(&mut d_v).arg(&mut k_parts).arg(&mut v_parts).arg(&count);
        self.shape.push(&mut args);
        launch(&mut args, (seen.piece_count, heads.kv_heads), TILE_THREADS, 0)?;
        drop(args);

        let func = kernel(device, "attention_add_parts")?;
        let mut args = func.builder();
        args.arg(&seen.parts).arg(&k_parts).arg(&v_parts).arg(&mut d_k).arg(&mut d_v).arg(&count).arg(&width);
        // Of either result eight blocks have a part of the rows each.
        launch(&mut args, (seen.split_count, 2 * 8), BLOCK, 0)?;
        drop(args);
        Ok([d_q, d_k, d_v])
    }
}

/// Of each head, the product of its gradient and its result.
fn attention_means(device: &CudaDevice, [grad, out]: [&CudaView<'_, f32>; 2], dim: usize) -> Result<CudaSlice<f32>> {
    const WARPS: usize = 8;
    let (heads, dim) = parts(out.len(), dim)?;
    let mut means = alloc::<f32>(device, heads)?;
    let (func, count) = (kernel(device, "attention_means")?, heads as i64);
    let mut args = func.builder();
    args.arg(grad).arg(out).arg(&mut means).arg(&count).arg(&dim);
    launch(&mut args, (heads.div_ceil(WARPS), 1), WARPS * 32, 0)?;
    Ok(means)
}

// ---- Log-probabilities.

/// Tokens that are asked for at rows of logits, and what the distributions of the rows are like.
#[derive(Debug)]
pub struct ScoredRows {
    /// Where the tokens of each row begin, and after the last where they end.
    starts: CudaSlice<u32>,
    tokens: CudaSlice<u32>,
    /// The log-sum-exp of each row's logits over the temperature.
    normalisers: CudaSlice<f32>,
    entropies: CudaSlice<f32>,
    temperature: f32,
}

impl ScoredRows {
    /// Scores tokens under softmax(logits / temperature), logits `[rows, vocab]`: row `i` has the tokens from
    /// `starts[i]` to `starts[i + 1]`. Returns the entropy of each row and the log-probability of each token, too.
    ///
    /// # Errors
    /// If tokens or their ranges are not inside of what there is.
    pub fn score(
        logits: &Tensor,
        (starts, tokens): (&[u32], &[u32]),
        temperature: f32,
    ) -> Result<(Self, Vec<f32>, Vec<f32>)> {
        let (rows, vocab) = logits.dims2()?;
        check_len(starts.len(), rows + 1)?;
        if !starts.is_sorted() || starts[0] != 0 || starts[rows] as usize != tokens.len() {
            bail!("{} tokens do not lie in the ranges of {rows} rows", tokens.len());
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
            bail!("there is no token {token} in a vocabulary of {vocab}");
        }
        on_cuda([logits], |device, [logits]| {
            let (starts, vocab) = (upload(device, starts)?, int(vocab)?);
            let (mut normalisers, mut entropies) = (alloc::<f32>(device, rows)?, alloc::<f32>(device, rows)?);
            let mut log_probs = alloc::<f32>(device, tokens.len().max(1))?;
            let count = tokens.len();
            let tokens = upload(device, tokens)?;
            let func = kernel(device, "score_rows")?;
            let mut args = func.builder();
            args.arg(&logits).arg(&starts).arg(&tokens).arg(&mut normalisers).arg(&mut entropies).arg(&mut log_probs);
            args.arg(&vocab).arg(&temperature);
            launch(&mut args, (rows, 1), ROW_THREADS, 0)?;
            drop(args);
            let (of_rows, of_tokens) = (device.clone_dtoh(&entropies)?, device.clone_dtoh(&log_probs.slice(..count))?);
            Ok((Self { starts, tokens, normalisers, entropies, temperature }, of_rows, of_tokens))
        })
    }

    /// d loss / d logits for the logits that were scored, from the derivatives for each token's log-probability and each
    /// row's entropy.
    pub fn gradient(&self, logits: &Tensor, of_tokens: &[f32], of_rows: &[f32]) -> Result<Tensor> {
        let (rows, vocab) = logits.dims2()?;
        check_len(of_rows.len(), rows)?;
        check_len(self.normalisers.len(), rows)?;
        check_len(of_tokens.len().max(1), self.tokens.len())?;
        let by_temperature =
            |derivatives: &[f32]| derivatives.iter().map(|value| value / self.temperature).collect::<Vec<_>>();
        on_cuda([logits], |device, [at]| {
            let of_tokens = match of_tokens {
                [] => device.clone_htod(&[0f32])?,
                _ => device.clone_htod(&by_temperature(of_tokens))?,
            };
            let of_rows = device.clone_htod(&by_temperature(of_rows))?;
            let mut out = alloc::<f32>(device, at.len())?;
            let (func, vocab) = (kernel(device, "logit_gradients")?, int(vocab)?);
            let mut args = func.builder();
            args.arg(&at).arg(&self.starts).arg(&self.tokens).arg(&self.normalisers).arg(&self.entropies);
            args.arg(&of_tokens).arg(&of_rows).arg(&mut out).arg(&vocab).arg(&self.temperature);
            launch(&mut args, (rows, 1), ROW_THREADS, 0)?;
            drop(args);
            Ok(tensor(out, logits.shape().clone(), device))
        })
    }
}
