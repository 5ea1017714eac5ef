//! What is done once, when a database is opened, to the rows that older versions wrote.
//!
//! Texts were told apart by the white space within them. Their hashes are made anew, or what was asked before would count
//! as another text than the same asked now. A start that is killed half-way leaves the rest to the next one.

use uuid::Uuid;

use super::{
    StoreError,
    driver::{Arg, Columns, Driver, args},
    rows,
};

/// Under this name it is written down that all hashes are new.
const HASHES: &str = "hashes of texts without their white space";

/// Rows of a transaction: it takes tens of milliseconds, so that whoever else writes need not wait.
const BATCH: u32 = 500;

/// A table with texts and their hashes.
struct Texts {
    key: &'static [&'static str],
    /// `$1` rows behind the key `$2`...
    page: &'static str,
    /// Makes `$1` the hash of the row with the key `$2`...
    write: &'static str,
}

const TABLES: [Texts; 2] = [
    Texts {
        key: &["id"],
        page: "SELECT id, text, text_hash FROM questions WHERE id > $2 ORDER BY id LIMIT $1",
        write: "UPDATE questions SET text_hash = $1 WHERE id = $2",
    },
    Texts {
        key: &["round_id", "question_id"],
        page: "SELECT round_id, question_id, text, text_hash FROM round_questions
            WHERE (round_id, question_id) > ($2, $3) ORDER BY round_id, question_id LIMIT $1",
        write: "UPDATE round_questions SET text_hash = $1 WHERE round_id = $2 AND question_id = $3",
    },
];

/// Brings the rows of older versions up to date, if that has not been done.
///
/// # Errors
/// If the database goes away; what was done stays.
pub(super) async fn run<D: Driver>(driver: &D) -> Result<(), StoreError> {
    const DONE: &str = "SELECT name FROM upkeep WHERE name = $1";
    const MARK: &str = "INSERT INTO upkeep (name) VALUES ($1) ON CONFLICT DO NOTHING";
    if !driver.fetch(DONE, args![HASHES]).await?.is_empty() {
        return Ok(());
    }
    for texts in &TABLES {
        let changed = rehash(driver, texts).await?;
        if changed > 0 {
            tracing::info!(changed, "texts of an older version are compared without their white space now");
        }
    }
    driver.fetch(MARK, args![HASHES]).await?;
    Ok(())
}

/// Makes all hashes of a table anew, and returns how many were others.
async fn rehash<D: Driver>(driver: &D, texts: &Texts) -> Result<usize, StoreError> {
    let mut changed = 0;
    let mut behind = vec![Arg::from(Uuid::nil()); texts.key.len()];
    loop {
        let page = driver.fetch(texts.page, with_key(args![BATCH], behind)).await?;
        let Some(last) = page.last() else { return Ok(changed) };
        behind = key(texts, last)?;
        let mut outdated = Vec::new();
        for row in &page {
            let hash = rows::text_hash(&row.text("text")?);
            if row.maybe_bytes("text_hash")?.as_deref() != Some(&hash[..]) {
                outdated.push(with_key(args![hash], key(texts, row)?));
            }
        }
        if outdated.is_empty() {
            continue;
        }
        changed += outdated.len();
        let mut tx = driver.begin().await?;
        for args in outdated {
            D::fetch_in(&mut tx, texts.write.into(), args).await?;
        }
        D::commit(tx).await?;
    }
}

fn key(texts: &Texts, row: &impl Columns) -> Result<Vec<Arg>, StoreError> {
    texts.key.iter().map(|column| Ok(row.uuid(column)?.into())).collect()
}

fn with_key(mut args: Vec<Arg>, key: Vec<Arg>) -> Vec<Arg> {
    args.extend(key);
    args
}
