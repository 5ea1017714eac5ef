//! What is particular to CUDA devices: opening one, and the kernels that `build.rs` has compiled.

pub mod answering;
pub mod check;
mod launch;
pub mod memory;
mod pass;
mod products;
mod recorder;
mod room;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{
    CudaDevice, Device, Result,
    cuda_backend::{
        WrapErr,
        cudarc::{
            driver::{CudaFunction, CudaModule},
            nvrtc::Ptx,
        },
    },
};

/// Kernels that `build.rs` has compiled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Module {
    Answering,
    FewRows,
    Training,
}

impl Module {
    fn code(self) -> &'static [u8] {
        match self {
            Self::Answering => include_bytes!(concat!(env!("OUT_DIR"), "/answering.fatbin")),
            Self::FewRows => include_bytes!(concat!(env!("OUT_DIR"), "/few_rows.fatbin")),
            Self::Training => include_bytes!(concat!(env!("OUT_DIR"), "/training.fatbin")),
        }
    }

    /// A kernel by its name. The module is loaded once for each device.
    ///
    /// # Errors
    /// If the module has none of this name, or the driver has no code in it for this device.
    pub fn function(self, device: &CudaDevice, name: &str) -> Result<CudaFunction> {
        static LOADED: Mutex<BTreeMap<(usize, Module), Arc<CudaModule>>> = Mutex::new(BTreeMap::new());
        let stream = device.cuda_stream();
        let context = stream.context();
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match loaded.entry((context.ordinal(), self)) {
            Entry::Occupied(module) => module.into_mut(),
            Entry::Vacant(place) => place.insert(context.load_module(Ptx::from_binary(self.code().to_vec())).w()?),
        };
        module.load_function(name).w()
    }
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
