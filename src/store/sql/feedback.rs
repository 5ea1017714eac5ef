//! Feedback in SQL.

use async_trait::async_trait;
use uuid::Uuid;

use super::SqlStore;
use crate::store::{
    Feedback, FeedbackStore, StoreError,
    driver::{Columns, Driver, args},
};

#[async_trait]
impl<D: Driver> FeedbackStore for SqlStore<D> {
    async fn put_feedback(&self, answer: Uuid, feedback: &Feedback) -> Result<(), StoreError> {
        const PUT: &str = "INSERT INTO feedback (answer_id, good, comment, created_at)
            SELECT id, $2, $3, $4 FROM answers WHERE id = $1
            ON CONFLICT (answer_id) DO UPDATE SET
                good = excluded.good, comment = excluded.comment, created_at = excluded.created_at
            RETURNING answer_id";
        let Feedback { good, comment, created_at } = feedback;
        let kept = self.fetch(PUT, args![answer, *good, comment.as_deref(), *created_at]).await?;
        match kept.is_empty() {
            true => Err(StoreError::Missing { what: "answer", id: answer.to_string() }),
            false => Ok(()),
        }
    }

    async fn feedback(&self, answer: Uuid) -> Result<Option<Feedback>, StoreError> {
        let read = |row: &D::Row| {
            Ok(Feedback {
                good: row.boolean("good")?,
                comment: row.maybe_text("comment")?,
                created_at: row.time("created_at")?,
            })
        };
        self.one("SELECT * FROM feedback WHERE answer_id = $1", args![answer], read).await
    }
}
