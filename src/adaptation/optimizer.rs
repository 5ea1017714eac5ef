//! AdamW (arXiv 1711.05101) over named variables.
//!
//! candle's own skips a variable that has no gradient without a word and keeps its moments to itself; this one takes
//! exactly one gradient for each variable.

use candle_core::{Result, Tensor, Var, bail};

/// First and second moment decay and the term that keeps the division finite: PyTorch's defaults.
const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Scales gradients whose norm over all of them is `norm` down to `max_norm`, if it is larger, as PyTorch's
/// `clip_grad_norm_` does.
pub fn clip(gradients: &[Tensor], norm: f64, max_norm: f64) -> Result<Vec<Tensor>> {
    let scale = (max_norm / (norm + 1e-6)).min(1.0);
    gradients.iter().map(|gradient| gradient * scale).collect()
}

/// The optimizer's state.
pub struct AdamW {
    vars: Vec<Var>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: i32,
    weight_decay: f64,
}

impl AdamW {
    pub fn new(vars: Vec<Var>, weight_decay: f64) -> Result<Self> {
        let zeros = || vars.iter().map(|var| var.zeros_like()).collect::<Result<Vec<_>>>();
        Ok(Self { first: zeros()?, second: zeros()?, vars, steps: 0, weight_decay })
    }

    /// The variables, in the order of the gradients that [`Self::step`] takes.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Updates every variable by its gradient.
    ///
    /// # Errors
    /// If there is not one gradient for each variable.
    pub fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        if gradients.len() != self.vars.len() {
            bail!("{} gradients for {} variables", gradients.len(), self.vars.len());
        }
        self.steps += 1;
        let first_correction = 1.0 - BETA_1.powi(self.steps);
        let second_correction = 1.0 - BETA_2.powi(self.steps);
        for (index, (var, gradient)) in self.vars.iter().zip(gradients).enumerate() {
            let first = ((&self.first[index] * BETA_1)? + (gradient * (1.0 - BETA_1))?)?;
            let second = ((&self.second[index] * BETA_2)? + (gradient.sqr()? * (1.0 - BETA_2))?)?;
            let denominator = ((&second / second_correction)?.sqrt()? + EPSILON)?;
            let update = ((&first / first_correction)? / denominator)?;
            let decayed = (var.as_tensor() * (1.0 - learning_rate * self.weight_decay))?;
            var.set(&(decayed - (update * learning_rate)?)?)?;
            self.first[index] = first;
            self.second[index] = second;
        }
        Ok(())
    }
}
