//! The text of tokens that arrive one at a time.

use std::str;

use super::Tokenizer;

/// The text of tokens that arrive one at a time: always the start of the whole text, never half a character.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    text: String,
    /// The bytes after the text: the start of a character.
    unfinished: Vec<u8>,
    /// Whether there was text before, here or in what this continues.
    begun: bool,
}

impl TextStream {
    /// The text that tokens add to that of a prompt: only at the start of both together is a space dropped.
    pub fn after(tokenizer: &Tokenizer, prompt: &[u32]) -> Self {
        Self { begun: tokenizer.has_begun(prompt), ..Self::default() }
    }

    /// Takes the next token and returns all of the text that is complete, without special tokens.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> &str {
        let bytes = tokenizer.token_bytes(id);
        let bytes = if self.begun { bytes } else { tokenizer.without_first_space(bytes) };
        self.begun |= tokenizer.has_begun(&[id]);
        self.unfinished.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.unfinished);
        let mut chunks = pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.text.push_str(chunk.valid());
            match str::from_utf8(chunk.invalid()) {
                // An error without a length at the end: more bytes can still make a character of these.
                Err(error) if error.error_len().is_none() && chunks.peek().is_none() => {
                    self.unfinished.extend_from_slice(chunk.invalid());
                }
                Err(_) => self.text.push(char::REPLACEMENT_CHARACTER),
                Ok(_) => (),
            }
        }
        &self.text
    }

    /// All of the text that is complete so far.
    pub fn text(&self) -> &str {
        &self.text
    }
}
