//! What all replies begin with.

use chrono::Utc;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    completing::{Prepared, Usage},
    engine::handle::Version,
};

/// The part of a reply that is the same in each of its events.
#[derive(Clone, Debug)]
pub struct Head {
    id: String,
    created: i64,
    model: String,
    version: Option<Version>,
}

impl Head {
    /// Made once a request; `prefix` says what the id is of, `model` is what was asked for.
    pub fn new(prefix: &str, model: String, prepared: &Prepared) -> Self {
        let id = format!("{prefix}-{}", Uuid::now_v7().simple());
        Self { id, created: Utc::now().timestamp(), model, version: prepared.version().cloned() }
    }

    /// A reply, or an event of one.
    pub fn json(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "adapter_version": self.version,
            "system_fingerprint": self.version,
            "choices": choices,
        })
    }
}

/// `usage` in a reply.
pub fn usage(usage: Usage) -> Value {
    let Usage { prompt_tokens, completion_tokens } = usage;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    })
}
