//! Many kinds of tokenizers against llama.cpp, sentencepiece, tiktoken and tokenizers
//! (`tests/parity/tokenizer_kinds.py`), and what holds for the text of every kind.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde::{Deserialize, de::DeserializeOwned};
use tempfile::TempDir;
use ttrl::engine::model::{
    tokenizer::{TextStream, Tokenizer},
    weights,
};

use crate::support::{
    fixture,
    packages::{Published, QWEN},
    vocabulary,
};

fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fs::read(fixture(&format!("tokenizers/{name}"))).unwrap()).unwrap()
}

fn load(path: &Path) -> Tokenizer {
    weights::load_tokenizer(path).unwrap().expect("the file has a tokenizer")
}

/// The tokenizer that a function writes into a file.
fn written(write: impl FnOnce(&Path)) -> Tokenizer {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    write(&path);
    load(&path)
}

/// The texts, and whether special tokens in them are parsed.
fn texts() -> Vec<(String, bool)> {
    json("texts.json")
}

#[derive(Deserialize)]
struct ByteLevel {
    tokens: Vec<String>,
    merges: Vec<String>,
}

impl ByteLevel {
    fn cut_as(&self, pre: &str) -> Tokenizer {
        written(|path| vocabulary::byte_level(path, pre, &self.tokens, &self.merges))
    }
}

/// A text with its ids by kind of cuts.
#[derive(Deserialize)]
struct Cut {
    text: String,
    ids: BTreeMap<String, Vec<u32>>,
}

#[test]
fn every_kind_of_cuts_is_made_as_the_references_make_it() {
    let vocabulary: ByteLevel = json("byte-level.json");
    let rows: Vec<Cut> = json("byte-level-ids.json");
    let kinds: HashMap<&str, Tokenizer> =
        rows[0].ids.keys().map(|pre| (pre.as_str(), vocabulary.cut_as(pre))).collect();
    assert!(kinds.len() > 12 && rows.len() > 90);
    for Cut { text, ids } in &rows {
        for (pre, expected) in ids {
            assert_eq!(kinds[pre.as_str()].encode(text, false).unwrap(), *expected, "{pre}: {text:?}");
        }
    }
}

#[test]
fn names_of_the_same_cuts_are_the_same() {
    let vocabulary: ByteLevel = json("byte-level.json");
    let texts = texts();
    for (names, known) in [
        (&["phi-2"][..], "gpt-2"),
        (&["mpt"], "olmo"),
        (&["starcoder", "refact", "codeshell"], "smollm"),
        (&["llama3", "llama-v3"], "llama-bpe"),
        (&["smaug-bpe"], "dbrx"),
        (&["deepseek-r1-qwen", "stablelm2"], "qwen2"),
        (&["llama4"], "gpt-4o"),
    ] {
        let known = vocabulary.cut_as(known);
        for name in names {
            let other = vocabulary.cut_as(name);
            for (text, _) in &texts {
                assert_eq!(other.encode(text, false).unwrap(), known.encode(text, false).unwrap(), "{name}: {text:?}");
            }
        }
    }
}

fn check(name: &str, tokenizer: &Tokenizer, texts: &[(String, bool)], expected: &[Vec<u32>]) {
    assert_eq!(texts.len(), expected.len());
    for ((text, special), expected) in texts.iter().zip(expected) {
        let mut ids = tokenizer.encode(text, *special).unwrap();
        // The references add no begin token.
        if ids.len() > expected.len() && ids.first().copied() == tokenizer.bos() {
            ids.remove(0);
        }
        assert_eq!(ids, *expected, "{name}: {text:?}, special tokens parsed: {special}");
        if !special {
            // Qwen composes characters first; the texts that it changes are few and are compared by their ids.
            let decoded = tokenizer.decode(&ids);
            assert!(decoded == *text || name == "qwen2" || text.contains('▁'), "{name}: {text:?} became {decoded:?}");
        }
    }
}

static LLAMA: LazyLock<Tokenizer> = LazyLock::new(|| load(&fixture("tokenizers/llama.gguf")));
static GEMMA: LazyLock<Tokenizer> = LazyLock::new(|| load(&fixture("tokenizers/gemma.gguf")));

#[test]
fn ids_of_small_sentencepiece_vocabularies_equal_sentencepieces() {
    for (name, tokenizer) in [("llama", &LLAMA), ("gemma", &GEMMA)] {
        check(name, tokenizer, &texts(), &json::<Vec<_>>(&format!("{name}-ids.json")));
    }
}

#[test]
fn begin_and_end_tokens_of_a_sentencepiece_vocabulary_are_known() {
    assert_eq!((LLAMA.bos(), LLAMA.end_tokens()), (Some(1), &[2][..]));
    assert_eq!(LLAMA.encode("", true).unwrap(), [1]);
    assert_eq!(LLAMA.encode("<s>", true).unwrap(), [1]);
    let end_of_turn = GEMMA.special_tokens().iter().find(|(name, _)| name == "<end_of_turn>").unwrap().1;
    assert_eq!(GEMMA.end_tokens(), [2, end_of_turn]);
}

const MISTRAL: &str = "mistral-common==1.13.1";

#[test]
fn ids_of_mistrals_sentencepiece_vocabularies_equal_sentencepieces() {
    for (name, file) in [
        (
            "mistral-v1",
            Published {
                file: "mistral-tokenizer.model.v1",
                sha256: "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
                members: &[(MISTRAL, "mistral_common/data/tokenizer.model.v1")],
            },
        ),
        (
            "mistral-v3",
            Published {
                file: "mistral-tokenizer.model.v3",
                sha256: "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33",
                members: &[(MISTRAL, "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3")],
            },
        ),
    ] {
        let model = fs::read(file.path()).unwrap();
        let tokenizer = written(|path| vocabulary::of_sentence_piece(&model, path));
        check(name, &tokenizer, &texts(), &json::<Vec<_>>(&format!("{name}-ids.json")));
    }
}

#[test]
fn ids_of_mistrals_tekken_vocabulary_equal_tiktokens() {
    let file = Published {
        file: "mistral-tekken_240718.json",
        sha256: "eccd1665d2e477697c33cb7f0daa6f6dfefc57a0a6bceb66d4be52952f827516",
        members: &[(MISTRAL, "mistral_common/data/tekken_240718.json")],
    };
    let model = fs::read(file.path()).unwrap();
    let tokenizer = written(|path| vocabulary::of_tekken(&model, path));
    let plain: Vec<(String, bool)> = texts().into_iter().filter(|(_, special)| !special).collect();
    check("tekken", &tokenizer, &plain, &json::<Vec<_>>("tekken-ids.json"));
}

#[test]
fn ids_of_qwens_vocabulary_equal_those_of_its_published_tokenizer() {
    check("qwen2", &load(&QWEN.path()), &texts(), &json::<Vec<_>>("qwen2-ids.json"));
}

#[test]
fn the_space_that_is_put_before_a_text_is_no_part_of_it() {
    let ids = LLAMA.encode(" two  spaces", false).unwrap();
    assert_eq!(LLAMA.decode(&ids), " two  spaces");
    let mut stream = TextStream::default();
    for id in LLAMA.encode("a b", false).unwrap() {
        stream.push(&LLAMA, id);
    }
    assert_eq!(stream.text(), "a b");
}

/// A vocabulary, the ids of a prompt, those of a reply, and the text of the reply.
type ReplyText = (String, Vec<u32>, Vec<u32>, String);

#[test]
fn the_text_of_a_reply_is_what_it_adds_to_the_text_of_its_prompt() {
    let rows: Vec<ReplyText> = json("reply-texts.json");
    for (name, prompt, reply, expected) in &rows {
        let tokenizer: &Tokenizer = if name == "llama" { &LLAMA } else { &GEMMA };
        let mut stream = TextStream::after(tokenizer, prompt);
        for &id in reply {
            stream.push(tokenizer, id);
        }
        assert_eq!(stream.text(), expected, "{name}: {reply:?} behind {prompt:?}");
    }
    let first_spaces = rows.iter().filter(|(_, _, _, text)| text.starts_with(' ')).count();
    assert!((1..rows.len()).contains(&first_spaces));
}

#[test]
fn bytes_that_no_character_begins_with_do_not_swallow_what_follows() {
    // The bytes of a SentencePiece vocabulary are its tokens 3 to 258 (after <unk>, <s> and </s>, and two marks).
    let byte = |byte: u32| (0..300).find(|&id| LLAMA.token_bytes(id) == [byte as u8]).unwrap();
    let letter = LLAMA.encode("a", false).unwrap()[1];
    let ids = [byte(0xe5), byte(0x8f), byte(0xab), byte(0xe5), letter, byte(0xf0), byte(0x9f)];
    let mut stream = TextStream::default();
    let seen: Vec<String> = ids.iter().map(|&id| stream.push(&LLAMA, id).to_owned()).collect();
    assert_eq!(seen[2..5], ["叫", "叫", "叫\u{fffd} a"]);
    assert_eq!(seen[6], "叫\u{fffd} a");
    assert_eq!(LLAMA.decode(&ids), "叫\u{fffd} a\u{fffd}");
}

/// Any tokens, many of them bytes.
fn any_ids() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![0..300u32, 0..1600u32], 0..40)
}

proptest! {
    #[test]
    fn tokens_pushed_one_by_one_end_in_the_text_of_all(ids in any_ids(), gemma: bool) {
        let tokenizer: &Tokenizer = if gemma { &GEMMA } else { &LLAMA };
        let whole = tokenizer.decode(&ids);
        let mut stream = TextStream::default();
        for &id in &ids {
            let text = stream.push(tokenizer, id).to_owned();
            prop_assert!(whole.starts_with(&text), "{:?} does not begin {:?}", text, whole);
        }
        // What is left at the end is the start of a character.
        let rest = &whole[stream.text().len()..];
        prop_assert!(rest.is_empty() || rest == "\u{fffd}", "{:?} is missing", rest);
    }

    #[test]
    fn any_text_comes_back_from_its_tokens(text: String, gemma: bool) {
        let tokenizer: &Tokenizer = if gemma { &GEMMA } else { &LLAMA };
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "));
    }
}

#[test]
fn long_texts_of_a_sentencepiece_vocabulary_do_not_hang() {
    for text in ["a".repeat(10_000), " ".repeat(10_000), "7".repeat(10_000), "<s".repeat(5_000), "é🦀".repeat(5_000)]
    {
        let started = Instant::now();
        let ids = LLAMA.encode(&text, true).unwrap();
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}... took {:?}", &text[..2], started.elapsed());
        assert_eq!(LLAMA.decode(&ids), text);
    }
}
