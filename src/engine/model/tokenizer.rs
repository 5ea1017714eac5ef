//! Text to token ids and back.

mod gguf;
mod json;
mod pre;
mod spelling;
mod stream;

use std::{collections::BTreeSet, fmt, path::Path};

use self::spelling::{Spelling, TokenBytes};
pub use self::stream::TextStream;
use super::gguf::Metadata;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("its kind is {0}, which is not known here; use a Hugging Face folder with tokenizer.json instead")]
    UnknownKind(String),
    #[error("its decoder is {0}, which is not known here; use the model's GGUF file instead")]
    UnknownDecoder(String),
    #[error("it is damaged: {0}; download the model again")]
    Damaged(String),
    #[error("it could not encode the text: {0}")]
    Encode(String),
}

fn damaged(problem: impl fmt::Display) -> TokenizerError {
    TokenizerError::Damaged(problem.to_string())
}

/// The model's own tokenizer.
pub struct Tokenizer {
    /// Reads the text of a special token as that token.
    markup: tokenizers::Tokenizer,
    /// Reads it as ordinary text: a question cannot end the user's turn.
    plain: tokenizers::Tokenizer,
    /// Of each token; none of a special one, which is no text.
    bytes: TokenBytes,
    spelling: Spelling,
    bos: Option<u32>,
    add_bos: bool,
    end_tokens: Vec<u32>,
    special_tokens: Vec<(String, u32)>,
}

/// Which tokens begin and end a text.
struct Marks {
    bos: Option<u32>,
    /// Whether every text begins with `bos`.
    add_bos: bool,
    ends: Vec<u32>,
}

/// Names under which published models end a turn or a text; they count where they are special tokens.
const END_TOKEN_NAMES: [&str; 7] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<end_of_turn>", "<｜end▁of▁sentence｜>"];

impl Tokenizer {
    /// Reads a `tokenizer.json`; `tokenizer_config.json` and `generation_config.json` beside it, where they exist,
    /// say which tokens begin and end a text.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        json::read(path)
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub(super) fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        gguf::read(metadata)
    }

    fn new(markup: tokenizers::Tokenizer, spelling: Spelling, marks: Marks) -> Self {
        let mut plain = markup.clone();
        plain.set_encode_special_tokens(true);
        let added = markup.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let mut special_tokens: Vec<(String, u32)> = special.map(|(id, token)| (token.content.clone(), *id)).collect();
        special_tokens.sort_by_key(|(_, id)| *id);
        let named = special_tokens.iter().filter(|(text, _)| END_TOKEN_NAMES.contains(&text.as_str()));
        let end_tokens: BTreeSet<u32> = marks.ends.into_iter().chain(named.map(|(_, id)| *id)).collect();
        let mut vocab: Vec<(u32, String)> = markup.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        vocab.sort_unstable();
        vocab.dedup_by_key(|(id, _)| *id);
        let (mut bytes, read) = (TokenBytes::default(), spelling.reader());
        for (id, token) in vocab {
            // Ids that no token has stand for nothing.
            while bytes.len() < id as usize {
                bytes.push(&[]);
            }
            match added.get(&id) {
                Some(added) if added.special => bytes.push(&[]),
                Some(_) if spelling != Spelling::Words => bytes.push(token.as_bytes()),
                _ => bytes.push(&read(&token)),
            }
        }
        let end_tokens = end_tokens.into_iter().filter(|&id| (id as usize) < bytes.len()).collect();
        Self { markup, plain, bytes, spelling, bos: marks.bos, add_bos: marks.add_bos, end_tokens, special_tokens }
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
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes.get(id)).copied().collect();
        String::from_utf8_lossy(self.without_first_space(&bytes)).into_owned()
    }

    /// The bytes that a token adds to a text: none for a special token, part of a character for some.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// The start of a text without the space that this kind of tokenizer puts there.
    fn without_first_space<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match bytes {
            [b' ', rest @ ..] if self.spelling.drops_first_space() => rest,
            _ => bytes,
        }
    }

    /// The bytes that `id` is shown with, which may be part of a character; those of a special token write it out. The
    /// first token with a text, before which nothing has `begun`, may lose a space.
    pub fn shown_bytes(&self, begun: bool, id: u32) -> &[u8] {
        match self.special(id) {
            Some(special) => special.as_bytes(),
            None if begun => self.token_bytes(id),
            None => self.without_first_space(self.token_bytes(id)),
        }
    }

    /// Whether a text has begun with these tokens: special ones are no text.
    pub fn has_begun(&self, ids: &[u32]) -> bool {
        ids.iter().any(|&id| !self.token_bytes(id).is_empty())
    }

    /// Whether a token is never shown in a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special(id).is_some()
    }

    fn special(&self, id: u32) -> Option<&str> {
        let at = self.special_tokens.binary_search_by_key(&id, |(_, special)| *special).ok()?;
        Some(&self.special_tokens[at].0)
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
        self.bytes.len()
    }
}

impl fmt::Debug for Tokenizer {
    /// Leaves the vocabulary out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("end_tokens", &self.end_tokens)
            .finish_non_exhaustive()
    }
}
