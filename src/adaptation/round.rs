//! One round: some steps of learning from a set of questions. The server and `ttrl learn` run the same one.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use candle_core::Tensor;
use tokio_util::sync::CancellationToken;

use crate::{
    adaptation::{
        guard::{self, Shown},
        learner::{self, Labels, LearnError, Voted},
        recipe::Recipe,
        trainer::{Assessment, TrainError, Trainer, UpdateMetrics},
        vote::{RewardRule, Teacher},
    },
    adapters::{
        format,
        gate::{self, Figures},
        probe::MAX_LOG_PROB_GAP,
    },
    engine::{
        handle::{Engine, Lease},
        model::{
            decoder::Decoder,
            lora::{Adapter, LoraConfig},
        },
        turnstile::Turnstile,
    },
    grading::Tally,
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
}

/// Sees a round as it goes on.
#[async_trait]
pub trait Watch: Send {
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

/// Runs the steps of a round.
///
/// # Errors
/// Whatever ends it early; [`LearnError::Cancelled`] if `cancel` is triggered, [`LearnError::GivenUp`] if a step broke
/// a rule of the guard. The last policy has no step of its own: it is the gate's to judge.
pub async fn learn(
    bench: &Workbench,
    plan: Plan,
    watch: &mut dyn Watch,
    cancel: &CancellationToken,
) -> Result<Learnt, LearnError> {
    let Plan { questions, held_back, mut lease, start, mut recipe, control, seed } = plan;
    // From here on the recipe says what the template would have said.
    recipe.max_tokens = Some(bench.prompter.sampling(recipe.temperature as f32, recipe.max_tokens).max_tokens);
    let trainer = Trainer::new(bench.decoder.clone(), bench.turnstile.clone(), start.as_ref(), &recipe, seed)?;
    let mut trainer = Some(trainer);
    let (mut updates, mut shown) = (0, Vec::new());
    let mut labels: Option<Vec<Labels>> = control.map(|control| match control {
        Control::Labels(right) => right.into_iter().map(Labels::Votes).collect(),
        Control::Random => vec![Labels::Random; questions.len()],
    });
    for step in 0..recipe.steps {
        let sampling = sample(bench, (&questions, &held_back), &lease, &recipe, (seed, step));
        let (mut voted, held) = cancel.run_until_cancelled(sampling).await.ok_or(LearnError::Cancelled)??;
        if recipe.teacher == Teacher::Start && labels.is_none() {
            // The first step samples the version that the round starts from.
            labels = Some(voted.iter().map(|voted| Labels::Votes(voted.tally.clone())).collect());
        }
        label(&mut voted, labels.as_deref());
        watch.sampled(step, &voted, &held).await?;
        let metrics = learner::update(&mut trainer, &voted, step, &recipe, cancel).await?;
        if let Some(metrics) = &metrics {
            check_gap(metrics.log_prob_gap)?;
            updates += 1;
            lease = load(bench, &trainer).await?;
        }
        watch.updated(step + 1, metrics.as_ref()).await?;
        let figures = |voted: &[Voted]| learner::vote_metrics(voted, recipe.reward_rule());
        let held_back = (!held.is_empty()).then(|| figures(&held));
        shown.push(Shown { votes: figures(&voted), held_back, update: metrics });
        guard::alarm(&recipe.guard, &shown).map_or(Ok(()), |alarm| Err(LearnError::GivenUp(alarm)))?;
    }
    let trainer = trainer.ok_or(LearnError::Stopped)?;
    let (config, tensors) = trainer.snapshot().map_err(TrainError::from)?;
    Ok(Learnt { config, tensors, lease, trainer, updates, labels })
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

fn check_gap(gap: f64) -> Result<(), LearnError> {
    if gap <= MAX_LOG_PROB_GAP { Ok(()) } else { Err(LearnError::OtherWeights { gap, limit: MAX_LOG_PROB_GAP }) }
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
    check_gap(log_prob_gap)?;
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
