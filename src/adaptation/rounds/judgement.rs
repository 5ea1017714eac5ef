//! What comes of a candidate: the gate, with its evaluation sets, and what a person decides about one that is held.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Failure, Inner, RoundError, Rounds, questions::majority};
use crate::{
    adaptation::{
        learner::{self, LearnError},
        recipe::Recipe,
        round::{self, Exam, Examined, Workbench},
        trainer::Trainer,
    },
    adapters::{
        gate::{self, Compared, Verdict},
        registry::RegistryError,
    },
    engine::handle::{Lease, Version},
    evaluation::Evaluator,
    store::{Attempt, Promoter, Round, RoundQuestion, RoundState, RoundUpdate},
};

/// What puts evaluation sets to versions as a round of this recipe puts its questions.
pub(super) fn evaluator(bench: &Workbench, recipe: &Recipe) -> Evaluator {
    Evaluator {
        engine: bench.engine.clone(),
        prompter: bench.prompter.clone(),
        samples: recipe.gate.evaluation_samples as usize,
        temperature: recipe.temperature as f32,
        max_tokens: recipe.max_tokens,
    }
}

impl Inner {
    /// Lets the candidate of a round meet the live version that it began with, and writes down what came of it.
    pub(super) async fn judge(
        &self,
        (attempt, round): (&Attempt, &Round),
        (trained, held): (&[RoundQuestion], &[RoundQuestion]),
        (version, trainer): (&Version, Trainer),
        recipe: &Recipe,
        cancel: &CancellationToken,
    ) -> Result<Verdict, Failure> {
        let live = self.registry.lease(&round.parent_version).await?;
        // The candidate as it was saved, not as it was trained: what is examined is what may go live.
        let candidate = self.registry.lease(version).await?;
        let (leases, seed) = ((&live, &candidate), round.seed);
        let asked = if held.is_empty() { trained } else { held };
        let texts: Vec<String> = asked.iter().map(|question| question.text.clone()).collect();
        let exam = Exam { questions: &texts, held_back: !held.is_empty(), seed: learner::mix(seed, u64::MAX) };
        let examined = round::examine(&self.bench, leases, trainer, exam, recipe, cancel).await?;
        self.record_votes(attempt, asked, &examined).await?;
        let evaluator = evaluator(&self.bench, recipe);
        let compared = self.compare(&evaluator, leases, learner::mix(seed, u64::MAX - 1), cancel).await?;
        let verdict = gate::judge(&recipe.gate, examined.shown, compared);
        let update = RoundUpdate { verdict: Some(json!(verdict)), ..RoundUpdate::default() };
        self.update(attempt, update).await?;
        Ok(verdict)
    }

    async fn record_votes(
        &self,
        attempt: &Attempt,
        asked: &[RoundQuestion],
        examined: &Examined,
    ) -> Result<(), Failure> {
        let mut rows = Vec::with_capacity(asked.len());
        for ((question, before), after) in asked.iter().zip(&examined.live).zip(&examined.candidate) {
            rows.push(RoundQuestion {
                held_back: examined.shown.held_back,
                before_answer: majority(before),
                before_ratio: Some(before.tally.majority_ratio()),
                after_answer: majority(after),
                after_ratio: Some(after.tally.majority_ratio()),
                ..question.clone()
            });
        }
        self.patiently(|| self.store.record_round_questions(attempt, &rows)).await
    }

    /// What both versions get right of every evaluation set, drawn with the same random numbers.
    async fn compare(
        &self,
        evaluator: &Evaluator,
        leases: (&Lease, &Lease),
        seed: u64,
        cancel: &CancellationToken,
    ) -> Result<Vec<Compared>, Failure> {
        let mut compared = Vec::new();
        for summary in self.store.evaluation_sets().await? {
            // Somebody may have removed it in this moment.
            let Some(set) = self.store.evaluation_set(&summary.name).await? else { continue };
            let comparing = evaluator.compare(&set, leases, seed);
            let met = cancel.run_until_cancelled(comparing).await.ok_or(LearnError::Cancelled)?;
            compared.push(met.map_err(LearnError::from)?);
        }
        Ok(compared)
    }

    /// The round, and what it made, if it waits for a person.
    async fn held(&self, id: Uuid) -> Result<(Round, Version), RoundError> {
        let round = self.store.round(id).await?.ok_or(RoundError::Missing(id))?;
        match (round.state, round.candidate_version.clone()) {
            (RoundState::Held, Some(candidate)) => Ok((round, candidate)),
            (state, _) => {
                Err(RoundError::Conflict(format!("round {id} waits for nobody's decision: it is {}", json!(state))))
            }
        }
    }

    async fn promote(&self, id: Uuid) -> Result<(), RoundError> {
        let (round, candidate) = self.held(id).await?;
        match self.registry.promote(Promoter::Person(id), &round.parent_version, &candidate).await {
            Err(RegistryError::Conflict { expected, found }) => {
                return Err(RoundError::Stale { id, parent: expected, live: found });
            }
            promoted => promoted?,
        }
        self.count_decision(RoundState::Promoted);
        info!(%id, live = %candidate, "an operator promoted the candidate of a round");
        Ok(())
    }

    async fn reject(&self, id: Uuid) -> Result<(), RoundError> {
        self.store.reject_held(id, "an operator rejected it").await?;
        self.count_decision(RoundState::Rejected);
        info!(%id, "an operator rejected the candidate of a round");
        if let Err(error) = self.registry.prune().await {
            warn!(%error, "some files of adapters that nobody needs are still there");
        }
        Ok(())
    }

    fn count_decision(&self, state: RoundState) {
        let decision = json!(state);
        self.metrics.rounds_decided_total.with_label_values(&[decision.as_str().unwrap_or_default()]).inc();
    }
}

impl Rounds {
    /// Makes the candidate of a round live that waits for a person.
    ///
    /// # Errors
    /// If there is no such round, or it does not wait; [`RoundError::Stale`] if another version than the one that it
    /// started from, and was compared with, is live.
    pub async fn promote(&self, id: Uuid) -> Result<(), RoundError> {
        let inner = self.0.clone();
        // A task of its own: a client that goes away must not leave the new version live in the store only.
        tokio::spawn(async move { inner.promote(id).await }).await.map_err(|_| RoundError::Stopping)?
    }

    /// Dismisses the candidate of a round that waits for a person.
    ///
    /// # Errors
    /// If there is no such round, or it does not wait.
    pub async fn reject(&self, id: Uuid) -> Result<(), RoundError> {
        let inner = self.0.clone();
        tokio::spawn(async move { inner.reject(id).await }).await.map_err(|_| RoundError::Stopping)?
    }
}
