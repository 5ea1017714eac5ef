//! Figures with units.

use num_rational::BigRational;

use super::{Reader, bracketed, is_sign, outer};
use crate::grading::{
    expression::Expression,
    form::Form,
    lex::{Gap, Kind, Token},
    names::arguments,
    parse::expression,
    unit::{is_currency, is_known, is_unit_word, money_scale, scale, unit},
    vocabulary::is_formula_word,
    words::is_junction,
};

impl Reader<'_> {
    /// A figure with a unit before or behind it.
    pub(super) fn quantity(&self, tokens: &[Token]) -> Option<Form> {
        if let Some(tokens) = with_slash(tokens) {
            return self.quantity(&tokens);
        }
        let (sign, rest) = match tokens {
            [sign, rest @ ..] if is_sign(sign, '-') => (&tokens[..1], rest),
            _ => (&[][..], tokens),
        };
        let (figure, unit_tokens) = match rest {
            [currency, figure @ ..] if is_currency(&currency.kind) => {
                let words = figure.iter().position(|token| matches!(token.kind, Kind::Word(_) | Kind::Text(_)));
                // `$12/hour`
                let slash = words.filter(|at| *at > 0 && is_sign(&figure[at - 1], '/')).map(|at| at - 1);
                let (figure, words) = figure.split_at(slash.or(words).unwrap_or(figure.len()));
                // `$10 million`, `$10 per hour`
                let (scale, rest) = words.split_at(words.len().min(usize::from(scales_money(words))));
                ([sign, figure].concat(), [scale, std::slice::from_ref(currency), rest].concat())
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
        if is_percent(&unit_tokens) {
            return Some(Form::Percent(figure));
        }
        let Some((scaled, rest)) = scaled_by(&figure, &unit_tokens) else {
            return Some(Form::Quantity { figure, measure: unit(&unit_tokens)? });
        };
        if rest.is_empty() {
            return Some(scaled);
        }
        Some(Form::Quantity { figure: Box::new(scaled), measure: unit(rest)? })
    }

    fn figure(&self, tokens: &[Token]) -> Option<Form> {
        if is_several(tokens) {
            return None;
        }
        self.scalar(expression(tokens)?, tokens).filter(|form| matches!(form, Form::Scalar(_) | Form::Decimal(..)))
    }
}

/// `30\u{b0}15'20''`: an angle in degrees, minutes and seconds, of which only the last may be a decimal.
pub(super) fn angle(tokens: &[Token]) -> Option<Form> {
    let [degrees, degree, minutes, prime, seconds @ ..] = tokens else { return None };
    let number = |token: &Token| match &token.kind {
        Kind::Number(literal) => Some(literal.value.clone()),
        _ => None,
    };
    let seconds = match seconds {
        [] => None,
        [seconds, one, two] if is_sign(one, '\'') && is_sign(two, '\'') => Some(number(seconds)?),
        [seconds, quote] if is_sign(quote, '"') => Some(number(seconds)?),
        _ => return None,
    };
    let (degrees, minutes, sixty) = (number(degrees)?, number(minutes)?, BigRational::from_integer(60.into()));
    let is_angle = is_sign(degree, '\u{b0}') && is_sign(prime, '\'') && degrees.is_integer() && minutes < sixty;
    let goes_on = seconds.as_ref().is_none_or(|seconds| minutes.is_integer() && *seconds < sixty);
    let all_minutes = minutes + seconds.unwrap_or_default() / &sixty;
    let figure = Box::new(Form::Scalar(Expression::Number(degrees + all_minutes / sixty)));
    let measure = unit(std::slice::from_ref(degree))?;
    (is_angle && goes_on).then_some(Form::Quantity { figure, measure })
}

/// `60\frac{\text{km}}{\text{h}}` as 60 km/h.
fn with_slash(tokens: &[Token]) -> Option<Vec<Token>> {
    let is_unit = |token: &Token| match &token.kind {
        Kind::Text(_) => true,
        Kind::Word(word) => is_known(word),
        _ => false,
    };
    let at = tokens.iter().position(|token| token.kind == Kind::Command("frac".into()))?;
    let (figure, fraction) = (&tokens[..at], &tokens[at + 1..]);
    let ([above, below], []) = arguments(fraction)? else { return None };
    let slash = Token { kind: Kind::Sign('/'), gap: Gap::None };
    [above, below]
        .into_iter()
        .all(|unit| unit.first().is_some_and(is_unit))
        .then(|| [figure, above, &[slash], below].concat())
}

/// Whether these are two numbers rather than their difference or their product: `5-6 hours`, `1-1/2 cups`, `5\u{d7}6
/// cm`.
fn is_several(figure: &[Token]) -> bool {
    match figure {
        [Token { kind: Kind::Number(_), .. }, sign, Token { kind: Kind::Number(right), .. }, rest @ ..] => {
            let is_power = right.digits == "10" && rest.first().is_some_and(|token| is_sign(token, '^'));
            is_sign(sign, '-') || is_sign(sign, '*') && !is_power
        }
        _ => false,
    }
}

/// Whether a unit is a sign or a word for percent.
fn is_percent(unit: &[Token]) -> bool {
    let words: String = unit
        .iter()
        .map(|token| match &token.kind {
            Kind::Word(word) | Kind::Text(word) => word.trim().to_lowercase(),
            _ if is_sign(token, '%') => "%".into(),
            _ => "?".into(),
        })
        .collect();
    matches!(words.as_str(), "%" | "percent" | "per cent" | "pct" | "percentage")
}

/// Whether words behind an amount of money begin with a scale: `$5 million`, `$5M`.
fn scales_money(words: &[Token]) -> bool {
    matches!(words, [Token { kind: Kind::Word(word) | Kind::Text(word), .. }, ..] if money_scale(word).is_some())
}

/// A figure times the scale that its unit begins with, and the rest of the unit: `5 million dollars`.
fn scaled_by<'a>(figure: &Form, unit: &'a [Token]) -> Option<(Form, &'a [Token])> {
    let [Token { kind: Kind::Word(word) | Kind::Text(word), .. }, rest @ ..] = unit else { return None };
    let is_money = rest.first().is_some_and(|token| is_currency(&token.kind));
    let scale = if is_money { money_scale(word)? } else { scale(word)? };
    let scale = Expression::Number(BigRational::from_integer(scale.into()));
    Some((Form::Scalar(Expression::Product(vec![scale, value_of(figure)?])), rest))
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
                || (token.is_spaced() && word.chars().count() > 2 && !is_formula_word(word))
        }
        Kind::Sign('%' | '\u{b0}') => true,
        kind => is_currency(kind),
    }
}
