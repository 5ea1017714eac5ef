//! Attention along paths: in f32, or on matrix units in bf16.

use std::sync::OnceLock;

use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Result, Shape, Tensor, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{
            CudaSlice, CudaView, DevicePtr, LaunchArgs, PushKernelArg,
            sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        },
    },
};
use half::bf16;

use super::{
    BLOCK, Kernel, alloc, check_len, int, kernel, launch, linear::cast_to_bf16, on_cuda, parts, result, tensor, upload,
    view,
};
use crate::engine::model::ops::{
    Attention, Paths,
    tiles::{KEPT, QueryTiles, SeenTiles},
};

/// The threads of a block of attention, and how many rows it visits at a time in the backward pass: constants of the kernels.
const ATTENTION_THREADS: usize = 256;
const VISITED_BACKWARD: usize = 32;

/// Threads of a block of attention on matrix units, which keeps as many rows.
const TILE_THREADS: usize = 128;

/// What paths are for the kernels of attention.
#[derive(Debug)]
pub struct DevicePaths {
    /// How many query heads share a key head, on which tiles depend.
    group: usize,
    rows: CudaSlice<u32>,
    spans: CudaSlice<u32>,
    tiles: CudaSlice<u32>,
    tile_count: usize,
    /// One more than the largest row that is named.
    rows_named: usize,
    /// For the backward pass.
    seen: OnceLock<DeviceSeen>,
}

/// [`SeenTiles`] on a device.
#[derive(Debug)]
struct DeviceSeen {
    count: usize,
    rows: CudaSlice<u32>,
    tiles: CudaSlice<u32>,
    pieces: CudaSlice<u32>,
    piece_count: usize,
    parts: CudaSlice<u32>,
    split_count: usize,
    part_count: usize,
}

impl DevicePaths {
    fn upload(paths: &Paths, group: usize, device: &CudaDevice) -> Result<Self> {
        let tiles = QueryTiles::of(paths, group)?;
        Ok(Self {
            group,
            rows: upload(device, paths.rows())?,
            spans: upload(device, &tiles.spans)?,
            tiles: upload(device, &tiles.tiles)?,
            tile_count: tiles.count(),
            rows_named: paths.rows().iter().max().map_or(0, |row| *row as usize + 1),
            seen: OnceLock::new(),
        })
    }

    fn seen(&self, paths: &Paths, count: usize, device: &CudaDevice) -> Result<&DeviceSeen> {
        let seen = match self.seen.get() {
            Some(seen) => seen,
            None => {
                let seen = DeviceSeen::upload(&SeenTiles::of(paths, count, self.group)?, device)?;
                self.seen.get_or_init(|| seen)
            }
        };
        check_len(count, seen.count)?;
        Ok(seen)
    }
}

impl DeviceSeen {
    fn upload(tiles: &SeenTiles, device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            count: tiles.count,
            rows: upload(device, &tiles.rows)?,
            tiles: upload(device, &tiles.tiles)?,
            pieces: upload(device, &tiles.pieces)?,
            piece_count: tiles.piece_count(),
            parts: upload(device, &tiles.parts)?,
            split_count: tiles.split_count(),
            part_count: tiles.part_count,
        })
    }
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

/// [`crate::engine::model::ops::attention`]; leaves what the backward pass takes.
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
