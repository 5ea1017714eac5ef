//! Drawing tokens: pure functions of logits and a seeded stream of random numbers.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::{handle::Sampling, model::ops::kernels};

/// The random numbers of one sample: a function of `(seed, sample)` alone.
pub fn stream(seed: u64, sample: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(sample);
    rng
}

/// The distribution over the next token, from which any number of samples draw.
pub struct Distribution {
    /// softmax(logits / temperature), of the whole vocabulary.
    probabilities: Vec<f32>,
    /// Tokens that may be drawn, most likely first, if top-k or top-p narrowed them; with their total probability.
    kept: Option<(Vec<u32>, f32)>,
    greedy: bool,
}

impl Distribution {
    /// Takes the logits of one position. At temperature 0 the most likely token is drawn and probabilities are those
    /// of temperature 1.
    pub fn new(mut logits: Vec<f32>, sampling: &Sampling) -> Self {
        let greedy = sampling.temperature == 0.0;
        kernels::softmax_in_place(&mut logits, if greedy { 1.0 } else { sampling.temperature });
        let probabilities = logits;
        let narrowed = sampling.top_k > 0 || sampling.top_p < 1.0;
        let kept = (narrowed && !greedy).then(|| keep(&probabilities, sampling.top_k, sampling.top_p));
        Self { probabilities, kept, greedy }
    }

    /// Draws a token; returns it with its log-probability before top-k and top-p.
    pub fn draw(&self, rng: &mut impl Rng) -> (u32, f32) {
        let token = match (&self.kept, self.greedy) {
            (_, true) => argmax(&self.probabilities),
            (Some((tokens, total)), _) => {
                let weights = tokens.iter().map(|&token| (token, self.probabilities[token as usize]));
                pick(weights, uniform(rng) * f64::from(*total))
            }
            (None, _) => {
                let weights = self.probabilities.iter().enumerate().map(|(token, &p)| (token as u32, p));
                pick(weights, uniform(rng))
            }
        };
        (token, self.probabilities[token as usize].max(f32::MIN_POSITIVE).ln())
    }
}

/// A number in [0, 1) with 53 random bits.
fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The first token at which the running sum of weights exceeds `target`; the last one with weight if rounding kept
/// the sum below it.
fn pick(weights: impl Iterator<Item = (u32, f32)>, target: f64) -> u32 {
    let mut sum = 0f64;
    let mut last = 0;
    for (token, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = token;
            if sum > target {
                break;
            }
        }
    }
    last
}

fn argmax(values: &[f32]) -> u32 {
    let best = values
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (token, &value)| if value > best.1 { (token, value) } else { best });
    best.0 as u32
}

/// The tokens that top-k and then top-p leave, most likely first (equals by id), and their total probability.
fn keep(probabilities: &[f32], top_k: usize, top_p: f32) -> (Vec<u32>, f32) {
    let mut tokens: Vec<u32> = (0..probabilities.len() as u32).collect();
    let order =
        |a: &u32, b: &u32| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]).then_with(|| a.cmp(b));
    if top_k > 0 && top_k < tokens.len() {
        tokens.select_nth_unstable_by(top_k - 1, order);
        tokens.truncate(top_k);
    }
    tokens.sort_unstable_by(order);
    let mut total = 0f32;
    let mut count = 0;
    for &token in &tokens {
        total += probabilities[token as usize];
        count += 1;
        if total >= top_p {
            break;
        }
    }
    tokens.truncate(count);
    (tokens, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling { temperature, top_k, top_p, max_tokens: 1, stop: vec![] }
    }

    fn frequencies(logits: &[f32], sampling: &Sampling, draws: u32) -> Vec<f64> {
        let distribution = Distribution::new(logits.to_vec(), sampling);
        let mut rng = stream(7, 0);
        let mut counts = vec![0u32; logits.len()];
        for _ in 0..draws {
            counts[distribution.draw(&mut rng).0 as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / f64::from(draws)).collect()
    }

    #[test]
    fn tokens_are_drawn_as_often_as_softmax_says() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let found = frequencies(&logits, &sampling(0.8, 0, 1.0), 20_000);
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / 0.8).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (found, weight) in found.iter().zip(weights) {
            assert!((found - weight / total).abs() < 0.015, "{found} against {}", weight / total);
        }
    }

    #[test]
    fn temperature_zero_takes_the_most_likely_token() {
        assert_eq!(frequencies(&[0.0, 3.0, 2.9], &sampling(0.0, 0, 1.0), 50), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn top_k_keeps_k_tokens_and_top_p_the_smallest_set_that_reaches_p() {
        let kept =
            |k, p| frequencies(&[1.0, 2.0, 3.0, 4.0], &sampling(1.0, k, p), 2_000).iter().filter(|f| **f > 0.0).count();
        assert_eq!(kept(2, 1.0), 2);
        assert_eq!(kept(0, 0.6), 1, "the first token alone has 0.64");
        assert_eq!(kept(0, 0.7), 2);
        assert_eq!(kept(0, 1.0), 4);
    }

    #[test]
    fn a_stream_repeats_and_streams_of_other_samples_differ() {
        let draw = |seed, sample| {
            (0..8).map(|_| 0).scan(stream(seed, sample), |rng, _: i32| Some(rng.next_u64())).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn log_probabilities_are_those_before_narrowing() {
        let logits = [1.0f32, 2.0, 3.0];
        let distribution = Distribution::new(logits.to_vec(), &sampling(1.0, 1, 1.0));
        let (token, log_prob) = distribution.draw(&mut stream(0, 0));
        let normaliser = logits.iter().map(|l| l.exp()).sum::<f32>().ln();
        assert_eq!(token, 2);
        assert!((log_prob - (3.0 - normaliser)).abs() < 1e-5);
    }
}
