//! Labelled evaluation sets: questions whose answers an operator knows, and what a version gets right of them.
//!
//! Architecture invariant: labels never leak. What is in this room reaches the gate and the operator; no file that
//! trains or rewards uses it, and no round learns from a question of a set.

mod runs;
mod sets;

use std::sync::Arc;

pub use runs::{Evaluations, Run, RunState, Score};
pub use sets::{MAX_ITEMS, MAX_SETS, SetError};

use crate::{
    adapters::{gate::Compared, registry::RegistryError},
    engine::handle::{Engine, EngineError, GenerateRequest, Group, Lease, Priority, Report},
    grading::{Accuracy, Answer, Mark},
    prompter::Prompter,
    statistics::Paired,
    store::{EvaluationItem, EvaluationSet, StoreError},
};

/// Why a set was not kept, or is not run.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    #[error(transparent)]
    Set(#[from] SetError),
    #[error("there is no evaluation set {0}")]
    Missing(String),
    #[error("the set {0} is being run: wait for its end")]
    Running(String),
    #[error("the server is stopping")]
    Stopping,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts the questions of sets to versions, as rounds put theirs, and marks the answers.
pub struct Evaluator {
    pub engine: Arc<dyn Engine>,
    pub prompter: Arc<Prompter>,
    /// Samples of each question; their majority counts.
    pub samples: usize,
    pub temperature: f32,
    /// The most tokens of a sample; unset, what the prompt template says.
    pub max_tokens: Option<usize>,
}

impl Evaluator {
    /// Marks for a version, one for each item in its order. `None` for an item that cannot be asked or whose answer is
    /// not understood under the settings of now: that is the same for every version. A version gives the same marks
    /// for the same seed.
    ///
    /// # Errors
    /// If the engine has stopped or fails.
    pub async fn marks(&self, set: &EvaluationSet, lease: &Lease, seed: u64) -> Result<Vec<Option<Mark>>, EngineError> {
        let (mut requests, mut golds) = (Vec::new(), Vec::new());
        for (place, item) in (0..).zip(&set.items) {
            let prepared = self.prepare(item, lease, seed.wrapping_add(place));
            golds.push(prepared.ok().map(|(request, gold)| {
                requests.push(request);
                gold
            }));
        }
        let mut groups = self.engine.generate(requests).await?.into_iter();
        Ok(golds.into_iter().map(|gold| Some(self.mark(&gold?, &groups.next()?))).collect())
    }

    /// What two versions get right of a set, with the same random numbers for both.
    ///
    /// # Errors
    /// If the engine has stopped or fails.
    pub async fn compare(
        &self,
        set: &EvaluationSet,
        (live, candidate): (&Lease, &Lease),
        seed: u64,
    ) -> Result<Compared, EngineError> {
        let (live, candidate) = (self.marks(set, live, seed).await?, self.marks(set, candidate, seed).await?);
        let asked = live.iter().zip(&candidate).filter_map(|pair| Some((pair.0.as_ref()?, pair.1.as_ref()?)));
        let (live, candidate): (Vec<&Mark>, Vec<&Mark>) = asked.unzip();
        Ok(Compared {
            set: set.name.clone(),
            counts: Paired::count(live.iter().zip(&candidate).map(|pair| (pair.0.majority, pair.1.majority))),
            skipped: set.items.len() - live.len(),
            live: Accuracy::of(live),
            candidate: Accuracy::of(candidate),
        })
    }

    /// The request for an item, and its right answer.
    ///
    /// # Errors
    /// Says why it cannot be asked or marked.
    fn prepare(&self, item: &EvaluationItem, lease: &Lease, seed: u64) -> Result<(GenerateRequest, Answer), String> {
        let gold = Answer::read(&item.answer, self.prompter.reading().kind)
            .ok_or_else(|| format!("the answer {:?} is not understood", item.answer))?;
        let request = GenerateRequest {
            lease: lease.clone(),
            prompt: self.prompter.encode(&item.question).map_err(|error| error.to_string())?,
            samples: self.samples,
            sampling: self.prompter.sampling(self.temperature, self.max_tokens),
            seed,
            priority: Priority::Rollout,
            report: Report::default(),
            place: None,
        };
        self.engine.check(&request).map_err(|error| error.to_string())?;
        Ok((request, gold))
    }

    fn mark(&self, gold: &Answer, group: &Group) -> Mark {
        let tally = self.prompter.tally(group);
        Mark::of(&tally, Some(&tally), gold, self.prompter.reading().kind)
    }
}
