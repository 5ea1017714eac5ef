//! Congruences of one unknown.

use num_bigint::BigInt;
use num_traits::Signed;

use super::{
    form::Form,
    lex::{Kind, Token},
    names::name_of,
    read::{bracketed, is_sign, junction, outer, split},
};

/// Whether these tokens have the sign of a congruence.
pub(super) fn is_congruence(tokens: &[Token]) -> bool {
    sign(tokens).is_some()
}

fn sign(tokens: &[Token]) -> Option<usize> {
    outer(tokens).find(|(_, token)| token.kind == Kind::Command("equiv".into())).map(|(at, _)| at)
}

/// `x \equiv 7 \pmod 5`: what `x` is, is `2 mod 5` in words, and one of several for `x \equiv 1, 4 \pmod 5`. Others than of
/// integers are not understood.
pub(super) fn congruence(tokens: &[Token]) -> Option<Form> {
    let at = sign(tokens)?;
    let (name, behind) = (name_of(&tokens[..at])?, &tokens[at + 1..]);
    let mark = behind.iter().position(is_mark)?;
    let (residue, modulus) = match (&behind[..mark], &behind[mark + 1..]) {
        // `(mod 5)`
        ([residue @ .., open], [modulus @ .., close])
            if open.kind == Kind::Open('(') && close.kind == Kind::Close(')') =>
        {
            (residue, modulus)
        }
        bare => bare,
    };
    let modulus = integer(modulus).filter(BigInt::is_positive)?;
    let class = |residue: &[Token]| {
        let least = ((integer(residue)? % &modulus) + &modulus) % &modulus;
        Some(Form::Text(format!("{least} mod {modulus}")))
    };
    let separates = |token: &Token| is_sign(token, ',') || junction(token).is_some();
    let parts = split(residue, separates).into_iter().filter(|part| !part.is_empty());
    let mut classes: Vec<Form> = parts.map(class).collect::<Option<_>>()?;
    let classes = match classes.len() {
        0 => return None,
        1 => classes.remove(0),
        _ => Form::Values(classes),
    };
    Some(Form::Named(name, Box::new(classes)))
}

/// The modulus of the class that a form names.
pub(super) fn modulus(class: &Form) -> Option<&str> {
    match class {
        Form::Text(text) => text.split_once(" mod ").map(|(_, modulus)| modulus),
        Form::Values(classes) => classes.first().and_then(modulus),
        _ => None,
    }
}

/// `\pmod`, `\bmod`, `\mod`, and the word.
fn is_mark(token: &Token) -> bool {
    match &token.kind {
        Kind::Command(name) => matches!(name.as_str(), "pmod" | "bmod" | "mod"),
        Kind::Word(word) | Kind::Text(word) => word.trim() == "mod",
        _ => false,
    }
}

fn integer(tokens: &[Token]) -> Option<BigInt> {
    let tokens = if let Some((Kind::Group, inner, _)) = bracketed(tokens) { inner } else { tokens };
    match tokens {
        [sign, rest @ ..] if rest.len() == 1 && is_sign(sign, '-') => integer(rest).map(|value| -value),
        [Token { kind: Kind::Number(literal), .. }] => {
            literal.value.is_integer().then(|| literal.value.numer().clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grading::{clean::clean, lex::tokens};

    fn read(text: &str) -> Option<Form> {
        congruence(&tokens(&clean(text)).unwrap())
    }

    #[test]
    fn the_least_residue_is_the_one_that_is_named() {
        let two = Form::Named("x".into(), Box::new(Form::Text("2 mod 5".into())));
        for text in [
            r"x \equiv 2 \pmod 5",
            r"x\equiv 2\pmod{5}",
            r"x \equiv -3 \pmod{5}",
            r"x \equiv 12 \mod 5",
            "x ≡ 2 (mod 5)",
            r"x \equiv 2\ (\text{mod } 5)",
        ] {
            assert_eq!(read(text), Some(two.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_no_integer_of_one_unknown_is_no_congruence() {
        for text in [
            r"2x \equiv 3 \pmod 5",
            r"x \equiv a \pmod n",
            r"x \equiv 2 \pmod{-5}",
            r"x \equiv 2",
            r"x\equiv\pmod5",
            r"x \equiv \frac12 \pmod 5",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
