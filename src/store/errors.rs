//! What an error of a database means for the program.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::*;
        match error {
            // A connection that breaks where one byte is expected is told as a breach of the protocol.
            Io(_) | Tls(_) | Protocol(_) | PoolTimedOut | PoolClosed | WorkerCrashed | BeginFailed => {
                Self::Unavailable(error.to_string())
            }
            Database(error) => from_database(&*error),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

/// The code that the database gave with an error: an SQLSTATE from PostgreSQL, an extended result code from SQLite.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Into::into)
}

fn from_database(error: &dyn DatabaseError) -> StoreError {
    // The only insert that can meet a row with the same key is that of a round.
    if error.is_unique_violation() {
        return StoreError::Conflict("another round is running, or the round exists already".into());
    }
    let code = error.code().unwrap_or_default();
    let away = match error.try_downcast_ref::<PgDatabaseError>() {
        Some(_) => postgres_is_away(&code),
        None => sqlite_is_away(&code),
    };
    if away { StoreError::Unavailable(error.to_string()) } else { StoreError::Corrupt(error.to_string()) }
}

/// Whether the same statement may succeed later: connection (class 08), start-up and shutdown, time-outs (57), lack of
/// resources (53), input and output (58), serialisation and deadlocks (40), locks (55P03), a server that was a primary
/// and is a standby now (25006).
fn postgres_is_away(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58")) || matches!(code, "55P03" | "25006")
}

/// The same for SQLite, by the low byte of the result code: busy (5), locked (6), out of memory (7), read-only (8),
/// interrupted (9), input and output (10), full (13), cannot open (14), locking protocol (15).
fn sqlite_is_away(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5..=10 | 13..=15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        for code in ["08006", "57P01", "57014", "53300", "40P01", "55P03", "25006"] {
            assert!(postgres_is_away(code), "{code}");
        }
        for code in ["42P01", "23505", "22021", ""] {
            assert!(!postgres_is_away(code), "{code}");
        }
        for code in ["5", "517", "10", "778", "13", "14"] {
            assert!(sqlite_is_away(code), "{code}");
        }
        for code in ["1", "11", "26", "2067", ""] {
            assert!(!sqlite_is_away(code), "{code}");
        }
    }

    #[test]
    fn a_pool_without_a_free_connection_or_a_broken_one_is_unavailable_and_a_row_of_another_shape_is_damage() {
        assert!(matches!(sqlx::Error::PoolTimedOut.into(), StoreError::Unavailable(_)));
        assert!(matches!(sqlx::Error::Protocol("0x00".into()).into(), StoreError::Unavailable(_)));
        assert!(matches!(sqlx::Error::ColumnNotFound("x".into()).into(), StoreError::Corrupt(_)));
    }
}
