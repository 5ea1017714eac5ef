//! Where one formula ends and another one begins beside it.

use super::{
    lex::{Gap, Kind, Token},
    words::is_junction,
};

/// With rows only where one formula ends and another one begins, and in matrices, where white space means nothing.
pub(super) fn side_by_side(tokens: &[Token]) -> Vec<Token> {
    let is_row = |token: &Token| matches!(token.kind, Kind::Row | Kind::Sign('&'));
    let mut kept: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut matrices = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Begin => matrices += 1,
            Kind::End => matrices = matrices.saturating_sub(1),
            _ => {}
        }
        if matrices > 0 {
            kept.extend((token.kind != Kind::Row || token.gap != Gap::Wide).then(|| token.clone()));
        } else if !is_row(token) {
            kept.push(token.clone());
        } else if kept.last().is_some_and(|last| ends_formula(&last.kind)) {
            let next =
                tokens[at..].iter().position(|token| !is_row(token)).map_or(&[][..], |next| &tokens[at + next..]);
            kept.extend(begins_formula(next).then_some(Token { kind: Kind::Row, gap: token.gap }));
        }
    }
    kept
}

fn ends_formula(kind: &Kind) -> bool {
    match kind {
        Kind::Sign(sign) => matches!(sign, '!' | '%' | '\u{b0}' | '\'' | '|' | '\u{2016}'),
        Kind::Open(_) | Kind::Group | Kind::Row => false,
        Kind::Word(word) | Kind::Text(word) => !is_junction(word),
        _ => true,
    }
}

/// Whether a formula begins with these tokens, rather than goes on: words in a text are rather a unit, unless they are a
/// name.
fn begins_formula(tokens: &[Token]) -> bool {
    match tokens {
        [Token { kind: Kind::Text(_), .. }, rest @ ..] => rest.first().is_some_and(|next| next.kind == Kind::Sign('=')),
        [Token { kind: Kind::Sign(sign), .. }, ..] => matches!(sign, '-' | '\u{b1}' | '|' | '\u{2016}' | '$'),
        [Token { kind: Kind::Close(_) | Kind::EndGroup, .. }, ..] | [] => false,
        [Token { kind: Kind::Word(word), .. }, ..] => !is_junction(word),
        _ => true,
    }
}
