//! How tokens are drawn, as data: what may be asked for, with its ranges.

use std::collections::BTreeMap;

use rand::{
    TryRng,
    rngs::{SysError, SysRng},
};

/// Seeds stay below this (2^53), so that every JSON reader keeps them exact.
pub const SEED_LIMIT: u64 = 1 << 53;

/// Stop texts of one request, and bytes of each: all are looked for again after every token.
pub const MAX_STOP_TEXTS: usize = 16;
pub const MAX_STOP_BYTES: usize = 256;

/// Biased tokens of one request: all are gone through for every token that is drawn.
pub const MAX_BIASES: usize = 1024;

/// How tokens are drawn. The penalties and then the bias change the logits, the temperature divides them, and of the
/// tokens sorted by their probability first top-k, then top-p, then min-p keep a beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits before the softmax; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose share of what top-k leaves reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep the tokens whose probability is at least this part of the most likely one's; 0 keeps all.
    pub min_p: f32,
    /// Positive logits of the tokens in prompt and response are divided by this, negative ones multiplied (CTRL, Keskar
    /// et al. 2019); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of the tokens in the response, once; 0 changes nothing.
    pub presence_penalty: f32,
    /// Subtracted from the logits of the tokens in the response, for each time that they are in it; 0 changes nothing.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// The most tokens to generate, the end token included.
    pub max_tokens: usize,
    /// Go on when the model ends its turn, for measurements that want a number of tokens.
    pub ignore_eos: bool,
    /// Generation ends before the first of these texts; it is not part of the answer.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    /// The model's own distribution, for as many tokens as completion APIs give.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            max_tokens: 16,
            ignore_eos: false,
            stop: vec![],
        }
    }
}

impl Sampling {
    /// Whether the logits are others than the model's before the temperature divides them.
    pub fn changes_logits(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.logit_bias.is_empty()
    }

    /// Whether only some of the tokens may be drawn.
    pub fn narrows(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Checks every value that does not depend on the model.
    ///
    /// # Errors
    /// Names the first that is out of range, and the range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        // A smaller one would divide logits beyond what f32 holds, and draws like 0.
        let usable = self.temperature == 0.0 || (0.01..=2.0).contains(&self.temperature);
        ensure(usable, "temperature", self.temperature, "0, or from 0.01 to 2")?;
        ensure(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "above 0 and at most 1")?;
        ensure((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "from 0 to 1")?;
        let usable = (0.01..=10.0).contains(&self.repetition_penalty);
        ensure(usable, "repetition_penalty", self.repetition_penalty, "from 0.01 to 10")?;
        let penalties = [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)];
        for (name, penalty) in penalties {
            ensure((-2.0..=2.0).contains(&penalty), name, penalty, "from -2 to 2")?;
        }
        let biases = self.logit_bias.len();
        ensure(biases <= MAX_BIASES, "logit_bias", biases, format!("for at most {MAX_BIASES} tokens"))?;
        for bias in self.logit_bias.values() {
            ensure((-100.0..=100.0).contains(bias), "logit_bias", bias, "from -100 to 100 for each token")?;
        }
        let texts = self.stop.len();
        ensure(texts <= MAX_STOP_TEXTS, "stop", texts, format!("at most {MAX_STOP_TEXTS} texts"))?;
        for text in &self.stop {
            let usable = (1..=MAX_STOP_BYTES).contains(&text.len());
            ensure(usable, "stop", format!("{text:?}"), format!("texts of 1 to {MAX_STOP_BYTES} bytes"))?;
        }
        Ok(())
    }
}

/// A parameter that has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is {value}; it must be {range}")]
pub struct OutOfRange {
    pub name: &'static str,
    pub value: String,
    pub range: String,
}

/// An [`OutOfRange`], unless `holds`.
pub fn ensure(
    holds: bool,
    name: &'static str,
    value: impl ToString,
    range: impl Into<String>,
) -> Result<(), OutOfRange> {
    if holds { Ok(()) } else { Err(OutOfRange { name, value: value.to_string(), range: range.into() }) }
}

/// Checks a seed that a client chose.
///
/// # Errors
/// If it is not below [`SEED_LIMIT`].
pub fn check_seed(seed: u64) -> Result<(), OutOfRange> {
    ensure(seed < SEED_LIMIT, "seed", seed, format!("from 0 to {}", SEED_LIMIT - 1))
}

/// A seed that nobody can guess.
///
/// # Errors
/// If the system has no random numbers.
pub fn random_seed() -> Result<u64, SysError> {
    Ok(SysRng.try_next_u64()? % SEED_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Sampling)) -> String {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        sampling.check().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_the_models_own_distribution() {
        let sampling = Sampling::default();
        assert_eq!(sampling.check(), Ok(()));
        assert!(!sampling.changes_logits() && !sampling.narrows());
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_range() {
        assert_eq!(refusal(|s| s.temperature = 0.001), "`temperature` is 0.001; it must be 0, or from 0.01 to 2");
        assert_eq!(refusal(|s| s.top_p = 0.0), "`top_p` is 0; it must be above 0 and at most 1");
        assert_eq!(refusal(|s| s.min_p = f32::NAN), "`min_p` is NaN; it must be from 0 to 1");
        assert!(refusal(|s| s.repetition_penalty = 0.0).contains("from 0.01 to 10"));
        assert!(refusal(|s| s.presence_penalty = 2.1).starts_with("`presence_penalty` is 2.1"));
        assert!(refusal(|s| s.frequency_penalty = -3.0).starts_with("`frequency_penalty` is -3"));
        assert!(refusal(|s| s.logit_bias = [(7, f32::INFINITY)].into()).starts_with("`logit_bias` is inf"));
        assert!(refusal(|s| s.logit_bias = (0..1025).map(|token| (token, 0.5)).collect()).contains("at most 1024"));
        assert_eq!(refusal(|s| s.stop = vec![String::new()]), "`stop` is \"\"; it must be texts of 1 to 256 bytes");
        assert_eq!(refusal(|s| s.stop = vec!["a".into(); 17]), "`stop` is 17; it must be at most 16 texts");
    }

    #[test]
    fn seeds_are_exact_in_json() {
        for _ in 0..100 {
            assert!(random_seed().unwrap() < SEED_LIMIT);
        }
    }
}
