//! The embedded database: one SQLite file.

use std::{
    fmt::Display,
    fs::{self, OpenOptions},
    io::ErrorKind,
    path::Path,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection, Row, Sqlite as Db, SqliteConnection, SqlitePool, Transaction,
    query::Query,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    StoreError,
    connect::{Scripts, migration_error, migrator},
    driver::{Arg, Columns, Driver},
    errors,
};

const MIGRATIONS: Scripts = [
    include_str!("../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../migrations/sqlite/0002_adapters_belong_to_a_model.sql"),
    include_str!("../../migrations/sqlite/0003_who_asked_and_what_was_passed_over.sql"),
    include_str!("../../migrations/sqlite/0004_rounds_are_resumed.sql"),
    include_str!("../../migrations/sqlite/0005_evaluation_sets.sql"),
    include_str!("../../migrations/sqlite/0006_feedback_and_the_watch.sql"),
    include_str!("../../migrations/sqlite/0007_furthest_steps_and_upkeep.sql"),
];

/// How long a writer waits for another, and a caller for a connection. A write takes milliseconds, so this means that
/// somebody else holds the file.
const WAIT: Duration = Duration::from_secs(3);

/// One writes at a time, whatever the number; the others read.
const CONNECTIONS: u32 = 4;

pub(super) struct Sqlite {
    pool: SqlitePool,
}

impl Sqlite {
    /// Opens the file, which is made with its folder if it is missing, and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(true)
            .busy_timeout(WAIT)
            // Readers do not wait for the writer.
            .journal_mode(SqliteJournalMode::Wal)
            // What was committed survives a loss of power: an answer is durable before it is sent.
            .synchronous(SqliteSynchronous::Full);
        let mut connection = first_connection(&options).await.map_err(|e| not_opened(path, e))?;
        let migrator = migrator(MIGRATIONS);
        let mut migrated = migrator.run(&mut connection).await;
        // SQLite has no lock for this: a process that starts at the same moment may be ahead at each of them.
        for _ in MIGRATIONS {
            if migrated.is_err() {
                migrated = migrator.run(&mut connection).await;
            }
        }
        migrated.map_err(migration_error)?;
        connection.close().await?;
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(WAIT);
        Ok(Self { pool: pool.connect_lazy_with(options) })
    }
}

/// Switching a new file to a write-ahead log fails at once, without the busy timeout, while another process does the
/// same: tried again for as long as any other lock is waited for.
async fn first_connection(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let deadline = Instant::now() + WAIT;
    loop {
        match SqliteConnection::connect_with(options).await {
            Err(error) if Instant::now() < deadline && is_locked(&error) => sleep(Duration::from_millis(20)).await,
            result => return result,
        }
    }
}

/// Whether another connection is in the way (SQLITE_BUSY, with or without an extended code).
fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

fn refused(path: &Path, why: &dyn Display) -> StoreError {
    let path = path.display();
    StoreError::Address(format!("the database file {path} cannot be opened ({why}); name one that can be written"))
}

/// Makes the file if it is missing. One that is there is not touched: closing it here would drop the locks that
/// another connection of this process holds on it.
fn create(path: &Path) -> Result<(), StoreError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| refused(path, &e))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Questions are private to the account that runs the server. SQLite gives its side files the same mode.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(refused(path, &error)),
        _ => Ok(()),
    }
}

fn not_opened(path: &Path, error: sqlx::Error) -> StoreError {
    let code = errors::code(&error).and_then(|code| code.parse::<u32>().ok());
    // SQLITE_READONLY, SQLITE_CANTOPEN and SQLITE_NOTADB.
    match code.map(|code| code & 0xff) {
        Some(8 | 14 | 26) => refused(path, &error),
        _ => error.into(),
    }
}

#[async_trait]
impl Driver for Sqlite {
    type Row = SqliteRow;
    type Transaction = Transaction<'static, Db>;

    async fn fetch(&self, sql: &'static str, args: Vec<Arg>) -> Result<Vec<SqliteRow>, sqlx::Error> {
        bind(sqlx::query(sql), args).fetch_all(&self.pool).await
    }

    /// Takes the write lock at once: a transaction that reads first and writes later could not be made to wait.
    async fn begin(&self) -> Result<Self::Transaction, sqlx::Error> {
        self.pool.begin_with("BEGIN IMMEDIATE").await
    }

    async fn fetch_in(tx: &mut Self::Transaction, sql: String, args: Vec<Arg>) -> Result<Vec<SqliteRow>, sqlx::Error> {
        bind(sqlx::query(AssertSqlSafe(sql)), args).fetch_all(&mut **tx).await
    }

    /// The transaction holds the write lock already; the clock is the machine's.
    async fn lock_rounds(_: &mut Self::Transaction) -> Result<DateTime<Utc>, sqlx::Error> {
        Ok(Utc::now())
    }

    async fn commit(tx: Self::Transaction) -> Result<(), sqlx::Error> {
        tx.commit().await
    }
}

fn bind(query: Query<'_, Db, SqliteArguments>, args: Vec<Arg>) -> Query<'_, Db, SqliteArguments> {
    args.into_iter().fold(query, |query, arg| match arg {
        Arg::Uuid(value) => query.bind(value),
        Arg::Text(value) | Arg::Json(value) => query.bind(value),
        Arg::Integer(value) => query.bind(value),
        Arg::Float(value) => query.bind(value),
        Arg::Boolean(value) => query.bind(value),
        Arg::Time(value) => query.bind(value.map(|time| time.timestamp_micros())),
        Arg::Bytes(value) => query.bind(value),
    })
}

fn decoded<T>(
    column: &str,
    result: Result<T, impl Into<Box<dyn std::error::Error + Send + Sync>>>,
) -> Result<T, sqlx::Error> {
    result.map_err(|e| sqlx::Error::ColumnDecode { index: column.into(), source: e.into() })
}

impl Columns for SqliteRow {
    fn maybe_uuid(&self, column: &str) -> Result<Option<Uuid>, sqlx::Error> {
        self.try_get(column)
    }
    fn maybe_bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(column)
    }
    fn stored_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(column)
    }
    fn maybe_integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }
    fn maybe_float(&self, column: &str) -> Result<Option<f64>, sqlx::Error> {
        self.try_get(column)
    }
    fn maybe_boolean(&self, column: &str) -> Result<Option<bool>, sqlx::Error> {
        self.try_get(column)
    }
    fn maybe_time(&self, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        let micros: Option<i64> = self.try_get(column)?;
        let time = |micros| DateTime::from_timestamp_micros(micros).ok_or("a time out of range");
        decoded(column, micros.map(time).transpose())
    }
    fn maybe_json(&self, column: &str) -> Result<Option<Value>, sqlx::Error> {
        let text: Option<String> = self.try_get(column)?;
        decoded(column, text.map(|text| serde_json::from_str(&text)).transpose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(path: &Path) -> Result<Sqlite, StoreError> {
        Sqlite::open(path).await
    }

    #[tokio::test]
    async fn the_file_is_made_with_its_folder_and_is_private() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/ttrl.db");
        open(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_commit_is_durable_and_references_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("ttrl.db")).await.unwrap();
        for (pragma, expected) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1)] {
            let row = sqlx::query(pragma).fetch_one(&store.pool).await.unwrap();
            assert_eq!(row.get::<i64, _>(0), expected, "{pragma}");
        }
        let row = sqlx::query("PRAGMA journal_mode").fetch_one(&store.pool).await.unwrap();
        assert_eq!(row.get::<String, _>(0), "wal");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_a_database_is_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.txt");
        fs::write(&text, "not a database at all, but long enough to be read as a header of one".repeat(20)).unwrap();
        for path in [text.as_path(), folder.path(), &text.join("below.db")] {
            match open(path).await {
                Err(StoreError::Address(message)) => assert!(message.contains(&*path.to_string_lossy()), "{message}"),
                Err(other) => panic!("{other:?}"),
                Ok(_) => panic!("{} was opened", path.display()),
            }
        }
    }
}
