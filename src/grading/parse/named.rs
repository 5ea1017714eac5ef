//! Letters, functions and commands in formulas.

use std::ops::Range;

use super::Parser;
use crate::grading::{
    budget::MAX_LETTERS,
    expression::{Expression, Function},
    lex::{Gap, Kind, Token},
    names::{INVERSE_TOKENS, is_call, is_derivative, is_inverse},
    read::{bracket, bracketed, is_sign},
    unit::is_unit_word,
    vocabulary::{
        differential, each_letter, function, is_decoration, is_formula_word, is_greek, is_integrated, letters,
    },
};

impl Parser<'_> {
    pub(super) fn word(&mut self, word: &str) -> Option<Expression> {
        match word {
            "sqrt" => return self.plain_root(2),
            "cbrt" => return self.plain_root(3),
            "pi" => return self.pi(),
            "exp" => return Some(Expression::E.raised_to(self.function_argument()?)),
            _ => {}
        }
        if let Some(function) = function(word) {
            return self.call(function);
        }
        if let Some(variable) = self.variable_of(word) {
            let end = self.at + usize::from(word == "d");
            if self.is_differential(end)? {
                let name = format!("d{variable}");
                self.at = end;
                return self.symbol(&name);
            }
        }
        let letters = letters(word).or_else(|| self.is_term(word).then(|| each_letter(word)))?;
        self.letters += letters.len();
        if self.letters > MAX_LETTERS {
            return None;
        }
        // `xdx` is a product of three letters, or of two.
        if (1..letters.len()).any(|at| differential(&word[at..]).is_some() || self.variable_of(&word[at..]).is_some()) {
            return None;
        }
        let (last, first) = letters.split_last()?;
        let mut factors: Vec<Expression> = first.iter().map(|letter| constant_or_variable(letter)).collect();
        factors.push(self.symbol(last)?);
        if factors.len() == 1 {
            return factors.pop();
        }
        // An exponent belongs to the last letter only.
        let last = factors.pop()?;
        let last = self.raised(last)?;
        factors.push(last);
        Some(Expression::Product(factors))
    }

    /// The variable of a word that may begin a differential: `dx`, `d\theta`.
    fn variable_of<'w>(&'w self, word: &'w str) -> Option<&'w str> {
        match self.peek() {
            Some(Kind::Command(variable)) if word == "d" && is_integrated(variable) => Some(variable),
            _ => differential(word),
        }
    }

    /// Whether what may be a differential, and ends there, is one: a space sets it off from other factors, or it is all
    /// that there is, or that is above a line. Else it is a product, `2dr` or `cx^2 + dx + e`; `None` if nothing shows
    /// which it is, `e^xdx`.
    fn is_differential(&self, end: usize) -> Option<bool> {
        let start = self.at - 1;
        let next = self.tokens.get(end);
        if start == 0 && next.is_none() {
            return Some(true);
        }
        let is_factor = |token: &Token| {
            is_sign(token, '*')
                || token.is_spaced()
                    && matches!(token.kind, Kind::Word(_) | Kind::Command(_) | Kind::Group | Kind::Open(_))
        };
        match self.tokens[..start].last().map(|token| &token.kind) {
            Some(Kind::Group)
                if self.tokens[..start - 1].last().is_some_and(|token| token.kind == Kind::Command("frac".into()))
                    && next.is_some_and(|token| token.kind == Kind::EndGroup) =>
            {
                Some(true)
            }
            None | Some(Kind::Open(_) | Kind::Group | Kind::Begin | Kind::Sign('+' | '-' | '*' | '/' | '&')) => {
                Some(next.is_some_and(is_factor))
            }
            _ if self.tokens[start].is_spaced() => Some(true),
            Some(Kind::Number(_)) => Some(false),
            _ => None,
        }
    }

    /// Whether what was read as a product in these tokens, `dx`, may be a differential, as its variable is below the line:
    /// `\frac{2dx}{x}` is not `2d`.
    pub(super) fn has_product_with_d(&self, tokens: Range<usize>, above: &Expression, below: &Expression) -> bool {
        let d = Expression::Variable("d".to_owned());
        above.has(&d)
            && self.tokens[tokens].iter().any(|token| match &token.kind {
                Kind::Word(word) => {
                    differential(word).is_some_and(|own| below.has(&Expression::Variable(own.to_owned())))
                }
                _ => false,
            })
    }

    /// Whether a word of two letters that is also one of English is a product: `by` in `ax + by`.
    fn is_term(&self, word: &str) -> bool {
        let is_joint = |token: Option<&Token>| token.map(|token| is_sign(token, '+') || is_sign(token, '-'));
        let sides = [is_joint(self.tokens[..self.at - 1].last()), is_joint(self.tokens.get(self.at))];
        word.len() == 2
            && word.is_ascii()
            && !is_unit_word(word)
            && sides.contains(&Some(true))
            && !sides.contains(&Some(false))
    }

    fn plain_root(&mut self, degree: u32) -> Option<Expression> {
        let inner = match self.peek()? {
            Kind::Open('(') | Kind::Group => self.primary()?,
            Kind::Number(literal) => {
                self.at += 1;
                Expression::Number(literal.value.clone())
            }
            _ => self.argument()?,
        };
        Some(Expression::Root(Box::new(inner), degree))
    }

    /// A letter with what is attached to it: an index, primes, an argument.
    fn symbol(&mut self, letter: &str) -> Option<Expression> {
        let mut name = letter.to_owned();
        let mut index = vec![];
        if self.eat(&Kind::Sign('_')) {
            index.push(self.index()?);
        }
        while self.eat(&Kind::Sign('\'')) {
            name.push('\'');
        }
        if is_inverse(&self.tokens[self.at..]) {
            name.push_str("^-1");
            self.at += INVERSE_TOKENS;
        }
        let rest = &self.tokens[self.at..];
        if let Some((Kind::Open('(' | '['), arguments, _)) = bracketed(&rest[..bracket(rest)])
            && is_call(letter, arguments)?
        {
            index.extend(self.arguments()?);
            return Some(Expression::Opaque(format!("{name}()"), index));
        }
        if index.is_empty() {
            return Some(constant_or_variable(&name));
        }
        Some(Expression::Opaque(format!("{name}_"), index))
    }

    fn index(&mut self) -> Option<Expression> {
        match self.peek()? {
            Kind::Number(literal) => {
                self.at += 1;
                Some(Expression::Number(literal.value.clone()))
            }
            Kind::Group => match &self.tokens[self.at..] {
                [
                    _,
                    Token { kind: Kind::Word(word) | Kind::Text(word), .. },
                    Token { kind: Kind::EndGroup, .. },
                    ..,
                ] => {
                    self.at += 3;
                    Some(Expression::Variable(word.trim().to_owned()))
                }
                _ => self.bracketed(&Kind::EndGroup),
            },
            Kind::Word(word) => {
                self.at += 1;
                Some(Expression::Variable(word.clone()))
            }
            _ => None,
        }
    }

    pub(super) fn command(&mut self, name: &str) -> Option<Expression> {
        match name {
            "d" => match self.peek()? {
                Kind::Word(variable) | Kind::Command(variable) => {
                    self.at += 1;
                    self.symbol(&format!("d{variable}"))
                }
                _ => None,
            },
            "frac" if is_derivative(&self.tokens[self.at..]) => None,
            "frac" => {
                let start = self.at;
                let above = self.argument()?;
                let end = self.at;
                let below = self.argument()?;
                if self.has_product_with_d(start..end, &above, &below) { None } else { Some(above.over(below)) }
            }
            "sqrt" => self.root(),
            "pi" => self.pi(),
            "exp" => Some(Expression::E.raised_to(self.function_argument()?)),
            "binom" | "dbinom" | "tbinom" => {
                let arguments = vec![self.argument()?, self.argument()?];
                Some(Expression::Call(Function::Binomial, arguments))
            }
            "lfloor" => self.between(Function::Floor, "rfloor"),
            "lceil" => self.between(Function::Ceiling, "rceil"),
            "sum" | "prod" => self.over_index(name),
            _ if is_decoration(name) => self.decorated(name),
            _ if is_greek(name) => self.symbol(name).map(|symbol| match symbol {
                Expression::Variable(name) => Expression::Variable(format!("\\{name}")),
                other => other,
            }),
            _ => self.call(function(name)?),
        }
    }

    /// The number, unless it may be how many primes there are up to a letter: `\pi(x)`.
    fn pi(&self) -> Option<Expression> {
        let is_called = match &self.tokens[self.at..] {
            [open, Token { kind: Kind::Word(_), .. }, close, ..] => {
                open.kind == Kind::Open('(') && close.kind == Kind::Close(')')
            }
            _ => false,
        };
        (!is_called).then_some(Expression::Pi)
    }

    fn root(&mut self) -> Option<Expression> {
        let mut degree = 2;
        if self.peek() == Some(&Kind::Open('[')) {
            let (Some(Kind::Number(literal)), Some(Kind::Close(']'))) =
                (self.tokens.get(self.at + 1).map(|t| &t.kind), self.tokens.get(self.at + 2).map(|t| &t.kind))
            else {
                return None;
            };
            degree = literal.digits.parse().ok().filter(|degree| (2..=100).contains(degree))?;
            self.at += 3;
        }
        let inner = if self.peek() == Some(&Kind::Open('(')) { self.primary()? } else { self.argument()? };
        if self.split > 0 {
            // `\sqrt13` prints as a root of 1 before a 3.
            return None;
        }
        Some(Expression::Root(Box::new(inner), degree))
    }

    fn between(&mut self, function: Function, close: &str) -> Option<Expression> {
        let inner = self.sum()?;
        self.eat(&Kind::Command(close.to_owned())).then(|| Expression::Call(function, vec![inner]))
    }

    /// A name over or before letters: `\overline{AB}`.
    fn decorated(&mut self, name: &str) -> Option<Expression> {
        let rest = &self.tokens[self.at..];
        let (letters, tokens) = match rest {
            [
                Token { kind: Kind::Group, .. },
                Token { kind: Kind::Word(letters), .. },
                Token { kind: Kind::EndGroup, .. },
                ..,
            ] => (letters, 3),
            [Token { kind: Kind::Word(letters), .. }, ..] => (letters, 1),
            _ => return None,
        };
        self.at += tokens;
        // A vector has an arrow or is in bold; one of length one may have a hat.
        let is_vector = name == "mathbf" || name == "hat" && matches!(letters.as_str(), "i" | "j" | "k");
        let name = if is_vector { "vec" } else { name };
        Some(Expression::Variable(format!("\\{name} {letters}")))
    }

    /// `\sum_{k=a}^{b} ...`: only known to depend on its bounds and its body.
    fn over_index(&mut self, name: &str) -> Option<Expression> {
        let [
            Token { kind: Kind::Sign('_'), .. },
            Token { kind: Kind::Group, .. },
            Token { kind: Kind::Word(index), .. },
            Token { kind: Kind::Sign('='), .. },
            ..,
        ] = &self.tokens[self.at..]
        else {
            return None;
        };
        self.at += 4;
        let low = self.sum()?;
        if !self.eat(&Kind::EndGroup) || !self.eat(&Kind::Sign('^')) {
            return None;
        }
        let high = self.argument()?;
        let body = self.product()?;
        Some(Expression::Opaque(format!("{name} {index}"), vec![low, high, body]))
    }

    fn call(&mut self, function: Function) -> Option<Expression> {
        use Function::{Arccos, Arcsin, Arctan, Cos, Gcd, Lcm, Log, Max, Min, Sin, Tan};
        if matches!(function, Min | Max | Gcd | Lcm) {
            return Some(Expression::Call(function, self.arguments()?));
        }
        let mut base = Expression::integer(10);
        if function == Log && self.eat(&Kind::Sign('_')) {
            base = if matches!(self.peek(), Some(Kind::Number(_))) { self.argument()? } else { self.primary()? };
        }
        let mut exponent = None;
        if self.eat(&Kind::Sign('^')) {
            exponent = Some(self.exponent()?);
        }
        let argument = if self.split > 0 { self.rest_of_number()? } else { self.function_argument()? };
        let inverse = match (&exponent, function) {
            (Some(Expression::Negative(_)), Sin) => Arcsin,
            (Some(Expression::Negative(_)), Cos) => Arccos,
            (Some(Expression::Negative(_)), Tan) => Arctan,
            (Some(Expression::Negative(_)), _) => return None,
            _ => function,
        };
        if inverse != function {
            let is_minus_one = exponent == Some(Expression::integer(1).negative());
            return is_minus_one.then(|| Expression::Call(inverse, vec![argument]));
        }
        let arguments = if function == Log { vec![argument, base] } else { vec![argument] };
        let value = Expression::Call(function, arguments);
        Some(match exponent {
            Some(exponent) => value.raised_to(exponent),
            None => value,
        })
    }

    /// The digits behind one that is used up, which end their product: the 3 of `\log_23`. In `\log_10 x` both are the base.
    fn rest_of_number(&mut self) -> Option<Expression> {
        let Kind::Number(literal) = self.peek()? else { return None };
        let value =
            literal.digits[self.split..].parse().ok().filter(|_| !literal.digits[self.split..].starts_with('0'))?;
        (self.at, self.split) = (self.at + 1, 0);
        let goes_on = self.starts_factor(self.at) || ['^', '!', '%', '\u{b0}'].into_iter().any(|sign| self.is(sign));
        (!goes_on).then(|| Expression::integer(value))
    }

    /// What stands in brackets, between commas.
    fn arguments(&mut self) -> Option<Vec<Expression>> {
        if !self.eat(&Kind::Open('(')) && !self.eat(&Kind::Open('[')) {
            return None;
        }
        let mut arguments = vec![self.sum()?];
        while self.eat(&Kind::Sign(',')) {
            arguments.push(self.sum()?);
        }
        (self.eat(&Kind::Close(')')) || self.eat(&Kind::Close(']'))).then_some(arguments)
    }

    /// What stands in brackets behind a function; or one factor, before which there may be a number and pi. A space that is
    /// printed ends it. `None` if it may go on: `\sin x y`.
    fn function_argument(&mut self) -> Option<Expression> {
        if matches!(self.peek()?, Kind::Open('(') | Kind::Group) {
            return self.primary();
        }
        let mut factors = vec![];
        loop {
            let (first, start) = (self.peek()?, self.at);
            factors.push(self.power()?);
            let is_lone = self.at - start == 1;
            // `\sin xe^x`
            if !is_lone && matches!(first, Kind::Word(word) if letters(word).is_some_and(|letters| letters.len() > 1)) {
                return None;
            }
            let is_coefficient = is_lone && is_coefficient(first);
            if self.split > 0 || !self.continues_argument() {
                break;
            }
            // A period is not left in the argument of `\cos 2\pi\,t`, nor is it out of it.
            let is_period = matches!(self.tokens[self.at - 1].kind, Kind::Command(_)) && factors.len() > 1;
            if self.gap() > Gap::Space && !is_period {
                break;
            }
            if !is_coefficient || self.gap() > Gap::Space {
                return None;
            }
        }
        Some(if factors.len() == 1 { factors.remove(0) } else { Expression::Product(factors) })
    }

    fn continues_argument(&self) -> bool {
        match self.peek() {
            Some(Kind::Word(word)) => function(word).is_none() && is_formula_word(word) && word != "sqrt",
            Some(Kind::Command(name)) => name == "pi" || name == "frac" || is_greek(name),
            _ => false,
        }
    }
}

/// Whether other factors may stand behind this in the argument of a function.
fn is_coefficient(kind: &Kind) -> bool {
    match kind {
        Kind::Number(_) => true,
        Kind::Command(name) | Kind::Word(name) => name == "pi",
        _ => false,
    }
}

/// `e` and `i` are numbers.
fn constant_or_variable(name: &str) -> Expression {
    match name {
        "e" => Expression::E,
        "i" => Expression::I,
        _ => Expression::Variable(name.to_owned()),
    }
}
