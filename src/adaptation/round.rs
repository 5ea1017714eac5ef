//! One round: some steps of learning from a set of questions. The server and `ttrl learn` run the same one.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use async_trait::async_trait;
use candle_core::{DType, Tensor};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    adaptation::{
        checkpoint::{self, Checkpoint, Progress},
        guard::{self, Shown},
        learner::{self, Labels, LearnError, Voted},
        memory::{self, Footprint, Place},
        recipe::Recipe,
        trainer::{Assessment, TrainError, Trainer, UpdateMetrics},
        vote::{RewardRule, Teacher},
    },
    adapters::{
        format,
        gate::{self, Figures},
        probe::max_log_prob_gap,
    },
    engine::{
        handle::{Engine, Lease},
        model::{
            decoder::Decoder,
            device::{self, DeviceMemory},
            lora::{Adapter, LoraConfig},
        },
        turnstile::Turnstile,
    },
    grading::Tally,
    machine,
    prompter::Prompter,
};

/// What rounds are made with.
pub struct Workbench {
    pub engine: Arc<dyn Engine>,
    pub prompter: Arc<Prompter>,
    /// The trainer's own access to the weights.
    pub decoder: Arc<Decoder>,
    pub turnstile: Arc<Turnstile>,
}

/// What rollouts are rewarded by instead of votes, to see how far votes carry.
#[derive(Clone, Debug)]
pub enum Control {
    /// The right answers, as a vote for each question: what could be learnt at best.
    Labels(Vec<Tally>),
    /// Chance: what changes without anything to learn.
    Random,
}

/// What a round is to do.
pub struct Plan {
    pub questions: Vec<String>,
    /// Sampled in every step and never trained on: the guard looks at how they agree.
    pub held_back: Vec<String>,
    /// The version to start from, as a lease and, if it is not the base, as data.
    pub lease: Lease,
    pub start: Option<Adapter>,
    pub recipe: Recipe,
    /// For experiments; the rounds of a server have none.
    pub control: Option<Control>,
    /// Fixes every rollout and the adapter's first values.
    pub seed: u64,
    /// Where it is kept after each step how far the round has come; a file that is there is gone on from.
    pub checkpoint: Option<PathBuf>,
}

impl Plan {
    /// Stands for everything that the steps depend on: two plans with the same one learn the same, on one kind of CPU.
    fn digest(&self, bench: &Workbench) -> Result<String, LearnError> {
        let Self { questions, held_back, lease, recipe, seed, .. } = self;
        let prompter = &bench.prompter;
        let sampling = prompter.sampling(recipe.temperature as f32, recipe.max_tokens);
        let reading = (prompter.template().extraction(), prompter.reading());
        let model = &bench.engine.info().fingerprint;
        let mut hash = Sha256::new();
        hash.update(format!("{model} {} {seed} {recipe:?} {sampling:?} {reading:?}", lease.version()));
        for questions in [questions, held_back] {
            hash.update(format!("\n{}", questions.len()));
            for question in questions {
                hash.update(format!("\n{:?}", prompter.encode(question)?));
            }
        }
        Ok(checkpoint::hex(&hash.finalize()))
    }
}

/// Sees a round as it goes on.
#[async_trait]
pub trait Observer: Send {
    /// The training questions, and those held back, were sampled with the policy after `updates` updates.
    async fn sampled(&mut self, updates: u32, voted: &[Voted], held_back: &[Voted]) -> Result<(), LearnError>;

    /// Update number `updates` was made (`None`: no group could teach anything, the policy stayed as it was).
    async fn updated(&mut self, updates: u32, metrics: Option<&UpdateMetrics>) -> Result<(), LearnError>;
}

/// What a round has learnt.
pub struct Learnt {
    pub config: LoraConfig,
    pub tensors: BTreeMap<String, Tensor>,
    /// Holds the last policy.
    pub lease: Lease,
    /// For assessing the policy further.
    pub trainer: Trainer,
    /// How many updates were made; without any, the policy is what it was.
    pub updates: u32,
    /// What the training questions were rewarded by, if not by their own votes.
    pub labels: Option<Vec<Labels>>,
}

/// Runs the steps of a round, or the rest of them if it was begun before: where it stands is kept after each step that
/// the guard let pass, and the end is the same however often it is gone on with.
///
/// # Errors
/// Whatever ends it early; [`LearnError::Cancelled`] if `cancel` is triggered, [`LearnError::GivenUp`] if a step broke
/// a rule of the guard. The last policy has no step of its own: it is the gate's to judge.
pub async fn learn(
    bench: &Workbench,
    mut plan: Plan,
    observer: &mut dyn Observer,
    cancel: &CancellationToken,
) -> Result<Learnt, LearnError> {
    // From here on the recipe says what the template would have said.
    let sampling = bench.prompter.sampling(plan.recipe.temperature as f32, plan.recipe.max_tokens);
    plan.recipe.max_tokens = Some(sampling.max_tokens);
    let checkpoint = match plan.checkpoint.take() {
        Some(path) => Some(Checkpoint::new(path, plan.digest(bench)?)),
        None => None,
    };
    let Plan { questions, held_back, mut lease, start, recipe, control, seed, .. } = plan;
    let mut trainer = Trainer::new(bench.decoder.clone(), bench.turnstile.clone(), start.as_ref(), &recipe, seed)?;
    let mut progress = go_on(checkpoint.as_ref(), &mut trainer)?;
    // From before the first step on: who has the file can go on, whatever the round's row says when the server is killed.
    keep(checkpoint.as_ref(), &progress, Some(&trainer));
    let mut trainer = Some(trainer);
    let mut labels: Option<Vec<Labels>> = control.map(|control| match control {
        Control::Labels(right) => right.into_iter().map(Labels::Votes).collect(),
        Control::Random => vec![Labels::Random; questions.len()],
    });
    if progress.step > 0 && recipe.teacher == Teacher::Start && labels.is_none() {
        // What the first step had, once more: it is the same.
        let first = sample(bench, (&questions, &[]), &lease, &recipe, (seed, 0));
        labels = Some(own_votes(&cancel.run_until_cancelled(first).await.ok_or(LearnError::Cancelled)??.0));
    }
    if progress.updates > 0 {
        lease = load(bench, &trainer).await?;
    }
    while progress.step < recipe.steps {
        let step = progress.step;
        let sampling = sample(bench, (&questions, &held_back), &lease, &recipe, (seed, step));
        let (mut voted, held) = cancel.run_until_cancelled(sampling).await.ok_or(LearnError::Cancelled)??;
        if recipe.teacher == Teacher::Start && labels.is_none() {
            // The first step samples the version that the round starts from.
            labels = Some(own_votes(&voted));
        }
        label(&mut voted, labels.as_deref());
        observer.sampled(step, &voted, &held).await?;
        let metrics = learner::update(&mut trainer, &voted, step, &recipe, cancel).await?;
        progress.step += 1;
        if let Some(metrics) = &metrics {
            check_gap(bench, metrics.log_prob_gap)?;
            progress.updates += 1;
            lease = load(bench, &trainer).await?;
        }
        observer.updated(progress.step, metrics.as_ref()).await?;
        let figures = |voted: &[Voted]| learner::vote_metrics(voted, recipe.reward_rule());
        let held_back = (!held.is_empty()).then(|| figures(&held));
        progress.shown.push(Shown { votes: figures(&voted), held_back, update: metrics });
        guard::alarm(&recipe.guard, &progress.shown).map_or(Ok(()), |alarm| Err(LearnError::GivenUp(alarm)))?;
        keep(checkpoint.as_ref(), &progress, trainer.as_ref());
    }
    let trainer = trainer.ok_or(LearnError::Stopped)?;
    let (config, tensors) = trainer.snapshot().map_err(TrainError::from)?;
    Ok(Learnt { config, tensors, lease, trainer, updates: progress.updates, labels })
}

/// Where this bench trains.
pub fn place(bench: &Workbench) -> Place {
    if bench.decoder.device().is_cuda() { Place::Device } else { Place::Machine }
}

/// The part of a device's memory that a round leaves: for the engine's steps beside it, and for what lies between tensors.
const LEFT_OF_DEVICE: u64 = 32;

/// The bytes that training may take beside the engine; `None` where that cannot be told.
fn free_memory(bench: &Workbench) -> Result<Option<u64>, LearnError> {
    let decoder = &bench.decoder;
    if let Some(DeviceMemory { free, total }) = device::memory(decoder.device()).map_err(TrainError::from)? {
        return Ok(Some(free.saturating_sub(total / LEFT_OF_DEVICE)));
    }
    // The machine's own, when the engine's cache is full.
    let stats = bench.engine.stats();
    let untouched = (stats.cache_tokens_capacity - stats.cache_tokens_used) as u64;
    let untouched = untouched * decoder.config().cache_bytes_per_token(DType::F32);
    Ok(machine::available_memory().map(|free| free.saturating_sub(untouched)).filter(|_| decoder.device().is_cpu()))
}

/// How many rows the passes of training on these questions may have: as many as the recipe says, or suit the device, or
/// fewer, so that it fits into the memory that the recipe allows or that is free beside the engine.
///
/// # Errors
/// [`LearnError::TooLarge`] if it does not fit at all.
pub fn rows_that_fit<'a>(
    bench: &Workbench,
    recipe: &Recipe,
    questions: impl IntoIterator<Item = &'a str>,
) -> Result<usize, LearnError> {
    let (prompter, decoder) = (&bench.prompter, &bench.decoder);
    let wanted = recipe.micro_batch_tokens.unwrap_or(place(bench).pass_rows());
    let available = match recipe.memory_mib {
        Some(mib) => Some(mib << 20),
        None => free_memory(bench)?,
    };
    let Some(available) = available else { return Ok(wanted) };
    let mut longest = 0;
    for question in questions {
        longest = longest.max(prompter.encode(question)?.len());
    }
    longest += prompter.sampling(recipe.temperature as f32, recipe.max_tokens).max_tokens;
    let lora = (recipe.lora_rank, recipe.lora_targets.projections());
    let footprint = Footprint::of(decoder.config(), place(bench), lora, longest);
    let rows = memory::fitting_rows(&footprint, (wanted, longest), available)?;
    if rows < wanted {
        let free_mib = available >> 20;
        info!(rows, wanted, free_mib, "training goes in smaller passes, so that it fits into memory");
    }
    Ok(rows)
}

/// Puts the trainer where the checkpoint says. Without one that can be used, the round begins at its beginning.
fn go_on(checkpoint: Option<&Checkpoint>, trainer: &mut Trainer) -> Result<Progress, LearnError> {
    let Some(checkpoint) = checkpoint else { return Ok(Progress::default()) };
    match checkpoint.read() {
        Ok(Some((progress, state))) => {
            trainer.restore(state)?;
            info!(step = progress.step, "the round goes on after this step");
            Ok(progress)
        }
        Ok(None) => Ok(Progress::default()),
        Err(error) => {
            warn!(%error, "the round begins again from its beginning");
            Ok(Progress::default())
        }
    }
}

/// Keeps where the round stands. A round without a checkpoint is a round all the same.
fn keep(checkpoint: Option<&Checkpoint>, progress: &Progress, trainer: Option<&Trainer>) {
    let (Some(checkpoint), Some(trainer)) = (checkpoint, trainer) else { return };
    let begun = Instant::now();
    match checkpoint.write(progress, &trainer.state()) {
        Ok(()) => debug!(seconds = begun.elapsed().as_secs_f64(), step = progress.step, "the checkpoint is written"),
        Err(error) => warn!(%error, "if the server stops now, what this step learnt is lost"),
    }
}

/// Samples a step's training questions, and those held back, with the policy that `lease` holds. Each of the two has
/// random numbers of its own, so that what is held back does not change what is learnt.
pub async fn sample(
    bench: &Workbench,
    (questions, held_back): (&[String], &[String]),
    lease: &Lease,
    recipe: &Recipe,
    (seed, step): (u64, u32),
) -> Result<(Vec<Voted>, Vec<Voted>), LearnError> {
    let draw = |questions, seed| {
        let seed = learner::mix(seed, u64::from(step));
        learner::sample(&*bench.engine, &bench.prompter, lease, questions, recipe, seed)
    };
    Ok((draw(questions, seed).await?, draw(held_back, !seed).await?))
}

/// Every question's own votes as its labels.
fn own_votes(voted: &[Voted]) -> Vec<Labels> {
    voted.iter().map(|voted| Labels::Votes(voted.tally.clone())).collect()
}

/// Has the training questions, in the order of the plan, rewarded by these labels.
pub fn label(voted: &mut [Voted], labels: Option<&[Labels]>) {
    for (voted, labels) in voted.iter_mut().zip(labels.into_iter().flatten()) {
        voted.labels = labels.clone();
    }
}

/// Makes the policy resident as it is now, under the version that it would be saved with.
async fn load(bench: &Workbench, trainer: &Option<Trainer>) -> Result<Lease, LearnError> {
    let trainer = trainer.as_ref().ok_or(LearnError::Stopped)?;
    let (config, tensors) = trainer.snapshot().map_err(TrainError::from)?;
    let version = format::encode(&config, &tensors, &bench.engine.info().name)?.version;
    Ok(bench.engine.load_adapter(Arc::new(Adapter { version, config, tensors })).await?)
}

fn check_gap(bench: &Workbench, gap: f64) -> Result<(), LearnError> {
    let limit = max_log_prob_gap(bench.decoder.dtype());
    if gap <= limit { Ok(()) } else { Err(LearnError::OtherWeights { gap, limit }) }
}

/// What the gate asks: the questions, and whether they were kept out of training.
pub struct Exam<'a> {
    pub questions: &'a [String],
    pub held_back: bool,
    pub seed: u64,
}

/// What both versions showed, with their votes.
pub struct Examined {
    pub shown: gate::Shown,
    pub live: Vec<Voted>,
    pub candidate: Vec<Voted>,
}

/// Lets the candidate meet the live version on the gate's questions, with the same random numbers for both. The
/// candidate's rollouts are also a probe: their log-probabilities must be those that the trainer computes for the
/// weights that it made.
pub async fn examine(
    bench: &Workbench,
    (live, candidate): (&Lease, &Lease),
    trainer: Trainer,
    exam: Exam<'_>,
    recipe: &Recipe,
    cancel: &CancellationToken,
) -> Result<Examined, LearnError> {
    let Exam { questions, held_back, seed } = exam;
    let sample = |lease| learner::sample(&*bench.engine, &bench.prompter, lease, questions, recipe, seed);
    let live = cancel.run_until_cancelled(sample(live)).await.ok_or(LearnError::Cancelled)??;
    let candidate = cancel.run_until_cancelled(sample(candidate)).await.ok_or(LearnError::Cancelled)??;
    let assessment = learner::assess(trainer, &candidate, recipe, cancel).await?;
    let Assessment { kl, log_prob_gap } = assessment;
    check_gap(bench, log_prob_gap)?;
    let (live_figures, candidate_figures) = (figures(&live), figures(&candidate));
    let shown =
        gate::Shown { questions: questions.len(), held_back, live: live_figures, candidate: candidate_figures, kl };
    Ok(Examined { shown, live, candidate })
}

/// What the gate looks at.
fn figures(voted: &[Voted]) -> Figures {
    let metrics = learner::vote_metrics(voted, RewardRule::TTRL);
    Figures {
        majority_ratio: metrics.majority_ratio,
        answer_rate: metrics.answer_rate,
        mean_tokens: metrics.mean_tokens,
    }
}
