//! What rows of logits say of tokens, and the gradient of a loss with respect to the logits.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Score, ScoreGradient, Target};
#[cfg(feature = "cuda")]
use crate::engine::model::ops::cuda::ScoredRows;
use crate::engine::model::ops::kernels;

/// The distributions of some rows of logits over tokens, softmax(logits / temperature).
pub enum Distributions {
    /// The probabilities, row after row.
    Host { probabilities: Vec<f32>, temperature: f32 },
    /// What is needed to make them of the logits again.
    #[cfg(feature = "cuda")]
    Cuda(Box<ScoredRows>),
}

impl Distributions {
    /// Of logits `[rows, vocab]`, with the scores of the targets of each row, one after another.
    pub fn of(logits: &Tensor, targets: &[&[Target]], temperature: f32) -> Result<(Self, Vec<Score>)> {
        #[cfg(feature = "cuda")]
        if logits.device().is_cuda() {
            return Self::on_cuda(logits, targets, temperature);
        }
        let vocab = logits.dim(1)?;
        let mut probabilities: Vec<f32> = logits.flatten_all()?.to_vec1()?;
        let scores: Vec<Vec<Score>> = probabilities
            .par_chunks_mut(vocab)
            .zip(targets)
            .map(|(logits, targets)| score_row(logits, targets, temperature))
            .collect();
        Ok((Self::Host { probabilities, temperature }, scores.concat()))
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(logits: &Tensor, targets: &[&[Target]], temperature: f32) -> Result<(Self, Vec<Score>)> {
        let tokens: Vec<u32> = targets.iter().copied().flatten().map(|target| target.token).collect();
        let mut starts = vec![0u32];
        starts.extend(targets.iter().scan(0, |end, targets| {
            *end += targets.len() as u32;
            Some(*end)
        }));
        let (rows, entropies, log_probs) = ScoredRows::score(logits, (&starts, &tokens), temperature)?;
        let of_row = targets.iter().zip(entropies).flat_map(|(targets, entropy)| targets.iter().map(move |_| entropy));
        let scores = log_probs.into_iter().zip(of_row).map(|(log_prob, entropy)| Score { log_prob, entropy });
        Ok((Self::Cuda(Box::new(rows)), scores.collect()))
    }

    /// d loss / d logits, on the device of the logits that these are the distributions of, from the derivatives for each of
    /// the same targets.
    pub fn logit_gradients(
        &self,
        logits: &Tensor,
        targets: &[&[Target]],
        derivatives: &[ScoreGradient],
    ) -> Result<Tensor> {
        match self {
            Self::Host { probabilities, temperature } => {
                let gradients = logit_gradients(probabilities, targets, derivatives, *temperature);
                Tensor::from_vec(gradients, logits.shape(), logits.device())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(rows) => {
                let of_tokens: Vec<f32> = derivatives.iter().map(|derivative| derivative.log_prob).collect();
                let mut rest = derivatives.iter();
                let of_rows = targets.iter().map(|targets| rest.by_ref().take(targets.len()).map(|d| d.entropy).sum());
                rows.gradient(logits, &of_tokens, &of_rows.collect::<Vec<f32>>())
            }
        }
    }
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
    targets: &[&[Target]],
    derivatives: &[ScoreGradient],
    temperature: f32,
) -> Vec<f32> {
    let vocab = probabilities.len() / targets.len();
    let mut gradient = probabilities.to_vec();
    let mut derivatives = derivatives.iter();
    for (gradient, targets) in gradient.chunks_exact_mut(vocab).zip(targets) {
        let (mut at_row, mut of_entropy) = (Vec::new(), 0.0);
        for (target, derivative) in targets.iter().zip(&mut derivatives) {
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
        let found = logit_gradients(probabilities.as_flattened(), &rows, &derivatives, temperature);
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
