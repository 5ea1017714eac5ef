//! The tokenizer that a GGUF file describes: byte-level pairs (`gpt2`) or SentencePiece's pairs (`llama`).

use std::collections::HashSet;

use tokenizers::{
    AddedToken,
    models::bpe::{BPE, Vocab},
    normalizers::{Prepend, Replace, Sequence},
};

use super::{Marks, Spelling, Tokenizer, TokenizerError, damaged, pre::Pre};
use crate::engine::model::gguf::Metadata;

/// Builds the tokenizer that the metadata describes.
pub(super) fn read(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    let vocabulary = Vocabulary::of(metadata)?;
    let (mut inner, spelling, defaults) = match metadata.text("tokenizer.ggml.model").unwrap_or_default() {
        "gpt2" => byte_level(metadata, &vocabulary)?,
        "llama" => sentence_piece(metadata, &vocabulary)?,
        "t5" => return Err(TokenizerError::UnknownKind("t5 (SentencePiece's unigrams)".into())),
        "bert" => return Err(TokenizerError::UnknownKind("bert (WordPiece)".into())),
        other => return Err(TokenizerError::UnknownKind(other.into())),
    };
    let added = vocabulary.iter().filter(|token| token.kind.is_whole());
    let added = added.map(|token| AddedToken::from(token.text, token.kind.is_special()).normalized(false));
    inner.add_tokens(added).map_err(damaged)?;
    let id = |name: &str| {
        let id = metadata.size(&format!("tokenizer.ggml.{name}_token_id"));
        id.and_then(|id| u32::try_from(id).ok())
    };
    let marks = Marks {
        bos: id("bos").or(defaults.bos),
        // `add_eos_token` is for training texts: a prompt that ends has no answer.
        add_bos: metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(defaults.add_bos),
        ends: id("eos").or(defaults.eos).into_iter().chain(id("eot")).collect(),
    };
    Ok(Tokenizer::new(inner, spelling, marks))
}

/// What holds where the file does not say it.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
}

/// What a token is, by its number in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    /// A text that the model's makers defined as a whole.
    UserDefined,
    /// Fills the vocabulary up; no text becomes it.
    Unused,
    /// A SentencePiece byte such as `<0x0A>`.
    Byte,
}

impl Kind {
    fn of(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Whether it is looked for in a text before anything else.
    fn is_whole(self) -> bool {
        self.is_special() || self == Self::UserDefined
    }

    /// Whether it is no text.
    fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }
}

#[derive(Clone, Copy)]
struct Token<'a> {
    id: u32,
    text: &'a str,
    kind: Kind,
}

/// The list of tokens, without those that are unused.
struct Vocabulary<'a> {
    tokens: &'a [String],
    /// As many as tokens, or none.
    kinds: &'a [i64],
}

impl<'a> Vocabulary<'a> {
    fn of(metadata: &'a Metadata) -> Result<Self, TokenizerError> {
        let tokens = metadata.texts("tokenizer.ggml.tokens").ok_or_else(|| damaged("it has no list of tokens"))?;
        let kinds = metadata.integers("tokenizer.ggml.token_type").unwrap_or_default();
        if !kinds.is_empty() && kinds.len() != tokens.len() {
            return Err(damaged(format!("it has {} tokens, but the types of {}", tokens.len(), kinds.len())));
        }
        Ok(Self { tokens, kinds })
    }

    fn iter(&self) -> impl Iterator<Item = Token<'a>> {
        let kinds = self.kinds.iter().map(|&number| Kind::of(number)).chain(std::iter::repeat(Kind::Normal));
        let tokens = (0..).zip(self.tokens).zip(kinds);
        let tokens = tokens.map(|((id, text), kind)| Token { id, text, kind });
        tokens.filter(|token| token.kind != Kind::Unused)
    }

    /// The ids by their texts.
    fn ids(&self) -> Result<Vocab, TokenizerError> {
        let mut ids = Vocab::with_capacity(self.tokens.len());
        for token in self.iter() {
            if ids.insert(token.text.into(), token.id).is_some() {
                return Err(damaged(format!("the token {:?} is in its list twice", token.text)));
            }
        }
        Ok(ids)
    }
}

type Built = (tokenizers::Tokenizer, Spelling, Defaults);

/// Pairs of byte-level tokens, in the order of the file's list.
fn byte_level(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Built, TokenizerError> {
    let pre = metadata.text("tokenizer.ggml.pre");
    let pre = Pre::named(pre.ok_or_else(|| TokenizerError::UnknownKind("gpt2 without pre".into()))?)?;
    let merges = metadata.texts("tokenizer.ggml.merges").ok_or_else(|| damaged("it has no list of merges"))?;
    let merges = merges
        .iter()
        .map(|merge| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| damaged("a merge is not two tokens"))?;
    let model = BPE::builder().vocab_and_merges(vocabulary.ids()?, merges).ignore_merges(pre.whole_pieces);
    let mut inner = tokenizers::Tokenizer::new(model.build().map_err(damaged)?);
    inner.with_normalizer(pre.normalizer()).map_err(damaged)?;
    inner.with_pre_tokenizer(Some(pre.splitter().map_err(damaged)?));
    Ok((inner, Spelling::ByteLevel, Defaults { bos: None, eos: None, add_bos: pre.add_bos }))
}

/// SentencePiece's pairs: of all neighbours that make a token together, the one with the best score is merged first,
/// the leftmost of several. That is byte-pair encoding with every way to make a token of two as a merge, in the order
/// of the tokens' scores, which is how the published `tokenizer.json` files of these models were made. Characters that
/// are no tokens become bytes.
fn sentence_piece(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Built, TokenizerError> {
    let scores = metadata.floats("tokenizer.ggml.scores").ok_or_else(|| damaged("it has no list of scores"))?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(damaged(format!("it has {} tokens, but {} scores", vocabulary.tokens.len(), scores.len())));
    }
    let unknown = vocabulary.iter().find(|token| token.kind == Kind::Unknown).map(|token| token.text.to_owned());
    let mut model = BPE::builder()
        .vocab_and_merges(vocabulary.ids()?, merges_by_score(vocabulary, scores))
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown);
    }
    let mut inner = tokenizers::Tokenizer::new(model.build().map_err(damaged)?);
    let space_first = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let spaces = Replace::new(" ", "▁").map_err(damaged)?;
    let first = space_first.then(|| Prepend::new("▁".into()).into());
    let normalizer = Sequence::new(first.into_iter().chain([spaces.into()]).collect());
    inner.with_normalizer(Some(normalizer)).map_err(damaged)?;
    let defaults = Defaults { bos: Some(1), eos: Some(2), add_bos: true };
    Ok((inner, Spelling::SentencePiece { space_first }, defaults))
}

/// Every way to make a normal token of two normal ones, best score first. Special tokens and bytes take no part: a text
/// that spells one out does not become it.
fn merges_by_score(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Vec<(String, String)> {
    let mut normal: Vec<Token<'_>> = vocabulary.iter().filter(|token| token.kind == Kind::Normal).collect();
    let texts: HashSet<&str> = normal.iter().map(|token| token.text).collect();
    // Stable: tokens of the same score stay in the order of their ids.
    normal.sort_by(|a, b| scores[b.id as usize].total_cmp(&scores[a.id as usize]));
    let splits = normal.iter().flat_map(|token| {
        let cuts = token.text.char_indices().skip(1);
        cuts.map(|(at, _)| token.text.split_at(at))
    });
    let known = splits.filter(|(left, right)| texts.contains(left) && texts.contains(right));
    known.map(|(left, right)| (left.to_owned(), right.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::gguf::Value;

    fn texts(texts: &[&str]) -> Value {
        Value::Texts(texts.iter().map(|text| text.to_string()).collect())
    }

    fn metadata<const N: usize>(values: [(&str, Value); N]) -> Metadata {
        Metadata(values.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).into())
    }

    /// A vocabulary of a few byte-level tokens; `ab` is 2, `12` is 5.
    fn byte_level(model: &str, pre: &str, tokens: &[&str]) -> Metadata {
        let mut types = vec![1; tokens.len()];
        types[tokens.len() - 1] = 3;
        metadata([
            ("model", Value::Text(model.into())),
            ("pre", Value::Text(pre.into())),
            ("tokens", texts(tokens)),
            ("merges", texts(&["a b", "1 2"])),
            ("token_type", Value::Integers(types)),
            ("bos_token_id", Value::Integer(tokens.len() as i64 - 1)),
        ])
    }

    const TOKENS: [&str; 7] = ["a", "b", "ab", "1", "2", "12", "<|begin|>"];

    #[test]
    fn digits_are_split_one_by_one_where_the_kind_says_so() {
        for (pre, expected) in [("smollm", vec![2, 3, 4]), ("gpt-2", vec![2, 5]), ("llama-bpe", vec![6, 2, 5])] {
            let tokenizer = read(&byte_level("gpt2", pre, &TOKENS)).unwrap();
            assert_eq!(tokenizer.encode("ab12", true).unwrap(), expected, "{pre}");
        }
    }

    #[test]
    fn an_unknown_kind_is_named() {
        for (model, pre, named) in [
            ("t5", "default", "unigrams"),
            ("bert", "default", "WordPiece"),
            ("rwkv", "default", "rwkv"),
            ("gpt2", "bloom", "\"bloom\""),
        ] {
            let error = read(&byte_level(model, pre, &TOKENS)).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("tokenizer.json"), "{error}");
        }
    }

    #[test]
    fn a_list_of_tokens_that_cannot_be_right_is_refused() {
        for tokens in [&["a", "b", "ab", "1", "2", "12", "a"][..], &["a", "b", "1", "2", "12", "c"]] {
            let error = read(&byte_level("gpt2", "smollm", tokens)).unwrap_err().to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }

    /// `ab` scores better than `bc`; `<s>` can be spelled with the tokens that there are.
    fn sentence_piece(scores: usize) -> Metadata {
        let tokens = ["<unk>", "<s>", "▁", "a", "b", "c", "bc", "ab", "<", "s>", "<0x0A>", "never", "s", ">"];
        metadata([
            ("model", Value::Text("llama".into())),
            ("tokens", texts(&tokens)),
            (
                "scores",
                Value::Floats([0., 0., -3., -4., -5., -6., -2., -1., -7., -8., 0., 0., -9., -10.][..scores].into()),
            ),
            ("token_type", Value::Integers(vec![2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6, 5, 1, 1])),
        ])
    }

    #[test]
    fn the_pair_with_the_best_score_is_merged_first() {
        let tokenizer = read(&sentence_piece(14)).unwrap();
        assert_eq!(tokenizer.encode("abc bc", true).unwrap(), [1, 2, 7, 5, 2, 6]);
    }

    #[test]
    fn text_that_spells_a_special_token_or_a_byte_stays_text() {
        let tokenizer = read(&sentence_piece(14)).unwrap();
        assert_eq!(tokenizer.encode("<s>a", true).unwrap(), [1, 2, 3]);
        assert_eq!(tokenizer.encode("<s>a", false).unwrap(), [1, 2, 8, 9, 3]);
        // A line break is a byte token, and what nothing spells is unknown: once for all that stand together.
        assert_eq!(tokenizer.encode("\n<0x0A>", true).unwrap(), [1, 2, 10, 8, 0, 13]);
    }

    #[test]
    fn scores_that_are_missing_or_too_few_are_told() {
        let error = read(&sentence_piece(13)).unwrap_err().to_string();
        assert!(error.contains("14 tokens, but 13 scores"), "{error}");
    }

    #[test]
    fn unused_tokens_are_no_text() {
        let tokenizer = read(&sentence_piece(14)).unwrap();
        assert_eq!(tokenizer.decode(&[3, 11, 10]), "a\n");
    }
}
