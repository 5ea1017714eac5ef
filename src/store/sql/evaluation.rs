//! Evaluation sets in SQL.

use async_trait::async_trait;

use super::{SqlStore, within_deadline};
use crate::store::{
    EvaluationItem, EvaluationSet, EvaluationStore, EvaluationSummary, StoreError,
    driver::{Arg, Columns, Driver, args},
    round_lock::{ROWS_PER_STATEMENT, placeholders},
    rows,
};

/// A set and its items at one moment: sets are never empty, so that a join finds every one.
const SET: &str = "SELECT s.created_at, i.question, i.answer
    FROM evaluation_sets s JOIN evaluation_items i ON i.set_name = s.name WHERE s.name = $1 ORDER BY i.place";

const SETS: &str = "SELECT s.name, s.created_at, COUNT(*) AS items
    FROM evaluation_sets s JOIN evaluation_items i ON i.set_name = s.name
    GROUP BY s.name, s.created_at ORDER BY s.name";

fn item_args(set: &str, place: usize, item: &EvaluationItem) -> Vec<Arg> {
    args![set, place as u64, item.question.as_str(), rows::text_hash(&item.question), item.answer.as_str()]
}

#[async_trait]
impl<D: Driver> EvaluationStore for SqlStore<D> {
    async fn put_evaluation_set(&self, set: &EvaluationSet) -> Result<(), StoreError> {
        // The set's row first: whoever replaces the same set at the same time waits for it.
        const PUT: &str = "INSERT INTO evaluation_sets (name, created_at) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET created_at = excluded.created_at";
        const CLEAR: &str = "DELETE FROM evaluation_items WHERE set_name = $1";
        within_deadline(async {
            let mut tx = self.driver.begin().await?;
            D::fetch_in(&mut tx, PUT.into(), args![set.name.as_str(), set.created_at]).await?;
            D::fetch_in(&mut tx, CLEAR.into(), args![set.name.as_str()]).await?;
            let items: Vec<(usize, &EvaluationItem)> = set.items.iter().enumerate().collect();
            for items in items.chunks(ROWS_PER_STATEMENT) {
                let args: Vec<Arg> =
                    items.iter().flat_map(|(place, item)| item_args(&set.name, *place, item)).collect();
                let values = placeholders(items.len(), args.len() / items.len());
                let sql = format!(
                    "INSERT INTO evaluation_items (set_name, place, question, text_hash, answer) VALUES {values}"
                );
                D::fetch_in(&mut tx, sql, args).await?;
            }
            Ok(D::commit(tx).await?)
        })
        .await
    }

    async fn evaluation_set(&self, name: &str) -> Result<Option<EvaluationSet>, StoreError> {
        let read = |row: &D::Row| {
            let item = EvaluationItem { question: row.text("question")?, answer: row.text("answer")? };
            Ok((row.time("created_at")?, item))
        };
        let (times, items): (Vec<_>, Vec<_>) = self.all(SET, args![name], read).await?.into_iter().unzip();
        let set = |created_at| EvaluationSet { name: name.into(), created_at, items };
        Ok(times.first().copied().map(set))
    }

    async fn evaluation_sets(&self) -> Result<Vec<EvaluationSummary>, StoreError> {
        let read = |row: &D::Row| {
            Ok(EvaluationSummary {
                name: row.text("name")?,
                created_at: row.time("created_at")?,
                items: row.count("items")?,
            })
        };
        self.all(SETS, args![], read).await
    }

    async fn remove_evaluation_set(&self, name: &str) -> Result<bool, StoreError> {
        const REMOVE: &str = "DELETE FROM evaluation_sets WHERE name = $1 RETURNING name";
        Ok(!self.fetch(REMOVE, args![name]).await?.is_empty())
    }
}
