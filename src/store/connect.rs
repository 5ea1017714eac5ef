//! From an address to a store.

use std::{path::Path, sync::Arc};

use sqlx::{
    SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{
    SharedStore, StoreError, driver::Driver, errors, postgres::Postgres, sql::SqlStore, sqlite::Sqlite, upkeep,
};

const HOW_TO_WRITE_IT: &str = "write `sqlite:PATH` or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`";

/// Opens the database at `address` and brings its tables, and what older versions wrote, up to date.
///
/// The address is `sqlite:PATH` (the file and its folder are made if they are missing) or
/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE` (also `postgresql://`; what is left out is taken from libpq's
/// variables such as `PGPASSWORD` and from `~/.pgpass`). No error repeats the address, since it may hold a password.
///
/// # Errors
/// [`StoreError::Address`] if the address has to be changed, [`StoreError::Unavailable`] if the server does not answer,
/// [`StoreError::Corrupt`] if the database was made by a newer version of this program or is damaged.
pub async fn connect(address: &str) -> Result<SharedStore, StoreError> {
    if let Some(rest) = address.strip_prefix("sqlite:") {
        let path = sqlite_path(rest)?;
        return up_to_date(Sqlite::open(Path::new(path)).await?).await;
    }
    if address.starts_with("postgres://") || address.starts_with("postgresql://") {
        check_postgres(address)?;
        let options = address
            .parse()
            .map_err(|e| malformed(&format!("the address of the PostgreSQL server is malformed ({e})")))?;
        return up_to_date(Postgres::open(options).await?).await;
    }
    Err(StoreError::Address(format!("the database address is of no known kind: {HOW_TO_WRITE_IT}")))
}

async fn up_to_date(driver: impl Driver) -> Result<SharedStore, StoreError> {
    upkeep::run(&driver).await?;
    Ok(Arc::new(SqlStore::new(driver)))
}

fn malformed(what: &str) -> StoreError {
    StoreError::Address(format!("{what}: {HOW_TO_WRITE_IT}, with special characters percent-encoded"))
}

fn sqlite_path(rest: &str) -> Result<&str, StoreError> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() {
        return Err(StoreError::Address("the database address names no file: write `sqlite:PATH`".into()));
    }
    if path.contains('?') || path.starts_with(':') {
        return Err(StoreError::Address(
            "the database address must name a file, without parameters: write `sqlite:PATH`".into(),
        ));
    }
    Ok(path)
}

/// An unencoded `/`, `?` or `#` in a password cuts the address in the wrong place, and a piece of the password would
/// be taken for a host or a parameter and be shown in a message.
fn check_postgres(address: &str) -> Result<(), StoreError> {
    let after_scheme = address.split_once("://").map_or("", |(_, rest)| rest);
    let authority_ends = after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len());
    let rest = &after_scheme[authority_ends..];
    if rest.contains(['@', '#']) {
        return Err(malformed("the address of the PostgreSQL server has an `@` or a `#` in the wrong place"));
    }
    Ok(())
}

/// The names of all migrations. The first has the number 1, and both databases have the same ones.
const MIGRATIONS: [&str; 7] = [
    "initial",
    "adapters belong to a model",
    "who asked and what was passed over",
    "rounds are resumed",
    "evaluation sets",
    "feedback and the watch",
    "furthest steps and upkeep",
];

/// What each migration does in one database.
pub(super) type Scripts = [&'static str; MIGRATIONS.len()];

/// The migrations of one database, in order.
pub(super) fn migrator(scripts: Scripts) -> Migrator {
    let migration = |((number, name), script): ((i64, &'static str), &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, script.into_sql_str(), false)
    };
    Migrator::with_migrations((1..).zip(MIGRATIONS).zip(scripts).map(migration).collect())
}

/// What went wrong while the tables were brought up to date.
pub(super) fn migration_error(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(number) => StoreError::Corrupt(format!(
            "it has migration {number}, which this program does not know, so a newer version has used it; \
             run that version, or use another database"
        )),
        MigrateError::VersionMismatch(number) => StoreError::Corrupt(format!(
            "its migration {number} is not the one of this program; use the version that made it, or another database"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match errors::code(&error).as_deref() {
                Some("42501") => StoreError::Address(
                    "the database user may not create tables: make it the owner of the database, \
                 or run `GRANT CREATE, USAGE ON SCHEMA public TO` that user"
                        .into(),
                ),
                _ => error.into(),
            }
        }
        other => StoreError::Corrupt(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(address: &str) -> String {
        match connect(address).await {
            Err(StoreError::Address(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{address} was accepted"),
        }
    }

    #[tokio::test]
    async fn an_unusable_address_says_how_to_write_one() {
        for address in ["", "mysql://h/db", "h:5432/db", "sqlite", "/a/path"] {
            assert!(refusal(address).await.contains("write `sqlite:PATH` or `postgres://"), "{address}");
        }
        for address in ["sqlite:", "sqlite://", "sqlite::memory:", "sqlite:a.db?mode=ro"] {
            assert!(refusal(address).await.contains("write `sqlite:PATH`"), "{address}");
        }
    }

    #[tokio::test]
    async fn a_malformed_address_does_not_show_its_password() {
        for address in [
            "postgres://u:se/cret@h/db",
            "postgres://u:12?secret@h/db",
            "postgres://u:12#secret@h/db",
            "postgres://u:secret@h:port/db",
            "postgres://u:secret@h/db?port=secret",
            "mysql://u:secret@h/db",
        ] {
            let text = refusal(address).await;
            assert!(!text.contains("secret") && !text.contains("cret@"), "{text}");
        }
    }
}
