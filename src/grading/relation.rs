//! Equations, inequalities and memberships.

use super::{
    budget::Budget,
    evaluate::{Scalar, scalar},
    expression::{Expression, Function},
    form::Form,
    key::{Detail, limit, real_value, shape},
    lex::{Gap, Kind, Token},
    names::{name_of, tuple_of_names},
    numeric::part::Part,
    parse::expression,
    read::Reader,
    region::{Limit, Region},
};

/// The signs between the sides of relations.
pub(super) fn is_relation(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Sign('=' | '<' | '>' | '\u{2264}' | '\u{2265}' | '\u{2260}' | '\u{2248}' | '\u{2208}' | '\u{2209}')
    )
}

/// What stands on the sides of a relation, and its signs.
pub(super) struct Sides<'a> {
    pub sides: Vec<&'a [Token]>,
    pub signs: Vec<char>,
}

impl Reader<'_> {
    /// The form of a relation.
    pub fn relation(&self, Sides { mut sides, mut signs }: Sides) -> Option<Form> {
        // What is only approximate behind an exact value is not the answer; alone it is.
        if let Some(at) = signs.iter().position(|sign| *sign == '\u{2248}') {
            if at == 0 && sides.len() == 2 && (sides[0].is_empty() || name_of(sides[0]).is_some()) {
                signs[0] = '=';
            } else {
                // What is about a number and has letters in it says something of them, but not what.
                self.item(sides[at]).filter(|exact| !exact.is_open())?;
                sides.truncate(at + 1);
                signs.truncate(at);
            }
        }
        if signs.is_empty() {
            return self.item(sides.first()?);
        }
        if signs.iter().all(|sign| *sign == '=') {
            return if sides.len() == 2 { self.equation(sides[0], sides[1]) } else { self.equations(&sides) };
        }
        let is_excluded = match signs[..] {
            ['\u{2209}'] => true,
            // `x \neq \pm 1`
            ['\u{2260}'] => matches!(self.item(sides[1]), Some(Form::Values(_))),
            _ => false,
        };
        if is_excluded {
            return Some(Form::Named(name_of(sides[0])?, Box::new(Form::Region(self.region(sides[1])?.complement()))));
        }
        if signs == ['\u{2208}'] {
            let value = match self.item(sides[1])? {
                Form::Set(forms) => Form::Values(forms),
                other => other,
            };
            return Some(Form::Named(name_of(sides[0])?, Box::new(value)));
        }
        self.inequality(&sides, &signs)
    }

    fn equation(&self, left: &[Token], right: &[Token]) -> Option<Form> {
        if left.is_empty() {
            return self.item(right);
        }
        if let Some(names) = tuple_of_names(left)
            && let Form::Tuple(values) = self.item(right)?
            && values.len() == names.len()
        {
            return Some(Form::Assignments(names.into_iter().zip(values).collect(), true));
        }
        if let Some(name) = name_of(left) {
            let value = self.list(right)?;
            // What says what an unknown is in terms of others is an equation between them.
            if let Form::Scalar(told) = &value
                && told.is_open()
                && let Some(unknown) = expression(left)
            {
                let is_told = !told.has(&unknown);
                let zero = unknown.minus(told.clone());
                return Some(Form::Equation(zero, is_told.then(|| (name, Box::new(value)))));
            }
            return Some(Form::Named(name, Box::new(value)));
        }
        let (a, b) = (expression(left)?, expression(right)?);
        if !a.is_open() && !b.is_open() {
            // A sum and its result; if it is wrong, who knows what is meant.
            return (scalar(&a, self.budget)? == scalar(&b, self.budget)?).then(|| self.item(right)).flatten();
        }
        if !a.is_open()
            && let Some(name) = name_of(right)
        {
            return Some(Form::Named(name, Box::new(self.item(left)?)));
        }
        Some(Form::Equation(a.minus(b), None))
    }

    /// `x = 5 + 6 = 11`: what the only name is, is the last. `x = 5 = y`: the names are what the only value is.
    fn equations(&self, sides: &[&[Token]]) -> Option<Form> {
        let (names, values): (Vec<&[Token]>, Vec<&[Token]>) = sides.iter().partition(|side| name_of(side).is_some());
        if let [value] = values[..] {
            let value = self.item(value)?;
            let pairs = names.into_iter().filter_map(name_of).map(|name| (name, value.clone()));
            return Some(Form::Assignments(pairs.collect(), false));
        }
        let (first, between, last) = (sides.first()?, &sides[1..sides.len() - 1], sides.last()?);
        let value = self.item(last)?;
        let key = |form: &Form| shape(form, Detail::FULL, self.budget);
        let is_last = |side: &&[Token]| self.item(side).is_some_and(|form| key(&form) == key(&value));
        match names[..] {
            // Formulas on the way to a number are what it was computed from.
            [name] if !value.is_open() => {
                // `x = 3 y = 4` is no chain.
                let is_side = |side: &&[Token]| {
                    !side.iter().any(|token| token.kind == Kind::Row) && (!ends_in_name(side) || is_last(side))
                };
                if between.iter().all(is_side) { self.equation(name, last) } else { None }
            }
            _ => {
                if between.iter().all(is_last) {
                    self.equation(first, last)
                } else {
                    self.neighbours(sides)
                }
            }
        }
    }

    /// `x = y = z`: each side and the next.
    fn neighbours(&self, sides: &[&[Token]]) -> Option<Form> {
        let sides: Vec<Expression> = sides.iter().map(|side| expression(side)).collect::<Option<_>>()?;
        let pairs = sides.windows(2).map(|pair| Form::Equation(pair[0].clone().minus(pair[1].clone()), None));
        sides.iter().all(Expression::is_open).then(|| Form::Values(pairs.collect()))
    }

    fn inequality(&self, sides: &[&[Token]], signs: &[char]) -> Option<Form> {
        if let Some(solved) = self.solved(sides, signs) {
            return Some(solved);
        }
        match (sides, signs) {
            ([left, right], [sign]) => {
                let (left, right) = (expression(left)?, expression(right)?);
                let (zero, sign) = match sign {
                    '>' => (right.minus(left), '<'),
                    '\u{2265}' => (right.minus(left), '\u{2264}'),
                    _ => (left.minus(right), *sign),
                };
                zero.is_open().then_some(Form::Inequality(sign, zero))
            }
            _ => {
                let mut forms =
                    sides.iter().map(|side| Some(Form::Scalar(expression(side)?))).collect::<Option<Vec<_>>>()?;
                let mut signs = signs.to_vec();
                if matches!(signs.first(), Some('>' | '\u{2265}')) {
                    forms.reverse();
                    signs.reverse();
                    for sign in &mut signs {
                        *sign = reversed(*sign);
                    }
                }
                signs.iter().all(|sign| matches!(sign, '<' | '\u{2264}')).then_some(Form::Chain(forms, signs))
            }
        }
    }

    /// The set of what is between limits, if there is one thing that is.
    fn solved(&self, sides: &[&[Token]], signs: &[char]) -> Option<Form> {
        let bound = |side: &[Token]| {
            let form = self.item(side).filter(|form| !form.is_open())?;
            limit(&shape(&form, Detail::FULL, self.budget)?)
        };
        let (subject, region) = match (sides, signs) {
            ([left, right], [sign]) => match (bound(left), bound(right)) {
                (None, Some(bound)) => (*left, half(bound, *sign)?),
                (Some(bound), None) => (*right, half(bound, reversed(*sign))?),
                _ => return None,
            },
            ([low, subject, high], [first, second]) => {
                let (low, high) = (bound(low)?, bound(high)?);
                if matches!(first, '<' | '\u{2264}') != matches!(second, '<' | '\u{2264}') {
                    return None;
                }
                (*subject, Region::intersection([half(low, reversed(*first))?, half(high, *second)?]))
            }
            _ => return None,
        };
        let subject_expression = expression(subject)?;
        if let Some((name, region)) = self.linear(&subject_expression, &region) {
            return Some(Form::Named(name, Box::new(Form::Region(region))));
        }
        Some(Form::Named(name_of(subject)?, Box::new(Form::Region(region))))
    }

    /// For which values of its only letter a linear expression, or the absolute value of one, is in a region.
    fn linear(&self, subject: &Expression, region: &Region) -> Option<(String, Region)> {
        if let Expression::Call(Function::Abs, inner) = subject {
            let positive = Region::between(zero(), true, Limit::PlusInfinity, false);
            let positive = Region::intersection([positive, region.clone()]);
            return self.linear(inner.first()?, &Region::union([positive.mirrored(), positive]));
        }
        let [name] = subject.variables()[..] else { return None };
        if *subject == Expression::Variable(name.into()) {
            return Some((name.into(), region.clone()));
        }
        let at = |value| subject.with(name, &Expression::integer(value));
        let offset = at(0);
        let slope = at(1).minus(offset.clone());
        let line = Expression::Sum(vec![
            Expression::Product(vec![slope.clone(), Expression::Variable(name.into())]),
            offset.clone(),
        ]);
        let is_linear = is_zero(&subject.clone().minus(line), self.budget)? && !is_zero(&slope, self.budget)?;
        // x = u / slope - offset / slope
        let inverse = Expression::integer(1).over(slope.clone());
        let shift = offset.over(slope).negative();
        if !is_linear {
            return None;
        }
        Some((name.into(), self.mapped(region, &inverse, &shift)?))
    }

    /// The region of all `factor u + shift`, for `u` in a region.
    fn mapped(&self, region: &Region, factor: &Expression, shift: &Expression) -> Option<Region> {
        let flipped =
            real_value(factor, self.budget)?.compare(&real_value(&Expression::integer(0), self.budget)?).is_lt();
        let mut ends = vec![];
        for (limit, closed) in region.limits() {
            let limit = match limit {
                Limit::At(Part::Exact(value)) => {
                    let scaled = Expression::Product(vec![factor.clone(), Expression::Number(value.clone())]);
                    Limit::At(real_value(&Expression::Sum(vec![scaled, shift.clone()]), self.budget)?)
                }
                // Of such a bound only digits are known.
                Limit::At(Part::Digits { .. }) => return None,
                Limit::MinusInfinity if flipped => Limit::PlusInfinity,
                Limit::PlusInfinity if flipped => Limit::MinusInfinity,
                infinite => infinite.clone(),
            };
            ends.push((limit, closed));
        }
        let mut mapped = vec![];
        for pair in ends.chunks(2) {
            let [(a, a_closed), (b, b_closed)] = pair else { return None };
            let piece = if flipped {
                Region::between(b.clone(), *b_closed, a.clone(), *a_closed)
            } else {
                Region::between(a.clone(), *a_closed, b.clone(), *b_closed)
            };
            mapped.push(piece);
        }
        Some(Region::union(mapped))
    }
}

/// Whether a side may be a value and, behind a space, the name of what the next sign gives another one.
fn ends_in_name(side: &[Token]) -> bool {
    (1..side.len()).any(|at| {
        // Behind a command a space has to be written.
        let is_command = matches!(side[at - 1].kind, Kind::Command(_));
        let is_apart = side[at].gap > Gap::Space || side[at].gap == Gap::Space && !is_command;
        is_apart && name_of(&side[at..]).is_some()
    })
}

fn zero() -> Limit {
    Limit::At(Part::Exact(num_rational::BigRational::from_integer(0.into())))
}

fn is_zero(expression: &Expression, budget: &Budget) -> Option<bool> {
    match scalar(expression, budget)? {
        Scalar::One(number) => Some(number.rational().is_some_and(|value| *value == num_traits::Zero::zero())),
        Scalar::Branches(_) => Some(false),
    }
}

fn reversed(sign: char) -> char {
    match sign {
        '<' => '>',
        '>' => '<',
        '\u{2264}' => '\u{2265}',
        '\u{2265}' => '\u{2264}',
        other => other,
    }
}

/// What stands in such a relation to a limit.
fn half(limit: Limit, sign: char) -> Option<Region> {
    let point = |limit: Limit| if let Limit::At(value) = limit { Some(Region::point(value)) } else { None };
    match sign {
        '<' => Some(Region::between(Limit::MinusInfinity, false, limit, false)),
        '\u{2264}' => Some(Region::between(Limit::MinusInfinity, false, limit, true)),
        '>' => Some(Region::between(limit, false, Limit::PlusInfinity, false)),
        '\u{2265}' => Some(Region::between(limit, true, Limit::PlusInfinity, false)),
        '\u{2260}' => Some(point(limit)?.complement()),
        _ => None,
    }
}
