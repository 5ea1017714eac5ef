//! The default model's tokenizer against llama.cpp's, and the helpers around it.

use std::{
    fs,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant},
};

use candle_core::Device;
use serde::Deserialize;
use tempfile::TempDir;
use ttrl::engine::model::{
    tokenizer::{TextStream, Tokenizer},
    weights,
};

use crate::support::{fixture, model::default_model};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    weights::load(&default_model(), &Device::Cpu).unwrap().tokenizer.expect("the default model has a tokenizer")
});

/// What llama.cpp makes of a text; written by `tests/parity/tokenizer_golden.py`.
#[derive(Deserialize)]
struct Golden {
    text: String,
    /// Whether special tokens in the text were parsed.
    special: bool,
    ids: Vec<u32>,
    /// The text of the ids, special tokens included.
    decoded: String,
}

fn golden() -> Vec<Golden> {
    let text = fs::read(fixture("smollm2-tokenizer.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn token_ids_and_decoded_text_equal_llama_cpps() {
    let golden = golden();
    assert!(golden.len() > 20, "only {} texts", golden.len());
    for Golden { text, special, ids, decoded } in golden {
        assert_eq!(TOKENIZER.encode(&text, special).unwrap(), ids, "{text:?}, special tokens parsed: {special}");
        // Here special tokens are no text; those that were not parsed are.
        let specials = TOKENIZER.special_tokens().iter().filter(|_| special);
        let expected = specials.fold(decoded, |decoded, (token, _)| decoded.replace(token, ""));
        assert_eq!(TOKENIZER.decode(&ids), expected, "{text:?}");
    }
}

#[test]
fn a_text_that_arrives_token_by_token_is_always_a_prefix_and_ends_whole() {
    for Golden { ids, .. } in golden() {
        let whole = TOKENIZER.decode(&ids);
        let mut stream = TextStream::default();
        for &id in &ids {
            let text = stream.push(&TOKENIZER, id);
            assert!(whole.starts_with(text), "{text:?} does not begin {whole:?}");
        }
        assert_eq!(stream.text(), whole.trim_end_matches('\u{FFFD}'));
    }
}

#[test]
fn half_a_character_is_held_back() {
    let ids = TOKENIZER.encode("a 🦀!", false).unwrap();
    let mut stream = TextStream::default();
    let seen: Vec<String> = ids.iter().map(|&id| stream.push(&TOKENIZER, id).to_owned()).collect();
    assert!(seen.iter().all(|text| !text.contains('\u{FFFD}')), "{seen:?}");
    assert!(seen.iter().filter(|text| text.trim() == "a").count() >= 2, "{seen:?}");
    assert_eq!(seen.last().unwrap(), "a 🦀!");
}

#[test]
fn text_appears_even_when_no_token_ends_between_characters() {
    // In the byte-level alphabet a crab, bytes f0 9f a6 80, is "ðŁ¦Ģ".
    let folder = TempDir::new().unwrap();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "model": {"type": "BPE", "vocab": {"ð": 0, "Ł¦Ģð": 1}, "merges": []},
    });
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let mut stream = TextStream::default();
    assert_eq!(stream.push(&tokenizer, 0), "");
    for crabs in 1..50 {
        assert_eq!(stream.push(&tokenizer, 1), "🦀".repeat(crabs));
    }
}

#[test]
fn special_tokens_in_ordinary_text_stay_text() {
    let text = "<|im_end|>\n<|im_start|>system";
    let (markup, plain) = (TOKENIZER.encode(text, true).unwrap(), TOKENIZER.encode(text, false).unwrap());
    let special: Vec<u32> = TOKENIZER.special_tokens().iter().map(|(_, id)| *id).collect();
    assert_eq!(markup.iter().filter(|id| special.contains(id)).count(), 2);
    assert!(plain.iter().all(|id| !special.contains(id)), "{plain:?}");
    assert_eq!(TOKENIZER.decode(&plain), text);
    assert_eq!(TOKENIZER.decode(&markup), "\nsystem");
}

#[test]
fn the_models_end_and_begin_tokens_are_known() {
    assert_eq!(TOKENIZER.end_tokens(), [0, 2]);
    assert_eq!(TOKENIZER.bos(), Some(1));
    assert_eq!(TOKENIZER.vocab_size(), 49152);
    assert_eq!(
        TOKENIZER.special_tokens()[..3],
        [("<|endoftext|>".to_owned(), 0), ("<|im_start|>".to_owned(), 1), ("<|im_end|>".to_owned(), 2)]
    );
    assert!(TOKENIZER.encode("", true).unwrap().is_empty(), "no begin token is added");
}

#[test]
fn long_texts_of_any_kind_do_not_hang() {
    // Ten thousand characters of each take milliseconds; what a hostile text could set off would take minutes.
    let texts =
        ["a".repeat(10_000), " ".repeat(10_000), "7".repeat(10_000), "<|im_".repeat(2_000), "é🦀".repeat(5_000)];
    for text in texts {
        let started = Instant::now();
        let ids = TOKENIZER.encode(&text, true).unwrap();
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(30), "{:?}... took {elapsed:?}", &text[..5]);
        assert_eq!(TOKENIZER.decode(&ids), text);
    }
}

/// A byte-level tokenizer.json with the tokens a, b, ab and two special ones.
fn small_tokenizer(folder: &Path, add_prefix: bool) {
    let template = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}},
    });
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [special(3, "<s>"), special(4, "</s>")],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": if add_prefix { template } else { serde_json::Value::Null },
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4}, "merges": ["a b"]},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn a_folders_tokenizer_takes_its_begin_and_end_tokens_from_the_files_beside_it() {
    let folder = TempDir::new().unwrap();
    small_tokenizer(folder.path(), false);
    let path = folder.path().join("tokenizer.json");
    let bare = Tokenizer::from_file(&path).unwrap();
    assert_eq!((bare.bos(), bare.end_tokens()), (None, &[4][..]));
    // Longer than the file's truncation length.
    assert_eq!(bare.encode("abababa<s>", true).unwrap(), [2, 2, 2, 0, 3]);

    let settings = r#"{"bos_token": {"content": "<s>"}, "eos_token": "b", "add_bos_token": true}"#;
    fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [2, 999]}"#).unwrap();
    let full = Tokenizer::from_file(&path).unwrap();
    assert_eq!((full.bos(), full.end_tokens()), (Some(3), &[1, 2, 4][..]));
    assert_eq!(full.encode("ab", true).unwrap(), [3, 2]);
    assert_eq!(full.encode("<s>ab", true).unwrap(), [3, 2], "a begin token that is there is not doubled");
}

#[test]
fn without_a_setting_the_tokenizers_own_template_decides_about_the_begin_token() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"bos_token": "<s>"}"#).unwrap();
    for (add_prefix, expected) in [(true, vec![3, 2]), (false, vec![2])] {
        small_tokenizer(folder.path(), add_prefix);
        let tokenizer = Tokenizer::from_file(&folder.path().join("tokenizer.json")).unwrap();
        assert_eq!(tokenizer.encode("ab", true).unwrap(), expected);
    }
}

#[test]
fn a_tokenizer_file_that_is_not_one_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, r#"{"version": "1.0"}"#).unwrap();
    assert!(Tokenizer::from_file(&path).unwrap_err().to_string().contains("damaged"));
}
