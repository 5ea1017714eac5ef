//! From the columns of a row to the types of the trait.

use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    AdapterRecord, AdapterUse, Answer, ModelId, Question, Round, RoundQuestion, RoundStep, StoreError, driver::Columns,
};
use crate::engine::handle::Version;

/// What makes two questions the same text: SHA-256 of its words, with one space between each and the next.
pub(super) fn text_hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.split_whitespace().collect::<Vec<_>>().join(" ")).into()
}

fn corrupt(error: impl ToString) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

fn word<T: DeserializeOwned>(text: String) -> Result<T, StoreError> {
    serde_json::from_value(Value::String(text)).map_err(corrupt)
}

fn version(text: String) -> Result<Version, StoreError> {
    text.parse().map_err(corrupt)
}

/// The version in column `version`.
pub(super) fn version_column(row: &impl Columns) -> Result<Version, StoreError> {
    version(row.text("version")?)
}

pub(super) fn question(row: &impl Columns) -> Result<Question, StoreError> {
    Ok(Question {
        id: row.uuid("question_id")?,
        text: row.text("question_text")?,
        learn: row.boolean("learn")?,
        client: row.maybe_text("client")?,
        metadata: row.maybe_json("metadata")?,
        created_at: row.time("asked_at")?,
    })
}

pub(super) fn answer(row: &impl Columns) -> Result<Answer, StoreError> {
    Ok(Answer {
        id: row.uuid("id")?,
        question_id: row.uuid("question_id")?,
        adapter_version: version(row.text("adapter_version")?)?,
        answer: row.maybe_text("answer")?,
        text: row.text("text")?,
        votes: serde_json::from_value(row.json("votes")?).map_err(corrupt)?,
        samples: row.count("samples")?,
        majority_ratio: row.float("majority_ratio")?,
        prompt_tokens: row.count("prompt_tokens")?,
        completion_tokens: row.count("completion_tokens")?,
        timings: row.json("timings")?,
        parameters: row.json("parameters")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) fn round(row: &impl Columns) -> Result<Round, StoreError> {
    let id = row.uuid("id")?;
    Ok(Round {
        id,
        state: word(row.text("state")?)?,
        trigger: word(row.text("started_by")?)?,
        model: model(row)?,
        recipe: row.json("recipe")?,
        // Of rounds that were created before seeds were kept, it was this.
        seed: row.maybe_integer("seed")?.map_or(id.as_u64_pair().1, i64::cast_unsigned),
        attempts: row.count("attempts")?,
        questions: row.count("questions")?,
        held_back: row.count("held_back")?,
        step: row.count("step")?,
        steps: row.count("steps")?,
        parent_version: version(row.text("parent_version")?)?,
        candidate_version: row.maybe_text("candidate_version")?.map(version).transpose()?,
        verdict: row.maybe_json("verdict")?,
        reason: row.maybe_text("reason")?,
        watch: row.maybe_json("watch")?.map(serde_json::from_value).transpose().map_err(corrupt)?,
        created_at: row.time("created_at")?,
        started_at: row.maybe_time("started_at")?,
        finished_at: row.maybe_time("finished_at")?,
    })
}

pub(super) fn step(row: &impl Columns) -> Result<RoundStep, StoreError> {
    Ok(RoundStep { round_id: row.uuid("round_id")?, step: row.count("step")?, metrics: row.json("metrics")? })
}

pub(super) fn round_question(row: &impl Columns) -> Result<RoundQuestion, StoreError> {
    Ok(RoundQuestion {
        round_id: row.uuid("round_id")?,
        question_id: row.uuid("question_id")?,
        text: row.text("text")?,
        held_back: row.boolean("held_back")?,
        before_answer: row.maybe_text("before_answer")?,
        before_ratio: row.maybe_float("before_ratio")?,
        after_answer: row.maybe_text("after_answer")?,
        after_ratio: row.maybe_float("after_ratio")?,
        set_aside: row.maybe_text("set_aside")?.map(word).transpose()?,
    })
}

/// Of a row of an adapter or a round.
fn model(row: &impl Columns) -> Result<Option<ModelId>, StoreError> {
    match row.maybe_text("model_fingerprint")? {
        Some(fingerprint) => Ok(Some(ModelId { name: row.text("model_name")?, fingerprint })),
        None => Ok(None),
    }
}

pub(super) fn adapter(row: &impl Columns) -> Result<AdapterRecord, StoreError> {
    Ok(AdapterRecord {
        version: version_column(row)?,
        model: model(row)?,
        parent_version: version(row.text("parent_version")?)?,
        round_id: row.maybe_uuid("round_id")?,
        bytes: row.count("bytes")?,
        created_at: row.time("created_at")?,
    })
}

/// Of a row with the columns `needed` and `dismissed` besides those of an adapter.
pub(super) fn adapter_use(row: &impl Columns) -> Result<(AdapterRecord, AdapterUse), StoreError> {
    let adapter_use = match (row.boolean("needed")?, row.boolean("dismissed")?) {
        (true, _) => AdapterUse::Needed,
        (false, true) => AdapterUse::Dismissed,
        (false, false) => AdapterUse::Spare,
    };
    Ok((adapter(row)?, adapter_use))
}
