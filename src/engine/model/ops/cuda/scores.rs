//! Log-probabilities and entropies of rows of logits, and the gradients of the logits.

use candle_core::{
    Result, Tensor, bail,
    cuda_backend::cudarc::driver::{CudaSlice, PushKernelArg},
};

use super::{alloc, check_len, int, kernel, launch, on_cuda, tensor, upload};

/// Threads for a row of logits.
const ROW_THREADS: usize = 512;

/// Tokens that are asked for at rows of logits, and what the distributions of the rows are like.
#[derive(Debug)]
pub struct ScoredRows {
    /// Where the tokens of each row begin, and after the last where they end.
    starts: CudaSlice<u32>,
    tokens: CudaSlice<u32>,
    /// The log-sum-exp of each row's logits over the temperature.
    normalisers: CudaSlice<f32>,
    entropies: CudaSlice<f32>,
    temperature: f32,
}

impl ScoredRows {
    /// Scores tokens under softmax(logits / temperature), logits `[rows, vocab]`: row `i` has the tokens from
    /// `starts[i]` to `starts[i + 1]`. Returns the entropy of each row and the log-probability of each token, too.
    ///
    /// # Errors
    /// If tokens or their ranges are not inside of what there is.
    pub fn score(
        logits: &Tensor,
        (starts, tokens): (&[u32], &[u32]),
        temperature: f32,
    ) -> Result<(Self, Vec<f32>, Vec<f32>)> {
        let (rows, vocab) = logits.dims2()?;
        check_len(starts.len(), rows + 1)?;
        if !starts.is_sorted() || starts[0] != 0 || starts[rows] as usize != tokens.len() {
            bail!("{} tokens do not lie in the ranges of {rows} rows", tokens.len());
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
            bail!("there is no token {token} in a vocabulary of {vocab}");
        }
        on_cuda([logits], |device, [logits]| {
            let (starts, vocab) = (upload(device, starts)?, int(vocab)?);
            let (mut normalisers, mut entropies) = (alloc::<f32>(device, rows)?, alloc::<f32>(device, rows)?);
            let mut log_probs = alloc::<f32>(device, tokens.len().max(1))?;
            let count = tokens.len();
            let tokens = upload(device, tokens)?;
            let func = kernel(device, "score_rows")?;
            let mut args = func.builder();
            args.arg(&logits).arg(&starts).arg(&tokens).arg(&mut normalisers).arg(&mut entropies).arg(&mut log_probs);
            args.arg(&vocab).arg(&temperature);
            launch(&mut args, (rows, 1), ROW_THREADS, 0)?;
            drop(args);
            let (of_rows, of_tokens) = (device.clone_dtoh(&entropies)?, device.clone_dtoh(&log_probs.slice(..count))?);
            Ok((Self { starts, tokens, normalisers, entropies, temperature }, of_rows, of_tokens))
        })
    }

    /// d loss / d logits for the logits that were scored, from the derivatives for each token's log-probability and each
    /// row's entropy.
    pub fn gradient(&self, logits: &Tensor, of_tokens: &[f32], of_rows: &[f32]) -> Result<Tensor> {
        let (rows, vocab) = logits.dims2()?;
        check_len(of_rows.len(), rows)?;
        check_len(self.normalisers.len(), rows)?;
        check_len(of_tokens.len().max(1), self.tokens.len())?;
        let by_temperature =
            |derivatives: &[f32]| derivatives.iter().map(|value| value / self.temperature).collect::<Vec<_>>();
        on_cuda([logits], |device, [at]| {
            let of_tokens = match of_tokens {
                [] => device.clone_htod(&[0f32])?,
                _ => device.clone_htod(&by_temperature(of_tokens))?,
            };
            let of_rows = device.clone_htod(&by_temperature(of_rows))?;
            let mut out = alloc::<f32>(device, at.len())?;
            let (func, vocab) = (kernel(device, "logit_gradients")?, int(vocab)?);
            let mut args = func.builder();
            args.arg(&at).arg(&self.starts).arg(&self.tokens).arg(&self.normalisers).arg(&self.entropies);
            args.arg(&of_tokens).arg(&of_rows).arg(&mut out).arg(&vocab).arg(&self.temperature);
            launch(&mut args, (rows, 1), ROW_THREADS, 0)?;
            drop(args);
            Ok(tensor(out, logits.shape().clone(), device))
        })
    }
}
