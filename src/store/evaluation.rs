//! Labelled evaluation sets, as they are kept.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::StoreError;

/// A question whose right answer is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationItem {
    pub question: String,
    pub answer: String,
}

/// A set of labelled questions; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvaluationSet {
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub items: Vec<EvaluationItem>,
}

/// A set without its items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvaluationSummary {
    pub name: String,
    pub created_at: DateTime<Utc>,
    /// How many it has.
    pub items: u32,
}

/// Keeps evaluation sets. Every method is one transaction.
#[async_trait]
pub trait EvaluationStore: Send + Sync {
    /// Adds a set, or replaces the one of that name.
    async fn put_evaluation_set(&self, set: &EvaluationSet) -> Result<(), StoreError>;

    /// A set with its items in their order.
    async fn evaluation_set(&self, name: &str) -> Result<Option<EvaluationSet>, StoreError>;

    /// All sets, by name.
    async fn evaluation_sets(&self) -> Result<Vec<EvaluationSummary>, StoreError>;

    /// Removes a set; returns whether there was one.
    async fn remove_evaluation_set(&self, name: &str) -> Result<bool, StoreError>;
}
