//! From an answer to its form: lists, brackets, signs that stand for two values, units, words.

mod list;
mod quantity;

use super::{
    budget::{Budget, MAX_BYTES},
    clean::clean,
    congruence::{congruence, is_congruence},
    expression::Expression,
    form::Form,
    key::{Detail, Names, Shape, Units, limit, point, shape},
    lex::{Gap, Kind, Token, tokens},
    matrix,
    names::name_of,
    numerals::{leading_integer, numeral},
    order,
    parse::expression,
    region::Region,
    relation::{Sides, is_relation},
    vocabulary::is_function,
    words::{based, clock, date, fold, is_junction, is_wordy, meaning, number_set},
};

/// The form of an answer; `None` if it is not understood, or is nothing.
pub(super) fn form(answer: &str, budget: &Budget) -> Option<Form> {
    if answer.len() > MAX_BYTES {
        return None;
    }
    let text = grouped_by_spaces(clean(answer));
    if text.is_empty() {
        return None;
    }
    if has_both_shapes(&text) {
        return None;
    }
    let tokens = tokens(&text)?;
    let reader = Reader { budget };
    if let Some(form) = reader.lone(&tokens) {
        return Some(form);
    }
    date(&text).or_else(|| reader.words_or_list(&tokens, &text))
}

/// Whether a letter is there in both of its shapes, as if it were two letters: `\phi` and `\varphi`.
fn has_both_shapes(text: &str) -> bool {
    let mut variants = text.split("\\var").skip(1);
    variants.any(|rest| {
        let letter = &rest[..rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len())];
        !letter.is_empty() && text.contains(&format!("\\{letter}"))
    })
}

/// What folded words say; they are text if they have no other meaning.
fn of_words(folded: String) -> Option<Form> {
    if let Some(number) = numeral(&folded) {
        return number.map(|number| Form::Scalar(Expression::Number(number)));
    }
    meaning(&folded).or_else(|| (!folded.is_empty()).then_some(Form::Text(folded)))
}

/// `1 000 000` without its spaces.
fn grouped_by_spaces(text: String) -> String {
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    let groups: Vec<&str> = whole.split([' ', '\u{2005}']).filter(|group| !group.is_empty()).collect();
    let is_digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_grouped = groups.len() > 1
        && groups.iter().all(is_digits)
        && (1..=3).contains(&groups[0].len())
        && groups[1..].iter().all(|group| group.len() == 3)
        && (decimals.is_empty() || is_digits(&decimals));
    if is_grouped { text.replace([' ', '\u{2005}'], "") } else { text }
}

/// Reads forms from tokens, within a budget.
pub(super) struct Reader<'a> {
    pub budget: &'a Budget,
}

pub(super) fn is_sign(token: &Token, sign: char) -> bool {
    token.kind == Kind::Sign(sign)
}

/// `5-6`, `555-1234`, `5-1/2`: a range, a code or a mixed number rather than a difference, which would be of a larger
/// number and a smaller one.
fn is_range(tokens: &[Token]) -> bool {
    let integer = |token: &Token| match &token.kind {
        Kind::Number(literal) if !literal.digits.is_empty() => Some(literal.value.clone()),
        _ => None,
    };
    let parts = split(tokens, |token| is_sign(token, '-'));
    let is_tight = !tokens.iter().skip(1).any(Token::is_spaced);
    is_tight
        && match parts[..] {
            // A dash in LaTeX.
            [[first], [], [second]] => [first, second].map(integer).iter().all(Option::is_some),
            [[first], [second]] => integer(first).zip(integer(second)).is_some_and(|(first, second)| first < second),
            [[whole], [above, slash, below]] => {
                is_sign(slash, '/') && [whole, above, below].map(integer).iter().all(Option::is_some)
            }
            _ => parts.len() > 2 && parts.iter().all(|part| matches!(part, [one] if integer(one).is_some())),
        }
}

/// A number with digits behind its point, with or without a sign.
fn decimal(tokens: &[Token]) -> Option<Form> {
    let (negative, number) = match tokens {
        [sign, number] if is_sign(sign, '-') || is_sign(sign, '+') => (is_sign(sign, '-'), number),
        [number] => (false, number),
        _ => return None,
    };
    let Kind::Number(literal) = &number.kind else { return None };
    let value = literal.value.clone();
    Some(Form::Decimal(if negative { -value } else { value }, literal.places?))
}

/// The positive or negative numbers: `\mathbb{R}^+`.
fn half_line(sign: &Token) -> Option<Form> {
    let positive = Region::positive();
    match sign.kind {
        Kind::Sign('+') => Some(Form::Region(positive)),
        Kind::Sign('-') => Some(Form::Region(positive.mirrored())),
        _ => None,
    }
}

/// The entries of a matrix as they are written, row by row; none of a sum or a product.
fn entries(tokens: &[Token]) -> Vec<Vec<&[Token]>> {
    let tokens = bracketed(tokens).map_or(tokens, |(_, inner, _)| inner);
    match tokens {
        [begin, inner @ .., end]
            if begin.kind == Kind::Begin && end.kind == Kind::End && !inner.iter().any(|t| t.kind == Kind::Begin) =>
        {
            let rows = split(inner, |token| token.kind == Kind::Row);
            rows.into_iter().map(|row| split(row, |token| is_sign(token, '&'))).collect()
        }
        _ => vec![],
    }
}

fn is_separator(token: &Token) -> bool {
    is_sign(token, ',') || is_sign(token, ';')
}

/// The tokens outside of all brackets, with their places.
pub(super) fn outer(tokens: &[Token]) -> impl Iterator<Item = (usize, &Token)> {
    let mut depth = 0i32;
    tokens.iter().enumerate().filter(move |(_, token)| {
        let opens = matches!(token.kind, Kind::Open(_) | Kind::Group | Kind::Begin);
        let closes = matches!(token.kind, Kind::Close(_) | Kind::EndGroup | Kind::End);
        depth += i32::from(opens);
        let is_outer = depth == 0;
        depth -= i32::from(closes);
        is_outer
    })
}

/// The parts between the outer tokens that are such.
pub(super) fn split(tokens: &[Token], is_separator: impl Fn(&Token) -> bool) -> Vec<&[Token]> {
    let mut parts = vec![];
    let mut start = 0;
    for (at, _) in outer(tokens).filter(|(_, token)| is_separator(token)) {
        parts.push(&tokens[start..at]);
        start = at + 1;
    }
    parts.push(&tokens[start..]);
    parts
}

/// The tokens inside the bracket that goes around all of them, with how it opens and closes.
pub(super) fn bracketed(tokens: &[Token]) -> Option<(&Kind, &[Token], &Kind)> {
    let [first, inner @ .., last] = tokens else { return None };
    // `(a)(b)` is not in brackets as a whole.
    let is_whole = first.kind != Kind::Begin && bracket(tokens) == tokens.len();
    is_whole.then_some((&first.kind, inner, &last.kind))
}

/// How many tokens the bracket has that they begin with; none if they begin with something else.
pub(super) fn bracket(tokens: &[Token]) -> usize {
    let mut depth = 0i32;
    for (at, token) in tokens.iter().enumerate() {
        depth += match token.kind {
            Kind::Open(_) | Kind::Group | Kind::Begin => 1,
            Kind::Close(_) | Kind::EndGroup | Kind::End => -1,
            _ => 0,
        };
        if depth <= 0 {
            return if at == 0 { 0 } else { at + 1 };
        }
    }
    0
}

/// The word that joins what stands before a token with what stands behind it.
pub(super) fn junction(token: &Token) -> Option<&str> {
    match &token.kind {
        Kind::Word(word) | Kind::Text(word) if is_junction(word) => Some(word.trim().trim_matches(',').trim()),
        Kind::Command(_) => connective(token),
        _ => None,
    }
}

/// The sign of logic that a token is, in words. It joins statements, as words do, but no values.
fn connective(token: &Token) -> Option<&'static str> {
    match &token.kind {
        Kind::Command(name) if matches!(name.as_str(), "lor" | "vee") => Some("or"),
        Kind::Command(name) if matches!(name.as_str(), "land" | "wedge") => Some("and"),
        _ => None,
    }
}

impl Reader<'_> {
    /// Words, unless they are what a number in front of them counts; or a formula.
    fn words_or_list(&self, tokens: &[Token], text: &str) -> Option<Form> {
        let quantity_first = matches!(tokens.first()?.kind, Kind::Number(_) | Kind::Sign('-'));
        if is_wordy(tokens) && !(quantity_first && self.item(tokens).is_some()) {
            let folded = fold(text);
            return if numeral(&folded).is_some() { None } else { self.counted(&folded) }.or_else(|| of_words(folded));
        }
        if order::may_count(tokens) { None } else { self.list(tokens) }
    }

    /// A number in words before a unit: `five dollars`, `ten percent`.
    fn counted(&self, folded: &str) -> Option<Form> {
        let (figure, unit) = leading_integer(folded)?;
        let form = self.quantity(&tokens(&format!("{figure} {unit}"))?)?;
        // `one line` is rather the beginning of a sentence.
        match &form {
            Form::Quantity { measure, .. } if !measure.optional => None,
            _ => Some(form),
        }
    }

    /// A single letter, also in brackets as the choice of one, or a single text.
    fn lone(&self, tokens: &[Token]) -> Option<Form> {
        let token = match tokens {
            [token] => token,
            [open, token, close] if open.kind == Kind::Open('(') && close.kind == Kind::Close(')') => token,
            // The choice of one is often set in bold.
            [bold, _, token @ Token { kind: Kind::Word(letter), .. }, _]
                if bold.kind == Kind::Command("mathbf".into()) && letter.chars().all(char::is_uppercase) =>
            {
                token
            }
            _ => return None,
        };
        match &token.kind {
            Kind::Word(word) if word.chars().count() == 1 => {
                Some(Form::Scalar(expression(std::slice::from_ref(token))?))
            }
            // `BDC` may be an order, in which letters are no factors.
            Kind::Word(word) if word.chars().count() > 2 || word.chars().all(char::is_uppercase) => {
                if is_function(word) { None } else { of_words(fold(word)) }
            }
            Kind::Text(text) => {
                let folded = text.trim().trim_start_matches('(').trim_end_matches([')', '.']).trim();
                let inner = super::lex::tokens(folded)?;
                match inner.as_slice() {
                    [Token { kind: Kind::Word(letter), .. }] if letter.chars().count() == 1 => self.lone(&inner),
                    _ => self.words_or_list(&inner, text),
                }
            }
            _ => None,
        }
    }

    /// A form without outer commas.
    pub fn item(&self, tokens: &[Token]) -> Option<Form> {
        self.budget.take(1)?;
        if tokens.is_empty() {
            return None;
        }
        if outer(tokens).any(|(_, token)| is_relation(&token.kind)) {
            let signs = outer(tokens).filter(|(_, token)| is_relation(&token.kind));
            let signs = signs.map(|(_, token)| if let Kind::Sign(sign) = token.kind { sign } else { '=' }).collect();
            return self.relation(Sides { sides: split(tokens, |token| is_relation(&token.kind)), signs });
        }
        if is_congruence(tokens) {
            return congruence(tokens);
        }
        if let Some((open @ (Kind::Open('{') | Kind::Group), inner, _)) = bracketed(tokens) {
            return self.braces(open, inner);
        }
        if tokens.iter().any(|token| is_sign(token, '\u{b1}')) {
            return self.both_signs(tokens);
        }
        if outer(tokens).any(|(_, token)| matches!(token.kind, Kind::Sign('\u{222a}' | '\u{2229}' | '\u{2216}'))) {
            return self.set_algebra(tokens);
        }
        // `[2.5]` may be a whole number; around a matrix they are its brackets.
        if let Some((Kind::Open('['), inner, _)) = bracketed(tokens)
            && inner.first().is_none_or(|first| first.kind != Kind::Begin)
            && !outer(inner).any(|(_, token)| is_separator(token))
        {
            return None;
        }
        self.brackets(tokens)
            .or_else(|| self.special(tokens))
            .or_else(|| expression(tokens).and_then(|expression| self.scalar(expression, tokens)))
            .or_else(|| self.quantity(tokens))
            .or_else(|| self.amount(tokens))
    }

    /// What stands in braces: a set, or only a group.
    fn braces(&self, open: &Kind, inner: &[Token]) -> Option<Form> {
        if inner.is_empty() {
            return Some(Form::Set(vec![]));
        }
        if let Some(set) = self.set_builder(inner) {
            return set;
        }
        Some(match self.list(inner)? {
            Form::Values(forms) | Form::Several(forms) => Form::Set(forms),
            other if *open == Kind::Group => other,
            other => Form::Set(vec![other]),
        })
    }

    /// `x | x > 5` and `x \in \mathbb{R} : x > 5`. `Some(None)` if it is one that is not understood.
    fn set_builder(&self, inner: &[Token]) -> Option<Option<Form>> {
        let (at, _) = outer(inner).find(|(_, token)| is_sign(token, '|') || is_sign(token, ':'))?;
        let (head, condition) = (&inner[..at], &inner[at + 1..]);
        let mut parts = split(head, |token| is_sign(token, '\u{2208}')).into_iter();
        let (name, within) = (parts.next()?, parts.next());
        let name = name_of(name).filter(|_| condition.iter().any(|token| is_relation(&token.kind)))?;
        let set = match self.list(condition) {
            Some(Form::Named(own, set)) if own == name => set,
            _ => return Some(None),
        };
        let Some(within) = within else { return Some(Some(*set)) };
        let (Form::Region(set), Some(within)) = (*set, self.region(within)) else { return Some(None) };
        Some(Some(Form::Region(Region::intersection([set, within]))))
    }

    /// The two values of a formula with one `\pm`, in which `\mp` is the other sign.
    fn both_signs(&self, tokens: &[Token]) -> Option<Form> {
        if tokens.iter().filter(|token| is_sign(token, '\u{b1}')).count() != 1 {
            return None;
        }
        let with = |plus: char, minus: char| {
            // With a space, so that `2-3` is a difference and no range.
            let signed = tokens.iter().map(|token| match token.kind {
                Kind::Sign('\u{b1}') => Token { kind: Kind::Sign(plus), gap: token.gap.max(Gap::Space) },
                Kind::Sign('\u{2213}') => Token { kind: Kind::Sign(minus), gap: token.gap.max(Gap::Space) },
                _ => token.clone(),
            });
            self.item(&signed.collect::<Vec<_>>())
        };
        Some(Form::Values(vec![with('+', '-')?, with('-', '+')?]))
    }

    fn set_algebra(&self, tokens: &[Token]) -> Option<Form> {
        let is_operator = |token: &Token| matches!(token.kind, Kind::Sign('\u{222a}' | '\u{2229}' | '\u{2216}'));
        let signs: Vec<&Token> = outer(tokens).map(|(_, token)| token).filter(|token| is_operator(token)).collect();
        // Which comes first is a matter of convention.
        if signs.iter().any(|sign| sign.kind != signs[0].kind) || (signs.len() > 1 && is_sign(signs[0], '\u{2216}')) {
            return None;
        }
        let regions: Vec<Region> =
            split(tokens, is_operator).into_iter().map(|part| self.region(part)).collect::<Option<_>>()?;
        Some(Form::Region(match (&signs[0].kind, regions.as_slice()) {
            (Kind::Sign('\u{222a}'), _) => Region::union(regions),
            (Kind::Sign('\u{2216}'), [all, without]) => Region::intersection([all.clone(), without.complement()]),
            _ => Region::intersection(regions),
        }))
    }

    pub fn region(&self, tokens: &[Token]) -> Option<Region> {
        let form = self.item(tokens).filter(|form| !form.is_open())?;
        match shape(&form, Detail { names: Names::Loose, units: Units::Kept }, self.budget)? {
            Shape::Region(region) => Some(region),
            Shape::Tuple(ends) => {
                let [low, high] = ends.as_slice() else { return None };
                Some(Region::between(limit(low)?, false, limit(high)?, false)).filter(|region| !region.is_empty())
            }
            Shape::Set(points) => Some(Region::union(points.iter().map(point).collect::<Option<Vec<_>>>()?)),
            number @ Shape::Number(_) if bracketed(tokens).is_some_and(|(open, ..)| *open == Kind::Open('{')) => {
                point(&number)
            }
            _ => None,
        }
    }

    /// Tuples, intervals and lists.
    fn brackets(&self, tokens: &[Token]) -> Option<Form> {
        let (Kind::Open(open), inner, Kind::Close(close)) = bracketed(tokens)? else { return None };
        let parts = split(inner, is_separator);
        // `(1,5; 2)` may be of two numbers.
        let has = |sign| outer(inner).any(|(_, token)| is_sign(token, sign));
        if has(',') && has(';') {
            return None;
        }
        if parts.len() == 1 {
            return if (*open, *close) == ('(', ')') { self.item(inner) } else { None };
        }
        // `(1,000)` may be a thousand.
        let is_group = |part: &&[Token]| match part {
            [Token { kind: Kind::Number(literal), .. }] => literal.digits.len() > 1 && literal.digits.starts_with('0'),
            _ => false,
        };
        if parts.iter().any(is_group) {
            return None;
        }
        let mut forms: Vec<Form> = parts.into_iter().map(|part| self.item(part)).collect::<Option<_>>()?;
        match (open, close) {
            ('(', ')') | ('<', '<') => Some(Form::Tuple(forms)),
            ('[', ']') if forms.len() > 2 => Some(Form::List(forms)),
            ('(' | '[', ')' | ']') if forms.len() == 2 => {
                let (high, low) = (Box::new(forms.pop()?), Box::new(forms.pop()?));
                Some(Form::Span { low, low_closed: *open == '[', high, high_closed: *close == ']' })
            }
            _ => None,
        }
    }

    /// What is written with signs or words of its own: ratios, times, bases, infinities, sets with a name.
    fn special(&self, tokens: &[Token]) -> Option<Form> {
        if let Some(form) = clock(tokens).or_else(|| based(tokens)).or_else(|| quantity::angle(tokens)) {
            return Some(form);
        }
        if outer(tokens).any(|(_, token)| is_sign(token, ':')) {
            let parts = split(tokens, |token| is_sign(token, ':'));
            let parts: Option<Vec<Form>> =
                parts.into_iter().map(|part| Some(Form::Scalar(expression(part)?))).collect();
            return parts.map(Form::Ratio);
        }
        // `-(1, 2)` may be a point.
        if let [sign, rest @ ..] = tokens
            && is_sign(sign, '-')
            && let Some((open, inner, close)) = bracketed(rest)
            && (*open == Kind::Open('[') || *close == Kind::Close(']'))
            && outer(inner).any(|(_, token)| is_separator(token))
        {
            return Some(Form::Region(self.region(rest)?.mirrored()));
        }
        let (negative, rest) = match tokens {
            [sign, rest @ ..] if is_sign(sign, '-') => (true, rest),
            [sign, rest @ ..] if is_sign(sign, '+') => (false, rest),
            _ => (false, tokens),
        };
        match rest {
            [Token { kind: Kind::Command(name), .. }] if name == "infty" => Some(Form::Infinity { negative }),
            [Token { kind: Kind::Word(name), .. }] if matches!(name.as_str(), "infinity" | "inf" | "oo") => {
                Some(Form::Infinity { negative })
            }
            [Token { kind: Kind::Command(name), .. }] if matches!(name.as_str(), "emptyset" | "varnothing") => {
                Some(Form::Set(vec![]))
            }
            [Token { kind: Kind::Domain(letter), .. }] => number_set(*letter),
            [Token { kind: Kind::Domain('R'), .. }, hat, sign] if is_sign(hat, '^') => half_line(sign),
            [Token { kind: Kind::Domain('R'), .. }, hat, _, sign, _] if is_sign(hat, '^') => half_line(sign),
            _ => None,
        }
    }

    fn scalar(&self, expression: Expression, tokens: &[Token]) -> Option<Form> {
        if let Some(rows) = matrix::rows(&expression) {
            let written = entries(tokens);
            let form = |row: usize, column: usize, entry| {
                let tokens = written.get(row).and_then(|row| row.get(column));
                tokens.and_then(|tokens| decimal(tokens)).unwrap_or(Form::Scalar(entry))
            };
            let read = |(at, row): (usize, Vec<Expression>)| {
                row.into_iter().enumerate().map(|(column, entry)| form(at, column, entry)).collect()
            };
            return Some(Form::Matrix(rows?.into_iter().enumerate().map(read).collect()));
        }
        if is_range(tokens) {
            return None;
        }
        if let Some(decimal) = decimal(tokens) {
            return Some(decimal);
        }
        // `90\u{b0}` alone is a quantity; in a formula it is an angle.
        let calls = tokens.iter().any(|token| match &token.kind {
            Kind::Command(name) | Kind::Word(name) => is_function(name),
            _ => false,
        });
        let tokens = match tokens {
            [rest @ .., Token { kind: Kind::Word(scale), .. }] if matches!(scale.as_str(), "C" | "F") => rest,
            _ => tokens,
        };
        if !calls && tokens.last().is_some_and(|token| is_sign(token, '\u{b0}') || is_sign(token, '%')) {
            return None;
        }
        Some(Form::Scalar(expression))
    }
}
