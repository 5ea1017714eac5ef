//! What serving says of a text, beside what the training pass says of it with the same weights.

use std::sync::Arc;

use candle_core::DType;
use tokio::task::JoinError;

use crate::engine::{
    handle::{Engine, EngineError, GenerateRequest, Lease, Priority, Report, Sampling},
    model::{
        decoder::Decoder,
        lora::{Adapter, Lora},
        tokenizer::TokenizerError,
        training::{Pass, Target, TokenForest},
    },
    turnstile::Turnstile,
};

/// The largest gap between the log-probability that serving gives a token and the one that training computes for the
/// same weights.
///
/// Rounding of f32 sums stays below 1e-3; other weights are far above. With matrices in bf16 every number that goes into a
/// product, keys and values in the cache included, is off by up to 0.4%: that moves log-probabilities by some 0.03 in the mean,
/// and those of tokens that were hardly to be drawn by much more, so that only what is wrong altogether is found there.
pub fn max_log_prob_gap(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2.0,
        _ => 0.05,
    }
}

/// What both are asked for: some words, numbers and a line break.
const TEXT: &str = "The sum of 38 and 9 is 47.\nIn the morning we went";

/// Why a version did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "what serving computes with it is not what training does: log-probabilities differ by {gap:.3}, {limit} is the \
         limit"
    )]
    OtherWeights { gap: f64, limit: f64 },
    #[error("the adapter does not fit the model: {0}")]
    Mismatch(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The program is stopping.
    #[error("interrupted: {0}")]
    Interrupted(#[from] JoinError),
}

impl From<candle_core::Error> for ProbeError {
    fn from(error: candle_core::Error) -> Self {
        EngineError::from(error).into()
    }
}

/// Compares an engine with a training pass over the decoder that it serves.
pub struct Probe {
    pub engine: Arc<dyn Engine>,
    pub decoder: Arc<Decoder>,
    pub turnstile: Arc<Turnstile>,
}

impl Probe {
    /// Checks the version of a lease, whose weights as data are `adapter`. Takes as long as two short prompts, and the wait
    /// among the requests of clients.
    ///
    /// # Errors
    /// If serving and training do not agree, or one of them fails.
    pub async fn check(&self, lease: &Lease, adapter: Adapter) -> Result<(), ProbeError> {
        let tokens = self.engine.tokenizer().encode(TEXT, false)?;
        let served = self.served(lease, tokens.clone()).await?;
        let (decoder, turnstile) = (self.decoder.clone(), self.turnstile.clone());
        let train = move || trained(&decoder, &turnstile, &adapter, &tokens);
        let trained = tokio::task::spawn_blocking(train).await??;
        if served.len() != trained.len() {
            return Err(EngineError::Compute("a prompt was not scored whole".into()).into());
        }
        let gaps = served.iter().zip(&trained).map(|(served, trained)| f64::from((served - trained).abs()));
        // A gap that is no number is none that is small enough, and no other takes its place.
        let gap = gaps.fold(0.0, |largest: f64, gap| if largest.is_nan() || gap <= largest { largest } else { gap });
        let limit = max_log_prob_gap(self.decoder.dtype());
        if gap <= limit { Ok(()) } else { Err(ProbeError::OtherWeights { gap, limit }) }
    }

    /// The log-probability of each token after the first, by the engine.
    async fn served(&self, lease: &Lease, prompt: Vec<u32>) -> Result<Vec<f32>, ProbeError> {
        let request = GenerateRequest {
            lease: lease.clone(),
            prompt,
            samples: 1,
            sampling: Sampling { max_tokens: 0, ..Sampling::default() },
            seed: 0,
            priority: Priority::Request,
            report: Report { prompt: Some(0), ..Report::default() },
            place: None,
        };
        let groups = self.engine.generate(vec![request]).await?;
        Ok(groups.iter().flat_map(|group| &group.prompt_scores).map(|score| score.log_prob).collect())
    }
}

/// The same by the training pass.
fn trained(
    decoder: &Decoder,
    turnstile: &Turnstile,
    adapter: &Adapter,
    tokens: &[u32],
) -> Result<Vec<f32>, ProbeError> {
    let (mut forest, mut targets, mut row) = (TokenForest::default(), Vec::new(), None);
    for &token in tokens {
        targets.extend(row.map(|row| Target { row, token }));
        row = Some(forest.insert(row, token));
    }
    let shape = |projection| decoder.projection_shape(projection);
    let lora = Lora::new(&adapter.config, &adapter.tensors, decoder.config().layers.len(), shape);
    let lora = lora.map_err(ProbeError::Mismatch)?;
    let pace = |work: &mut (dyn FnMut() -> candle_core::Result<()> + Send)| turnstile.background(work);
    let scores = Pass::new(decoder, Some(&lora), (&forest, &targets), 1.0, &pace)?.score()?;
    Ok(scores.into_iter().map(|score| score.log_prob).collect())
}
