//! Log-probabilities in the two shapes that OpenAI's API has for them.

use serde_json::{Map, Value, json};

use crate::engine::{handle::TokenScore, model::tokenizer::Tokenizer};

/// Less than any logarithm of a probability that a client compares; JSON has no infinity.
const LEAST: f32 = -9999.0;

/// Where a text stands: what follows is told after it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Whether there was any text before.
    pub begun: bool,
    /// Characters before, as they are shown.
    pub offset: usize,
}

impl Place {
    /// Where the continuation of a prompt begins that is not shown itself.
    pub fn behind(tokenizer: &Tokenizer, prompt: &[u32]) -> Self {
        Self { begun: tokenizer.has_begun(prompt), offset: 0 }
    }
}

/// The text of a token at a place; bytes that are no whole character become U+FFFD.
fn shown(tokenizer: &Tokenizer, place: &Place, token: u32) -> String {
    String::from_utf8_lossy(tokenizer.shown_bytes(place.begun, token)).into_owned()
}

/// A token, with its score if it has one: the first of a text has none.
pub type Scored<'a> = (u32, Option<&'a TokenScore>);

/// The shape of `/v1/completions`: four lists with an element for each token. Moves `place` behind the tokens.
pub fn lists(tokenizer: &Tokenizer, place: &mut Place, tokens: &[Scored<'_>]) -> Value {
    let (mut texts, mut log_probs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for &(token, score) in tokens {
        let text = shown(tokenizer, place, token);
        log_probs.push(score.map(|score| score.log_prob.max(LEAST)));
        tops.push(score.map(|score| {
            let told = score.top.iter().copied().chain([(token, score.log_prob)]);
            let mut top = Map::new();
            for (token, log_prob) in told {
                // Two tokens may look the same, such as parts of characters; the likeliest is told.
                top.entry(shown(tokenizer, place, token)).or_insert(json!(log_prob.max(LEAST)));
            }
            top
        }));
        offsets.push(place.offset);
        // Special tokens are told, and are not in the text.
        // A character that several tokens make up counts with the one that begins it.
        let begins = |bytes: &[u8]| bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        place.offset += if tokenizer.is_special(token) { 0 } else { begins(tokenizer.shown_bytes(place.begun, token)) };
        place.begun |= tokenizer.has_begun(&[token]);
        texts.push(text);
    }
    json!({"tokens": texts, "token_logprobs": log_probs, "top_logprobs": tops, "text_offset": offsets})
}

/// The shape of `/v1/chat/completions`: an object for each token. Moves `place` behind the tokens.
pub fn objects(tokenizer: &Tokenizer, place: &mut Place, tokens: &[Scored<'_>]) -> Value {
    let told = |place: &Place, token: u32, log_prob: f32| {
        // Of a token that is part of a character, the bytes say more than the text.
        let (text, bytes) = (shown(tokenizer, place, token), tokenizer.shown_bytes(place.begun, token));
        json!({"token": text, "logprob": log_prob.max(LEAST), "bytes": bytes})
    };
    let mut content = Vec::with_capacity(tokens.len());
    for &(token, score) in tokens {
        if let Some(score) = score {
            let mut object = told(place, token, score.log_prob);
            let top = score.top.iter().map(|&(token, log_prob)| told(place, token, log_prob));
            object["top_logprobs"] = top.collect();
            content.push(object);
        }
        place.begun |= tokenizer.has_begun(&[token]);
    }
    json!({"content": content, "refusal": null})
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::model::weights;

    /// A small vocabulary of SentencePiece's, which puts a space before a text and has a token for each byte.
    fn tokenizer() -> Tokenizer {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/llama.gguf");
        weights::load_tokenizer(&file).unwrap().unwrap()
    }

    #[test]
    fn offsets_behind_a_begin_token_are_those_in_the_text() {
        let tokenizer = tokenizer();
        let text = "some words, behind <s>";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(Some(ids[0]), tokenizer.bos());
        let tokens: Vec<Scored<'_>> = ids.iter().map(|&id| (id, None)).collect();
        let lists = lists(&tokenizer, &mut Place::default(), &tokens);
        let shown = lists["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap());
        let offsets = lists["text_offset"].as_array().unwrap().iter().map(|offset| offset.as_u64().unwrap() as usize);
        assert_eq!((shown.clone().next(), offsets.clone().next()), (Some("<s>"), Some(0)));
        for (token, offset) in shown.zip(offsets).skip(1) {
            assert!(text[offset..].starts_with(token), "{token:?} at {offset}");
        }
    }

    #[test]
    fn a_reply_keeps_its_first_space_unless_nothing_was_before() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("a", true).unwrap();
        let (bos, word) = (ids[0], ids[1]);
        for (prompt, expected) in [(vec![], "a"), (vec![bos], "a"), (vec![bos, word], " a")] {
            let mut place = Place::behind(&tokenizer, &prompt);
            assert_eq!(lists(&tokenizer, &mut place, &[(word, None)])["tokens"], json!([expected]), "{prompt:?}");
        }
    }

    #[test]
    fn parts_of_a_character_are_told_by_their_bytes() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("a🦀", false).unwrap();
        let score = TokenScore { log_prob: -1.0, top: vec![] };
        let tokens: Vec<Scored<'_>> = ids.iter().map(|&id| (id, Some(&score))).collect();
        let objects = objects(&tokenizer, &mut Place::default(), &tokens);
        let told = objects["content"].as_array().unwrap();
        assert!(told.iter().any(|token| token["token"] == "\u{fffd}"), "the vocabulary has a token for the whole");
        let bytes = told[1..].iter().flat_map(|token| token["bytes"].as_array().unwrap());
        let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), "a🦀");
    }
}
