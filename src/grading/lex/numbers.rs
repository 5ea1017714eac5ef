//! Numbers among the tokens.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::One;

use super::{Kind, Lexer, Literal};
use crate::grading::budget::MAX_DIGITS;

impl Lexer<'_> {
    /// `12`, `1,234.5`, `.5`, `0.1\overline{6}`, `1.5e3`, `0.333...`
    pub(super) fn number(&mut self) -> Option<Kind> {
        let mut digits = self.digits().to_owned();
        self.groups(&mut digits);
        let has_point = self.rest().starts_with('.') && {
            let after = &self.rest()[1..];
            after.starts_with(|c: char| c.is_ascii_digit())
                || ["\\overline", "\\bar", "\\dot", "("].iter().any(|mark| after.starts_with(mark))
        };
        let (mut decimals, mut block) = (String::new(), String::new());
        if has_point {
            self.at += 1;
            decimals = self.digits().to_owned();
            block = self.repeating(decimals.is_empty())?;
        } else if !digits.is_empty() && self.eat("{,}") {
            // Not a group of three: a decimal comma in LaTeX.
            decimals = self.digits().to_owned();
        } else if self.rest() == "." || self.rest().starts_with(". ") {
            self.at += 1;
        }
        if self.rest().starts_with("...") && !decimals.is_empty() && block.is_empty() {
            self.at += 3;
            let Some((head, repeated)) = repetition(&decimals) else { return Some(Kind::Unknown) };
            (decimals, block) = (head, repeated);
        }
        if digits.len() + decimals.len() + block.len() > 1200 {
            return None;
        }
        let mut value = decimal(&digits, &decimals)?;
        if !block.is_empty() {
            let nines = BigInt::from(10).pow(u32::try_from(block.len()).ok()?) - 1;
            let scale = BigInt::from(10).pow(u32::try_from(decimals.len()).ok()?);
            value += BigRational::new(BigInt::parse_bytes(block.as_bytes(), 10)?, nines * scale);
        }
        let exponent = self.exponent();
        self.digits += digits.len() + decimals.len() + block.len() + exponent.map_or(0, i32::unsigned_abs) as usize;
        if self.digits > MAX_DIGITS {
            return None;
        }
        if let Some(exponent) = exponent {
            let power = BigRational::from_integer(BigInt::from(10).pow(exponent.unsigned_abs()));
            value = if exponent < 0 { value / power } else { value * power };
        }
        let plain = decimals.is_empty() && block.is_empty() && exponent.is_none();
        let places = (!decimals.is_empty() && block.is_empty() && exponent.is_none()).then_some(decimals.len() as u32);
        Some(Kind::Number(Literal { value, digits: if plain { digits } else { String::new() }, places }))
    }

    /// Groups of three digits behind commas or thin spaces.
    fn groups(&mut self, digits: &mut String) {
        if digits.len() > 3 || digits.is_empty() {
            return;
        }
        let separates = self.brackets.last().copied().unwrap_or(false);
        loop {
            let mark = ["{,}", "\u{2009}", ","].into_iter().find(|mark| self.rest().starts_with(mark));
            let Some(mark) = mark.filter(|mark| *mark != "," || (!separates && !digits.starts_with('0'))) else {
                return;
            };
            let after = self.rest()[mark.len()..].trim_start_matches(if mark == "," { '\u{2009}' } else { ' ' });
            let group = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            if group != 3 {
                return;
            }
            digits.push_str(&after[..3]);
            self.at = self.text.len() - after.len() + 3;
        }
    }

    /// The block of digits that repeats for ever; empty if none does. `None` for `0.5(3)`, which may be a product.
    fn repeating(&mut self, only: bool) -> Option<String> {
        for mark in ["\\overline", "\\bar", "\\dot"] {
            let before = self.at;
            if self.eat(mark) {
                let is_braced = self.rest().trim_start().starts_with('{');
                let block = if is_braced { self.braced()? } else { self.rest().get(..1).unwrap_or_default() };
                if !block.is_empty() && block.bytes().all(|b| b.is_ascii_digit()) {
                    if !self.text[..self.at].ends_with('}') {
                        self.at += 1;
                    }
                    let rest = if mark == "\\dot" { self.up_to_dot() } else { String::new() };
                    return Some(format!("{block}{rest}"));
                }
                self.at = before;
            }
        }
        if self.rest().starts_with('(') {
            let inner = self.rest()[1..].split(')').next()?;
            let is_block = !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_digit());
            if !only || !is_block || self.rest().len() == inner.len() + 1 {
                return None;
            }
            self.at += inner.len() + 2;
            return Some(inner.to_owned());
        }
        Some(String::new())
    }

    /// The digits up to the second dot over a block that repeats, `0.\dot12\dot3`; none if it has one dot.
    fn up_to_dot(&mut self) -> String {
        let before = self.at;
        let between = self.digits();
        let last = if !self.eat("\\dot") {
            None
        } else if self.rest().starts_with('{') {
            self.braced()
        } else {
            let digit = self.rest().get(..1);
            self.at += 1;
            digit
        };
        match last.filter(|last| last.len() == 1 && last.starts_with(|c: char| c.is_ascii_digit())) {
            Some(last) => format!("{between}{last}"),
            None => {
                self.at = before;
                String::new()
            }
        }
    }

    /// The exponent of scientific notation, up to 400.
    fn exponent(&mut self) -> Option<i32> {
        let after = self.rest().strip_prefix(['e', 'E'])?;
        let digits = after.strip_prefix(['+', '-']).unwrap_or(after);
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let ends = !digits[length..].starts_with(|c: char| c.is_alphanumeric() || c == '^' || c == '.');
        if length == 0 || length > 3 || !ends {
            return None;
        }
        let end = after.len() - digits.len() + length;
        let exponent: i32 = after[..end].parse().ok()?;
        if exponent.abs() > 400 {
            return None;
        }
        self.at += 1 + end;
        Some(exponent)
    }
}

fn decimal(digits: &str, decimals: &str) -> Option<BigRational> {
    let all = format!("0{digits}{decimals}");
    let scale = if decimals.is_empty() { BigInt::one() } else { BigInt::from(10).pow(decimals.len() as u32) };
    Some(BigRational::new(BigInt::parse_bytes(all.as_bytes(), 10)?, scale))
}

/// What an ellipsis behind these decimals must mean: the digits before the block that is repeated, and that block. It
/// has to be shown twice, a single digit three times.
fn repetition(decimals: &str) -> Option<(String, String)> {
    let found = |length: usize| {
        let times = if length == 1 { 3 } else { 2 };
        let start = decimals.len().checked_sub(length * times)?;
        let block = &decimals[decimals.len() - length..];
        let repeats = decimals.as_bytes()[start..].chunks(length).all(|chunk| chunk == block.as_bytes());
        (repeats && block.bytes().any(|b| b != b'0')).then(|| (decimals[..start].to_owned(), block.to_owned()))
    };
    (1..=decimals.len().min(60) / 2).find_map(found)
}
