//! Every knob of a round, in one place.

use serde::{Deserialize, Serialize};

use crate::{
    adaptation::{
        advantage::Advantage,
        batch::LossAverage,
        guard::GuardRules,
        learning_rate::Decay,
        loss::{Kl, KlReference, LossConfig},
        memory::Place,
        selection::SelectionRules,
        vote::{Reward, RewardRule, Teacher},
        watch::WatchRules,
    },
    adapters::gate::GateRules,
    engine::model::lora::Targets,
};

/// What a recipe is before any knob is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// For a small model and few steps.
    #[default]
    Default,
    /// TTRL as its authors run it (arXiv 2504.16084, and the scripts of PRIME-RL/TTRL), but for the learning rate.
    Ttrl,
}

impl Preset {
    /// The recipe where nothing else is set.
    pub fn recipe(self) -> Recipe {
        match self {
            Self::Default => Recipe::default(),
            Self::Ttrl => Recipe::ttrl(),
        }
    }
}

/// How a round samples, learns and is judged. The defaults bring the default model from 0.40 to 0.8 and more on the
/// eight-shot sums in ten steps (see the README's table). `docs/adaptation.md` explains each knob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What the other knobs are where they are not set.
    pub preset: Preset,
    /// Steps of a round: each samples anew and updates the adapter.
    pub steps: u32,
    /// The most questions of a round; all of them take part in every step.
    pub questions: u32,
    /// Which ones.
    pub selection: SelectionRules,
    /// Rollouts of each question in each step; the majority among them is the pseudo-label.
    pub votes: u32,
    /// How many of a question's rollouts are trained on, the first ones; unset, or beyond `votes`, all of them. Every
    /// one votes.
    pub train_rollouts: Option<u32>,
    /// Sampling of a question stops after a part of its votes if the leader would stay ahead with this probability
    /// (Adaptive-Consistency, arXiv 2305.11860); unset, all are drawn.
    pub stop_confidence: Option<f64>,
    /// Sampling temperature of the rollouts, above 0: a policy gradient needs samples that differ.
    pub temperature: f64,
    /// The most tokens of a rollout; unset, what the prompt template says.
    pub max_tokens: Option<usize>,
    /// With [`Reward::Share`] and [`Advantage::MeanOnly`] a question pushes as hard as it is sure of its answer. The
    /// majority's own reward, normalised, pushes for an answer that leads by one vote as hard as for any other: wrong
    /// ones then become unanimous before the other questions have taught better.
    pub reward: Reward,
    pub advantage: Advantage,
    pub teacher: Teacher,
    /// A majority with a smaller share of all rollouts is not trained on, and neither is a tie, or one that leads the
    /// second answer by less than `min_margin` of all (as in SCRL, arXiv 2603.19880).
    pub min_majority_ratio: f64,
    pub min_margin: f64,
    /// The highest learning rate of a round; [`Self::learning_rate_at`] gives that of each step.
    pub learning_rate: f64,
    /// The part of the steps in which the learning rate rises. Labels are worst at the start, and what is learnt from
    /// them then decides which wrong answers become unanimous.
    pub warmup: f64,
    /// How it falls after that.
    pub decay: Decay,
    /// How often a step goes over its rollouts, and in how many parts; the adapter is updated after each part. What
    /// follows the first update is off-policy, which the importance ratio makes up for (PPO, arXiv 1707.06347).
    pub epochs: u32,
    pub minibatches: u32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm.
    pub max_gradient_norm: f64,
    /// What a token weighs in the loss of a step.
    pub loss_average: LossAverage,
    /// The importance ratio counts up to `1 - clip_low` and `1 + clip_high` (PPO, arXiv 1707.06347).
    pub clip_low: f64,
    pub clip_high: f64,
    /// How the divergence from a reference counts in the loss, with what weight, and which version is the reference.
    pub kl: Kl,
    pub kl_coefficient: f64,
    pub kl_reference: KlReference,
    /// Weight of the policy's entropy, which is rewarded.
    pub entropy_coefficient: f64,
    /// LoRA rank, alpha and targets of an adapter that starts anew; one that goes on keeps its own.
    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub lora_targets: Targets,
    /// The most distinct token positions that are trained at a time; a round has fewer if they do not fit into memory.
    /// Unset, what suits the device ([`Place::pass_rows`]).
    pub micro_batch_tokens: Option<usize>,
    /// The most memory in MiB that training may take beyond the model and the engine's cache; unset, what is free when the
    /// round begins.
    pub memory_mib: Option<u64>,
    pub gate: GateRules,
    pub guard: GuardRules,
    /// Of what it promotes.
    pub watch: WatchRules,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            preset: Preset::Default,
            steps: 10,
            questions: 40,
            selection: SelectionRules::default(),
            votes: 16,
            train_rollouts: None,
            stop_confidence: None,
            temperature: 0.8,
            max_tokens: None,
            reward: Reward::Share,
            advantage: Advantage::MeanOnly,
            teacher: Teacher::Policy,
            min_majority_ratio: 0.2,
            min_margin: 0.0,
            learning_rate: 1.6e-4,
            warmup: 0.4,
            decay: Decay::Cosine,
            epochs: 1,
            minibatches: 1,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
            loss_average: LossAverage::TokenMean,
            clip_low: 0.2,
            clip_high: 0.2,
            kl: Kl::K3,
            kl_coefficient: 0.001,
            kl_reference: KlReference::Base,
            entropy_coefficient: 0.0,
            lora_rank: 16,
            lora_alpha: 32.0,
            lora_targets: Targets::all(),
            micro_batch_tokens: None,
            memory_mib: None,
            gate: GateRules::default(),
            guard: GuardRules::default(),
            watch: WatchRules::default(),
        }
    }
}

impl Recipe {
    fn ttrl() -> Self {
        Self {
            preset: Preset::Ttrl,
            questions: 8,
            votes: 64,
            train_rollouts: Some(32),
            temperature: 1.0,
            reward: Reward::Majority,
            advantage: Advantage::GroupNormalised,
            min_majority_ratio: 0.0,
            min_margin: 0.0,
            // Not the authors' 5e-7: they move all weights, and an adapter wants much larger steps. `docs/adaptation.md`
            // says what is known of this one.
            learning_rate: 1e-4,
            warmup: 0.03,
            decay: Decay::Cosine,
            epochs: 1,
            minibatches: 1,
            loss_average: LossAverage::TokenMean,
            clip_low: 0.2,
            clip_high: 0.2,
            kl: Kl::K3,
            kl_coefficient: 0.001,
            kl_reference: KlReference::Base,
            entropy_coefficient: 0.0,
            ..Self::default()
        }
    }

    /// Checks every knob.
    ///
    /// # Errors
    /// Names the first knob that is out of range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        let share = |name: &str, value: f64| within(name, value, 0.0, 1.0);
        within("steps", f64::from(self.steps), 1.0, 1000.0)?;
        within("questions", f64::from(self.questions), 1.0, 10_000.0)?;
        within("votes", f64::from(self.votes), 2.0, 256.0)?;
        if let Some(rollouts) = self.train_rollouts {
            // The advantage of a single rollout is 0.
            within("train_rollouts", f64::from(rollouts), 2.0, 256.0)?;
        }
        if let Some(confidence) = self.stop_confidence {
            within("stop_confidence", confidence, 0.5, 1.0)?;
        }
        within("temperature", self.temperature, 0.01, 5.0)?;
        if let Some(tokens) = self.max_tokens {
            within("max_tokens", tokens as f64, 1.0, 1e6)?;
        }
        share("min_majority_ratio", self.min_majority_ratio)?;
        share("min_margin", self.min_margin)?;
        share("warmup", self.warmup)?;
        within("learning_rate", self.learning_rate, 1e-9, 1.0)?;
        within("epochs", f64::from(self.epochs), 1.0, 100.0)?;
        within("minibatches", f64::from(self.minibatches), 1.0, 1000.0)?;
        share("weight_decay", self.weight_decay)?;
        within("max_gradient_norm", self.max_gradient_norm, 1e-6, 1e6)?;
        share("clip_low", self.clip_low)?;
        within("clip_high", self.clip_high, 0.0, 10.0)?;
        within("kl_coefficient", self.kl_coefficient, 0.0, 100.0)?;
        within("entropy_coefficient", self.entropy_coefficient, 0.0, 100.0)?;
        within("lora_rank", self.lora_rank as f64, 1.0, 512.0)?;
        within("lora_alpha", self.lora_alpha, 1e-3, 1e4)?;
        if let Some(rows) = self.micro_batch_tokens {
            within("micro_batch_tokens", rows as f64, 16.0, 1e6)?;
        }
        if let Some(mib) = self.memory_mib {
            within("memory_mib", mib as f64, 1.0, 1e9)?;
        }
        share("selection.max_client_share", self.selection.max_client_share)?;
        share("selection.settled_ratio", self.selection.settled_ratio)?;
        // A candidate brings no more of its past.
        within("selection.settled_rounds", self.selection.settled_rounds as f64, 0.0, 4.0)?;
        share("selection.max_flip_rate", self.selection.max_flip_rate)?;
        within("selection.rest", self.selection.rest as f64, 0.0, 4.0)?;
        self.validate_gate()?;
        self.validate_guard()?;
        self.validate_watch()
    }

    fn validate_gate(&self) -> Result<(), String> {
        let gate = &self.gate;
        within("gate.held_back", gate.held_back, 0.0, 0.9)?;
        within("gate.max_agreement_drop", gate.max_agreement_drop, 0.0, 1.0)?;
        within("gate.max_answer_rate_drop", gate.max_answer_rate_drop, 0.0, 1.0)?;
        within("gate.max_length_ratio", gate.max_length_ratio, 1.0, 1e6)?;
        within("gate.max_kl", gate.max_kl, 0.0, 1e3)?;
        within("gate.evaluation_samples", f64::from(gate.evaluation_samples), 1.0, 256.0)?;
        within("gate.max_accuracy_drop", gate.max_accuracy_drop, 0.0, 1.0)?;
        within("gate.confidence", gate.confidence, 0.5, 0.9999)
    }

    fn validate_guard(&self) -> Result<(), String> {
        let guard = &self.guard;
        within("guard.max_gradient_norm", guard.max_gradient_norm, 1e-6, 1e9)?;
        within("guard.max_kl", guard.max_kl, 0.0, 1e3)?;
        for (name, value) in [
            ("guard.min_entropy", guard.min_entropy),
            ("guard.min_length", guard.min_length),
            ("guard.max_answer_rate_drop", guard.max_answer_rate_drop),
            ("guard.max_held_back_drop", guard.max_held_back_drop),
            ("guard.max_agreement_rise", guard.max_agreement_rise),
        ] {
            within(name, value, 0.0, 1.0)?;
        }
        Ok(())
    }

    fn validate_watch(&self) -> Result<(), String> {
        let watch = &self.watch;
        // At least one look, and no more in memory than some dozens of megabytes.
        within("watch.answers", f64::from(watch.answers), 32.0, 10_000.0)?;
        within("watch.hours", f64::from(watch.hours), 0.0, 720.0)?;
        within("watch.confidence", watch.confidence, 0.5, 0.9999)?;
        for (name, value) in [
            ("watch.max_agreement_drop", watch.max_agreement_drop),
            ("watch.max_answer_rate_drop", watch.max_answer_rate_drop),
            ("watch.max_good_drop", watch.max_good_drop),
        ] {
            within(name, value, 0.0, 1.0)?;
        }
        Ok(())
    }

    /// Which questions are learnt from, and what their rollouts earn.
    pub fn reward_rule(&self) -> RewardRule {
        RewardRule { reward: self.reward, min_ratio: self.min_majority_ratio, min_margin: self.min_margin }
    }

    /// The constants of the loss.
    pub fn loss_config(&self) -> LossConfig {
        LossConfig {
            clip_low: self.clip_low,
            clip_high: self.clip_high,
            kl: self.kl,
            kl_coefficient: self.kl_coefficient,
            entropy_coefficient: self.entropy_coefficient,
        }
    }

    /// How many rows are trained at a time, at most. A round has the number set that fits its device.
    pub fn pass_rows(&self) -> usize {
        self.micro_batch_tokens.unwrap_or(Place::Machine.pass_rows())
    }

    /// How many rollouts of each question are trained on.
    pub fn trained_rollouts(&self) -> usize {
        self.train_rollouts.map_or(self.votes, |rollouts| rollouts.min(self.votes)) as usize
    }

    /// The learning rate of a step, counted from 0.
    pub fn learning_rate_at(&self, step: u32) -> f64 {
        self.learning_rate * self.decay.factor(step, self.steps, self.warmup)
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
    fn presets_are_valid_and_say_which_they_are() {
        for preset in [Preset::Default, Preset::Ttrl] {
            let recipe = preset.recipe();
            assert_eq!((recipe.preset, recipe.validate()), (preset, Ok(())));
        }
    }

    #[test]
    fn a_knob_out_of_range_is_named_with_its_range() {
        let recipe = Recipe { votes: 1, ..Recipe::default() };
        assert_eq!(recipe.validate(), Err("votes is 1, it must be from 2 to 256".into()));
        let recipe = Recipe { learning_rate: f64::NAN, ..Recipe::default() };
        assert!(recipe.validate().is_err_and(|error| error.starts_with("learning_rate is NaN")));
        let watch = WatchRules { answers: 31, ..WatchRules::default() };
        let refused = Recipe { watch, ..Recipe::default() }.validate();
        assert_eq!(refused, Err("watch.answers is 31, it must be from 32 to 10000".into()));
    }
}
