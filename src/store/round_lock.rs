//! A transaction that holds the lock on rounds: whatever changes rounds, or what is live, is done in one, one after the
//! other.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    Attempt, LIVE, Promoter, Round, RoundQuestion, RoundState, RoundUpdate, StoreError, Unfinished,
    driver::{Arg, Columns, Driver, args},
    rows,
};
use crate::engine::handle::Version;

/// PostgreSQL takes 65,535 arguments in a statement and SQLite 32,766; a row has ten.
pub(super) const ROWS_PER_STATEMENT: usize = 1000;

/// A transaction that holds the lock on rounds.
pub(super) struct RoundLock<D: Driver> {
    tx: D::Transaction,
    /// By the clock of the database.
    pub now: DateTime<Utc>,
}

impl<D: Driver> RoundLock<D> {
    pub async fn take(driver: &D) -> Result<Self, StoreError> {
        let mut tx = driver.begin().await?;
        let now = D::lock_rounds(&mut tx).await?;
        Ok(Self { tx, now })
    }

    pub async fn fetch(&mut self, sql: impl Into<String>, args: Vec<Arg>) -> Result<Vec<D::Row>, sqlx::Error> {
        D::fetch_in(&mut self.tx, sql.into(), args).await
    }

    /// When a lease that is given now runs out.
    pub fn lease(&self, seconds: u32) -> DateTime<Utc> {
        self.now + TimeDelta::seconds(seconds.into())
    }

    /// The state of a round that an attempt holds: it has not ended, and nobody has taken it over.
    pub async fn held(&mut self, attempt: &Attempt) -> Result<RoundState, StoreError> {
        let state = self.state_of(attempt).await?;
        if !state.is_active() {
            return Err(ended(attempt.round()));
        }
        Ok(state)
    }

    /// As [`Self::held`], for rows that must be of the attempt's round.
    pub async fn held_with_rows(
        &mut self,
        attempt: &Attempt,
        rows: impl IntoIterator<Item = Uuid> + Send,
    ) -> Result<(), StoreError> {
        let foreign = rows.into_iter().find(|id| *id != attempt.round());
        self.held(attempt).await?;
        match foreign {
            Some(other) => Err(StoreError::Conflict(format!("a row of round {other} is none of {}", attempt.round()))),
            None => Ok(()),
        }
    }

    /// The state of a round whose last attempt this is.
    async fn state_of(&mut self, attempt: &Attempt) -> Result<RoundState, StoreError> {
        const SQL: &str = "SELECT *, token = $2 AS is_current FROM rounds WHERE id = $1";
        let id = attempt.round();
        let found = self.fetch(SQL, args![id, attempt.token().as_str()]).await?;
        let Some(row) = found.first() else {
            return Err(StoreError::Missing { what: "round", id: id.to_string() });
        };
        if !row.boolean("is_current")? {
            return Err(StoreError::Conflict(format!("round {id} is no longer this server's")));
        }
        Ok(rows::round(row)?.state)
    }

    /// A round that is held for a person.
    async fn waiting(&mut self, id: Uuid) -> Result<Round, StoreError> {
        let found = self.fetch("SELECT * FROM rounds WHERE id = $1", args![id]).await?;
        let row = found.first().ok_or_else(|| StoreError::Missing { what: "round", id: id.to_string() })?;
        let round = rows::round(row)?;
        match round.state {
            RoundState::Held => Ok(round),
            _ => {
                let state = row.text("state")?;
                Err(StoreError::Conflict(format!("round {id} waits for nobody's decision: it is {state}")))
            }
        }
    }

    /// See [`super::Store::unfinished_round`].
    pub async fn unfinished(&mut self) -> Result<Option<Unfinished>, StoreError> {
        let found = self.fetch("SELECT * FROM rounds WHERE finished_at IS NULL AND state <> 'held'", args![]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let since = self.now - row.time("lease_expires_at")?;
        let stalled = row.count("stalled")?;
        // A lease that has not run out has a negative time since.
        Ok(Some(Unfinished { round: rows::round(row)?, abandoned: since.to_std().ok(), stalled }))
    }

    /// See [`super::Store::take_over`].
    pub async fn take_over(&mut self, id: Uuid, lease_seconds: u32) -> Result<Attempt, StoreError> {
        const SQL: &str = "UPDATE rounds SET state = 'queued', token = $2, lease_expires_at = $3,
                attempts = attempts + 1, stalled = stalled + 1
            WHERE id = $1";
        match self.unfinished().await? {
            Some(Unfinished { round, abandoned: Some(_), .. }) if round.id == id => {}
            Some(Unfinished { round, .. }) if round.id == id => {
                return Err(StoreError::Conflict(format!("round {id} is another server's")));
            }
            _ => return Err(ended(id)),
        }
        let attempt = Attempt::new(id);
        let lease = self.lease(lease_seconds);
        self.fetch(SQL, args![id, attempt.token().as_str(), lease]).await?;
        Ok(attempt)
    }

    /// Adds or replaces rows of the attempt's round.
    pub async fn record_questions(&mut self, attempt: &Attempt, rows: &[RoundQuestion]) -> Result<(), StoreError> {
        self.held_with_rows(attempt, rows.iter().map(|row| row.round_id)).await?;
        // PostgreSQL refuses to write one row twice in a statement: of rows with the same key, the last one counts.
        let by_key: BTreeMap<_, _> = rows.iter().map(|row| (row.question_id, row)).collect();
        let rows: Vec<_> = by_key.into_values().collect();
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
            self.fetch(sql, args).await?;
        }
        Ok(())
    }

    /// Changes a round that an attempt holds.
    pub async fn update(&mut self, attempt: &Attempt, update: &RoundUpdate) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE rounds SET state = $2, questions = COALESCE($3, questions),
                held_back = COALESCE($4, held_back), step = COALESCE($5, step),
                stalled = CASE WHEN $5 > furthest THEN 0 ELSE stalled END,
                furthest = CASE WHEN $5 > furthest THEN $5 ELSE furthest END,
                candidate_version = COALESCE($6, candidate_version), verdict = COALESCE($7, verdict),
                reason = COALESCE($8, reason), started_at = COALESCE(started_at, $9), finished_at = $10
            WHERE id = $1";
        let (id, before) = (attempt.round(), self.state_of(attempt).await?);
        if !before.is_active() {
            // Once more the attempt's last word: a write whose reply was lost on the way.
            return if update.state == Some(before) { Ok(()) } else { Err(ended(id)) };
        }
        let after = update.state.unwrap_or(before);
        // The same state again may be another such write.
        if after != before && !before.may_become(after) {
            return Err(StoreError::Conflict(format!("round {id} is {before:?} and cannot become {after:?}")));
        }
        let left_queue = (after != RoundState::Queued).then_some(self.now);
        let ended = after.is_final().then_some(self.now);
        let mut args = args![id];
        args.push(Arg::word(&after)?);
        args.extend(args![update.questions, update.held_back, update.step, update.candidate_version.as_ref()]);
        args.extend(args![update.verdict.as_ref(), update.reason.as_deref(), left_queue, ended]);
        self.fetch(SQL, args).await?;
        Ok(())
    }

    /// See [`super::Store::promote`].
    pub async fn promote(
        &mut self,
        by: Promoter,
        model: &str,
        expected: Option<&Version>,
        candidate: &Version,
    ) -> Result<bool, StoreError> {
        const END: &str = "UPDATE rounds SET state = 'promoted', finished_at = $2, watch = '{\"state\": \"watching\"}'
            WHERE id = $1";
        let id = match by {
            Promoter::Gate(attempt) => match (attempt.round(), self.state_of(&attempt).await?) {
                // A write whose reply was lost on the way.
                (_, RoundState::Promoted) => return Ok(true),
                (id, state) if state.may_become(RoundState::Promoted) => id,
                (id, state) => {
                    return Err(StoreError::Conflict(format!("round {id} is {state:?} and cannot be promoted")));
                }
            },
            Promoter::Person(id) => self.waiting(id).await?.id,
        };
        let (sql, args) = swap_alias(model, LIVE, expected, candidate);
        if self.fetch(sql, args).await?.is_empty() {
            return Ok(false);
        }
        self.fetch(END, args![id, self.now]).await?;
        Ok(true)
    }

    /// See [`super::Store::reject_held`].
    pub async fn reject_held(&mut self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        const LIVE_NOW: &str = "SELECT model FROM aliases WHERE name = $1 AND version = $2";
        const END: &str = "UPDATE rounds SET state = 'rejected', finished_at = $2, reason = $3 WHERE id = $1";
        let candidate = self.waiting(id).await?.candidate_version;
        if !self.fetch(LIVE_NOW, args![LIVE, candidate.as_ref()]).await?.is_empty() {
            return Err(StoreError::Conflict(format!(
                "the candidate of round {id} is live: promote the round, or activate another version first"
            )));
        }
        self.fetch(END, args![id, self.now, reason]).await?;
        Ok(())
    }

    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(D::commit(self.tx).await?)
    }
}

fn ended(round: Uuid) -> StoreError {
    StoreError::Conflict(format!("round {round} has ended"))
}

/// A statement that points an alias at `new` if it stands for `expected`; it returns a row if it does. Whatever the
/// watch has done before, it was not the watch that did this.
pub(super) fn swap_alias(
    model: &str,
    name: &str,
    expected: Option<&Version>,
    new: &Version,
) -> (&'static str, Vec<Arg>) {
    const CREATE: &str =
        "INSERT INTO aliases (model, name, version) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING version";
    const SWAP: &str = "UPDATE aliases SET version = $3, rolled_back = FALSE
        WHERE model = $1 AND name = $2 AND version = $4 RETURNING version";
    match expected {
        None => (CREATE, args![model, name, new]),
        Some(expected) => (SWAP, args![model, name, new, expected]),
    }
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
pub(super) fn placeholders(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let numbers: Vec<String> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", numbers.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::placeholders;

    #[test]
    fn placeholders_count_on_from_row_to_row() {
        assert_eq!(placeholders(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }
}
