//! From prompts to completions, as other inference servers offer them: nothing votes, and nothing is stored.
//!
//! Architecture invariant: all prompts of one call are continued under one lease, and the reply names its version.

use std::{sync::Arc, time::Instant};

use rand::rngs::SysError;
use tokio::task::JoinError;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

use crate::{
    adapters::registry::{Registry, RegistryError},
    config::MAX_VOTES,
    engine::{
        handle::{
            Engine, EngineError, GenerateRequest, Group, Listener, Piece, Pieces, Place, Priority, Report, Sampling,
            Version,
        },
        sampling::{OutOfRange, check_seed, ensure, random_seed},
    },
    prompter::{Prompt, Prompter, PrompterError},
    telemetry::Metrics,
};

/// The most tokens of a reply in a conversation if nobody says, as far as the model's context leaves room: each sets a
/// place of the cache aside.
pub const DEFAULT_REPLY_TOKENS: usize = 512;

/// The most continuations of one call, all prompts together: it takes as many places in the engine as a vote.
pub const MAX_CHOICES: usize = MAX_VOTES as usize;

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

/// A call that can be served, with its place in the engine's line.
pub struct Prepared {
    requests: Vec<GenerateRequest>,
    place: Place,
    started: Instant,
}

impl Prepared {
    /// The version that will answer.
    pub fn version(&self) -> Option<&Version> {
        self.requests.first().map(|request| request.lease.version())
    }

    /// The token ids of each prompt.
    pub fn prompts(&self) -> impl Iterator<Item = &[u32]> {
        self.requests.iter().map(|request| request.prompt.as_slice())
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

    /// Checks a call, takes its place in the line and its lease, and only then encodes its prompts: whoever finds no
    /// place makes no work.
    pub async fn prepare(&self, call: Call) -> Result<Prepared, CompletingError> {
        let started = Instant::now();
        call.sampling.check()?;
        ensure(!call.prompts.is_empty(), "prompt", "empty", "a text, token ids, or a list of one of them")?;
        let all = call.choices.saturating_mul(call.prompts.len());
        let range = || format!("from 1 to {MAX_CHOICES}, all prompts together");
        ensure((1..=MAX_CHOICES).contains(&all), "n", all, range())?;
        call.seed.map_or(Ok(()), check_seed)?;
        let place = self.engine.line().enter()?;
        let lease = self.registry.named(call.model.as_deref()).await?;
        let prompts = self.prompter.encode_all(call.prompts, place.clone()).await?;
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
                place: Some(place.clone()),
            };
            self.engine.check(&request)?;
            requests.push(request);
        }
        Ok(Prepared { requests, place, started })
    }

    /// Generates all at once: one group for each prompt. Dropping the future gives up the call's place in the engine.
    pub async fn complete(&self, prepared: Prepared) -> Result<Vec<Group>, CompletingError> {
        let Prepared { requests, place: _place, started } = prepared;
        let groups = self.engine.generate(requests).await?;
        observe(&self.metrics, &groups, started);
        Ok(groups)
    }

    /// Generates piece by piece; comes back with the first. What comes back has the call's place until it is dropped.
    ///
    /// # Errors
    /// Whatever keeps the generation from beginning.
    pub async fn stream(&self, mut prepared: Prepared) -> Result<Streaming, CompletingError> {
        let samples = prepared.requests.first().map_or(0, |request| request.samples);
        let (listeners, pieces) = Listener::for_requests(prepared.requests.len(), samples);
        for (request, listener) in prepared.requests.iter_mut().zip(listeners) {
            request.report.listener = Some(listener);
        }
        let Prepared { requests, place, started } = prepared;
        let engine = self.engine.clone();
        let generate = async move { engine.generate(requests).await }.in_current_span();
        let generation = AbortOnDropHandle::new(tokio::spawn(generate));
        let metrics = self.metrics.clone();
        let usage = Usage::default();
        let mut streaming = Streaming { first: None, pieces, generation, _place: place, metrics, started, usage };
        streaming.first = streaming.next().await?;
        Ok(streaming)
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
    pieces: Pieces,
    generation: AbortOnDropHandle<Result<Vec<Group>, EngineError>>,
    /// Kept until the pieces are sent: they take memory until then.
    _place: Place,
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
        if let Some(piece) = self.pieces.next().await {
            return Ok(Some(piece));
        }
        // The engine has let go of the requests: it is done with them, or never began.
        let groups = (&mut self.generation).await??;
        observe(&self.metrics, &groups, self.started);
        self.usage = Usage::of(&groups);
        Ok(None)
    }

    /// Cancelled when the pieces were not read fast enough, and some are lost.
    pub fn overrun(&self) -> CancellationToken {
        self.pieces.overrun().clone()
    }

    /// What was used, once all choices are finished.
    pub fn usage(&self) -> Usage {
        self.usage
    }
}
