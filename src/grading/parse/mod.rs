//! From tokens to an expression: a recursive descent that refuses what is ambiguous.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive};

mod named;

use super::{
    budget::MAX_DEPTH,
    expression::{Expression, Function},
    lex::{Gap, Kind, Literal, Token},
    matrix,
    order::transposes,
    read::{bracket, is_sign},
    vocabulary::{is_formula_word, letters},
};

/// The expression that all of the tokens are; `None` if they are none, or may be two different ones.
pub(super) fn expression(tokens: &[Token]) -> Option<Expression> {
    let mut parser = Parser { tokens, at: 0, split: 0, depth: 0, letters: 0, in_bars: false };
    let expression = parser.group()?;
    (parser.at == tokens.len()).then_some(expression)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// How many digits of the number at `at` are used up: in `\frac12` it is the numerator and the denominator.
    split: usize,
    depth: usize,
    /// How many letters have been factors.
    letters: usize,
    /// Whether a bar would end an absolute value.
    in_bars: bool,
}

fn is_bar(token: &Token) -> bool {
    is_sign(token, '|') || is_sign(token, '\u{2016}')
}

/// Whether an expression is a letter that matrices have.
fn is_capital(expression: &Expression) -> bool {
    matches!(expression, Expression::Variable(name) if name.len() == 1 && name.starts_with(char::is_uppercase))
}

/// `n!!`, the product of every second number up to `n`.
fn double_factorial(of: &Expression) -> Option<Expression> {
    const LARGEST: u32 = 100;
    let Expression::Number(n) = of else { return None };
    let n = n.is_integer().then(|| n.numer().to_u32()).flatten().filter(|n| *n <= LARGEST)?;
    let product = (1..=n).rev().step_by(2).fold(BigInt::from(1), |product, factor| product * factor);
    Some(Expression::Number(product.into()))
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn is(&self, sign: char) -> bool {
        self.peek() == Some(&Kind::Sign(sign))
    }

    fn eat(&mut self, kind: &Kind) -> bool {
        let found = self.split == 0 && self.peek() == Some(kind);
        self.at += usize::from(found);
        found
    }

    fn gap(&self) -> Gap {
        self.tokens.get(self.at).map_or(Gap::None, |token| token.gap)
    }

    /// What braces go around, or nothing: `a \over b` and `a \choose b` reach as far.
    fn group(&mut self) -> Option<Expression> {
        let above = self.sum()?;
        if self.eat(&Kind::Command("over".into())) {
            return Some(above.over(self.sum()?));
        }
        if self.eat(&Kind::Command("choose".into())) {
            return Some(Expression::Call(Function::Binomial, vec![above, self.sum()?]));
        }
        Some(above)
    }

    fn sum(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut terms = vec![self.signed_product()?];
        while self.split == 0 && (self.is('+') || self.is('-')) {
            let minus = self.is('-');
            let gap = self.gap();
            self.at += 1;
            // `-5\ -3` may be two numbers.
            if gap > Gap::Space && self.gap() == Gap::None {
                return None;
            }
            let term = self.signed_product()?;
            terms.push(if minus { term.negative() } else { term });
        }
        self.depth -= 1;
        Some(if terms.len() == 1 { terms.remove(0) } else { Expression::Sum(terms) })
    }

    fn signed_product(&mut self) -> Option<Expression> {
        let mut minus = false;
        let mut signs = 0;
        while self.is('-') || self.is('+') {
            minus ^= self.is('-');
            self.at += 1;
            signs += 1;
            if signs > 2 {
                return None;
            }
        }
        let product = self.product()?;
        Some(if minus { product.negative() } else { product })
    }

    fn product(&mut self) -> Option<Expression> {
        let start = self.at;
        let mut product = self.power()?;
        let mut quotients = 0;
        loop {
            if self.split > 0 {
                return None;
            }
            let (times, over) = (self.is('*'), self.is('/'));
            if times || over {
                self.at += 1;
                // `5/6/2020` is a date, if anything.
                quotients += usize::from(over);
                if quotients > 1 {
                    return None;
                }
                let minus = self.eat(&Kind::Sign('-'));
                // `1/2x` may be half of x, or half its inverse. Whoever sets the fraction off by a space means half.
                let is_product = self.is_product();
                let mut factor = self.power()?;
                let is_set_off = self.gap() != Gap::None && matches!(factor, Expression::Number(_));
                if over && self.has_product_with_d(start..self.at, &product, &factor) {
                    return None;
                }
                if over && (is_product || self.starts_factor(start) && !is_set_off) {
                    return None;
                }
                factor = if minus { factor.negative() } else { factor };
                product = if over { product.over(factor) } else { Expression::Product(vec![product, factor]) };
            } else if self.starts_factor(start) {
                // A number behind something is no factor of it, `x2`, `2 3`, but for factorials: `2!3!`.
                if matches!(self.peek(), Some(Kind::Number(_))) && !self.is_between_factorials() {
                    return None;
                }
                let factor = self.power()?;
                product = match product {
                    Expression::Product(mut factors) => {
                        factors.push(factor);
                        Expression::Product(factors)
                    }
                    first => Expression::Product(vec![first, factor]),
                };
            } else {
                return Some(product);
            }
        }
    }

    fn is_between_factorials(&self) -> bool {
        let is_mark = |at: Option<usize>| at.and_then(|at| self.tokens.get(at)).is_some_and(|t| is_sign(t, '!'));
        is_mark(self.at.checked_sub(1)) && is_mark(Some(self.at + 1))
    }

    /// Whether a factor of the product that started at that token begins here without a sign of multiplication.
    fn starts_factor(&self, start: usize) -> bool {
        match self.peek() {
            Some(Kind::Number(_) | Kind::Open('(' | '[') | Kind::Group | Kind::Begin) => true,
            // `|x|y|z|` may be |xyz|.
            Some(Kind::Sign('|' | '\u{2016}')) if !self.in_bars => {
                let before = &self.tokens[start..self.at];
                before.last().is_some_and(is_bar) || !before.iter().any(is_bar)
            }
            Some(Kind::Word(word)) => is_formula_word(word),
            Some(Kind::Command(name)) => {
                !matches!(name.as_str(), "rfloor" | "rceil" | "infty" | "to" | "text" | "over" | "choose")
            }
            _ => false,
        }
    }

    fn power(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let base = self.primary()?;
        let result = self.raised(base)?;
        self.depth -= 1;
        Some(result)
    }

    /// With the exponents and signs that follow.
    fn raised(&mut self, base: Expression) -> Option<Expression> {
        let mut value = base;
        loop {
            if self.split > 0 {
                return Some(value);
            }
            if self.eat(&Kind::Sign('!')) {
                // `5! !` is an exclamation.
                if self.tokens.get(self.at).is_some_and(|next| is_sign(next, '!') && next.is_spaced()) {
                    return None;
                }
                value = if self.eat(&Kind::Sign('!')) {
                    double_factorial(&value).filter(|_| !self.is('!'))?
                } else {
                    Expression::Call(Function::Factorial, vec![value])
                };
            } else if self.eat(&Kind::Sign('%')) {
                value = value.over(Expression::integer(100));
            } else if self.eat(&Kind::Sign('\u{b0}')) {
                value = Expression::Product(vec![value, Expression::Pi]).over(Expression::integer(180));
            } else if self.eat(&Kind::Sign('^')) {
                value = match self.transpose_sign().filter(|_| is_capital(&value)) {
                    Some(tokens) => {
                        self.at += tokens;
                        Expression::Opaque("transpose".to_owned(), vec![value])
                    }
                    None => value.raised_to(self.exponent()?),
                };
            } else {
                return Some(value);
            }
        }
    }

    /// How many tokens the sign of a transpose has that comes next: `T`, `{\top}`.
    fn transpose_sign(&self) -> Option<usize> {
        let rest = &self.tokens[self.at..];
        let length = bracket(rest).max(1);
        rest.get(..length).filter(|exponent| transposes(exponent)).map(|_| length)
    }

    /// Whether a word of several letters comes next, of which perhaps only the first is meant: `x^ab`, `a/bc`.
    fn is_product(&self) -> bool {
        matches!(self.peek(), Some(Kind::Word(word)) if word.len() > 1 && letters(word).is_some())
    }

    /// `x^{(2)}` is a derivative, if anything.
    fn is_order(&self) -> bool {
        let kinds = self.tokens[self.at..].iter().map(|token| &token.kind);
        matches!(
            kinds.take(5).collect::<Vec<_>>()[..],
            [Kind::Group, Kind::Open('('), Kind::Number(_) | Kind::Word(_), Kind::Close(')'), Kind::EndGroup]
        )
    }

    fn exponent(&mut self) -> Option<Expression> {
        let minus = self.eat(&Kind::Sign('-'));
        if self.is_product() || self.is_order() {
            return None;
        }
        let base = self.primary()?;
        // Towers are read from the top: a^b^c is a^(b^c).
        let exponent = if self.is('^') || self.is('!') { self.raised(base)? } else { base };
        Some(if minus { exponent.negative() } else { exponent })
    }

    fn primary(&mut self) -> Option<Expression> {
        match self.peek()? {
            Kind::Number(literal) => self.number(literal),
            Kind::Open('(') => self.bracketed(&Kind::Close(')')),
            Kind::Open('[') => self.bracketed(&Kind::Close(']')),
            Kind::Group => self.bracketed(&Kind::EndGroup),
            bar @ Kind::Sign('|' | '\u{2016}') => {
                // Which norm of a matrix two bars are is not known.
                let is_double = self.in_bars || *bar == Kind::Sign('\u{2016}');
                match self.bracketed(bar)? {
                    Expression::Matrix(rows) if !is_double => matrix::determinant(&rows),
                    Expression::Matrix(_) => None,
                    inner => Some(Expression::Call(Function::Abs, vec![inner])),
                }
            }
            Kind::Begin => self.matrix(),
            Kind::Word(word) => {
                self.at += 1;
                self.word(word)
            }
            Kind::Command(name) => {
                self.at += 1;
                self.command(name)
            }
            _ => None,
        }
    }

    fn bracketed(&mut self, close: &Kind) -> Option<Expression> {
        self.at += 1;
        let outside = std::mem::replace(&mut self.in_bars, matches!(close, Kind::Sign('|' | '\u{2016}')));
        let inner = if *close == Kind::EndGroup { self.group()? } else { self.sum()? };
        self.in_bars = outside;
        self.eat(close).then_some(inner)
    }

    fn number(&mut self, literal: &Literal) -> Option<Expression> {
        if self.split > 0 {
            return None;
        }
        // `2020-01-05` is no difference.
        let is_alone = self.tokens.iter().all(|token| matches!(token.kind, Kind::Number(_) | Kind::Sign('-' | '+')));
        if literal.digits.len() > 1 && literal.digits.starts_with('0') && !(is_alone && self.tokens.len() <= 2) {
            return None;
        }
        self.at += 1;
        let whole = Expression::Number(literal.value.clone());
        if literal.digits.is_empty() {
            return Some(whole);
        }
        let Some((fraction, tokens)) = self.proper_fraction() else { return Some(whole) };
        self.at += tokens;
        Some(Expression::Sum(vec![whole, fraction?]))
    }

    /// A fraction of two numbers behind an integer, which makes a mixed number of it, and how many tokens it has;
    /// `Some(None)` if it is none that belongs in one, so that it may be a factor: `2\frac{3}{2}`.
    fn proper_fraction(&self) -> Option<(Option<Expression>, usize)> {
        let rest = &self.tokens[self.at..];
        let number = |token: &Token| match &token.kind {
            Kind::Number(literal) if !literal.digits.is_empty() => Some(literal.value.clone()),
            _ => None,
        };
        let (above, below, tokens) = match rest {
            [Token { kind: Kind::Command(frac), .. }, rest @ ..] if frac == "frac" => {
                let mut inner = Parser { tokens: rest, at: 0, split: 0, depth: self.depth, letters: 0, in_bars: false };
                let (above, below) = (inner.numeral()?, inner.numeral()?);
                if inner.split > 0 {
                    return None;
                }
                (above, below, inner.at + 1)
            }
            [above, slash, below, ..]
                if slash.kind == Kind::Sign('/') && above.is_spaced() && !slash.is_spaced() && !below.is_spaced() =>
            {
                (number(above)?, number(below)?, 3)
            }
            _ => return None,
        };
        let is_proper = above.is_positive() && above < below && above.is_integer() && below.is_integer();
        let fraction = is_proper.then(|| Expression::Number(above).over(Expression::Number(below)));
        Some((fraction, tokens))
    }

    /// An argument of a LaTeX command: a group, or one digit, letter or command.
    fn argument(&mut self) -> Option<Expression> {
        match self.peek()? {
            Kind::Number(literal) if !literal.digits.is_empty() => {
                let digit = literal.digits.as_bytes().get(self.split)? - b'0';
                self.split += 1;
                if self.split == literal.digits.len() {
                    (self.at, self.split) = (self.at + 1, 0);
                }
                Some(Expression::integer(i64::from(digit)))
            }
            _ if self.split > 0 => None,
            Kind::Group => self.bracketed(&Kind::EndGroup),
            Kind::Word(word) if word.chars().count() == 1 => self.primary(),
            Kind::Command(_) => self.primary(),
            _ => None,
        }
    }

    /// An argument that is a number, which takes no deeper parsing.
    fn numeral(&mut self) -> Option<BigRational> {
        let number = |token: &Token| matches!(&token.kind, Kind::Number(literal) if !literal.digits.is_empty());
        let simple = match &self.tokens[self.at..] {
            [group, inner, end, ..] if group.kind == Kind::Group => number(inner) && end.kind == Kind::EndGroup,
            [digits, ..] => number(digits),
            [] => false,
        };
        match simple.then(|| self.argument())?? {
            Expression::Number(value) => Some(value),
            _ => None,
        }
    }

    fn matrix(&mut self) -> Option<Expression> {
        self.at += 1;
        let mut rows = vec![vec![]];
        loop {
            match self.peek()? {
                Kind::End => {
                    self.at += 1;
                    break;
                }
                Kind::Row => {
                    self.at += 1;
                    rows.push(vec![]);
                }
                _ => {
                    let entry = self.sum()?;
                    rows.last_mut()?.push(entry);
                    // Behind the sign between entries there is another one.
                    if self.eat(&Kind::Sign('&')) && matches!(self.peek()?, Kind::Row | Kind::End) {
                        return None;
                    }
                }
            }
        }
        // A line break behind the last row begins no other.
        if rows.last().is_some_and(Vec::is_empty) {
            rows.pop();
        }
        let columns = rows.first()?.len();
        (columns > 0 && rows.iter().all(|row| row.len() == columns)).then_some(Expression::Matrix(rows))
    }
}
