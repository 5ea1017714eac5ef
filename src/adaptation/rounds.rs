//! Rounds on a live server: selected from the store, watched in it, gated, and swapped in. One at a time. What a server
//! leaves unfinished, it or another one goes on with.

mod judgement;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::Utc;
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use crate::{
    adaptation::{
        checkpoint::CheckpointFolder,
        learner::{self, LearnError, VoteMetrics, Voted},
        recipe::Recipe,
        resume::{self, Decision as Recovery, Here},
        round::{self, Plan, Watch, Workbench},
        selection::{self, Selection},
        trainer::UpdateMetrics,
    },
    adapters::{
        format::{self, FormatError},
        gate::Decision,
        registry::{Registry, RegistryError},
    },
    engine::handle::Version,
    evaluation::Evaluator,
    store::{
        Attempt, Candidate, Question, Round, RoundQuestion, RoundState, RoundStep, RoundTrigger, RoundUpdate, SetAside,
        SharedStore, StoreError, Unfinished,
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

/// Signs of life come three times in a lease, so that one may get lost.
const HEARTBEATS: u32 = 3;

/// How long a write of a round waits before it is tried again while the database is away.
const RETRY: Duration = Duration::from_secs(2);

const CANCELLED: &str = "the operator cancelled it";

/// Fewer held-back questions than this say too little; the gate then asks the training questions.
const MIN_HELD_BACK: usize = 4;

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
}

/// Starts rounds and keeps track of the one that runs.
#[derive(Clone)]
pub struct Rounds(Arc<Inner>);

struct Inner {
    bench: Workbench,
    store: SharedStore,
    registry: Arc<Registry>,
    options: RoundOptions,
    /// Puts evaluation sets to versions as rounds put their questions.
    evaluator: Arc<Evaluator>,
    metrics: Arc<Metrics>,
    running: Mutex<Option<(Uuid, CancellationToken)>>,
    /// Held while a round is created, and while unfinished ones are looked for: one that is just being created is none.
    starting: tokio::sync::Mutex<()>,
    /// Held while a person's decision is carried out: of two, the second finds that the round does not wait any more.
    deciding: tokio::sync::Mutex<()>,
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
        let evaluator = Evaluator {
            engine: bench.engine.clone(),
            prompter: bench.prompter.clone(),
            samples: options.recipe.gate.evaluation_samples as usize,
            temperature: options.recipe.temperature as f32,
            max_tokens: options.recipe.max_tokens,
        };
        Self(Arc::new(Inner {
            bench,
            store,
            registry,
            options,
            evaluator: Arc::new(evaluator),
            metrics,
            running: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            deciding: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Puts evaluation sets to versions as the gate of a round does.
    pub fn evaluator(&self) -> Arc<Evaluator> {
        self.0.evaluator.clone()
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

    /// Asks a round to end; it is `cancelled` soon after.
    ///
    /// # Errors
    /// If there is no such round, or it runs on another server.
    pub async fn cancel(&self, id: Uuid) -> Result<(), RoundError> {
        let inner = &self.0;
        if let Some((running, cancel)) = &*inner.running()
            && *running == id
        {
            cancel.cancel();
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
            Ok(attempt) => {
                inner.put_away(&attempt, RoundState::Cancelled, Some(CANCELLED.into())).await;
                Ok(())
            }
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
    fn running(&self) -> std::sync::MutexGuard<'_, Option<(Uuid, CancellationToken)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(self: Arc<Self>, trigger: RoundTrigger, seed: Option<u64>) -> Result<Round, RoundError> {
        let _starting = self.starting.lock().await;
        if self.stopping.is_cancelled() {
            return Err(RoundError::Stopping);
        }
        // Before the questions are looked for, which takes long where there are many.
        if let Some((other, _)) = &*self.running() {
            return Err(RoundError::Conflict(is_running(*other)));
        }
        let looked_at = self.options.recipe.questions * selection::CANDIDATES_FOR_EACH;
        let candidates = self.store.learnable(looked_at).await?;
        if candidates.is_empty() {
            return Err(RoundError::NothingToLearn);
        }
        // On a thread of its own: encoding questions takes longer than requests should wait for a worker.
        let inner = self.clone();
        let selecting = tokio::task::spawn_blocking(move || inner.select(candidates));
        let Selection { chosen, set_aside } = selecting.await.map_err(|_| RoundError::Stopping)?;
        let round = self.describe(trigger, seed, chosen.len());
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

    /// See [`Rounds::recover`].
    async fn recover(self: &Arc<Self>) -> Result<(), StoreError> {
        let Some(unfinished) = self.store.unfinished_round().await? else {
            if let Err(error) = self.options.checkpoints.keep_only(None) {
                warn!(%error, "checkpoints of rounds that have ended are still there");
            }
            return Ok(());
        };
        let (id, served) = (unfinished.round.id, &self.registry.model().fingerprint);
        let here = Here {
            same_model: unfinished.round.model.as_ref().is_some_and(|model| model.fingerprint == *served),
            has_checkpoint: self.options.checkpoints.has(id),
            lease: self.options.lease(),
        };
        match resume::decide(&unfinished, here) {
            Recovery::Leave => Ok(()),
            Recovery::GiveUp(reason) => {
                let attempt = self.store.take_over(id, self.options.lease_seconds).await?;
                self.put_away(&attempt, RoundState::Failed, Some(reason)).await;
                Ok(())
            }
            Recovery::TakeOver => {
                let Unfinished { round, .. } = unfinished;
                let Round { attempts, step, .. } = round;
                info!(round = %id, attempt = attempts + 1, step, "going on with an unfinished round");
                self.begin(round, self.store.take_over(id, self.options.lease_seconds)).await?;
                self.metrics.rounds_resumed_total.inc();
                Ok(())
            }
        }
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
        if let Some((other, _)) = &*running {
            return Err(StoreError::Conflict(is_running(*other)));
        }
        *running = Some((id, cancel.clone()));
        Ok(())
    }

    fn describe(&self, trigger: RoundTrigger, seed: Option<u64>, questions: usize) -> Round {
        let (id, recipe) = (Uuid::now_v7(), &self.options.recipe);
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
            created_at: Utc::now(),
            started_at: None,
            finished_at: None,
        }
    }

    /// Runs a round to its end and writes down how it ended.
    async fn run(self: Arc<Self>, attempt: Attempt, round: Round, cancel: CancellationToken) {
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
        match outcome {
            // A verdict on the policy, as the gate's is: nothing is broken, and nobody needs to repair anything.
            Err(Failure::Learn(LearnError::GivenUp(alarm))) => {
                self.metrics.rounds_given_up_total.with_label_values(&[alarm.rule.name()]).inc();
                self.put_away(&attempt, RoundState::Rejected, Some(alarm.to_string())).await;
            }
            Err(failure) if self.stopping.is_cancelled() || failure.may_pass() => {
                self.give_back(&attempt, &failure).await;
            }
            Err(Failure::Learn(LearnError::Cancelled)) => {
                self.put_away(&attempt, RoundState::Cancelled, Some(CANCELLED.into())).await;
            }
            Err(failure) => self.put_away(&attempt, RoundState::Failed, Some(failure.to_string())).await,
            Ok((state, reason)) => self.put_away(&attempt, state, reason).await,
        }
        self.metrics.round_in_progress.set(0);
        // Its end can be seen now, so the next may begin.
        *self.running() = None;
        if let Err(error) = self.registry.prune().await {
            warn!(%error, "some files of adapters that nobody needs are still there");
        }
    }

    /// Writes down how a round ended.
    async fn put_away(&self, attempt: &Attempt, state: RoundState, reason: Option<String>) {
        let stored = match state {
            // The swap has ended it.
            RoundState::Promoted => Ok(()),
            _ => {
                let update = RoundUpdate { state: Some(state), reason: reason.clone(), ..RoundUpdate::default() };
                self.update(attempt, update).await
            }
        };
        match stored {
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
    }

    /// Leaves a round that was interrupted to the next start of this server, to its next look, or to another one.
    async fn give_back(&self, attempt: &Attempt, interruption: &Failure) {
        match self.patiently(|| self.store.give_back(attempt)).await {
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
        let mut watch = Recorder {
            inner: &self,
            attempt,
            recipe: &recipe,
            trained,
            votes: VoteMetrics::default(),
            held_back: None,
            since: Instant::now(),
        };
        let learnt = round::learn(&self.bench, plan, &mut watch, cancel).await?;
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
        if cancel.is_cancelled() {
            return Err(LearnError::Cancelled.into());
        }
        match self.patiently(|| self.registry.promote(attempt, &round.parent_version, &version)).await {
            Ok(()) => {
                info!(previous = %round.parent_version, live = %version, "the candidate is live");
                Ok((RoundState::Promoted, None))
            }
            Err(Failure::Registry(error @ RegistryError::Conflict { .. })) => Ok(rejected(error.to_string())),
            Err(error) => Err(error),
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

    async fn update(&self, attempt: &Attempt, update: RoundUpdate) -> Result<(), Failure> {
        self.patiently(|| self.store.update_round(attempt, update.clone())).await
    }

    /// Does a write of a round that runs, again and again while the database is away: what was learnt in minutes must not
    /// be lost to seconds. After a lease's time without it the round is no longer this server's.
    async fn patiently<T, E: Into<Failure>, F: Future<Output = Result<T, E>>>(
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

    async fn set_state(&self, attempt: &Attempt, state: RoundState) -> Result<(), Failure> {
        let update = RoundUpdate { state: Some(state), ..RoundUpdate::default() };
        self.update(attempt, update).await
    }
}

fn rejected(reason: impl Into<String>) -> (RoundState, Option<String>) {
    (RoundState::Rejected, Some(reason.into()))
}

fn is_running(id: Uuid) -> String {
    format!("round {id} is running: wait for its end or cancel it")
}

/// How many of `questions` are kept out of training.
fn held_back(questions: usize, share: f64) -> usize {
    let held = (questions as f64 * share).floor() as usize;
    if held < MIN_HELD_BACK { 0 } else { held }
}

/// Why questions were passed over, and how many of them, for the operator.
fn told(set_aside: &BTreeMap<SetAside, usize>) -> String {
    let each = set_aside.iter().map(|(reason, count)| match reason {
        SetAside::TooLong => format!("{count} too long to be sampled with so many votes"),
        SetAside::Settled => format!("{count} settled, with one sure answer in the last rounds"),
        SetAside::Flips => format!("{count} with another majority from round to round"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The questions that take part in a round, in an order that is the round's own: which of them are held back must not
/// depend on when they were asked. And how many are passed over.
fn taking_part(rows: Vec<RoundQuestion>, seed: u64) -> (Vec<RoundQuestion>, BTreeMap<SetAside, usize>) {
    let mut counts = BTreeMap::new();
    for reason in rows.iter().filter_map(|row| row.set_aside) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut questions: Vec<_> = rows.into_iter().filter(|row| row.set_aside.is_none()).collect();
    questions.sort_by_key(|question| learner::mix(seed, question.question_id.as_u64_pair().1));
    (questions, counts)
}

/// The row of a question that nothing is known of yet.
fn unseen(round_id: Uuid, question: &Question) -> RoundQuestion {
    RoundQuestion {
        round_id,
        question_id: question.id,
        text: question.text.clone(),
        held_back: false,
        before_answer: None,
        before_ratio: None,
        after_answer: None,
        after_ratio: None,
        set_aside: None,
    }
}

fn majority(voted: &Voted) -> Option<String> {
    voted.tally.majority().map(|class| class.answer.clone())
}

/// Writes a round's progress into the store.
struct Recorder<'a> {
    inner: &'a Inner,
    attempt: &'a Attempt,
    recipe: &'a Recipe,
    trained: &'a [RoundQuestion],
    /// Of the last sampling.
    votes: VoteMetrics,
    held_back: Option<VoteMetrics>,
    /// When the step began.
    since: Instant,
}

fn watch_error(failure: Failure) -> LearnError {
    match failure {
        Failure::Store(error) => error.into(),
        other => LearnError::Watch(other.to_string()),
    }
}

#[async_trait]
impl Watch for Recorder<'_> {
    async fn sampled(&mut self, updates: u32, voted: &[Voted], held_back: &[Voted]) -> Result<(), LearnError> {
        let rule = self.recipe.reward_rule();
        self.votes = learner::vote_metrics(voted, rule);
        self.held_back = (!held_back.is_empty()).then(|| learner::vote_metrics(held_back, rule));
        let unknown = self.votes.unknown + self.held_back.map_or(0, |votes| votes.unknown);
        self.inner.metrics.unknown_answers_total.inc_by(unknown as u64);
        // The first sampling is the live version's; the candidate meets the held-back questions at the gate.
        if updates > 0 {
            return self.inner.set_state(self.attempt, RoundState::Training).await.map_err(watch_error);
        }
        let row = |(question, voted): (&RoundQuestion, &Voted)| RoundQuestion {
            before_answer: majority(voted),
            before_ratio: Some(voted.tally.majority_ratio()),
            ..question.clone()
        };
        let rows: Vec<RoundQuestion> = self.trained.iter().zip(voted).map(row).collect();
        let (inner, attempt) = (self.inner, self.attempt);
        inner.patiently(|| inner.store.record_round_questions(attempt, &rows)).await.map_err(watch_error)?;
        self.inner.set_state(self.attempt, RoundState::Training).await.map_err(watch_error)
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
        inner.patiently(|| inner.store.record_step(attempt, &step)).await.map_err(watch_error)?;
        let last = updates == self.recipe.steps;
        let update = RoundUpdate {
            state: (!last).then_some(RoundState::Sampling),
            step: Some(updates),
            ..RoundUpdate::default()
        };
        inner.update(attempt, update).await.map_err(watch_error)
    }
}
