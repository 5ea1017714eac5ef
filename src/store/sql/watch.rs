//! Watches in SQL.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{SqlStore, within_deadline};
use crate::{
    engine::handle::Version,
    store::{
        Given, LIVE, Round, SeenAnswer, Span, StoreError, Watch, WatchState, WatchStore,
        driver::{Arg, Columns, Driver, args},
        round_lock::RoundLock,
        rows,
    },
};

const WATCHED: &str = "SELECT * FROM rounds
    WHERE watch ->> 'state' = 'watching' AND model_fingerprint = $1 ORDER BY finished_at";

const GIVEN: &str = "SELECT COUNT(*) AS answers, COUNT(f.answer_id) AS rated
    FROM (SELECT id FROM answers WHERE adapter_version = $1 AND created_at > $2 ORDER BY created_at, id LIMIT $3) AS first
    LEFT JOIN feedback f ON f.answer_id = first.id";

const UNTIL: &str = "SELECT a.samples, a.majority_ratio, a.answer IS NOT NULL AS answered, a.parameters, f.good,
        q.text_hash, q.client
    FROM answers a JOIN questions q ON q.id = a.question_id LEFT JOIN feedback f ON f.answer_id = a.id
    WHERE a.adapter_version = $1 AND a.created_at <= $2 ORDER BY a.created_at DESC, a.id DESC LIMIT $3";

const SINCE: &str = "SELECT a.samples, a.majority_ratio, a.answer IS NOT NULL AS answered, a.parameters, f.good,
        q.text_hash, q.client
    FROM answers a JOIN questions q ON q.id = a.question_id LEFT JOIN feedback f ON f.answer_id = a.id
    WHERE a.adapter_version = $1 AND a.created_at > $2 ORDER BY a.created_at, a.id LIMIT $3";

/// What has become of an attempt to write a watch down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    Now,
    /// By an earlier try whose reply was lost.
    Before,
    /// The watch of the round does not stand as it did when it was looked at.
    Never,
}

pub(super) async fn record<D: Driver>(
    rounds: &mut RoundLock<D>,
    round: &Round,
    watch: &Watch,
) -> Result<Recorded, StoreError> {
    let found = rounds.fetch("SELECT * FROM rounds WHERE id = $1", args![round.id]).await?;
    let Some(now) = found.first().map(rows::round).transpose()?.and_then(|now| now.watch) else {
        return Ok(Recorded::Never);
    };
    // No two looks are taken in the same nanosecond.
    let moments = |watch: &Watch| (watch.state, watch.looks, watch.looked_at, watch.ended_at);
    if moments(&now) == moments(watch) {
        return Ok(Recorded::Before);
    }
    let stands = round.watch.as_ref().is_some_and(|seen| (seen.state, seen.looks) == (now.state, now.looks));
    if !stands || now.state != WatchState::Watching {
        return Ok(Recorded::Never);
    }
    let mut args = args![round.id];
    args.push(Arg::json(watch)?);
    rounds.fetch("UPDATE rounds SET watch = $2 WHERE id = $1", args).await?;
    Ok(Recorded::Now)
}

fn seen(row: &impl Columns) -> Result<SeenAnswer, StoreError> {
    let mut parameters = row.json("parameters")?;
    parameters.as_object_mut().map(|parameters| parameters.remove("seed"));
    Ok(SeenAnswer {
        text_hash: row.maybe_bytes("text_hash")?.unwrap_or_default(),
        client: row.maybe_text("client")?,
        manner: parameters.to_string(),
        samples: row.count("samples")?,
        majority_ratio: row.float("majority_ratio")?,
        answered: row.boolean("answered")?,
        good: row.maybe_boolean("good")?,
    })
}

#[async_trait]
impl<D: Driver> WatchStore for SqlStore<D> {
    async fn watched_rounds(&self, model: &str) -> Result<Vec<Round>, StoreError> {
        self.all(WATCHED, args![model], rows::round).await
    }

    async fn given(&self, version: &Version, since: DateTime<Utc>, limit: u32) -> Result<Given, StoreError> {
        let given = |row: &D::Row| Ok(Given { answers: row.count("answers")?, rated: row.count("rated")? });
        Ok(self.one(GIVEN, args![version, since, limit], given).await?.unwrap_or_default())
    }

    async fn seen_answers(&self, version: &Version, span: Span, limit: u32) -> Result<Vec<SeenAnswer>, StoreError> {
        let (sql, moment) = match span {
            Span::Until(moment) => (UNTIL, moment),
            Span::Since(moment) => (SINCE, moment),
        };
        self.all(sql, args![version, moment, limit], seen).await
    }

    async fn record_watch(&self, round: &Round, watch: &Watch) -> Result<bool, StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            let recorded = record(&mut rounds, round, watch).await?;
            rounds.commit().await?;
            Ok(recorded != Recorded::Never)
        })
        .await
    }

    async fn was_rolled_back(&self, model: &str) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT rolled_back FROM aliases WHERE model = $1 AND name = $2";
        Ok(self.one(SQL, args![model, LIVE], |row| row.boolean("rolled_back")).await?.unwrap_or(false))
    }
}
