//! Recording what is queued as a CUDA graph, which is queued at once afterwards.

use std::sync::Arc;

use candle_core::{
    CudaDevice, Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::{
            cublas::{CudaBlas, sys as cublas},
            driver::{CudaGraph, CudaSlice, result, sys},
        },
    },
};

use super::launch::{Queue, pointer};

/// What cuBLAS works in, as NVIDIA advises for Hopper cards.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Records what is queued instead of running it. Other threads of the process go on with the device's own stream meanwhile.
pub struct Recorder {
    queue: Queue,
    _workspace: CudaSlice<u8>,
}

impl Recorder {
    /// A recorder for a device.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream().context().new_stream().w()?;
        let blas = Arc::new(CudaBlas::new(stream.clone()).w()?);
        let workspace = device.alloc_zeros::<u8>(WORKSPACE_BYTES)?;
        set_workspace(&blas, pointer::of_slice(&workspace, device))?;
        Ok(Self { queue: Queue { stream, blas }, _workspace: workspace })
    }

    /// Records what `work` puts into the queue that it is given.
    ///
    /// # Errors
    /// If `work` fails, or something in it cannot be recorded.
    pub fn record(&self, work: impl FnOnce(&Queue) -> Result<()>) -> Result<CudaGraph> {
        let stream = &self.queue.stream;
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let queued = work(&self.queue);
        // Whatever came of it, the recording must end.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        queued?;
        match graph.w()? {
            Some(graph) => Ok(graph),
            None => bail!("nothing was recorded"),
        }
    }

    /// Makes the device's context the thread's own: graphs may be destroyed then.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn bind_to_thread(&self) -> Result<()> {
        self.queue.stream.context().bind_to_thread().w()
    }
}

/// Queues what was recorded. What it names in memory has to be there still.
///
/// # Errors
/// If the driver refuses.
#[expect(unsafe_code, reason = "cudarc launches a graph only on the stream that has recorded it")]
pub fn replay(graph: &CudaGraph, queue: &Queue) -> Result<()> {
    queue.stream.context().bind_to_thread().w()?;
    // SAFETY: the graph is whole, and is used by this thread alone.
    unsafe { result::graph::launch(graph.cu_graph_exec(), queue.stream.cu_stream()) }.w()
}

#[expect(unsafe_code, reason = "cudarc has no safe way to set a workspace")]
fn set_workspace(blas: &CudaBlas, address: u64) -> Result<()> {
    // SAFETY: the workspace lives as long as the handle: both are in one `Recorder`.
    unsafe { cublas::cublasSetWorkspace_v2(*blas.handle(), address as *mut _, WORKSPACE_BYTES) }.result().w()
}
