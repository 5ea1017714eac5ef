//! Products by cuBLAS, and the kernels around them.

use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail,
    cuda_backend::{
        WrapErr,
        cudarc::{
            cublas::{result::gemm_ex, sys as cublas},
            driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut, PushKernelArg},
        },
    },
};
use half::bf16;

use super::{BLOCK, alloc, blocks, check_len, int, kernel, launch, on_cuda, result, row_threads, tensor, view};

/// What a block sums of the gradients of an adapter: constants of the kernel.
const OUTER_THREADS: usize = 128;
const OUTER_RANK: usize = 16;

/// Parts that rows are summed in at most, and the rows of each at least.
const MAX_OUTER_PARTS: usize = 64;
const MIN_OUTER_ROWS: usize = 128;

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

/// Numbers rounded to bf16.
pub fn cast_to_bf16(device: &CudaDevice, x: &CudaView<f32>) -> Result<CudaSlice<bf16>> {
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
