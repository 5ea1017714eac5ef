//! How far two lists of numbers are from each other.

use candle_core::Tensor;
use serde_json::{Value, json};

use super::Allowed;

/// Differences between numbers that should be equal. One that is no number makes both figures none.
pub struct Gaps {
    count: usize,
    largest: f64,
    root_mean_square: f64,
    /// `|a - b| / |a|`.
    relative: f64,
}

impl Gaps {
    pub fn of(expected: impl Iterator<Item = f32>, found: impl Iterator<Item = f32>) -> Self {
        let (mut count, mut largest, mut squares, mut of_expected) = (0, 0f64, 0.0, 0.0);
        for (expected, found) in expected.zip(found) {
            let gap = f64::from(expected - found).abs();
            count += 1;
            squares += gap * gap;
            of_expected += f64::from(expected) * f64::from(expected);
            // `max` would pass over what is no number.
            largest = if largest.is_nan() || gap <= largest { largest } else { gap };
        }
        // Numbers that are all 0 have no size to compare with.
        let relative = if squares == 0.0 { 0.0 } else { (squares / of_expected).sqrt() };
        Self { count, largest, root_mean_square: (squares / count as f64).sqrt(), relative }
    }

    pub fn json(&self) -> Value {
        json!({
            "count": self.count, "largest": self.largest, "root_mean_square": self.root_mean_square,
            "relative": self.relative,
        })
    }

    /// What is beyond the bounds, in words.
    pub fn problems(&self, name: &str, allowed: &Allowed) -> Vec<String> {
        let bounds = [
            ("at most", self.largest, allowed.largest),
            ("in the root mean square", self.root_mean_square, allowed.root_mean_square),
            ("relative to their size", self.relative, allowed.relative),
        ];
        let beyond = bounds.into_iter().filter(|(_, gap, bound)| !within(*gap, *bound));
        beyond.map(|(how, gap, bound)| format!("{name} are off by {gap:.2e} {how}, {bound:.0e} is allowed")).collect()
    }
}

/// Whether a gap is small enough; what is no number never is.
pub fn within(gap: f64, bound: f64) -> bool {
    gap <= bound
}

/// How many tokens are the same before the first that is not.
pub fn agreed(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The Euclidean norm of all elements.
pub fn norm(tensor: &Tensor) -> candle_core::Result<f64> {
    Ok(f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(found: [f32; 3]) -> Gaps {
        Gaps::of([1.0, 2.0, 3.0].into_iter(), found.into_iter())
    }

    #[test]
    fn what_is_no_number_passes_no_bound_wherever_it_is() {
        let allowed = Allowed::of(true, 1);
        assert!(gaps([1.0, 2.0, 3.0]).problems("numbers", &allowed).is_empty());
        for at in 0..3 {
            let mut found = [1.0, 2.0, 3.0];
            found[at] = f32::NAN;
            assert_eq!(gaps(found).problems("numbers", &allowed).len(), 3, "{at}");
        }
    }

    #[test]
    fn the_largest_gap_and_their_root_mean_square_are_found() {
        let found = gaps([1.0, 2.5, 2.0]);
        assert_eq!((found.count, found.largest), (3, 1.0));
        assert!((found.root_mean_square - (1.25f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
