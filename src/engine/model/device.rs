//! The memory of the device that tensors are on, and what to do when there is none left.

use std::fmt::Display;

use candle_core::{Device, Result};
use tracing::warn;

/// The memory of a device of its own, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What tensors can still be put into.
    pub free: u64,
    pub total: u64,
}

/// What a device has; `None` for a CPU, whose memory is the machine's, and where the device does not tell (Metal).
///
/// # Errors
/// If the driver does not answer.
#[cfg(feature = "cuda")]
pub fn memory(device: &Device) -> Result<Option<DeviceMemory>> {
    match device {
        Device::Cuda(device) => super::cuda::memory::memory(device).map(Some),
        Device::Cpu | Device::Metal(_) => Ok(None),
    }
}

#[cfg(not(feature = "cuda"))]
pub fn memory(_device: &Device) -> Result<Option<DeviceMemory>> {
    Ok(None)
}

/// Gives the driver back what was kept of freed memory for the tensors to come: for what does not come out of the same
/// pool, and for other processes. Waits for what was begun.
#[cfg(feature = "cuda")]
pub fn give_back(device: &Device) {
    if let Device::Cuda(device) = device
        && let Err(error) = super::cuda::memory::give_back(device)
    {
        warn!(%error, "the device's memory that is not in use could not be given back");
    }
}

#[cfg(not(feature = "cuda"))]
pub fn give_back(_device: &Device) {}

/// The bytes that tensors take on a device with memory of its own; `None` as in [`memory`]. The most that they take is
/// counted from here on, for [`most_used`].
///
/// # Errors
/// If the driver does not answer.
#[cfg(feature = "cuda")]
pub fn used(device: &Device) -> Result<Option<u64>> {
    match device {
        Device::Cuda(device) => super::cuda::memory::used(device).map(Some),
        Device::Cpu | Device::Metal(_) => Ok(None),
    }
}

#[cfg(not(feature = "cuda"))]
pub fn used(_device: &Device) -> Result<Option<u64>> {
    Ok(None)
}

/// The most bytes that tensors took on a device since [`used`] was called.
///
/// # Errors
/// If the driver does not answer.
#[cfg(feature = "cuda")]
pub fn most_used(device: &Device) -> Result<Option<u64>> {
    match device {
        Device::Cuda(device) => super::cuda::memory::most_used(device).map(Some),
        Device::Cpu | Device::Metal(_) => Ok(None),
    }
}

#[cfg(not(feature = "cuda"))]
pub fn most_used(_device: &Device) -> Result<Option<u64>> {
    Ok(None)
}

/// Whether an operation failed because the device had no memory left for it. Nothing is lost then but its result.
///
/// By the text: where an error comes out of candle it may be one of several types, boxed as something that can only be
/// shown.
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    const NAMES: [&str; 3] =
        ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CURAND_STATUS_ALLOCATION_FAILED"];
    let text = error.to_string();
    NAMES.iter().any(|name| text.contains(name))
}

/// Whether a device is lost to this process: after such an error the driver answers every call with the same one until the
/// process has ended. Those that the documentation of the driver's `CUresult` says this of.
pub fn is_lost(error: &candle_core::Error) -> bool {
    const NAMES: [&str; 16] = [
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_CONTAINED",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_EXTERNAL_DEVICE",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_MPS_CLIENT_TERMINATED",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    ];
    let text = error.to_string();
    NAMES.iter().any(|name| text.contains(name))
}

/// Whether a device is lost to this process, whatever the failed call said: a library may say only that it could not do its work. The
/// driver is asked, and nothing is waited for.
pub fn is_gone(device: &Device) -> bool {
    memory(device).is_err_and(|error| is_lost(&error))
}

/// An error without the addresses that candle puts behind it where backtraces are asked for.
pub fn in_words(error: &impl Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Computes; if the device's memory was short, once more after [`give_back`].
pub fn with_memory<T>(device: &Device, mut compute: impl FnMut() -> Result<T>) -> Result<T> {
    match compute() {
        Err(error) if is_out_of_memory(&error) => {
            let error = in_words(&error);
            warn!(error, "the device's memory is short; what is not in use is given back, and it is tried once more");
            give_back(device);
            compute()
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short() -> candle_core::Error {
        candle_core::Error::wrap("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")").context("a layer")
    }

    #[test]
    fn memory_that_is_short_is_told_from_other_failures_however_it_is_wrapped() {
        assert!(is_out_of_memory(&short()) && is_out_of_memory(&short().bt()));
        let with_backtrace = candle_core::Error::msg("out of memory\n   0: <unknown>\n   1: <unknown>");
        assert_eq!(in_words(&with_backtrace), "out of memory");
        let other = candle_core::Error::msg("DriverError(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, \"too many resources\")");
        assert!(!is_out_of_memory(&other) && !is_lost(&other) && !is_lost(&short()));
    }

    #[test]
    fn a_device_that_is_lost_is_told_from_one_that_goes_on() {
        let error = |text: &str| candle_core::Error::wrap(text.to_owned()).context("a layer").bt();
        assert!(is_lost(&error(
            "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")"
        )));
        assert!(is_lost(&error("DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, \"uncorrectable ECC error encountered\")")));
        assert!(!is_lost(&error("DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")")));
        assert!(!is_lost(&error("shapes differ")));
    }

    #[test]
    fn what_lacked_memory_is_tried_once_more_and_nothing_else_is() {
        let tries = |failures: Vec<candle_core::Error>| {
            let (mut tried, mut failures) = (0, failures.into_iter());
            let result = with_memory(&Device::Cpu, || {
                tried += 1;
                failures.next().map_or(Ok(()), Err)
            });
            (tried, result.is_ok())
        };
        assert_eq!(tries(vec![]), (1, true));
        assert_eq!(tries(vec![short()]), (2, true));
        assert_eq!(tries(vec![short(), short()]), (2, false));
        assert_eq!(tries(vec![candle_core::Error::msg("shapes differ")]), (1, false));
    }
}
