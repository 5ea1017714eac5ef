//! How byte-level tokenizers cut a text before they merge pairs, by the name that a GGUF file gives it
//! (`tokenizer.ggml.pre`).
//!
//! The names are llama.cpp's, the cuts are those of the `tokenizer.json` that the models' makers published. Where the
//! two differ, the published one is followed, since the model was trained with it: llama.cpp composes no characters
//! (NFC), and takes every letter but a-z for a capital where [`O200K`] and [`TEKKEN`] ask for one.

use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    normalizers::unicode::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        punctuation::Punctuation,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::TokenizerError;

/// What a name stands for.
pub(super) struct Pre {
    names: &'static [&'static str],
    /// One after the other; each cuts the pieces of the one before.
    cuts: &'static [Cut],
    /// Whether characters are composed first (Unicode's NFC).
    composed: bool,
    /// Whether a piece that is a token as a whole is that token, whatever the merges would make of it.
    pub whole_pieces: bool,
    /// Whether texts begin with the begin token where the file does not say it.
    pub add_bos: bool,
}

/// One way to cut. All but the last two leave the text as it is.
enum Cut {
    /// Around what the pattern matches.
    Around(&'static str),
    /// Around every digit.
    Digits,
    /// Around runs of punctuation.
    Punctuation,
    /// With GPT-2's pattern; spells the bytes in GPT-2's alphabet.
    Words,
    /// Nowhere; spells the bytes in GPT-2's alphabet.
    Bytes,
}

/// GPT-4's pattern (cl100k): at most three digits together.
const CL100K: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The same with every digit alone.
const CL100K_DIGITS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// GPT-4o's pattern (o200k): a word ends where capitals follow small letters.
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Mistral's: GPT-4o's without contractions, every digit alone.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// DeepSeek's runs of Chinese, Japanese and Korean characters, and of all from U+0800 up to them.
const DEEPSEEK_ASIAN: &str = r"[一-龥\x{800}-一가-\x{D7FF}]+";

/// What DeepSeek LLM calls letters: most of those that have a case.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽ",
    r"Ა-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼ",
    r"ℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);

/// The plainest: no composing, no whole pieces, no begin token.
const PLAIN: Pre = Pre { names: &[], cuts: &[Cut::Words], composed: false, whole_pieces: false, add_bos: false };

const TABLE: &[Pre] = &[
    Pre { names: &["gpt-2", "phi-2"], ..PLAIN },
    // GPT-NeoX's tokenizer.
    Pre { names: &["olmo", "mpt"], composed: true, ..PLAIN },
    Pre { names: &["smollm", "starcoder", "refact", "codeshell"], cuts: &[Cut::Digits, Cut::Words], ..PLAIN },
    Pre { names: &["command-r"], cuts: &[Cut::Digits, Cut::Words], composed: true, ..PLAIN },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cuts: &[Cut::Around(CL100K), Cut::Bytes],
        whole_pieces: true,
        add_bos: true,
        ..PLAIN
    },
    Pre { names: &["dbrx", "smaug-bpe"], cuts: &[Cut::Around(CL100K), Cut::Bytes], ..PLAIN },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2"],
        cuts: &[Cut::Around(CL100K_DIGITS), Cut::Bytes],
        composed: true,
        ..PLAIN
    },
    Pre { names: &["gpt-4o", "llama4"], cuts: &[Cut::Around(O200K), Cut::Bytes], ..PLAIN },
    Pre { names: &["tekken"], cuts: &[Cut::Around(TEKKEN), Cut::Bytes], whole_pieces: true, add_bos: true, ..PLAIN },
    Pre {
        names: &["deepseek-llm"],
        cuts: &[
            Cut::Around(r"[\r\n]"),
            Cut::Around(DEEPSEEK_LETTERS),
            Cut::Around(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Cut::Around(r"\s+$"),
            Cut::Around(DEEPSEEK_ASIAN),
            Cut::Around(r"\p{N}+"),
            Cut::Bytes,
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-coder"],
        cuts: &[
            Cut::Around(r"[\r\n]"),
            Cut::Around(r"\s?\p{L}+"),
            Cut::Around(r"\s?\p{P}+"),
            Cut::Around(DEEPSEEK_ASIAN),
            Cut::Digits,
            Cut::Bytes,
        ],
        ..PLAIN
    },
    Pre { names: &["falcon"], cuts: &[Cut::Punctuation, Cut::Words, Cut::Around("[0-9][0-9][0-9]")], ..PLAIN },
    // What llama.cpp's converter wrote for tokenizers that it did not know; no other reference exists.
    Pre {
        names: &["default"],
        cuts: &[
            Cut::Around(r"[\p{P}$+<=>^~|]+"),
            Cut::Around(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
            Cut::Around(r"\p{N}+"),
            Cut::Around("[0-9][0-9][0-9]"),
            Cut::Bytes,
        ],
        ..PLAIN
    },
];

impl Pre {
    /// Looks a name up.
    pub fn named(name: &str) -> Result<&'static Self, TokenizerError> {
        let found = TABLE.iter().find(|pre| pre.names.contains(&name));
        found.ok_or_else(|| TokenizerError::UnknownKind(format!("gpt2 with pre {name:?}")))
    }

    /// What is done to a text before it is cut.
    pub fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.composed.then(|| NFC.into())
    }

    /// The cuts, one after the other.
    pub fn splitter(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let cuts = self.cuts.iter().map(|cut| {
            Ok(match cut {
                Cut::Around(pattern) => {
                    let pattern = SplitPattern::Regex((*pattern).into());
                    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into()
                }
                Cut::Digits => Digits::new(true).into(),
                Cut::Punctuation => Punctuation::new(SplitDelimiterBehavior::Contiguous).into(),
                Cut::Words => ByteLevel::new(false, true, true).into(),
                Cut::Bytes => ByteLevel::new(false, true, false).into(),
            })
        });
        Ok(Sequence::new(cuts.collect::<tokenizers::Result<_>>()?).into())
    }
}
