//! Exact reading of plain numbers: integers, decimals and fractions of integers, as people and LaTeX write them.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Zero;

/// The most digits that one number may have. Reducing a fraction takes time that grows with the square of its digits;
/// a thousand take microseconds, and no answer to a question is longer. A longer number is compared as text.
const MAX_DIGITS: usize = 1000;

/// Reads the number that `text` starts with; returns its value and its length in bytes. `None` where there is no
/// number, or where what follows could belong to it: `12abc`, `1,23`, `2^10`, `50%`, `0.333...`, `1.2.3`.
pub(super) fn leading(text: &str) -> Option<(BigRational, usize)> {
    let mut cursor = Cursor { rest: text };
    let negative = cursor.sign();
    let value = match cursor.latex_fraction() {
        Some(fraction) => fraction?,
        None => cursor.plain()?,
    };
    ends_a_number(cursor.rest).then(|| (if negative { -value } else { value }, text.len() - cursor.rest.len()))
}

/// Whether a number that is followed by `rest` is complete.
fn ends_a_number(rest: &str) -> bool {
    const CLOSING: [char; 12] = ['.', ',', ';', ':', '?', ')', ']', '}', '$', '*', '"', '\''];
    if rest.starts_with("..") {
        return false;
    }
    let after = rest.trim_start_matches(CLOSING);
    if after.len() < rest.len() {
        !after.starts_with(char::is_alphanumeric)
    } else {
        rest.is_empty() || rest.starts_with(|c: char| c.is_whitespace() || c == '+' || c == '=')
    }
}

/// What is left to read.
struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn eat(&mut self, prefix: &str) -> bool {
        let stripped = self.rest.strip_prefix(prefix);
        self.rest = stripped.unwrap_or(self.rest);
        stripped.is_some()
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    /// Whether there was a minus, in ASCII or typeset (U+2212). A plus is read over.
    fn sign(&mut self) -> bool {
        let negative = self.eat("-") || self.eat("\u{2212}");
        if !negative {
            self.eat("+");
        }
        negative
    }

    /// `12`, `1,234.5`, `.5`, `3/4`.
    fn plain(&mut self) -> Option<BigRational> {
        let integer = self.grouped_digits();
        let decimals = self.decimals();
        if integer.is_empty() && decimals.is_empty() {
            return None;
        }
        if decimals.is_empty()
            && let Some(fraction) = self.denominator(&integer)
        {
            return fraction;
        }
        let scale = BigInt::from(10).pow(u32::try_from(decimals.len()).ok()?);
        ratio(parse(&(integer + &decimals))?, scale)
    }

    /// What follows the numerator of `a/b` or `a / b`. `None` if there is no denominator, and then nothing is read;
    /// `Some(None)` if the quotient is not a number.
    fn denominator(&mut self, numerator: &str) -> Option<Option<BigRational>> {
        let before = self.rest;
        self.skip_space();
        if self.eat("/") {
            self.skip_space();
            let negative = self.sign();
            let digits = self.grouped_digits();
            if !digits.is_empty() {
                return Some(quotient(parse(numerator), parse(&digits), negative));
            }
        }
        self.rest = before;
        None
    }

    /// `\frac{a}{b}`, `\dfrac`, `\tfrac`, and `\frac12`. `None` if there is none; `Some(None)` if its parts are not
    /// integers or the lower one is zero.
    fn latex_fraction(&mut self) -> Option<Option<BigRational>> {
        if !(self.eat("\\frac") || self.eat("\\dfrac") || self.eat("\\tfrac")) {
            return None;
        }
        let upper = self.argument();
        let lower = self.argument();
        Some(quotient(upper, lower, false))
    }

    /// An argument of a LaTeX command: an integer in braces or a single digit.
    fn argument(&mut self) -> Option<BigInt> {
        self.skip_space();
        if !self.eat("{") {
            let digit = self.rest.get(..1).filter(|digit| digit.bytes().all(|b| b.is_ascii_digit()))?;
            self.rest = &self.rest[1..];
            return parse(digit);
        }
        self.skip_space();
        let negative = self.sign();
        let value = parse(&self.grouped_digits())?;
        self.skip_space();
        self.eat("}").then(|| if negative { -value } else { value })
    }

    /// A run of digits, or groups of three behind commas; empty if there is none. What is no such grouping, as in
    /// `1,23` or `0,123`, is left unread.
    fn grouped_digits(&mut self) -> String {
        let mut digits = self.digits().to_owned();
        if digits.len() > 3 || digits.starts_with('0') || digits.is_empty() {
            return digits;
        }
        while let Some(after) = self.rest.strip_prefix(',') {
            let mut ahead = Cursor { rest: after };
            let group = ahead.digits();
            if group.len() != 3 {
                break;
            }
            digits.push_str(group);
            self.rest = ahead.rest;
        }
        digits
    }

    /// The digits behind a decimal point; empty, and nothing is read, if the point has none.
    fn decimals(&mut self) -> String {
        let mut ahead = Cursor { rest: self.rest };
        let digits = if ahead.eat(".") { ahead.digits() } else { "" };
        if !digits.is_empty() {
            self.rest = ahead.rest;
        }
        digits.to_owned()
    }
}

impl<'a> Cursor<'a> {
    fn digits(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits
    }
}

fn parse(digits: &str) -> Option<BigInt> {
    if digits.is_empty() || digits.len() > MAX_DIGITS { None } else { BigInt::parse_bytes(digits.as_bytes(), 10) }
}

fn quotient(upper: Option<BigInt>, lower: Option<BigInt>, negative: bool) -> Option<BigRational> {
    let value = ratio(upper?, lower?)?;
    Some(if negative { -value } else { value })
}

fn ratio(upper: BigInt, lower: BigInt) -> Option<BigRational> {
    (!lower.is_zero()).then(|| BigRational::new(upper, lower))
}
