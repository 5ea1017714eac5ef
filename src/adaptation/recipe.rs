//! Every knob of a round, in one place.

use serde::{Deserialize, Serialize};

use crate::{
    adaptation::{
        advantage::Advantage,
        vote::{Reward, RewardRule},
    },
    adapters::gate::GateRules,
};

/// How a round samples, learns and is judged. The defaults bring the default model from 0.40 to 0.8 and more on the
/// eight-shot sums in ten steps (see the README's table).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Steps of a round: each samples anew and updates the adapter once.
    pub steps: u32,
    /// The most questions of a round; all of them take part in every step.
    pub questions: u32,
    /// Rollouts of each question in each step; the majority among them is the pseudo-label.
    pub votes: u32,
    /// Sampling temperature of the rollouts, above 0: a policy gradient needs samples that differ.
    pub temperature: f64,
    /// The most tokens of a rollout; unset, what the prompt template says.
    pub max_tokens: Option<usize>,
    /// With [`Reward::Share`] and [`Advantage::MeanOnly`] a question pushes as hard as it is sure of its answer. The
    /// majority's own reward, normalised, pushes for an answer that leads by one vote as hard as for any other: wrong
    /// ones then become unanimous before the other questions have taught better.
    pub reward: Reward,
    pub advantage: Advantage,
    /// A majority with a smaller share of all rollouts is not trained on, and neither is a tie, or one that leads the
    /// second answer by less than `min_margin` of all (as in SCRL, arXiv 2603.19880).
    pub min_majority_ratio: f64,
    pub min_margin: f64,
    /// The highest learning rate of a round; [`Self::learning_rate_at`] gives that of each step.
    pub learning_rate: f64,
    /// The part of the steps in which the learning rate rises. Labels are worst at the start, and what is learnt from
    /// them then decides which wrong answers become unanimous.
    pub warmup: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm.
    pub max_gradient_norm: f64,
    /// The importance ratio counts up to `1 - clip_low` and `1 + clip_high` (PPO, arXiv 1707.06347).
    pub clip_low: f64,
    pub clip_high: f64,
    /// Weight of the k3 estimate of the divergence from the base model (GRPO, arXiv 2402.03300).
    pub kl_coefficient: f64,
    /// LoRA rank and alpha of an adapter that starts anew; one that goes on keeps its own.
    pub lora_rank: usize,
    pub lora_alpha: f64,
    /// Distinct token positions that are trained at a time; bounds the memory of a step.
    pub micro_batch_tokens: usize,
    pub gate: GateRules,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            steps: 10,
            questions: 40,
            votes: 16,
            temperature: 0.8,
            max_tokens: None,
            reward: Reward::Share,
            advantage: Advantage::MeanOnly,
            min_majority_ratio: 0.2,
            min_margin: 0.0,
            learning_rate: 1.6e-4,
            warmup: 0.4,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
            clip_low: 0.2,
            clip_high: 0.2,
            kl_coefficient: 0.001,
            lora_rank: 16,
            lora_alpha: 32.0,
            micro_batch_tokens: 2048,
            gate: GateRules::default(),
        }
    }
}

impl Recipe {
    /// Checks every knob.
    ///
    /// # Errors
    /// Names the first knob that is out of range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        let share = |name: &str, value: f64| within(name, value, 0.0, 1.0);
        within("steps", f64::from(self.steps), 1.0, 1000.0)?;
        within("questions", f64::from(self.questions), 1.0, 10_000.0)?;
        within("votes", f64::from(self.votes), 2.0, 256.0)?;
        within("temperature", self.temperature, 0.01, 5.0)?;
        if let Some(tokens) = self.max_tokens {
            within("max_tokens", tokens as f64, 1.0, 1e6)?;
        }
        share("min_majority_ratio", self.min_majority_ratio)?;
        share("min_margin", self.min_margin)?;
        share("warmup", self.warmup)?;
        within("learning_rate", self.learning_rate, 1e-9, 1.0)?;
        share("weight_decay", self.weight_decay)?;
        within("max_gradient_norm", self.max_gradient_norm, 1e-6, 1e6)?;
        share("clip_low", self.clip_low)?;
        within("clip_high", self.clip_high, 0.0, 10.0)?;
        within("kl_coefficient", self.kl_coefficient, 0.0, 100.0)?;
        within("lora_rank", self.lora_rank as f64, 1.0, 512.0)?;
        within("lora_alpha", self.lora_alpha, 1e-3, 1e4)?;
        within("micro_batch_tokens", self.micro_batch_tokens as f64, 16.0, 1e6)?;
        within("gate.held_back", self.gate.held_back, 0.0, 0.9)?;
        share("gate.max_agreement_drop", self.gate.max_agreement_drop)?;
        share("gate.max_answer_rate_drop", self.gate.max_answer_rate_drop)?;
        within("gate.max_kl", self.gate.max_kl, 0.0, 1e3)
    }

    /// Which questions are learnt from, and what their rollouts earn.
    pub fn reward_rule(&self) -> RewardRule {
        RewardRule { reward: self.reward, min_ratio: self.min_majority_ratio, min_margin: self.min_margin }
    }

    /// The learning rate of a step, counted from 0: up to `learning_rate` in equal steps during the warm-up, then down
    /// along a cosine, which would reach 0 one step after the last (SGDR, arXiv 1608.03983, without restarts).
    pub fn learning_rate_at(&self, step: u32) -> f64 {
        let warmup = (self.warmup * f64::from(self.steps)).ceil();
        let number = f64::from(step) + 1.0;
        if number <= warmup {
            return self.learning_rate * number / warmup;
        }
        let done = (number - warmup) / (f64::from(self.steps) - warmup + 1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

fn within(name: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if value.is_finite() && (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{name} is {value}, it must be from {low} to {high}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Recipe::default().validate(), Ok(()));
    }

    #[test]
    fn the_learning_rate_rises_to_its_top_and_falls_towards_zero() {
        let rates = |steps, warmup| -> Vec<f64> {
            let recipe = Recipe { steps, warmup, learning_rate: 1.0, ..Recipe::default() };
            (0..steps).map(|step| (recipe.learning_rate_at(step) * 1000.0).round() / 1000.0).collect()
        };
        assert_eq!(rates(10, 0.4), [0.25, 0.5, 0.75, 1.0, 0.95, 0.812, 0.611, 0.389, 0.188, 0.05]);
        assert_eq!(rates(2, 0.0), [0.75, 0.25]);
        assert_eq!(rates(4, 1.0), [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(rates(1, 0.4), [1.0]);
    }

    #[test]
    fn a_knob_out_of_range_is_named_with_its_range() {
        let recipe = Recipe { votes: 1, ..Recipe::default() };
        assert_eq!(recipe.validate(), Err("votes is 1, it must be from 2 to 256".into()));
        let recipe = Recipe { learning_rate: f64::NAN, ..Recipe::default() };
        assert!(recipe.validate().is_err_and(|error| error.starts_with("learning_rate is NaN")));
    }
}
