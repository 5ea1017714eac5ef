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

/// The optimizer, with the variables that it moves.
pub struct AdamW {
    vars: Vec<Var>,
    moments: Moments,
    weight_decay: f64,
}

/// What the optimizer remembers of the gradients, one tensor for each variable, of the variable's shape.
#[derive(Clone, Debug)]
pub struct Moments {
    pub first: Vec<Tensor>,
    pub second: Vec<Tensor>,
    /// Updates that were made.
    pub steps: i32,
}

impl AdamW {
    pub fn new(vars: Vec<Var>, weight_decay: f64) -> Result<Self> {
        let zeros = || vars.iter().map(|var| var.zeros_like()).collect::<Result<Vec<_>>>();
        let moments = Moments { first: zeros()?, second: zeros()?, steps: 0 };
        Ok(Self { vars, moments, weight_decay })
    }

    /// The variables, in the order of the gradients that [`Self::step`] takes.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Goes on from where an optimizer of the same variables was.
    ///
    /// # Errors
    /// If a tensor does not have the shape of its variable.
    pub fn restore(&mut self, values: &[Tensor], moments: Moments) -> Result<()> {
        let shapes = |tensors: &[Tensor]| tensors.iter().map(|tensor| tensor.dims().to_vec()).collect::<Vec<_>>();
        let expected: Vec<_> = self.vars.iter().map(|var| var.dims().to_vec()).collect();
        if [values, &moments.first, &moments.second].iter().any(|tensors| shapes(tensors) != expected) {
            bail!("the tensors are not those of the variables");
        }
        for (var, value) in self.vars.iter().zip(values) {
            var.set(value)?;
        }
        self.moments = moments;
        Ok(())
    }

    /// Updates every variable by its gradient.
    ///
    /// # Errors
    /// If there is not one gradient for each variable.
    pub fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        if gradients.len() != self.vars.len() {
            bail!("{} gradients for {} variables", gradients.len(), self.vars.len());
        }
        let moments = &mut self.moments;
        moments.steps += 1;
        let first_correction = 1.0 - BETA_1.powi(moments.steps);
        let second_correction = 1.0 - BETA_2.powi(moments.steps);
        for (index, (var, gradient)) in self.vars.iter().zip(gradients).enumerate() {
            let first = ((&moments.first[index] * BETA_1)? + (gradient * (1.0 - BETA_1))?)?;
            let second = ((&moments.second[index] * BETA_2)? + (gradient.sqr()? * (1.0 - BETA_2))?)?;
            let denominator = ((&second / second_correction)?.sqrt()? + EPSILON)?;
            let update = ((&first / first_correction)? / denominator)?;
            let decayed = (var.as_tensor() * (1.0 - learning_rate * self.weight_decay))?;
            var.set(&(decayed - (update * learning_rate)?)?)?;
            moments.first[index] = first;
            moments.second[index] = second;
        }
        Ok(())
    }
}
