//! The store in SQL. The statements are common to both databases; what they do differently is in [`Driver`].

mod adapters;
mod evaluation;
mod feedback;
mod watch;

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Answer, Attempt, Candidate, GivenBack, ModelId, Question, Round, RoundQuestion, RoundStep, RoundUpdate,
    SEEN_ROUNDS, Store, StoreError, Unfinished,
    driver::{Arg, Columns, Driver, args},
    round_lock::RoundLock,
    rows,
};

/// The longest that any call takes, waiting included. Every statement is a look-up or a small write except
/// `learnable`, which looks at [`LOOKED_AT`] questions.
const DEADLINE: Duration = Duration::from_secs(10);

/// Newest first; ids of rounds made in the same microsecond decide.
const ROUNDS: &str = "SELECT * FROM rounds
    WHERE $2 IS NULL OR (created_at, id) < (SELECT created_at, id FROM rounds WHERE id = $2)
    ORDER BY created_at DESC, id DESC LIMIT $1";

/// How many questions are looked at, the newest: what a round takes must not wait longer the longer a server has run.
/// 100,000 take about a second on a machine that does nothing else.
const LOOKED_AT: u32 = 100_000;

/// A text is its first asker's, as that one wrote it: whoever asks it again takes nothing from its place and changes
/// nothing about it, but says that it is asked still. `turn` is its place among its client's, so that one client's many
/// questions leave room for all others' first ones. A row for each round of a text, at most `$2`, or one without a
/// round. One pass over the newest `$3` questions, a sort, and the rest for the chosen ones only.
const LEARNABLE: &str = "WITH newest AS (
        SELECT id, text_hash, created_at, client FROM questions WHERE learn
        ORDER BY created_at DESC, id DESC LIMIT $3
    ), texts AS (
        SELECT id, text_hash, client AS first_client, FIRST_VALUE(created_at) OVER by_text AS asked_last,
            FIRST_VALUE(id) OVER by_text AS last_id, LEAD(id) OVER by_text IS NULL AS is_first
        FROM newest
        WINDOW by_text AS (PARTITION BY text_hash ORDER BY created_at DESC, id DESC)
    ), last AS (
        SELECT s.text_hash, MAX(r.created_at) AS seen_at FROM round_questions s JOIN rounds r ON r.id = s.round_id
        GROUP BY s.text_hash
    ), turns AS (
        SELECT texts.*, last.seen_at, ROW_NUMBER() OVER (
                PARTITION BY texts.first_client
                ORDER BY last.seen_at IS NOT NULL, last.seen_at, texts.asked_last DESC, texts.last_id DESC
            ) AS turn
        FROM texts LEFT JOIN last ON last.text_hash = texts.text_hash
        WHERE texts.is_first
            AND NOT EXISTS (SELECT 1 FROM evaluation_items e WHERE e.text_hash = texts.text_hash)
    ), chosen AS (
        SELECT * FROM turns
        ORDER BY turn, seen_at IS NOT NULL, seen_at, asked_last DESC, last_id DESC LIMIT $1
    ), seen AS (
        SELECT s.*, ROW_NUMBER() OVER (PARTITION BY s.text_hash ORDER BY r.created_at DESC, r.id DESC) AS back
        FROM round_questions s JOIN rounds r ON r.id = s.round_id
        WHERE s.text_hash IN (SELECT text_hash FROM chosen)
    )
    SELECT q.id AS question_id, q.text AS question_text, q.learn, q.client, q.metadata, q.created_at AS asked_at,
        s.round_id, s.text, s.held_back, s.before_answer, s.before_ratio, s.after_answer, s.after_ratio, s.set_aside
    FROM chosen JOIN questions q ON q.id = chosen.id
        LEFT JOIN seen s ON s.text_hash = chosen.text_hash AND s.back <= $2
    ORDER BY chosen.turn, chosen.seen_at IS NOT NULL, chosen.seen_at, chosen.asked_last DESC, chosen.last_id DESC, s.back";

const QUESTION: &str = "INSERT INTO questions (id, text, text_hash, learn, client, metadata, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

pub(super) struct SqlStore<D> {
    driver: D,
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

    /// As [`Store::learnable`], of the newest `looked_at` questions.
    async fn learnable_among(&self, looked_at: u32, limit: u32) -> Result<Vec<Candidate>, StoreError> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for row in self.fetch(LEARNABLE, args![limit, SEEN_ROUNDS, looked_at]).await? {
            let question = rows::question(&row)?;
            if candidates.last().is_none_or(|last| last.question.id != question.id) {
                candidates.push(Candidate { question, seen: Vec::new() });
            }
            if let (Some(candidate), Some(_)) = (candidates.last_mut(), row.maybe_uuid("round_id")?) {
                candidate.seen.push(rows::round_question(&row)?);
            }
        }
        Ok(candidates)
    }

    async fn lock_rounds(&self) -> Result<RoundLock<D>, StoreError> {
        RoundLock::take(&self.driver).await
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

fn round_args(r: &Round, attempt: &Attempt, lease_expires_at: DateTime<Utc>) -> Result<Vec<Arg>, StoreError> {
    let mut args = args![r.id];
    args.push(Arg::word(&r.trigger)?);
    args.extend(model_args(r.model.as_ref()));
    args.extend(args![&r.recipe]);
    args.push(Arg::Integer(Some(r.seed.cast_signed())));
    args.extend(args![r.attempts, r.questions, r.held_back, r.step, r.steps, &r.parent_version]);
    args.extend(args![r.candidate_version.as_ref(), r.verdict.as_ref(), r.reason.as_deref(), r.created_at]);
    args.extend(args![attempt.token().as_str(), lease_expires_at]);
    Ok(args)
}

fn model_args(model: Option<&ModelId>) -> Vec<Arg> {
    args![model.map(|model| model.name.as_str()), model.map(|model| model.fingerprint.as_str())]
}

#[async_trait]
impl<D: Driver> Store for SqlStore<D> {
    async fn ping(&self) -> Result<(), StoreError> {
        self.fetch("SELECT 1", args![]).await.map(drop)
    }

    async fn record_answer(&self, question: &Question, answer: &Answer) -> Result<(), StoreError> {
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
        self.learnable_among(LOOKED_AT, limit).await
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

    async fn create_round(
        &self,
        round: &Round,
        questions: &[RoundQuestion],
        lease_seconds: u32,
    ) -> Result<Attempt, StoreError> {
        const SQL: &str = "INSERT INTO rounds (id, state, started_by, model_name, model_fingerprint, recipe, seed,
                attempts, questions, held_back, step, steps, parent_version, candidate_version, verdict, reason,
                created_at, token, lease_expires_at)
            VALUES ($1, 'queued', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            if let Some(Unfinished { round: other, .. }) = rounds.unfinished().await? {
                return Err(StoreError::Conflict(format!("round {} has not ended", other.id)));
            }
            let attempt = Attempt::new(round.id);
            let args = round_args(round, &attempt, rounds.lease(lease_seconds))?;
            rounds.fetch(SQL, args).await?;
            rounds.record_questions(&attempt, questions).await?;
            rounds.commit().await?;
            Ok(attempt)
        })
        .await
    }

    async fn unfinished_round(&self) -> Result<Option<Unfinished>, StoreError> {
        within_deadline(async { self.lock_rounds().await?.unfinished().await }).await
    }

    async fn take_over(&self, id: Uuid, lease_seconds: u32) -> Result<Attempt, StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            let attempt = rounds.take_over(id, lease_seconds).await?;
            rounds.commit().await?;
            Ok(attempt)
        })
        .await
    }

    async fn give_back(&self, attempt: &Attempt, why: GivenBack) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE rounds SET state = 'queued', token = $2, lease_expires_at = $3,
                stalled = CASE WHEN $4 THEN 0 ELSE stalled END
            WHERE id = $1";
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.held(attempt).await?;
            // One that nobody has: this attempt is over.
            let (token, now) = (Attempt::new(attempt.round()).token(), rounds.now);
            let args = args![attempt.round(), token.as_str(), now, why == GivenBack::Stopping];
            rounds.fetch(SQL, args).await?;
            rounds.commit().await
        })
        .await
    }

    async fn heartbeat(&self, attempt: &Attempt, lease_seconds: u32) -> Result<(), StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.held(attempt).await?;
            let lease = rounds.lease(lease_seconds);
            rounds
                .fetch("UPDATE rounds SET lease_expires_at = $2 WHERE id = $1", args![attempt.round(), lease])
                .await?;
            rounds.commit().await
        })
        .await
    }

    async fn update_round(&self, attempt: &Attempt, update: RoundUpdate) -> Result<(), StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.update(attempt, &update).await?;
            rounds.commit().await
        })
        .await
    }

    async fn reject_held(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.reject_held(id, reason).await?;
            rounds.commit().await
        })
        .await
    }

    async fn round(&self, id: Uuid) -> Result<Option<Round>, StoreError> {
        self.one("SELECT * FROM rounds WHERE id = $1", args![id], rows::round).await
    }

    async fn rounds(&self, limit: u32, before: Option<Uuid>) -> Result<Vec<Round>, StoreError> {
        self.all(ROUNDS, args![limit, before], rows::round).await
    }

    async fn record_step(&self, attempt: &Attempt, step: &RoundStep) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO round_steps (round_id, step, metrics) VALUES ($1, $2, $3)
            ON CONFLICT (round_id, step) DO UPDATE SET metrics = excluded.metrics";
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.held_with_rows(attempt, [step.round_id]).await?;
            rounds.fetch(SQL, args![step.round_id, step.step, &step.metrics]).await?;
            rounds.commit().await
        })
        .await
    }

    async fn steps(&self, round: Uuid) -> Result<Vec<RoundStep>, StoreError> {
        self.all("SELECT * FROM round_steps WHERE round_id = $1 ORDER BY step", args![round], rows::step).await
    }

    async fn record_round_questions(&self, attempt: &Attempt, rows: &[RoundQuestion]) -> Result<(), StoreError> {
        within_deadline(async {
            let mut rounds = self.lock_rounds().await?;
            rounds.record_questions(attempt, rows).await?;
            rounds.commit().await
        })
        .await
    }

    async fn round_questions(&self, round: Uuid) -> Result<Vec<RoundQuestion>, StoreError> {
        const SQL: &str = "SELECT * FROM round_questions WHERE round_id = $1 ORDER BY question_id";
        self.all(SQL, args![round], rows::round_question).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::Sqlite;

    #[tokio::test]
    async fn only_the_newest_questions_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqlStore::new(Sqlite::open(&folder.path().join("ttrl.db")).await.unwrap());
        let ask = async |second: i64, text: &str, learn: bool| {
            let created_at = DateTime::from_timestamp(second, 0).unwrap();
            let (id, text) = (Uuid::now_v7(), text.to_owned());
            let question = Question { id, text, learn, client: None, metadata: None, created_at };
            store.fetch(QUESTION, question_args(&question)).await.unwrap();
        };
        // Not in the order of their times, as they come from a spool.
        for (second, text, learn) in
            [(3, "third", true), (1, "first", true), (2, " second", true), (4, "second", true), (5, "private", false)]
        {
            ask(second, text, learn).await;
        }
        let texts = async |looked_at| {
            let found = store.learnable_among(looked_at, 10).await.unwrap().into_iter();
            found.map(|candidate| candidate.question.text).collect::<Vec<_>>()
        };
        assert_eq!(texts(2).await, ["second", "third"]);
        assert_eq!(texts(3).await, [" second", "third"]);
        assert_eq!(texts(4).await, [" second", "third", "first"]);
    }
}
