//! Sums and products of matrices, entry by entry.

use super::expression::Expression;

type Rows = Vec<Vec<Expression>>;

/// The most nodes of all entries of a product, or of all products of a determinant, together.
const MAX_SIZE: usize = 4000;

/// The entries of an expression that is a matrix; `None` if it is a number, `Some(None)` if it is neither.
pub(super) fn rows(expression: &Expression) -> Option<Option<Rows>> {
    has_matrix(expression).then(|| value(expression))
}

/// The determinant of a matrix of few rows, by those of its parts; `None` for another one.
pub(super) fn determinant(rows: &[Vec<Expression>]) -> Option<Expression> {
    const MOST_ROWS: usize = 4;
    let (first, others) = rows.split_first()?;
    // Each entry is in as many products as there are orders of the other rows.
    let size = rows.iter().flatten().map(Expression::size).sum::<usize>() * (1..rows.len()).product::<usize>();
    if rows.len() > MOST_ROWS || size > MAX_SIZE || rows.iter().any(|row| row.len() != rows.len()) {
        return None;
    }
    if others.is_empty() {
        return first.first().cloned();
    }
    let term = |(column, entry): (usize, &Expression)| {
        let without = |row: &Vec<Expression>| [&row[..column], &row[column + 1..]].concat();
        let minor = determinant(&others.iter().map(without).collect::<Vec<_>>())?;
        let term = Expression::Product(vec![entry.clone(), minor]);
        Some(if column % 2 == 0 { term } else { term.negative() })
    };
    first.iter().enumerate().map(term).collect::<Option<_>>().map(Expression::Sum)
}

fn has_matrix(expression: &Expression) -> bool {
    match expression {
        Expression::Matrix(_) => true,
        Expression::Sum(inner) | Expression::Product(inner) => inner.iter().any(has_matrix),
        Expression::Negative(inner) => has_matrix(inner),
        Expression::Quotient(a, b) | Expression::Power(a, b) => has_matrix(a) || has_matrix(b),
        _ => false,
    }
}

fn value(expression: &Expression) -> Option<Rows> {
    match expression {
        Expression::Matrix(rows) => Some(rows.clone()),
        Expression::Negative(inner) => Some(scaled(&Expression::integer(-1), value(inner)?)),
        Expression::Quotient(above, below) if !has_matrix(below) => {
            Some(scaled(&Expression::integer(1).over((**below).clone()), value(above)?))
        }
        Expression::Sum(terms) => {
            let mut terms = terms.iter().map(value);
            let first = terms.next()??;
            terms.try_fold(first, |total, term| sum(total, term?))
        }
        Expression::Product(factors) => {
            let (mut matrix, mut scale): (Option<Rows>, Vec<Expression>) = (None, vec![]);
            for factor in factors {
                if has_matrix(factor) {
                    let right = value(factor)?;
                    matrix = Some(match matrix {
                        Some(left) => product(&left, &right)?,
                        None => right,
                    });
                } else {
                    scale.push(factor.clone());
                }
            }
            let matrix = matrix?;
            Some(if scale.is_empty() { matrix } else { scaled(&Expression::Product(scale), matrix) })
        }
        _ => None,
    }
}

fn scaled(factor: &Expression, rows: Rows) -> Rows {
    let entry = |entry| Expression::Product(vec![factor.clone(), entry]);
    rows.into_iter().map(|row| row.into_iter().map(entry).collect()).collect()
}

fn sum(a: Rows, b: Rows) -> Option<Rows> {
    let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.len() == b.len());
    let row = |(a, b): (Vec<_>, Vec<_>)| a.into_iter().zip(b).map(|(a, b)| Expression::Sum(vec![a, b])).collect();
    same.then(|| a.into_iter().zip(b).map(row).collect())
}

fn product(a: &Rows, b: &Rows) -> Option<Rows> {
    let (inner, columns) = (b.len(), b.first()?.len());
    let size = |rows: &Rows| rows.iter().flatten().map(Expression::size).sum::<usize>();
    if a.iter().any(|row| row.len() != inner) || size(a) * columns + size(b) * a.len() > MAX_SIZE {
        return None;
    }
    let entry = |row: &Vec<Expression>, column: usize| {
        let terms = row.iter().zip(b).map(|(x, other)| Expression::Product(vec![x.clone(), other[column].clone()]));
        Expression::Sum(terms.collect())
    };
    Some(a.iter().map(|row| (0..columns).map(|column| entry(row, column)).collect()).collect())
}
