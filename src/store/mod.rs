//! What is remembered: questions, answers, rounds, adapters and evaluation sets, in PostgreSQL or in an embedded SQLite file.
//!
//! sqlx is used in this room only; everything else sees the trait and its rows. [`connect()`] opens a database,
//! [`spool::Spooled`] keeps answers on the local disk while it is away.
//!
//! Times are kept in microseconds, in both databases: what is finer is cut off when it is written.

mod adapters;
mod attempt;
mod connect;
mod driver;
mod errors;
mod evaluation;
mod feedback;
mod postgres;
mod round_lock;
mod rows;
pub mod spool;
mod spool_file;
mod sql;
mod sqlite;
mod upkeep;
mod watch;

pub use adapters::{AdapterRecord, AdapterStore, AdapterUse, LIVE, UNKNOWN_MODEL};
pub use attempt::{Attempt, GivenBack, Promoter};
pub use connect::connect;
pub use evaluation::{EvaluationItem, EvaluationSet, EvaluationStore, EvaluationSummary};
pub use feedback::{Feedback, FeedbackStore};
pub use watch::{Given, SeenAnswer, Span, Watch, WatchState, WatchStore};

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::engine::handle::{ModelInfo, Version};

/// A question as a client asked it. Unlabelled, always.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Time-ordered (UUID version 7).
    pub id: Uuid,
    pub text: String,
    /// Whether rounds may learn from it.
    pub learn: bool,
    /// Who asked, as a fingerprint that tells clients apart; `None` if that is not known, as in rows of older versions.
    #[serde(default)]
    pub client: Option<String>,
    /// What the client sent along, returned as it came.
    pub metadata: Option<Value>,
    pub created_at: DateTime<Utc>,
}

/// A question that a round may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The first with its text: it counts for who asked it, and is put as that one wrote it.
    pub question: Question,
    /// What the last rounds saw of the text, newest first, at most [`SEEN_ROUNDS`].
    pub seen: Vec<RoundQuestion>,
}

/// How much of a candidate's past is told: four rounds that sampled it, and as many between each and the next that passed it
/// over as the recipe may say.
pub const SEEN_ROUNDS: u32 = 24;

/// One entry of a histogram of votes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    /// How the first voter wrote it.
    pub answer: String,
    pub count: u32,
}

/// An answer as it was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub id: Uuid,
    pub question_id: Uuid,
    /// The adapter version that every sample was drawn with.
    pub adapter_version: Version,
    /// The majority's answer; `None` if no response had one or the first place was shared.
    pub answer: Option<String>,
    /// The response of the first sample that gave the answer (the first sample if there is none).
    pub text: String,
    /// Most votes first; responses without an answer are in no entry.
    pub votes: Vec<Vote>,
    /// How many responses were sampled.
    pub samples: u32,
    /// Votes of the winner over all samples; 0 without a winner.
    pub majority_ratio: f64,
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    /// `{queue_seconds, prefill_seconds, decode_seconds, total_seconds}`.
    pub timings: Value,
    /// The sampling parameters that were in effect, the seed included.
    pub parameters: Value,
    pub created_at: DateTime<Utc>,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundState {
    Queued,
    Sampling,
    Training,
    Evaluating,
    /// Its work is done, and a person decides about its candidate.
    Held,
    Promoted,
    Rejected,
    Cancelled,
    Failed,
}

impl RoundState {
    /// Whether the round has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Promoted | Self::Rejected | Self::Cancelled | Self::Failed)
    }

    /// Whether a server works on the round, or is about to. One that is held has not ended, but others may begin.
    pub fn is_active(self) -> bool {
        !self.is_final() && self != Self::Held
    }

    /// Whether the server that works on a round may take it from this state to `next`.
    pub fn may_become(self, next: Self) -> bool {
        use RoundState::*;
        match self {
            Queued => matches!(next, Sampling | Rejected | Cancelled | Failed),
            Sampling => matches!(next, Training | Evaluating | Rejected | Cancelled | Failed),
            Training => matches!(next, Sampling | Evaluating | Rejected | Cancelled | Failed),
            Evaluating => matches!(next, Held | Promoted | Rejected | Cancelled | Failed),
            Held | Promoted | Rejected | Cancelled | Failed => false,
        }
    }
}

/// What started a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundTrigger {
    Operator,
    Schedule,
}

/// One round of learning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub id: Uuid,
    pub state: RoundState,
    pub trigger: RoundTrigger,
    /// The model whose adapters it trains; `None` if it was created before rounds named their model.
    pub model: Option<ModelId>,
    /// The recipe in effect, whole.
    pub recipe: Value,
    /// Everything random follows from it.
    pub seed: u64,
    /// How often a server took the round up, the first time included.
    pub attempts: u32,
    /// How many questions were selected (those set aside as too long left out, once it samples), and how many of them are
    /// held back from training for the gate.
    pub questions: u32,
    pub held_back: u32,
    /// Steps done, of `steps`.
    pub step: u32,
    pub steps: u32,
    /// The version that was live when the round began.
    pub parent_version: Version,
    /// The adapter that the round made, once it is saved.
    pub candidate_version: Option<Version>,
    /// The gate's verdict with its figures.
    pub verdict: Option<Value>,
    /// Why it failed, is held, was rejected or was cancelled, for the operator.
    pub reason: Option<String>,
    /// How what it promoted does on live traffic; `None` if it promoted nothing, or before there was a watch.
    pub watch: Option<Watch>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// A round that has not ended, as a server that could go on with it sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfinished {
    pub round: Round,
    /// For how long nobody has held it, by the clock of the database; `None` while somebody does.
    pub abandoned: Option<Duration>,
    /// How often it was taken over since it was last further than before, after servers that did not stop by themselves.
    pub stalled: u32,
}

/// What may change about a round; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct RoundUpdate {
    pub state: Option<RoundState>,
    pub questions: Option<u32>,
    pub held_back: Option<u32>,
    pub step: Option<u32>,
    pub candidate_version: Option<Version>,
    pub verdict: Option<Value>,
    pub reason: Option<String>,
}

/// The metrics of one step of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundStep {
    pub round_id: Uuid,
    /// Counts from 1.
    pub step: u32,
    pub metrics: Value,
}

/// What a round saw of one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundQuestion {
    pub round_id: Uuid,
    pub question_id: Uuid,
    pub text: String,
    /// Kept out of training, used by the gate.
    pub held_back: bool,
    /// The majority and its share with the live version, and with the candidate; `None` where not sampled (the candidate
    /// meets only the questions of the gate) or without a majority.
    pub before_answer: Option<String>,
    pub before_ratio: Option<f64>,
    pub after_answer: Option<String>,
    pub after_ratio: Option<f64>,
    /// Why it was passed over when its turn came; `None` if it took part.
    pub set_aside: Option<SetAside>,
}

/// Why a round passes a question over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetAside {
    /// It is too long to be sampled with so many votes.
    TooLong,
    /// The last rounds were sure of one and the same answer.
    Settled,
    /// Its majority was another one from round to round.
    Flips,
}

/// The model that an adapter was made for, or that has a live version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelId {
    /// For people.
    pub name: String,
    /// Tells it from every other model.
    pub fingerprint: String,
}

impl From<&ModelInfo> for ModelId {
    fn from(info: &ModelInfo) -> Self {
        Self { name: info.name.clone(), fingerprint: info.fingerprint.clone() }
    }
}

impl fmt::Display for ModelId {
    /// The name with the first digits of the fingerprint: two models may have the same name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.12})", self.name, self.fingerprint)
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or did not answer in time.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The address of the database cannot be used; the text says what to change.
    #[error("{0}")]
    Address(String),
    /// Another round is running, or a round is not in a state that allows the change.
    #[error("{0}")]
    Conflict(String),
    #[error("no {what} {id}")]
    Missing { what: &'static str, id: String },
    /// The database answered with something that cannot be right.
    #[error("the database is damaged or of another version: {0}")]
    Corrupt(String),
}

/// Everything the program remembers. Every method is one transaction.
#[async_trait]
pub trait Store: AdapterStore + EvaluationStore + FeedbackStore + WatchStore {
    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Stores a question with its answer. Repeating it with the same ids changes nothing.
    async fn record_answer(&self, question: &Question, answer: &Answer) -> Result<(), StoreError>;

    async fn answer(&self, id: Uuid) -> Result<Option<(Question, Answer)>, StoreError>;

    /// Up to `limit` questions to learn from, one for each distinct text (its first) of the newest 100,000, never those
    /// with `learn: false`, nor those of an evaluation set. Clients take turns; among a client's, those come first that no
    /// round has seen, the one that was asked last before the others, then those that rounds have not seen for longest.
    async fn learnable(&self, limit: u32) -> Result<Vec<Candidate>, StoreError>;

    /// How many questions with `learn: true` were asked since the last round was created (since ever, if none was).
    async fn questions_since_last_round(&self) -> Result<u64, StoreError>;

    /// When the newest round was created.
    async fn last_round_at(&self) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// Creates a round in state `queued` with its questions, and returns the first attempt at it, which holds it for
    /// `lease_seconds`. A conflict if another round is active.
    async fn create_round(
        &self,
        round: &Round,
        questions: &[RoundQuestion],
        lease_seconds: u32,
    ) -> Result<Attempt, StoreError>;

    /// The round that has not ended; there is never more than one.
    async fn unfinished_round(&self) -> Result<Option<Unfinished>, StoreError>;

    /// Begins another attempt at a round that nobody holds, which is `queued` again; a conflict if somebody holds it
    /// or it has ended.
    async fn take_over(&self, id: Uuid, lease_seconds: u32) -> Result<Attempt, StoreError>;

    /// Ends an attempt before its round has ended: it is `queued` again, and whoever can may go on with it at once.
    async fn give_back(&self, attempt: &Attempt, why: GivenBack) -> Result<(), StoreError>;

    /// Prolongs the lease; a conflict if the attempt no longer holds the round or it has ended.
    async fn heartbeat(&self, attempt: &Attempt, lease_seconds: u32) -> Result<(), StoreError>;

    /// Changes a round; a conflict if the attempt does not hold it, or if the state may not become the new one.
    /// Sets `started_at` when it leaves `queued` and `finished_at` when it ends. Repeating it changes nothing.
    async fn update_round(&self, attempt: &Attempt, update: RoundUpdate) -> Result<(), StoreError>;

    /// Ends a held round as rejected; a conflict if it is not held, or if its candidate is live for any model.
    async fn reject_held(&self, id: Uuid, reason: &str) -> Result<(), StoreError>;

    async fn round(&self, id: Uuid) -> Result<Option<Round>, StoreError>;

    /// Newest first, those created before `before` if given.
    async fn rounds(&self, limit: u32, before: Option<Uuid>) -> Result<Vec<Round>, StoreError>;

    /// Adds or replaces the metrics of one step of the attempt's round; a conflict if the attempt does not hold it.
    async fn record_step(&self, attempt: &Attempt, step: &RoundStep) -> Result<(), StoreError>;

    async fn steps(&self, round: Uuid) -> Result<Vec<RoundStep>, StoreError>;

    /// Adds or replaces rows of the attempt's round, keyed by question; a conflict if the attempt does not hold it.
    async fn record_round_questions(&self, attempt: &Attempt, rows: &[RoundQuestion]) -> Result<(), StoreError>;

    async fn round_questions(&self, round: Uuid) -> Result<Vec<RoundQuestion>, StoreError>;
}

/// A store that anyone may hold.
pub type SharedStore = Arc<dyn Store>;
