//! The frequencies of rotary position embeddings (arXiv 2104.09864), and the ways in which models stretch them to reach
//! further than they were first trained.

use std::f32::consts::TAU;

/// How fast the pairs of a head turn with the position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base: pair `i` of `d / 2` turns by `theta^(-2i/d)` radians a position, before scaling.
    pub theta: f32,
    pub scaling: RopeScaling,
}

/// What happens to the frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All are divided by the factor (position interpolation, arXiv 2306.15595).
    Linear {
        factor: f32,
    },
    /// Slow ones are divided by the factor, fast ones stay, those between are blended (Llama 3.1, in `transformers` the
    /// kind `llama3`). Slow is less than `low_freq_factor` turns over the original context, fast more than
    /// `high_freq_factor`.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: usize,
    },
    /// Each is divided by a number of its own: what GGUF files keep of the kind above (`rope_freqs.weight`).
    Divisors(Vec<f32>),
}

impl Rope {
    /// Without scaling.
    pub fn plain(theta: f32) -> Self {
        Self { theta, scaling: RopeScaling::None }
    }

    /// Radians a position for each pair of a head, `head_dim / 2` numbers.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let unscaled = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f32 / head_dim as f32));
        unscaled.enumerate().map(|(pair, frequency)| self.scaling.apply(pair, frequency)).collect()
    }

    /// Checks that the numbers can be a model's.
    pub(super) fn validate(&self, head_dim: usize) -> Result<(), String> {
        let positive = |numbers: &[f32]| numbers.iter().all(|number| number.is_finite() && *number > 0.0);
        let sane = positive(&[self.theta])
            && match &self.scaling {
                RopeScaling::None => true,
                RopeScaling::Linear { factor } => positive(&[*factor]),
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                    positive(&[*factor, *low_freq_factor, high_freq_factor - low_freq_factor]) && *original_context > 0
                }
                RopeScaling::Divisors(divisors) => divisors.len() == head_dim / 2 && positive(divisors),
            };
        if sane { Ok(()) } else { Err(format!("its rotary positions cannot be a model's: {self:?}")) }
    }
}

impl RopeScaling {
    fn apply(&self, pair: usize, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = *original_context as f32 * frequency / TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
            Self::Divisors(divisors) => frequency / divisors[pair],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_fast_pairs_and_slows_slow_ones_by_the_factor() {
        let plain = Rope::plain(500_000.0).frequencies(128);
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        let scaled = Rope { theta: 500_000.0, scaling }.frequencies(128);
        assert_eq!((scaled[0], scaled[63]), (plain[0], plain[63] / 8.0));
        // Over 8,192 positions pair 32 turns 1.8438 times, so (1.8438 - 1) / 3 of it stays.
        let kept = (8192.0 * 500_000f32.powf(-0.5) / TAU - 1.0) / 3.0;
        assert!((scaled[32] / plain[32] - (kept + (1.0 - kept) / 8.0)).abs() < 1e-6);
    }

    #[test]
    fn divisors_must_be_as_many_as_there_are_pairs() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::Divisors(vec![1.0, 2.0]) };
        assert_eq!(rope.frequencies(4), [1.0, 0.01 / 2.0]);
        assert!(rope.validate(4).is_ok() && rope.validate(8).is_err());
    }
}
