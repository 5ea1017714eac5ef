//! What is particular to CUDA devices: opening one, and the kernels that `build.rs` has compiled.

pub mod answering;
pub mod check;
mod launch;
mod pass;
mod room;

use candle_core::{CudaDevice, Device, Result};

pub mod memory;

/// The kernels as PTX, a constant for each `.cu` file of this folder.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// Opens the CUDA device of this number.
///
/// All threads of this process share one stream: the engine's thread, the pool that it computes in and the trainer hand
/// tensors to each other, and on candle's default, a stream for each thread, nothing would order their work.
///
/// # Errors
/// If there is no such device, or no driver for it.
pub fn open(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    stop_tracking(device.as_cuda_device()?);
    memory::keep_freed(device.as_cuda_device()?)?;
    Ok(device)
}

#[expect(unsafe_code, reason = "there is one stream, so nothing has to be ordered by events between streams")]
fn stop_tracking(device: &CudaDevice) {
    // SAFETY: every allocation and launch of this process goes to the device's one stream, in order.
    unsafe { device.disable_event_tracking() }
}
