//! Memory for packed weights.

use std::{
    ops::{Deref, DerefMut, Range},
    sync::Arc,
};

use memmap2::{MmapMut, MmapOptions};

/// From this many bytes on memory is asked for in large pages, of this size: a single stream reads every weight once for
/// each token, and waits less for the addresses.
const LARGE_BYTES: usize = 1 << 21;

/// Words that are 0 at first; the matrices of a model share one piece of memory.
pub enum Memory {
    Small(Vec<u32>),
    /// Pages of its own, as many bytes as the words need.
    Large(MmapMut),
}

impl Memory {
    /// Memory for `count` words.
    pub fn zeros(count: usize) -> Self {
        let bytes = count * size_of::<u32>();
        let map = if bytes < LARGE_BYTES { None } else { MmapOptions::new().len(bytes).map_anon().ok() };
        let Some(map) = map else { return Self::Small(vec![0; count]) };
        // A system without large pages gives small ones, which hold as much.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self::Large(map)
    }

    /// The same memory as f32 numbers.
    pub fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(self)
    }

    pub fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self)
    }
}

impl Deref for Memory {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Self::Small(words) => words,
            Self::Large(map) => bytemuck::cast_slice(map),
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u32] {
        match self {
            Self::Small(words) => words,
            Self::Large(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// A range of words.
#[derive(Clone)]
pub struct Words {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl Words {
    /// The words of a range of some memory.
    pub fn new(memory: &Arc<Memory>, range: Range<usize>) -> Self {
        Self { memory: memory.clone(), range }
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.memory[self.range.clone()]
    }
}

/// Words that memory moves at a time.
pub const LINE: usize = 16;

/// Asks for the memory that lies `distance` words behind the beginning of `words` (or of numbers as wide), which may be
/// beyond their end. Only x86 has a stable instruction for it.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there is no instruction for it"))]
pub fn prefetch<Word>(words: &[Word], distance: usize) {
    #[cfg(target_arch = "x86_64")]
    #[expect(
        unsafe_code,
        reason = "a hint that reads nothing, never faults, whatever the address, and has no safe form"
    )]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(distance).cast());
    }
}
