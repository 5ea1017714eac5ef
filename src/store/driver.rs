//! What the two databases do differently, behind one small trait; the statements themselves are the same for both.

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::engine::handle::Version;

/// A database: how it is asked, how it is locked, what time it is there.
#[async_trait]
pub(super) trait Driver: Send + Sync + 'static {
    type Row: Columns + Send + Sync;
    /// Undone when it is dropped without a commit.
    type Transaction: Send;

    /// Runs one statement with the arguments `$1`, `$2` and so on, and returns its rows.
    async fn fetch(&self, sql: &'static str, args: Vec<Arg>) -> Result<Vec<Self::Row>, sqlx::Error>;

    /// Begins a transaction that writes.
    async fn begin(&self) -> Result<Self::Transaction, sqlx::Error>;

    /// Runs one statement within a transaction.
    async fn fetch_in(tx: &mut Self::Transaction, sql: String, args: Vec<Arg>) -> Result<Vec<Self::Row>, sqlx::Error>;

    /// Waits until no other transaction, of any server, holds this lock; it is held until the transaction ends.
    /// Returns what the clock of the database says then, so that all servers measure leases by one clock.
    async fn lock_rounds(tx: &mut Self::Transaction) -> Result<DateTime<Utc>, sqlx::Error>;

    async fn commit(tx: Self::Transaction) -> Result<(), sqlx::Error>;
}

/// One argument of a statement. Numbers, times and so on that may be missing know their type even then.
#[derive(Clone, Debug)]
pub(super) enum Arg {
    Uuid(Option<Uuid>),
    /// Without NUL.
    Text(Option<String>),
    Integer(Option<i64>),
    Float(Option<f64>),
    Boolean(bool),
    /// In whole microseconds.
    Time(Option<DateTime<Utc>>),
    Json(Option<String>),
    Bytes(Vec<u8>),
}

impl Arg {
    /// A value as JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, StoreError> {
        let text = serde_json::to_string(value).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        Ok(Self::Json(Some(text)))
    }

    /// A word of an enum, as serde writes it.
    pub fn word(value: &impl Serialize) -> Result<Self, StoreError> {
        match serde_json::to_value(value) {
            Ok(Value::String(word)) => Ok(word.as_str().into()),
            other => Err(StoreError::Corrupt(format!("{other:?} is not a word"))),
        }
    }
}

macro_rules! arg_from {
    ($($from:ty => |$value:ident| $to:expr;)*) => {
        $(impl From<$from> for Arg {
            fn from($value: $from) -> Self {
                $to
            }
        })*
    };
}

arg_from! {
    Uuid => |id| Self::Uuid(Some(id));
    Option<Uuid> => |id| Self::Uuid(id);
    &str => |text| Self::Text(Some(escaped(text)));
    Option<&str> => |text| Self::Text(text.map(escaped));
    &Version => |version| version.as_str().into();
    Option<&Version> => |version| version.map(Version::as_str).into();
    u32 => |number| Self::Integer(Some(number.into()));
    Option<u32> => |number| Self::Integer(number.map(Into::into));
    // No file has as many bytes as do not fit.
    u64 => |number| Self::Integer(Some(i64::try_from(number).unwrap_or(i64::MAX)));
    f64 => |number| Self::Float(Some(number));
    Option<f64> => |number| Self::Float(number);
    bool => |yes| Self::Boolean(yes);
    DateTime<Utc> => |time| Self::Time(Some(micros(time)));
    Option<DateTime<Utc>> => |time| Self::Time(time.map(micros));
    &Value => |value| Self::Json(Some(value.to_string()));
    Option<&Value> => |value| Self::Json(value.map(Value::to_string));
    [u8; 32] => |hash| Self::Bytes(hash.to_vec());
}

/// The arguments of one statement.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::driver::Arg::from($value)),*] };
}
pub(super) use args;

/// A time as both databases can keep it.
pub(super) fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// Reads the columns of one row by name.
pub(super) trait Columns {
    fn maybe_uuid(&self, column: &str) -> Result<Option<Uuid>, sqlx::Error>;
    fn maybe_bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error>;
    /// As it is stored, escapes included.
    fn stored_text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
    fn maybe_integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    fn maybe_float(&self, column: &str) -> Result<Option<f64>, sqlx::Error>;
    fn maybe_boolean(&self, column: &str) -> Result<Option<bool>, sqlx::Error>;
    fn maybe_time(&self, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error>;
    fn maybe_json(&self, column: &str) -> Result<Option<Value>, sqlx::Error>;

    fn maybe_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        Ok(self.stored_text(column)?.map(unescaped))
    }
    fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
        present(column, self.maybe_uuid(column)?)
    }
    fn text(&self, column: &str) -> Result<String, StoreError> {
        present(column, self.maybe_text(column)?)
    }
    fn float(&self, column: &str) -> Result<f64, StoreError> {
        present(column, self.maybe_float(column)?)
    }
    fn boolean(&self, column: &str) -> Result<bool, StoreError> {
        present(column, self.maybe_boolean(column)?)
    }
    fn time(&self, column: &str) -> Result<DateTime<Utc>, StoreError> {
        present(column, self.maybe_time(column)?)
    }
    fn json(&self, column: &str) -> Result<Value, StoreError> {
        present(column, self.maybe_json(column)?)
    }
    fn count<T: TryFrom<i64>>(&self, column: &str) -> Result<T, StoreError> {
        let number = present(column, self.maybe_integer(column)?)?;
        number.try_into().map_err(|_| StoreError::Corrupt(format!("{number} in column {column} is out of range")))
    }
}

fn present<T>(column: &str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Corrupt(format!("column {column} is empty")))
}

/// Marks an escaped character. Hardly ever written by anyone, so that texts stay readable in the database.
const ESCAPE: char = '\u{1a}';

/// PostgreSQL keeps no NUL in a text, and a model may well write one: it becomes the escape and `0`, and an escape
/// that was there becomes the escape and `1`.
fn escaped(text: &str) -> String {
    if !text.contains(['\0', ESCAPE]) {
        return text.into();
    }
    text.replace(ESCAPE, "\u{1a}1").replace('\0', "\u{1a}0")
}

fn unescaped(text: String) -> String {
    if !text.contains(ESCAPE) {
        return text;
    }
    text.replace("\u{1a}0", "\0").replace("\u{1a}1", "\u{1a}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_comes_back_from_its_escaped_form(text in "[\0\u{1a}01a]{0,12}") {
            let stored = escaped(&text);
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(unescaped(stored), text);
        }
    }

    #[test]
    fn ordinary_text_is_stored_as_it_is() {
        assert_eq!(escaped("2+2 = \"vier\" ✓\n"), "2+2 = \"vier\" ✓\n");
    }
}
