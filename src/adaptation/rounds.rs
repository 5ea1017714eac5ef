//! Rounds on a live server: selected from the store, watched in it, gated, and swapped in. One at a time.

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
        learner::{self, LearnError, VoteMetrics, Voted},
        recipe::Recipe,
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
        Candidate, Question, Round, RoundQuestion, RoundState, RoundStep, RoundTrigger, RoundUpdate, SetAside,
        SharedStore, StoreError,
    },
    telemetry::Metrics,
};

/// How long a round stays this server's without a sign of life. A server that died has its round marked as failed
/// after this, and the next can begin.
const LEASE_SECONDS: u32 = 60;

/// Signs of life come three times in a lease, so that one may get lost.
const HEARTBEAT: Duration = Duration::from_secs(LEASE_SECONDS as u64 / 3);

/// How long a write of a round waits before it is tried again while the database is away.
const RETRY: Duration = Duration::from_secs(2);

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
    #[error("a defect ended it: {0}")]
    Panicked(String),
}

/// Starts rounds and keeps track of the one that runs.
#[derive(Clone)]
pub struct Rounds(Arc<Inner>);

struct Inner {
    bench: Workbench,
    store: SharedStore,
    registry: Arc<Registry>,
    recipe: Recipe,
    /// Puts evaluation sets to versions as rounds put their questions.
    evaluator: Arc<Evaluator>,
    metrics: Arc<Metrics>,
    /// Tells this server from others on the same database.
    owner: String,
    running: Mutex<Option<(Uuid, CancellationToken)>>,
    /// Held while a round is created, and while orphans are looked for: a round that is just being created is none.
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
        recipe: Recipe,
        metrics: Arc<Metrics>,
    ) -> Self {
        let evaluator = Evaluator {
            engine: bench.engine.clone(),
            prompter: bench.prompter.clone(),
            samples: recipe.gate.evaluation_samples as usize,
            temperature: recipe.temperature as f32,
            max_tokens: recipe.max_tokens,
        };
        Self(Arc::new(Inner {
            bench,
            store,
            registry,
            recipe,
            evaluator: Arc::new(evaluator),
            metrics,
            owner: Uuid::now_v7().to_string(),
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

    /// Creates a round over the questions that were logged and starts it in the background.
    ///
    /// # Errors
    /// If a round runs already, here or on another server, or there is nothing to learn from.
    pub async fn start(&self, trigger: RoundTrigger) -> Result<Round, RoundError> {
        let inner = self.0.clone();
        // A task of its own: a client that goes away half-way must not leave a round that nobody runs.
        let starting = tokio::spawn(async move { inner.start(trigger).await });
        starting.await.map_err(|_| RoundError::Stopping)?
    }

    /// Asks a round of this server to end; it is `cancelled` soon after.
    ///
    /// # Errors
    /// If there is no such round, or it does not run here.
    pub async fn cancel(&self, id: Uuid) -> Result<(), RoundError> {
        if let Some((running, cancel)) = &*self.0.running()
            && *running == id
        {
            cancel.cancel();
            return Ok(());
        }
        match self.0.store.round(id).await? {
            None => Err(RoundError::Missing(id)),
            Some(round) if round.state.is_final() => {
                Err(RoundError::Conflict(format!("round {id} has ended: nothing is left to cancel")))
            }
            Some(round) if round.state == RoundState::Held => {
                Err(RoundError::Conflict(format!("round {id} waits for a person: promote or reject it")))
            }
            Some(_) => Err(RoundError::Conflict(format!("round {id} runs on another server: cancel it there"))),
        }
    }

    /// Cancels the round that runs, if any, starts no more, and waits until it is put away.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Marks rounds as failed whose server has died, and one of this server whose end could not be stored. Does nothing
    /// while a round runs here.
    pub async fn fail_orphans(&self) -> Result<u64, StoreError> {
        let _starting = self.0.starting.lock().await;
        if self.0.running().is_some() {
            return Ok(0);
        }
        self.0.store.fail_orphans(&self.0.owner, "the server that ran it stopped").await
    }
}

impl Inner {
    fn running(&self) -> std::sync::MutexGuard<'_, Option<(Uuid, CancellationToken)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(self: Arc<Self>, trigger: RoundTrigger) -> Result<Round, RoundError> {
        let _starting = self.starting.lock().await;
        if self.stopping.is_cancelled() {
            return Err(RoundError::Stopping);
        }
        // Before the questions are looked for, which takes long where there are many.
        if let Some((other, _)) = &*self.running() {
            return Err(is_running(*other));
        }
        let candidates = self.store.learnable(self.recipe.questions * selection::CANDIDATES_FOR_EACH).await?;
        if candidates.is_empty() {
            return Err(RoundError::NothingToLearn);
        }
        let round = self.describe(trigger, candidates.len());
        let cancel = self.stopping.child_token();
        self.claim(round.id, &cancel)?;
        if let Err(error) = self.store.create_round(&round, &self.owner, LEASE_SECONDS).await {
            *self.running() = None;
            return Err(match error {
                StoreError::Conflict(text) => RoundError::Conflict(text),
                other => RoundError::Store(other),
            });
        }
        self.metrics.round_in_progress.set(1);
        let span = info_span!("round", id = %round.id);
        self.tasks.spawn(self.clone().run(round.clone(), candidates, cancel).instrument(span));
        Ok(round)
    }

    /// Takes the one place for a round that this server has.
    fn claim(&self, id: Uuid, cancel: &CancellationToken) -> Result<(), RoundError> {
        let mut running = self.running();
        if let Some((other, _)) = &*running {
            return Err(is_running(*other));
        }
        *running = Some((id, cancel.clone()));
        Ok(())
    }

    fn describe(&self, trigger: RoundTrigger, candidates: usize) -> Round {
        let questions = candidates.min(self.recipe.questions as usize);
        Round {
            id: Uuid::now_v7(),
            state: RoundState::Queued,
            trigger,
            recipe: json!(self.recipe),
            questions: questions as u32,
            held_back: held_back(questions, self.recipe.gate.held_back) as u32,
            step: 0,
            steps: self.recipe.steps,
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
    async fn run(self: Arc<Self>, round: Round, candidates: Vec<Candidate>, cancel: CancellationToken) {
        info!(candidates = candidates.len(), parent = %round.parent_version, "the round begins");
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_alive(round.id, cancel.clone())));
        // A task of its own: if it panics, the round has failed, and the next one can begin. On a thread of its own:
        // what it does between its waits (encoding questions, counting votes, hashing adapters) takes longer than
        // requests should wait for a worker.
        let driving = self.clone().drive(round.clone(), candidates, cancel).in_current_span();
        let runtime = Handle::current();
        let outcome = tokio::task::spawn_blocking(move || runtime.block_on(driving))
            .await
            .unwrap_or_else(|error| Err(Failure::Panicked(error.to_string())));
        drop(heartbeat);
        let (state, reason) = match outcome {
            Ok(ending) => ending,
            Err(_) if self.stopping.is_cancelled() => (RoundState::Cancelled, Some("the server was stopped".into())),
            Err(Failure::Learn(LearnError::Cancelled)) => {
                (RoundState::Cancelled, Some("the operator cancelled it".into()))
            }
            // A verdict on the policy, as the gate's is: nothing is broken, and nobody needs to repair anything.
            Err(Failure::Learn(LearnError::GivenUp(alarm))) => {
                self.metrics.rounds_given_up_total.with_label_values(&[alarm.rule.name()]).inc();
                (RoundState::Rejected, Some(alarm.to_string()))
            }
            Err(failure) => (RoundState::Failed, Some(failure.to_string())),
        };
        match state {
            RoundState::Failed => error!(reason, "the round failed; the live version is as it was"),
            _ => info!(?state, reason, "the round ended"),
        }
        let update = RoundUpdate { state: Some(state), reason, ..RoundUpdate::default() };
        if let Err(error) = self.update(round.id, update).await {
            warn!(%error, "the round's end could not be stored; it is marked as failed once its lease has run out");
        }
        let outcome = json!(state);
        self.metrics.rounds_total.with_label_values(&[outcome.as_str().unwrap_or_default()]).inc();
        self.metrics.round_in_progress.set(0);
        // Its end can be seen now, so the next may begin.
        *self.running() = None;
        if let Err(error) = self.registry.prune().await {
            warn!(%error, "some files of adapters that nobody needs are still there");
        }
    }

    /// Shows that the round is alive; cancels it if it has been given to somebody else.
    async fn keep_alive(self: Arc<Self>, id: Uuid, cancel: CancellationToken) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            match self.store.heartbeat(id, &self.owner, LEASE_SECONDS).await {
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
        round: Round,
        candidates: Vec<Candidate>,
        cancel: CancellationToken,
    ) -> Result<(RoundState, Option<String>), Failure> {
        let (round, cancel) = (&round, &cancel);
        let lease = self.registry.lease(&round.parent_version).await?;
        let start = match round.parent_version.is_base() {
            true => None,
            false => Some(self.registry.adapter(&round.parent_version).await?),
        };
        let seed = round.id.as_u64_pair().1;
        let (questions, set_aside) = self.choose(round, candidates, seed).await?;
        let (held, trained) = questions.split_at(held_back(questions.len(), self.recipe.gate.held_back));
        let chosen = RoundUpdate {
            state: Some(RoundState::Sampling),
            questions: Some(questions.len() as u32),
            held_back: Some(held.len() as u32),
            ..RoundUpdate::default()
        };
        self.update(round.id, chosen).await?;
        if questions.is_empty() {
            return Ok(rejected(format!("nothing is left to learn from now: {}", told(&set_aside))));
        }
        let texts = |questions: &[Question]| questions.iter().map(|question| question.text.clone()).collect::<Vec<_>>();
        let plan = Plan {
            questions: texts(trained),
            held_back: if self.recipe.guard.enabled { texts(held) } else { Vec::new() },
            lease: lease.clone(),
            start,
            recipe: self.recipe.clone(),
            control: None,
            seed,
        };
        let votes = VoteMetrics::default();
        let mut watch = Recorder { inner: &self, round, trained, votes, held_back: None, since: Instant::now() };
        let learnt = round::learn(&self.bench, plan, &mut watch, cancel).await?;
        if learnt.updates == 0 {
            return Ok(rejected("no question could teach anything: votes were tied, weak or of one mind"));
        }
        let base_model = self.bench.engine.info().name.clone();
        let files = format::encode(&learnt.config, &learnt.tensors, &base_model)?;
        let parent = round.parent_version.clone();
        let version = self.registry.add(files, parent, Some(round.id)).await?;
        let verdict = self.judge(round, (trained, held), (&version, learnt.trainer), cancel).await?;
        match verdict.decision {
            Decision::Reject => return Ok(rejected(verdict.reasons.join("; "))),
            Decision::Hold => return Ok((RoundState::Held, Some(verdict.reasons.join("; ")))),
            Decision::Promote => {}
        }
        if cancel.is_cancelled() {
            return Err(LearnError::Cancelled.into());
        }
        match self.registry.activate(Some(&round.parent_version), &version).await {
            Ok(previous) => {
                info!(%previous, live = %version, "the candidate is live");
                Ok((RoundState::Promoted, None))
            }
            Err(error @ RegistryError::Conflict { .. }) => Ok(rejected(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// The questions that the round takes, in an order that is its own: which of them are held back must not depend on
    /// when they were asked. Those that are passed over are written down as seen, so that they do not come again and
    /// again, and counted.
    async fn choose(
        &self,
        round: &Round,
        candidates: Vec<Candidate>,
        seed: u64,
    ) -> Result<(Vec<Question>, BTreeMap<SetAside, usize>), StoreError> {
        let Recipe { selection: rules, questions: limit, .. } = &self.recipe;
        let kind = self.bench.prompter.reading().kind;
        let fits = |question: &Question| {
            learner::check(&*self.bench.engine, &self.bench.prompter, &question.text, &self.recipe).is_ok()
        };
        let Selection { mut chosen, set_aside } = selection::select(rules, candidates, *limit as usize, kind, fits);
        let mut counts = BTreeMap::new();
        let mut rows = Vec::with_capacity(set_aside.len());
        for (question, reason) in &set_aside {
            *counts.entry(*reason).or_default() += 1;
            rows.push(RoundQuestion { set_aside: Some(*reason), ..unseen(round.id, question) });
        }
        if !rows.is_empty() {
            info!(reasons = told(&counts), "some questions are passed over");
            self.patiently(|| self.store.record_round_questions(&rows)).await?;
        }
        chosen.sort_by_key(|question| learner::mix(seed, question.id.as_u64_pair().1));
        Ok((chosen, counts))
    }

    async fn update(&self, id: Uuid, update: RoundUpdate) -> Result<(), StoreError> {
        self.patiently(|| self.store.update_round(id, &self.owner, update.clone())).await
    }

    /// Does a write of a round that runs, again and again while the database is away: what was learnt in minutes must not
    /// be lost to seconds. After a lease's time without it the round is no longer this server's.
    async fn patiently<F: Future<Output = Result<(), StoreError>>>(
        &self,
        mut write: impl FnMut() -> F,
    ) -> Result<(), StoreError> {
        let deadline = Instant::now() + Duration::from_secs(LEASE_SECONDS.into());
        loop {
            match write().await {
                Err(StoreError::Unavailable(reason)) if Instant::now() + RETRY < deadline => {
                    warn!(reason, "the round's progress could not be stored yet");
                    // A server that stops tries once more, and then leaves it.
                    if self.stopping.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                        return write().await;
                    }
                }
                outcome => return outcome,
            }
        }
    }

    async fn set_state(&self, round: &Round, state: RoundState) -> Result<(), StoreError> {
        let update = RoundUpdate { state: Some(state), ..RoundUpdate::default() };
        self.update(round.id, update).await
    }
}

fn rejected(reason: impl Into<String>) -> (RoundState, Option<String>) {
    (RoundState::Rejected, Some(reason.into()))
}

fn is_running(id: Uuid) -> RoundError {
    RoundError::Conflict(format!("round {id} is running: wait for its end or cancel it"))
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
    round: &'a Round,
    trained: &'a [Question],
    /// Of the last sampling.
    votes: VoteMetrics,
    held_back: Option<VoteMetrics>,
    /// When the step began.
    since: Instant,
}

fn watch_error(error: StoreError) -> LearnError {
    LearnError::Watch(error.to_string())
}

#[async_trait]
impl Watch for Recorder<'_> {
    async fn sampled(&mut self, updates: u32, voted: &[Voted], held_back: &[Voted]) -> Result<(), LearnError> {
        let rule = self.inner.recipe.reward_rule();
        self.votes = learner::vote_metrics(voted, rule);
        self.held_back = (!held_back.is_empty()).then(|| learner::vote_metrics(held_back, rule));
        let unknown = self.votes.unknown + self.held_back.map_or(0, |votes| votes.unknown);
        self.inner.metrics.unknown_answers_total.inc_by(unknown as u64);
        // The first sampling is the live version's; the candidate meets the held-back questions at the gate.
        if updates > 0 {
            return self.inner.set_state(self.round, RoundState::Training).await.map_err(watch_error);
        }
        let row = |(question, voted): (&Question, &Voted)| RoundQuestion {
            before_answer: majority(voted),
            before_ratio: Some(voted.tally.majority_ratio()),
            ..unseen(self.round.id, question)
        };
        let rows: Vec<RoundQuestion> = self.trained.iter().zip(voted).map(row).collect();
        let inner = self.inner;
        inner.patiently(|| inner.store.record_round_questions(&rows)).await.map_err(watch_error)?;
        self.inner.set_state(self.round, RoundState::Training).await.map_err(watch_error)
    }

    async fn updated(&mut self, updates: u32, metrics: Option<&UpdateMetrics>) -> Result<(), LearnError> {
        let inner = self.inner;
        inner.metrics.round_majority_ratio.set(self.votes.majority_ratio);
        inner.metrics.round_reward.set(self.votes.reward);
        if let Some(metrics) = metrics {
            inner.metrics.round_entropy.set(metrics.entropy);
            inner.metrics.round_kl.set(metrics.kl);
        }
        info!(step = updates, majority_ratio = self.votes.majority_ratio, reward = self.votes.reward, "step done");
        let step = RoundStep {
            round_id: self.round.id,
            step: updates,
            metrics: json!({ "votes": self.votes, "held_back": self.held_back, "update": metrics,
                             "seconds": self.since.elapsed().as_secs_f64() }),
        };
        self.since = Instant::now();
        inner.patiently(|| inner.store.record_step(&step)).await.map_err(watch_error)?;
        let last = updates == inner.recipe.steps;
        let update = RoundUpdate {
            state: (!last).then_some(RoundState::Sampling),
            step: Some(updates),
            ..RoundUpdate::default()
        };
        inner.update(self.round.id, update).await.map_err(watch_error)
    }
}
