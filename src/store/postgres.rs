//! A PostgreSQL server, shared by any number of servers of ours.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection, Encode, Executor, PgConnection, PgPool, Postgres as Db, Row, Transaction, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgTypeInfo, types::Oid},
    query::Query,
};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    StoreError,
    connect::{Scripts, migration_error, migrator},
    driver::{Arg, Columns, Driver},
    errors,
};

const MIGRATIONS: Scripts = [
    include_str!("../../migrations/postgres/0001_initial.sql"),
    include_str!("../../migrations/postgres/0002_adapters_belong_to_a_model.sql"),
    include_str!("../../migrations/postgres/0003_who_asked_and_what_was_passed_over.sql"),
    include_str!("../../migrations/postgres/0004_rounds_are_resumed.sql"),
    include_str!("../../migrations/postgres/0005_evaluation_sets.sql"),
    include_str!("../../migrations/postgres/0006_feedback_and_the_watch.sql"),
    include_str!("../../migrations/postgres/0007_furthest_steps_and_upkeep.sql"),
];

/// A server takes 100 connections unless it is told otherwise, so that ten of ours can share one.
const CONNECTIONS: u32 = 10;

/// How long a caller waits for a connection, a new one included; a server that is there answers in milliseconds.
const ACQUIRE_WAIT: Duration = Duration::from_secs(3);

/// How long the first connection may take, name look-up and encryption included.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// How long a migration may take, and the wait for another server that is migrating.
const MIGRATION_WAIT: Duration = Duration::from_secs(300);

/// The server ends by itself what a client has given up on (after `DEADLINE` in `sql.rs`), and the transaction of a
/// client that has vanished, so that its locks are free again.
const LIMITS: &str = "SET statement_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s'";

/// The key of the advisory lock on rounds, an arbitrary constant: "ttrl" in ASCII.
const ROUNDS_LOCK: i64 = 0x7474_726c;

pub(super) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    /// Connects, and brings the tables up to date; of several servers that start at once, one does.
    pub async fn open(options: PgConnectOptions) -> Result<Self, StoreError> {
        let connection = timeout(CONNECT_WAIT, PgConnection::connect_with(&options)).await;
        let no_answer = || unreachable(&options, &format!("no answer within {CONNECT_WAIT:?}"));
        let mut connection = connection.map_err(|_| no_answer())?.map_err(|e| not_connected(&options, e))?;
        let migrated = timeout(MIGRATION_WAIT, migrator(MIGRATIONS).run(&mut connection)).await;
        migrated
            .map_err(|_| StoreError::Unavailable(format!("its tables were not up to date within {MIGRATION_WAIT:?}")))?
            .map_err(migration_error)?;
        connection.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_WAIT)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(LIMITS).await.map(drop) }));
        Ok(Self { pool: pool.connect_lazy_with(options) })
    }
}

/// Host and port, never the user's password.
fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(path) => path.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

fn unreachable(options: &PgConnectOptions, why: &str) -> StoreError {
    let place = place(options);
    StoreError::Unavailable(format!(
        "PostgreSQL at {place} cannot be reached ({why}); start it, or correct the address"
    ))
}

fn not_connected(options: &PgConnectOptions, error: sqlx::Error) -> StoreError {
    let (place, user) = (place(options), options.get_username());
    let database = options.get_database().unwrap_or(user);
    match (errors::code(&error).as_deref(), &error) {
        (Some("3D000"), _) => StoreError::Address(format!(
            "PostgreSQL at {place} has no database \"{database}\"; create it (`createdb {database}`), or name another"
        )),
        (Some("28P01" | "28000"), _) => StoreError::Address(format!(
            "PostgreSQL at {place} does not let user \"{user}\" in; check the user, the password and the server's pg_hba.conf"
        )),
        (_, sqlx::Error::Io(_)) => unreachable(options, &error.to_string()),
        (_, sqlx::Error::Tls(_)) => StoreError::Address(format!(
            "PostgreSQL at {place} and this program do not agree on encryption ({error}); see `sslmode` in the address"
        )),
        _ => error.into(),
    }
}

#[async_trait]
impl Driver for Postgres {
    type Row = PgRow;
    type Transaction = Transaction<'static, Db>;

    async fn fetch(&self, sql: &'static str, args: Vec<Arg>) -> Result<Vec<PgRow>, sqlx::Error> {
        bind(sqlx::query(sql), args).fetch_all(&self.pool).await
    }

    async fn begin(&self) -> Result<Self::Transaction, sqlx::Error> {
        self.pool.begin().await
    }

    async fn fetch_in(tx: &mut Self::Transaction, sql: String, args: Vec<Arg>) -> Result<Vec<PgRow>, sqlx::Error> {
        bind(sqlx::query(AssertSqlSafe(sql)), args).fetch_all(&mut **tx).await
    }

    async fn lock_rounds(tx: &mut Self::Transaction) -> Result<DateTime<Utc>, sqlx::Error> {
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(ROUNDS_LOCK).execute(&mut **tx).await?;
        // A statement of its own: the time after the wait for the lock.
        sqlx::query("SELECT clock_timestamp()").fetch_one(&mut **tx).await?.try_get(0)
    }

    async fn commit(tx: Self::Transaction) -> Result<(), sqlx::Error> {
        tx.commit().await
    }
}

/// The type `json`, which keeps what it is given; sqlx's own wrapper sends `jsonb`.
struct JsonText(String);

impl Type<Db> for JsonText {
    fn type_info() -> PgTypeInfo {
        /// The number of the type `json` in every PostgreSQL (`pg_type.dat`).
        const JSON: Oid = Oid(114);
        PgTypeInfo::with_oid(JSON)
    }
}

impl Encode<'_, Db> for JsonText {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

fn bind(query: Query<'_, Db, PgArguments>, args: Vec<Arg>) -> Query<'_, Db, PgArguments> {
    args.into_iter().fold(query, |query, arg| match arg {
        Arg::Uuid(value) => query.bind(value),
        Arg::Text(value) => query.bind(value),
        Arg::Integer(value) => query.bind(value),
        Arg::Float(value) => query.bind(value),
        Arg::Boolean(value) => query.bind(value),
        Arg::Time(value) => query.bind(value),
        Arg::Json(value) => query.bind(value.map(JsonText)),
        Arg::Bytes(value) => query.bind(value),
    })
}

impl Columns for PgRow {
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
        self.try_get(column)
    }
    fn maybe_json(&self, column: &str) -> Result<Option<Value>, sqlx::Error> {
        self.try_get(column)
    }
}
