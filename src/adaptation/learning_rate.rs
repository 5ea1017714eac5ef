//! The learning rate of each step of a round.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Along a cosine (SGDR, arXiv 1608.03983, without restarts).
    Cosine,
    Linear,
    /// Not at all.
    Constant,
}

impl Decay {
    /// What a step's learning rate is of the highest one; steps are counted from 0. It rises in equal parts to 1 in the
    /// first `warmup` (a share) of the steps, and then falls so that it would reach 0 one step after the last. Neither
    /// end has a step at 0, which would draw rollouts for nothing.
    pub fn factor(self, step: u32, steps: u32, warmup: f64) -> f64 {
        let warmup = (warmup * f64::from(steps)).ceil();
        let number = f64::from(step) + 1.0;
        if number <= warmup {
            return number / warmup;
        }
        let done = (number - warmup) / (f64::from(steps) - warmup + 1.0);
        match self {
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Self::Linear => 1.0 - done,
            Self::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(decay: Decay, steps: u32, warmup: f64) -> Vec<f64> {
        (0..steps).map(|step| (decay.factor(step, steps, warmup) * 1000.0).round() / 1000.0).collect()
    }

    #[test]
    fn the_learning_rate_rises_to_its_top_and_falls_towards_zero() {
        let cosine = |steps, warmup| factors(Decay::Cosine, steps, warmup);
        assert_eq!(cosine(10, 0.4), [0.25, 0.5, 0.75, 1.0, 0.95, 0.812, 0.611, 0.389, 0.188, 0.05]);
        assert_eq!(cosine(2, 0.0), [0.75, 0.25]);
        assert_eq!(cosine(4, 1.0), [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(cosine(1, 0.4), [1.0]);
        assert_eq!(factors(Decay::Linear, 5, 0.4), [0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(factors(Decay::Constant, 4, 0.5), [0.5, 1.0, 1.0, 1.0]);
    }
}
