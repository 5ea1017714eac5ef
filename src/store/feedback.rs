//! What clients say of answers, as it is kept.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::StoreError;

/// What a client said of an answer. A label: it measures versions, and nothing is rewarded by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feedback {
    pub good: bool,
    pub comment: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// Keeps the newest feedback of each answer. Every method is one transaction.
#[async_trait]
pub trait FeedbackStore: Send + Sync {
    /// Keeps what is said of an answer, in the place of what was said before. [`StoreError::Missing`] if there is no
    /// such answer, [`StoreError::Unavailable`] as long as it is not in the database.
    async fn put_feedback(&self, answer: Uuid, feedback: &Feedback) -> Result<(), StoreError>;

    /// What was said last of an answer, if anything was.
    async fn feedback(&self, answer: Uuid) -> Result<Option<Feedback>, StoreError>;
}
