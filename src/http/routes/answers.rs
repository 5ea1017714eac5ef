//! Questions and their answers.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::super::{
    AppState,
    error::ApiError,
    extract::{Body, Client, parse_id},
};
use crate::{
    answering::Ask,
    store::{Answer, Question, Store},
};

/// `POST /v1/answer`
pub async fn ask(
    State(state): State<AppState>,
    Client(client): Client,
    Body(ask): Body<Ask>,
) -> Result<Json<Value>, ApiError> {
    let (question, answer) = state.answering.ask(ask, client).await?;
    Ok(Json(view(&question, &answer)))
}

/// `GET /v1/answers/{id}`
pub async fn read(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let id = parse_id("answer", &id)?;
    let (question, answer) =
        state.store.answer(id).await?.ok_or_else(|| ApiError::not_found(format!("answer {id}")))?;
    Ok(Json(view(&question, &answer)))
}

fn view(question: &Question, answer: &Answer) -> Value {
    let share = |votes: u32| f64::from(votes) / f64::from(answer.samples.max(1));
    let votes = answer.votes.iter();
    json!({
        "id": answer.id,
        "question_id": question.id,
        "question": question.text,
        "answer": answer.answer,
        "text": answer.text,
        "votes": votes
            .map(|vote| json!({"answer": vote.answer, "count": vote.count, "share": share(vote.count)}))
            .collect::<Vec<_>>(),
        "majority_ratio": answer.majority_ratio,
        "samples": answer.samples,
        "adapter_version": answer.adapter_version,
        "usage": {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens},
        "timings": answer.timings,
        "parameters": answer.parameters,
        "learn": question.learn,
        "metadata": question.metadata,
        "created_at": answer.created_at,
    })
}
