//! Sets on a live server: kept in the store, and run on a version when an operator asks. One run at a time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{EvaluationError, Evaluator, MAX_SETS, SetError, sets};
use crate::{
    adapters::registry::Registry,
    engine::handle::{Lease, Version},
    grading::{Accuracy, Mark},
    statistics::{self, Interval},
    store::{EvaluationItem, EvaluationSet, SharedStore},
};

/// How many runs are remembered, until the server stops: they are a figure each, and can be repeated.
const MAX_KEPT: usize = 100;

/// Every run draws the same random numbers, so that it can be repeated, and two versions be compared.
const SEED: u64 = 0;

/// How sure a score's interval is at each of its ends.
const CONFIDENCE: f64 = 0.975;

/// A set that is, or was, put to a version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    pub id: Uuid,
    pub set: String,
    pub version: Version,
    pub created_at: DateTime<Utc>,
    #[serde(flatten)]
    pub state: RunState,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunState {
    Running,
    Done { score: Score },
    Failed { reason: String },
}

/// What a version gets right of a set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Items that were asked, and those that could not be under the settings of now.
    pub items: usize,
    pub skipped: usize,
    /// Items whose majority is right.
    pub right: usize,
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Of the share of right majorities, 95% on two sides.
    pub interval: Interval,
}

impl Score {
    fn of(marks: &[Option<Mark>]) -> Self {
        let asked: Vec<&Mark> = marks.iter().flatten().collect();
        let right = asked.iter().filter(|mark| mark.majority).count();
        Self {
            items: asked.len(),
            skipped: marks.len() - asked.len(),
            right,
            interval: statistics::wilson(right, asked.len(), CONFIDENCE),
            accuracy: Accuracy::of(asked),
        }
    }
}

/// Keeps the sets of a server, and runs them.
pub struct Evaluations {
    evaluator: Arc<Evaluator>,
    registry: Arc<Registry>,
    store: SharedStore,
    /// The last one at the end; at most one of them is running.
    runs: Mutex<VecDeque<Run>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Evaluations {
    pub fn new(evaluator: Arc<Evaluator>, registry: Arc<Registry>, store: SharedStore) -> Self {
        Self {
            evaluator,
            registry,
            store,
            runs: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Adds a set, or replaces the one of that name.
    ///
    /// # Errors
    /// If it is not usable: the first item that is not is named.
    pub async fn put(&self, name: String, items: Vec<EvaluationItem>) -> Result<EvaluationSet, EvaluationError> {
        sets::check(&name, &items)?;
        let known = self.store.evaluation_sets().await?;
        if known.len() >= MAX_SETS && !known.iter().any(|set| set.name == name) {
            return Err(SetError::Full.into());
        }
        // As the store keeps it.
        let set = EvaluationSet { name, created_at: Utc::now().trunc_subsecs(6), items };
        let evaluator = self.evaluator.clone();
        let checking = tokio::task::spawn_blocking(move || evaluator.check(&set.items).map(|()| set));
        let set = checking.await.map_err(|_| EvaluationError::Stopping)??;
        self.store.put_evaluation_set(&set).await?;
        Ok(set)
    }

    /// Begins to put a set to a version, the live one if none is named.
    ///
    /// # Errors
    /// If there is no such set or version, or another run has not ended.
    pub async fn start(self: &Arc<Self>, name: &str, version: Option<&str>) -> Result<Run, EvaluationError> {
        let set = self.store.evaluation_set(name).await?.ok_or_else(|| EvaluationError::Missing(name.into()))?;
        let lease = self.registry.named(version).await?;
        let run = Run {
            id: Uuid::now_v7(),
            set: set.name.clone(),
            version: lease.version().clone(),
            created_at: Utc::now(),
            state: RunState::Running,
        };
        self.claim(&run)?;
        self.tasks.spawn(self.clone().run(run.id, set, lease));
        Ok(run)
    }

    /// Takes the one place for a run that this server has.
    fn claim(&self, run: &Run) -> Result<(), EvaluationError> {
        let mut runs = self.runs();
        if self.stopping.is_cancelled() {
            return Err(EvaluationError::Stopping);
        }
        if let Some(other) = runs.iter().find(|run| run.state == RunState::Running) {
            return Err(EvaluationError::Running(other.set.clone()));
        }
        runs.push_back(run.clone());
        if runs.len() > MAX_KEPT {
            runs.pop_front();
        }
        Ok(())
    }

    async fn run(self: Arc<Self>, id: Uuid, set: EvaluationSet, lease: Lease) {
        // On a thread of its own: encoding questions and grading answers takes longer than requests should wait.
        let (evaluations, runtime) = (self.clone(), Handle::current());
        let work = move || runtime.block_on(evaluations.marks(&set, &lease));
        let state = match tokio::task::spawn_blocking(work).await {
            Ok(Some(Ok(marks))) => RunState::Done { score: Score::of(&marks) },
            Ok(Some(Err(error))) => RunState::Failed { reason: error.to_string() },
            Ok(None) => RunState::Failed { reason: EvaluationError::Stopping.to_string() },
            Err(panic) => RunState::Failed { reason: format!("a defect ended it: {panic}") },
        };
        tracing::info!(%id, ?state, "the run of an evaluation set ended");
        if let Some(run) = self.runs().iter_mut().find(|run| run.id == id) {
            run.state = state;
        }
    }

    /// Nothing if the server stops.
    async fn marks(&self, set: &EvaluationSet, lease: &Lease) -> Option<Result<Vec<Option<Mark>>, EvaluationError>> {
        let marks = self.stopping.run_until_cancelled(self.evaluator.marks(set, lease, SEED)).await?;
        Some(marks.map_err(EvaluationError::from))
    }

    /// The runs of a set that are remembered, newest first.
    pub fn of(&self, set: &str) -> Vec<Run> {
        self.runs().iter().rev().filter(|run| run.set == set).cloned().collect()
    }

    /// Ends the run that is under way, starts no more, and waits for its end.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn runs(&self) -> MutexGuard<'_, VecDeque<Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_counts_what_was_asked() {
        let mark = |majority, share| Some(Mark { majority, share, reward_accuracy: Some(0.5) });
        let score = Score::of(&[mark(true, 0.75), None, mark(false, 0.25), mark(true, 0.5), mark(false, 0.0)]);
        assert_eq!((score.items, score.skipped, score.right), (4, 1, 2));
        let Accuracy { pass_at_1, pass_at_n, maj_at_n, .. } = score.accuracy;
        assert_eq!((pass_at_1, pass_at_n, maj_at_n), (0.375, 0.75, 0.5));
        assert!(score.interval.low < 0.2 && score.interval.high > 0.8, "{score:?}");
        assert_eq!(Score::of(&[None]).accuracy, Accuracy::default());
    }
}
