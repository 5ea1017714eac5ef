//! What a formula says, as a tree.

use std::mem::discriminant;

use num_bigint::BigInt;
use num_rational::BigRational;

/// A function of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Factorial,
    Floor,
    Ceiling,
    Ln,
    /// Of a number, and of the base.
    Log,
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Min,
    Max,
    Gcd,
    Lcm,
    Binomial,
}

/// A formula. The parser bounds its depth and its size.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    Number(BigRational),
    Pi,
    E,
    I,
    Variable(String),
    Sum(Vec<Expression>),
    Product(Vec<Expression>),
    Negative(Box<Expression>),
    Quotient(Box<Expression>, Box<Expression>),
    Power(Box<Expression>, Box<Expression>),
    /// The root of that degree.
    Root(Box<Expression>, u32),
    Call(Function, Vec<Expression>),
    /// Something that is only known to depend on its arguments: `f(x)`, an indexed letter, a sum over an index.
    Opaque(String, Vec<Expression>),
    /// Rows of equal length.
    Matrix(Vec<Vec<Expression>>),
}

impl PartialEq for Expression {
    /// Whether they are written alike. Numbers are compared by their digits: to compare fractions by their size, as
    /// `BigRational` does, takes too long for what is done so often.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => (a.numer(), a.denom()) == (b.numer(), b.denom()),
            (Self::Variable(a), Self::Variable(b)) => a == b,
            (Self::Sum(a), Self::Sum(b)) | (Self::Product(a), Self::Product(b)) => a == b,
            (Self::Negative(a), Self::Negative(b)) => a == b,
            (Self::Quotient(a, b), Self::Quotient(c, d)) | (Self::Power(a, b), Self::Power(c, d)) => a == c && b == d,
            (Self::Root(a, m), Self::Root(b, n)) => m == n && a == b,
            (Self::Call(f, a), Self::Call(g, b)) => f == g && a == b,
            (Self::Opaque(f, a), Self::Opaque(g, b)) => f == g && a == b,
            (Self::Matrix(a), Self::Matrix(b)) => a == b,
            // Constants have no parts.
            _ => discriminant(self) == discriminant(other),
        }
    }
}

impl Expression {
    pub fn integer(value: i64) -> Self {
        Self::Number(BigRational::from_integer(BigInt::from(value)))
    }

    pub fn negative(self) -> Self {
        Self::Negative(Box::new(self))
    }

    pub fn over(self, other: Self) -> Self {
        Self::Quotient(Box::new(self), Box::new(other))
    }

    pub fn minus(self, other: Self) -> Self {
        Self::Sum(vec![self, other.negative()])
    }

    pub fn raised_to(self, exponent: Self) -> Self {
        Self::Power(Box::new(self), Box::new(exponent))
    }

    /// The expressions directly inside.
    fn children(&self) -> Vec<&Self> {
        match self {
            Self::Number(_) | Self::Pi | Self::E | Self::I | Self::Variable(_) => vec![],
            Self::Sum(inner) | Self::Product(inner) | Self::Call(_, inner) | Self::Opaque(_, inner) => {
                inner.iter().collect()
            }
            Self::Negative(inner) | Self::Root(inner, _) => vec![inner],
            Self::Quotient(a, b) | Self::Power(a, b) => vec![a, b],
            Self::Matrix(rows) => rows.iter().flatten().collect(),
        }
    }

    /// How many nodes it has.
    pub fn size(&self) -> usize {
        1 + self.children().into_iter().map(Self::size).sum::<usize>()
    }

    /// The bits of the numbers that are written in it.
    pub fn literal_bits(&self) -> u64 {
        let own = if let Self::Number(value) = self { value.numer().bits() + value.denom().bits() } else { 0 };
        own + self.children().into_iter().map(Self::literal_bits).sum::<u64>()
    }

    /// Whether anything in it is not a known number.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Variable(_) | Self::Opaque(..)) || self.children().into_iter().any(Self::is_open)
    }

    /// Whether another expression occurs in it.
    pub fn has(&self, other: &Self) -> bool {
        self == other || self.children().into_iter().any(|inner| inner.has(other))
    }

    /// The names of its variables, in the order of their occurrence.
    pub fn variables(&self) -> Vec<&str> {
        let mut names = vec![];
        if let Self::Variable(name) = self {
            names.push(name.as_str());
        }
        for child in self.children() {
            for name in child.variables() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// With another expression in the place of a variable.
    pub fn with(&self, name: &str, value: &Self) -> Self {
        let inside = |inner: &Self| Box::new(inner.with(name, value));
        let all = |inner: &[Self]| inner.iter().map(|e| e.with(name, value)).collect::<Vec<_>>();
        match self {
            Self::Variable(own) if own == name => value.clone(),
            Self::Number(_) | Self::Pi | Self::E | Self::I | Self::Variable(_) => self.clone(),
            Self::Sum(inner) => Self::Sum(all(inner)),
            Self::Product(inner) => Self::Product(all(inner)),
            Self::Negative(inner) => Self::Negative(inside(inner)),
            Self::Quotient(a, b) => Self::Quotient(inside(a), inside(b)),
            Self::Power(a, b) => Self::Power(inside(a), inside(b)),
            Self::Root(a, n) => Self::Root(inside(a), *n),
            Self::Call(function, inner) => Self::Call(*function, all(inner)),
            Self::Opaque(own, inner) => Self::Opaque(own.clone(), all(inner)),
            Self::Matrix(rows) => Self::Matrix(rows.iter().map(|row| all(row)).collect()),
        }
    }
}
