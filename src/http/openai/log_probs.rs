//! Log-probabilities in the two shapes that OpenAI's API has for them.

use serde_json::{Map, Value, json};

use crate::engine::{handle::TokenScore, model::tokenizer::Tokenizer};

/// Less than any logarithm of a probability that a client compares; JSON has no infinity.
const LEAST: f32 = -9999.0;

/// Where a text stands: what follows is told after it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// The token before, if there is one.
    pub previous: Option<u32>,
    /// Characters before, as they are shown.
    pub offset: usize,
}

/// A token, with its score if it has one: the first of a text has none.
pub type Scored<'a> = (u32, Option<&'a TokenScore>);

/// The shape of `/v1/completions`: four lists with an element for each token. Moves `place` behind the tokens.
pub fn lists(tokenizer: &Tokenizer, place: &mut Place, tokens: &[Scored<'_>]) -> Value {
    let (mut texts, mut log_probs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for &(token, score) in tokens {
        let text = tokenizer.text_after(place.previous, token);
        log_probs.push(score.map(|score| score.log_prob.max(LEAST)));
        tops.push(score.map(|score| {
            let told = score.top.iter().copied().chain([(token, score.log_prob)]);
            let mut top = Map::new();
            for (token, log_prob) in told {
                // Two tokens may look the same, such as parts of characters; the likeliest is told.
                top.entry(tokenizer.text_after(place.previous, token)).or_insert(json!(log_prob.max(LEAST)));
            }
            top
        }));
        offsets.push(place.offset);
        // Special tokens are told, and are not in the text.
        place.offset += if tokenizer.is_special(token) { 0 } else { text.chars().count() };
        place.previous = Some(token);
        texts.push(text);
    }
    json!({"tokens": texts, "token_logprobs": log_probs, "top_logprobs": tops, "text_offset": offsets})
}

/// The shape of `/v1/chat/completions`: an object for each token. Moves `place` behind the tokens.
pub fn objects(tokenizer: &Tokenizer, place: &mut Place, tokens: &[Scored<'_>]) -> Value {
    let told = |previous: Option<u32>, token: u32, log_prob: f32| {
        let text = tokenizer.text_after(previous, token);
        // Bytes of which the text is only part cannot be told from the text.
        let bytes = (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.as_bytes().to_vec());
        json!({"token": text, "logprob": log_prob.max(LEAST), "bytes": bytes})
    };
    let mut content = Vec::with_capacity(tokens.len());
    for &(token, score) in tokens {
        let previous = place.previous.replace(token);
        if let Some(score) = score {
            let mut object = told(previous, token, score.log_prob);
            let top = score.top.iter().map(|&(token, log_prob)| told(previous, token, log_prob));
            object["top_logprobs"] = top.collect();
            content.push(object);
        }
    }
    json!({"content": content, "refusal": null})
}
