//! Structured logs on the standard error output.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use crate::config::{LogFormat, LogSettings};

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "log.filter {filter:?} is not understood ({problem}): write a level such as `info`, or `info,ttrl::engine=debug`"
    )]
    Filter { filter: String, problem: String },
    #[error("logging was started already")]
    Again,
}

/// Starts logging for the whole process; once.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let filter = filter(&settings.filter)?;
    // Standard output is for what a command was asked for.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|_| LogError::Again)
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| LogError::Filter { filter: text.into(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_not_understood_is_refused() {
        assert!(filter("info,ttrl::engine=debug").is_ok());
        let error = filter("info,ttrl=loud").unwrap_err().to_string();
        assert!(error.contains("ttrl=loud") && error.contains("write a level"), "{error}");
    }
}
