//! Makes GGUF vocabularies of the files that model makers publish.

use std::{collections::HashMap, path::Path};

use serde::Deserialize;

use super::gguf::{self, Value};

/// A vocabulary of byte-level pairs that is cut as `pre` says.
pub fn byte_level(path: &Path, pre: &str, tokens: &[String], merges: &[String]) {
    gguf::write(
        path,
        &[
            ("tokenizer.ggml.model", Value::Text("gpt2")),
            ("tokenizer.ggml.pre", Value::Text(pre)),
            ("tokenizer.ggml.tokens", Value::Texts(tokens)),
            ("tokenizer.ggml.merges", Value::Texts(merges)),
            ("tokenizer.ggml.add_bos_token", Value::Flag(false)),
        ],
    );
}

/// A SentencePiece model file: a protocol buffer whose first field, repeated, is a piece.
pub fn of_sentence_piece(model: &[u8], path: &Path) {
    let (mut tokens, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for (field, piece) in fields(model) {
        let (1, Field::Bytes(piece)) = (field, piece) else { continue };
        kinds.push(1);
        for (field, value) in fields(piece) {
            match (field, value) {
                (1, Field::Bytes(text)) => tokens.push(String::from_utf8(text.into()).unwrap()),
                (2, Field::Float(score)) => scores.push(score),
                (3, Field::Integer(kind)) => *kinds.last_mut().unwrap() = kind as i32,
                _ => (),
            }
        }
    }
    gguf::write(
        path,
        &[
            ("tokenizer.ggml.model", Value::Text("llama")),
            ("tokenizer.ggml.tokens", Value::Texts(&tokens)),
            ("tokenizer.ggml.scores", Value::Floats(&scores)),
            ("tokenizer.ggml.token_type", Value::Integers(&kinds)),
            ("tokenizer.ggml.add_bos_token", Value::Flag(false)),
        ],
    );
}

enum Field<'a> {
    Integer(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// The fields of a protocol buffer's message with their numbers
/// (<https://protobuf.dev/programming-guides/encoding/>).
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let field = match tag & 7 {
            0 => Field::Integer(varint(&mut message)),
            2 => {
                let length = varint(&mut message) as usize;
                Field::Bytes(message.split_off(..length).unwrap())
            }
            5 => Field::Float(f32::from_le_bytes(message.split_off(..4).unwrap().try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, field));
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first().unwrap();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

#[derive(Deserialize)]
struct Tekken {
    config: TekkenConfig,
    vocab: Vec<TekkenToken>,
}

#[derive(Deserialize)]
struct TekkenConfig {
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct TekkenToken {
    token_bytes: String,
}

/// Mistral's `tekken.json`: the bytes of each token in the order of their ranks, after a thousand special tokens.
pub fn of_tekken(json: &[u8], path: &Path) {
    let Tekken { config, vocab } = serde_json::from_slice(json).unwrap();
    let specials = config.default_num_special_tokens;
    let vocab = &vocab[..config.default_vocab_size - specials];
    let vocab: Vec<Vec<u8>> = vocab.iter().map(|token| base64(&token.token_bytes)).collect();
    let ranks: HashMap<&[u8], usize> = (0..).zip(&vocab).map(|(rank, token)| (token.as_slice(), rank)).collect();
    let letters = alphabet();
    let spell = |bytes: &[u8]| -> String { bytes.iter().map(|&byte| letters[usize::from(byte)]).collect() };
    let merges: Vec<String> = vocab
        .iter()
        .filter_map(|token| parts(token, &ranks).map(|(left, right)| format!("{} {}", spell(left), spell(right))))
        .collect();
    let names = (0..specials).map(|id| format!("<SPECIAL_{id}>"));
    let tokens: Vec<String> = names.chain(vocab.iter().map(|token| spell(token))).collect();
    byte_level(path, "tekken", &tokens, &merges);
}

/// The last two parts of a token when the pair of the lowest rank is merged again and again.
fn parts<'a>(token: &'a [u8], ranks: &HashMap<&[u8], usize>) -> Option<(&'a [u8], &'a [u8])> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    while ends.len() > 3 {
        let merged = (1..ends.len() - 1).filter_map(|at| Some((ranks.get(&token[ends[at - 1]..ends[at + 1]])?, at)));
        let (_, at) = merged.min()?;
        ends.remove(at);
    }
    (ends.len() == 3).then(|| token.split_at(ends[1]))
}

/// GPT-2's letters by byte.
fn alphabet() -> Vec<char> {
    let mut others = '\u{100}'..;
    let visible = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    (0..=255).map(|byte| if visible(byte) { char::from(byte) } else { others.next().unwrap() }).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters = text.trim_end_matches('=').as_bytes();
    let groups = letters.chunks(4).map(|group| {
        let bits = group.iter().fold(0u32, |bits, &letter| bits << 6 | u32::from(value(letter)));
        let bits = bits << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    });
    groups.flatten().collect()
}
