//! The bytes that tokens stand for.

use std::collections::HashMap;

/// How the tokens of a vocabulary spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// In GPT-2's alphabet: one visible character for each byte.
    ByteLevel,
    /// As SentencePiece writes them: `▁` is a space, and `<0x0A>` a byte that no token spells otherwise. Where a space
    /// is put before each text, `space_first`, that of the whole text is taken away again.
    SentencePiece { space_first: bool },
    /// As they are read, with a space between two.
    Words,
}

impl Spelling {
    /// Whether a space at the start of a text is not part of it.
    pub fn drops_first_space(self) -> bool {
        matches!(self, Self::SentencePiece { space_first: true } | Self::Words)
    }

    /// A function from tokens to bytes.
    pub fn reader(self) -> impl Fn(&str) -> Vec<u8> {
        let alphabet = alphabet();
        move |token| match self {
            // What is not written in the alphabet was added as it is.
            Self::ByteLevel => {
                let bytes = token.chars().map(|letter| alphabet.get(&letter).copied()).collect::<Option<_>>();
                bytes.unwrap_or_else(|| token.into())
            }
            Self::SentencePiece { .. } => match byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
            Self::Words => format!(" {token}").into_bytes(),
        }
    }
}

/// The byte that a SentencePiece token such as `<0x0A>` stands for.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    // Two digits and nothing else: the parser would take a sign.
    let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| two)
}

/// GPT-2's alphabet: Latin-1's visible characters stand for themselves, the other bytes in their order for the
/// characters from U+0100 on.
fn alphabet() -> HashMap<char, u8> {
    let visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let (same, others): (Vec<u8>, Vec<u8>) = (0..=255).partition(visible);
    let same = same.into_iter().map(|byte| (char::from(byte), byte));
    same.chain(('\u{100}'..).zip(others)).collect()
}

/// The bytes of every token, one after the other.
#[derive(Default)]
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<u32>,
}

impl TokenBytes {
    /// Adds the bytes of the next token.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
    }

    /// The bytes of a token; none for an id that there is not.
    pub fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_token_is_read() {
        for (spelling, token, bytes) in [
            (Spelling::ByteLevel, "ĠhÃ©", " hé".as_bytes()),
            (Spelling::ByteLevel, "Ċ", b"\n"),
            (Spelling::ByteLevel, "ðŁ", b"\xf0\x9f"),
            (Spelling::ByteLevel, "two words", b"two words"),
            (Spelling::SentencePiece { space_first: true }, "▁h▁é", " h é".as_bytes()),
            (Spelling::SentencePiece { space_first: false }, "<0xF0>", b"\xf0"),
            (Spelling::SentencePiece { space_first: false }, "<0x+F>", b"<0x+F>"),
            (Spelling::Words, "word", b" word"),
        ] {
            assert_eq!(spelling.reader()(token), bytes, "{spelling:?} {token:?}");
        }
    }

    #[test]
    fn the_alphabet_has_a_letter_for_every_byte() {
        let alphabet = alphabet();
        assert_eq!(alphabet.len(), 256);
        // The last byte that is not visible, the soft hyphen, is the 68th.
        assert_eq!(alphabet[&'\u{143}'], 0xad);
    }
}
