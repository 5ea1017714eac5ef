//! The store in SQL. The statements are common to both databases; what they do differently is in [`Driver`].

mod evaluation;

use std::{collections::BTreeMap, future::Future, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    AdapterRecord, AdapterUse, Answer, Candidate, Question, Round, RoundQuestion, RoundState, RoundStep, RoundUpdate,
    SEEN_ROUNDS, Store, StoreError,
    driver::{Arg, Columns, Driver, args},
    rows,
};
use crate::engine::handle::Version;

/// The longest that any call takes, waiting included. Every statement is a look-up or a small write except
/// `learnable`, which reads an index of all questions: a second for a million.
const DEADLINE: Duration = Duration::from_secs(10);

/// PostgreSQL takes 65,535 arguments in a statement and SQLite 32,766; a row has ten.
const ROWS_PER_STATEMENT: usize = 1000;

/// Newest first; ids of rounds made in the same microsecond decide.
const ROUNDS: &str = "SELECT * FROM rounds
    WHERE $2 IS NULL OR (created_at, id) < (SELECT created_at, id FROM rounds WHERE id = $2)
    ORDER BY created_at DESC, id DESC LIMIT $1";

const ADAPTERS: &str = "SELECT * FROM adapters
    WHERE $2 IS NULL OR (created_at, version) < (SELECT created_at, version FROM adapters WHERE version = $2)
    ORDER BY created_at DESC, version DESC LIMIT $1";

/// A text belongs to who asked it first: whoever asks it again takes nothing from its place. `turn` is its place among
/// its client's, so that one client's many questions leave room for all others' first ones. A row for each round of a
/// text, at most `$2`, or one without a round.
const LEARNABLE: &str = "WITH texts AS (
        SELECT id, text_hash, created_at,
            FIRST_VALUE(client) OVER (PARTITION BY text_hash ORDER BY created_at, id) AS first_client,
            ROW_NUMBER() OVER (PARTITION BY text_hash ORDER BY created_at DESC, id DESC) AS place
        FROM questions q WHERE learn
            AND NOT EXISTS (SELECT 1 FROM evaluation_items e WHERE e.text_hash = q.text_hash)
    ), seen AS (
        SELECT s.*, r.created_at AS seen_at,
            ROW_NUMBER() OVER (PARTITION BY s.text_hash ORDER BY r.created_at DESC, r.id DESC) AS back
        FROM round_questions s JOIN rounds r ON r.id = s.round_id
    ), turns AS (
        SELECT texts.id, texts.text_hash, texts.first_client, last.seen_at, ROW_NUMBER() OVER (
                PARTITION BY texts.first_client
                ORDER BY last.seen_at IS NOT NULL, last.seen_at, texts.created_at DESC, texts.id DESC
            ) AS turn
        FROM texts LEFT JOIN seen last ON last.text_hash = texts.text_hash AND last.back = 1
        WHERE texts.place = 1
    ), chosen AS (
        SELECT turns.*, ROW_NUMBER() OVER (
                ORDER BY turns.turn, turns.seen_at IS NOT NULL, turns.seen_at, q.created_at DESC, q.id DESC
            ) AS place
        FROM turns JOIN questions q ON q.id = turns.id
    )
    SELECT q.id AS question_id, q.text AS question_text, q.learn, q.client, q.metadata, q.created_at AS asked_at,
        chosen.first_client, s.round_id, s.text, s.held_back, s.before_answer, s.before_ratio, s.after_answer,
        s.after_ratio, s.set_aside
    FROM chosen JOIN questions q ON q.id = chosen.id
        LEFT JOIN seen s ON s.text_hash = chosen.text_hash AND s.back <= $2
    WHERE chosen.place <= $1 ORDER BY chosen.place, s.back";

/// Names are looked at whatever their model: the files of all models are in one folder.
const ADAPTER_USE: &str = "SELECT a.*,
        EXISTS (SELECT 1 FROM aliases WHERE version = a.version) OR EXISTS (
            SELECT 1 FROM rounds r WHERE r.finished_at IS NULL AND r.state <> 'held'
                AND (r.id = a.round_id OR r.parent_version = a.version OR r.candidate_version = a.version)
        ) AS needed,
        EXISTS (
            SELECT 1 FROM rounds r WHERE r.id = a.round_id AND r.state IN ('rejected', 'cancelled', 'failed')
        ) AS dismissed
    FROM adapters a WHERE a.version = $1";

pub(super) struct SqlStore<D> {
    driver: D,
}

/// A transaction that holds the lock on rounds.
struct Rounds<D: Driver> {
    tx: D::Transaction,
    now: DateTime<Utc>,
}

impl<D: Driver> Rounds<D> {
    async fn fetch(&mut self, sql: &str, args: Vec<Arg>) -> Result<Vec<D::Row>, sqlx::Error> {
        D::fetch_in(&mut self.tx, sql.into(), args).await
    }

    fn lease(&self, seconds: u32) -> DateTime<Utc> {
        self.now + TimeDelta::seconds(seconds.into())
    }

    /// The state of a round that `owner` holds: it has not ended, and nobody else has ended it when its lease ran out.
    async fn held(&mut self, id: Uuid, owner: &str) -> Result<RoundState, StoreError> {
        let found = self.fetch("SELECT *, owner = $2 AS is_owner FROM rounds WHERE id = $1", args![id, owner]).await?;
        let Some(row) = found.first() else {
            return Err(StoreError::Missing { what: "round", id: id.to_string() });
        };
        let round = rows::round(row)?;
        if !round.state.is_active() {
            return Err(StoreError::Conflict(format!("round {id} has ended")));
        }
        if !row.boolean("is_owner")? {
            return Err(StoreError::Conflict(format!("round {id} belongs to another server")));
        }
        Ok(round.state)
    }

    /// Ends rounds whose server is gone: as failed, but for one that was stopped between the swap and its last word.
    async fn fail(&mut self, which: &str, reason: &str, owner: Option<&str>) -> Result<u64, StoreError> {
        let sql = format!(
            "UPDATE rounds SET finished_at = $2,
                state = CASE WHEN candidate_version IN (SELECT version FROM aliases) THEN 'promoted' ELSE 'failed' END,
                reason = CASE WHEN candidate_version IN (SELECT version FROM aliases) THEN NULL ELSE $1 END
             WHERE finished_at IS NULL AND state <> 'held' AND ({which}) RETURNING id"
        );
        let failed = self.fetch(&sql, args![reason, self.now, owner]).await?;
        Ok(failed.len() as u64)
    }

    async fn commit(self) -> Result<(), StoreError> {
        Ok(D::commit(self.tx).await?)
    }
}

impl<D: Driver> SqlStore<D> {
    pub fn new(driver: D) -> Self {
        Self { driver }
    }

    async fn fetch(&self, sql: &'static str, args: Vec<Arg>) -> Result<Vec<D::Row>, StoreError> {
        within_deadline(async { Ok(self.driver.fetch(sql, args).await?) }).await
    }

    /// The first row of a statement, read by `read`.
    async fn one<T>(
        &self,
        sql: &'static str,
        args: Vec<Arg>,
        read: impl Fn(&D::Row) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.fetch(sql, args).await?.first().map(read).transpose()
    }

    /// All rows of a statement, read by `read`.
    async fn all<T>(
        &self,
        sql: &'static str,
        args: Vec<Arg>,
        read: impl Fn(&D::Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.fetch(sql, args).await?.iter().map(read).collect()
    }

    async fn lock_rounds(&self) -> Result<Rounds<D>, StoreError> {
        let mut tx = self.driver.begin().await?;
        let now = D::lock_rounds(&mut tx).await?;
        Ok(Rounds { tx, now })
    }

    /// Every row refers to a round, which may not be there.
    async fn expect_round(&self, id: Uuid) -> Result<(), StoreError> {
        let found = self.one("SELECT id FROM rounds WHERE id = $1", args![id], |row| row.uuid("id")).await?;
        found.map(drop).ok_or(StoreError::Missing { what: "round", id: id.to_string() })
    }
}

async fn within_deadline<T>(work: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable(format!("no answer within {DEADLINE:?}"));
    tokio::time::timeout(DEADLINE, work).await.map_err(late)?
}

fn question_args(question: &Question) -> Vec<Arg> {
    let Question { id, text, learn, client, metadata, created_at } = question;
    args![*id, text.as_str(), rows::text_hash(text), *learn, client.as_deref(), metadata.as_ref(), *created_at]
}

fn answer_args(a: &Answer) -> Result<Vec<Arg>, StoreError> {
    let mut args = args![a.id, a.question_id, &a.adapter_version, a.answer.as_deref(), a.text.as_str()];
    args.push(Arg::json(&a.votes)?);
    args.extend(args![a.samples, a.majority_ratio, a.prompt_tokens, a.completion_tokens]);
    args.extend(args![&a.timings, &a.parameters, a.created_at]);
    Ok(args)
}

fn round_args(r: &Round, owner: &str, lease_expires_at: DateTime<Utc>) -> Result<Vec<Arg>, StoreError> {
    let mut args = args![r.id];
    args.push(Arg::word(&r.trigger)?);
    args.extend(args![&r.recipe, r.questions, r.held_back, r.step, r.steps, &r.parent_version]);
    args.extend(args![r.candidate_version.as_ref(), r.verdict.as_ref(), r.reason.as_deref(), r.created_at]);
    args.extend(args![owner, lease_expires_at]);
    Ok(args)
}

fn round_question_args(q: &RoundQuestion) -> Result<Vec<Arg>, StoreError> {
    let mut args = args![q.round_id, q.question_id, q.text.as_str(), rows::text_hash(&q.text), q.held_back];
    args.extend(args![q.before_answer.as_deref(), q.before_ratio, q.after_answer.as_deref(), q.after_ratio]);
    args.push(match &q.set_aside {
        Some(reason) => Arg::word(reason)?,
        None => Arg::Text(None),
    });
    Ok(args)
}

/// `($1, $2), ($3, $4)` for two rows of two columns.
fn placeholders(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let numbers: Vec<String> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", numbers.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

#[async_trait]
impl<D: Driver> Store for SqlStore<D> {
    async fn ping(&self) -> Result<(), StoreError> {
        self.fetch("SELECT 1", args![]).await.map(drop)
    }

    async fn record_answer(&self, question: &Question, answer: &Answer) -> Result<(), StoreError> {
        const QUESTION: &str = "INSERT INTO questions (id, text, text_hash, learn, client, metadata, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        const ANSWER: &str = "INSERT INTO answers (id, question_id, adapter_version, answer, text, votes, samples,
                majority_ratio, prompt_tokens, completion_tokens, timings, parameters, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING";
        within_deadline(async {
            let mut tx = self.driver.begin().await?;
            D::fetch_in(&mut tx, QUESTION.into(), question_args(question)).await?;
            D::fetch_in(&mut tx, ANSWER.into(), answer_args(answer)?).await?;
            Ok(D::commit(tx).await?)
        })
        .await
    }

    async fn answer(&self, id: Uuid) -> Result<Option<(Question, Answer)>, StoreError> {
        const SQL: &str = "SELECT a.*, q.text AS question_text, q.learn, q.client, q.metadata, q.created_at AS asked_at
            FROM answers a JOIN questions q ON q.id = a.question_id WHERE a.id = $1";
        self.one(SQL, args![id], |row| Ok((rows::question(row)?, rows::answer(row)?))).await
    }

    async fn learnable(&self, limit: u32) -> Result<Vec<Candidate>, StoreError> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for row in self.fetch(LEARNABLE, args![limit, SEEN_ROUNDS]).await? {
            let question = rows::question(&row)?;
            if candidates.last().is_none_or(|last| last.question.id != question.id) {
                candidates.push(Candidate { question, client: row.maybe_text("first_client")?, seen: Vec::new() });
            }
            if let (Some(candidate), Some(_)) = (candidates.last_mut(), row.maybe_uuid("round_id")?) {
                candidate.seen.push(rows::round_question(&row)?);
            }
        }
        Ok(candidates)
    }

    async fn questions_since_last_round(&self) -> Result<u64, StoreError> {
        const SQL: &str = "SELECT COUNT(*) AS number FROM questions
            WHERE learn AND created_at > COALESCE((SELECT MAX(created_at) FROM rounds), $1)";
        let number = self.one(SQL, args![DateTime::UNIX_EPOCH], |row| row.count("number")).await?;
        Ok(number.unwrap_or(0))
    }

    async fn last_round_at(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        const SQL: &str = "SELECT MAX(created_at) AS newest FROM rounds";
        Ok(self.one(SQL, args![], |row| Ok(row.maybe_time("newest")?)).await?.flatten())
    }

    async fn create_round(&self, round: &Round, owner: &str, lease_seconds: u32) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO rounds (id, state, started_by, recipe, questions, held_back, step, steps,
                parent_version, candidate_version, verdict, reason, created_at, owner, lease_expires_at)
            VALUES ($1, 'queued', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
        const ACTIVE: &str = "SELECT id FROM rounds WHERE finished_at IS NULL AND state <> 'held'";
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.fail("lease_expires_at <= $2", "the server that ran it stopped", None).await?;
            if let Some(row) = rounds.fetch(ACTIVE, args![]).await?.first() {
                return Err(StoreError::Conflict(format!("round {} is running", row.uuid("id")?)));
            }
            let args = round_args(round, owner, rounds.lease(lease_seconds))?;
            rounds.fetch(SQL, args).await?;
            rounds.commit().await
        })
        .await
    }

    async fn heartbeat(&self, id: Uuid, owner: &str, lease_seconds: u32) -> Result<(), StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.held(id, owner).await?;
            let lease = rounds.lease(lease_seconds);
            rounds.fetch("UPDATE rounds SET lease_expires_at = $2 WHERE id = $1", args![id, lease]).await?;
            rounds.commit().await
        })
        .await
    }

    async fn update_round(&self, id: Uuid, owner: &str, update: RoundUpdate) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE rounds SET state = $2, questions = COALESCE($3, questions),
                held_back = COALESCE($4, held_back), step = COALESCE($5, step),
                candidate_version = COALESCE($6, candidate_version), verdict = COALESCE($7, verdict),
                reason = COALESCE($8, reason), started_at = COALESCE(started_at, $9), finished_at = $10
            WHERE id = $1";
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            let before = rounds.held(id, owner).await?;
            let after = update.state.unwrap_or(before);
            // Once more the same state: a write whose reply was lost on the way.
            if after != before && !before.may_become(after) {
                return Err(StoreError::Conflict(format!("round {id} is {before:?} and cannot become {after:?}")));
            }
            let left_queue = (after != RoundState::Queued).then_some(rounds.now);
            let ended = after.is_final().then_some(rounds.now);
            let mut args = args![id];
            args.push(Arg::word(&after)?);
            args.extend(args![update.questions, update.held_back, update.step, update.candidate_version.as_ref()]);
            args.extend(args![update.verdict.as_ref(), update.reason.as_deref(), left_queue, ended]);
            rounds.fetch(SQL, args).await?;
            rounds.commit().await
        })
        .await
    }

    async fn decide_round(&self, id: Uuid, state: RoundState, reason: Option<&str>) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE rounds SET state = $2, finished_at = $3, reason = COALESCE($4, reason)
            WHERE id = $1 AND state = 'held' RETURNING id";
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            let mut args = args![id];
            args.push(Arg::word(&state)?);
            args.extend(args![rounds.now, reason]);
            if rounds.fetch(SQL, args).await?.is_empty() {
                return Err(StoreError::Conflict(format!("round {id} is not held for a decision")));
            }
            rounds.commit().await
        })
        .await
    }

    async fn fail_orphans(&self, owner: &str, reason: &str) -> Result<u64, StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            let failed = rounds.fail("lease_expires_at <= $2 OR owner = $3", reason, Some(owner)).await?;
            rounds.commit().await?;
            Ok(failed)
        })
        .await
    }

    async fn round(&self, id: Uuid) -> Result<Option<Round>, StoreError> {
        self.one("SELECT * FROM rounds WHERE id = $1", args![id], rows::round).await
    }

    async fn rounds(&self, limit: u32, before: Option<Uuid>) -> Result<Vec<Round>, StoreError> {
        self.all(ROUNDS, args![limit, before], rows::round).await
    }

    async fn record_step(&self, step: &RoundStep) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO round_steps (round_id, step, metrics) VALUES ($1, $2, $3)
            ON CONFLICT (round_id, step) DO UPDATE SET metrics = excluded.metrics";
        self.expect_round(step.round_id).await?;
        self.fetch(SQL, args![step.round_id, step.step, &step.metrics]).await.map(drop)
    }

    async fn steps(&self, round: Uuid) -> Result<Vec<RoundStep>, StoreError> {
        self.all("SELECT * FROM round_steps WHERE round_id = $1 ORDER BY step", args![round], rows::step).await
    }

    async fn record_round_questions(&self, rows: &[RoundQuestion]) -> Result<(), StoreError> {
        // PostgreSQL refuses to write one row twice in a statement: of rows with the same key, the last one counts.
        let by_key: BTreeMap<_, _> = rows.iter().map(|row| ((row.round_id, row.question_id), row)).collect();
        let rounds: std::collections::BTreeSet<_> = rows.iter().map(|row| row.round_id).collect();
        for round in rounds {
            self.expect_round(round).await?;
        }
        let rows: Vec<_> = by_key.into_values().collect();
        within_deadline(async {
            let mut tx = self.driver.begin().await?;
            for rows in rows.chunks(ROWS_PER_STATEMENT) {
                let args = rows.iter().map(|row| round_question_args(row)).collect::<Result<Vec<_>, _>>()?.concat();
                let values = placeholders(rows.len(), args.len() / rows.len());
                let sql = format!(
                    "INSERT INTO round_questions (round_id, question_id, text, text_hash, held_back, before_answer,
                         before_ratio, after_answer, after_ratio, set_aside)
                     VALUES {values} ON CONFLICT (round_id, question_id) DO UPDATE SET
                         text = excluded.text, text_hash = excluded.text_hash, held_back = excluded.held_back,
                         before_answer = excluded.before_answer, before_ratio = excluded.before_ratio,
                         after_answer = excluded.after_answer, after_ratio = excluded.after_ratio,
                         set_aside = excluded.set_aside"
                );
                D::fetch_in(&mut tx, sql, args).await?;
            }
            Ok(D::commit(tx).await?)
        })
        .await
    }

    async fn round_questions(&self, round: Uuid) -> Result<Vec<RoundQuestion>, StoreError> {
        const SQL: &str = "SELECT * FROM round_questions WHERE round_id = $1 ORDER BY question_id";
        self.all(SQL, args![round], rows::round_question).await
    }

    async fn record_adapter(&self, adapter: &AdapterRecord) -> Result<(), StoreError> {
        const SQL: &str =
            "INSERT INTO adapters (version, model_name, model_fingerprint, parent_version, round_id, bytes,
                created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        let AdapterRecord { version, model, parent_version, round_id, bytes, created_at } = adapter;
        let name = model.as_ref().map(|model| model.name.as_str());
        let fingerprint = model.as_ref().map(|model| model.fingerprint.as_str());
        let args = args![version, name, fingerprint, parent_version, *round_id, *bytes, *created_at];
        self.fetch(SQL, args).await.map(drop)
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
        const CREATE: &str =
            "INSERT INTO aliases (model, name, version) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING version";
        const SWAP: &str =
            "UPDATE aliases SET version = $3 WHERE model = $1 AND name = $2 AND version = $4 RETURNING version";
        let changed = match expected {
            None => self.fetch(CREATE, args![model, name, new]).await?,
            Some(expected) => self.fetch(SWAP, args![model, name, new, expected]).await?,
        };
        Ok(!changed.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::placeholders;

    #[test]
    fn placeholders_count_on_from_row_to_row() {
        assert_eq!(placeholders(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }
}
