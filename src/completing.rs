//! From prompts to completions, as other inference servers offer them: nothing votes, and nothing is stored.
//!
//! Architecture invariant: all prompts of one call are continued under one lease, and the reply names its version.

use std::{sync::Arc, time::Instant};

use rand::rngs::SysError;
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinError};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::{
    adapters::registry::{Registry, RegistryError},
    config::MAX_VOTES,
    engine::{
        handle::{Engine, EngineError, GenerateRequest, Group, Listener, Piece, Priority, Report, Sampling, Version},
        model::chat_template::Message,
        sampling::{OutOfRange, SEED_LIMIT, ensure, random_seed},
    },
    prompter::{Prompter, PrompterError},
    telemetry::Metrics,
};

/// The most tokens of a reply in a conversation if nobody says, as far as the model's context leaves room: each sets a
/// place of the cache aside.
pub const DEFAULT_REPLY_TOKENS: usize = 512;

/// The most continuations of one call, all prompts together: it takes as many places in the engine as a vote.
pub const MAX_CHOICES: usize = MAX_VOTES as usize;

/// What is to be continued.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// A text, in which the texts of special tokens are those tokens.
    Text(String),
    /// Token ids, special tokens included.
    Tokens(Vec<u32>),
    /// A conversation, in the words of the model's chat template; messages cannot speak as special tokens.
    Chat(Vec<Message>),
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// An alias, a version, or the model's own name; unset, what is live.
    pub model: Option<String>,
    pub prompts: Vec<Prompt>,
    /// Continuations of each prompt.
    pub choices: usize,
    /// Its `max_tokens` are those below.
    pub sampling: Sampling,
    /// Unset: [`DEFAULT_REPLY_TOKENS`].
    pub max_tokens: Option<usize>,
    /// The same call with the same seed and adapter version draws the same tokens.
    pub seed: Option<u64>,
    /// Scores of generated tokens and of the prompt's, see [`Report`].
    pub token_scores: Option<usize>,
    pub prompt_scores: Option<usize>,
}

/// Why there is no completion. The texts say what to change.
#[derive(Debug, thiserror::Error)]
pub enum CompletingError {
    #[error(transparent)]
    Parameter(#[from] OutOfRange),
    #[error(transparent)]
    Prompt(#[from] PrompterError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the system gave no random numbers: {0}")]
    Random(#[from] SysError),
    /// A part of the work panicked, or the program is stopping.
    #[error("interrupted: {0}")]
    Interrupted(#[from] JoinError),
}

/// A call that can be served, with its place in no queue yet.
pub struct Prepared {
    requests: Vec<GenerateRequest>,
    started: Instant,
}

impl Prepared {
    /// The version that will answer.
    pub fn version(&self) -> Option<&Version> {
        self.requests.first().map(|request| request.lease.version())
    }

    /// The last token of each prompt.
    pub fn last_tokens(&self) -> impl Iterator<Item = Option<u32>> {
        self.requests.iter().map(|request| request.prompt.last().copied())
    }
}

/// Tokens of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Each prompt once, however many continuations it has.
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

impl Usage {
    /// The usage of a call that gave these groups.
    pub fn of(groups: &[Group]) -> Self {
        let rollouts = groups.iter().flat_map(|group| &group.rollouts);
        Self {
            prompt_tokens: groups.iter().map(|group| group.prompt.len()).sum(),
            completion_tokens: rollouts.map(|rollout| rollout.tokens.len()).sum(),
        }
    }
}

/// Continues prompts.
pub struct Completing {
    engine: Arc<dyn Engine>,
    registry: Arc<Registry>,
    prompter: Arc<Prompter>,
    metrics: Arc<Metrics>,
}

impl Completing {
    pub fn new(
        engine: Arc<dyn Engine>,
        registry: Arc<Registry>,
        prompter: Arc<Prompter>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { engine, registry, prompter, metrics }
    }

    /// Checks a call, takes its lease and encodes its prompts.
    pub async fn prepare(&self, call: Call) -> Result<Prepared, CompletingError> {
        let started = Instant::now();
        call.sampling.check()?;
        ensure(!call.prompts.is_empty(), "prompt", "empty", "a text, token ids, or a list of one of them")?;
        let all = call.choices.saturating_mul(call.prompts.len());
        let range = || format!("from 1 to {MAX_CHOICES}, all prompts together");
        ensure((1..=MAX_CHOICES).contains(&all), "n", all, range())?;
        if let Some(seed) = call.seed {
            ensure(seed < SEED_LIMIT, "seed", seed, format!("from 0 to {}", SEED_LIMIT - 1))?;
        }
        let lease = self.registry.named(call.model.as_deref()).await?;
        let (prompter, prompts) = (self.prompter.clone(), call.prompts);
        // Encoding a body that is as large as may be takes longer than others should wait.
        let encode = move || prompts.into_iter().map(|prompt| encode(&prompter, prompt)).collect::<Result<Vec<_>, _>>();
        let prompts = tokio::task::spawn_blocking(encode).await??;
        let context = self.engine.info().context_tokens;
        let mut requests = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let reply = || DEFAULT_REPLY_TOKENS.min(context.saturating_sub(prompt.len())).max(1);
            let max_tokens = call.max_tokens.unwrap_or_else(reply);
            let request = GenerateRequest {
                lease: lease.clone(),
                prompt,
                samples: call.choices,
                sampling: Sampling { max_tokens, ..call.sampling.clone() },
                seed: call.seed.map_or_else(random_seed, Ok)?,
                priority: Priority::Request,
                report: Report { tokens: call.token_scores, prompt: call.prompt_scores, listener: None },
            };
            self.engine.check(&request)?;
            requests.push(request);
        }
        Ok(Prepared { requests, started })
    }

    /// Generates all at once: one group for each prompt. Dropping the future gives up the call's place in the engine.
    pub async fn complete(&self, prepared: Prepared) -> Result<Vec<Group>, CompletingError> {
        let groups = self.engine.generate(prepared.requests).await?;
        observe(&self.metrics, &groups, prepared.started);
        Ok(groups)
    }

    /// Generates piece by piece; comes back with the first. Dropping what comes back gives up the call's place.
    ///
    /// # Errors
    /// Whatever keeps the generation from beginning.
    pub async fn stream(&self, mut prepared: Prepared) -> Result<Streaming, CompletingError> {
        let samples = prepared.requests.first().map_or(0, |request| request.samples);
        let (listeners, pieces) = Listener::for_requests(prepared.requests.len(), samples);
        for (request, listener) in prepared.requests.iter_mut().zip(listeners) {
            request.report.listener = Some(listener);
        }
        let (engine, requests) = (self.engine.clone(), prepared.requests);
        let generate = async move { engine.generate(requests).await }.in_current_span();
        let generation = AbortOnDropHandle::new(tokio::spawn(generate));
        let (metrics, started) = (self.metrics.clone(), prepared.started);
        let mut streaming = Streaming { first: None, pieces, generation, metrics, started, usage: Usage::default() };
        streaming.first = streaming.next().await?;
        Ok(streaming)
    }
}

fn encode(prompter: &Prompter, prompt: Prompt) -> Result<Vec<u32>, PrompterError> {
    match prompt {
        Prompt::Text(text) => prompter.encode_text(&text),
        Prompt::Tokens(tokens) => Ok(tokens),
        Prompt::Chat(messages) => prompter.encode_chat(&messages),
    }
}

fn observe(metrics: &Metrics, groups: &[Group], started: Instant) {
    for group in groups {
        metrics.observe_generation(&group.timings, started.elapsed());
        for rollout in &group.rollouts {
            metrics.completions_total.with_label_values(&[rollout.finish.as_str()]).inc();
        }
    }
}

/// A generation under way.
pub struct Streaming {
    first: Option<Piece>,
    pieces: UnboundedReceiver<Piece>,
    generation: AbortOnDropHandle<Result<Vec<Group>, EngineError>>,
    metrics: Arc<Metrics>,
    started: Instant,
    usage: Usage,
}

impl Streaming {
    /// The next piece; `None` when all choices are finished, after which it must not be called again.
    ///
    /// # Errors
    /// If the generation has failed; what came before is cut off.
    pub async fn next(&mut self) -> Result<Option<Piece>, CompletingError> {
        if let Some(piece) = self.first.take() {
            return Ok(Some(piece));
        }
        if let Some(piece) = self.pieces.recv().await {
            return Ok(Some(piece));
        }
        // The engine has let go of the requests: it is done with them, or never began.
        let groups = (&mut self.generation).await??;
        observe(&self.metrics, &groups, self.started);
        self.usage = Usage::of(&groups);
        Ok(None)
    }

    /// What was used, once all choices are finished.
    pub fn usage(&self) -> Usage {
        self.usage
    }
}
