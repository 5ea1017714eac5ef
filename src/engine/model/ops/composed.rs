//! The same operations composed of candle's differentiable ones: the path on devices without a fused kernel, and the
//! reference that the kernels are tested against.

use candle_core::{D, DType, Result, Tensor};

use super::{Activation, Angles, Attention, Paths};

/// See [`super::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let width = weight.dim(0)?;
    let parts = x.reshape((x.elem_count() / width, width))?;
    let mean = parts.sqr()?.mean_keepdim(D::Minus1)?;
    parts.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(&weight.detach())?.reshape(x.shape())
}

/// See [`super::add_bias`].
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.broadcast_add(&bias.detach())
}

/// See [`super::gated`].
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let activated = match activation {
        Activation::Silu => gate.silu()?,
        Activation::GeluTanh => gate.gelu()?,
    };
    activated * up
}

/// See [`super::softcap`].
pub fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    (x / f64::from(cap))?.tanh()? * f64::from(cap)
}

/// See [`super::rope`].
pub fn rope(x: &Tensor, angles: &Angles) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = angles.cos.dim(1)?;
    let x = x.reshape((rows, width / (2 * half), 2 * half))?;
    let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let (cos, sin) = (angles.cos.unsqueeze(1)?, angles.sin.unsqueeze(1)?);
    let low_turned = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
    let high_turned = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
    Tensor::cat(&[low_turned, high_turned], 2)?.reshape((rows, width))
}

/// See [`super::attention`]: one dense product over all rows, with those outside a query's path masked.
pub fn attention([q, k, v]: [&Tensor; 3], paths: &Paths, attention: Attention) -> Result<Tensor> {
    let heads = attention.heads;
    let (queries, rows, device) = (q.dim(0)?, k.dim(0)?, q.device());
    let shared = heads.heads / heads.kv_heads;
    let mut mask = vec![f32::NEG_INFINITY; queries * rows];
    for query in 0..queries {
        for &row in attention.visible(paths.path(query)) {
            mask[query * rows + row as usize] = 0.0;
        }
    }
    let mask = Tensor::from_vec(mask, (queries, rows), device)?.to_dtype(q.dtype())?;
    // [kv_heads, shared * queries, head_dim]
    let q = q.reshape((queries, heads.kv_heads, shared, heads.head_dim))?.permute((1, 2, 0, 3))?.contiguous()?;
    let q = q.reshape((heads.kv_heads, shared * queries, heads.head_dim))?;
    let k = k.reshape((rows, heads.kv_heads, heads.head_dim))?.transpose(0, 1)?.contiguous()?;
    let v = v.reshape((rows, heads.kv_heads, heads.head_dim))?.transpose(0, 1)?.contiguous()?;
    let scores = (q.matmul(&k.t()?)? * f64::from(attention.scale))?;
    let scores = attention.softcap.map_or_else(|| Ok(scores.clone()), |cap| softcap(&scores, cap))?;
    let scores = scores.reshape((heads.heads, queries, rows))?.broadcast_add(&mask)?;
    let weights = candle_nn::ops::softmax(&scores.to_dtype(DType::F32)?, D::Minus1)?.to_dtype(q.dtype())?;
    let out = weights.reshape((heads.kv_heads, shared * queries, rows))?.matmul(&v)?;
    let out = out.reshape((heads.kv_heads, shared, queries, heads.head_dim))?.permute((2, 0, 1, 3))?.contiguous()?;
    out.reshape((queries, heads.heads * heads.head_dim))
}
