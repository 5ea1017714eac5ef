//! The fields of a request, taken one by one.
//!
//! Clients of OpenAI's API send fields of all kinds. What changes nothing that is computed is let through; what would
//! is refused by name, and so is what is not known: it might.

use axum::http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::super::error::ApiError;
use crate::engine::{
    handle::{MAX_TOP_TOKENS, Sampling},
    sampling::ensure,
};

/// Fields that say how a request is billed, kept, routed or sped up elsewhere.
const IGNORED: [&str; 10] = [
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "tool_choice",
    "user",
];

/// Known fields that cannot be served, and why. Values that ask for nothing are let through.
const REFUSED: [(&str, &str); 8] = [
    ("audio", "there is text only"),
    ("functions", "the model calls no tools here"),
    ("logit_processors", "use `logit_bias`"),
    ("min_tokens", "a response ends where the model ends it; keep it from that with a `logit_bias` on its end token"),
    ("reasoning_effort", "the model has no such setting"),
    ("suffix", "texts are continued at their end only"),
    ("tools", "the model calls no tools here"),
    ("use_beam_search", "responses are sampled"),
];

/// What is left of a request's JSON object.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Fields(Map<String, Value>);

/// How to stream.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    /// Send what was used in a last event.
    #[serde(default)]
    pub include_usage: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
}

/// A request that is understood and cannot be served.
pub fn refused(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", message)
}

impl Fields {
    /// The value of a field; `null` counts as none.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| refused(format!("`{name}` is not as expected: {error}"))),
        }
    }

    /// The value of a field that must be there.
    pub fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| refused(format!("the field `{name}` is missing")))
    }

    /// How tokens are drawn, by the names of OpenAI and vLLM; `max_tokens` is left where it is.
    pub fn sampling(&mut self) -> Result<Sampling, ApiError> {
        let default = Sampling::default();
        let top_k = self.take("top_k")?.unwrap_or(0i64);
        // vLLM writes -1 for all tokens.
        ensure(top_k >= -1, "top_k", top_k, "at least 1, or 0 or -1 for all tokens")?;
        let stop = match self.take("stop")? {
            None => vec![],
            Some(OneOrMany::One(text)) => vec![text],
            Some(OneOrMany::Many(texts)) => texts,
        };
        let sampling = Sampling {
            temperature: self.take("temperature")?.unwrap_or(default.temperature),
            top_k: usize::try_from(top_k).unwrap_or(0),
            top_p: self.take("top_p")?.unwrap_or(default.top_p),
            min_p: self.take("min_p")?.unwrap_or(default.min_p),
            repetition_penalty: self.take("repetition_penalty")?.unwrap_or(default.repetition_penalty),
            presence_penalty: self.take("presence_penalty")?.unwrap_or(default.presence_penalty),
            frequency_penalty: self.take("frequency_penalty")?.unwrap_or(default.frequency_penalty),
            logit_bias: self.take("logit_bias")?.unwrap_or_default(),
            ignore_eos: self.take("ignore_eos")?.unwrap_or(default.ignore_eos),
            stop,
            ..default
        };
        sampling.check()?;
        Ok(sampling)
    }

    /// How to stream, if that is asked for.
    pub fn stream(&mut self) -> Result<Option<StreamOptions>, ApiError> {
        let options = self.take("stream_options")?.unwrap_or_default();
        Ok(self.take("stream")?.unwrap_or(false).then_some(options))
    }

    /// Looks at what is left.
    ///
    /// # Errors
    /// Names the first field that asks for what cannot be done.
    pub fn finish(mut self) -> Result<(), ApiError> {
        if let Some(ResponseFormat { r#type }) = self.take("response_format")?
            && r#type != "text"
        {
            return Err(refused(format!("`response_format` is {type:?}; responses can be `text` only")));
        }
        if self.take::<Vec<String>>("modalities")?.is_some_and(|modalities| modalities != ["text"]) {
            return Err(refused("`modalities` must be [\"text\"]: there is text only"));
        }
        for (name, value) in &self.0 {
            let reason = REFUSED.iter().find(|(refused, _)| refused == name).map(|(_, reason)| *reason);
            match reason {
                _ if value.is_null() || IGNORED.contains(&name.as_str()) => {}
                Some(_) if asks_for_nothing(value) => {}
                Some(reason) => return Err(refused(format!("`{name}` is not served: {reason}; leave it out"))),
                None => return Err(refused(format!("unknown field `{name}`; leave it out"))),
            }
        }
        Ok(())
    }
}

impl Fields {
    /// Looks at what is left of a message: parts of other servers' replies, which must be empty.
    ///
    /// # Errors
    /// Names the first field that is not.
    pub fn finish_message(self) -> Result<(), ApiError> {
        // The name of a speaker is nothing that chat templates know.
        let left = self.0.into_iter().find(|(name, value)| name != "name" && !asks_for_nothing(value));
        left.map_or(Ok(()), |(name, _)| Err(refused(format!("its field `{name}` is not served; leave it out"))))
    }
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Checks a number of most likely tokens.
pub fn top_tokens(name: &'static str, top: usize) -> Result<usize, ApiError> {
    ensure(top <= MAX_TOP_TOKENS, name, top, format!("from 0 to {MAX_TOP_TOKENS}"))?;
    Ok(top)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        serde_json::from_value(value).unwrap()
    }

    fn refusal(value: Value) -> String {
        fields(value).finish().unwrap_err().message
    }

    #[test]
    fn what_changes_nothing_is_let_through() {
        let harmless = json!({
            "user": "u", "store": true, "metadata": {"a": "b"}, "service_tier": "auto", "tools": [], "suffix": "",
            "min_tokens": 0, "use_beam_search": false, "anything": null, "response_format": {"type": "text"},
            "modalities": ["text"],
        });
        assert!(fields(harmless).finish().is_ok());
    }

    #[test]
    fn what_would_change_something_is_refused_by_name() {
        for (value, expected) in [
            (json!({"tools": [{}]}), "`tools` is not served: the model calls no tools here; leave it out"),
            (json!({"suffix": "."}), "`suffix` is not served"),
            (json!({"min_tokens": 1}), "`min_tokens` is not served"),
            (json!({"response_format": {"type": "json_object"}}), "`response_format` is \"json_object\""),
            (json!({"modalities": ["audio"]}), "`modalities` must be"),
            (json!({"guided_json": {}}), "unknown field `guided_json`"),
        ] {
            let message = refusal(value);
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn sampling_is_read_by_the_names_of_openai_and_vllm() {
        let mut given = fields(json!({
            "temperature": 0.5, "top_k": -1, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1,
            "presence_penalty": 0.2, "frequency_penalty": 0.3, "logit_bias": {"7": -100}, "ignore_eos": true, "stop": "x",
            "max_tokens": 3,
        }));
        let sampling = given.sampling().unwrap();
        let expected = Sampling {
            temperature: 0.5,
            top_k: 0,
            top_p: 0.9,
            min_p: 0.1,
            repetition_penalty: 1.1,
            presence_penalty: 0.2,
            frequency_penalty: 0.3,
            logit_bias: [(7, -100.0)].into(),
            ignore_eos: true,
            stop: vec!["x".into()],
            ..Sampling::default()
        };
        assert_eq!(sampling, expected);
        assert_eq!(given.take::<usize>("max_tokens").unwrap(), Some(3));
        assert!(given.finish().is_ok());
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        for (value, expected) in [
            (json!({"temperature": "hot"}), "`temperature` is not as expected: invalid type: string"),
            (json!({"logit_bias": {"a": 1}}), "`logit_bias` is not as expected"),
            (json!({"stop": 7}), "`stop` is not as expected"),
            (json!({"top_k": -2}), "`top_k` is -2; it must be at least 1"),
        ] {
            let message = fields(value).sampling().unwrap_err().message;
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
