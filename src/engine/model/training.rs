//! The differentiable forward pass: log-probabilities of chosen tokens and their gradients with respect to an adapter.
//!
//! It is the decoder's own forward pass, rematerialised: the input of every layer is kept, and in the backward pass
//! each layer is computed again with its graph, so that memory holds one layer's activations and does not grow with
//! depth. The output head is computed only at rows whose log-probability is asked for, a few rows at a time.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::{
    decoder::{Adapted, Decoder, WithinPass},
    lora::Lora,
    ops::{self, Angles, Paths, kernels},
};

/// Rows of the output head at a time: 128 rows of 49,152 logits are 25 MB.
pub const HEAD_ROWS: usize = 128;

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

    /// For each row, the rows from the start of its sequence to itself.
    fn paths(&self) -> Paths {
        let mut paths = Paths::default();
        for row in 0..self.len() as u32 {
            let mut path: Vec<u32> = std::iter::successors(Some(row), |&row| self.parents[row as usize]).collect();
            path.reverse();
            paths.push(path);
        }
        paths
    }
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
    forest: &'a TokenForest,
    targets: &'a [Target],
    temperature: f32,
    attend: WithinPass,
    /// For each rope of the decoder.
    angles: Vec<Angles>,
    /// Called around every piece of work (a layer, or some rows of the head), so that others can compute in between.
    pace: &'a Pace<'a>,
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
        let attend = WithinPass { paths: Arc::new(forest.paths()) };
        let angles = decoder.angles(&forest.positions)?;
        let fixed = lora.map(|lora| lora.to_device(decoder.device())).transpose()?;
        Ok(Self { decoder, lora, fixed, forest, targets, temperature, attend, angles, pace })
    }

    /// The score of every target, without gradients.
    pub fn score(mut self) -> Result<Vec<Score>> {
        let mut x = self.decoder.embed(&self.forest.tokens)?;
        for layer in 0..self.decoder.config().layers.len() {
            x = self.paced_layer(layer, &x)?;
        }
        let mut scores = Vec::with_capacity(self.targets.len());
        self.head(&x, |_, _, chunk, _, _| {
            scores.extend_from_slice(chunk);
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
        let mut inputs = Vec::with_capacity(layers);
        let mut x = self.decoder.embed(&self.forest.tokens)?;
        for layer in 0..layers {
            let output = self.paced_layer(layer, &x)?.detach();
            inputs.push(std::mem::replace(&mut x, output));
        }
        let mut gradient = Tensor::zeros_like(&x)?;
        let (temperature, targets) = (self.temperature, self.targets);
        self.head(&x, |first, rows, scores, probabilities, (hidden, logits)| {
            let derivatives = loss(first, scores);
            let chunk = &targets[first..first + scores.len()];
            let d_logits = logit_gradients(probabilities, rows, chunk, &derivatives, temperature);
            let d_logits = Tensor::from_vec(d_logits, logits.shape(), x.device())?;
            let gradients = ops::seed_gradient(logits, d_logits)?.backward()?;
            let Some(d_hidden) = gradients.get(hidden) else { bail!("the output head gave no gradient") };
            gradient = gradient.index_add(&Tensor::new(rows, x.device())?, d_hidden, 0)?;
            Ok(())
        })?;
        drop(x);
        let mut totals: Vec<Option<Tensor>> = vec![None; vars.len()];
        for (layer, input) in inputs.into_iter().enumerate().rev() {
            gradient = self.layer_backward(layer, &input, gradient, vars, &mut totals)?;
        }
        let zero = |(total, var): (Option<Tensor>, &Var)| total.map_or_else(|| var.zeros_like(), Ok);
        totals.into_iter().zip(vars).map(zero).collect()
    }

    fn paced_layer(&mut self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let mut output = None;
        let Self { decoder, fixed, angles, attend, pace, .. } = self;
        pace(&mut || {
            output = Some(decoder.layer(layer, x, angles, adapted(fixed.as_ref(), x)?.as_slice(), attend)?.detach());
            Ok(())
        })?;
        output.ok_or_else(|| candle_core::Error::msg("the work was not done"))
    }

    /// Computes a layer again with its graph, adds to the gradients of the variables and returns that of its input.
    fn layer_backward(
        &mut self,
        layer: usize,
        input: &Tensor,
        gradient: Tensor,
        vars: &[Var],
        totals: &mut [Option<Tensor>],
    ) -> Result<Tensor> {
        let mut passed_on = None;
        let Self { decoder, lora, angles, attend, pace, .. } = self;
        pace(&mut || {
            let input = Var::from_tensor(input)?;
            let output = decoder.layer(layer, input.as_tensor(), angles, adapted(*lora, &input)?.as_slice(), attend)?;
            let mut gradients = ops::seed_gradient(&output, gradient.clone())?.backward()?;
            for (total, var) in totals.iter_mut().zip(vars) {
                if let Some(gradient) = gradients.remove(var) {
                    *total = Some(match total.take() {
                        Some(total) => (total + gradient)?,
                        None => gradient,
                    });
                }
            }
            passed_on = gradients.remove(&input);
            Ok(())
        })?;
        passed_on.ok_or_else(|| candle_core::Error::msg(format!("layer {layer} passed on no gradient")))
    }

    /// Computes the head a few rows at a time. `each` gets the index of the chunk's first target, the chunk's rows, the
    /// scores of its targets, the rows' probabilities one after another, and the rows with their logits, which have a graph.
    fn head(
        &self,
        x: &Tensor,
        mut each: impl FnMut(usize, &[u32], &[Score], &[f32], (&Tensor, &Tensor)) -> Result<()> + Send,
    ) -> Result<()> {
        let mut first = 0;
        let (decoder, temperature) = (self.decoder, self.temperature);
        let rows: Vec<&[Target]> = self.targets.chunk_by(|a, b| a.row == b.row).collect();
        for chunk in rows.chunks(HEAD_ROWS) {
            let row_ids: Vec<u32> = chunk.iter().map(|targets| targets[0].row).collect();
            (self.pace)(&mut || {
                let hidden = Var::from_tensor(&x.index_select(&Tensor::new(row_ids.as_slice(), x.device())?, 0)?)?;
                let logits = decoder.logits(&hidden)?;
                let mut probabilities: Vec<f32> = logits.flatten_all()?.to_vec1()?;
                let vocab = decoder.config().vocab_size;
                let scores: Vec<Vec<Score>> = probabilities
                    .par_chunks_mut(vocab)
                    .zip(chunk)
                    .map(|(logits, targets)| score_row(logits, targets, temperature))
                    .collect();
                each(first, &row_ids, &scores.concat(), &probabilities, (&hidden, &logits))
            })?;
            first += chunk.iter().map(|targets| targets.len()).sum::<usize>();
        }
        Ok(())
    }
}

/// An adapter for all rows of `x`.
fn adapted<'a>(lora: Option<&'a Lora>, x: &Tensor) -> Result<Option<Adapted<'a>>> {
    let rows = 0..x.dim(0)?;
    Ok(lora.map(|lora| Adapted { rows, lora }))
}

/// Turns one row's logits into probabilities and scores its targets.
fn score_row(logits: &mut [f32], targets: &[Target], temperature: f32) -> Vec<Score> {
    let chosen: Vec<f32> = targets.iter().map(|target| logits[target.token as usize] / temperature).collect();
    let kernels::Normalised { normaliser, entropy } = kernels::softmax_in_place(logits, temperature);
    chosen.into_iter().map(|logit| Score { log_prob: logit - normaliser, entropy }).collect()
}

/// d loss / d logits, from the derivatives for each target: `(1[j = token] - p_j) / temperature` times that of the
/// log-probability, and `-p_j (ln p_j + entropy) / temperature` times that of the entropy.
fn logit_gradients(
    probabilities: &[f32],
    rows: &[u32],
    targets: &[Target],
    derivatives: &[ScoreGradient],
    temperature: f32,
) -> Vec<f32> {
    let vocab = probabilities.len() / rows.len();
    let mut gradient = probabilities.to_vec();
    let mut rest = targets.iter().zip(derivatives).peekable();
    for (gradient, &row) in gradient.chunks_exact_mut(vocab).zip(rows) {
        let (mut at_row, mut of_entropy) = (Vec::new(), 0.0);
        while let Some((target, derivative)) = rest.next_if(|(target, _)| target.row == row) {
            at_row.push((target.token as usize, derivative.log_prob / temperature));
            of_entropy += derivative.entropy / temperature;
        }
        let total: f32 = at_row.iter().map(|(_, derivative)| derivative).sum();
        if of_entropy == 0.0 {
            gradient.iter_mut().for_each(|value| *value *= -total);
        } else {
            let entropy = entropy(gradient);
            // What has no probability left has no gradient, and no logarithm.
            for value in gradient.iter_mut().filter(|value| **value > 0.0) {
                *value *= -(total + of_entropy * (value.ln() + entropy));
            }
        }
        at_row.into_iter().for_each(|(token, derivative)| gradient[token] += derivative);
    }
    gradient
}

/// Of a distribution, in nats.
fn entropy(probabilities: &[f32]) -> f32 {
    let terms = probabilities.iter().filter(|p| **p > 0.0).map(|p| f64::from(p * p.ln()));
    -terms.sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_logits_are_those_of_finite_differences() {
        let temperature = 0.8;
        let targets = [(0, 1), (0, 3), (1, 0)].map(|(row, token)| Target { row, token });
        let derivatives =
            [(0.7, 0.3), (-0.4, -0.9), (1.1, 0.5)].map(|(log_prob, entropy)| ScoreGradient { log_prob, entropy });
        let logits = [[0.5f32, -1.0, 2.0, 0.1], [1.5, 0.3, -0.7, 0.0]];
        let (at, of) = targets.split_at(2);
        let rows = [at, of];
        let loss = |logits: &[[f32; 4]; 2]| -> f64 {
            let scores = logits.iter().zip(rows).flat_map(|(row, at)| score_row(&mut row.clone(), at, temperature));
            let parts = scores.zip(derivatives).map(|(score, derivative)| {
                f64::from(derivative.log_prob * score.log_prob) + f64::from(derivative.entropy * score.entropy)
            });
            parts.sum()
        };
        let mut probabilities = logits;
        probabilities.iter_mut().zip(rows).for_each(|(row, at)| drop(score_row(row, at, temperature)));
        let found = logit_gradients(probabilities.as_flattened(), &[0, 1], &targets, &derivatives, temperature);
        for (index, &found) in found.iter().enumerate() {
            let moved = |by: f32| {
                let mut logits = logits;
                logits.as_flattened_mut()[index] += by;
                loss(&logits)
            };
            let slope = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!((slope - f64::from(found)).abs() < 1e-3, "{index}: {slope} against {found}");
        }
    }
}
