//! The memory of a CUDA device, and the pool that its tensors come from.
//!
//! Every tensor is allocated in the order of the stream (`cuMemAllocAsync`), out of the device's default pool. A pool takes
//! memory from the driver as it needs it, and by itself gives back what is free at each synchronisation, of which there is
//! one for every value that is read. Here it keeps everything, and gives it back when it is told to.

use candle_core::{
    CudaDevice, Result,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{
            result::{device::get_default_mem_pool, mem_pool},
            sys::{CUmemPool_attribute as Attribute, CUmemoryPool},
        },
    },
};

use crate::engine::model::device::DeviceMemory;

/// What the device has. What the pool keeps of what was freed counts as free.
///
/// # Errors
/// If the driver does not tell.
pub fn memory(device: &CudaDevice) -> Result<DeviceMemory> {
    let stream = device.cuda_stream();
    let (free, total) = stream.context().mem_get_info().w()?;
    let kept = match pool(device)? {
        Some(pool) => {
            let reserved = read(pool, Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
            reserved.saturating_sub(read(pool, Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?)
        }
        None => 0,
    };
    Ok(DeviceMemory { free: free as u64 + kept, total: total as u64 })
}

/// Has the pool keep what is freed, whatever is waited for.
///
/// # Errors
/// If the driver refuses.
pub fn keep_freed(device: &CudaDevice) -> Result<()> {
    pool(device)?.map_or(Ok(()), |pool| write(pool, Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX))
}

/// Gives the driver back what the pool keeps and no tensor is in, after everything that was begun is done. It waits for the
/// one stream that everything is done on: to wait for the whole context would break off a recording on another.
///
/// # Errors
/// If a computation that was begun fails, or the driver refuses.
pub fn give_back(device: &CudaDevice) -> Result<()> {
    device.cuda_stream().synchronize().w()?;
    pool(device)?.map_or(Ok(()), trim)
}

/// The bytes that tensors take now. The most that they take is counted anew from here; see [`most_used`].
///
/// # Errors
/// If the driver does not tell.
pub fn used(device: &CudaDevice) -> Result<u64> {
    let Some(pool) = pool(device)? else { return Ok(0) };
    write(pool, Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)?;
    read(pool, Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
}

/// The most bytes that tensors took since [`used`] was called.
///
/// # Errors
/// If the driver does not tell.
pub fn most_used(device: &CudaDevice) -> Result<u64> {
    pool(device)?.map_or(Ok(0), |pool| read(pool, Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH))
}

/// The device's default pool; `None` where it has none, and cudarc allocates without one.
#[expect(unsafe_code, reason = "cudarc has no safe way to the pool")]
fn pool(device: &CudaDevice) -> Result<Option<CUmemoryPool>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread().w()?;
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the number of a device whose context is open. The default pool lives as long as the driver.
    unsafe { get_default_mem_pool(context.cu_device()) }.map(Some).w()
}

/// One of the attributes that are counts of bytes.
#[expect(unsafe_code, reason = "cudarc has no safe way to the pool")]
fn read(pool: CUmemoryPool, attribute: Attribute) -> Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: `pool` is a default pool, and the attributes that are asked for here are 64-bit numbers.
    unsafe { mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }.w()?;
    Ok(bytes)
}

#[expect(unsafe_code, reason = "cudarc has no safe way to the pool")]
fn write(pool: CUmemoryPool, attribute: Attribute, mut bytes: u64) -> Result<()> {
    // SAFETY: as in `read`.
    unsafe { mem_pool::set_attribute(pool, attribute, (&raw mut bytes).cast()) }.w()
}

#[expect(unsafe_code, reason = "cudarc has no safe way to the pool")]
fn trim(pool: CUmemoryPool) -> Result<()> {
    // SAFETY: `pool` is a default pool. What a tensor is in stays.
    unsafe { mem_pool::trim_to(pool, 0) }.w()
}
