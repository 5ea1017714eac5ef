//! The words that formulas and quantities are made of.

use super::{
    expression::Function,
    numerals::number_word,
    unit::{is_unit_word, scale},
};

/// Words between spaces, in lower case.
pub(super) struct Words(pub &'static str);

impl Words {
    pub(super) fn have(&self, word: &str) -> bool {
        self.0.split(' ').any(|entry| entry.eq_ignore_ascii_case(word))
    }
}

/// Words that make another number of the one beside them, or compare it. What is counted has none of them.
const CHANGES: Words = Words(
    "about around approximately approx roughly nearly almost close near least most more less fewer greater larger \
     smaller bigger higher lower over under above below beyond within between from up than exceed exceeds far earlier \
     previously unlike twice thrice double doubled triple tripled squared cubed root factorial repeating recurring \
     repeated times plus minus divided multiplied base binary octal hexadecimal modulo mod choose or versus against \
     out score scores gross bn mn o'clock",
);

/// Whether a word makes another number of the one beside it: one that compares or computes, a `dozen`, `sixths`.
pub(super) fn changes_number(word: &str) -> bool {
    CHANGES.have(word) || scale(word).is_some() || is_fraction(&word.to_ascii_lowercase())
}

/// Whether a word is a part of a whole, or an ordinal: `half`, `sixths`, `twentieth`.
fn is_fraction(word: &str) -> bool {
    let word = word.strip_suffix('s').unwrap_or(word);
    let of_number = |stem: &str| {
        matches!(stem, "fif" | "eigh" | "nin" | "twelf")
            || stem.ends_with("teen")
            || stem.ends_with("tie")
            || number_word(stem).is_some()
            || scale(stem).is_some()
    };
    matches!(word, "half" | "halve" | "third" | "quarter") || word.strip_suffix("th").is_some_and(of_number)
}

/// Words that are functions, with or without a backslash.
const FUNCTIONS: [(&str, Function); 24] = [
    ("sin", Function::Sin),
    ("cos", Function::Cos),
    ("tan", Function::Tan),
    ("tg", Function::Tan),
    ("cot", Function::Cot),
    ("sec", Function::Sec),
    ("csc", Function::Csc),
    ("arcsin", Function::Arcsin),
    ("arccos", Function::Arccos),
    ("arctan", Function::Arctan),
    ("asin", Function::Arcsin),
    ("acos", Function::Arccos),
    ("atan", Function::Arctan),
    ("sinh", Function::Sinh),
    ("cosh", Function::Cosh),
    ("tanh", Function::Tanh),
    ("ln", Function::Ln),
    ("log", Function::Log),
    ("lg", Function::Log),
    ("abs", Function::Abs),
    ("min", Function::Min),
    ("max", Function::Max),
    ("gcd", Function::Gcd),
    ("lcm", Function::Lcm),
];

const GREEK: [&str; 31] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Sigma",
    "Phi", "Psi", "Omega", "ell",
];

pub(super) fn function(name: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|(word, _)| *word == name).map(|(_, function)| *function)
}

/// Whether a word or command is a function of numbers.
pub(super) fn is_function(name: &str) -> bool {
    function(name).is_some()
}

/// Whether a word names something in formulas.
pub(super) fn is_formula_word(word: &str) -> bool {
    function(word).is_some() || matches!(word, "sqrt" | "pi" | "exp" | "cbrt") || is_product(word)
}

/// Two letters that are a word of English rather than a product.
const SHORT_WORDS: [&str; 46] = [
    "no", "on", "of", "or", "so", "up", "us", "we", "he", "me", "my", "by", "do", "go", "if", "in", "is", "it", "am",
    "an", "as", "at", "be", "to", "tv", "pm", "ok", "hi", "ox", "oh", "cm", "km", "mm", "kg", "mg", "ml", "ft", "lb",
    "oz", "hr", "hz", "kj", "kw", "dm", "mi", "yd",
];

/// Whether a word is a product of its letters: two letters that are no word, or a few without a vowel.
fn is_product(word: &str) -> bool {
    const OTHERS: [&str; 4] = ["fps", "pct", "sqrt", "hmm"];
    let is_any = |words: &[&str]| words.iter().any(|own| own.eq_ignore_ascii_case(word));
    word.bytes().all(|b| b.is_ascii_alphabetic())
        && match word.len() {
            1 => true,
            2 => !is_any(&SHORT_WORDS),
            3..=5 => !word.bytes().any(|b| b"aeiouAEIOU".contains(&b)) && !is_any(&OTHERS) && !is_unit_word(word),
            _ => false,
        }
}

/// The letters of a word that is a product of them.
pub(super) fn letters(word: &str) -> Option<Vec<&str>> {
    is_product(word).then(|| each_letter(word))
}

pub(super) fn each_letter(word: &str) -> Vec<&str> {
    word.char_indices().map(|(at, letter)| &word[at..at + letter.len_utf8()]).collect()
}

/// The variable of a word that may be a differential: `x` of `dx`.
pub(super) fn differential(word: &str) -> Option<&str> {
    word.strip_prefix('d').filter(|variable| is_integrated(variable))
}

/// Whether a letter is one over which people integrate. `nd` is a product.
pub(super) fn is_integrated(letter: &str) -> bool {
    matches!(letter, "x" | "y" | "z" | "t" | "u" | "v" | "w" | "r" | "s" | "theta" | "phi" | "rho")
}

/// Whether a command is a Greek letter, but pi, which is a number.
pub(super) fn is_greek(name: &str) -> bool {
    GREEK.contains(&name)
}

/// Whether a command makes a name of the letters behind it.
pub(super) fn is_decoration(name: &str) -> bool {
    matches!(name, "mathbf" | "overline" | "vec" | "hat" | "widehat" | "tilde" | "bar" | "angle" | "triangle")
}

/// Whether a command makes a vector of the letter behind it.
pub(super) fn is_vector(name: &str) -> bool {
    matches!(name, "mathbf" | "vec" | "hat")
}
