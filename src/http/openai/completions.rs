//! `POST /v1/completions`: texts that go on.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{AppState, envelope::RequestId, error::ApiError, extract::Body},
    fields::{Fields, StreamOptions, refused, top_tokens},
    log_probs::{self, Place, Scored},
    reply::{self, Head},
    stream::{self, Shape},
};
use crate::{
    completing::{Call, Prompt, Usage},
    engine::{
        handle::{Group, Piece, Rollout},
        model::tokenizer::Tokenizer,
        sampling::ensure,
    },
};

/// `object` of a reply.
const OBJECT: &str = "text_completion";

/// Tokens of a completion if nobody says, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;

#[derive(Deserialize)]
#[serde(untagged)]
enum PromptField {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

struct Request {
    call: Call,
    /// Whether each text begins with its prompt.
    echo: bool,
    stream: Option<StreamOptions>,
}

fn read(mut fields: Fields) -> Result<Request, ApiError> {
    let prompts = match serde_json::from_value(fields.require::<Value>("prompt")?) {
        Ok(PromptField::Text(text)) => vec![Prompt::Text(text)],
        Ok(PromptField::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        Ok(PromptField::Tokens(tokens)) => vec![Prompt::Tokens(tokens)],
        Ok(PromptField::ManyTokens(prompts)) => prompts.into_iter().map(Prompt::Tokens).collect(),
        Err(_) => {
            return Err(refused(
                "`prompt` must be a text, a list of texts, a list of token ids, or a list of such lists",
            ));
        }
    };
    let choices = fields.take("n")?.unwrap_or(1);
    if fields.take("best_of")?.is_some_and(|best_of: usize| best_of != choices) {
        return Err(refused("`best_of` is not served: all `n` completions are sent; leave it out"));
    }
    let max_tokens = fields.take("max_tokens")?.unwrap_or(DEFAULT_TOKENS);
    let log_probs = fields.take("logprobs")?.map(|top| top_tokens("logprobs", top)).transpose()?;
    let echo = fields.take("echo")?.unwrap_or(false);
    let stream = fields.stream()?;
    let least = usize::from(!echo || stream.is_some());
    ensure(max_tokens >= least, "max_tokens", max_tokens, "at least 1, unless `echo` is asked for without `stream`")?;
    if echo && stream.is_some() && log_probs.is_some() {
        return Err(refused(
            "`logprobs` of an `echo` cannot be streamed; leave one of `stream`, `echo` and `logprobs` out",
        ));
    }
    // A prompt that is only scored has to be asked for, even if nobody wants to see the scores.
    let prompt_scores = if max_tokens == 0 { Some(log_probs.unwrap_or(0)) } else { log_probs.filter(|_| echo) };
    let call = Call {
        model: fields.take("model")?,
        prompts,
        choices,
        sampling: fields.sampling()?,
        max_tokens: Some(max_tokens),
        seed: fields.take("seed")?,
        token_scores: log_probs,
        prompt_scores,
    };
    fields.finish()?;
    Ok(Request { call, echo, stream })
}

/// `POST /v1/completions`
pub async fn create(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    Body(fields): Body<Fields>,
) -> Result<Response, ApiError> {
    let Request { call, echo, stream } = read(fields)?;
    let model = call.model.clone().unwrap_or_else(|| state.engine.info().name.clone());
    let echoes = echo.then(|| echoes(state.engine.tokenizer(), &call.prompts));
    let (choices, scored) = (call.choices, call.token_scores.is_some());
    let prepared = state.completing.prepare(call).await?;
    let head = Head::new("cmpl", model, &prepared);
    let Some(options) = stream else {
        let groups = state.completing.complete(prepared).await?;
        let view = View { tokenizer: state.engine.tokenizer(), scored, echoes };
        let mut reply = head.json(OBJECT, view.choices(&groups, choices));
        reply["usage"] = reply::usage(Usage::of(&groups));
        return Ok(Json(reply).into_response());
    };
    let opening = opening(echoes.as_deref().unwrap_or_default(), choices);
    let place = |previous| vec![Place { previous, offset: 0 }; choices];
    let mut places: Vec<Place> = prepared.last_tokens().flat_map(place).collect();
    let engine = state.engine.clone();
    let choice = move |piece: Piece| {
        let told = !piece.text.is_empty() || piece.finish.is_some() || scored;
        let tokens = [(piece.token, piece.score.as_ref())];
        told.then(|| {
            let lists = || log_probs::lists(engine.tokenizer(), &mut places[piece.choice], &tokens);
            json!({
                "index": piece.choice,
                "text": piece.text,
                "logprobs": scored.then(lists),
                "finish_reason": piece.finish,
            })
        })
    };
    let limit = Duration::from_secs(state.settings.request_timeout_seconds);
    let shape = Shape { head, object: OBJECT, options, limit, request_id };
    Ok(stream::respond(state.completing.stream(prepared).await?, shape, opening, choice))
}

/// The texts of prompts as they are shown.
fn echoes(tokenizer: &Tokenizer, prompts: &[Prompt]) -> Vec<String> {
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => tokenizer.decode(tokens),
        Prompt::Chat(_) => String::new(),
    };
    prompts.iter().map(text).collect()
}

/// The first event of each choice, if prompts are shown.
fn opening(echoes: &[String], choices: usize) -> Vec<Value> {
    let texts = echoes.iter().flat_map(|echo| std::iter::repeat_n(echo, choices));
    let choice = |(index, text)| json!({"index": index, "text": text, "logprobs": null, "finish_reason": null});
    texts.enumerate().map(choice).collect()
}

/// How groups become choices.
struct View<'a> {
    tokenizer: &'a Tokenizer,
    scored: bool,
    echoes: Option<Vec<String>>,
}

impl View<'_> {
    fn choices(&self, groups: &[Group], samples: usize) -> Vec<Value> {
        let mut choices = Vec::with_capacity(groups.len() * samples);
        for (prompt, group) in groups.iter().enumerate() {
            let echo = self.echoes.as_ref().map(|echoes| echoes[prompt].as_str());
            let rollouts = (prompt * samples..).zip(&group.rollouts);
            choices.extend(rollouts.map(|(index, rollout)| self.choice(index, group, rollout, echo)));
        }
        choices
    }

    fn choice(&self, index: usize, group: &Group, rollout: &Rollout, echo: Option<&str>) -> Value {
        let generated = rollout.tokens.iter().copied().zip(rollout.scores.iter().map(Some));
        let lists = || match echo {
            None => {
                let mut place = Place { previous: group.prompt.last().copied(), offset: 0 };
                log_probs::lists(self.tokenizer, &mut place, &generated.collect::<Vec<Scored<'_>>>())
            }
            Some(_) => {
                // Nothing comes before the first token, so it has no score.
                let scores = [None].into_iter().chain(group.prompt_scores.iter().map(Some));
                let prompt = group.prompt.iter().copied().zip(scores);
                log_probs::lists(self.tokenizer, &mut Place::default(), &prompt.chain(generated).collect::<Vec<_>>())
            }
        };
        json!({
            "index": index,
            "text": format!("{}{}", echo.unwrap_or_default(), rollout.text),
            "logprobs": self.scored.then(lists),
            "finish_reason": rollout.finish,
        })
    }
}
