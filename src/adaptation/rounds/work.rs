//! The work of a round, from its questions to its end, which is written down under the attempt that this server has at it.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument, error, info, warn};

use super::{
    CANCELLED, Failure, Inner,
    questions::{held_back, taking_part, told},
    recorder::Recorder,
    watching::AFTER_A_ROLL_BACK,
};
use crate::{
    adaptation::{
        learner::{LearnError, VoteMetrics},
        recipe::Recipe,
        round::{self, Plan},
    },
    adapters::{format, gate::Decision, registry::RegistryError},
    engine::model::device,
    store::{Attempt, GivenBack, Promoter, Round, RoundQuestion, RoundState, RoundUpdate, StoreError},
};

/// Signs of life come three times in a lease, so that one may get lost.
const HEARTBEATS: u32 = 3;

/// How long a write of a round waits before it is tried again while the database is away.
const RETRY: Duration = Duration::from_secs(2);

impl Inner {
    /// Runs a round to its end and writes down how it ended.
    pub(super) async fn run(self: Arc<Self>, attempt: Attempt, round: Round, cancel: CancellationToken) {
        info!(questions = round.questions, parent = %round.parent_version, "the round begins");
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_alive(attempt, cancel.clone())));
        // A task of its own: if it panics, the round has failed, and the next one can begin. On a thread of its own:
        // what it does between its waits (encoding questions, counting votes, hashing adapters) takes longer than
        // requests should wait for a worker.
        let driving = self.clone().drive(attempt, round, cancel).in_current_span();
        let runtime = Handle::current();
        let outcome = tokio::task::spawn_blocking(move || runtime.block_on(driving))
            .await
            .unwrap_or_else(|error| Err(Failure::Panicked(error.to_string())));
        drop(heartbeat);
        self.settle(&attempt, outcome).await;
        self.metrics.round_in_progress.set(0);
        // Its end can be seen now, so the next may begin.
        *self.running() = None;
        if let Err(error) = self.registry.prune().await {
            warn!(%error, "some files of adapters that nobody needs are still there");
        }
    }

    /// Writes down how a round ended, or leaves it to be gone on with.
    async fn settle(&self, attempt: &Attempt, outcome: Result<(RoundState, Option<String>), Failure>) {
        let is_cancelled = self.close_cancellation();
        // What training took of a device is free for others, however it ended. This waits for the step under way.
        let decoder = self.bench.decoder.clone();
        let looked = tokio::task::spawn_blocking(move || {
            device::give_back(decoder.device());
            device::is_gone(decoder.device())
        });
        // Then the engine stops as well, as soon as it looks.
        let is_device_gone = looked.await.unwrap_or(false);
        let (state, reason) = match outcome {
            Ok((state, _)) if is_cancelled && state != RoundState::Promoted => {
                (RoundState::Cancelled, Some(CANCELLED.into()))
            }
            Ok(ended) => ended,
            // A verdict on the policy, as the gate's is: nothing is broken, and nobody needs to repair anything.
            Err(Failure::Learn(LearnError::GivenUp(alarm))) => {
                self.metrics.rounds_given_up_total.with_label_values(&[alarm.rule.name()]).inc();
                rejected(alarm.to_string())
            }
            Err(failure) => {
                let was_interrupted = matches!(failure, Failure::Learn(LearnError::Cancelled));
                let is_of_the_process = is_device_gone || failure.is_of_the_process();
                let is_stopping = self.stopping.is_cancelled() && !is_of_the_process;
                let may_go_on = is_stopping || is_of_the_process || failure.may_pass();
                if may_go_on && !is_cancelled {
                    let why = if is_stopping { GivenBack::Stopping } else { GivenBack::Failed };
                    return self.give_back(attempt, why, &failure).await;
                }
                // By an operator; or the round is another server's by now, and the store takes no word about it.
                match may_go_on || was_interrupted {
                    true => (RoundState::Cancelled, Some(CANCELLED.into())),
                    false => (RoundState::Failed, Some(failure.to_string())),
                }
            }
        };
        // What could not be stored is in the log.
        let _ = self.put_away(attempt, state, reason).await;
    }

    /// Writes down how a round ended.
    ///
    /// # Errors
    /// If that could not be stored.
    pub(super) async fn put_away(
        &self,
        attempt: &Attempt,
        state: RoundState,
        reason: Option<String>,
    ) -> Result<(), Failure> {
        let update = RoundUpdate { state: Some(state), reason: reason.clone(), ..RoundUpdate::default() };
        let stored = match state {
            // The swap has ended it.
            RoundState::Promoted => Ok(()),
            _ => self.update(attempt, update).await,
        };
        match &stored {
            Err(Failure::Store(StoreError::Conflict(reason))) => warn!(reason, "nothing more of it counts"),
            Err(error) => warn!(%error, "the round's end could not be stored; it is gone on with from its last step"),
            Ok(()) => {
                match state {
                    RoundState::Failed => error!(reason, "the round failed; the live version is as it was"),
                    _ => info!(?state, reason, "the round ended"),
                }
                let outcome = json!(state);
                self.metrics.rounds_total.with_label_values(&[outcome.as_str().unwrap_or_default()]).inc();
                if let Err(error) = self.options.checkpoints.remove(attempt.round()) {
                    warn!(%error, "the round's checkpoint is still there");
                }
            }
        }
        stored
    }

    /// Leaves a round that was interrupted to the next start of this server, to its next look, or to another one.
    async fn give_back(&self, attempt: &Attempt, why: GivenBack, interruption: &Failure) {
        match self.patiently(|| self.store.give_back(attempt, why)).await {
            Ok(()) => info!(%interruption, "the round waits to be gone on with"),
            Err(error) => warn!(%error, "the round could not be given back; it waits until its lease has run out"),
        }
    }

    /// Shows that the round is alive; cancels it if somebody else has taken it over.
    async fn keep_alive(self: Arc<Self>, attempt: Attempt, cancel: CancellationToken) {
        loop {
            tokio::time::sleep(self.options.lease() / HEARTBEATS).await;
            match self.store.heartbeat(&attempt, self.options.lease_seconds).await {
                Ok(()) => {}
                Err(StoreError::Conflict(reason)) => {
                    warn!(reason, "the round is no longer this server's");
                    cancel.cancel();
                    return;
                }
                // The database may be away for a moment; the lease outlasts two missed beats.
                Err(error) => warn!(%error, "the round's lease could not be prolonged"),
            }
        }
    }

    /// The round itself: how it ended, and why if it was not promoted.
    async fn drive(
        self: Arc<Self>,
        attempt: Attempt,
        round: Round,
        cancel: CancellationToken,
    ) -> Result<(RoundState, Option<String>), Failure> {
        let (attempt, round, cancel) = (&attempt, &round, &cancel);
        let recipe: Recipe = serde_json::from_value(round.recipe.clone()).map_err(Failure::Recipe)?;
        let lease = self.registry.lease(&round.parent_version).await?;
        let start = match round.parent_version.is_base() {
            true => None,
            false => Some(self.registry.adapter(&round.parent_version).await?),
        };
        let seed = round.seed;
        let (questions, set_aside) = taking_part(self.store.round_questions(round.id).await?, seed);
        if !set_aside.is_empty() {
            info!(reasons = told(&set_aside), "some questions are passed over");
        }
        let (held, trained) = questions.split_at(held_back(questions.len(), recipe.gate.held_back));
        let chosen = RoundUpdate {
            state: Some(RoundState::Sampling),
            questions: Some(questions.len() as u32),
            held_back: Some(held.len() as u32),
            ..RoundUpdate::default()
        };
        self.update(attempt, chosen).await?;
        if questions.is_empty() {
            return Ok(rejected(format!("nothing is left to learn from now: {}", told(&set_aside))));
        }
        if round.started_at.is_some() {
            let texts = questions.iter().map(|question| question.text.as_str());
            let (begun, fitting) = (recipe.pass_rows(), round::rows_that_fit(&self.bench, &recipe, texts)?);
            if fitting < begun {
                return Err(Failure::Memory { begun, fitting });
            }
        }
        let texts =
            |questions: &[RoundQuestion]| questions.iter().map(|question| question.text.clone()).collect::<Vec<_>>();
        let plan = Plan {
            questions: texts(trained),
            held_back: if recipe.guard.enabled { texts(held) } else { Vec::new() },
            lease: lease.clone(),
            start,
            recipe: recipe.clone(),
            control: None,
            seed,
            checkpoint: Some(self.options.checkpoints.path(round.id)),
        };
        let mut recorder = Recorder {
            inner: &self,
            attempt,
            recipe: &recipe,
            trained,
            votes: VoteMetrics::default(),
            held_back: None,
            since: Instant::now(),
        };
        let learnt = round::learn(&self.bench, plan, &mut recorder, cancel).await?;
        if learnt.updates == 0 {
            return Ok(rejected("no question could teach anything: votes were tied, weak or of one mind"));
        }
        let base_model = self.bench.engine.info().name.clone();
        let files = format::encode(&learnt.config, &learnt.tensors, &base_model)?;
        let parent = round.parent_version.clone();
        let add = || self.registry.add(files.clone(), parent.clone(), Some(attempt));
        let version = self.patiently(add).await?;
        let verdict =
            self.judge((attempt, round), (trained, held), (&version, learnt.trainer), &recipe, cancel).await?;
        match verdict.decision {
            Decision::Reject => return Ok(rejected(verdict.reasons.join("; "))),
            Decision::Hold => return Ok((RoundState::Held, Some(verdict.reasons.join("; ")))),
            Decision::Promote => {}
        }
        // From here on it is too late: nobody is told that a round is cancelled which then goes live.
        if self.close_cancellation() || cancel.is_cancelled() {
            return Err(LearnError::Cancelled.into());
        }
        if self.patiently(|| self.store.was_rolled_back(&self.registry.model().fingerprint)).await? {
            return Ok((RoundState::Held, Some(AFTER_A_ROLL_BACK.into())));
        }
        match self.patiently(|| self.registry.promote(Promoter::Gate(*attempt), &round.parent_version, &version)).await
        {
            Ok(()) => {
                info!(previous = %round.parent_version, live = %version, "the candidate is live");
                Ok((RoundState::Promoted, None))
            }
            Err(Failure::Registry(error @ RegistryError::Conflict { .. })) => Ok(rejected(error.to_string())),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn update(&self, attempt: &Attempt, update: RoundUpdate) -> Result<(), Failure> {
        self.patiently(|| self.store.update_round(attempt, update.clone())).await
    }

    /// Does a write of a round that runs, again and again while the database is away: what was learnt in minutes must not
    /// be lost to seconds. After a lease's time without it the round is no longer this server's.
    pub(super) async fn patiently<T, E: Into<Failure>, F: Future<Output = Result<T, E>>>(
        &self,
        mut write: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.options.lease();
        loop {
            match write().await.map_err(Into::into) {
                Err(error) if error.may_pass() && Instant::now() + RETRY < deadline => {
                    warn!(%error, "the round's progress could not be stored yet");
                    // A server that stops tries once more, and then leaves it.
                    if self.stopping.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                        return write().await.map_err(Into::into);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) async fn set_state(&self, attempt: &Attempt, state: RoundState) -> Result<(), Failure> {
        let update = RoundUpdate { state: Some(state), ..RoundUpdate::default() };
        self.update(attempt, update).await
    }
}

fn rejected(reason: impl Into<String>) -> (RoundState, Option<String>) {
    (RoundState::Rejected, Some(reason.into()))
}
