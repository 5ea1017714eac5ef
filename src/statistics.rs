//! Shares that were counted and means that were measured, and how far the true ones may be from them: pure.

use serde::{Deserialize, Serialize};

/// Where a true value is, as far as counting can say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// The interval of a share of which `count` in `total` were counted: Wilson's score interval (Wilson 1927, JASA 22:
/// 209). The share is above its lower end with `confidence`, and below its upper end with `confidence`. All of 0 to 1
/// if nothing was counted.
pub fn wilson(count: usize, total: usize, confidence: f64) -> Interval {
    if total == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (n, share, z) = (total as f64, count as f64 / total as f64, normal_quantile(confidence));
    let middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    Interval { low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

/// The interval of the difference of two shares that were counted independently, `(count, total)` each, the first less
/// the second: Newcombe's, from Wilson's of each (Newcombe 1998, Statistics in Medicine 17: 873, method 10). The
/// difference is above its lower end with `confidence`, and below its upper end with `confidence`. All of -1 to 1 if
/// nothing was counted.
pub fn newcombe(first: (usize, usize), second: (usize, usize), confidence: f64) -> Interval {
    let share = |(count, total): (usize, usize)| count as f64 / total.max(1) as f64;
    if first.1 == 0 || second.1 == 0 {
        return Interval { low: -1.0, high: 1.0 };
    }
    let (a, b) = (share(first), share(second));
    let [of_a, of_b] = [first, second].map(|(count, total)| wilson(count, total, confidence));
    let (below, above) = ((a - of_a.low).hypot(of_b.high - b), (of_a.high - a).hypot(b - of_b.low));
    Interval { low: a - b - below, high: a - b + above }
}

/// Values that were measured, in short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    pub count: usize,
    /// 0 without values.
    pub mean: f64,
    /// Of the values that these were drawn from, as far as these tell; 0 with fewer than two.
    pub variance: f64,
}

impl Moments {
    pub fn of(values: &[f64]) -> Self {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count.max(1) as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { count, mean, variance: squares / count.saturating_sub(1).max(1) as f64 }
    }
}

/// The interval of the difference of two means that were measured independently, the first less the second: Welch's
/// (Welch 1947, Biometrika 34: 28). The difference is above its lower end with `confidence`, and below its upper end
/// with `confidence`. Everything with fewer than two values of either.
pub fn welch(first: Moments, second: Moments, confidence: f64) -> Interval {
    if first.count.min(second.count) < 2 {
        return Interval { low: f64::NEG_INFINITY, high: f64::INFINITY };
    }
    let [a, b] = [first, second].map(|moments| moments.variance / moments.count as f64);
    let difference = first.mean - second.mean;
    // Values that are all the same leave no doubt.
    if a + b == 0.0 {
        return Interval { low: difference, high: difference };
    }
    let freedom = (a + b).powi(2) / (a * a / (first.count - 1) as f64 + b * b / (second.count - 1) as f64);
    let half = student_quantile(confidence, freedom) * (a + b).sqrt();
    Interval { low: difference - half, high: difference + half }
}

/// The value that a variable of Student's distribution is below with probability `p`, from that of the normal one
/// (Abramowitz and Stegun, 26.7.5): with 10 degrees of freedom or more, to a hundredth for `p` up to 0.9999.
fn student_quantile(p: f64, freedom: f64) -> f64 {
    let z = normal_quantile(p);
    let term = |coefficients: &[f64]| coefficients.iter().rev().fold(0.0, |sum, c| sum * z * z + c) * z;
    z + term(&[1.0, 1.0]) / (4.0 * freedom)
        + term(&[3.0, 16.0, 5.0]) / (96.0 * freedom.powi(2))
        + term(&[-15.0, 17.0, 19.0, 3.0]) / (384.0 * freedom.powi(3))
}

/// How two versions did on the same items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// Items that both have right, that only one has, and that neither has.
    pub both: usize,
    pub only_live: usize,
    pub only_candidate: usize,
    pub neither: usize,
}

impl Paired {
    /// Counts what is right with the live version and with the candidate.
    pub fn count(items: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Self::default();
        for item in items {
            *match item {
                (true, true) => &mut counts.both,
                (true, false) => &mut counts.only_live,
                (false, true) => &mut counts.only_candidate,
                (false, false) => &mut counts.neither,
            } += 1;
        }
        counts
    }

    pub fn total(&self) -> usize {
        self.both + self.only_live + self.only_candidate + self.neither
    }

    /// The candidate's share of right items less that of the live version; 0 without items.
    pub fn difference(&self) -> f64 {
        (self.only_candidate as f64 - self.only_live as f64) / self.total().max(1) as f64
    }

    /// The interval of the difference: Tango's score interval (Tango 1998, Statistics in Medicine 17: 891), which holds
    /// for few items, and for none that the versions differ on, too. The difference is above its lower end with
    /// `confidence`, and below its upper end with `confidence`. All of -1 to 1 without items.
    pub fn interval(&self, confidence: f64) -> Interval {
        let z = normal_quantile(confidence);
        Interval { low: self.crossing(z), high: self.crossing(-z) }
    }

    /// The difference for which the score statistic is `z`. It falls as the difference rises.
    fn crossing(&self, z: f64) -> f64 {
        if self.total() == 0 {
            return -z.signum();
        }
        let (mut low, mut high) = (-1.0, 1.0);
        // Each halves the interval: this many leave nothing of it.
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if self.score(middle) > z {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// The statistic of the hypothesis that the shares differ by `d`: the gap between what was seen and that, over its
    /// standard deviation where the hypothesis makes the counts most likely.
    fn score(&self, d: f64) -> f64 {
        let [n, live, candidate] = [self.total(), self.only_live, self.only_candidate].map(|count| count as f64);
        // The probability that only the live version is right: the root of 2n q^2 + b q - c.
        let b = (2.0 * n - candidate + live) * d - live - candidate;
        let c = live * d * (1.0 - d);
        let q = ((b * b + 8.0 * n * c).max(0.0).sqrt() - b) / (4.0 * n);
        let gap = candidate - live - n * d;
        // Nothing over nothing where the versions differ on no item and `d` is 0.
        if gap == 0.0 {
            return 0.0;
        }
        gap / (n * (2.0 * q + d * (1.0 - d))).max(0.0).sqrt()
    }
}

/// The value that a standard normal variable is below with probability `p`, to seven digits: PPND7 of Wichura 1988
/// (Applied Statistics 37: 477, AS 241), for `p` from 1e-11 to 1 - 1e-11.
pub fn normal_quantile(p: f64) -> f64 {
    let polynomial = |x: f64, coefficients: &[f64]| coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c);
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        let above = polynomial(r, &[3.387_132_717_9, 50.434_271_938, 159.291_132_02, 59.109_374_72]);
        return q * above / polynomial(r, &[1.0, 17.895_169_469, 78.757_757_664, 67.187_563_6]);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt() - 1.6;
    let above = polynomial(r, &[1.423_437_277_7, 2.756_815_39, 1.306_728_481_6, 0.170_238_211_03]);
    (above / polynomial(r, &[1.0, 0.737_001_642_5, 0.120_211_329_75])).copysign(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (p, z) in [(0.5, 0.0), (0.95, 1.644_853_63), (0.975, 1.959_963_98), (0.999_9, 3.719_016_49)] {
            assert!((normal_quantile(p) - z).abs() < 1e-6, "{p}");
            assert!((normal_quantile(1.0 - p) + z).abs() < 1e-6, "{p}");
        }
    }

    #[derive(Deserialize)]
    struct Case {
        counts: [usize; 4],
        confidence: f64,
        interval: [f64; 2],
    }

    #[test]
    fn the_interval_of_a_difference_is_that_of_a_search_for_the_largest_likelihood() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../tests/fixtures/paired.json")).unwrap();
        assert!(cases.len() > 10);
        for Case { counts: [both, only_live, only_candidate, neither], confidence, interval: [low, high] } in cases {
            let counts = Paired { both, only_live, only_candidate, neither };
            let found = counts.interval(confidence);
            assert!((found.low - low).abs() < 1e-5 && (found.high - high).abs() < 1e-5, "{counts:?}: {found:?}");
            assert!(low <= counts.difference() && counts.difference() <= high, "{counts:?}");
        }
    }

    #[test]
    fn without_items_a_difference_may_be_anything() {
        let none = Paired::count([]);
        assert_eq!((none.difference(), none.interval(0.95)), (0.0, Interval { low: -1.0, high: 1.0 }));
        let counts = Paired::count([(true, true), (true, false), (true, false), (false, true), (false, false)]);
        assert_eq!(counts, Paired { both: 1, only_live: 2, only_candidate: 1, neither: 1 });
        assert!((counts.difference() + 0.2).abs() < 1e-12);
    }

    #[test]
    fn the_difference_of_independent_shares_is_within_the_interval_that_newcombe_gives() {
        // Newcombe 1998 (Statistics in Medicine 17: 873), table II, method 10: 95% on two sides.
        for ((first, second), (low, high)) in [
            (((56, 70), (48, 80)), (0.0524, 0.3339)),
            (((9, 10), (3, 10)), (0.1705, 0.8090)),
            (((5, 56), (0, 29)), (-0.0381, 0.1926)),
            (((0, 10), (0, 20)), (-0.1611, 0.2775)),
            (((10, 10), (0, 10)), (0.6075, 1.0)),
        ] {
            let interval = newcombe(first, second, 0.975);
            assert!((interval.low - low).abs() < 5e-5 && (interval.high - high).abs() < 5e-5, "{interval:?}");
        }
        assert_eq!(newcombe((0, 0), (1, 2), 0.95), Interval { low: -1.0, high: 1.0 });
    }

    #[test]
    fn quantiles_of_students_distribution_are_those_of_the_tables() {
        for (p, freedom, t) in
            [(0.95, 10.0, 1.8125), (0.975, 30.0, 2.0423), (0.999, 30.0, 3.3852), (0.9995, 60.0, 3.4602)]
        {
            assert!((student_quantile(p, freedom) - t).abs() < 1e-3, "{p} {freedom}: {}", student_quantile(p, freedom));
        }
    }

    #[test]
    fn the_difference_of_means_is_within_the_interval_that_welch_gives() {
        let of = |values: &[f64]| Moments::of(values);
        let (first, second) = (of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), of(&[3.0, 5.0, 7.0, 9.0, 11.0, 13.0]));
        assert_eq!((first.mean, first.variance, second.mean, second.variance), (3.5, 3.5, 8.0, 14.0));
        // The standard error is sqrt(17.5 / 6), with 17.5² / (3.5² + 14²) × 5 = 7.353 degrees of freedom.
        let interval = welch(first, second, 0.95);
        let half = student_quantile(0.95, 7.353) * (17.5_f64 / 6.0).sqrt();
        assert!((interval.low + 4.5 + half).abs() < 1e-3 && (interval.high + 4.5 - half).abs() < 1e-3, "{interval:?}");
        let same = of(&[0.5; 3]);
        assert_eq!(welch(same, of(&[1.0; 3]), 0.95), Interval { low: -0.5, high: -0.5 });
        assert_eq!(welch(same, of(&[1.0]), 0.95).high, f64::INFINITY);
    }

    #[test]
    fn a_share_is_within_the_interval_that_wilson_gives() {
        // Newcombe 1998 (Statistics in Medicine 17: 857), table I, method 3: 95% on two sides.
        for ((count, total), (low, high)) in [
            ((81, 263), (0.2553, 0.3662)),
            ((15, 148), (0.0624, 0.1605)),
            ((0, 20), (0.0, 0.1611)),
            ((1, 29), (0.0061, 0.1718)),
        ] {
            let interval = wilson(count, total, 0.975);
            assert!((interval.low - low).abs() < 5e-5 && (interval.high - high).abs() < 5e-5, "{interval:?}");
        }
        assert_eq!(wilson(0, 0, 0.95), Interval { low: 0.0, high: 1.0 });
    }
}
