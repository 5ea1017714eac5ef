//! Attention along paths.

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Attention, KvRows, Paths, composed, has_kernels, kernels, on_cpu, slice, tape, tensor};

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
