//! Canonical keys: two answers are the same answer if their keys are equal.
//!
//! A key is a value, so equality is an equivalence relation by construction, which a pairwise comparison with
//! tolerances is not.

use std::fmt;

use num_rational::BigRational;
use num_traits::Signed;

use super::{
    budget::Budget,
    evaluate::{self, Scalar, up_to_factor},
    expression::Expression,
    form::{Form, Time},
    huge,
    names::part_number,
    numeric::part::{Number, Part},
    region::{Limit, Region},
    unit::Unit,
};

/// The canonical form of an answer. Its order has no meaning beyond being total; its text is the same for equal keys, and
/// another one for others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(super) Shape);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shape {
    Number(Scalar),
    /// The residues of a number that is too long to be a `Number`.
    Huge(Vec<u64>),
    Infinity {
        negative: bool,
    },
    Quantity(Box<Shape>, Unit),
    Tuple(Vec<Shape>),
    List(Vec<Shape>),
    /// Sorted; with repetitions only where a list has them, which is no set then. Of one member only where that is a set, or this is in one.
    Set(Vec<Shape>),
    Span {
        low: Box<Shape>,
        low_closed: bool,
        high: Box<Shape>,
        high_closed: bool,
    },
    /// Neither one open bounded interval, which is a `Tuple`, nor only points, which are a `Set`.
    Region(Region),
    Matrix(Vec<Vec<Shape>>),
    Named(String, Box<Shape>),
    /// Sorted by name.
    Assignments(Vec<(String, Shape)>),
    Equation(Vec<Number>),
    Inequality(char, Vec<Number>),
    Chain(Vec<Shape>, Vec<char>),
    Ratio(Vec<Shape>),
    Clock(u32, u32, Option<u32>, Option<bool>),
    Date(Option<u32>, u32, u32),
    Based(String, u32),
    Text(String),
}

/// What becomes of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    Kept,
    /// Their values, in a tuple as they are written.
    Written,
    /// Their values, in a tuple in the order of the names.
    Sorted,
    /// Their values, in no order.
    Loose,
}

/// What becomes of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Units {
    Kept,
    /// Only those that are optional are left out.
    Optional,
    /// Only figures stay.
    Dropped,
}

/// What of an answer its key has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detail {
    pub names: Names,
    pub units: Units,
}

impl Detail {
    pub const FULL: Self = Self { names: Names::Kept, units: Units::Kept };

    /// Whether a unit is left out that may be, or may not be.
    fn drops(self, is_optional: bool) -> bool {
        self.units == Units::Dropped || self.units == Units::Optional && is_optional
    }
}

/// The canonical form of an answer with so much detail; `None` if it has none within the bounds.
pub(super) fn shape(form: &Form, detail: Detail, budget: &Budget) -> Option<Shape> {
    let inside = |form: &Form| shape(form, detail, budget);
    let all = |forms: &[Form]| forms.iter().map(inside).collect::<Option<Vec<_>>>();
    Some(match form {
        Form::Scalar(expression) => match evaluate::scalar(expression, budget) {
            Some(scalar) => Shape::Number(scalar),
            None => Shape::Huge(huge::residues(expression, budget)?),
        },
        Form::Decimal(value, _) => rational(value.clone()),
        Form::Infinity { negative } => Shape::Infinity { negative: *negative },
        Form::Quantity { figure, measure } if detail.drops(measure.optional) => return inside(figure),
        Form::Quantity { figure, measure } => {
            Shape::Quantity(Box::new(inside(&scaled(figure, &measure.factor)?)?), measure.unit.clone())
        }
        // Without its sign, what is less than 1 is rather a share: 0.5 is 50%, not 0.5%.
        Form::Percent(figure) if detail.units != Units::Kept => return inside(figure).filter(is_one_or_more),
        Form::Percent(figure) => inside(&scaled(figure, &BigRational::new(1.into(), 100.into()))?)?,
        // Which of two values is less is not known of letters.
        Form::Tuple(inner) if form.is_open() => Shape::Tuple(all(inner)?),
        Form::Tuple(inner) => tuple(all(inner)?),
        Form::List(inner) => Shape::List(all(inner)?),
        Form::Set(inner) | Form::Values(inner) => one_or_set(once(members(inner, detail, budget)?)),
        Form::Several(inner) => one_or_set(sorted(members(inner, detail, budget)?)),
        Form::Span { low, low_closed, high, high_closed } if form.is_open() => {
            literal_span(inside(low)?, *low_closed, inside(high)?, *high_closed)
        }
        Form::Span { low, low_closed, high, high_closed } => {
            span(inside(low)?, *low_closed, inside(high)?, *high_closed)?
        }
        Form::Region(region) => of_region(region.clone()),
        Form::Matrix(rows) => Shape::Matrix(rows.iter().map(|row| all(row)).collect::<Option<_>>()?),
        Form::Named(_, inner) if detail.names != Names::Kept => return inside(inner),
        Form::Named(name, inner) => Shape::Named(name.clone(), Box::new(inside(inner)?)),
        Form::Assignments(pairs, _) => {
            let mut pairs: Vec<(String, Shape)> =
                pairs.iter().map(|(name, value)| Some((name.clone(), inside(value)?))).collect::<Option<_>>()?;
            if detail.names != Names::Written {
                // The tenth part is behind the ninth.
                pairs.sort_by(|one, other| (part_number(&one.0), one).cmp(&(part_number(&other.0), other)));
            }
            let values = || pairs.iter().map(|(_, value)| value.clone()).collect();
            match detail.names {
                Names::Kept => Shape::Assignments(pairs),
                Names::Loose => one_or_set(sorted(values())),
                Names::Written | Names::Sorted => tuple(values()),
            }
        }
        Form::Equation(_, Some((_, value))) if detail.names != Names::Kept => return inside(value),
        Form::Equation(zero, _) => Shape::Equation(up_to_factor(zero, false, budget)?),
        Form::Inequality('\u{2260}', expression) => {
            Shape::Inequality('\u{2260}', up_to_factor(expression, false, budget)?)
        }
        Form::Inequality(sign, expression) => Shape::Inequality(*sign, up_to_factor(expression, true, budget)?),
        Form::Chain(sides, signs) => Shape::Chain(all(sides)?, signs.clone()),
        Form::Ratio(parts) => ratio(parts, budget)?,
        Form::Clock(time @ Time { hour, minute, second, after_noon, is_marked }) => {
            let is_dropped = *is_marked && detail.drops(time.has_optional_mark());
            Shape::Clock(*hour, *minute, *second, after_noon.filter(|_| !is_dropped))
        }
        Form::Date(year, month, day) => Shape::Date(*year, *month, *day),
        Form::Based(digits, base) => Shape::Based(digits.clone(), *base),
        Form::Text(text) => Shape::Text(text.clone()),
    })
}

fn rational(value: BigRational) -> Shape {
    Shape::Number(Scalar::One(Number::exact(value)))
}

fn is_one_or_more(shape: &Shape) -> bool {
    match shape {
        Shape::Number(Scalar::One(number)) => {
            number.rational().is_some_and(|value| value.abs() >= BigRational::from_integer(1.into()))
        }
        _ => false,
    }
}

/// A number times a factor.
fn scaled(figure: &Form, factor: &BigRational) -> Option<Form> {
    match figure {
        Form::Decimal(value, _) => Some(Form::Scalar(Expression::Number(value * factor))),
        Form::Scalar(expression) => {
            Some(Form::Scalar(Expression::Product(vec![Expression::Number(factor.clone()), expression.clone()])))
        }
        _ => None,
    }
}

/// A tuple; of two, with an infinite one, it is an interval.
fn tuple(parts: Vec<Shape>) -> Shape {
    if let [low, high] = parts.as_slice()
        && (matches!(low, Shape::Infinity { .. }) || matches!(high, Shape::Infinity { .. }))
        && let Some(interval) = span(low.clone(), false, high.clone(), false)
    {
        return interval;
    }
    Shape::Tuple(parts)
}

/// The members of a set or a list. A set among them stays one; several values are several members.
fn members(forms: &[Form], detail: Detail, budget: &Budget) -> Option<Vec<Shape>> {
    let mut parts = vec![];
    for form in forms {
        match form {
            Form::Several(inner) => parts.extend(members(inner, detail, budget)?),
            Form::Values(inner) => parts.extend(once(members(inner, detail, budget)?)),
            Form::Set(inner) => parts.push(Shape::Set(once(members(inner, detail, budget)?))),
            other => parts.push(shape(other, detail, budget)?),
        }
    }
    Some(parts)
}

fn sorted(mut parts: Vec<Shape>) -> Vec<Shape> {
    parts.sort();
    parts
}

/// Sorted, and each once.
fn once(parts: Vec<Shape>) -> Vec<Shape> {
    let mut parts = sorted(parts);
    parts.dedup();
    parts
}

/// The set of some members. That of one is the one, unless it is a set itself: `{{1}}` is not `{1}`.
fn one_or_set(mut members: Vec<Shape>) -> Shape {
    match members.as_slice() {
        [Shape::Set(_)] => Shape::Set(members),
        [_] => members.remove(0),
        _ => Shape::Set(members),
    }
}

fn span(low: Shape, low_closed: bool, high: Shape, high_closed: bool) -> Option<Shape> {
    if let (Some(a), Some(b)) = (limit(&low), limit(&high)) {
        let is_ascending = a.is_less(&b);
        let region = Region::between(a, low_closed, b, high_closed);
        // `[3, 1]` is a list, if anything, and so is `[1, 1]`.
        return match (is_ascending, low_closed && high_closed, low_closed || high_closed) {
            (true, _, _) => Some(of_region(region)),
            (false, true, _) => Some(Shape::List(vec![low, high])),
            (false, _, false) => Some(Shape::Tuple(vec![low, high])),
            _ => None,
        };
    }
    Some(literal_span(low, low_closed, high, high_closed))
}

fn literal_span(low: Shape, low_closed: bool, high: Shape, high_closed: bool) -> Shape {
    match (low_closed, high_closed) {
        (false, false) => Shape::Tuple(vec![low, high]),
        (true, true) => Shape::List(vec![low, high]),
        _ => Shape::Span { low: Box::new(low), low_closed, high: Box::new(high), high_closed },
    }
}

/// The limit of an interval that a shape can be.
pub(super) fn limit(shape: &Shape) -> Option<Limit> {
    match shape {
        Shape::Infinity { negative: true } => Some(Limit::MinusInfinity),
        Shape::Infinity { negative: false } => Some(Limit::PlusInfinity),
        Shape::Number(Scalar::One(number)) => Some(Limit::At(number.real()?.clone())),
        _ => None,
    }
}

/// The region that a real number is alone.
pub(super) fn point(shape: &Shape) -> Option<Region> {
    if let Limit::At(value) = limit(shape)? { Some(Region::point(value)) } else { None }
}

/// A number that is real.
pub(super) fn real(part: &Part) -> Shape {
    let zero = Part::Exact(BigRational::from_integer(0.into()));
    Shape::Number(Scalar::One(Number { re: part.clone(), im: zero }))
}

fn of_region(region: Region) -> Shape {
    if let Some((low, high)) = region.as_open_interval() {
        return Shape::Tuple(vec![real(low), real(high)]);
    }
    if let Some(points) = region.as_points() {
        return one_or_set(sorted(points.into_iter().map(real).collect()));
    }
    Shape::Region(region)
}

/// A ratio of integers is reduced; its parts must be known and positive for that.
fn ratio(parts: &[Form], budget: &Budget) -> Option<Shape> {
    let shapes: Vec<Shape> = parts.iter().map(|part| shape(part, Detail::FULL, budget)).collect::<Option<_>>()?;
    let exact = |shape: &Shape| match shape {
        Shape::Number(Scalar::One(number)) => number.rational().filter(|value| value.is_positive()).cloned(),
        _ => None,
    };
    let Some(values) = shapes.iter().map(exact).collect::<Option<Vec<_>>>() else { return Some(Shape::Ratio(shapes)) };
    let first = values.first()?.clone();
    Some(Shape::Ratio(values.into_iter().map(|value| rational(value / &first)).collect()))
}

/// The real number that an expression without letters is.
pub(super) fn real_value(expression: &Expression, budget: &Budget) -> Option<Part> {
    match evaluate::scalar(expression, budget)? {
        Scalar::One(number) => number.real().cloned(),
        Scalar::Branches(_) => None,
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Shape], open: &str, close: &str| {
            f.write_str(open)?;
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    f.write_str(", ")?;
                }
                part.fmt(f)?;
            }
            f.write_str(close)
        };
        let bracket = |closed: bool, which: usize| if closed { ["[", "]"][which] } else { ["(", ")"][which] };
        match self {
            Self::Number(Scalar::One(number)) => number.fmt(f),
            Self::Number(Scalar::Branches(numbers)) => {
                let all = joined(numbers, " ");
                write!(f, "{} on branches {:016x}", numbers[0], evaluate::fingerprint(&all))
            }
            Self::Huge(residues) => {
                f.write_str("huge")?;
                residues.iter().try_for_each(|residue| write!(f, " {residue:x}"))
            }
            Self::Infinity { negative } => f.write_str(if *negative { "-inf" } else { "inf" }),
            Self::Quantity(figure, unit) => write!(f, "{figure} <{unit}>"),
            Self::Tuple(parts) => list(f, parts, "(", ")"),
            Self::List(parts) => list(f, parts, "[", "]"),
            Self::Set(parts) => list(f, parts, "{", "}"),
            Self::Span { low, low_closed, high, high_closed } => {
                write!(f, "{}{low}, {high}{}", bracket(*low_closed, 0), bracket(*high_closed, 1))
            }
            Self::Region(region) => region.fmt(f),
            Self::Matrix(rows) => {
                f.write_str("matrix ")?;
                rows.iter().try_for_each(|row| list(f, row, "[", "]"))
            }
            Self::Named(name, value) => write!(f, "{name} : {value}"),
            Self::Assignments(pairs) => {
                write!(f, "{}", joined(pairs.iter().map(|(name, value)| format!("{name} = {value}")), ", "))
            }
            Self::Equation(numbers) => write!(f, "0 = c * {}", joined(numbers, " ")),
            Self::Inequality(sign, numbers) => write!(f, "0 {sign} c * {}", joined(numbers, " ")),
            Self::Chain(parts, signs) => {
                write!(f, "{} by {}", joined(parts, " ? "), signs.iter().collect::<String>())
            }
            Self::Ratio(parts) => f.write_str(&joined(parts, " : ")),
            Self::Clock(hour, minute, second, after_noon) => {
                write!(f, "time {hour}:{minute:02}")?;
                second.map_or(Ok(()), |second| write!(f, ":{second:02}"))?;
                f.write_str(match after_noon {
                    Some(true) => " pm",
                    Some(false) => " am",
                    None => "",
                })
            }
            Self::Date(year, month, day) => {
                f.write_str("date ")?;
                year.map_or(Ok(()), |year| write!(f, "{year}-"))?;
                write!(f, "{month:02}-{day:02}")
            }
            Self::Based(digits, base) => write!(f, "{digits} base {base}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

fn joined<T: ToString>(parts: impl IntoIterator<Item = T>, between: &str) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(between)
}
