//! What an answer says, before it is brought into canonical form.

use num_rational::BigRational;

use super::{expression::Expression, region::Region, unit::Measure};

/// An answer as it was read, with what may be left out of it: names, units, brackets.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    Scalar(Expression),
    /// A number that was written with so many digits behind the point.
    Decimal(BigRational, u32),
    Infinity {
        negative: bool,
    },
    /// A figure with its unit.
    Quantity {
        figure: Box<Form>,
        measure: Measure,
    },
    Percent(Box<Form>),
    /// `(a, b)`: a point, or the open interval.
    Tuple(Vec<Form>),
    /// `[a, b, c]`
    List(Vec<Form>),
    /// `{a, b}`: in any order, and each once.
    Set(Vec<Form>),
    /// One of several: `a or b`, `1 \pm a`. In a set, each is a member of it.
    Values(Vec<Form>),
    /// `a, b`, `a and b`: in any order, and each as often as it is written. In a set, each is a member of it.
    Several(Vec<Form>),
    /// An interval whose ends may have letters in them.
    Span {
        low: Box<Form>,
        low_closed: bool,
        high: Box<Form>,
        high_closed: bool,
    },
    Region(Region),
    Matrix(Vec<Vec<Form>>),
    /// `x = 5`, `x > 5`
    Named(String, Box<Form>),
    /// Values of several names, in the order in which they are written; whether as a tuple, `(x, y) = (1, 2)`.
    Assignments(Vec<(String, Form)>, bool),
    /// What is zero; and if it says what an unknown is, `y = 2x + 3`, its name and that.
    Equation(Expression, Option<(String, Box<Form>)>),
    /// What is less than zero, or not more, or not zero, by its sign.
    Inequality(char, Expression),
    /// `a < b < c` by its signs.
    Chain(Vec<Form>, Vec<char>),
    Ratio(Vec<Form>),
    Clock(Time),
    /// Year, month and day.
    Date(Option<u32>, u32, u32),
    /// Digits in a base other than ten.
    Based(String, u32),
    Text(String),
}

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time {
    /// From 1 to 12.
    pub hour: u32,
    pub minute: u32,
    pub second: Option<u32>,
    /// Whether it is after noon, if that is said.
    pub after_noon: Option<bool>,
    /// Whether a word says it, rather than the hour.
    pub is_marked: bool,
}

impl Time {
    /// Whether the figures are an answer without the word. `12:30` would rather be after noon.
    pub fn has_optional_mark(&self) -> bool {
        self.is_marked && (self.hour, self.after_noon) != (12, Some(false))
    }
}

impl Form {
    /// The forms directly inside.
    fn children(&self) -> Vec<&Self> {
        match self {
            Self::Quantity { figure: inner, .. } | Self::Percent(inner) | Self::Named(_, inner) => vec![inner],
            Self::Tuple(inner)
            | Self::List(inner)
            | Self::Set(inner)
            | Self::Values(inner)
            | Self::Several(inner)
            | Self::Chain(inner, _)
            | Self::Ratio(inner) => inner.iter().collect(),
            Self::Span { low, high, .. } => vec![low, high],
            Self::Matrix(rows) => rows.iter().flatten().collect(),
            Self::Assignments(pairs, _) => pairs.iter().map(|(_, value)| value).collect(),
            _ => vec![],
        }
    }

    fn any(&self, is: &dyn Fn(&Self) -> bool) -> bool {
        is(self) || self.children().into_iter().any(|child| child.any(is))
    }

    /// Whether it has names that could be left out.
    pub fn has_names(&self) -> bool {
        self.any(&|form| matches!(form, Self::Named(..) | Self::Assignments(..) | Self::Equation(_, Some(_))))
    }

    /// Whether it has units that could be left out.
    pub fn has_units(&self) -> bool {
        self.any(&|form| match form {
            Self::Quantity { measure, .. } => measure.optional,
            Self::Percent(_) => true,
            Self::Clock(time) => time.has_optional_mark(),
            _ => false,
        })
    }

    /// Whether it has a unit that cannot be left out: `1 apple`, `5 left`.
    pub fn has_fixed_units(&self) -> bool {
        self.any(&|form| match form {
            Self::Quantity { measure, .. } => !measure.optional,
            Self::Clock(time) => time.is_marked && !time.has_optional_mark(),
            _ => false,
        })
    }

    /// Whether letters or the like are in it, so that its value is not known.
    pub fn is_open(&self) -> bool {
        self.any(&|form| matches!(form, Self::Scalar(expression) if expression.is_open()))
    }

    /// Whether a number in it is written as a decimal.
    pub fn has_decimals(&self) -> bool {
        self.any(&|form| matches!(form, Self::Decimal(..)))
    }
}
