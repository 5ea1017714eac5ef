//! Steps that are recorded as CUDA graphs and replayed.
//!
//! To queue a step takes the CPU some three hundred launches, which is longer than the device takes for one of few rows. A
//! graph is queued at once. It is made for a form (how many rows, how many of them are outputs, ...) over memory that stays
//! where it is; a step is filled up to one of a few forms with rows that nobody reads.

use std::collections::HashMap;

use candle_core::{Result, cuda_backend::cudarc::driver::CudaGraph};
use tracing::warn;

use super::{Adapted, Model, Step};
use crate::engine::model::{
    cuda::{
        launch::Queue,
        recorder::{Recorder, replay},
        room::{Form, Room, Size, most_parts},
    },
    device::is_out_of_memory,
};

/// The most rows, outputs and draws of a step that is replayed: with more the device is busy for longer than the launches
/// take.
const MAX_ROWS: usize = 256;
const MAX_DRAWS: usize = 1024;

/// The most rows that a step is filled up with.
pub const MAX_FILLING: usize = 31;

/// The most words that are uploaded for one: 256 paths of 8,192 rows. And the largest rank of an adapter.
const MAX_WORDS: usize = 256 * 8192;
const MAX_RANK: usize = 64;

/// Graphs that are kept, some megabytes each. Where there are more forms, all are made anew.
const MAX_GRAPHS: usize = 64;

/// The forms that came up, and the memory that their graphs go through.
pub struct Replays {
    room: Room,
    recorder: Recorder,
    graphs: HashMap<Form, Known>,
    /// Whether recording has failed, and is not tried again.
    is_off: bool,
}

/// A form that came up before.
enum Known {
    /// Once: it is recorded if it comes up again.
    Seen,
    Recorded(CudaGraph),
}

#[expect(unsafe_code, reason = "a graph may be used by one thread at a time")]
// SAFETY: graphs are reached through `&mut Replays` alone.
unsafe impl Send for Replays {}

impl Replays {
    pub(super) fn new(model: &Model, recorder: Recorder) -> Result<Self> {
        let size = Size {
            rows: MAX_ROWS,
            outputs: MAX_ROWS,
            draws: MAX_DRAWS,
            parts: most_parts(MAX_ROWS),
            words: MAX_WORDS,
            rank: MAX_RANK,
        };
        let room = Room::new(&model.device, model.decoder.config(), size, model.decoder.dtype().size_in_bytes())?;
        Ok(Self { room, recorder, graphs: HashMap::new(), is_off: false })
    }

    /// The step, filled up to a form that can be replayed; `None` if this one is better queued launch by launch.
    pub(super) fn fitted<'a>(&mut self, model: &Model, step: &Step<'a>) -> Option<Step<'a>> {
        let Form { rows, outputs, draws, tiles, .. } = step.form;
        // Beside what fills them up, rows may belong to one adapter or to none.
        let adapters = step.adapters.as_slice();
        let of_all = adapters.is_empty() || (adapters.len() == 1 && adapters[0].rows == (0..rows));
        let fits = rows <= MAX_ROWS && outputs <= MAX_ROWS && draws <= MAX_DRAWS && step.rank <= MAX_RANK;
        if self.is_off || tiles > 0 || outputs == 0 || !of_all || !fits {
            return None;
        }
        let fitted = step.filled_up(model.first_spare);
        if fitted.word_count() > MAX_WORDS {
            return None;
        }
        if self.graphs.len() >= MAX_GRAPHS && !self.graphs.contains_key(&fitted.form) {
            self.forget().ok()?;
        }
        match self.graphs.get(&fitted.form) {
            Some(_) => Some(fitted),
            None => {
                self.graphs.insert(fitted.form, Known::Seen);
                None
            }
        }
    }

    /// Makes room: forms that came up once go first.
    fn forget(&mut self) -> Result<()> {
        self.graphs.retain(|_, known| matches!(known, Known::Recorded(_)));
        if self.graphs.len() >= MAX_GRAPHS {
            self.recorder.bind_to_thread()?;
            self.graphs.clear();
        }
        Ok(())
    }

    /// Computes a step that is filled up, and returns where its outputs are.
    pub(super) fn run(&mut self, model: &Model, queue: &Queue, step: &Step) -> Result<&Room> {
        if let Some(Known::Seen) = self.graphs.get(&step.form) {
            match self.record(model, step) {
                Ok(graph) => {
                    self.graphs.insert(step.form.clone(), Known::Recorded(graph));
                }
                // What was kept of freed memory is given back then, and the step is tried once more.
                Err(error) if is_out_of_memory(&error) => return Err(error),
                Err(error) => {
                    warn!(%error, "a step could not be recorded; steps are queued launch by launch from now on");
                    self.is_off = true;
                }
            }
        }
        model.device.memcpy_htod(&step.words(), &mut self.room.words)?;
        match self.graphs.get(&step.form) {
            Some(Known::Recorded(graph)) => replay(graph, queue)?,
            _ => {
                let pass = model.pass(queue, step, &self.room);
                pass.layers()?;
                pass.outputs(0, step.form.outputs)?;
            }
        }
        Ok(&self.room)
    }

    fn record(&self, model: &Model, step: &Step) -> Result<CudaGraph> {
        self.recorder.record(|queue| {
            let pass = model.pass(queue, step, &self.room);
            pass.layers()?;
            pass.outputs(0, step.form.outputs)
        })
    }
}

impl<'a> Step<'a> {
    /// The same step with more rows, outputs and draws, up to the next number of each for which graphs are made.
    fn filled_up(&self, first_spare: u32) -> Self {
        let rows = up(self.form.rows);
        let outputs = up(self.form.outputs).min(rows);
        let draws = self.form.draws.next_power_of_two() * usize::from(self.form.draws > 0);
        // A row that nobody reads is one token at the start, which sees itself.
        let places = self.path.len() as u32..;
        let spares = first_spare..first_spare + (rows - self.form.rows) as u32;
        let extended = |part: &[u32], value: u32, length: usize| {
            let mut part = part.to_vec();
            part.resize(length, value);
            part
        };
        let mut spans = self.spans.clone();
        spans.extend(places.zip(spares.clone()).map(|(place, _)| [place, 1]));
        let mut temperatures = self.temperatures.clone();
        temperatures.resize(outputs, 0.0);
        let mut uniforms = self.uniforms.clone();
        uniforms.resize(draws, 0.0);
        let adapters: Vec<_> =
            self.adapters.iter().map(|adapted| Adapted { rows: 0..rows, lora: adapted.lora }).collect();
        let form = Form {
            rows,
            outputs,
            draws,
            tiles: 0,
            singles: rows,
            splits: self.form.splits,
            adapters: adapters.iter().map(|adapted| (adapted.lora.number(), adapted.rows.clone())).collect(),
        };
        Self {
            form,
            spans,
            tiles: vec![],
            singles: (0..rows as u32).collect(),
            temperatures,
            uniforms,
            ends: extended(&self.ends, self.ends.last().copied().unwrap_or(0), outputs),
            tokens: extended(&self.tokens, 0, rows),
            positions: extended(&self.positions, 0, rows),
            nodes: self.nodes.iter().copied().chain(spares.clone()).collect(),
            outputs: extended(&self.outputs, rows as u32 - 1, outputs),
            path: self.path,
            spares,
            adapters,
            rank: self.rank,
        }
    }

    fn word_count(&self) -> usize {
        2 * self.uniforms.len() + 6 * self.spans.len() + 3 * self.ends.len() + self.path.len() + self.spares.len()
    }
}

/// The next number of rows for which graphs are made: few enough that they are soon all recorded, and close enough that little
/// is computed for nothing.
fn up(count: usize) -> usize {
    match count {
        0..=8 => count.next_power_of_two(),
        9..=64 => count.next_multiple_of(8),
        65..=128 => count.next_multiple_of(16),
        _ => count.next_multiple_of(32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_filled_up_to_one_of_few_forms_by_rows_that_see_only_themselves() {
        let step = Step {
            form: Form { rows: 11, outputs: 9, draws: 5, tiles: 0, singles: 11, splits: 2, adapters: vec![] },
            spans: vec![[0, 3]; 11],
            tiles: vec![],
            singles: (0..11).collect(),
            temperatures: vec![1.0; 9],
            uniforms: vec![0.5; 5],
            ends: vec![1, 2, 3, 4, 5, 5, 5, 5, 5],
            tokens: vec![7; 11],
            positions: vec![2; 11],
            nodes: (0..11).collect(),
            outputs: (0..9).collect(),
            path: &[0, 1, 2],
            spares: 0..0,
            adapters: vec![],
            rank: 0,
        };
        let filled = step.filled_up(99);
        assert_eq!((filled.form.rows, filled.form.outputs, filled.form.draws, filled.form.singles), (16, 16, 8, 16));
        assert_eq!((&filled.spans[10..12], filled.spans[15]), (&[[0, 3], [3, 1]][..], [7, 1]));
        assert_eq!(filled.words()[filled.word_count() - 8..], [0, 1, 2, 99, 100, 101, 102, 103]);
        assert_eq!(filled.nodes[10..], [10, 99, 100, 101, 102, 103]);
        assert!(filled.ends[8..].iter().all(|&end| end == 5));
        assert_eq!(filled.words().len(), filled.word_count());
    }

    #[test]
    fn few_forms_are_made_and_none_is_much_too_large() {
        let forms: std::collections::HashSet<usize> = (1..=MAX_ROWS).map(up).collect();
        assert!(forms.len() <= 20 && forms.iter().all(|&rows| rows <= MAX_ROWS));
        assert!((1..=MAX_ROWS).all(|rows| up(rows) >= rows && up(rows) <= 2 * rows));
        assert_eq!((1..=MAX_ROWS).map(|rows| up(rows) - rows).max(), Some(MAX_FILLING));
    }
}
