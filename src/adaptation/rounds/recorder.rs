//! What a round shows while it goes on, written into the store and into metrics.

use std::time::Instant;

use async_trait::async_trait;
use serde_json::json;
use tracing::info;

use super::{Failure, Inner, questions::majority};
use crate::{
    adaptation::{
        learner::{self, LearnError, VoteMetrics, Voted},
        recipe::Recipe,
        round::Observer,
        trainer::UpdateMetrics,
    },
    store::{Attempt, RoundQuestion, RoundState, RoundStep, RoundUpdate},
};

/// Writes a round's progress into the store.
pub(super) struct Recorder<'a> {
    pub inner: &'a Inner,
    pub attempt: &'a Attempt,
    pub recipe: &'a Recipe,
    pub trained: &'a [RoundQuestion],
    /// Of the last sampling.
    pub votes: VoteMetrics,
    pub held_back: Option<VoteMetrics>,
    /// When the step began.
    pub since: Instant,
}

fn observer_error(failure: Failure) -> LearnError {
    match failure {
        Failure::Store(error) => error.into(),
        other => LearnError::Observer(other.to_string()),
    }
}

#[async_trait]
impl Observer for Recorder<'_> {
    async fn sampled(&mut self, updates: u32, voted: &[Voted], held_back: &[Voted]) -> Result<(), LearnError> {
        let rule = self.recipe.reward_rule();
        self.votes = learner::vote_metrics(voted, rule);
        self.held_back = (!held_back.is_empty()).then(|| learner::vote_metrics(held_back, rule));
        let unknown = self.votes.unknown + self.held_back.map_or(0, |votes| votes.unknown);
        self.inner.metrics.unknown_answers_total.inc_by(unknown as u64);
        // The first sampling is the live version's; the candidate meets the held-back questions at the gate.
        if updates > 0 {
            return self.inner.set_state(self.attempt, RoundState::Training).await.map_err(observer_error);
        }
        let row = |(question, voted): (&RoundQuestion, &Voted)| RoundQuestion {
            before_answer: majority(voted),
            before_ratio: Some(voted.tally.majority_ratio()),
            ..question.clone()
        };
        let rows: Vec<RoundQuestion> = self.trained.iter().zip(voted).map(row).collect();
        let (inner, attempt) = (self.inner, self.attempt);
        inner.patiently(|| inner.store.record_round_questions(attempt, &rows)).await.map_err(observer_error)?;
        self.inner.set_state(self.attempt, RoundState::Training).await.map_err(observer_error)
    }

    async fn updated(&mut self, updates: u32, metrics: Option<&UpdateMetrics>) -> Result<(), LearnError> {
        let (inner, attempt) = (self.inner, self.attempt);
        inner.metrics.round_majority_ratio.set(self.votes.majority_ratio);
        inner.metrics.round_reward.set(self.votes.reward);
        if let Some(metrics) = metrics {
            inner.metrics.round_entropy.set(metrics.entropy);
            inner.metrics.round_kl.set(metrics.kl);
        }
        info!(step = updates, majority_ratio = self.votes.majority_ratio, reward = self.votes.reward, "step done");
        let step = RoundStep {
            round_id: attempt.round(),
            step: updates,
            metrics: json!({ "votes": self.votes, "held_back": self.held_back, "update": metrics,
                             "seconds": self.since.elapsed().as_secs_f64() }),
        };
        self.since = Instant::now();
        inner.patiently(|| inner.store.record_step(attempt, &step)).await.map_err(observer_error)?;
        let last = updates == self.recipe.steps;
        let update = RoundUpdate {
            state: (!last).then_some(RoundState::Sampling),
            step: Some(updates),
            ..RoundUpdate::default()
        };
        inner.update(attempt, update).await.map_err(observer_error)
    }
}
