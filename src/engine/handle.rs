//! The asynchronous client of an inference engine: the only thing the rest of the program holds.
//!
//! The trait does not assume that tensors are near: an engine may be a thread of this process or a server elsewhere.

use std::{
    any::Any,
    fmt,
    str::FromStr,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use crate::engine::{
    line::{Line, Place},
    report::{Listener, MAX_TOP_TOKENS, Piece, Pieces, Report, TokenScore},
    sampling::Sampling,
};

use crate::engine::model::{
    device::{self, is_out_of_memory},
    lora::Adapter,
    tokenizer::Tokenizer,
};

/// The identity of a set of adapter weights: `base` (no adapter), or the lower-case hexadecimal SHA-256 of an
/// adapter's configuration and weights. Two adapters with the same version are the same adapter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(Arc<str>);

impl Version {
    /// The model as it was loaded, without an adapter.
    pub fn base() -> Self {
        Self("base".into())
    }

    /// Whether this is the model without an adapter.
    pub fn is_base(&self) -> bool {
        &*self.0 == "base"
    }

    /// The version in full: `base` or 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not an adapter version.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an adapter version: expected `base` or 64 lower-case hexadecimal digits")]
pub struct InvalidVersion(String);

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hash = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hash || text == "base" { Ok(Self(text.into())) } else { Err(InvalidVersion(text.into())) }
    }
}

impl TryFrom<String> for Version {
    type Error = InvalidVersion;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0.to_string()
    }
}

/// A hold on one adapter version that is resident in the engine. While a lease lives, its version stays in memory
/// and means the same weights; the version leaves memory when its last lease is dropped.
#[derive(Clone)]
pub struct Lease(Arc<Resident>);

struct Resident {
    version: Version,
    weights: Box<dyn Any + Send + Sync>,
}

impl Lease {
    /// A lease on weights in an engine's own form, which only that engine looks into.
    pub fn new(version: Version, weights: impl Any + Send + Sync) -> Self {
        Self(Arc::new(Resident { version, weights: Box::new(weights) }))
    }

    /// The version that is held.
    pub fn version(&self) -> &Version {
        &self.0.version
    }

    /// The weights, if they are of the form that the asking engine made.
    pub fn weights<T: 'static>(&self) -> Option<&T> {
        self.0.weights.downcast_ref()
    }

    /// A hold that does not keep the version in memory.
    pub fn downgrade(&self) -> WeakLease {
        WeakLease(Arc::downgrade(&self.0))
    }
}

/// Finds a version again as long as somebody else holds it.
#[derive(Clone)]
pub struct WeakLease(Weak<Resident>);

impl WeakLease {
    /// A lease, if the version is still resident.
    pub fn upgrade(&self) -> Option<Lease> {
        self.0.upgrade().map(Lease)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.0.version)
    }
}

/// Who is waiting for a generation. Requests go before rollouts in every decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A client waits for this answer.
    Request,
    /// A round samples in the background.
    Rollout,
}

/// One prompt and how to continue it.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The adapter version to generate with, from admission to the last token.
    pub lease: Lease,
    /// Token ids of the prompt, special tokens included.
    pub prompt: Vec<u32>,
    /// How many independent continuations to draw.
    pub samples: usize,
    pub sampling: Sampling,
    /// Sample `i` draws from a stream of random numbers that is a function of `(seed, i)` alone.
    pub seed: u64,
    pub priority: Priority,
    pub report: Report,
    /// The call's place in [`Engine::line`], if it took one: what asks for itself, such as a round, needs none.
    pub place: Option<Place>,
}

/// Why a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop text appeared.
    Stop,
    /// `max_tokens` were generated first: the text is cut off.
    Length,
}

impl FinishReason {
    /// The name that it is serialised with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// One sampled response.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The generated token ids, the end token or the tokens of the stop text included.
    pub tokens: Vec<u32>,
    /// Log-probability of each token under the policy that drew it: softmax(logits / temperature) over the whole
    /// vocabulary, after penalties and bias, before top-k, top-p and min-p (natural logarithm). At temperature 0 the
    /// temperature counts as 1.
    pub log_probs: Vec<f32>,
    /// What the model itself thinks of each token, if [`Report::tokens`] asked for it; else empty.
    pub scores: Vec<TokenScore>,
    /// The decoded text without special tokens and without the stop text.
    pub text: String,
    pub finish: FinishReason,
}

/// The rollouts of one prompt.
#[derive(Clone, Debug)]
pub struct Group {
    pub version: Version,
    pub prompt: Vec<u32>,
    /// What the model thinks of the prompt's tokens from the second on, if [`Report::prompt`] asked for it; else empty.
    pub prompt_scores: Vec<TokenScore>,
    /// In the order of their sample index.
    pub rollouts: Vec<Rollout>,
    pub timings: Timings,
}

/// Where the time of one generation went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// From the request's arrival until its first computation.
    pub queue: Duration,
    /// From then until the first token of any sample.
    pub prefill: Duration,
    /// From then until the last token of the last sample.
    pub decode: Duration,
}

/// Why an engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request can never be served by this engine; the text says what to change.
    #[error("{0}")]
    Unservable(String),
    /// Too much is waiting; try again later.
    #[error("the engine has {waiting} requests waiting, which is its limit")]
    Busy { waiting: usize },
    /// The adapter's tensors do not fit the model.
    #[error("the adapter does not fit the model: {0}")]
    AdapterMismatch(String),
    /// The engine is stopping or its thread has died.
    #[error("the engine has stopped")]
    Stopped,
    /// There was no memory left for it on the engine's device. The engine goes on, and so does all else that it does.
    #[error(
        "the device has too little memory left: {0}; set engine.cache_tokens or learning.memory_mib lower, or end what \
         else runs on it"
    )]
    OutOfMemory(String),
    /// A computation failed.
    #[error("computation failed: {0}")]
    Compute(String),
}

impl From<&candle_core::Error> for EngineError {
    fn from(error: &candle_core::Error) -> Self {
        match is_out_of_memory(error) {
            true => Self::OutOfMemory(device::in_words(error)),
            false => Self::Compute(error.to_string()),
        }
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        Self::from(&error)
    }
}

/// What an engine serves.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInfo {
    /// The name given to the model, for people.
    pub name: String,
    /// Hexadecimal SHA-256 of the weight file or files.
    pub fingerprint: String,
    /// The longest sequence, in tokens, prompt and continuation together.
    pub context_tokens: usize,
    pub vocab_size: usize,
    pub parameters: usize,
}

/// A moment's load.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EngineStats {
    /// Requests (not rollouts) being generated.
    pub requests_running: usize,
    /// Requests (not rollouts) that wait for a place.
    pub requests_waiting: usize,
    pub rollouts_running: usize,
    pub rollouts_waiting: usize,
    pub cache_tokens_used: usize,
    pub cache_tokens_capacity: usize,
    /// Prompt tokens asked for since the start.
    pub prompt_tokens_total: u64,
    /// Prompt tokens that were found in the cache, of those.
    pub cached_prompt_tokens_total: u64,
    /// Tokens drawn since the start, every sample counted.
    pub generated_tokens_total: u64,
    /// Rows that went through the decoder since the start; less than prompt + generated where samples share a path.
    pub computed_tokens_total: u64,
}

/// An engine that answers prompts and holds adapter versions.
#[async_trait]
pub trait Engine: Send + Sync {
    fn info(&self) -> &ModelInfo;

    fn tokenizer(&self) -> &Arc<Tokenizer>;

    fn stats(&self) -> EngineStats;

    /// Where calls of clients take their places.
    fn line(&self) -> &Line;

    /// A lease on the model without an adapter.
    fn base(&self) -> Lease;

    /// Whether a request can ever be served, whatever the load.
    ///
    /// # Errors
    /// [`EngineError::Unservable`] says what to change.
    fn check(&self, request: &GenerateRequest) -> Result<(), EngineError>;

    /// Generates all requests, in the order given, sharing what they have in common. The requests of one call are
    /// admitted together, so that the same call on an idle engine repeats exactly. Dropping the future frees their
    /// places at the next step. An empty call does nothing, and tells whether the engine is alive.
    async fn generate(&self, requests: Vec<GenerateRequest>) -> Result<Vec<Group>, EngineError>;

    /// Ends when the engine has stopped, which nothing in this process mends. An engine that cannot tell never ends it.
    async fn stopped(&self) {
        std::future::pending().await
    }

    /// Makes an adapter resident; the lease is the only thing that keeps it so.
    async fn load_adapter(&self, adapter: Arc<Adapter>) -> Result<Lease, EngineError>;
}
