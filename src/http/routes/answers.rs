//! Questions and their answers.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{
    AppState,
    error::ApiError,
    extract::{Body, Client, parse_id},
};
use crate::{
    answering::Ask,
    store::{Answer, Feedback, FeedbackStore, Question, Store},
};

/// The longest comment, in characters: a few sentences, to be read by a person.
const MAX_COMMENT_CHARS: usize = 2000;

/// What a client says of an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFeedback {
    good: bool,
    comment: Option<String>,
}

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
    let mut shown = view(&question, &answer);
    shown["feedback"] = json!(state.store.feedback(id).await?);
    Ok(Json(shown))
}

/// `POST /v1/answers/{id}/feedback`: takes the place of what was said before.
pub async fn give_feedback(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Body(NewFeedback { good, comment }): Body<NewFeedback>,
) -> Result<Json<Feedback>, ApiError> {
    let id = parse_id("answer", &id)?;
    let chars = comment.as_deref().unwrap_or_default().chars().count();
    if chars > MAX_COMMENT_CHARS {
        let message = format!("`comment` has {chars} characters; {MAX_COMMENT_CHARS} is the limit");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "comment_too_long", message));
    }
    let feedback = Feedback { good, comment, created_at: Utc::now() };
    state.store.put_feedback(id, &feedback).await?;
    state.metrics.feedback_total.with_label_values(&[if good { "true" } else { "false" }]).inc();
    Ok(Json(feedback))
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
