//! What is computed of each row for itself.

use candle_core::{CudaStorage, Layout, Result, Shape, Tensor, cuda_backend::cudarc::driver::PushKernelArg};

use super::{BLOCK, alloc, blocks, check_len, int, kernel, launch, on_cuda, parts, result, row_threads, tensor, view};
use crate::engine::model::ops::Activation;

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
