//! Text to token ids and back.

use std::{collections::BTreeSet, fmt, path::Path};

use serde::Deserialize;
use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior,
    decoders::byte_level::ByteLevel as ByteLevelDecoder,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::gguf::Metadata;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("its kind is {0:?}, which is not known here; use a Hugging Face folder with tokenizer.json instead")]
    UnknownKind(String),
    #[error("it is damaged: {0}; download the model again")]
    Damaged(String),
    #[error("it could not encode the text: {0}")]
    Encode(String),
}

/// The model's own tokenizer.
pub struct Tokenizer {
    /// Reads the text of a special token as that token.
    markup: tokenizers::Tokenizer,
    /// Reads it as ordinary text: a question cannot end the user's turn.
    plain: tokenizers::Tokenizer,
    bos: Option<u32>,
    add_bos: bool,
    end_tokens: Vec<u32>,
    special_tokens: Vec<(String, u32)>,
    vocab_size: usize,
}

/// Names under which published models end a turn or a text; they count where they are special tokens.
const END_TOKEN_NAMES: [&str; 5] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>"];

/// GPT-4's splitting pattern as Llama 3 uses it: at most three digits together.
const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Tokenizer {
    /// Reads a `tokenizer.json`; `tokenizer_config.json` and `generation_config.json` beside it, where they exist,
    /// say which tokens begin and end a text.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let damaged = |error: tokenizers::Error| TokenizerError::Damaged(error.to_string());
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
        let ends = eos.into_iter().chain(generation.eos_token_id.map(OneOrMany::into_vec).unwrap_or_default());
        Ok(Self::new(inner, bos, add_bos, ends))
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub(super) fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let damaged = |problem: &str| TokenizerError::Damaged(problem.into());
        let model = metadata.text(&key("model")).unwrap_or_default();
        if model != "gpt2" {
            return Err(TokenizerError::UnknownKind(model.into()));
        }
        let pre = metadata.text(&key("pre")).ok_or_else(|| TokenizerError::UnknownKind("gpt2 without `pre`".into()))?;
        let pre_tokenizer = pre_tokenizer(pre)?;
        let tokens = metadata.texts(&key("tokens")).ok_or_else(|| damaged("it has no list of tokens"))?;
        let merges = metadata.texts(&key("merges")).ok_or_else(|| damaged("it has no list of merges"))?;
        let types = metadata.integers(&key("token_type")).unwrap_or_default();
        let vocab: Vocab = (0..).zip(tokens).map(|(id, token)| (token.clone(), id)).collect();
        if vocab.len() != tokens.len() {
            return Err(damaged("a token is in its list twice"));
        }
        let merges = merges
            .iter()
            .map(|merge| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| damaged("a merge is not two tokens"))?;
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre == "llama-bpe").build();
        let mut inner = tokenizers::Tokenizer::new(bpe.map_err(|error| damaged(&error.to_string()))?);
        inner.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(ByteLevelDecoder::default()));
        // Type 3 is a control token, type 4 one that the model's makers defined as a whole.
        let added = tokens.iter().zip(types).filter(|(_, kind)| matches!(kind, 3 | 4));
        inner
            .add_tokens(added.map(|(token, kind)| AddedToken::from(token.clone(), *kind == 3).normalized(false)))
            .map_err(|error| damaged(&error.to_string()))?;
        let id = |name: &str| metadata.size(&key(name)).and_then(|id| u32::try_from(id).ok());
        // Llama 3's files may leave the flag out; its texts begin with the token.
        let add_bos = metadata.flag(&key("add_bos_token")).unwrap_or(pre == "llama-bpe");
        let ends = ["eos_token_id", "eot_token_id"].into_iter().filter_map(id);
        Ok(Self::new(inner, id("bos_token_id"), add_bos, ends))
    }

    fn new(markup: tokenizers::Tokenizer, bos: Option<u32>, add_bos: bool, ends: impl Iterator<Item = u32>) -> Self {
        let mut plain = markup.clone();
        plain.set_encode_special_tokens(true);
        let added = markup.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let mut special_tokens: Vec<(String, u32)> = special.map(|(id, token)| (token.content.clone(), *id)).collect();
        special_tokens.sort_by_key(|(_, id)| *id);
        let named = special_tokens.iter().filter(|(text, _)| END_TOKEN_NAMES.contains(&text.as_str()));
        let end_tokens: BTreeSet<u32> = ends.chain(named.map(|(_, id)| *id)).collect();
        let vocab_size = markup.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let end_tokens = end_tokens.into_iter().filter(|&id| (id as usize) < vocab_size).collect();
        Self { markup, plain, bos, add_bos, end_tokens, special_tokens, vocab_size }
    }

    /// The token ids of `text`. With `parse_special`, `<|im_end|>` in the text is that token; without, it is eight or
    /// so tokens of ordinary text, so a text from outside cannot take part in the markup. A begin token is put first
    /// only where the model's metadata says so and the text does not already begin with it.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let inner = if parse_special { &self.markup } else { &self.plain };
        let encoding = inner.encode_fast(text, false).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        let ids = encoding.get_ids();
        let begin = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos));
        Ok(begin.into_iter().chain(ids.iter().copied()).collect())
    }

    /// The text of `ids` without special tokens. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        // Decoders only look ids up and join texts; no id and no list of ids makes the known ones fail.
        self.markup.decode(ids, true).unwrap_or_default()
    }

    /// The text that `id` adds behind `previous`, special tokens written out: decoders may treat the first token of a
    /// text differently. Bytes that are no whole character become U+FFFD.
    pub fn text_after(&self, previous: Option<u32>, id: u32) -> String {
        let decode = |ids: &[u32]| self.markup.decode(ids, false).unwrap_or_default();
        let behind = previous.and_then(|previous| {
            let both = decode(&[previous, id]);
            both.strip_prefix(&decode(&[previous])).map(str::to_owned)
        });
        behind.unwrap_or_else(|| decode(&[id]))
    }

    /// Whether a token is never shown in a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_tokens.binary_search_by_key(&id, |(_, special)| *special).is_ok()
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The special tokens with their ids, in the order of the ids.
    pub fn special_tokens(&self) -> &[(String, u32)] {
        &self.special_tokens
    }

    /// The tokens that end a generation, in the order of their ids.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

impl fmt::Debug for Tokenizer {
    /// Leaves the vocabulary out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("bos", &self.bos)
            .field("end_tokens", &self.end_tokens)
            .finish_non_exhaustive()
    }
}

/// How a text is cut before pairs are merged, by the name that llama.cpp gives it.
fn pre_tokenizer(name: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    Ok(match name {
        "gpt-2" => ByteLevel::new(false, true, true).into(),
        // Every digit is a token of its own.
        "smollm" => Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]).into(),
        "llama-bpe" => {
            let pattern = SplitPattern::Regex(LLAMA3_PATTERN.into());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| TokenizerError::Damaged(error.to_string()))?;
            Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into()
        }
        other => return Err(TokenizerError::UnknownKind(other.into())),
    })
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

/// The text of tokens that arrive one at a time: always a prefix of the whole text, never half a character.
///
/// Each push decodes the last few tokens only. They are decoded together with the ones before them, because a
/// tokenizer may treat a token at the start of a text differently.
#[derive(Debug, Default)]
pub struct TextStream {
    /// The last tokens: first `context` tokens whose text is settled, then those after them.
    window: Vec<u32>,
    context: usize,
    context_text: String,
    text: String,
    /// The bytes of `text` that come from tokens before or in the context.
    settled: usize,
}

/// What a decoder puts where the bytes of a character are incomplete.
const INCOMPLETE: char = '\u{FFFD}';

impl TextStream {
    /// Takes the next token and returns all of the text that is complete, without special tokens.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> &str {
        self.window.push(id);
        let decoded = tokenizer.decode(&self.window);
        let complete = decoded.trim_end_matches(INCOMPLETE);
        self.text.truncate(self.settled);
        // A window that ends inside a character may be shorter than its context; then nothing is added yet.
        self.text.push_str(complete.strip_prefix(self.context_text.as_str()).unwrap_or_default());
        if complete.len() == decoded.len() && self.text.len() > self.settled {
            self.settled = self.text.len();
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.context_text = tokenizer.decode(&self.window);
        }
        &self.text
    }

    /// All of the text that is complete so far.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::gguf::Value;

    /// A GGUF vocabulary of a few byte-level tokens; `ab` is 2, `12` is 5.
    fn metadata(model: &str, pre: &str, tokens: &[&str]) -> Metadata {
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| text.to_string()).collect());
        let mut types = vec![1; tokens.len()];
        types[tokens.len() - 1] = 3;
        let values = [
            ("model", Value::Text(model.into())),
            ("pre", Value::Text(pre.into())),
            ("tokens", texts(tokens)),
            ("merges", texts(&["a b", "1 2"])),
            ("token_type", Value::Integers(types)),
            ("bos_token_id", Value::Integer(tokens.len() as i64 - 1)),
        ];
        Metadata(values.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).into())
    }

    const TOKENS: [&str; 7] = ["a", "b", "ab", "1", "2", "12", "<|begin|>"];

    #[test]
    fn digits_are_split_one_by_one_where_the_kind_says_so() {
        for (pre, expected) in [("smollm", vec![2, 3, 4]), ("gpt-2", vec![2, 5]), ("llama-bpe", vec![6, 2, 5])] {
            let tokenizer = Tokenizer::from_gguf(&metadata("gpt2", pre, &TOKENS)).unwrap();
            assert_eq!(tokenizer.encode("ab12", true).unwrap(), expected, "{pre}");
        }
    }

    #[test]
    fn an_unknown_kind_is_named() {
        for (model, pre, named) in [("llama", "default", "\"llama\""), ("gpt2", "tekken", "\"tekken\"")] {
            let error = Tokenizer::from_gguf(&metadata(model, pre, &TOKENS)).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("tokenizer.json"), "{error}");
        }
    }

    #[test]
    fn a_list_of_tokens_that_cannot_be_right_is_refused() {
        for tokens in [&["a", "b", "ab", "1", "2", "12", "a"][..], &["a", "b", "1", "2", "12", "c"]] {
            let error = Tokenizer::from_gguf(&metadata("gpt2", "smollm", tokens)).unwrap_err().to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }
}
