//! Drawing and scoring tokens: pure functions of logits, of what came before, and of a seeded stream of random numbers.

use std::{borrow::Cow, collections::HashMap};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::{
    handle::{Sampling, TokenScore},
    model::ops::kernels,
};

/// The random numbers of one sample: a function of `(seed, sample)` alone.
pub fn stream(seed: u64, sample: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(sample);
    rng
}

/// The tokens before the one that is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct History<'a> {
    pub prompt: &'a [u32],
    pub response: &'a [u32],
}

/// The distribution over the next token, from which any number of samples draw.
pub enum Distribution {
    /// Temperature 0: always this token, whose log-probability is that of temperature 1.
    Certain { token: u32, log_prob: f32 },
    /// Any token, by softmax(logits / temperature).
    Whole { probabilities: Vec<f32> },
    /// Some of the tokens, most likely first, with their probabilities' sum.
    Narrowed { probabilities: Vec<f32>, kept: Vec<u32>, total: f32 },
}

impl Distribution {
    /// Takes the logits of one position; borrowed ones are copied only where they have to be changed.
    pub fn new(mut logits: Cow<'_, [f32]>, sampling: &Sampling, history: History<'_>) -> Self {
        if sampling.changes_logits() {
            penalise(logits.to_mut(), sampling, history);
        }
        if sampling.temperature == 0.0 {
            let (token, normaliser) = kernels::likeliest(&logits);
            return Self::Certain { token, log_prob: logits[token as usize] - normaliser };
        }
        let mut probabilities = logits.into_owned();
        kernels::softmax_in_place(&mut probabilities, sampling.temperature);
        if !sampling.narrows() {
            return Self::Whole { probabilities };
        }
        let kept = keep(&probabilities, sampling);
        let total = kept.iter().map(|&token| probabilities[token as usize]).sum();
        Self::Narrowed { probabilities, kept, total }
    }

    /// Draws a token with a number in [0, 1); returns it with its log-probability before top-k, top-p and min-p.
    pub fn draw(&self, uniform: f64) -> (u32, f32) {
        match self {
            Self::Certain { token, log_prob } => (*token, *log_prob),
            Self::Whole { probabilities } => {
                let weights = probabilities.iter().enumerate().map(|(token, &p)| (token as u32, p));
                with_log_prob(pick(weights, uniform), probabilities)
            }
            Self::Narrowed { probabilities, kept, total } => {
                let weights = kept.iter().map(|&token| (token, probabilities[token as usize]));
                with_log_prob(pick(weights, uniform * f64::from(*total)), probabilities)
            }
        }
    }
}

fn with_log_prob(token: u32, probabilities: &[f32]) -> (u32, f32) {
    (token, probabilities[token as usize].max(f32::MIN_POSITIVE).ln())
}

/// The penalties, then the bias. A bias of a token that the model does not have is left out.
fn penalise(logits: &mut [f32], sampling: &Sampling, history: History<'_>) {
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for &token in history.response {
        *counts.entry(token).or_default() += 1;
    }
    if sampling.repetition_penalty != 1.0 {
        // With a count of zero: the other penalties are for the response only.
        let mut seen = counts.clone();
        seen.extend(history.prompt.iter().map(|&token| (token, 0)));
        for token in seen.into_keys() {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let penalty = sampling.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    for (token, count) in counts {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * count as f32;
        }
    }
    for (&token, bias) in &sampling.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
}

/// Scores tokens at one position by the model's own distribution there.
pub struct Scorer<'a> {
    logits: &'a [f32],
    normaliser: f32,
    top: Vec<(u32, f32)>,
}

impl<'a> Scorer<'a> {
    /// Each score will have the `top` most likely tokens.
    pub fn new(logits: &'a [f32], top: usize) -> Self {
        let (_, normaliser) = kernels::likeliest(logits);
        let top =
            most_likely(logits, top).into_iter().map(|token| (token, logits[token as usize] - normaliser)).collect();
        Self { logits, normaliser, top }
    }

    /// The score of one token.
    pub fn score(&self, token: u32) -> TokenScore {
        TokenScore { log_prob: self.logits[token as usize] - self.normaliser, top: self.top.clone() }
    }
}

/// A number in [0, 1) with 53 random bits.
pub fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The first token at which the running sum of weights exceeds `target`; the last one with weight if rounding kept
/// the sum below it.
fn pick(weights: impl Iterator<Item = (u32, f32)>, target: f64) -> u32 {
    let mut sum = 0f64;
    let mut last = 0;
    for (token, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = token;
            if sum > target {
                break;
            }
        }
    }
    last
}

/// Larger values first, equal ones by id.
fn by_value(values: &[f32]) -> impl Fn(&u32, &u32) -> std::cmp::Ordering {
    |a, b| values[*b as usize].total_cmp(&values[*a as usize]).then_with(|| a.cmp(b))
}

/// Leaves the `count` tokens with the largest values, in any order.
fn keep_largest(tokens: &mut Vec<u32>, values: &[f32], count: usize) {
    if (1..tokens.len()).contains(&count) {
        tokens.select_nth_unstable_by(count - 1, by_value(values));
    }
    tokens.truncate(count);
}

/// The ids of the `count` largest values, the largest first.
fn most_likely(values: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return vec![];
    }
    let mut tokens = (0..values.len() as u32).collect();
    keep_largest(&mut tokens, values, count);
    tokens.sort_unstable_by(by_value(values));
    tokens
}

/// Tokens that are sorted at first to find those that top-p keeps.
const FIRST_SORTED: usize = 256;

/// The tokens that top-k, top-p and min-p leave, most likely first (equals by id); at least one.
fn keep(probabilities: &[f32], sampling: &Sampling) -> Vec<u32> {
    let probability = |token: &u32| probabilities[*token as usize];
    let mut tokens: Vec<u32> = (0..probabilities.len() as u32).collect();
    let mut total = 1.0;
    if sampling.top_k > 0 {
        keep_largest(&mut tokens, probabilities, sampling.top_k);
        total = tokens.iter().map(probability).sum();
    }
    if sampling.min_p > 0.0 {
        // Before top-p, although it would leave the same behind it: there is less to sort.
        let least = sampling.min_p * tokens.iter().map(probability).fold(0.0, f32::max);
        tokens.retain(|token| probability(token) >= least);
    }
    // Top-p mostly keeps few tokens: more and more of the likeliest are sorted, until they reach it.
    let mut sorted = if sampling.top_p < 1.0 { FIRST_SORTED } else { tokens.len() };
    loop {
        if sorted < tokens.len() {
            tokens.select_nth_unstable_by(sorted, by_value(probabilities));
        } else {
            sorted = tokens.len();
        }
        tokens[..sorted].sort_unstable_by(by_value(probabilities));
        let mut sum = 0f32;
        let reached = tokens[..sorted].iter().position(|token| {
            sum += probability(token);
            sampling.top_p < 1.0 && sum >= sampling.top_p * total
        });
        match reached {
            Some(last) => tokens.truncate(last + 1),
            None if sorted < tokens.len() => {
                sorted *= 8;
                continue;
            }
            None => {}
        }
        break;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampling(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling { temperature, top_k, top_p, ..Sampling::default() }
    }

    fn distribution(logits: &[f32], sampling: &Sampling) -> Distribution {
        Distribution::new(logits.into(), sampling, History::default())
    }

    fn frequencies(logits: &[f32], sampling: &Sampling, draws: u32) -> Vec<f64> {
        let distribution = distribution(logits, sampling);
        let mut rng = stream(7, 0);
        let mut counts = vec![0u32; logits.len()];
        for _ in 0..draws {
            counts[distribution.draw(uniform(&mut rng)).0 as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / f64::from(draws)).collect()
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|logit| f64::from(*logit).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect()
    }

    #[test]
    fn tokens_are_drawn_as_often_as_softmax_says() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let found = frequencies(&logits, &sampling(0.8, 0, 1.0), 20_000);
        for (found, expected) in found.iter().zip(softmax(&logits.map(|logit| logit / 0.8))) {
            assert!((found - expected).abs() < 0.015, "{found} against {expected}");
        }
    }

    #[test]
    fn temperature_zero_takes_the_most_likely_token_and_copies_nothing() {
        assert_eq!(frequencies(&[0.0, 3.0, 2.9], &sampling(0.0, 0, 1.0), 50), [0.0, 1.0, 0.0]);
        let Distribution::Certain { token, log_prob } = distribution(&[0.0, 3.0, 3.0], &sampling(0.0, 1, 0.5)) else {
            panic!("it is not certain");
        };
        assert_eq!(token, 1, "the first of equals");
        assert!((f64::from(log_prob) - softmax(&[0.0, 3.0, 3.0])[1].ln()).abs() < 1e-6);
    }

    #[test]
    fn top_k_keeps_k_tokens_and_top_p_the_smallest_set_that_reaches_p() {
        let kept =
            |k, p| frequencies(&[1.0, 2.0, 3.0, 4.0], &sampling(1.0, k, p), 2_000).iter().filter(|f| **f > 0.0).count();
        assert_eq!(kept(2, 1.0), 2);
        assert_eq!(kept(0, 0.6), 1, "the first token alone has 0.64");
        assert_eq!(kept(0, 0.7), 2);
        assert_eq!(kept(0, 1.0), 4);
    }

    #[test]
    fn min_p_keeps_what_is_likely_beside_the_most_likely_token() {
        // The second token is e^-1 = 0.37 times as likely as the first, the third 0.14 times.
        let kept = |min_p| {
            let sampling = Sampling { min_p, ..Sampling::default() };
            frequencies(&[4.0, 3.0, 2.0], &sampling, 2_000).iter().filter(|f| **f > 0.0).count()
        };
        assert_eq!([kept(0.1), kept(0.2), kept(0.4), kept(1.0)], [3, 2, 1, 1]);
    }

    #[test]
    fn penalties_and_bias_are_those_of_their_formulas() {
        let mut logits = [2.0, -2.0, 1.0, 1.0, 0.5];
        let sampling = Sampling {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: [(3, -4.0), (99, 7.0)].into(),
            ..Sampling::default()
        };
        // Token 0 is in both, 1 in the prompt only, 2 twice in the response only; 77 is beyond the vocabulary.
        penalise(&mut logits, &sampling, History { prompt: &[0, 1, 1], response: &[0, 2, 2, 77] });
        assert_eq!(logits, [2.0 / 2.0 - 0.75, -2.0 * 2.0, 1.0 / 2.0 - 1.0, 1.0 - 4.0, 0.5]);
    }

    /// The probabilities are those of transformers; see `tests/parity`.
    #[test]
    fn what_may_be_drawn_is_what_transformers_leaves() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/sampling.json")).unwrap();
        let floats = |value: &serde_json::Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
        let ids = |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        assert!(cases.as_array().unwrap().len() > 10);
        for case in cases.as_array().unwrap() {
            let given = &case["sampling"];
            let float = |name: &str, default: f32| given[name].as_f64().map_or(default, |value| value as f32);
            let sampling = Sampling {
                temperature: float("temperature", 1.0),
                top_k: given["top_k"].as_u64().unwrap_or(0) as usize,
                top_p: float("top_p", 1.0),
                min_p: float("min_p", 0.0),
                repetition_penalty: float("repetition_penalty", 1.0),
                ..Sampling::default()
            };
            let (prompt, response) = (ids(&case["prompt"]), ids(&case["response"]));
            let history = History { prompt: &prompt, response: &response };
            let logits = floats(&case["logits"]);
            let mut found = vec![0f32; logits.len()];
            match Distribution::new(logits.into(), &sampling, history) {
                Distribution::Certain { token, .. } => found[token as usize] = 1.0,
                Distribution::Whole { probabilities } => found = probabilities,
                Distribution::Narrowed { probabilities, kept, total } => {
                    kept.into_iter().for_each(|token| found[token as usize] = probabilities[token as usize] / total);
                }
            }
            for (token, (found, expected)) in found.iter().zip(floats(&case["probabilities"])).enumerate() {
                assert!((found - expected).abs() < 1e-5, "{given}, token {token}: {found} against {expected}");
                assert_eq!(*found > 0.0, expected > 0.0, "{given}, token {token}");
            }
        }
    }

    #[test]
    fn a_banned_token_is_not_drawn() {
        let sampling = Sampling { logit_bias: [(1, -100.0)].into(), ..Sampling::default() };
        assert_eq!(frequencies(&[0.0, 9.0], &sampling, 500), [1.0, 0.0]);
    }

    #[test]
    fn a_stream_repeats_and_streams_of_other_samples_differ() {
        let draw = |seed, sample| {
            (0..8).map(|_| 0).scan(stream(seed, sample), |rng, _: i32| Some(rng.next_u64())).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn log_probabilities_are_those_before_narrowing() {
        let logits = [1.0f32, 2.0, 3.0];
        let (token, log_prob) = distribution(&logits, &sampling(1.0, 1, 1.0)).draw(0.0);
        assert_eq!(token, 2);
        assert!((f64::from(log_prob) - softmax(&logits)[2].ln()).abs() < 1e-5);
    }

    fn any_logits() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-8.0f32..8.0, 1..70)
    }

    proptest! {
        /// What is kept is a beginning of the sorted tokens, and each rule would have cut it no later.
        #[test]
        fn what_is_kept_satisfies_every_rule_and_is_as_large_as_they_let_it(
            logits in any_logits(), top_k in 0usize..10, top_p in 0.05f32..=1.0, min_p in 0.0f32..=1.0,
        ) {
            let sampling = Sampling { top_k, top_p, min_p, ..Sampling::default() };
            let probabilities: Vec<f32> = softmax(&logits).into_iter().map(|p| p as f32).collect();
            let kept = keep(&probabilities, &sampling);
            let sorted = most_likely(&probabilities, probabilities.len());
            prop_assert!(!kept.is_empty() && kept[..] == sorted[..kept.len()]);
            let sum = |tokens: &[u32]| tokens.iter().map(|&t| probabilities[t as usize]).sum::<f32>();
            let of_top_k = if top_k > 0 { &sorted[..top_k.min(sorted.len())] } else { &sorted[..] };
            let total = if top_k > 0 { sum(of_top_k) } else { 1.0 };
            let enough = |n: usize| {
                n == of_top_k.len()
                    || (top_p < 1.0 && sum(&sorted[..n]) >= top_p * total)
                    || probabilities[sorted[n] as usize] < min_p * probabilities[sorted[0] as usize]
            };
            prop_assert!(enough(kept.len()));
            prop_assert!((1..kept.len()).all(|n| !enough(n)));
        }

        #[test]
        fn scores_are_logarithms_of_softmax_and_the_top_is_sorted(logits in any_logits(), top in 0usize..9) {
            let scorer = Scorer::new(&logits, top);
            let expected: Vec<f64> = softmax(&logits).into_iter().map(f64::ln).collect();
            for (token, expected) in expected.iter().enumerate() {
                let score = scorer.score(token as u32);
                prop_assert!((f64::from(score.log_prob) - expected).abs() < 1e-4);
                prop_assert_eq!(score.top.len(), top.min(logits.len()));
                prop_assert!(score.top.iter().map(|(_, log_prob)| *log_prob).rev().is_sorted());
                let least = score.top.last().map_or(f32::INFINITY, |(_, log_prob)| *log_prob);
                let left_out = !score.top.iter().any(|(id, _)| *id == token as u32);
                prop_assert!(!left_out || score.log_prob <= least);
            }
        }

        #[test]
        fn only_tokens_that_were_there_are_penalised(
            logits in any_logits(), prompt in prop::collection::vec(0u32..70, 0..9),
            response in prop::collection::vec(0u32..70, 0..9),
        ) {
            let sampling = Sampling { repetition_penalty: 1.3, presence_penalty: 0.2, ..Sampling::default() };
            let mut changed = logits.clone();
            penalise(&mut changed, &sampling, History { prompt: &prompt, response: &response });
            for (token, (before, after)) in logits.iter().zip(&changed).enumerate() {
                let was_there = prompt.iter().chain(&response).any(|&t| t as usize == token);
                prop_assert!(after <= before && (was_there || after == before));
            }
        }
    }
}
