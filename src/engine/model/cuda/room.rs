//! What a step of the answering pass is made of: its form, the words that are uploaded for it, and the memory it goes through.

use std::ops::Range;

use candle_core::{
    CudaDevice, Result,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaSlice, DeviceRepr},
    },
};

use super::launch::pointer;
use crate::engine::model::config::DecoderConfig;

/// Blocks of attention that keep the multiprocessors of a large card busy: one on each of 132.
const ATTEND_BLOCKS: usize = 132;
/// Keys that are worth a block of their own, and how many blocks a path is divided between at most.
const SPLIT_KEYS: usize = 128;
const MAX_SPLITS: usize = 32;

/// How much there is of everything in a step. What is launched for a step follows from it alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    pub rows: usize,
    /// Rows whose logits are computed.
    pub outputs: usize,
    pub draws: usize,
    /// Tiles of neighbours in a chain, and the queries that attend one by one.
    pub tiles: usize,
    pub singles: usize,
    /// Parts that the path of a single query is divided into.
    pub splits: usize,
    /// The number of each adapter, and its rows.
    pub adapters: Vec<(u64, Range<usize>)>,
}

/// The parts that paths of at most `longest` rows are divided into, where `singles` queries have `blocks` blocks each: a power
/// of two, so that a sequence that grows comes by few forms.
pub fn splits(singles: usize, blocks: usize, longest: usize) -> usize {
    let idle = (ATTEND_BLOCKS / (singles * blocks).max(1)).max(1);
    (1 << idle.ilog2()).min(longest.div_ceil(SPLIT_KEYS).next_power_of_two()).min(MAX_SPLITS)
}

/// What is uploaded for a step, 32-bit words one after another. What is read in pairs comes first, paths last.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub uniforms: u64,
    pub spans: u64,
    pub tiles: u64,
    pub temperatures: u64,
    pub ends: u64,
    pub tokens: u64,
    pub positions: u64,
    pub nodes: u64,
    pub outputs: u64,
    pub singles: u64,
    pub path: u64,
}

impl Places {
    /// Of a form whose words begin at an address.
    pub fn of(form: &Form, start: u64) -> Self {
        let mut next = start;
        let mut take = |words: usize| {
            let place = next;
            next += 4 * words as u64;
            place
        };
        Self {
            uniforms: take(2 * form.draws),
            spans: take(2 * form.rows),
            tiles: take(2 * form.tiles),
            temperatures: take(form.outputs),
            ends: take(form.outputs),
            tokens: take(form.rows),
            positions: take(form.rows),
            nodes: take(form.rows),
            outputs: take(form.outputs),
            singles: take(form.singles),
            path: take(0),
        }
    }
}

/// Rows that go into a product.
pub struct Input {
    /// In the type of the matrices.
    pub rows: CudaSlice<u8>,
    /// The same in f32, where adapters read them.
    pub exact: Option<CudaSlice<f32>>,
}

impl Input {
    /// The addresses of both; 0 for what is not there.
    pub fn places(&self, device: &CudaDevice) -> (u64, u64) {
        let exact = self.exact.as_ref().map_or(0, |exact| pointer::of_slice(exact, device));
        (pointer::of_slice(&self.rows, device), exact)
    }
}

/// How large a room is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub rows: usize,
    pub outputs: usize,
    pub draws: usize,
    /// Queries times the parts of their paths, where those are divided.
    pub parts: usize,
    pub words: usize,
    /// Of the adapters' ranks the largest; 0 without adapters.
    pub rank: usize,
}

/// The memory that steps of a size go through.
pub struct Room {
    pub words: CudaSlice<u32>,
    /// The residual, `[rows, hidden]`.
    pub x: CudaSlice<f32>,
    pub normed: Input,
    /// `[rows, queries + keys + values]`.
    pub qkv: CudaSlice<f32>,
    pub partial: CudaSlice<f32>,
    pub attended: Input,
    /// `[rows, 2 * inner]`.
    pub gate_up: CudaSlice<f32>,
    pub gated: Input,
    /// What a part of a layer makes, where it cannot be added at once.
    pub made: CudaSlice<f32>,
    /// What an adapter's first half makes, `[rows, rank]`.
    pub low: CudaSlice<f32>,
    /// Of the final norm, for the head.
    pub last: Input,
    /// `[outputs, vocab]`.
    pub logits: CudaSlice<f32>,
    /// Tokens, then the bits of their log-probabilities.
    pub drawn: CudaSlice<u32>,
}

impl Room {
    /// Room for steps of a model, whose matrices have numbers of `bytes` bytes.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn new(device: &CudaDevice, config: &DecoderConfig, size: Size, bytes: usize) -> Result<Self> {
        let rows = size.rows;
        let (query, kv, inner) = (config.query_width(), config.kv_width(), config.intermediate_size);
        let floats = |count: usize| uninitialised::<f32>(device, count);
        let input = |rows: usize, width: usize, exact: bool| -> Result<Input> {
            let exact = exact.then(|| floats(rows * width)).transpose()?;
            Ok(Input { rows: uninitialised(device, rows * width * bytes)?, exact })
        };
        let exact = size.rank > 0;
        Ok(Self {
            words: uninitialised(device, size.words)?,
            x: floats(rows * config.hidden_size)?,
            normed: input(rows, config.hidden_size, exact)?,
            qkv: floats(rows * (query + 2 * kv))?,
            partial: floats(size.parts * config.heads * (config.head_dim + 2))?,
            attended: input(rows, query, exact)?,
            gate_up: floats(rows * 2 * inner)?,
            gated: input(rows, inner, exact)?,
            made: floats(rows * config.hidden_size)?,
            low: floats(rows * size.rank)?,
            last: input(size.outputs, config.hidden_size, false)?,
            logits: floats(size.outputs * config.vocab_size)?,
            drawn: uninitialised(device, 2 * size.draws)?,
        })
    }
}

/// The most parts of paths that `rows` queries have together.
pub fn most_parts(rows: usize) -> usize {
    ATTEND_BLOCKS + rows
}

#[expect(unsafe_code, reason = "what is allocated here is written before it is read")]
fn uninitialised<T: DeviceRepr>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: every buffer of a step is the result of an upload, a product or a kernel that comes before what reads it. An
    // allocation of nothing is refused, so there is always one element.
    unsafe { device.cuda_stream().alloc(count.max(1)) }.w()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_divided_until_the_card_is_busy_and_no_part_is_too_short() {
        assert_eq!(splits(1, 2, 100), 1);
        assert_eq!(splits(1, 2, 1000), 8);
        assert_eq!(splits(1, 2, 1100), 16);
        assert_eq!(splits(1, 2, 100_000), 32);
        assert_eq!(splits(16, 2, 4096), 4);
        assert_eq!(splits(64, 2, 4096), 1);
        assert_eq!(splits(1000, 2, 4096), 1);
        assert_eq!(splits(0, 2, 0), 1);
        for rows in [1, 7, 64, 256] {
            assert!(rows * splits(rows, 1, 1 << 20) <= most_parts(rows), "{rows}");
        }
    }

    #[test]
    fn the_words_of_a_step_lie_one_after_another_and_pairs_are_aligned() {
        let form = Form { rows: 3, outputs: 1, draws: 2, tiles: 1, singles: 3, splits: 1, adapters: vec![] };
        let places = Places::of(&form, 64);
        assert_eq!((places.uniforms, places.spans, places.tiles), (64, 64 + 16, 64 + 16 + 24));
        assert_eq!(places.path, 64 + 4 * (4 + 6 + 2 + 1 + 1 + 3 + 3 + 3 + 1 + 3));
    }
}
