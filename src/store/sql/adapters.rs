//! Adapters and aliases in SQL.

use async_trait::async_trait;

use super::{
    SqlStore, model_args,
    watch::{self, Recorded},
    within_deadline,
};
use crate::{
    engine::handle::Version,
    store::{
        AdapterRecord, AdapterStore, AdapterUse, Attempt, LIVE, Promoter, Round, RoundState, RoundUpdate, StoreError,
        Watch,
        driver::{Arg, Driver, args},
        round_lock::swap_alias,
        rows,
    },
};

const ADAPTERS: &str = "SELECT * FROM adapters
    WHERE $2 IS NULL OR (created_at, version) < (SELECT created_at, version FROM adapters WHERE version = $2)
    ORDER BY created_at DESC, version DESC LIMIT $1";

/// Names are looked at whatever their model: the files of all models are in one folder.
const ADAPTER_USE: &str = "SELECT a.*,
        EXISTS (SELECT 1 FROM aliases WHERE version = a.version) OR EXISTS (
            SELECT 1 FROM rounds r WHERE r.finished_at IS NULL AND (
                r.candidate_version = a.version
                OR r.state <> 'held' AND (r.id = a.round_id OR r.parent_version = a.version))
        ) OR EXISTS (
            SELECT 1 FROM rounds r WHERE r.watch ->> 'state' = 'watching' AND r.parent_version = a.version
        ) AS needed,
        EXISTS (
            SELECT 1 FROM rounds r WHERE r.id = a.round_id AND r.state IN ('rejected', 'cancelled', 'failed')
        ) AND NOT EXISTS (
            SELECT 1 FROM rounds r WHERE r.candidate_version = a.version AND r.state = 'promoted'
        ) AS dismissed
    FROM adapters a WHERE a.version = $1";

const RECORD_ADAPTER: &str = "INSERT INTO adapters (version, model_name, model_fingerprint, parent_version, round_id,
        bytes, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

fn adapter_args(adapter: &AdapterRecord) -> Vec<Arg> {
    let AdapterRecord { version, model, parent_version, round_id, bytes, created_at } = adapter;
    let mut args = args![version];
    args.extend(model_args(model.as_ref()));
    args.extend(args![parent_version, *round_id, *bytes, *created_at]);
    args
}

#[async_trait]
impl<D: Driver> AdapterStore for SqlStore<D> {
    async fn record_adapter(&self, adapter: &AdapterRecord) -> Result<(), StoreError> {
        self.fetch(RECORD_ADAPTER, adapter_args(adapter)).await.map(drop)
    }

    async fn record_candidate(&self, attempt: &Attempt, adapter: &AdapterRecord) -> Result<(), StoreError> {
        let made = RoundUpdate {
            state: Some(RoundState::Evaluating),
            candidate_version: Some(adapter.version.clone()),
            ..RoundUpdate::default()
        };
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.update(attempt, &made).await?;
            rounds.fetch(RECORD_ADAPTER, adapter_args(adapter)).await?;
            rounds.commit().await
        })
        .await
    }

    async fn promote(
        &self,
        by: Promoter,
        model: &str,
        expected: Option<&Version>,
        candidate: &Version,
    ) -> Result<bool, StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            let promoted = rounds.promote(by, model, expected, candidate).await?;
            rounds.commit().await?;
            Ok(promoted)
        })
        .await
    }

    async fn roll_back(&self, model: &str, round: &Round, watch: &Watch) -> Result<bool, StoreError> {
        const MARK: &str = "UPDATE aliases SET rolled_back = TRUE WHERE model = $1 AND name = $2";
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            match watch::record(&mut rounds, round, watch).await? {
                Recorded::Now => {}
                Recorded::Before => return Ok(true),
                Recorded::Never => return Ok(false),
            }
            let Some(candidate) = &round.candidate_version else { return Ok(false) };
            let (sql, args) = swap_alias(model, LIVE, Some(candidate), &round.parent_version);
            // Without a commit nothing is recorded either.
            if rounds.fetch(sql, args).await?.is_empty() {
                return Ok(false);
            }
            rounds.fetch(MARK, args![model, LIVE]).await?;
            rounds.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn adapter(&self, version: &Version) -> Result<Option<AdapterRecord>, StoreError> {
        self.one("SELECT * FROM adapters WHERE version = $1", args![version], rows::adapter).await
    }

    async fn adapters(&self, limit: u32, before: Option<&Version>) -> Result<Vec<AdapterRecord>, StoreError> {
        self.all(ADAPTERS, args![limit, before.map(Version::as_str)], rows::adapter).await
    }

    async fn adapter_use(&self, version: &Version) -> Result<Option<(AdapterRecord, AdapterUse)>, StoreError> {
        self.one(ADAPTER_USE, args![version], rows::adapter_use).await
    }

    async fn alias(&self, model: &str, name: &str) -> Result<Option<Version>, StoreError> {
        const SQL: &str = "SELECT version FROM aliases WHERE model = $1 AND name = $2";
        self.one(SQL, args![model, name], rows::version_column).await
    }

    async fn swap_alias(
        &self,
        model: &str,
        name: &str,
        expected: Option<&Version>,
        new: &Version,
    ) -> Result<bool, StoreError> {
        within_deadline(async {
            // What a decision about a round finds live stays so until it is made.
            let mut rounds = self.lock_rounds().await?;
            let (sql, args) = swap_alias(model, name, expected, new);
            let changed = rounds.fetch(sql, args).await?;
            rounds.commit().await?;
            Ok(!changed.is_empty())
        })
        .await
    }
}
