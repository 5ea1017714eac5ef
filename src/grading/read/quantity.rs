//! Figures with units.

use num_rational::BigRational;

use super::{Reader, bracketed, is_sign, outer};
use crate::grading::{
    expression::Expression,
    form::Form,
    lex::{Kind, Token},
    parse::expression,
    unit::{is_currency, is_unit_word, scale, unit},
    vocabulary::is_formula_word,
    words::is_junction,
};

impl Reader<'_> {
    /// A figure with a unit before or behind it.
    pub(super) fn quantity(&self, tokens: &[Token]) -> Option<Form> {
        let (sign, rest) = match tokens {
            [sign, rest @ ..] if is_sign(sign, '-') => (&tokens[..1], rest),
            _ => (&[][..], tokens),
        };
        let (figure, unit_tokens) = match rest {
            [currency, figure @ ..] if is_currency(&currency.kind) => {
                // `$10 million`
                let words = figure.iter().position(|token| matches!(token.kind, Kind::Word(_) | Kind::Text(_)));
                let (figure, words) = figure.split_at(words.unwrap_or(figure.len()));
                ([sign, figure].concat(), [words, std::slice::from_ref(currency)].concat())
            }
            _ => {
                let starts = |(at, token): &(usize, &Token)| *at > 0 && starts_unit(token);
                let (at, _) = outer(rest).find(starts)?;
                ([sign, &rest[..at]].concat(), rest[at..].to_vec())
            }
        };
        let figure = Box::new(match bracketed(&figure) {
            Some((Kind::Group, inner, _)) => self.figure(inner)?,
            _ => self.figure(&figure)?,
        });
        let is_percent = match unit_tokens.as_slice() {
            [token] if is_sign(token, '%') => true,
            [Token { kind: Kind::Word(word) | Kind::Text(word), .. }] => {
                matches!(word.trim().to_lowercase().as_str(), "percent" | "pct" | "percentage")
            }
            _ => false,
        };
        if is_percent {
            return Some(Form::Percent(figure));
        }
        if let [Token { kind: Kind::Word(word) | Kind::Text(word), .. }, rest @ ..] = unit_tokens.as_slice()
            && let Some(scale) = scale(word)
            && let Some(value) = value_of(&figure)
        {
            let scaled = Expression::Product(vec![Expression::Number(BigRational::from_integer(scale.into())), value]);
            if rest.is_empty() {
                return Some(Form::Scalar(scaled));
            }
            let (unit, factor) = unit(rest)?;
            return Some(Form::Quantity { figure: Box::new(Form::Scalar(scaled)), unit, factor });
        }
        let (unit, factor) = unit(&unit_tokens)?;
        Some(Form::Quantity { figure, unit, factor })
    }

    fn figure(&self, tokens: &[Token]) -> Option<Form> {
        self.scalar(expression(tokens)?, tokens).filter(|form| matches!(form, Form::Scalar(_) | Form::Decimal(..)))
    }
}

/// The number that a figure is.
fn value_of(figure: &Form) -> Option<Expression> {
    match figure {
        Form::Scalar(expression) => Some(expression.clone()),
        Form::Decimal(value, _) => Some(Expression::Number(value.clone())),
        _ => None,
    }
}

/// Whether a unit begins here, behind a number.
fn starts_unit(token: &Token) -> bool {
    match &token.kind {
        Kind::Text(text) => !is_junction(text),
        Kind::Word(word) => {
            is_unit_word(word)
                || matches!(word.to_lowercase().as_str(), "percent" | "pct" | "percentage" | "square" | "cubic" | "sq")
                || (token.spaced && word.chars().count() > 2 && !is_formula_word(word))
        }
        Kind::Sign('%' | '\u{b0}') => true,
        kind => is_currency(kind),
    }
}
