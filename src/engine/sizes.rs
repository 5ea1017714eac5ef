//! Sizes that suit a device: the rows of a step, and those of the cache.

use candle_core::Device;

use crate::engine::model::device::DeviceMemory;

/// The most rows that steps have. A request that arrives waits for the step to end that is being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRows {
    /// For requests: long prompts are computed in chunks of this many, so that others move on between.
    pub requests: usize,
    /// For rollouts, while requests are there, and while there are none.
    pub rollouts_under_load: usize,
    pub rollouts_idle: usize,
}

impl StepRows {
    /// A GPU has read all weights before it has computed a hundred rows: fewer take as long.
    pub fn on(device: &Device) -> Self {
        match device {
            Device::Cpu => Self { requests: 256, rollouts_under_load: 64, rollouts_idle: 512 },
            Device::Cuda(_) | Device::Metal(_) => {
                Self { requests: 2048, rollouts_under_load: 512, rollouts_idle: 4096 }
            }
        }
    }
}

/// The most rows of a step on a device whose memory was short. A step that found none is planned anew with half of the rows; those
/// that follow have no more, until so many have succeeded that it is worth a try.
#[derive(Debug, Default)]
pub struct RowLimit {
    /// `None` where memory was never short, or is not any more.
    rows: Option<usize>,
    steps: u32,
}

impl RowLimit {
    /// Whoever finds no memory for so few rows finds none.
    const LEAST: usize = 16;

    /// The steps after which twice as many rows are tried. A try that fails waits for everything that the device does.
    const STEPS: u32 = 256;

    /// As many rows as are wanted, if they may be.
    pub fn within(&self, rows: usize) -> usize {
        self.rows.map_or(rows, |limit| rows.min(limit))
    }

    /// A step of so many rows found no memory; returns whether a smaller one may.
    pub fn lower(&mut self, rows: usize) -> bool {
        let may_fit = rows > Self::LEAST;
        if may_fit {
            *self = Self { rows: Some((rows / 2).max(Self::LEAST)), steps: 0 };
        }
        may_fit
    }

    /// A step succeeded; `most` is what steps have where memory is not short.
    pub fn raise(&mut self, most: usize) {
        let Some(rows) = self.rows else { return };
        self.steps += 1;
        if self.steps == Self::STEPS {
            *self = Self { rows: Some(rows * 2).filter(|rows| *rows < most), steps: 0 };
        }
    }
}

/// The cache where neither the settings nor the device say how large: 0.94 GB with the default model.
pub const DEFAULT_CACHE_ROWS: usize = 20_480;

/// A cache on a device has a multiple of this many rows, and at least so many.
const BLOCK_ROWS: usize = 256;

/// More rows are not worth their bookkeeping on the CPU, some 200 bytes each (`prefix_tree.rs`): these take 0.2 GB.
const MAX_CACHE_ROWS: usize = 1 << 20;

/// How many rows the cache has on a device whose weights are loaded: half of what is free goes to the cache, the other
/// half is for training, and for what a step takes. `None` if not even one block fits.
pub fn cache_rows(memory: DeviceMemory, bytes_per_row: u64) -> Option<usize> {
    let fitting = usize::try_from(memory.free / 2 / bytes_per_row.max(1)).unwrap_or(usize::MAX);
    let rows = fitting.min(MAX_CACHE_ROWS) / BLOCK_ROWS * BLOCK_ROWS;
    (rows > 0).then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a card of 80 GiB.
    fn rows(free: u64, bytes_per_row: u64) -> Option<usize> {
        cache_rows(DeviceMemory { free, total: 80 << 30 }, bytes_per_row)
    }

    #[test]
    fn a_cache_takes_half_of_what_is_free_in_whole_blocks() {
        // 32 layers, keys and values of 1024 numbers in bf16.
        assert_eq!(rows(64 << 30, 131_072), Some(262_144));
        assert_eq!(rows((64 << 30) - 1, 131_072), Some(261_888));
        assert_eq!(rows(2 * 256 * 131_072, 131_072), Some(256));
        assert_eq!(rows(2 * 256 * 131_072 - 1, 131_072), None);
        assert_eq!(rows(0, 131_072), None);
    }

    #[test]
    fn steps_are_halved_while_memory_is_short_and_grow_again() {
        let mut limit = RowLimit::default();
        assert_eq!(limit.within(4096), 4096);
        assert!(limit.lower(100) && limit.within(4096) == 50 && limit.within(20) == 20);
        assert!(limit.lower(20) && limit.within(4096) == 16);
        assert!(!limit.lower(16) && limit.within(4096) == 16);
        let mut after = |steps: u32| {
            (0..steps).for_each(|_| limit.raise(100));
            limit.within(4096)
        };
        assert_eq!([after(255), after(1), after(256), after(256), after(256)], [16, 32, 64, 4096, 4096]);
    }

    #[test]
    fn a_cache_of_small_rows_is_bounded_by_what_they_take_elsewhere() {
        // The default model: 30 layers, keys and values of 192 numbers.
        assert_eq!(rows(79 << 30, 23_040), Some(1 << 20));
        assert_eq!(rows(u64::MAX, 0), Some(1 << 20));
    }
}
