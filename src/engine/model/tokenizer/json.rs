//! The tokenizer of a Hugging Face folder: `tokenizer.json` and the settings beside it.

use std::{fmt, path::Path};

use serde::Deserialize;
use serde_json::json;
use tokenizers::{DecoderWrapper, decoders::metaspace::PrependScheme};

use super::{Marks, Spelling, Tokenizer, TokenizerError, damaged};

/// Larger than any real vocabulary; the bytes of all tokens up to the last id are kept.
const MAX_TOKEN_ID: u32 = 1 << 24;

/// Reads a `tokenizer.json`; `tokenizer_config.json` and `generation_config.json` beside it, where they exist, say which
/// tokens begin and end a text.
pub(super) fn read(path: &Path) -> Result<Tokenizer, TokenizerError> {
    let mut inner = tokenizers::Tokenizer::from_file(path).map_err(damaged)?;
    // A file may ask for texts to be cut or filled to one length, which suits training on batches only.
    inner.with_truncation(None).map_err(damaged)?;
    inner.with_padding(None);
    let settings: Settings = read_beside(path, "tokenizer_config.json")?.unwrap_or_default();
    let generation: Generation = read_beside(path, "generation_config.json")?.unwrap_or_default();
    let id = |token: Option<TokenText>| token.and_then(|token| inner.token_to_id(token.content()));
    let (bos, eos) = (id(settings.bos_token), id(settings.eos_token));
    let add_bos = match settings.add_bos_token {
        Some(add) => add,
        None => {
            let empty = inner.encode_fast("", true).map_err(damaged)?;
            bos.is_some() && empty.get_ids().first().copied() == bos
        }
    };
    let ends = eos.into_iter().chain(generation.eos_token_id.map(OneOrMany::into_vec).unwrap_or_default()).collect();
    let spelling = spelling(inner.get_decoder())?;
    if let Some((token, id)) = inner.get_vocab(true).into_iter().find(|(_, id)| *id > MAX_TOKEN_ID) {
        return Err(TokenizerError::Damaged(format!("its token {token:?} has the id {id}")));
    }
    Ok(Tokenizer::new(inner, spelling, Marks { bos, add_bos, ends }))
}

/// How the tokens spell bytes, by the file's decoder.
fn spelling(decoder: Option<&DecoderWrapper>) -> Result<Spelling, TokenizerError> {
    let unknown = |decoder| {
        let decoder = serde_json::to_string(decoder).unwrap_or_default();
        Err(TokenizerError::UnknownDecoder(decoder))
    };
    match decoder {
        None => Ok(Spelling::Words),
        Some(DecoderWrapper::ByteLevel(_)) => Ok(Spelling::ByteLevel),
        Some(DecoderWrapper::Metaspace(metaspace)) if metaspace.get_replacement() == '▁' => {
            Ok(Spelling::SentencePiece { space_first: metaspace.prepend_scheme != PrependScheme::Never })
        }
        Some(whole @ DecoderWrapper::Sequence(sequence)) => {
            let mut space_first = false;
            for step in sequence.get_decoders() {
                match step {
                    DecoderWrapper::ByteFallback(_) | DecoderWrapper::Fuse(_) => (),
                    DecoderWrapper::Strip(strip) if (strip.content, strip.start, strip.stop) == (' ', 1, 0) => {
                        space_first = true;
                    }
                    DecoderWrapper::Replace(replace) if is_space_mark(replace) => (),
                    _ => return unknown(whole),
                }
            }
            Ok(Spelling::SentencePiece { space_first })
        }
        Some(other) => unknown(other),
    }
}

/// Whether the step makes a space of `▁`; its pattern is private, its JSON is not.
fn is_space_mark(replace: &impl serde::Serialize) -> bool {
    let expected = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    serde_json::to_value(replace).is_ok_and(|found| found == expected)
}

#[derive(Default, Deserialize)]
struct Settings {
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    add_bos_token: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Token { content: String },
}

impl TokenText {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Token { content } => content,
        }
    }
}

#[derive(Default, Deserialize)]
struct Generation {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

fn read_beside<T: serde::de::DeserializeOwned>(path: &Path, name: &str) -> Result<Option<T>, TokenizerError> {
    let path = path.with_file_name(name);
    if !path.is_file() {
        return Ok(None);
    }
    let damaged = |error: &dyn fmt::Display| TokenizerError::Damaged(format!("{name}: {error}"));
    let text = std::fs::read(&path).map_err(|error| damaged(&error))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| damaged(&error))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn spelling_of(decoder: Value) -> Result<Spelling, TokenizerError> {
        spelling(Some(&serde_json::from_value(decoder).unwrap()))
    }

    fn sequence(last: Option<Value>) -> Value {
        let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let steps = [replace, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        json!({"type": "Sequence", "decoders": steps.into_iter().chain(last).collect::<Vec<_>>()})
    }

    #[test]
    fn the_decoder_says_how_tokens_spell_bytes() {
        let llama = sequence(Some(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
        let metaspace =
            |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
        for (decoder, expected) in [
            (
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
                Spelling::ByteLevel,
            ),
            (llama, Spelling::SentencePiece { space_first: true }),
            (sequence(None), Spelling::SentencePiece { space_first: false }),
            (metaspace("first"), Spelling::SentencePiece { space_first: true }),
            (metaspace("never"), Spelling::SentencePiece { space_first: false }),
        ] {
            assert_eq!(spelling_of(decoder.clone()).unwrap(), expected, "{decoder}");
        }
        assert_eq!(spelling(None).unwrap(), Spelling::Words);
    }

    #[test]
    fn a_decoder_that_is_not_known_is_named() {
        let strip = json!({"type": "Strip", "content": "_", "start": 1, "stop": 0});
        let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        for (decoder, named) in [(sequence(Some(strip)), "Strip"), (word_piece, "WordPiece")] {
            let error = spelling_of(decoder).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("GGUF"), "{error}");
        }
    }
}
