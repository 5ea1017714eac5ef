//! Products of rows with frozen weights, and with what adapters add to them.

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Activation, kernels, on_cpu, rms_norm, slice, tape, tensor};
use crate::engine::model::{
    frozen::Frozen,
    packed::{self, Adapters, PackedMatrix, PackedPair, PairShape, Rows},
};

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
