//! What is computed of each row for itself: norms, biases, sums, caps, gates and rotations.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, backend::BackendStorage,
    bail, op,
};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Activation, composed, has_kernels, kernels, on_cpu, slice, tape, tensor};

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
