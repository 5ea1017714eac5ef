//! One step of learning: sample, vote, reward, update. Rounds and offline runs share it.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    adaptation::{
        batch::{Drawn, Graded},
        guard::Alarm,
        recipe::Recipe,
        trainer::{Assessment, TrainError, Trainer, UpdateMetrics},
        vote::{self, RewardRule},
    },
    adapters::format::FormatError,
    engine::handle::{Engine, EngineError, GenerateRequest, Group, Lease, Priority, Report},
    grading::Tally,
    prompter::{Prompter, PrompterError},
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
    /// The policy cannot be put into an adapter's files, as when a weight is not finite.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A watcher could not do its part, such as storing progress.
    #[error("{0}")]
    Watch(String),
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
}

/// What rollouts say without labels; shares are over all rollouts, means over questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
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
    let silent: usize = voted.iter().map(|voted| voted.tally.no_answer()).sum();
    let rewards: Vec<_> = voted.iter().map(|voted| vote::rewards(&voted.tally, rule)).collect();
    let over = |sum: f64, count: usize| if count == 0 { 0.0 } else { sum / count as f64 };
    VoteMetrics {
        questions: voted.len(),
        majority_ratio: over(voted.iter().map(|voted| voted.tally.majority_ratio()).sum(), voted.len()),
        answer_rate: over((rollouts - silent) as f64, rollouts),
        reward: over(rewards.iter().flatten().flatten().sum(), rollouts),
        abstained: rewards.iter().filter(|rewards| rewards.is_none()).count(),
        unknown: voted.iter().map(|voted| voted.tally.unknown).sum(),
        mean_tokens: over(tokens as f64, rollouts),
        tokens,
    }
}

/// Samples every question's votes with one adapter version.
pub async fn sample(
    engine: &dyn Engine,
    prompter: &Prompter,
    lease: &Lease,
    questions: &[String],
    recipe: &Recipe,
    seed: u64,
) -> Result<Vec<Voted>, LearnError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let requests = questions.iter().enumerate();
    let requests = requests
        .map(|(index, question)| request(prompter, lease, question, recipe, mix(seed, index as u64)))
        .collect::<Result<Vec<_>, _>>()?;
    let groups = engine.generate(requests).await?;
    Ok(groups.into_iter().map(|group| Voted { tally: prompter.tally(&group), group }).collect())
}

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
    let mut rewards = vote::rewards(&voted.tally, recipe.reward_rule())?;
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
        Voted { group, tally: Tally::count(answers.iter().map(|answer| Some((*answer).to_owned()))) }
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
