//! Training an adapter: the policy's variables, and its updates from graded rollouts.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    adaptation::{
        batch::{self, Drawn, Graded, MicroBatch},
        loss::{self, KlReference},
        optimizer::{self, AdamW, Moments},
        recipe::Recipe,
    },
    engine::{
        handle::Group,
        model::{
            decoder::Decoder,
            device::is_out_of_memory,
            lora::{Adapter, Lora, LoraConfig, peft_name},
            training::{Pace, Pass},
        },
        turnstile::Turnstile,
    },
};

/// Why a step was not made.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("computation failed: {0}")]
    Compute(candle_core::Error),
    #[error(
        "the device ran out of memory: {0}; set `learning.memory_mib`, `learning.micro_batch_tokens` or \
         `engine.cache_tokens` lower"
    )]
    OutOfMemory(candle_core::Error),
    /// Training would go on with nonsense.
    #[error("the gradient of {0} is not finite")]
    NotFinite(String),
    /// A variable that the loss does not reach would stay as it is in silence.
    #[error("no gradient reached {0}")]
    NoGradient(String),
    #[error("the adapter does not fit the model: {0}")]
    Mismatch(String),
    #[error("training was cancelled")]
    Cancelled,
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        if is_out_of_memory(&error) { Self::OutOfMemory(error) } else { Self::Compute(error) }
    }
}

/// What the updates of a step saw; means are over the rollout tokens that were trained on, weighted as in the loss,
/// which itself is over all of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateMetrics {
    pub loss: f64,
    /// k3 estimate of the divergence from the reference, in nats a token, whether or not it is in the loss.
    pub kl: f64,
    /// Entropy of the policy where tokens were drawn, in nats.
    pub entropy: f64,
    /// Share of tokens whose importance ratio is outside the clip range.
    pub clip_fraction: f64,
    /// The largest one, before it was clipped.
    pub gradient_norm: f64,
    pub learning_rate: f64,
    /// The largest gap between the log-probability that a token was drawn with and the trainer's own before the first
    /// update.
    pub log_prob_gap: f64,
    /// How often the optimizer moved the policy.
    pub updates: usize,
    /// Rows that went through the model: distinct token positions.
    pub trained_rows: usize,
    /// Groups that were trained on.
    pub trained_groups: usize,
}

impl UpdateMetrics {
    /// Turns weighted sums over the trained tokens into means over them, and over the updates.
    fn average(&mut self, weight: f64) {
        self.loss /= self.updates as f64;
        for mean in [&mut self.kl, &mut self.entropy, &mut self.clip_fraction] {
            *mean /= weight;
        }
    }
}

/// What the trainer says of rollouts of its policy.
#[derive(Clone, Copy, Debug)]
pub struct Assessment {
    /// Mean log-ratio to the base model over the drawn tokens, in nats: the k1 estimate of the divergence. (k3, which
    /// the loss uses, has a heavy tail: one improbable token can outweigh all others, and a gate must not hang on one.)
    pub kl: f64,
    /// The largest gap between the log-probability that a token was drawn with and the trainer's own.
    pub log_prob_gap: f64,
}

/// A trainer's variables and its optimizer's moments, by PEFT name; the variables are the trainer's own, not copies.
#[derive(Clone, Debug)]
pub struct TrainerState {
    pub policy: BTreeMap<String, Tensor>,
    pub first: BTreeMap<String, Tensor>,
    pub second: BTreeMap<String, Tensor>,
    /// Updates that the optimizer made.
    pub optimizer_steps: i32,
}

/// A policy under training: an adapter as variables, with the optimizer's state.
pub struct Trainer {
    decoder: Arc<Decoder>,
    turnstile: Arc<Turnstile>,
    config: LoraConfig,
    names: Vec<String>,
    lora: Lora,
    /// What the divergence in the loss is measured from; `None` is the base model.
    reference: Option<Lora>,
    optimizer: AdamW,
}

impl Trainer {
    /// Starts from an adapter, or from one that changes nothing yet, initialised as PEFT does: `A` uniform in
    /// `±1/sqrt(in)`, `B` zero.
    ///
    /// # Errors
    /// If the adapter does not fit the model.
    pub fn new(
        decoder: Arc<Decoder>,
        turnstile: Arc<Turnstile>,
        start: Option<&Adapter>,
        recipe: &Recipe,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let (config, tensors) = match start {
            Some(adapter) => (adapter.config.clone(), adapter.tensors.clone()),
            None => {
                let targets = recipe.lora_targets.projections().to_vec();
                let config = LoraConfig { r: recipe.lora_rank, alpha: recipe.lora_alpha, targets };
                let tensors = fresh_tensors(&decoder, &config, seed)?;
                (config, tensors)
            }
        };
        let mut vars = BTreeMap::new();
        for (name, tensor) in &tensors {
            vars.insert(name.clone(), Var::from_tensor(&tensor.to_device(decoder.device())?)?);
        }
        let lora = lora_of(&decoder, &config, vars.iter().map(|(name, var)| (name, var.as_tensor().clone())))?;
        // Copies: the variables move away from them.
        let reference = match (recipe.kl_reference, start) {
            (KlReference::Start, Some(_)) => {
                let copies = vars.iter().map(|(name, var)| Ok((name, var.as_tensor().detach().copy()?)));
                let copies = copies.collect::<candle_core::Result<Vec<_>>>()?;
                Some(lora_of(&decoder, &config, copies)?)
            }
            _ => None,
        };
        let (names, vars) = vars.into_iter().unzip();
        let optimizer = AdamW::new(vars, recipe.weight_decay)?;
        Ok(Self { decoder, turnstile, config, names, lora, reference, optimizer })
    }

    /// The policy's configuration and a copy of its tensors as they are now, on the CPU, by PEFT name.
    pub fn snapshot(&self) -> candle_core::Result<(LoraConfig, BTreeMap<String, Tensor>)> {
        let copy = |(name, var): (&String, &Var)| {
            Ok((name.clone(), var.as_tensor().detach().to_device(&Device::Cpu)?.copy()?))
        };
        let tensors = self.names.iter().zip(self.optimizer.vars()).map(copy).collect::<candle_core::Result<_>>()?;
        Ok((self.config.clone(), tensors))
    }

    /// Everything that the next update depends on besides its rollouts, as it is now.
    pub fn state(&self) -> TrainerState {
        let moments = self.optimizer.moments();
        let named = |tensors: &mut dyn Iterator<Item = Tensor>| self.names.iter().cloned().zip(tensors).collect();
        TrainerState {
            policy: named(&mut self.optimizer.vars().iter().map(|var| var.as_tensor().detach())),
            first: named(&mut moments.first.iter().cloned()),
            second: named(&mut moments.second.iter().cloned()),
            optimizer_steps: moments.steps,
        }
    }

    /// Goes on from where a trainer was that was made of the same adapter and recipe.
    ///
    /// # Errors
    /// If names or shapes are not those of this trainer's adapter.
    pub fn restore(&mut self, state: TrainerState) -> Result<(), TrainError> {
        let TrainerState { policy, first, second, optimizer_steps } = state;
        let device = self.decoder.device();
        let tensors = |named: BTreeMap<String, Tensor>| {
            if !named.keys().eq(&self.names) {
                return Err(TrainError::Mismatch("a state of other tensors than it has".into()));
            }
            Ok(named.into_values().map(|tensor| tensor.to_device(device)).collect::<candle_core::Result<Vec<_>>>()?)
        };
        let (policy, first, second) = (tensors(policy)?, tensors(first)?, tensors(second)?);
        Ok(self.optimizer.restore(&policy, Moments { first, second, steps: optimizer_steps })?)
    }

    /// The updates of a step from the graded ones among the rollouts that were `drawn` in it: one for each minibatch in
    /// each epoch, all with the same behaviour policy. Returns `None` if no group can teach anything: all of them agree
    /// with themselves, or abstain.
    ///
    /// Runs for seconds; every slice of the work passes the turnstile.
    ///
    /// # Errors
    /// If a gradient is missing or not finite, or `cancel` is triggered; the policy is then as the last update left it.
    pub fn update(
        &mut self,
        groups: &[Graded],
        drawn: Drawn,
        learning_rate: f64,
        recipe: &Recipe,
        cancel: &CancellationToken,
    ) -> Result<Option<UpdateMetrics>, TrainError> {
        let informative: Vec<&Graded> = groups.iter().filter(|graded| graded.is_informative()).collect();
        if informative.is_empty() {
            return Ok(None);
        }
        let minibatches = self.minibatches(&informative, drawn, recipe, cancel)?;
        let mut metrics =
            UpdateMetrics { learning_rate, trained_groups: informative.len(), ..UpdateMetrics::default() };
        for minibatch in (0..recipe.epochs).flat_map(|_| &minibatches) {
            let gradients = self.gradients(minibatch, recipe, &mut metrics, cancel)?;
            let norm = self.checked_norm(&gradients, metrics.updates == 0)?;
            let clipped = optimizer::clip(&gradients, norm, recipe.max_gradient_norm)?;
            let optimizer = &mut self.optimizer;
            self.turnstile.background(|| optimizer.step(&clipped, learning_rate))?;
            metrics.gradient_norm = metrics.gradient_norm.max(norm);
            metrics.updates += 1;
        }
        let terms = minibatches.iter().flatten().flat_map(|batch| &batch.terms);
        metrics.average(f64::from(recipe.epochs) * terms.map(|term| term.weight).sum::<f64>());
        Ok(Some(metrics))
    }

    /// Groups dealt out to minibatches and laid out in passes, with the reference's log-probabilities. Each minibatch
    /// stands for the whole step: its tokens weigh as much as all would together.
    fn minibatches(
        &self,
        groups: &[&Graded],
        drawn: Drawn,
        recipe: &Recipe,
        cancel: &CancellationToken,
    ) -> Result<Vec<Vec<MicroBatch>>, TrainError> {
        let pace = self.pace(cancel);
        let count = groups.len().min(recipe.minibatches as usize);
        let weight = |length| count as f64 * recipe.loss_average.token_weight(&drawn, length);
        let mut minibatches = Vec::with_capacity(count);
        for first in 0..count {
            let dealt: Vec<&Graded> = groups.iter().skip(first).step_by(count).copied().collect();
            let mut batches = batch::lay_out(&dealt, recipe.advantage, weight, recipe.pass_rows());
            for batch in &mut batches {
                let reference = self.pass(self.reference.as_ref(), batch, recipe.temperature as f32, &pace)?;
                let references = reference.score().map_err(cancelled(cancel))?;
                for (term, reference) in batch.terms.iter_mut().zip(references) {
                    term.reference = reference.log_prob;
                }
            }
            minibatches.push(batches);
        }
        Ok(minibatches)
    }

    /// The gradients of a minibatch, one for each variable, and its part in the metrics.
    fn gradients(
        &self,
        minibatch: &[MicroBatch],
        recipe: &Recipe,
        metrics: &mut UpdateMetrics,
        cancel: &CancellationToken,
    ) -> Result<Vec<Tensor>, TrainError> {
        let mut sums: Option<Vec<Tensor>> = None;
        for batch in minibatch {
            let of_batch = self.gradients_of_pass(batch, recipe, metrics, cancel)?;
            sums = Some(match sums {
                None => of_batch,
                Some(sums) => sums.iter().zip(&of_batch).map(|(sum, more)| sum + more).collect::<Result<_, _>>()?,
            });
        }
        Ok(sums.unwrap_or_default())
    }

    fn gradients_of_pass(
        &self,
        batch: &MicroBatch,
        recipe: &Recipe,
        metrics: &mut UpdateMetrics,
        cancel: &CancellationToken,
    ) -> Result<Vec<Tensor>, TrainError> {
        let pace = self.pace(cancel);
        let config = recipe.loss_config();
        metrics.trained_rows += batch.forest.len();
        let pass = self.pass(Some(&self.lora), batch, recipe.temperature as f32, &pace)?;
        let gradients = pass.backward(self.optimizer.vars(), |first, scores| {
            let mut gradients = Vec::with_capacity(scores.len());
            for (term, score) in batch.terms[first..].iter().zip(scores) {
                let token = loss::grpo(term, *score, &config);
                metrics.loss += token.loss;
                metrics.kl += token.kl;
                metrics.clip_fraction += token.outside;
                metrics.entropy += term.weight * f64::from(score.entropy);
                if metrics.updates == 0 {
                    metrics.log_prob_gap = metrics.log_prob_gap.max(f64::from((score.log_prob - term.behaviour).abs()));
                }
                gradients.push(token.gradient);
            }
            gradients
        });
        gradients.map_err(cancelled(cancel))
    }

    /// What this trainer's policy says of rollouts that an engine drew with it.
    pub fn assess(
        &self,
        groups: Vec<Group>,
        recipe: &Recipe,
        cancel: &CancellationToken,
    ) -> Result<Assessment, TrainError> {
        let graded: Vec<Graded> =
            groups.into_iter().map(|group| Graded { rewards: vec![0.0; group.rollouts.len()], group }).collect();
        let graded: Vec<&Graded> = graded.iter().collect();
        let weight = 1.0 / graded.iter().map(|graded| graded.tokens()).sum::<usize>() as f64;
        let pace = self.pace(cancel);
        let mut assessment = Assessment { kl: 0.0, log_prob_gap: 0.0 };
        for batch in batch::lay_out(&graded, recipe.advantage, |_| weight, recipe.pass_rows()) {
            let score =
                |lora| self.pass(lora, &batch, recipe.temperature as f32, &pace)?.score().map_err(cancelled(cancel));
            let (references, scores) = (score(None)?, score(Some(&self.lora))?);
            for ((term, reference), score) in batch.terms.iter().zip(references).zip(scores) {
                assessment.kl += term.weight * f64::from(score.log_prob - reference.log_prob);
                let off = f64::from((score.log_prob - term.behaviour).abs());
                assessment.log_prob_gap = assessment.log_prob_gap.max(off);
            }
        }
        Ok(assessment)
    }

    /// Every piece of work goes through the turnstile, unless it is no longer wanted. It is done inside the thread pool, so
    /// that its threads stay awake between one operation and the next.
    fn pace<'a>(
        &'a self,
        cancel: &'a CancellationToken,
    ) -> impl Fn(&mut (dyn FnMut() -> candle_core::Result<()> + Send)) -> candle_core::Result<()> + 'a {
        move |work| {
            if cancel.is_cancelled() {
                candle_core::bail!("cancelled");
            }
            self.turnstile.background(|| rayon::scope(|_| work()))
        }
    }

    fn pass<'a>(
        &'a self,
        lora: Option<&'a Lora>,
        batch: &'a MicroBatch,
        temperature: f32,
        pace: &'a Pace<'a>,
    ) -> candle_core::Result<Pass<'a>> {
        Pass::new(&self.decoder, lora, (&batch.forest, &batch.targets), temperature, pace)
    }

    /// The norm over all gradients; each must be finite, and reach its variable: while `B` is zero no gradient reaches
    /// `A`, so a pair counts as reached if either half is. Only the `first` update of a step has to reach them: later,
    /// all ratios may be out of the clip range.
    fn checked_norm(&self, gradients: &[Tensor], first: bool) -> Result<f64, TrainError> {
        let squares = gradients.iter().map(|gradient| gradient.sqr()?.sum_all()).collect::<Result<Vec<_>, _>>()?;
        // One copy for all: each waits for the device.
        let squares = Tensor::stack(&squares, 0)?.to_vec1::<f32>()?;
        let norms: Vec<f64> = squares.into_iter().map(f64::from).collect();
        if let Some((_, name)) = norms.iter().zip(&self.names).find(|(norm, _)| !norm.is_finite()) {
            return Err(TrainError::NotFinite(name.clone()));
        }
        // Sorted names put the A and the B of a pair side by side.
        for (pair, name) in norms.chunks(2).zip(self.names.chunks(2)) {
            if first && pair.iter().all(|norm| *norm == 0.0) {
                return Err(TrainError::NoGradient(name[0].clone()));
            }
        }
        Ok(norms.iter().sum::<f64>().sqrt())
    }
}

/// Tells a computation that was cancelled from one that failed.
fn cancelled(cancel: &CancellationToken) -> impl Fn(candle_core::Error) -> TrainError + '_ {
    |error| if cancel.is_cancelled() { TrainError::Cancelled } else { error.into() }
}

/// An adapter of these tensors, used as they are.
fn lora_of<'a>(
    decoder: &Decoder,
    config: &LoraConfig,
    tensors: impl IntoIterator<Item = (&'a String, Tensor)>,
) -> Result<Lora, TrainError> {
    let tensors = tensors.into_iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    let shape = |projection| decoder.projection_shape(projection);
    Lora::new(config, &tensors, decoder.config().layers.len(), shape).map_err(TrainError::Mismatch)
}

fn fresh_tensors(decoder: &Decoder, config: &LoraConfig, seed: u64) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = BTreeMap::new();
    for layer in 0..decoder.config().layers.len() {
        for &projection in &config.targets {
            let (out, input) = decoder.projection_shape(projection);
            let bound = 1.0 / (input as f32).sqrt();
            let mut uniform = || ((rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32 * 2.0 - 1.0) * bound;
            let a: Vec<f32> = (0..config.r * input).map(|_| uniform()).collect();
            tensors.insert(peft_name(layer, projection, 'A'), Tensor::from_vec(a, (config.r, input), &Device::Cpu)?);
            let b = Tensor::zeros((out, config.r), candle_core::DType::F32, &Device::Cpu)?;
            tensors.insert(peft_name(layer, projection, 'B'), b);
        }
    }
    Ok(tensors)
}
