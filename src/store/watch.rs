//! How versions that rounds promoted do on live traffic, as it is kept.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Round, StoreError};
use crate::engine::handle::Version;

/// Where a watch stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchState {
    #[default]
    Watching,
    /// Enough was seen, and nothing that proves the version to be worse.
    Passed,
    /// The version before is live again.
    RolledBack,
    /// It ended without having said anything about the version.
    Ended,
}

/// The watch over the version that a round promoted. It begins with the promotion, in the same transaction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    pub state: WatchState,
    /// Looks that were taken, and what the last one saw of the version.
    pub looks: u32,
    #[serde(flatten)]
    pub seen: Given,
    /// How many values of the version each rule saw when it judged last.
    pub judged: [u32; 3],
    /// What the last look compared; null before the first.
    pub compared: Value,
    /// Why the version was rolled back, or why the watch ended.
    pub reason: Option<String>,
    pub looked_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// How much a version has given to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Given {
    pub answers: u32,
    /// Those of them that a client has said something of.
    pub rated: u32,
}

/// What an answer to a client shows of the version that gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenAnswer {
    /// The hash of the question's text: questions with the same one count as the same text.
    pub text_hash: Vec<u8>,
    /// Who asked, as a fingerprint; `None` if that is not known.
    pub client: Option<String>,
    /// The parameters that were in effect but for the seed, as JSON: answers with the same ones are alike.
    pub manner: String,
    /// How many responses were sampled.
    pub samples: u32,
    pub majority_ratio: f64,
    /// Whether there was a majority.
    pub answered: bool,
    /// What the client said of it.
    pub good: Option<bool>,
}

/// Which answers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The last ones up to a moment.
    Until(DateTime<Utc>),
    /// The first ones after it.
    Since(DateTime<Utc>),
}

/// Keeps watches, and gives them what they look at. Every method is one transaction.
#[async_trait]
pub trait WatchStore: Send + Sync {
    /// The rounds of a model whose candidates are watched.
    async fn watched_rounds(&self, model: &str) -> Result<Vec<Round>, StoreError>;

    /// What a version has given since a moment, of its first `limit` answers.
    async fn given(&self, version: &Version, since: DateTime<Utc>, limit: u32) -> Result<Given, StoreError>;

    /// Up to `limit` answers of a version.
    async fn seen_answers(&self, version: &Version, span: Span, limit: u32) -> Result<Vec<SeenAnswer>, StoreError>;

    /// Writes down what has come of a round's watch, if it still stands as `round` says; returns whether it did, now or
    /// in an earlier try whose reply was lost.
    async fn record_watch(&self, round: &Round, watch: &Watch) -> Result<bool, StoreError>;

    /// Whether it was a watch that made the live version of a model live. Not if anybody has activated or promoted one
    /// since, were it the same.
    async fn was_rolled_back(&self, model: &str) -> Result<bool, StoreError>;
}
