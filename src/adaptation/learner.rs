//! One step of learning: sample, vote, reward, update. Rounds and offline runs share it.

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    adaptation::{
        batch::{Drawn, Graded},
        guard::Alarm,
        memory::TooLarge,
        recipe::Recipe,
        trainer::{Assessment, TrainError, Trainer, UpdateMetrics},
        vote::{self, RewardRule},
    },
    adapters::format::FormatError,
    engine::handle::{Engine, EngineError, GenerateRequest, Group, Lease, Priority, Report},
    grading::Tally,
    prompter::{Prompter, PrompterError},
    store::StoreError,
};

/// Why a step was not made.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Prompt(#[from] PrompterError),
    #[error(transparent)]
    Train(TrainError),
    /// What the engine serves is not what the trainer made.
    #[error(
        "the engine's log-probabilities are off by {gap:.3} from the trainer's, more than {limit}: it does not serve the \
         weights that were trained"
    )]
    OtherWeights { gap: f64, limit: f64 },
    /// A step broke a rule of the guard.
    #[error("the round was {0}")]
    GivenUp(Alarm),
    #[error("the round was cancelled")]
    Cancelled,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The policy cannot be put into an adapter's files, as when a weight is not finite.
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An observer could not do its part, such as showing progress.
    #[error("{0}")]
    Observer(String),
    #[error("the trainer stopped unexpectedly")]
    Stopped,
}

/// A trainer that is cancelled may say so before whoever waits for it has noticed: to both it is the same.
impl From<TrainError> for LearnError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Cancelled => Self::Cancelled,
            error => Self::Train(error),
        }
    }
}

/// The rollouts of a question and what they voted for.
#[derive(Clone, Debug)]
pub struct Voted {
    pub group: Group,
    pub tally: Tally,
    pub labels: Labels,
}

/// What the rollouts of a question are rewarded by.
#[derive(Clone, Debug, Default)]
pub enum Labels {
    /// Their own votes.
    #[default]
    Own,
    /// These.
    Votes(Tally),
    /// Nothing: a control, by which nothing can be learnt.
    Random,
}

impl Voted {
    /// Generated tokens of a rollout.
    fn mean_tokens(&self) -> f64 {
        let lengths = self.group.rollouts.iter().map(|rollout| rollout.tokens.len());
        lengths.sum::<usize>() as f64 / self.group.rollouts.len().max(1) as f64
    }

    /// The votes that the rollouts are rewarded by; `None` if that is chance.
    pub fn label(&self) -> Option<&Tally> {
        match &self.labels {
            Labels::Own => Some(&self.tally),
            Labels::Votes(labels) => Some(labels),
            Labels::Random => None,
        }
    }

    /// What each rollout earns; `None` if the question abstains.
    fn rewards(&self, rule: RewardRule) -> Option<Vec<f64>> {
        match self.label() {
            Some(labels) => vote::rewards(&self.tally, labels, rule),
            None => Some(vote::random_rewards(self.tally.total)),
        }
    }
}

/// What rollouts say without labels: means over questions, so that one that drew fewer rollouts than others, since it was
/// sure, counts as much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VoteMetrics {
    pub questions: usize,
    /// Mean share of the majority.
    pub majority_ratio: f64,
    /// Share of rollouts with an answer.
    pub answer_rate: f64,
    /// Mean reward over all rollouts; those of questions that abstain earn nothing.
    pub reward: f64,
    /// Questions without an accepted majority.
    pub abstained: usize,
    /// Rollouts whose answer was not understood.
    pub unknown: usize,
    /// Generated tokens of a rollout.
    pub mean_tokens: f64,
    /// Tokens generated in all.
    pub tokens: usize,
}

/// Summarises the rollouts of a step.
pub fn vote_metrics(voted: &[Voted], rule: RewardRule) -> VoteMetrics {
    let rollouts: usize = voted.iter().map(|voted| voted.tally.total).sum();
    let tokens: usize = voted.iter().flat_map(|voted| &voted.group.rollouts).map(|rollout| rollout.tokens.len()).sum();
    let rewards: Vec<_> = voted.iter().map(|voted| voted.rewards(rule)).collect();
    let over = |sum: f64, count: usize| if count == 0 { 0.0 } else { sum / count as f64 };
    let mean = |of: &dyn Fn(&Voted) -> f64| over(voted.iter().map(of).sum(), voted.len());
    VoteMetrics {
        questions: voted.len(),
        majority_ratio: mean(&|voted| voted.tally.majority_ratio()),
        answer_rate: mean(&|voted| over((voted.tally.total - voted.tally.no_answer()) as f64, voted.tally.total)),
        reward: over(rewards.iter().flatten().flatten().sum(), rollouts),
        abstained: rewards.iter().filter(|rewards| rewards.is_none()).count(),
        unknown: voted.iter().map(|voted| voted.tally.unknown).sum(),
        mean_tokens: mean(&Voted::mean_tokens),
        tokens,
    }
}

/// Samples every question's votes with one adapter version: all at once, or in waves until their leader is sure.
pub async fn sample(
    engine: &dyn Engine,
    prompter: &Prompter,
    lease: &Lease,
    questions: &[String],
    recipe: &Recipe,
    seed: u64,
) -> Result<Vec<Voted>, LearnError> {
    let mut voted: Vec<Option<Voted>> = questions.iter().map(|_| None).collect();
    for (wave, votes) in waves(recipe).enumerate() {
        let open = |voted: &Option<Voted>| {
            let sure = |voted: &Voted| recipe.stop_confidence.is_some_and(|sure| vote::is_sure(&voted.tally, sure));
            !voted.as_ref().is_some_and(sure)
        };
        let open: Vec<usize> = (0..questions.len()).filter(|&index| open(&voted[index])).collect();
        if open.is_empty() {
            break;
        }
        let seed = if wave == 0 { seed } else { mix(!seed, wave as u64) };
        let request = |&index: &usize| {
            let request = request(prompter, lease, &questions[index], recipe, mix(seed, index as u64))?;
            Ok(GenerateRequest { samples: votes, ..request })
        };
        let requests = open.iter().map(request).collect::<Result<Vec<_>, PrompterError>>()?;
        for (index, group) in open.into_iter().zip(engine.generate(requests).await?) {
            let group = match voted[index].take() {
                None => group,
                Some(Voted { group: mut before, .. }) => {
                    before.rollouts.extend(group.rollouts);
                    before
                }
            };
            voted[index] = Some(Voted { tally: prompter.tally(&group), group, labels: Labels::Own });
        }
    }
    Ok(voted.into_iter().flatten().collect())
}

/// How many votes of a question are drawn at a time: all, unless sampling may stop earlier.
fn waves(recipe: &Recipe) -> impl Iterator<Item = usize> {
    let votes = recipe.votes as usize;
    let wave = if recipe.stop_confidence.is_some() { votes.div_ceil(WAVES).max(SMALLEST_WAVE) } else { votes };
    (0..votes).step_by(wave).map(move |drawn| wave.min(votes - drawn))
}

/// A wave has to wait for its longest response, so there are few of them. Four equal votes are the fewest that are sure
/// at 0.95.
const WAVES: usize = 4;
const SMALLEST_WAVE: usize = 4;

fn request(
    prompter: &Prompter,
    lease: &Lease,
    question: &str,
    recipe: &Recipe,
    seed: u64,
) -> Result<GenerateRequest, PrompterError> {
    Ok(GenerateRequest {
        lease: lease.clone(),
        prompt: prompter.encode(question)?,
        samples: recipe.votes as usize,
        sampling: prompter.sampling(recipe.temperature as f32, recipe.max_tokens),
        seed,
        priority: Priority::Rollout,
        report: Report::default(),
        place: None,
    })
}

/// Whether a question can be sampled with a recipe at all: one that is too long for its votes would fail every round.
///
/// # Errors
/// Says why not.
pub fn check(engine: &dyn Engine, prompter: &Prompter, question: &str, recipe: &Recipe) -> Result<(), LearnError> {
    Ok(engine.check(&request(prompter, &engine.base(), question, recipe, 0)?)?)
}

/// A seed that is a function of two numbers and looks like neither (SplitMix64's finaliser, Steele et al. 2014).
pub fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Trains on the rollouts of a step, counted from 0; see [`Trainer::update`]. The trainer is lent for as long as that takes, and is
/// gone if the update is cancelled.
pub async fn update(
    trainer: &mut Option<Trainer>,
    voted: &[Voted],
    step: u32,
    recipe: &Recipe,
    cancel: &CancellationToken,
) -> Result<Option<UpdateMetrics>, LearnError> {
    let graded: Vec<Graded> = voted.iter().filter_map(|voted| grade(voted, recipe)).collect();
    let drawn = drawn(voted, recipe);
    let mut lent = trainer.take().ok_or(LearnError::Stopped)?;
    let (recipe, learning_rate) = (recipe.clone(), recipe.learning_rate_at(step));
    let (returned, metrics) = blocking(cancel, move |cancel| {
        let metrics = lent.update(&graded, drawn, learning_rate, &recipe, &cancel);
        (lent, metrics)
    })
    .await?;
    *trainer = Some(returned);
    Ok(metrics?)
}

/// The rollouts of a question that are trained on, with what the votes of all of them make them earn; `None` if the
/// question abstains.
fn grade(voted: &Voted, recipe: &Recipe) -> Option<Graded> {
    let mut rewards = voted.rewards(recipe.reward_rule())?;
    let mut group = voted.group.clone();
    rewards.truncate(recipe.trained_rollouts());
    group.rollouts.truncate(recipe.trained_rollouts());
    Some(Graded { group, rewards })
}

/// What was drawn for training, questions that abstain included.
fn drawn(voted: &[Voted], recipe: &Recipe) -> Drawn {
    let trained = || voted.iter().flat_map(|voted| voted.group.rollouts.iter().take(recipe.trained_rollouts()));
    let lengths = || trained().map(|rollout| rollout.tokens.len());
    Drawn {
        rollouts: trained().count(),
        tokens: lengths().sum(),
        max_tokens: recipe.max_tokens.unwrap_or(lengths().max().unwrap_or(0)),
    }
}

/// What the trainer says of rollouts of the policy that it made; see [`Trainer::assess`].
pub async fn assess(
    trainer: Trainer,
    voted: &[Voted],
    recipe: &Recipe,
    cancel: &CancellationToken,
) -> Result<Assessment, LearnError> {
    let groups: Vec<Group> = voted.iter().map(|voted| voted.group.clone()).collect();
    let recipe = recipe.clone();
    Ok(blocking(cancel, move |cancel| trainer.assess(groups, &recipe, &cancel)).await??)
}

/// Runs long work on a thread of its own. If the caller is dropped or cancelled, the work is told and ends at its next
/// slice.
async fn blocking<R: Send + 'static>(
    cancel: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> R + Send + 'static,
) -> Result<R, LearnError> {
    let token = cancel.child_token();
    let guard = token.clone().drop_guard();
    let running = tokio::task::spawn_blocking(move || work(token));
    let result = cancel.run_until_cancelled(running).await.ok_or(LearnError::Cancelled)?;
    drop(guard);
    result.map_err(|_| LearnError::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adaptation::vote::Reward,
        engine::handle::{FinishReason, Rollout, Timings, Version},
    };

    /// A question whose rollouts gave these answers, each of as many tokens as it has letters.
    fn voted(answers: &[&str]) -> Voted {
        let rollout = |answer: &&str| Rollout {
            tokens: vec![7; answer.len()],
            log_probs: vec![-1.0; answer.len()],
            scores: vec![],
            text: (*answer).into(),
            finish: FinishReason::Stop,
        };
        let group = Group {
            version: Version::base(),
            prompt: vec![1],
            prompt_scores: vec![],
            rollouts: answers.iter().map(rollout).collect(),
            timings: Timings::default(),
        };
        Voted {
            group,
            tally: Tally::count(answers.iter().map(|answer| Some((*answer).to_owned()))),
            labels: Labels::Own,
        }
    }

    #[test]
    fn every_rollout_votes_and_the_first_ones_train() {
        let recipe = Recipe { votes: 5, train_rollouts: Some(2), reward: Reward::Majority, ..Recipe::default() };
        let question = voted(&["46", "107", "107", "107", "46"]);
        let graded = grade(&question, &recipe).unwrap();
        assert_eq!((graded.rewards, graded.group.rollouts.len()), (vec![0.0, 1.0], 2));
        assert_eq!(drawn(&[question], &recipe), Drawn { rollouts: 2, tokens: 5, max_tokens: 3 });
        let all = Recipe { train_rollouts: Some(9), ..recipe };
        assert_eq!(grade(&voted(&["46", "46", "47", "1", "2"]), &all).unwrap().rewards.len(), 5);
    }
}
