//! From a question to a stored answer.
//!
//! Architecture invariant: all samples of one question are drawn under one lease, and the answer carries that version.
//! An answer is durable before anybody sees it.

use std::{sync::Arc, time::Instant};

use chrono::Utc;
use rand::rngs::SysError;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    adapters::registry::Registry,
    config::{AnswerSettings, MAX_VOTES},
    engine::{
        handle::{Engine, EngineError, GenerateRequest, Group, Place, Priority, Report, Sampling},
        sampling::{OutOfRange, check_seed, ensure, random_seed},
    },
    grading::Tally,
    prompter::{Prompt, Prompter, PrompterError},
    store::{Answer, Question, SharedStore, StoreError, Vote},
    telemetry::Metrics,
};

/// A question with what its asker wants to be different from the defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub question: String,
    /// How many samples vote.
    pub votes: Option<u32>,
    /// The most tokens of a sample.
    pub max_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub min_p: Option<f32>,
    /// The same question with the same seed, parameters and adapter version draws the same samples.
    pub seed: Option<u64>,
    /// Whether rounds may learn from the question; they may if nothing is said.
    pub learn: Option<bool>,
    /// Kept with the question and returned as it came.
    pub metadata: Option<Value>,
}

/// Why a question got no answer. The texts say what to change.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{0}")]
    Question(String),
    #[error("{0}")]
    TooLong(String),
    #[error(transparent)]
    Parameter(#[from] OutOfRange),
    #[error(transparent)]
    Prompt(#[from] PrompterError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system gave no random numbers: {0}")]
    Random(#[from] SysError),
}

/// Answers questions by a vote of samples.
pub struct Answering {
    engine: Arc<dyn Engine>,
    registry: Arc<Registry>,
    store: SharedStore,
    prompter: Arc<Prompter>,
    defaults: AnswerSettings,
    metrics: Arc<Metrics>,
}

/// The parameters in effect for one question.
struct Plan {
    votes: u32,
    seed: u64,
    sampling: Sampling,
}

impl Answering {
    pub fn new(
        engine: Arc<dyn Engine>,
        registry: Arc<Registry>,
        store: SharedStore,
        prompter: Arc<Prompter>,
        defaults: AnswerSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { engine, registry, store, prompter, defaults, metrics }
    }

    /// Answers a question of a client and stores both. Dropping the future gives up its place in the engine.
    pub async fn ask(&self, ask: Ask, client: Option<String>) -> Result<(Question, Answer), AskError> {
        let started = Instant::now();
        let created_at = Utc::now();
        let plan = self.plan(&ask)?;
        // Whoever finds no place makes no work. It is kept until the answer is stored.
        let place = self.engine.line().enter()?;
        let mut prompts = self.prompter.encode_all(vec![Prompt::Question(ask.question.clone())], place.clone()).await?;
        let request = self.request(&plan, prompts.pop().unwrap_or_default(), Some(place.clone()))?;
        let mut groups = self.engine.generate(vec![request]).await?;
        let whole = groups.pop().filter(|group| groups.is_empty() && group.rollouts.len() == plan.votes as usize);
        let group = whole.ok_or_else(|| EngineError::Compute("it returned another number of samples".into()))?;
        let tally = self.prompter.tally(&group);
        let question = Question {
            id: Uuid::now_v7(),
            text: ask.question,
            learn: ask.learn.unwrap_or(true),
            client,
            metadata: ask.metadata,
            created_at,
        };
        let answer = self.answer(question.id, &plan, &group, &tally, started);
        self.store.record_answer(&question, &answer).await?;
        self.metrics.unknown_answers_total.inc_by(tally.unknown as u64);
        self.observe(&group, &answer, started);
        Ok((question, answer))
    }

    /// Tries the configured defaults on a short question.
    ///
    /// # Errors
    /// If even that could not be answered: every client would get this error.
    pub fn check_defaults(&self) -> Result<(), AskError> {
        let question = "1 + 1 =";
        let plan = self.plan(&Ask { question: question.into(), ..Ask::default() })?;
        Ok(self.engine.check(&self.request(&plan, self.prompter.encode(question)?, None)?)?)
    }

    /// What is asked of the engine, if the prompt leaves room for it.
    fn request(&self, plan: &Plan, prompt: Vec<u32>, place: Option<Place>) -> Result<GenerateRequest, AskError> {
        check_length(prompt.len(), plan.sampling.max_tokens, self.engine.info().context_tokens)?;
        Ok(GenerateRequest {
            lease: self.registry.live(),
            prompt,
            samples: plan.votes as usize,
            sampling: plan.sampling.clone(),
            seed: plan.seed,
            priority: Priority::Request,
            report: Report::default(),
            place,
        })
    }

    /// Checks a question as far as it can be without encoding it, and fills in what it leaves open.
    fn plan(&self, ask: &Ask) -> Result<Plan, AskError> {
        check_text(&ask.question, self.defaults.max_question_chars)?;
        let votes = ask.votes.unwrap_or(self.defaults.votes);
        ensure((1..=MAX_VOTES).contains(&votes), "votes", votes, format!("from 1 to {MAX_VOTES}"))?;
        let context = self.engine.info().context_tokens;
        let max_tokens = ask.max_tokens.map(|tokens| tokens as usize);
        if let Some(tokens) = max_tokens {
            ensure((1..=context).contains(&tokens), "max_tokens", tokens, format!("from 1 to {context}"))?;
        }
        ask.seed.map_or(Ok(()), check_seed)?;
        // A single sample is the answer, so it is the likeliest one; a vote needs samples that differ.
        let default_temperature = if votes == 1 { 0.0 } else { self.defaults.temperature };
        let temperature = ask.temperature.unwrap_or(default_temperature);
        let sampling = Sampling {
            top_p: ask.top_p.unwrap_or(self.defaults.top_p),
            top_k: ask.top_k.unwrap_or(0),
            min_p: ask.min_p.unwrap_or(0.0),
            ..self.prompter.sampling(temperature, max_tokens.or(self.defaults.max_tokens))
        };
        sampling.check()?;
        let seed = ask.seed.map_or_else(random_seed, Ok)?;
        Ok(Plan { votes, seed, sampling })
    }

    fn answer(&self, question_id: Uuid, plan: &Plan, group: &Group, tally: &Tally, started: Instant) -> Answer {
        let majority = tally.majority();
        let shown = majority.and_then(|class| class.members.first().copied()).unwrap_or(0);
        let completion_tokens: usize = group.rollouts.iter().map(|rollout| rollout.tokens.len()).sum();
        let vote = |class: &crate::grading::Class| Vote { answer: class.answer.clone(), count: count(class.votes()) };
        Answer {
            id: Uuid::now_v7(),
            question_id,
            adapter_version: group.version.clone(),
            answer: majority.map(|class| class.answer.clone()),
            text: group.rollouts.get(shown).map(|rollout| rollout.text.clone()).unwrap_or_default(),
            votes: tally.classes.iter().map(vote).collect(),
            samples: count(tally.total),
            majority_ratio: tally.majority_ratio(),
            prompt_tokens: count(group.prompt.len()),
            completion_tokens: count(completion_tokens),
            timings: json!({
                "queue_seconds": group.timings.queue.as_secs_f64(),
                "prefill_seconds": group.timings.prefill.as_secs_f64(),
                "decode_seconds": group.timings.decode.as_secs_f64(),
                "total_seconds": started.elapsed().as_secs_f64(),
            }),
            parameters: json!({
                "votes": plan.votes,
                "max_tokens": plan.sampling.max_tokens,
                "temperature": tidy(plan.sampling.temperature),
                "top_p": tidy(plan.sampling.top_p),
                "top_k": plan.sampling.top_k,
                "min_p": tidy(plan.sampling.min_p),
                "seed": plan.seed,
                "prompt_template": self.prompter.template().name(),
                "model": self.engine.info().name,
            }),
            created_at: Utc::now(),
        }
    }

    fn observe(&self, group: &Group, answer: &Answer, started: Instant) {
        let outcome = if answer.answer.is_some() { "answered" } else { "no_majority" };
        self.metrics.answers_total.with_label_values(&[outcome]).inc();
        self.metrics.majority_ratio.observe(answer.majority_ratio);
        self.metrics.observe_generation(&group.timings, started.elapsed());
    }
}

fn check_text(question: &str, max_chars: usize) -> Result<(), AskError> {
    if question.trim().is_empty() {
        return Err(AskError::Question("`question` is empty; write a question".into()));
    }
    let chars = question.chars().count();
    if chars > max_chars {
        return Err(AskError::TooLong(format!("`question` has {chars} characters; {max_chars} is the limit")));
    }
    match question.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        Some(c) => Err(AskError::Question(format!("`question` contains the control character {c:?}; leave it out"))),
        None => Ok(()),
    }
}

fn check_length(prompt: usize, max_tokens: usize, context: usize) -> Result<(), AskError> {
    match context.checked_sub(prompt) {
        Some(room) if max_tokens <= room => Ok(()),
        None | Some(0) => Err(AskError::TooLong(format!(
            "the prompt with this question has {prompt} tokens, and the model reads {context}; ask a shorter question"
        ))),
        Some(room) => {
            let range = format!("at most {room}, which is what the model's {context} tokens leave after this prompt");
            Ok(ensure(false, "max_tokens", max_tokens, range)?)
        }
    }
}

/// A count that is bounded far below by the engine's limits.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// 0.8 as 0.8: widening a 32-bit float shows digits that nobody wrote.
fn tidy(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(question: &str) -> String {
        check_text(question, 10).unwrap_err().to_string()
    }

    #[test]
    fn a_question_must_say_something_in_bounds() {
        assert!(check_text("a\tb\nc é 1", 10).is_ok());
        assert!(problem(" \n").contains("empty"));
        assert!(problem("12345678901").contains("11 characters; 10 is the limit"));
        assert!(problem("a\0b").contains("control character '\\0'"));
    }

    #[test]
    fn prompt_and_samples_must_fit_the_model_together() {
        assert!(check_length(10, 90, 100).is_ok());
        assert!(check_length(100, 1, 100).unwrap_err().to_string().contains("shorter question"));
        assert!(check_length(101, 1, 100).unwrap_err().to_string().contains("has 101 tokens"));
        assert!(
            check_length(10, 91, 100).unwrap_err().to_string().contains("`max_tokens` is 91; it must be at most 90")
        );
    }

    #[test]
    fn a_temperature_is_shown_as_it_was_written() {
        assert_eq!(json!(tidy(0.8)).to_string(), "0.8");
    }
}
