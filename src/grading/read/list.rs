//! Several forms in a row.

use num_rational::BigRational;
use num_traits::Signed;

use super::{Reader, connective, is_separator, is_sign, junction, outer, split};
use crate::grading::{
    budget::Budget,
    congruence::{congruence, is_congruence, modulus},
    evaluate::Scalar,
    expression::Expression,
    form::Form,
    key::{Detail, Shape, point, shape},
    lex::{Kind, Token},
    region::Region,
    relation::is_relation,
    unit::{Measure, is_known},
};

impl Reader<'_> {
    /// One form, or several between commas, semicolons, `and`, `or`.
    pub fn list(&self, tokens: &[Token]) -> Option<Form> {
        let has = |sign| outer(tokens).any(|(_, token)| is_sign(token, sign));
        if has(';') && has(',') {
            return self.solutions(split(tokens, |token| is_sign(token, ';')));
        }
        if outer(tokens).any(|(_, token)| token.kind == Kind::Row) {
            return self.side_by_side(split(tokens, |token| token.kind == Kind::Row));
        }
        if is_congruence(tokens)
            && let Some(form) = congruence(tokens)
        {
            return Some(form);
        }
        let is_statement = |part: &&[Token]| outer(part).any(|(_, token)| is_relation(&token.kind));
        if outer(tokens).any(|(_, token)| connective(token).is_some())
            && !split(tokens, |token| connective(token).is_some()).iter().all(is_statement)
        {
            return None;
        }
        let choices = split(tokens, |token| junction(token) == Some("or"));
        if choices.len() > 1
            && let Some(solutions) = self.solutions(choices)
        {
            return Some(solutions);
        }
        let separates = |token: &Token| is_separator(token) || junction(token).is_some();
        let parts = split(tokens, separates);
        if parts.len() == 1 {
            return self.item(tokens);
        }
        if parts.iter().all(|part| part.is_empty()) {
            return None;
        }
        let words: Vec<&str> = outer(tokens).filter_map(|(_, token)| junction(token)).collect();
        let parts: Vec<&[Token]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if let Some(at) = parts.iter().position(|part| matches!(part, [Token { kind: Kind::Ellipsis, .. }])) {
            return self.progression(&parts, at);
        }
        let forms: Vec<Form> = parts.into_iter().map(|part| self.item(part)).collect::<Option<_>>()?;
        // What belongs together in `x < 0 or x > 1, x < 5` only brackets would show.
        if is_mixed(tokens) && forms.iter().any(is_region) {
            return None;
        }
        self.joined(forms, &words)
    }

    /// Formulas with space between them, all of which say what something is, or none. In a part of several, nothing shows
    /// which of them belong together.
    fn side_by_side(&self, parts: Vec<&[Token]>) -> Option<Form> {
        let separates = |(_, token): (usize, &Token)| is_separator(token) || junction(token).is_some();
        let are_related = parts.iter().filter(|part| outer(part).any(|(_, token)| is_relation(&token.kind))).count();
        if parts.iter().any(|part| outer(part).any(separates)) || !(are_related == 0 || are_related == parts.len()) {
            return None;
        }
        let forms: Vec<Form> = parts.into_iter().map(|part| self.item(part)).collect::<Option<_>>()?;
        self.joined(forms, &[])
    }

    /// Values of several letters, of which one or the other are meant: `x = 1, y = 2; x = 2, y = 1`.
    fn solutions(&self, groups: Vec<&[Token]>) -> Option<Form> {
        let forms: Vec<Form> = groups.into_iter().map(|group| self.list(group)).collect::<Option<_>>()?;
        forms.iter().all(|form| matches!(form, Form::Assignments(..))).then_some(Form::Values(forms))
    }

    /// What several forms are together.
    fn joined(&self, forms: Vec<Form>, words: &[&str]) -> Option<Form> {
        let forms = self.with_all_excluded(forms);
        if forms.len() == 1 {
            return forms.into_iter().next();
        }
        if !words.contains(&"or")
            && let Some(amounts) = Amount::parts(&forms, self.budget)
        {
            return if *words == ["and"] { Amount::total(&amounts) } else { None };
        }
        // Of several conditions all hold, or one does; of several values each is one.
        let is_condition =
            |form: &Form| matches!(form, Form::Inequality(..) | Form::Chain(..) | Form::Equation(_, None));
        if words.contains(&"or") && forms.iter().any(is_condition) {
            return None;
        }
        let names: Vec<&str> = forms.iter().filter_map(name).collect();
        let Some(first) = names.first().map(|name| (*name).to_owned()) else { return Some(together(forms, words)) };
        if names.len() == forms.len() && names.iter().any(|name| *name != first) {
            let distinct = names.iter().enumerate().all(|(at, name)| !names[..at].contains(name));
            if words.contains(&"or") {
                // `x = 1, y = 2 or z = 3` leaves it open what is one of two.
                return (words.len() + 1 == forms.len() && !words.contains(&"and")).then_some(Form::Values(forms));
            }
            return distinct.then(|| Form::Assignments(forms.into_iter().filter_map(named_value).collect(), false));
        }
        let bare = |form: &Form| !matches!(form, Form::Named(..) | Form::Assignments(..) | Form::Equation(..));
        let follow = matches!(forms[0], Form::Named(..)) && forms[1..].iter().all(bare);
        if names.len() == forms.len() || follow {
            let values: Vec<Form> =
                forms.into_iter().map(|form| named_value(form.clone()).map_or(form, |(_, v)| v)).collect();
            return Some(Form::Named(first, Box::new(self.alternatives(values, words)?)));
        }
        Some(together(forms, words))
    }

    /// `2 hours 30 minutes`: one amount, whose parts begin with numbers behind units.
    pub(super) fn amount(&self, tokens: &[Token]) -> Option<Form> {
        let begins = |at: &usize| {
            matches!(tokens[*at].kind, Kind::Number(_)) && matches!(tokens[at - 1].kind, Kind::Word(_) | Kind::Text(_))
        };
        let places: Vec<usize> = (1..tokens.len()).filter(begins).chain([tokens.len()]).collect();
        if places.len() < 2 {
            return None;
        }
        let ranges = places.iter().scan(0, |start, end| Some(std::mem::replace(start, *end)..*end));
        // Beside other units a letter is one, too: `1 h 30 min`.
        let as_unit = |token: &Token| match &token.kind {
            Kind::Word(symbol) if is_known(symbol) => Token { kind: Kind::Text(symbol.clone()), gap: token.gap },
            _ => token.clone(),
        };
        let quantity =
            |range: std::ops::Range<usize>| self.quantity(&tokens[range].iter().map(as_unit).collect::<Vec<_>>());
        let forms: Vec<Form> = ranges.map(quantity).collect::<Option<_>>()?;
        Amount::total(&Amount::parts(&forms, self.budget)?)
    }

    /// `x \in \mathbb{R}, x \neq 1, 2`: what is behind the last form that has a name is excluded with it.
    fn with_all_excluded(&self, mut forms: Vec<Form>) -> Vec<Form> {
        if let Some(at) = forms.iter().rposition(|form| matches!(form, Form::Named(..)))
            && let Some(others) = self.all_but(&forms[at..])
        {
            forms.truncate(at);
            forms.push(others);
        }
        forms
    }

    /// `x \neq 1, 2`: what is behind the first value is excluded, too.
    fn all_but(&self, forms: &[Form]) -> Option<Form> {
        let (Form::Named(name, first), others @ [_, ..]) = forms.split_first()? else { return None };
        let Form::Region(region) = &**first else { return None };
        region.complement().as_points().filter(|excluded| excluded.len() == 1)?;
        let point = |other: &Form| point(&shape(other, Detail::FULL, self.budget)?);
        let points: Vec<Region> = others.iter().map(point).collect::<Option<_>>()?;
        let region = Region::union(points.into_iter().chain([region.complement()])).complement();
        Some(Form::Named(name.clone(), Box::new(Form::Region(region))))
    }

    /// Several values of one name.
    fn alternatives(&self, values: Vec<Form>, words: &[&str]) -> Option<Form> {
        let region = |value: &Form| match value {
            // An open one would have the shape of a point.
            Form::Region(region) => Some(region.clone()),
            Form::Span { .. } => match shape(value, Detail::FULL, self.budget)? {
                Shape::Region(region) => Some(region),
                _ => None,
            },
            _ => None,
        };
        let regions: Option<Vec<Region>> = values.iter().map(region).collect();
        let Some(regions) = regions else {
            // What is 1 and more than 2 is nothing.
            let has_region = values.iter().any(|value| matches!(value, Form::Region(_)));
            // Of two moduli `or` means either, and a comma rather both.
            let moduli: Vec<&str> = values.iter().filter_map(modulus).collect();
            if moduli.iter().any(|modulus| *modulus != moduli[0]) {
                return None;
            }
            return (!has_region || !words.contains(&"and")).then(|| together(values, words));
        };
        let (all, both) = (Region::union(regions.clone()), Region::intersection(regions.clone()));
        // `x \in \mathbb{R}` beside another condition says only of what kind `x` is.
        let is_condition = |region: &&Region| **region != Region::everything();
        if !words.contains(&"or") && regions.iter().filter(is_condition).count() < 2 {
            return Some(Form::Region(both));
        }
        match words {
            _ if words.contains(&"or") => Some(Form::Region(all)),
            _ if words.contains(&"and") => (!both.is_empty()).then_some(Form::Region(both)),
            // `x < 1, x > 3` can only mean either, `x > 1, x < 3` only both.
            _ if both.is_empty() => Some(Form::Region(all)),
            _ => (!regions.contains(&both)).then_some(Form::Region(both)),
        }
    }

    /// `1, 2, ..., 9`: the numbers with equal differences. What goes on for ever, or in another way, is no set of what is
    /// shown, but only equal to what is written in the same way.
    fn progression(&self, parts: &[&[Token]], at: usize) -> Option<Form> {
        if let Some(set) = self.equal_steps(parts, at) {
            return Some(set);
        }
        let shown = parts.iter().enumerate().filter(|(place, _)| *place != at);
        let forms: Vec<Form> = shown.map(|(_, part)| self.item(part)).collect::<Option<_>>()?;
        Some(Form::Chain(forms, vec!['.'; at.max(1)]))
    }

    fn equal_steps(&self, parts: &[&[Token]], at: usize) -> Option<Form> {
        let number = |part: &&[Token]| match shape(&self.item(part)?, Detail::FULL, self.budget)? {
            Shape::Number(Scalar::One(number)) => number.rational().cloned(),
            _ => None,
        };
        let before: Vec<BigRational> = parts[..at].iter().map(number).collect::<Option<_>>()?;
        let after: Vec<BigRational> = parts[at + 1..].iter().map(number).collect::<Option<_>>()?;
        let ([first, second, ..], Some(end)) = (before.as_slice(), after.last()) else { return None };
        let step = second - first;
        if step == BigRational::from_integer(0.into()) {
            return None;
        }
        let terms = |n: usize| first + &step * BigRational::from_integer(n.into());
        let count = ((end - first) / &step + BigRational::from_integer(1.into())).to_integer();
        let count = usize::try_from(count).ok().filter(|count| (before.len() + after.len()..=200).contains(count))?;
        let all: Vec<BigRational> = (0..count).map(terms).collect();
        (all.starts_with(&before) && all.ends_with(&after))
            .then(|| Form::Values(all.into_iter().map(|value| Form::Scalar(Expression::Number(value))).collect()))
    }
}

/// Whether `or` stands beside `and`, or beside a comma other than those of its own list, `1, 2, or 3`.
fn is_mixed(tokens: &[Token]) -> bool {
    let joints: Vec<&str> = outer(tokens)
        .filter(|(_, token)| is_separator(token) || junction(token).is_some())
        .map(|(_, token)| junction(token).unwrap_or(","))
        .collect();
    let is_list = joints.iter().all(|joint| *joint == "or")
        || matches!(joints.as_slice(), [commas @ .., "or"] if commas.iter().all(|joint| *joint == ","));
    joints.contains(&"or") && !is_list
}

/// Whether a form is a set of numbers between limits, perhaps with a name.
fn is_region(form: &Form) -> bool {
    match form {
        Form::Named(_, inner) => is_region(inner),
        other => matches!(other, Form::Region(_) | Form::Span { .. }),
    }
}

/// Several forms that have no names: one of them, or all. Points are those of a set.
fn together(forms: Vec<Form>, words: &[&str]) -> Form {
    let are_points = forms.iter().all(|form| matches!(form, Form::Tuple(_)));
    if words.contains(&"or") || are_points { Form::Values(forms) } else { Form::Several(forms) }
}

/// A part of an amount that is written in several units: `2 hours` of `2 hours and 30 minutes`.
struct Amount<'a> {
    figure: BigRational,
    measure: &'a Measure,
}

impl<'a> Amount<'a> {
    /// The parts that forms are if they are amounts of one thing, and not all in one unit.
    fn parts(forms: &'a [Form], budget: &Budget) -> Option<Vec<Self>> {
        let amount = |form: &'a Form| match form {
            Form::Quantity { figure, measure } => match shape(figure, Detail::FULL, budget)? {
                Shape::Number(Scalar::One(number)) => Some(Self { figure: number.rational()?.clone(), measure }),
                _ => None,
            },
            _ => None,
        };
        let parts: Vec<Self> = forms.iter().map(amount).collect::<Option<_>>()?;
        let (first, rest) = parts.split_first()?;
        let is_one_thing = rest.iter().all(|part| part.measure.unit == first.measure.unit);
        let is_mixed = rest.iter().any(|part| part.measure.factor != first.measure.factor);
        (is_one_thing && is_mixed).then_some(parts)
    }

    fn size(&self) -> BigRational {
        &self.figure * &self.measure.factor
    }

    /// Their sum, if each is less than one of the unit before it; else they may be as many amounts. What figure it would be
    /// without its units is not known.
    fn total(parts: &[Self]) -> Option<Form> {
        let goes_on = |pair: &[Self]| {
            let (before, part) = (&pair[0], &pair[1]);
            let is_part = !part.figure.is_negative() && part.size() < before.measure.factor;
            is_part && before.figure.is_integer() && part.measure.factor < before.measure.factor
        };
        let last = parts.last()?.measure;
        let is_amount = !parts[0].figure.is_negative() && parts.windows(2).all(goes_on);
        let total = parts.iter().map(Self::size).sum::<BigRational>() / &last.factor;
        let figure = Box::new(Form::Scalar(Expression::Number(total)));
        is_amount.then(|| Form::Quantity { figure, measure: Measure { optional: false, ..last.clone() } })
    }
}

/// The name that a form gives a value to.
fn name(form: &Form) -> Option<&str> {
    match form {
        Form::Named(name, _) => Some(name),
        Form::Equation(_, Some((name, _))) => Some(name),
        _ => None,
    }
}

fn named_value(form: Form) -> Option<(String, Form)> {
    match form {
        Form::Named(name, value) | Form::Equation(_, Some((name, value))) => Some((name, *value)),
        _ => None,
    }
}
