//! The operations that a decoder is made of, each with its gradient.
//!
//! candle's own fused operations (`rms_norm`, `rope`, `softmax_last_dim`, CPU flash attention) cut the gradient in
//! silence, and its matrix product also computes and keeps the gradients of frozen weights. These do neither: on a CPU
//! ([`kernels`]) and on CUDA devices (`cuda`) each is one pass over memory with a hand-written backward pass; on others it
//! is composed of candle's differentiable operations ([`composed`]), which the tests also use as the reference. One set of
//! operations serves both answering and training, so the two cannot disagree.

pub mod composed;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod kernels;
mod paths;
pub mod tape;

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, MetalStorage, Result, Shape,
    Storage, Tensor,
    backend::{BackendDevice, BackendStorage},
    bail, op,
};

use super::{
    frozen::Frozen,
    packed::{self, Adapters, PackedMatrix, PackedPair, PairShape, Rows},
};

pub use kernels::{Activation, Attention, Heads, KvRows};
pub use paths::{Paths, Seen};

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

/// `x w^T` with frozen weights `w` of shape `[out, in]`: `[n, in] -> [n, out]`. The gradient goes to `x` alone.
pub fn frozen_linear(x: &Tensor, w: &Frozen) -> Result<Tensor> {
    match w {
        Frozen::Packed(matrix) => tape::apply1(&x.contiguous()?, FrozenLinear(matrix.clone())),
        #[cfg(feature = "cuda")]
        Frozen::Dense(tensor) if tensor.device().is_cuda() => {
            tape::apply1(&x.contiguous()?, DenseLinear(tensor.clone()))
        }
        Frozen::Dense(tensor) => x.to_dtype(tensor.dtype())?.matmul(&tensor.detach().t()?)?.to_dtype(DType::F32),
    }
}

/// Rows `[n, width]` on their way into a product, normalised first where there is a norm (its weight `[width]` and eps).
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub x: &'a Tensor,
    pub norm: Option<(&'a Tensor, f64)>,
}

impl Input<'_> {
    /// The rows as they go in, with their gradient.
    pub fn tensor(self) -> Result<Tensor> {
        match self.norm {
            Some((weight, eps)) => rms_norm(self.x, weight, eps),
            None => Ok(self.x.clone()),
        }
    }

    /// What a function makes of the rows, on a CPU, in one pass over them.
    pub fn on_rows<T>(self, f: impl FnOnce(Rows) -> T) -> Result<T> {
        let width = self.x.dim(1)?;
        match self.norm {
            None => on_cpu([self.x], |[x]| f(Rows::pack(x, width))),
            Some((weight, eps)) => on_cpu([self.x, weight], |[x, weight]| {
                f(Rows::pack_scaled(x, &kernels::inverse_rms(x, width, eps as f32), weight))
            }),
        }
    }

    /// Several weights as they are multiplied with these rows; `None` where one is not packed, or a gradient is to come
    /// back.
    fn packed<const N: usize>(self, weights: [&Frozen; N]) -> Result<Option<[&PackedMatrix; N]>> {
        let packed = weights.iter().map(|weight| match weight {
            Frozen::Packed(matrix) => Some(&**matrix),
            Frozen::Dense(_) => None,
        });
        let Some(packed) = packed.collect::<Option<Vec<_>>>().filter(|_| !self.x.track_op()) else { return Ok(None) };
        Ok(packed.try_into().ok())
    }
}

/// The products of rows with several weights at once, with what adapters add to ranges of the rows; `None` where the
/// weights are not packed, or a gradient is to come back.
pub fn packed_linears<const N: usize>(
    input: Input,
    weights: [&Frozen; N],
    adapters: &Adapters<N>,
) -> Result<Option<[Tensor; N]>> {
    let Some(matrices) = input.packed(weights)? else { return Ok(None) };
    matrices.iter().try_for_each(|matrix| check_width(input.x.dim(1)?, matrix))?;
    let products = input.on_rows(|x| packed::multiply(&x, matrices, adapters, [None; N]))?;
    let products = products.into_iter().zip(matrices).map(|(product, matrix)| of_rows(input.x, product, matrix));
    let products = products.collect::<Result<Vec<_>>>()?;
    products.try_into().map(Some).map_err(|_| candle_core::Error::msg("one product for each weight"))
}

/// The product with one weight, added to `onto`.
pub fn packed_linear_onto(
    input: Input,
    weight: &Frozen,
    adapters: &Adapters<1>,
    onto: &Tensor,
) -> Result<Option<Tensor>> {
    let Some([matrix]) = input.packed([weight])? else { return Ok(None) };
    check_width(input.x.dim(1)?, matrix)?;
    let [product] =
        input.on_rows(|x| on_cpu([onto], |[onto]| packed::multiply(&x, [matrix], adapters, [Some(onto)])))??;
    of_rows(input.x, product, matrix).map(Some)
}

/// `(activation(x gate^T) * x up^T) down^T`, with what adapters add to each product, added to `onto`; `None` where the
/// weights are not packed, or a gradient is to come back.
pub fn packed_mlp(
    input: Input,
    [gate, up, down]: [&Frozen; 3],
    activation: Activation,
    adapters: &Adapters<3>,
    onto: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let Some([gate, up, down]) = input.packed([gate, up, down])? else { return Ok(None) };
    let width = input.x.dim(1)?;
    [(width, gate), (width, up), (gate.outputs(), down)].iter().try_for_each(|(width, w)| check_width(*width, w))?;
    let to_gated = adapters.iter().map(|(rows, [gate, up, _])| (rows.clone(), [*gate, *up])).collect::<Vec<_>>();
    let to_down = adapters.iter().map(|(rows, [_, _, down])| (rows.clone(), [*down])).collect::<Vec<_>>();
    let combine = |gate: &mut [f32], up: &[f32]| kernels::gate_in_place(gate, up, activation);
    let gated = input.on_rows(|x| packed::multiply_combined(&x, [gate, up], &to_gated, combine))?;
    let multiply = |onto: Option<&[f32]>| packed::multiply(&gated, [down], &to_down, [onto]);
    let [product] = match onto {
        None => multiply(None),
        Some(onto) => on_cpu([onto], |[onto]| multiply(Some(onto)))?,
    };
    of_rows(input.x, product, down).map(Some)
}

/// The product of rows with a matrix.
fn of_rows(x: &Tensor, product: Vec<f32>, matrix: &PackedMatrix) -> Result<Tensor> {
    Tensor::from_vec(product, (x.dim(0)?, matrix.outputs()), &Device::Cpu)
}

fn check_width(width: usize, matrix: &PackedMatrix) -> Result<()> {
    if width != matrix.inputs() {
        bail!("rows of {width} numbers do not fit a matrix of {} inputs", matrix.inputs());
    }
    Ok(())
}

struct FrozenLinear(Arc<PackedMatrix>);

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        check_width(width, &self.0)?;
        let [product] = packed::multiply(&Rows::pack(slice(x, layout)?, width), [&self.0], &[], [None]);
        Ok((CpuStorage::F32(product), Shape::from((rows, self.0.outputs()))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        on_cpu([grad], |[grad]| tensor(self.0.multiply_backward(grad, None), x))?.map(Some)
    }
}

/// [`frozen_linear`] on a CUDA device.
#[cfg(feature = "cuda")]
struct DenseLinear(Tensor);

#[cfg(feature = "cuda")]
impl CustomOp1 for DenseLinear {
    fn name(&self) -> &'static str {
        "dense-linear"
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("rows on a CPU cannot be multiplied with a matrix on another device")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::frozen_linear(x, layout, &self.0)
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        cuda::frozen_linear_backward(&self.0, grad).map(Some)
    }
}

/// `x w^T + scale * (x a^T) b^T` with frozen weights `w` `[out, in]` and an adapter's `a` `[r, in]` and `b` `[out, r]`:
/// `[n, in] -> [n, out]`. The gradient goes to `x`, `a` and `b`.
pub fn adapted_linear(x: &Tensor, w: &Frozen, [a, b]: [&Tensor; 2], scale: f64) -> Result<Tensor> {
    match w {
        Frozen::Packed(_) => tape::apply3([&x.contiguous()?, a, b], AdaptedLinear::new(w, scale)),
        #[cfg(feature = "cuda")]
        Frozen::Dense(tensor) if tensor.device().is_cuda() => {
            tape::apply3([&x.contiguous()?, a, b], AdaptedLinear::new(w, scale))
        }
        Frozen::Dense(_) => frozen_linear(x, w)? + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?,
    }
}

struct AdaptedLinear {
    /// Packed, or dense on a CUDA device.
    w: Frozen,
    scale: f64,
    /// `scale * x a^T` of the forward pass.
    #[cfg(feature = "cuda")]
    low: OnceLock<Tensor>,
}

impl AdaptedLinear {
    fn new(w: &Frozen, scale: f64) -> Self {
        Self {
            w: w.clone(),
            scale,
            #[cfg(feature = "cuda")]
            low: OnceLock::new(),
        }
    }
}

impl CustomOp3 for AdaptedLinear {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Frozen::Packed(matrix) = &self.w else { bail!("expected a packed matrix") };
        let (((rows, width), (rank, inputs)), outputs) = ((lx.shape().dims2()?, la.shape().dims2()?), lb.dim(0)?);
        check_width(width, matrix)?;
        let shape = PairShape { rank, inputs, outputs };
        if (inputs, outputs) != (width, matrix.outputs()) {
            bail!("an adapter of {shape:?} does not fit {matrix:?}");
        }
        let b: Vec<f32> = slice(b, lb)?.iter().map(|value| value * self.scale as f32).collect();
        let pair = PackedPair::from_f32(shape, slice(a, la)?, &b);
        let rows_of_x = Rows::pack(slice(x, lx)?, width);
        let [product] = packed::multiply(&rows_of_x, [&**matrix], &[(0..rows, [Some(&pair)])], [None]);
        Ok((CpuStorage::F32(product), Shape::from((rows, outputs))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let Frozen::Dense(w) = &self.w else { bail!("expected a dense matrix") };
        let (output, low) = cuda::adapted_linear((x, lx), (a, la), (b, lb), w, self.scale as f32)?;
        // An operation is computed once.
        let _ = self.low.set(low);
        Ok(output)
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let (Frozen::Dense(w), Some(low)) = (&self.w, self.low.get()) {
            let [d_x, d_a, d_b] = cuda::adapted_linear_backward([x, a, b], w, self.scale as f32, [low, grad])?;
            return Ok((Some(d_x), Some(d_a), Some(d_b)));
        }
        let Frozen::Packed(matrix) = &self.w else { bail!("expected a packed matrix") };
        let (x, a, b, grad) = (x.detach(), a.detach(), b.detach(), grad.contiguous()?);
        // Scaled where there are `r` numbers to a row.
        let to_b = (x.matmul(&a.t()?)? * self.scale)?;
        let to_a = (grad.matmul(&b)? * self.scale)?;
        let d_x = on_cpu([&grad, &to_a.matmul(&a)?], |[grad, onto]| matrix.multiply_backward(grad, Some(onto)))?;
        let d_x = tensor(d_x, &x)?;
        Ok((Some(d_x), Some(to_a.t()?.matmul(&x)?), Some(grad.t()?.matmul(&to_b)?)))
    }
}

/// Root-mean-square normalisation of each `width` numbers of `x` `[n, k * width]`, times the frozen `weight` `[width]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if has_kernels(x.device()) {
        tape::apply2(&x.contiguous()?, weight, RmsNorm { eps: eps as f32 })
    } else {
        composed::rms_norm(x, weight, eps)
    }
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = kernels::rms_norm(slice(x, lx)?, slice(w, lw)?, self.eps);
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::rms_norm((x, lx), (w, lw), self.eps)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return Ok((Some(cuda::rms_norm_backward(x, w, grad, self.eps)?), None));
        }
        let d_x = on_cpu([x, w, grad], |[x, w, grad]| kernels::rms_norm_backward(x, w, grad, self.eps))?;
        Ok((Some(tensor(d_x, x)?), None))
    }
}

/// `x` `[n, width]` plus the frozen `bias` `[width]` in each row. The gradient goes to `x` alone.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if has_kernels(x.device()) { tape::apply2(x, bias, AddBias) } else { composed::add_bias(x, bias) }
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, bias: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (mut out, bias) = (slice(x, lx)?.to_vec(), slice(bias, lb)?);
        out.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, b: &CudaStorage, lb: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((x.binary_impl::<op::Add>(b, lx, &lb.broadcast_as(lx.shape())?)?, lx.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), None))
    }
}

/// `a + b`, of the same shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if has_kernels(a.device()) { tape::apply2(a, b, Add) } else { a + b }
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        if la.shape() != lb.shape() {
            bail!("rows of {:?} and of {:?} cannot be added", la.shape(), lb.shape());
        }
        Ok((CpuStorage::F32(kernels::add(slice(a, la)?, slice(b, lb)?)), la.shape().clone()))
    }

    fn cuda_fwd(&self, a: &CudaStorage, la: &Layout, b: &CudaStorage, lb: &Layout) -> Result<(CudaStorage, Shape)> {
        if la.shape() != lb.shape() {
            bail!("rows of {:?} and of {:?} cannot be added", la.shape(), lb.shape());
        }
        Ok((a.binary_impl::<op::Add>(b, la, lb)?, la.shape().clone()))
    }

    fn bwd(&self, _a: &Tensor, _b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

/// `cap * tanh(x / cap)`: keeps values inside `(-cap, cap)`.
pub fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    if has_kernels(x.device()) { tape::apply1(x, Softcap { cap }) } else { composed::softcap(x, cap) }
}

struct Softcap {
    cap: f32,
}

impl Softcap {
    fn forward<S: BackendStorage>(&self, x: &S, layout: &Layout) -> Result<(S, Shape)> {
        let (shape, cap) = (layout.shape().clone(), f64::from(self.cap));
        let whole = Layout::contiguous(&shape);
        let y = x.affine(layout, cap.recip(), 0.0)?.unary_impl::<op::Tanh>(&whole)?.affine(&whole, cap, 0.0)?;
        Ok((y, shape))
    }
}

impl CustomOp1 for Softcap {
    fn name(&self) -> &'static str {
        "softcap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(x, layout)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward(x, layout)
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let share = y.detach().affine(f64::from(self.cap).recip(), 0.0)?;
        (share.sqr()?.affine(-1.0, 1.0)? * grad).map(Some)
    }
}

/// `activation(gate) * up`, element by element.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if has_kernels(gate.device()) {
        tape::apply2(&gate.contiguous()?, &up.contiguous()?, Gated { activation })
    } else {
        composed::gated(gate, up, activation)
    }
}

struct Gated {
    activation: Activation,
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = kernels::gated(slice(gate, lg)?, slice(up, lu)?, self.activation);
        Ok((CpuStorage::F32(out), lg.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, gate: &CudaStorage, lg: &Layout, up: &CudaStorage, lu: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::gated((gate, lg), (up, lu), self.activation)
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if gate.device().is_cuda() {
            let (d_gate, d_up) = cuda::gated_backward(gate, up, grad, self.activation)?;
            return Ok((Some(d_gate), Some(d_up)));
        }
        let backward = |[gate, up, grad]: [&[f32]; 3]| kernels::gated_backward(gate, up, grad, self.activation);
        let (d_gate, d_up) = on_cpu([gate, up, grad], backward)?;
        Ok((Some(tensor(d_gate, gate)?), Some(tensor(d_up, up)?)))
    }
}

/// Rotary position embedding of `x` `[n, heads * head_dim]`, pairs `(i, i + head_dim / 2)`, by the angles of `angles`.
pub fn rope(x: &Tensor, angles: &Angles) -> Result<Tensor> {
    if has_kernels(x.device()) {
        let rope = Rope { half: angles.cos.dim(1)?, direction: 1.0 };
        tape::apply3([&x.contiguous()?, &angles.cos, &angles.sin], rope)
    } else {
        composed::rope(x, angles)
    }
}

/// The cosine and sine of each row's rotation angles, both `[n, head_dim / 2]`.
#[derive(Clone, Debug)]
pub struct Angles {
    pub cos: Tensor,
    pub sin: Tensor,
}

struct Rope {
    half: usize,
    direction: f32,
}

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        cos: &CpuStorage,
        lc: &Layout,
        sin: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = kernels::rope(slice(x, lx)?, slice(cos, lc)?, slice(sin, ls)?, self.half, self.direction);
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        cos: &CudaStorage,
        lc: &Layout,
        sin: &CudaStorage,
        ls: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::rope((x, lx), (cos, lc), (sin, ls), self.direction)
    }

    fn bwd(
        &self,
        _x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let back = Rope { half: self.half, direction: -self.direction };
        Ok((Some(grad.contiguous()?.apply_op3_no_bwd(cos, sin, &back)?), None, None))
    }
}

/// Scaled dot-product attention of `q` `[n, heads * head_dim]`, query `i` over the rows `paths.path(i)` of `k` and `v`
/// `[rows, kv_heads * head_dim]`, as far as they are inside the window. What is multiplied may be rounded to `products` (f32
/// or bf16) where a device has units for that.
///
/// # Errors
/// If there is not one path for each query. A path that names a row beyond `k` is a defect of the caller and panics.
pub fn attention([q, k, v]: [&Tensor; 3], paths: &Arc<Paths>, attention: Attention, products: DType) -> Result<Tensor> {
    if paths.len() != q.dim(0)? {
        bail!("{} queries but {} paths", q.dim(0)?, paths.len());
    }
    if PathAttention::is_possible(q.device(), attention) {
        let op = PathAttention::new(paths, attention, products);
        tape::apply3([&q.contiguous()?, &k.contiguous()?, &v.contiguous()?], op)
    } else {
        composed::attention([q, k, v], paths, attention)
    }
}

/// [`attention`] over keys and values outside tensors, for a CPU; no gradient comes through.
pub fn attention_over(q: &Tensor, kv: [KvRows; 2], paths: &Paths, attention: Attention) -> Result<Tensor> {
    if paths.len() != q.dim(0)? {
        bail!("{} queries but {} paths", q.dim(0)?, paths.len());
    }
    let out = on_cpu([q], |[q]| kernels::attention(q, kv, paths, attention))?;
    Tensor::from_vec(out, q.shape(), q.device())
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

struct PathAttention {
    paths: Arc<Paths>,
    attention: Attention,
    #[cfg(feature = "cuda")]
    products: DType,
    /// What the backward pass takes of the forward pass.
    #[cfg(feature = "cuda")]
    attended: OnceLock<cuda::Attended>,
}

impl PathAttention {
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "a CPU multiplies in f32"))]
    fn new(paths: &Arc<Paths>, attention: Attention, products: DType) -> Self {
        Self {
            paths: paths.clone(),
            attention,
            #[cfg(feature = "cuda")]
            products,
            #[cfg(feature = "cuda")]
            attended: OnceLock::new(),
        }
    }

    /// Whether there are kernels for it.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "on a CPU there are for all"))]
    fn is_possible(device: &Device, attention: Attention) -> bool {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return cuda::can_attend(attention);
        }
        has_kernels(device)
    }
}

impl CustomOp3 for PathAttention {
    fn name(&self) -> &'static str {
        "path-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let stride = self.attention.heads.kv_heads * self.attention.heads.head_dim;
        let rows = |values| KvRows { values, stride, offset: 0 };
        let kv = [rows(slice(k, lk)?), rows(slice(v, lv)?)];
        let out = kernels::attention(slice(q, lq)?, kv, &self.paths, self.attention);
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        lq: &Layout,
        k: &CudaStorage,
        lk: &Layout,
        v: &CudaStorage,
        lv: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let attention = (self.attention, self.products);
        cuda::attention([(q, lq), (k, lk), (v, lv)], &self.paths, attention, &self.attended)
    }

    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "a CPU computes the result again"))]
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if q.device().is_cuda() {
            let (paths, attention) = (&self.paths, self.attention);
            let [d_q, d_k, d_v] = cuda::attention_backward([q, k, v], [y, grad], paths, attention, &self.attended)?;
            return Ok((Some(d_q), Some(d_k), Some(d_v)));
        }
        let (d_q, d_k, d_v) = on_cpu([q, k, v, grad], |[q, k, v, grad]| {
            kernels::attention_backward([q, k, v], grad, &self.paths, self.attention)
        })?;
        Ok((Some(tensor(d_q, q)?), Some(tensor(d_k, k)?), Some(tensor(d_v, v)?)))
    }
}

/// A scalar whose gradient with respect to `y` is `gradient`, whatever its own value (which is 0): the seed of a
/// backward pass that continues one that was computed elsewhere.
pub fn seed_gradient(y: &Tensor, gradient: Tensor) -> Result<Tensor> {
    y.apply_op1(SeedGradient { gradient })
}

struct SeedGradient {
    gradient: Tensor,
}

impl CustomOp1 for SeedGradient {
    fn name(&self) -> &'static str {
        "seed-gradient"
    }

    fn cpu_fwd(&self, _y: &CpuStorage, _l: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn cuda_fwd(&self, y: &CudaStorage, _l: &Layout) -> Result<(CudaStorage, Shape)> {
        zero_scalar(y)
    }

    fn metal_fwd(&self, y: &MetalStorage, _l: &Layout) -> Result<(MetalStorage, Shape)> {
        zero_scalar(y)
    }

    fn bwd(&self, _y: &Tensor, _res: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient.clone()))
    }
}

fn zero_scalar<S: BackendStorage>(like: &S) -> Result<(S, Shape)>
where
    S::Device: BackendDevice<Storage = S>,
{
    let shape = Shape::from(());
    Ok((S::Device::zeros_impl(like.device(), &shape, DType::F32)?, shape))
}
