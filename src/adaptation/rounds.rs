//! Rounds on a live server: selected from the store, watched in it, gated, and swapped in. One at a time. What a server
//! leaves unfinished, it or another one goes on with. What they promote is watched, and rolled back if it is worse.

mod judgement;
mod questions;
mod recorder;
mod watching;
mod work;

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::Utc;
use serde_json::json;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{Instrument, info, info_span, warn};
use uuid::Uuid;

use self::questions::{held_back, unseen};
use crate::{
    adaptation::{
        checkpoint::CheckpointFolder,
        learner::{self, LearnError},
        memory::TooLarge,
        recipe::Recipe,
        resume::{self, Decision, Here},
        round::{self, Workbench},
        selection::{self, Selection},
    },
    adapters::{
        format::FormatError,
        probe::ProbeError,
        registry::{Registry, RegistryError},
    },
    engine::handle::{EngineError, Version},
    evaluation::Evaluator,
    store::{
        Attempt, Candidate, Question, Round, RoundQuestion, RoundState, RoundTrigger, SharedStore, StoreError,
        Unfinished,
    },
    telemetry::Metrics,
};

/// How rounds are run.
#[derive(Clone, Debug)]
pub struct RoundOptions {
    /// Of rounds that are created from now on; each keeps its own.
    pub recipe: Recipe,
    /// How long a round stays this server's without a sign of life.
    pub lease_seconds: u32,
    pub checkpoints: CheckpointFolder,
}

impl RoundOptions {
    fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }
}

/// Among how many of the newest rounds one is looked for that waits for a person. Those between were started by a person, too.
const LOOKED_AT_FOR_HELD: u32 = 50;

/// How long the next round waits for one that has ended to be put away. It takes milliseconds, but for one that another server
/// has ended while this one computes a step of it.
const PUTTING_AWAY: Duration = Duration::from_secs(5);

const CANCELLED: &str = "the operator cancelled it";

/// Why a round was not started or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// Another round is running, or this one has ended.
    #[error("{0}")]
    Conflict(String),
    #[error("there is nothing to learn from yet: no question was asked, or all of them with `learn: false`")]
    NothingToLearn,
    #[error("there is no round {0}")]
    Missing(Uuid),
    /// What a held candidate was compared with is not live any more.
    #[error(
        "round {id} is stale: its candidate was compared with version {parent}, and {live} is live now; reject it, or \
         activate {parent} first"
    )]
    Stale { id: Uuid, parent: Version, live: Version },
    /// What would be learnt meanwhile would be overtaken by the decision, or wait as well.
    #[error("round {0} waits for a person: until it is promoted or rejected, no round begins by itself")]
    Waiting(Uuid),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("the server is stopping")]
    Stopping,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a round did not end by its own verdict.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Learn(#[from] LearnError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It was created by a program with other settings.
    #[error("its recipe is not understood: {0}")]
    Recipe(serde_json::Error),
    /// It is gone on with where less memory is free. Other passes would lead elsewhere.
    #[error("its passes of {begun} rows do not fit into the memory that is free now, in which {fitting} would")]
    Memory { begun: usize, fitting: usize },
    #[error("a defect ended it: {0}")]
    Panicked(String),
}

impl Failure {
    /// Whether the database was away: the same may succeed later.
    fn may_pass(&self) -> bool {
        let (Self::Store(error) | Self::Learn(LearnError::Store(error)) | Self::Registry(RegistryError::Store(error))) =
            self
        else {
            return false;
        };
        matches!(error, StoreError::Unavailable(_))
    }

    /// Whether the engine has stopped, so that nothing more can be computed by this process. Another one may go on with the round.
    fn is_of_the_process(&self) -> bool {
        match self {
            Self::Learn(LearnError::Engine(error))
            | Self::Registry(
                RegistryError::Engine(error) | RegistryError::Probe { source: ProbeError::Engine(error), .. },
            ) => matches!(error, EngineError::Stopped),
            _ => false,
        }
    }
}

/// The round that runs here.
struct Running {
    id: Uuid,
    /// Interrupts it, whoever wants it to end.
    interrupt: CancellationToken,
    cancellation: Cancellation,
    /// Dropped with this: the place is free.
    _place: DropGuard,
    left: CancellationToken,
}

/// What an operator has to say about a round that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancellation {
    Possible,
    Asked,
    /// It is being put away.
    TooLate,
}

/// Starts rounds and keeps track of the one that runs.
#[derive(Clone)]
pub struct Rounds(Arc<Inner>);

struct Inner {
    bench: Workbench,
    store: SharedStore,
    registry: Arc<Registry>,
    options: RoundOptions,
    metrics: Arc<Metrics>,
    running: Mutex<Option<Running>>,
    /// Held while a round is created, and while unfinished ones are looked for: one that is just being created is none.
    starting: tokio::sync::Mutex<()>,
    /// Watches that could not be looked after, and are left alone for a while.
    paused: Mutex<watching::Paused>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Rounds {
    pub fn new(
        bench: Workbench,
        store: SharedStore,
        registry: Arc<Registry>,
        options: RoundOptions,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Inner {
            bench,
            store,
            registry,
            options,
            metrics,
            running: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            paused: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Puts evaluation sets to versions as the gate of a round that began now would.
    pub fn evaluator(&self) -> Evaluator {
        judgement::evaluator(&self.0.bench, &self.0.options.recipe)
    }

    /// Creates a round over the questions that were logged and starts it in the background. Without a `seed`, the round
    /// has one of its own.
    ///
    /// # Errors
    /// If a round runs already, here or on another server, or there is nothing to learn from.
    pub async fn start(&self, trigger: RoundTrigger, seed: Option<u64>) -> Result<Round, RoundError> {
        let inner = self.0.clone();
        // A task of its own: a client that goes away half-way must not leave a round that nobody runs.
        let starting = tokio::spawn(async move { inner.start(trigger, seed).await });
        starting.await.map_err(|_| RoundError::Stopping)?
    }

    /// Asks a round to end; it is `cancelled` soon after, even if the server stops meanwhile.
    ///
    /// # Errors
    /// If there is no such round, it is just ending, or it runs on another server; if it waits for a server, and its end
    /// cannot be stored.
    pub async fn cancel(&self, id: Uuid) -> Result<(), RoundError> {
        let inner = &self.0;
        if let Some(running) = inner.running().as_mut().filter(|running| running.id == id) {
            if running.cancellation == Cancellation::TooLate {
                return Err(RoundError::Conflict(format!("round {id} is just ending: look at it again in a moment")));
            }
            running.cancellation = Cancellation::Asked;
            running.interrupt.cancel();
            return Ok(());
        }
        match inner.store.round(id).await? {
            None => return Err(RoundError::Missing(id)),
            Some(round) if round.state.is_final() => {
                return Err(RoundError::Conflict(format!("round {id} has ended: nothing is left to cancel")));
            }
            Some(round) if round.state == RoundState::Held => {
                return Err(RoundError::Conflict(format!("round {id} waits for a person: promote or reject it")));
            }
            Some(_) => {}
        }
        // One that waits for a server to go on with it.
        match inner.store.take_over(id, inner.options.lease_seconds).await {
            Ok(attempt) => match inner.put_away(&attempt, RoundState::Cancelled, Some(CANCELLED.into())).await {
                Err(Failure::Store(error)) => Err(error.into()),
                _ => Ok(()),
            },
            Err(StoreError::Conflict(_)) => {
                Err(RoundError::Conflict(format!("round {id} runs on another server: cancel it there")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Interrupts the round that runs, if any, for the next start or another server to go on with; starts no more, and
    /// waits until it is put away.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Looks for a round that its server has left unfinished, and goes on with it, or ends it if nobody can. Does
    /// nothing while a round runs here.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn recover(&self) -> Result<(), StoreError> {
        let inner = &self.0;
        let _starting = inner.starting.lock().await;
        if inner.running().is_some() || inner.stopping.is_cancelled() {
            return Ok(());
        }
        match inner.recover().await {
            // Another server was quicker.
            Err(StoreError::Conflict(_)) => Ok(()),
            result => result,
        }
    }
}

impl Inner {
    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an operator has cancelled the round that runs; if not, nobody can any more.
    fn close_cancellation(&self) -> bool {
        let mut running = self.running();
        let Some(running) = running.as_mut() else { return false };
        let is_cancelled = running.cancellation == Cancellation::Asked;
        if !is_cancelled {
            running.cancellation = Cancellation::TooLate;
        }
        is_cancelled
    }

    async fn start(self: Arc<Self>, trigger: RoundTrigger, seed: Option<u64>) -> Result<Round, RoundError> {
        let _starting = self.starting.lock().await;
        if self.stopping.is_cancelled() {
            return Err(RoundError::Stopping);
        }
        // Before the questions are looked for, which takes long where there are many.
        self.wait_for_place().await?;
        if trigger == RoundTrigger::Schedule
            && let Some(waiting) = self.waiting_for_a_person().await?
        {
            return Err(RoundError::Waiting(waiting));
        }
        let looked_at = self.options.recipe.questions * selection::CANDIDATES_FOR_EACH;
        let candidates = self.store.learnable(looked_at).await?;
        if candidates.is_empty() {
            return Err(RoundError::NothingToLearn);
        }
        // On a thread of its own: encoding questions takes longer than requests should wait for a worker.
        let inner = self.clone();
        let selecting = tokio::task::spawn_blocking(move || {
            let selection = inner.select(candidates);
            let recipe = inner.fitting(&selection.chosen)?;
            Ok::<_, RoundError>((selection, recipe))
        });
        let (Selection { chosen, set_aside }, recipe) = selecting.await.map_err(|_| RoundError::Stopping)??;
        let round = self.describe(trigger, seed, chosen.len(), &recipe);
        let mut questions: Vec<_> = chosen.iter().map(|question| unseen(round.id, question)).collect();
        // Written down as seen, so that they do not come again and again.
        let passed_over = set_aside
            .iter()
            .map(|(question, reason)| RoundQuestion { set_aside: Some(*reason), ..unseen(round.id, question) });
        questions.extend(passed_over);
        let create = self.store.create_round(&round, &questions, self.options.lease_seconds);
        match self.begin(round.clone(), create).await {
            Ok(()) => Ok(round),
            Err(StoreError::Conflict(text)) => Err(RoundError::Conflict(text)),
            Err(error) => Err(RoundError::Store(error)),
        }
    }

    /// Waits for a round whose end is stored to be put away: who has seen that it ended may start the next one at once.
    ///
    /// # Errors
    /// If one runs that has not ended.
    async fn wait_for_place(&self) -> Result<(), RoundError> {
        let running = self.running().as_ref().map(|running| (running.id, running.left.clone()));
        let Some((id, left)) = running else { return Ok(()) };
        if self.store.round(id).await?.is_none_or(|round| round.state.is_active()) {
            return Err(RoundError::Conflict(is_running(id)));
        }
        match tokio::time::timeout(PUTTING_AWAY, left.cancelled()).await {
            _ if self.stopping.is_cancelled() => Err(RoundError::Stopping),
            Ok(()) => Ok(()),
            Err(_) => Err(RoundError::Conflict(is_running(id))),
        }
    }

    /// A recent round that is held, and may be promoted.
    async fn waiting_for_a_person(&self) -> Result<Option<Uuid>, StoreError> {
        let (rounds, live) = (self.store.rounds(LOOKED_AT_FOR_HELD, None).await?, self.registry.live());
        let waits = |round: &&Round| round.state == RoundState::Held && round.parent_version == *live.version();
        Ok(rounds.iter().find(waits).map(|round| round.id))
    }

    /// See [`Rounds::recover`].
    async fn recover(self: &Arc<Self>) -> Result<(), StoreError> {
        let Some(unfinished) = self.store.unfinished_round().await? else {
            return self.tidy_checkpoints().await;
        };
        let (id, served) = (unfinished.round.id, &self.registry.model().fingerprint);
        let here = Here {
            same_model: unfinished.round.model.as_ref().is_some_and(|model| model.fingerprint == *served),
            has_checkpoint: self.options.checkpoints.has(id),
            lease: self.options.lease(),
        };
        match resume::decide(&unfinished, here) {
            Decision::Leave => Ok(()),
            Decision::GiveUp(reason) => {
                let attempt = self.store.take_over(id, self.options.lease_seconds).await?;
                // One whose end cannot be stored is looked at again.
                let _ = self.put_away(&attempt, RoundState::Failed, Some(reason)).await;
                Ok(())
            }
            Decision::TakeOver => {
                let Unfinished { round, .. } = unfinished;
                let Round { attempts, step, .. } = round;
                info!(round = %id, attempt = attempts + 1, step, "going on with an unfinished round");
                self.begin(round, self.store.take_over(id, self.options.lease_seconds)).await?;
                self.metrics.rounds_resumed_total.inc();
                Ok(())
            }
        }
    }

    /// Removes what servers that were killed left of rounds that have ended. What the store does not know as ended stays:
    /// another server may begin a round at this moment.
    async fn tidy_checkpoints(&self) -> Result<(), StoreError> {
        let left_over = |error: io::Error| warn!(%error, "checkpoints of rounds that have ended are still there");
        for id in self.options.checkpoints.rounds().map_err(left_over).unwrap_or_default() {
            if self.store.round(id).await?.is_some_and(|round| !round.state.is_active()) {
                self.options.checkpoints.remove(id).unwrap_or_else(left_over);
            }
        }
        Ok(())
    }

    /// Runs a round in the background, if `attempting` gives an attempt at it.
    async fn begin(
        self: &Arc<Self>,
        round: Round,
        attempting: impl Future<Output = Result<Attempt, StoreError>>,
    ) -> Result<(), StoreError> {
        let cancel = self.stopping.child_token();
        self.claim(round.id, &cancel)?;
        let attempt = attempting.await.inspect_err(|_| *self.running() = None)?;
        self.metrics.round_in_progress.set(1);
        let span = info_span!("round", id = %round.id);
        self.tasks.spawn(self.clone().run(attempt, round, cancel).instrument(span));
        Ok(())
    }

    /// Takes the one place for a round that this server has.
    fn claim(&self, id: Uuid, cancel: &CancellationToken) -> Result<(), StoreError> {
        let mut running = self.running();
        if let Some(other) = &*running {
            return Err(StoreError::Conflict(is_running(other.id)));
        }
        let left = CancellationToken::new();
        *running = Some(Running {
            id,
            interrupt: cancel.clone(),
            cancellation: Cancellation::Possible,
            _place: left.clone().drop_guard(),
            left,
        });
        Ok(())
    }

    fn describe(&self, trigger: RoundTrigger, seed: Option<u64>, questions: usize, recipe: &Recipe) -> Round {
        let id = Uuid::now_v7();
        Round {
            id,
            state: RoundState::Queued,
            trigger,
            model: Some(self.registry.model().clone()),
            recipe: json!(recipe),
            // Those of its bits that are random.
            seed: seed.unwrap_or(id.as_u64_pair().1),
            attempts: 1,
            questions: questions as u32,
            held_back: held_back(questions, recipe.gate.held_back) as u32,
            step: 0,
            steps: recipe.steps,
            parent_version: self.registry.live().version().clone(),
            candidate_version: None,
            verdict: None,
            reason: None,
            watch: None,
            created_at: Utc::now(),
            started_at: None,
            finished_at: None,
        }
    }

    /// What a round takes of the questions that were asked, and what it passes over.
    fn select(&self, candidates: Vec<Candidate>) -> Selection {
        let Recipe { selection: rules, questions: limit, .. } = &self.options.recipe;
        let kind = self.bench.prompter.reading().kind;
        let fits = |question: &Question| {
            let recipe = &self.options.recipe;
            learner::check(&*self.bench.engine, &self.bench.prompter, &question.text, recipe).is_ok()
        };
        selection::select(rules, candidates, *limit as usize, kind, fits)
    }

    /// The recipe of a round over these questions: with passes that fit into memory. It is the round's from now on, wherever
    /// it is gone on with, since another division of the rows rounds otherwise.
    fn fitting(&self, chosen: &[Question]) -> Result<Recipe, RoundError> {
        let recipe = &self.options.recipe;
        let texts = chosen.iter().map(|question| question.text.as_str());
        match round::rows_that_fit(&self.bench, recipe, texts) {
            Ok(rows) => Ok(Recipe { micro_batch_tokens: Some(rows), ..recipe.clone() }),
            Err(LearnError::TooLarge(error)) => Err(error.into()),
            // A question that cannot be encoded is passed over when the round looks at it.
            Err(_) => Ok(Recipe { micro_batch_tokens: Some(recipe.pass_rows()), ..recipe.clone() }),
        }
    }
}

fn is_running(id: Uuid) -> String {
    format!("round {id} is running: wait for its end or cancel it")
}
