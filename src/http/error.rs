//! Every failure has one shape: `{"error": {"code", "message", "request_id"}}`.

use std::{fmt::Display, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use serde_json::{Value, json};

use crate::{
    adapters::{probe::ProbeError, registry::RegistryError},
    answering::AskError,
    completing::CompletingError,
    engine::{handle::EngineError, sampling::OutOfRange},
    prompter::PrompterError,
    store::StoreError,
};

/// How long a client should wait for a place in the engine: about the time of one answer.
const BUSY_RETRY_SECONDS: u32 = 2;

/// How long it should wait for something that has to come back by itself.
const AWAY_RETRY_SECONDS: u32 = 10;

/// A failure as the client sees it.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    /// For programs; never changes its meaning.
    pub code: &'static str,
    /// For people: what to do.
    pub message: String,
    retry_after_seconds: Option<u32>,
    /// For the log only.
    pub cause: Option<String>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_seconds: None, cause: None }
    }

    /// A fault of ours. The client learns nothing about the cause.
    pub fn internal(cause: impl Display) -> Self {
        let message = "this is a fault of the server; its log has the cause under this request id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).because(cause)
    }

    pub fn not_found(what: impl Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}"))
    }

    pub fn conflict(message: impl Display) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message.to_string())
    }

    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(AWAY_RETRY_SECONDS)
    }

    pub fn timeout(limit: Duration) -> Self {
        let message = format!("this took longer than {} s; ask for fewer votes or tokens", limit.as_secs());
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    /// The client was slower than what is made for it.
    pub fn unread(limit: usize) -> Self {
        let message = format!("more than {limit} tokens were not read in time; read faster, or ask for fewer choices");
        Self::new(StatusCode::REQUEST_TIMEOUT, "unread", message)
    }

    /// What a client reads of it.
    pub fn body(&self, request_id: &str) -> Value {
        json!({"code": self.code, "message": self.message, "request_id": request_id})
    }

    /// What a status says that came without an error of ours, such as for a path that is not there.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::new(status, "no_such_route", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => {
                Self::new(status, "method_not_allowed", "this path has other methods, see the header `Allow`")
            }
            _ if status.is_server_error() => Self { status, ..Self::internal(format!("a bare status {status}")) },
            _ => Self::new(status, "bad_request", status.canonical_reason().unwrap_or("the request is faulty")),
        }
    }

    pub fn because(mut self, cause: impl Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

impl IntoResponse for ApiError {
    /// A response without a body: [`super::envelope::seal`] writes it, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"ttrl\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unservable(what) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unservable", what),
            EngineError::Busy { .. } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                "too many questions are waiting; try again after the seconds in `Retry-After`",
            )
            .retry_after(BUSY_RETRY_SECONDS),
            EngineError::AdapterMismatch(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "adapter_mismatch",
                "this adapter was made for another model than the one that is served",
            )
            .because(error),
            EngineError::Stopped => {
                Self::unavailable("engine_stopped", "the engine has stopped; try again when the server is back")
            }
            EngineError::OutOfMemory(_) => Self::unavailable(
                "insufficient_memory",
                "the device has too little memory left for this; ask for fewer or shorter samples, or try again later",
            )
            .because(error),
            EngineError::Compute(_) => Self::internal(error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                Self::unavailable("database_unavailable", "the database does not answer; try again later")
                    .because(error)
            }
            StoreError::Conflict(what) => Self::conflict(what),
            StoreError::Missing { what, id } => Self::not_found(format!("{what} {id}")),
            StoreError::Address(_) | StoreError::Corrupt(_) => Self::internal(error),
        }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let unprocessable = |code| Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string());
        match error {
            AskError::Question(_) => unprocessable("invalid_question"),
            AskError::Parameter(_) => unprocessable("out_of_range"),
            AskError::TooLong(what) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "question_too_long", what),
            AskError::Engine(error) => error.into(),
            AskError::Store(error) => error.into(),
            AskError::Prompt(_) | AskError::Random(_) => Self::internal(error),
        }
    }
}

impl From<OutOfRange> for ApiError {
    fn from(error: OutOfRange) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "out_of_range", error.to_string())
    }
}

impl From<CompletingError> for ApiError {
    fn from(error: CompletingError) -> Self {
        let unprocessable = |code| Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string());
        match error {
            CompletingError::Parameter(error) => error.into(),
            CompletingError::Engine(error) => error.into(),
            CompletingError::Registry(error) => error.into(),
            CompletingError::Prompt(PrompterError::NoChatTemplate) => unprocessable("no_chat_template"),
            CompletingError::Prompt(PrompterError::Conversation(_)) => unprocessable("invalid_messages"),
            CompletingError::Prompt(_) | CompletingError::Random(_) | CompletingError::Interrupted(_) => {
                Self::internal(error)
            }
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unknown(version) => Self::not_found(format!("adapter {version}")),
            RegistryError::NoSuchName(_) => Self::new(StatusCode::NOT_FOUND, "model_not_found", error.to_string()),
            RegistryError::Conflict { .. } => Self::conflict(error),
            RegistryError::OtherModel { .. } => Self::new(StatusCode::CONFLICT, "other_model", error.to_string()),
            RegistryError::FilesMissing { version, .. } => Self::new(
                StatusCode::CONFLICT,
                "files_removed",
                format!(
                    "the files of adapter {version} are not on this server any more: it keeps the newest `adapters.keep` \
                     versions, and none of a round that did not promote its own; choose a version that is `on_disk`"
                ),
            ),
            RegistryError::Probe { source: ProbeError::OtherWeights { .. }, .. } => {
                let message = format!("{error}; the version that was live stays so");
                Self::new(StatusCode::CONFLICT, "probe_failed", message)
            }
            RegistryError::Engine(error) | RegistryError::Probe { source: ProbeError::Engine(error), .. } => {
                error.into()
            }
            RegistryError::Store(error) => error.into(),
            RegistryError::Live { .. }
            | RegistryError::Probe { .. }
            | RegistryError::Files { .. }
            | RegistryError::Prune { .. }
            | RegistryError::Interrupted(_) => Self::internal(error),
        }
    }
}
