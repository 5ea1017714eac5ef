//! Names of unknowns: what stands before a value, and may be left out.

use super::{
    lex::{Kind, Token},
    read::{bracket, bracketed, is_sign, split},
    vocabulary::{is_decoration, is_greek},
};

/// The most tokens of a name.
const MAX_TOKENS: usize = 24;

const PART: &str = "part ";

/// The text of a name: of one unknown, or of a ratio of unknowns. `None` for a formula, whose value is not that of an
/// unknown: 5 is not what `x/2 = 5` says.
pub(super) fn name_of(tokens: &[Token]) -> Option<String> {
    // Braces around a whole name are none of its own: `\mathbf{v}`.
    let tokens = if let Some((Kind::Group, inner, _)) = bracketed(tokens) { inner } else { tokens };
    let is_name = tokens.len() <= MAX_TOKENS && (is_ratio(tokens) || is_unknown(tokens));
    match tokens {
        // One ratio in two spellings.
        [frac, rest @ ..] if is_name && frac.kind == Kind::Command("frac".into()) && !is_derivative(rest) => {
            let ([above, below], _) = arguments(rest)?;
            Some(format!("{}/{}", spelled(above), spelled(below)))
        }
        _ => is_name.then(|| spelled(tokens)),
    }
}

/// The name of a part of an answer by its number: that of `(b)` is `part 2`.
pub(super) fn part_name(number: usize) -> String {
    format!("{PART}{number}")
}

/// The number of the part of an answer that has this name.
pub(super) fn part_number(name: &str) -> Option<usize> {
    name.strip_prefix(PART)?.parse().ok()
}

/// The names in `(x, y)`.
pub(super) fn tuple_of_names(tokens: &[Token]) -> Option<Vec<String>> {
    let (Kind::Open('('), inner, Kind::Close(')')) = bracketed(tokens)? else { return None };
    let names: Vec<String> =
        split(inner, |token| is_sign(token, ',')).into_iter().map(name_of).collect::<Option<_>>()?;
    (names.len() > 1).then_some(names)
}

/// `A:B`, `a/b`, `\frac{AB}{CD}`, and the derivative `\frac{dy}{dx}`.
fn is_ratio(tokens: &[Token]) -> bool {
    if let [Token { kind: Kind::Command(frac), .. }, rest @ ..] = tokens
        && frac == "frac"
        && let Some(([above, below], [])) = arguments(rest)
    {
        return is_unknown(above) && is_unknown(below) || is_derivative(rest);
    }
    let parts = split(tokens, |token| is_sign(token, ':') || is_sign(token, '/'));
    parts.len() > 1 && parts.into_iter().all(is_unknown)
}

/// The two arguments that the tokens begin with, what is in braces or one token, and what is behind them.
pub(super) fn arguments(tokens: &[Token]) -> Option<([&[Token]; 2], &[Token])> {
    let (above, rest) = argument(tokens)?;
    let (below, rest) = argument(rest)?;
    Some(([above, below], rest))
}

/// The argument that the tokens begin with, and what is behind it.
fn argument(tokens: &[Token]) -> Option<(&[Token], &[Token])> {
    let (argument, rest) = tokens.split_at_checked(bracket(tokens).max(1))?;
    match bracketed(argument) {
        Some((Kind::Group, inner, _)) => Some((inner, rest)),
        _ => (argument.len() == 1).then_some((argument, rest)),
    }
}

/// Whether these are the arguments of a fraction that is none: `{dy}{dx}`, `{d}{dx}`, `{d^2y}{dx^2}`.
pub(super) fn is_derivative(tokens: &[Token]) -> bool {
    let begins = |group: &[Token], letters: usize| match group.first() {
        Some(Token { kind: Kind::Command(upright), .. }) => upright == "d" && group.len() >= letters,
        Some(Token { kind: Kind::Word(word), .. }) => word.starts_with('d') && word.chars().count() >= letters,
        _ => false,
    };
    arguments(tokens).is_some_and(|([above, below], _)| begins(above, 1) && begins(below, 2))
}

/// A letter, a length, an angle, something in words, with an index, primes and arguments.
fn is_unknown(tokens: &[Token]) -> bool {
    match tokens {
        // A length; the absolute value of a letter does not say what the letter is.
        [bar, inner @ .., end] if ['|', '\u{2016}'].iter().any(|sign| is_sign(bar, *sign) && is_sign(end, *sign)) => {
            let is_small = |token: &Token| letter(token).is_some_and(|letter| !letter.starts_with(char::is_uppercase));
            operand(inner) == inner.len() && !inner.is_empty() && !inner.iter().take(1).any(is_small)
        }
        [Token { kind: Kind::Text(_), .. }, rest @ ..] => {
            let described = |token: &Token| matches!(&token.kind, Kind::Text(_)) || is_capitals(token);
            let is_called = matches!(bracketed(rest), Some((Kind::Open('('), ..)));
            rest.iter().all(described) || is_called || is_unknown(rest)
        }
        // `m\angle A`, `\Delta x`
        [prefix, rest @ ..] if prefixes(prefix, rest) => is_unknown(rest),
        _ => {
            let head = operand(tokens);
            head > 0 && is_attached(&tokens[..head], &tokens[head..])
        }
    }
}

fn prefixes(prefix: &Token, rest: &[Token]) -> bool {
    match (&prefix.kind, rest) {
        (Kind::Word(m), [Token { kind: Kind::Command(angle), .. }, ..]) => m == "m" && angle == "angle",
        (Kind::Command(delta), [one, ..]) => delta == "Delta" && letter(one).is_some(),
        _ => false,
    }
}

/// How many tokens at the beginning are a letter or a name of several: `x`, `AB`, `\overline{AB}`.
fn operand(tokens: &[Token]) -> usize {
    match tokens {
        [Token { kind: Kind::Command(name), .. }, rest @ ..] if is_decoration(name) => match rest {
            [Token { kind: Kind::Group, .. }, one, Token { kind: Kind::EndGroup, .. }, ..] if is_label(one) => 4,
            [one, ..] if is_label(one) => 2,
            _ => 0,
        },
        [Token { kind: Kind::Group, .. }, one, Token { kind: Kind::EndGroup, .. }, ..] if is_head(one) => 3,
        [one, ..] if is_head(one) => 1,
        _ => 0,
    }
}

/// The letter that a token is, if it is not the number `e` or `i`.
fn letter(token: &Token) -> Option<&str> {
    match &token.kind {
        Kind::Word(word) if word.chars().count() == 1 && !matches!(word.as_str(), "e" | "i") => Some(word),
        Kind::Command(name) if is_greek(name) => Some(name),
        _ => None,
    }
}

fn is_head(token: &Token) -> bool {
    letter(token).is_some() || is_capitals(token)
}

fn is_capitals(token: &Token) -> bool {
    matches!(&token.kind, Kind::Word(word) if word.chars().count() > 1 && word.chars().all(char::is_uppercase))
}

fn is_label(token: &Token) -> bool {
    matches!(&token.kind, Kind::Word(_) | Kind::Number(_)) || letter(token).is_some()
}

/// Whether what stands behind a letter belongs to its name: `_1`, `'`, `(x)`.
fn is_attached(head: &[Token], tail: &[Token]) -> bool {
    match tail {
        [] => true,
        [prime, rest @ ..] if is_sign(prime, '\'') => is_attached(head, rest),
        [index, rest @ ..] if is_sign(index, '_') => match rest {
            [Token { kind: Kind::Group, .. }, ..] => is_attached(head, &rest[bracket(rest)..]),
            [one, rest @ ..] => is_label(one) && is_attached(head, rest),
            [] => false,
        },
        _ if is_inverse(tail) => is_attached(head, &tail[INVERSE_TOKENS..]),
        _ => match (bracketed(tail), head) {
            (Some((Kind::Open('(' | '['), arguments, Kind::Close(_))), [one]) => match letter(one) {
                // Of an event: `P(A|B)`, `P(X > 2)`.
                Some("P" | "E") => !arguments.is_empty(),
                Some(letter) => is_call(letter, arguments) == Some(true),
                None => is_capitals(one),
            },
            _ => false,
        },
    }
}

/// How many tokens `^{-1}` has.
pub(super) const INVERSE_TOKENS: usize = 5;

/// Whether the inverse of a function is called here: `^{-1}(`. As a power it would have its argument before it.
pub(super) fn is_inverse(tokens: &[Token]) -> bool {
    match tokens {
        [hat, group, minus, Token { kind: Kind::Number(one), .. }, end, call, ..] => {
            let kinds = [&hat.kind, &group.kind, &minus.kind, &end.kind, &call.kind];
            let expected = [Kind::Sign('^'), Kind::Group, Kind::Sign('-'), Kind::EndGroup, Kind::Open('(')];
            kinds.into_iter().eq(&expected) && one.digits == "1"
        }
        _ => false,
    }
}

/// Whether a letter is a function of what stands in brackets behind it, rather than a factor before them; `None` if it
/// may be either.
pub(super) fn is_call(letter: &str, arguments: &[Token]) -> Option<bool> {
    // Nobody puts a factor that is one number or letter in brackets.
    let is_lone = |part: &[Token]| match part {
        [one] => is_label(one),
        [sign, one] => is_sign(sign, '-') && is_label(one),
        _ => false,
    };
    let own = |token: &Token| matches!(&token.kind, Kind::Word(name) | Kind::Command(name) if name == letter);
    match letter {
        "f" | "g" | "h" | "F" | "G" | "H" => Some(true),
        "e" | "i" => Some(false),
        _ if arguments.iter().any(own) => Some(false),
        _ if split(arguments, |token| is_sign(token, ',')).into_iter().all(is_lone) => Some(true),
        "p" | "q" => None,
        _ if letter.starts_with(char::is_uppercase) || is_greek(letter) => None,
        _ => Some(false),
    }
}

/// The text of tokens, with spaces only where one would run into the next. A group of one token needs no braces.
fn spelled(tokens: &[Token]) -> String {
    let mut text = String::new();
    let mut rest = tokens;
    while let [first, after @ ..] = rest {
        let (token, after) = match after {
            [inner, end, after @ ..] if first.kind == Kind::Group && end.kind == Kind::EndGroup => (inner, after),
            _ => (first, after),
        };
        let word = match &token.kind {
            Kind::Word(word) => word.clone(),
            Kind::Command(name) => format!("\\{name}"),
            Kind::Number(literal) => literal.value.to_string(),
            Kind::Text(words) => folded(words),
            Kind::Open(bracket) | Kind::Close(bracket) | Kind::Sign(bracket) => bracket.to_string(),
            Kind::Group => "{".into(),
            Kind::EndGroup => "}".into(),
            other => format!("{other:?}"),
        };
        if text.ends_with(char::is_alphanumeric) && word.starts_with(char::is_alphanumeric) {
            text.push(' ');
        }
        text.push_str(&word);
        rest = after;
    }
    text
}

/// Words in lower case, but for initials.
fn folded(words: &str) -> String {
    let words = words.trim();
    if words.chars().all(char::is_uppercase) { words.to_owned() } else { words.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        name_of(&crate::grading::lex::tokens(text).unwrap())
    }

    #[test]
    fn a_name_is_one_unknown_or_a_ratio_of_unknowns() {
        for (text, expected) in [
            ("x", "x"),
            ("x_{1}", "x_1"),
            ("x_{12}'", "x_12'"),
            ("AB", "AB"),
            ("|AB|", "|AB|"),
            ("\\overline{AB}", "\\overline AB"),
            ("m\\angle ABC", "m\\angle ABC"),
            ("f^{-1}(x)", "f^{-1}(x)"),
            ("f(1, 2)", "f(1,2)"),
            ("{v}", "v"),
            ("{v}_1", "v_1"),
            ("\\Delta x", "\\Delta x"),
            ("E[X]", "E[X]"),
            ("\\text{Var}(X)", "var(X)"),
            ("P(A|B)", "P(A|B)"),
            ("A:B", "A:B"),
            ("\\frac{dy}{dx}", "\\frac dy dx"),
            ("\\text{Area of }ABC", "area of ABC"),
        ] {
            assert_eq!(name(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_formula_is_no_name() {
        for text in
            ["e", "2x", "xy", "x^2", "|x|", "\\frac{x}{2}", "x/2", "x_1 y", "\\overline{A}B", "x(x+1)", "f(x)+1", ""]
        {
            assert_eq!(name(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_shows_where_its_parts_end() {
        assert_ne!(name("f(1 2)"), name("f(12)"));
        assert_ne!(name("x_{1y}"), name("x_{1}"));
        assert_ne!(name("\\text{AB}"), name("\\text{ab}"));
    }
}
