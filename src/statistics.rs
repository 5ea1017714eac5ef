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
