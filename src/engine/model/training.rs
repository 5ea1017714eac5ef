//! The differentiable forward pass: log-probabilities of chosen tokens and their gradients with respect to an adapter.
//!
//! It is the decoder's own forward pass, rematerialised: the input of every layer is kept, and in the backward pass
//! each layer is computed again on a tape, so that memory holds one layer's activations and does not grow with
//! depth. A device with memory to spare keeps the tapes of the first layers instead. The output head is computed only at rows whose log-probability is asked for, a few rows at a time.

mod distributions;

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Result, Tensor, Var, bail};

pub use self::distributions::Distributions;
use super::{
    decoder::{Adapted, Decoder, WithinPass},
    device,
    lora::Lora,
    ops::{
        Angles, Paths,
        tape::{self, Tape},
    },
};

/// Rows of the output head at a time on a CPU: 128 rows of 49,152 logits are 25 MB.
pub const HEAD_ROWS: usize = 128;

/// What the logits of the rows at a time take on another device, in bytes, at most: some hundreds of rows, which keep it
/// busy. Backwards they are held up to four times and once in 16 bits: as they are, as their gradient, and twice as
/// what candle sums gradients in.
const HEAD_BYTES: usize = 256 << 20;

/// More rows than this do not make a product faster.
const MAX_HEAD_ROWS: usize = 2048;

/// Rows of the output head that are computed at a time on a device, with a vocabulary of so many tokens.
pub fn head_rows(device: &Device, vocab: usize) -> usize {
    match device.is_cpu() {
        true => HEAD_ROWS,
        false => (HEAD_BYTES / (size_of::<f32>() * vocab)).clamp(HEAD_ROWS, MAX_HEAD_ROWS),
    }
}

/// Token positions of a training pass. Sequences that begin alike share rows.
#[derive(Clone, Debug, Default)]
pub struct TokenForest {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    parents: Vec<Option<u32>>,
    edges: HashMap<(Option<u32>, u32), u32>,
}

impl TokenForest {
    /// The row of `token` after `parent` (`None`: at the start of a sequence), new or already there.
    pub fn insert(&mut self, parent: Option<u32>, token: u32) -> u32 {
        let next = self.tokens.len() as u32;
        let row = *self.edges.entry((parent, token)).or_insert(next);
        if row == next {
            self.tokens.push(token);
            self.positions.push(parent.map_or(0, |parent| self.positions[parent as usize] + 1));
            self.parents.push(parent);
        }
        row
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// A place for each row, so that what descends from a row follows it at once, in the order in which it came.
    fn preorder(&self) -> Vec<u32> {
        let mut sizes = vec![1u32; self.len()];
        // Parents come before their children.
        for row in (0..self.len()).rev() {
            if let Some(parent) = self.parents[row] {
                sizes[parent as usize] += sizes[row];
            }
        }
        let (mut places, mut next_root) = (Vec::with_capacity(self.len()), 0);
        // After each row, where its next child goes.
        let mut next = vec![0u32; self.len()];
        for (row, size) in sizes.into_iter().enumerate() {
            let free = self.parents[row].map_or(&mut next_root, |parent| &mut next[parent as usize]);
            let place = *free;
            *free += size;
            places.push(place);
            next[row] = place + 1;
        }
        places
    }

    /// The rows as a pass has them, each at its place.
    fn at(&self, places: Vec<u32>) -> Rows {
        let mut order = vec![0u32; self.len()];
        places.iter().zip(0..).for_each(|(&place, row)| order[place as usize] = row);
        let place = |row: u32| places[row as usize];
        let mut paths = Paths::default();
        for (index, &row) in order.iter().enumerate() {
            let parent = self.parents[row as usize].map(place);
            if parent == (index as u32).checked_sub(1) {
                paths.push_next(index as u32);
                continue;
            }
            let ancestors = std::iter::successors(Some(row), |&row| self.parents[row as usize]);
            let mut path: Vec<u32> = ancestors.map(place).collect();
            path.reverse();
            paths.push(path);
        }
        let of_rows = |values: &[u32]| order.iter().map(|&row| values[row as usize]).collect();
        Rows { tokens: of_rows(&self.tokens), positions: of_rows(&self.positions), paths, places }
    }
}

/// The rows of a forest in the order of a pass.
struct Rows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// For each row, the rows from the start of its sequence to itself.
    paths: Paths,
    /// Of each row of the forest, where it is.
    places: Vec<u32>,
}

/// A token whose log-probability is asked for, at the row that it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub row: u32,
    pub token: u32,
}

/// What the policy says of one target.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// Log-probability of the token under softmax(logits / temperature).
    pub log_prob: f32,
    /// Entropy of that distribution, in nats.
    pub entropy: f32,
}

/// The derivative of a loss with respect to a [`Score`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreGradient {
    pub log_prob: f32,
    pub entropy: f32,
}

/// A pass of the decoder over a forest, for the log-probabilities of some targets.
pub struct Pass<'a> {
    decoder: &'a Decoder,
    lora: Option<&'a Lora>,
    /// The same, for what needs no gradient.
    fixed: Option<Lora>,
    tokens: Vec<u32>,
    /// Of each row of the forest, where it is among the rows of the pass.
    places: Vec<u32>,
    targets: &'a [Target],
    temperature: f32,
    attend: WithinPass,
    /// For each rope of the decoder.
    angles: Vec<Angles>,
    /// Called around every piece of work (a layer, or some rows of the head), so that others can compute in between.
    pace: &'a Pace<'a>,
}

/// Some rows of the output head.
struct HeadChunk<'a> {
    /// The index of their first target.
    first: usize,
    /// Where the rows are in the pass.
    rows: &'a [u32],
    /// The targets of each row, and the scores of all of them.
    targets: &'a [&'a [Target]],
    scores: &'a [Score],
    distributions: &'a Distributions,
    /// The rows, their logits, and how the one came of the other.
    hidden: &'a Tensor,
    logits: &'a Tensor,
    tape: Tape,
}

/// A layer on the way to the backward pass.
enum PassedLayer {
    /// Its input: it is computed again.
    Input(Tensor),
    Recorded {
        input: Var,
        output: Tensor,
        tape: Tape,
    },
}

/// Runs one piece of work, as soon as it may.
pub type Pace<'a> = dyn Fn(&mut (dyn FnMut() -> Result<()> + Send)) -> Result<()> + 'a;

impl<'a> Pass<'a> {
    /// Prepares a pass. Targets are sorted by row.
    ///
    /// # Errors
    /// If targets are not sorted or name a row that is not there.
    pub fn new(
        decoder: &'a Decoder,
        lora: Option<&'a Lora>,
        (forest, targets): (&'a TokenForest, &'a [Target]),
        temperature: f32,
        pace: &'a Pace<'a>,
    ) -> Result<Self> {
        if !targets.is_sorted_by_key(|target| target.row) {
            bail!("targets must be sorted by row");
        }
        if targets.last().is_some_and(|target| target.row as usize >= forest.len()) {
            bail!("a target is beyond the {} rows of the forest", forest.len());
        }
        // A device's kernels need the queries that see a row to follow each other. A CPU's do not, and sums over rows keep
        // the order in which rollouts came.
        let places = match decoder.device().is_cpu() {
            true => (0..forest.len() as u32).collect(),
            false => forest.preorder(),
        };
        Self::over(decoder, lora, (forest.at(places), targets), temperature, pace)
    }

    fn over(
        decoder: &'a Decoder,
        lora: Option<&'a Lora>,
        (rows, targets): (Rows, &'a [Target]),
        temperature: f32,
        pace: &'a Pace<'a>,
    ) -> Result<Self> {
        let Rows { tokens, positions, paths, places } = rows;
        let attend = WithinPass { paths: Arc::new(paths), products: decoder.dtype() };
        let angles = decoder.angles(&positions)?;
        let fixed = lora.map(|lora| lora.to_device(decoder.device())).transpose()?;
        Ok(Self { decoder, lora, fixed, tokens, places, targets, temperature, attend, angles, pace })
    }

    /// The score of every target, without gradients.
    pub fn score(mut self) -> Result<Vec<Score>> {
        let mut x = self.decoder.embed(&self.tokens)?;
        for layer in 0..self.decoder.config().layers.len() {
            x = self.paced_layer(layer, &x)?;
        }
        let mut scores = Vec::with_capacity(self.targets.len());
        self.head(&x, |chunk| {
            scores.extend_from_slice(chunk.scores);
            Ok(())
        })?;
        Ok(scores)
    }

    /// The gradient of a loss with respect to `vars`, the variables that the pass's adapter is made of.
    ///
    /// `loss` is called with consecutive ranges of targets (the index of the first, and their scores) and returns the
    /// derivative of the whole loss with respect to each score; it must be a sum over targets.
    pub fn backward(
        mut self,
        vars: &[Var],
        mut loss: impl FnMut(usize, &[Score]) -> Vec<ScoreGradient> + Send,
    ) -> Result<Vec<Tensor>> {
        let layers = self.decoder.config().layers.len();
        let mut passed = Vec::with_capacity(layers);
        let mut x = self.decoder.embed(&self.tokens)?;
        let reserve = memory_to_leave(x.device())?;
        for layer in 0..layers {
            if has_more_than(x.device(), reserve)? {
                let (input, output, tape) = self.recorded_layer(layer, &x)?;
                x = output.clone();
                passed.push(PassedLayer::Recorded { input, output, tape });
            } else {
                let output = self.paced_layer(layer, &x)?;
                passed.push(PassedLayer::Input(std::mem::replace(&mut x, output)));
            }
        }
        let mut gradient = Tensor::zeros_like(&x)?;
        self.head(&x, |chunk| {
            let derivatives = loss(chunk.first, chunk.scores);
            let d_logits = chunk.distributions.logit_gradients(chunk.logits, chunk.targets, &derivatives)?;
            let mut gradients = chunk.tape.backward(chunk.logits, d_logits)?;
            let Some(d_hidden) = gradients.take(chunk.hidden) else { bail!("the output head gave no gradient") };
            gradient = gradient.index_add(&Tensor::new(chunk.rows, x.device())?, &d_hidden, 0)?;
            Ok(())
        })?;
        drop(x);
        let mut totals: Vec<Option<Tensor>> = vec![None; vars.len()];
        for (layer, passed) in passed.into_iter().enumerate().rev() {
            gradient = self.layer_backward(layer, passed, gradient, vars, &mut totals)?;
        }
        let zero = |(total, var): (Option<Tensor>, &Var)| total.map_or_else(|| var.zeros_like(), Ok);
        totals.into_iter().zip(vars).map(zero).collect()
    }

    fn paced_layer(&mut self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let mut output = None;
        let Self { decoder, fixed, angles, attend, pace, .. } = self;
        paced(pace, decoder.device(), || {
            output = Some(decoder.layer(layer, x, angles, adapted(fixed.as_ref(), x)?.as_slice(), attend)?.detach());
            Ok(())
        })?;
        output.ok_or_else(|| candle_core::Error::msg("the work was not done"))
    }

    /// Computes a layer on a tape, from a variable to its output.
    fn recorded_layer(&mut self, layer: usize, x: &Tensor) -> Result<(Var, Tensor, Tape)> {
        let mut recorded = None;
        let Self { decoder, lora, angles, attend, pace, .. } = self;
        paced(pace, decoder.device(), || {
            recorded = Some(record_layer(decoder, layer, x, (*lora, angles, attend))?);
            Ok(())
        })?;
        recorded.ok_or_else(|| candle_core::Error::msg("the work was not done"))
    }

    /// Goes backward through a layer: adds to the gradients of the variables and returns that of its input.
    fn layer_backward(
        &mut self,
        layer: usize,
        passed: PassedLayer,
        gradient: Tensor,
        vars: &[Var],
        totals: &mut [Option<Tensor>],
    ) -> Result<Tensor> {
        let (mut passed, mut passed_on) = (Some(passed), None);
        let Self { decoder, lora, angles, attend, pace, .. } = self;
        paced(pace, decoder.device(), || {
            let (input, output, tape) = match passed.take() {
                Some(PassedLayer::Recorded { input, output, tape }) => (input, output, tape),
                Some(PassedLayer::Input(x)) => record_layer(decoder, layer, &x, (*lora, angles, attend))?,
                None => bail!("layer {layer} was gone through already"),
            };
            let mut gradients = tape.backward(&output, gradient.clone())?;
            for (total, var) in totals.iter_mut().zip(vars) {
                if let Some(gradient) = gradients.take(var) {
                    *total = Some(match total.take() {
                        Some(total) => (total + gradient)?,
                        None => gradient,
                    });
                }
            }
            passed_on = gradients.take(&input);
            Ok(())
        })?;
        passed_on.ok_or_else(|| candle_core::Error::msg(format!("layer {layer} passed on no gradient")))
    }

    /// Computes the head a few rows at a time.
    fn head(&self, x: &Tensor, mut each: impl FnMut(HeadChunk) -> Result<()> + Send) -> Result<()> {
        let mut first = 0;
        let (decoder, temperature) = (self.decoder, self.temperature);
        let by_row: Vec<&[Target]> = self.targets.chunk_by(|a, b| a.row == b.row).collect();
        for targets in by_row.chunks(head_rows(x.device(), decoder.config().vocab_size)) {
            let rows: Vec<u32> = targets.iter().map(|targets| self.places[targets[0].row as usize]).collect();
            paced(self.pace, x.device(), || {
                let hidden = Var::from_tensor(&x.index_select(&Tensor::new(rows.as_slice(), x.device())?, 0)?)?;
                let (logits, tape) = tape::record(|| decoder.logits(&hidden))?;
                let (distributions, scores) = Distributions::of(&logits, targets, temperature)?;
                let (hidden, logits) = (hidden.as_tensor(), &logits);
                each(HeadChunk {
                    first,
                    rows: &rows,
                    targets,
                    scores: &scores,
                    distributions: &distributions,
                    hidden,
                    logits,
                    tape,
                })
            })?;
            first += targets.iter().map(|targets| targets.len()).sum::<usize>();
        }
        Ok(())
    }
}

/// Computes a layer on a tape, from a variable to its output.
fn record_layer(
    decoder: &Decoder,
    layer: usize,
    x: &Tensor,
    (lora, angles, attend): (Option<&Lora>, &[Angles], &mut WithinPass),
) -> Result<(Var, Tensor, Tape)> {
    let input = Var::from_tensor(x)?;
    let compute = || decoder.layer(layer, &input, angles, adapted(lora, &input)?.as_slice(), attend);
    let (output, tape) = tape::record(compute)?;
    Ok((input, output, tape))
}

/// What a device's memory has to have left for tapes to be kept, in bytes: half of what is free now, and room for the head
/// in any case. `None` where layers are computed again.
fn memory_to_leave(device: &Device) -> Result<Option<u64>> {
    Ok(device::memory(device)?.map(|memory| (memory.free / 2).max(8 * HEAD_BYTES as u64)))
}

/// Whether a device has more memory than this.
fn has_more_than(device: &Device, reserve: Option<u64>) -> Result<bool> {
    let Some(reserve) = reserve else { return Ok(false) };
    Ok(device::memory(device)?.is_some_and(|memory| memory.free > reserve))
}

/// Does a piece of work at its time, and waits for the device: what it takes there is a part of the piece.
fn paced(pace: &Pace, device: &Device, mut work: impl FnMut() -> Result<()> + Send) -> Result<()> {
    pace(&mut || {
        work()?;
        device.synchronize()
    })
}

/// An adapter for all rows of `x`.
fn adapted<'a>(lora: Option<&'a Lora>, x: &Tensor) -> Result<Option<Adapted<'a>>> {
    let rows = 0..x.dim(0)?;
    Ok(lora.map(|lora| Adapted { rows, lora }))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::engine::model::{
        lora::{LoraConfig, Projection, peft_name},
        weights,
    };

    /// A forest of sequences, and the rows of each.
    fn forest(sequences: &[&[u32]]) -> (TokenForest, Vec<Vec<u32>>) {
        let mut forest = TokenForest::default();
        let rows = sequences.iter().map(|tokens| {
            let mut parent = None;
            let rows = tokens.iter().map(|&token| {
                parent = Some(forest.insert(parent, token));
                parent.unwrap()
            });
            rows.collect()
        });
        let rows = rows.collect();
        (forest, rows)
    }

    #[test]
    fn in_preorder_the_rows_that_descend_from_a_row_follow_it() {
        let (forest, sequences) = forest(&[&[1, 2, 3], &[7, 8], &[1, 2, 4, 5], &[1, 6], &[7, 9], &[1, 2, 3, 0]]);
        // 1, 2, 3, 0, 4, 5, 6; 7, 8, 9.
        let places = forest.preorder();
        let rows = forest.at(places.clone());
        assert_eq!(rows.tokens, [1, 2, 3, 0, 4, 5, 6, 7, 8, 9]);
        assert_eq!(rows.positions, [0, 1, 2, 3, 2, 3, 1, 0, 1, 1]);
        for sequence in sequences {
            let path: Vec<u32> = sequence.iter().map(|&row| places[row as usize]).collect();
            assert_eq!(rows.paths.path(*path.last().unwrap() as usize), path);
        }
        let ends = rows.paths.seen(10).unwrap().into_iter().enumerate().map(|(row, seen)| {
            assert_eq!(seen.queries.start, row);
            seen.queries.end
        });
        assert_eq!(ends.collect::<Vec<_>>(), [7, 6, 4, 4, 6, 6, 7, 10, 9, 10]);
        // A chain is one list of rows; a branch has its own.
        assert_eq!(rows.paths.rows().len(), 4 + 4 + 2 + 2 + 2);
    }

    #[test]
    fn rows_in_the_order_in_which_they_came_have_the_same_paths() {
        let (forest, sequences) = forest(&[&[1, 2, 3], &[1, 4], &[1, 2, 5]]);
        let rows = forest.at((0..forest.len() as u32).collect());
        for sequence in sequences {
            assert_eq!(rows.paths.path(*sequence.last().unwrap() as usize), sequence);
        }
    }

    /// Of a small model: an adapter that does something, as variables in the order of their names.
    fn adapter(decoder: &Decoder) -> (Lora, Vec<Var>) {
        let config = LoraConfig { r: 2, alpha: 4.0, targets: Projection::ALL.to_vec() };
        let (layers, mut vars) = (decoder.config().layers.len(), BTreeMap::new());
        for (layer, &projection) in (0..layers).flat_map(|layer| Projection::ALL.iter().map(move |of| (layer, of))) {
            let (out, input) = decoder.projection_shape(projection);
            for (half, shape) in [('A', (config.r, input)), ('B', (out, config.r))] {
                let values = (0..shape.0 * shape.1).map(|i| ((i * 37 + layer) % 19) as f32 / 95.0 - 0.09);
                let values = Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap();
                vars.insert(peft_name(layer, projection, half), Var::from_tensor(&values).unwrap());
            }
        }
        let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let lora = Lora::new(&config, &tensors, layers, |projection| decoder.projection_shape(projection)).unwrap();
        (lora, vars.into_values().collect())
    }

    #[test]
    fn a_pass_says_the_same_whatever_the_order_of_its_rows() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
        let mut checkpoint = weights::load(&folder, &Device::Cpu).unwrap();
        let decoder = Decoder::new(checkpoint.config, &mut checkpoint.tensors, &Device::Cpu).unwrap();
        let (lora, vars) = adapter(&decoder);
        let (forest, _) = forest(&[&[1, 2, 3, 9, 4], &[7, 8], &[1, 2, 4, 5], &[1, 6], &[7, 9, 3], &[1, 2, 3, 11]]);
        let targets: Vec<Target> =
            (0..forest.len() as u32).flat_map(|row| [2, 5].map(|token| Target { row, token })).collect();
        let pace: &Pace = &|work| work();
        let pass =
            |places: Vec<u32>| Pass::over(&decoder, Some(&lora), (forest.at(places), &targets), 0.8, pace).unwrap();
        let places = [(0..forest.len() as u32).collect(), forest.preorder()];
        assert_ne!(places[0], places[1]);
        let scores = places.clone().map(|places| {
            let scores = pass(places).score().unwrap();
            scores.into_iter().map(|score| (score.log_prob, score.entropy)).collect::<Vec<_>>()
        });
        assert_eq!(scores[0], scores[1]);
        let gradients = places.map(|places| {
            let loss = |first: usize, scores: &[Score]| {
                let derivative = |index: usize| ScoreGradient { log_prob: (index as f32).sin(), entropy: 0.1 };
                (first..first + scores.len()).map(derivative).collect()
            };
            pass(places).backward(&vars, loss).unwrap()
        });
        for (a, b) in gradients[0].iter().zip(&gradients[1]) {
            let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            assert!(norm(b) > 0.0 && norm(&(a - b).unwrap()) < 1e-5 * norm(b));
        }
    }
}
