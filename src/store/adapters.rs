//! Adapters, and which of them answers.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Attempt, ModelId, Promoter, Round, StoreError, Watch};
use crate::engine::handle::Version;

/// The alias of the adapter version that answers requests.
pub const LIVE: &str = "live";

/// Stands for the model, which nobody knows, of aliases that were made before aliases belonged to models.
pub const UNKNOWN_MODEL: &str = "";

/// An adapter that was saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterRecord {
    pub version: Version,
    /// `None` if it was saved before adapters belonged to models.
    pub model: Option<ModelId>,
    /// The version it was trained from.
    pub parent_version: Version,
    /// The round that made it; `None` if it was imported.
    pub round_id: Option<Uuid>,
    pub bytes: u64,
    pub created_at: DateTime<Utc>,
}

/// Who needs the files of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterUse {
    /// It is live for some model, a round that is active starts from it or made it, a person decides about it, or a watch
    /// may go back to it.
    Needed,
    /// It went live once, or was not made by a round: someone may want it.
    Spare,
    /// Its round ended without promoting it.
    Dismissed,
}

/// Keeps what is known of adapters, and the aliases that stand for them. Every method is one transaction.
#[async_trait]
pub trait AdapterStore: Send + Sync {
    /// Registers an adapter; repeating it changes nothing.
    async fn record_adapter(&self, adapter: &AdapterRecord) -> Result<(), StoreError>;

    /// Registers the adapter that a round made; the round is `evaluating` then. A conflict if the attempt does not hold
    /// the round. Repeating it changes nothing.
    async fn record_candidate(&self, attempt: &Attempt, adapter: &AdapterRecord) -> Result<(), StoreError>;

    /// Points the alias [`LIVE`] of a model at the candidate of a round, if it stands for `expected` now (`None`: if it
    /// does not exist), ends the round as promoted, and begins the watch, all or nothing; returns whether it did. A
    /// conflict if the attempt does not hold the round, or if the round is not held for a person. Repeating it by the
    /// same attempt changes nothing.
    async fn promote(
        &self,
        by: Promoter,
        model: &str,
        expected: Option<&Version>,
        candidate: &Version,
    ) -> Result<bool, StoreError>;

    /// Points the alias [`LIVE`] of a model from the candidate of a round back to the version that the round
    /// began with, and writes down the watch, both or neither; returns whether it did, now or in an earlier try whose
    /// reply was lost, whatever has become live since. It does not if another version is live, or if the watch does not
    /// stand as `round` says.
    async fn roll_back(&self, model: &str, round: &Round, watch: &Watch) -> Result<bool, StoreError>;

    async fn adapter(&self, version: &Version) -> Result<Option<AdapterRecord>, StoreError>;

    /// Newest first.
    async fn adapters(&self, limit: u32, before: Option<&Version>) -> Result<Vec<AdapterRecord>, StoreError>;

    /// An adapter with who needs it now.
    async fn adapter_use(&self, version: &Version) -> Result<Option<(AdapterRecord, AdapterUse)>, StoreError>;

    /// What an alias of a model stands for; `model` is its fingerprint, or [`UNKNOWN_MODEL`].
    async fn alias(&self, model: &str, name: &str) -> Result<Option<Version>, StoreError>;

    /// Points an alias of a model at `new` if it stands for `expected` now (`None`: if it does not exist); returns
    /// whether it did.
    async fn swap_alias(
        &self,
        model: &str,
        name: &str,
        expected: Option<&Version>,
        new: &Version,
    ) -> Result<bool, StoreError>;
}
