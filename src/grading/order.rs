//! Whether the order of factors may count. Letters for numbers commute; those for matrices, or for members of a group,
//! do not, and nothing but the way in which they are written tells which they are.

use super::{
    lex::{Kind, Token},
    read::{bracket, bracketed, is_sign},
    vocabulary::{differential, is_decoration, is_greek, is_vector, letters},
};

/// A letter that is a factor.
struct Letter<'a> {
    name: &'a str,
    index: &'a [Token],
    /// Whether it has a mark, or is set in bold, as numbers are not.
    is_marked: bool,
    /// Whether the mark is an arrow, a hat, or bold type.
    is_vector: bool,
    /// Whether it is raised to -1 or to T, which may be the sign of an inverse or a transpose.
    is_turned: bool,
    /// Whether it is raised to T.
    is_transposed: bool,
}

impl Letter<'_> {
    fn is_capital(&self) -> bool {
        self.name.starts_with(|c: char| c.is_ascii_uppercase())
    }

    fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.index == other.index && self.is_marked == other.is_marked
    }
}

/// Whether letters stand as nobody writes numbers: one on both sides of another (`PQP^{-1}`), capital ones in both
/// orders (`AB - BA`), or with an inverse or a transpose of one (`A^{-1}B`).
pub(super) fn may_count(tokens: &[Token]) -> bool {
    let mut products = vec![];
    collect(tokens, &mut products);
    products.iter().any(|product| has_sides(product))
        || has_three_vectors(tokens, &products)
        || has_inverse(&products)
        || (0..tokens.len()).any(|at| (at == 0 || !is_sign(&tokens[at - 1], '_')) && is_turned(&tokens[at..]))
        || has_both_orders(&products)
}

/// Whether a letter stands on both sides of another one.
fn has_sides(product: &[Letter]) -> bool {
    let changes = |at: &usize| *at > 1 && !product[*at].is(&product[at - 1]);
    (0..product.len()).filter(changes).any(|at| product[..at - 1].iter().any(|letter| letter.is(&product[at])))
}

/// Whether three vectors may be multiplied, of which two make a number first: in one product, or in two of what multiplies.
fn has_three_vectors(tokens: &[Token], products: &[Vec<Letter>]) -> bool {
    let vectors = |product: &Vec<Letter>| product.iter().filter(|letter| letter.is_vector).count();
    let most = products.iter().map(vectors).max().unwrap_or(0);
    if products.iter().map(vectors).sum::<usize>() < 3 {
        return false;
    }
    let has_brackets = tokens.iter().any(|token| matches!(token.kind, Kind::Open('(' | '[')));
    let has_sign = tokens.iter().any(|token| is_sign(token, '*'));
    most > 2 || [has_brackets, has_sign, most == 2].into_iter().filter(|multiplies| *multiplies).count() > 1
}

/// Whether an inverse or a transpose is next to a letter of the kind that matrices have, or is one of a letter that is
/// there too. A transpose is next to any letter, `A^Tv`.
fn has_inverse(products: &[Vec<Letter>]) -> bool {
    let is_matrix = |letter: &&Letter| letter.is_marked || letter.is_capital();
    let is_there = |turned: &Letter| products.iter().flatten().any(|letter| letter.is(turned) && !letter.is_turned);
    products.iter().any(|product| {
        let mut turned = product.iter().filter(is_matrix).filter(|letter| letter.is_turned);
        let matrices = product.iter().filter(is_matrix).count();
        turned.any(|turned| matrices > 1 || is_there(turned) || turned.is_transposed && product.len() > 1)
    })
}

/// Whether tokens begin with an inverse or a transpose of a bracket that may hold matrices: a product of them, one that is
/// turned itself, or, below a transpose, nothing but letters: `(AB)^{-1}`, `(A^{-1})^T`, `(A + B)^T`.
fn is_turned(tokens: &[Token]) -> bool {
    let length = if matches!(tokens[0].kind, Kind::Open('(' | '[') | Kind::Group) { bracket(tokens) } else { 0 };
    let (inner, behind) = tokens.split_at(length);
    let [sign, exponent @ ..] = behind else { return false };
    if length == 0 || !is_sign(sign, '^') {
        return false;
    }
    let minus = usize::from(exponent.first().is_some_and(|token| is_sign(token, '-')));
    let exponent = &exponent[..(minus + bracket(&exponent[minus..]).max(1)).min(exponent.len())];
    let (transposes, mut products) = (transposes(exponent), vec![]);
    collect(inner, &mut products);
    let is_matrix = |letter: &&Letter| letter.is_marked || letter.is_capital();
    let has_numbers = inner.iter().any(|token| matches!(token.kind, Kind::Number(_)));
    let may_hold = products.iter().any(|product| {
        let matrices: Vec<&Letter> = product.iter().filter(is_matrix).collect();
        let is_turned = matrices.iter().any(|letter| letter.is_turned);
        matrices.len() > 1 || is_turned || transposes && !has_numbers && !matrices.is_empty()
    });
    (transposes || inverts(exponent)) && may_hold
}

/// Whether one product has a capital letter before another one, and one has it behind that.
fn has_both_orders(products: &[Vec<Letter>]) -> bool {
    let mut before = [0u32; 26];
    for product in products {
        let mut seen = 0;
        for letter in product.iter().filter(|letter| letter.is_capital() && letter.index.is_empty()) {
            let place = usize::from(letter.name.as_bytes()[0] - b'A');
            before[place] |= seen;
            seen |= 1 << place;
        }
    }
    let stands_before = |a: usize, b: usize| before[b] >> a & 1 == 1;
    (0..26).any(|a| (0..a).any(|b| stands_before(a, b) && stands_before(b, a)))
}

/// The letters that are factors of one product, product by product. Between them there may be brackets, in which there
/// are others.
fn collect<'a>(tokens: &'a [Token], products: &mut Vec<Vec<Letter<'a>>>) {
    let (mut product, mut rest) = (vec![], tokens);
    while let [token, after @ ..] = rest {
        let length = bracket(rest);
        if length > 0 {
            collect(&rest[1..length], products);
            rest = &rest[length..];
            if token.kind == Kind::Group {
                products.push(std::mem::take(&mut product));
            }
            continue;
        }
        let Some((mut letters, length)) = named(rest) else {
            products.push(std::mem::take(&mut product));
            rest = after;
            continue;
        };
        rest = &rest[length..];
        if let Some(last) = letters.last_mut() {
            rest = attached(last, rest);
        }
        product.append(&mut letters);
    }
    products.push(product);
}

/// The letters that tokens begin with, and how many tokens they are.
fn named(tokens: &[Token]) -> Option<(Vec<Letter<'_>>, usize)> {
    let letter = |name, is_marked| Letter {
        name,
        index: &[],
        is_marked,
        is_vector: false,
        is_turned: false,
        is_transposed: false,
    };
    match tokens {
        [Token { kind: Kind::Command(mark), .. }, group, Token { kind: Kind::Word(name), .. }, end, ..]
            if is_decoration(mark) && group.kind == Kind::Group && end.kind == Kind::EndGroup =>
        {
            Some((vec![Letter { is_vector: is_vector(mark), ..letter(name.as_str(), true) }], 4))
        }
        [Token { kind: Kind::Command(mark), .. }, Token { kind: Kind::Word(name), .. }, ..] if is_vector(mark) => {
            Some((vec![Letter { is_vector: true, ..letter(name.as_str(), true) }], 2))
        }
        [Token { kind: Kind::Command(name), .. }, ..] if is_greek(name) => {
            Some((vec![letter(name.as_str(), false)], 1))
        }
        // `dx` may be one letter.
        [Token { kind: Kind::Word(word), .. }, ..] if differential(word).is_none() => {
            Some((letters(word)?.into_iter().map(|name| letter(name, false)).collect(), 1))
        }
        _ => None,
    }
}

/// What is behind the index and the exponent of a letter, which it takes in.
fn attached<'a>(letter: &mut Letter<'a>, mut tokens: &'a [Token]) -> &'a [Token] {
    while let [sign, rest @ ..] = tokens
        && (is_sign(sign, '_') || is_sign(sign, '^') || is_sign(sign, '\''))
    {
        let minus = usize::from(rest.first().is_some_and(|token| is_sign(token, '-')));
        let length = if is_sign(sign, '\'') { 0 } else { minus + bracket(&rest[minus..]).max(1) };
        let (argument, after) = rest.split_at(length.min(rest.len()));
        if is_sign(sign, '_') {
            letter.index = argument;
        } else if is_sign(sign, '^') {
            letter.is_transposed |= transposes(argument);
            letter.is_turned |= letter.is_transposed || inverts(argument);
        }
        tokens = after;
    }
    tokens
}

/// Whether an exponent is -1.
fn inverts(exponent: &[Token]) -> bool {
    match exponent {
        [minus, Token { kind: Kind::Number(one), .. }] => is_sign(minus, '-') && one.digits == "1",
        _ => matches!(bracketed(exponent), Some((Kind::Group, inner, _)) if inverts(inner)),
    }
}

/// Whether an exponent is the sign of a transpose.
pub(super) fn transposes(exponent: &[Token]) -> bool {
    match exponent {
        [Token { kind: Kind::Word(name), .. }] => name == "T",
        [Token { kind: Kind::Command(name), .. }] => matches!(name.as_str(), "top" | "intercal"),
        _ => matches!(bracketed(exponent), Some((Kind::Group, inner, _)) if transposes(inner)),
    }
}
