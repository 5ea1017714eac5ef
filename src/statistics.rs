//! Shares that were counted, and how far the true ones may be from them: pure.

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
