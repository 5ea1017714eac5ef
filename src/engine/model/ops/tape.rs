//! Gradients by a record of the operations that were computed.
//!
//! candle's backward pass begins every gradient with zeros and adds to them, and holds everything to its end: on a device,
//! where an operation is a pass over memory, that is more than the gradients themselves. Here a gradient is what the one
//! operation says that takes the tensor, sums are made only where there are several, and what was gone through is freed.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, MetalStorage, Result, Shape, Tensor,
    TensorId,
    backend::{BackendDevice, BackendStorage},
    bail,
};

use super::add;

thread_local! {
    /// What this thread has computed since it began to record.
    static STEPS: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

struct Step {
    operation: Operation,
    output: Tensor,
}

enum Operation {
    One(Tensor, Box<dyn CustomOp1 + Send>),
    Two([Tensor; 2], Box<dyn CustomOp2 + Send>),
    Three([Tensor; 3], Box<dyn CustomOp3 + Send>),
}

impl Operation {
    /// Each input, and its gradient if it has one.
    fn backward(&self, output: &Tensor, gradient: &Tensor) -> Result<Vec<(&Tensor, Option<Tensor>)>> {
        Ok(match self {
            Self::One(x, op) => vec![(x, op.bwd(x, output, gradient)?)],
            Self::Two([x, y], op) => {
                let (of_x, of_y) = op.bwd(x, y, output, gradient)?;
                vec![(x, of_x), (y, of_y)]
            }
            Self::Three([x, y, z], op) => {
                let (of_x, of_y, of_z) = op.bwd(x, y, z, output, gradient)?;
                vec![(x, of_x), (y, of_y), (z, of_z)]
            }
        })
    }
}

fn is_recording() -> bool {
    STEPS.with_borrow(Option::is_some)
}

fn push(operation: Operation, output: &Tensor) {
    STEPS.with_borrow_mut(|steps| {
        if let Some(steps) = steps {
            steps.push(Step { operation, output: output.clone() });
        }
    });
}

/// Applies an operation: on the record if there is one, in candle's graph if not.
pub fn apply1<C: CustomOp1 + Send + Sync + 'static>(x: &Tensor, op: C) -> Result<Tensor> {
    if !is_recording() {
        return x.apply_op1(op);
    }
    let output = x.apply_op1_no_bwd(&op)?;
    push(Operation::One(x.clone(), Box::new(op)), &output);
    Ok(output)
}

/// As [`apply1`].
pub fn apply2<C: CustomOp2 + Send + Sync + 'static>(x: &Tensor, y: &Tensor, op: C) -> Result<Tensor> {
    if !is_recording() {
        return x.apply_op2(y, op);
    }
    let output = x.apply_op2_no_bwd(y, &op)?;
    push(Operation::Two([x.clone(), y.clone()], Box::new(op)), &output);
    Ok(output)
}

/// As [`apply1`].
pub fn apply3<C: CustomOp3 + Send + Sync + 'static>([x, y, z]: [&Tensor; 3], op: C) -> Result<Tensor> {
    if !is_recording() {
        return x.apply_op3(y, z, op);
    }
    let output = x.apply_op3_no_bwd(y, z, &op)?;
    push(Operation::Three([x, y, z].map(Tensor::clone), Box::new(op)), &output);
    Ok(output)
}

/// A computation that can be gone through backward.
pub struct Tape(Vec<Step>);

/// Computes something, and records the operations of this module that it is made of.
pub fn record<T>(compute: impl FnOnce() -> Result<T>) -> Result<(T, Tape)> {
    /// Ends the record, also where the computation panics.
    struct Recording;
    impl Drop for Recording {
        fn drop(&mut self) {
            STEPS.take();
        }
    }
    let recording = Recording;
    STEPS.set(Some(Vec::new()));
    let result = compute()?;
    let steps = STEPS.take().unwrap_or_default();
    drop(recording);
    Ok((result, Tape(steps)))
}

impl Tape {
    /// The gradients of the variables that were computed with, from that of the `output`. A device without kernels, where
    /// nothing was recorded, has candle's graph.
    ///
    /// # Errors
    /// If a gradient would stop at something that is neither a variable nor was recorded.
    pub fn backward(self, output: &Tensor, gradient: Tensor) -> Result<Gradients> {
        if self.0.is_empty() {
            let store = seed_gradient(output, gradient)?.backward()?;
            let gradients = store.get_ids().filter_map(|id| Some((*id, store.get_id(*id)?.clone())));
            return Ok(Gradients(gradients.collect()));
        }
        let recorded: HashSet<TensorId> = self.0.iter().map(|step| step.output.id()).collect();
        if !recorded.contains(&output.id()) {
            bail!("what a gradient is given for was not recorded");
        }
        let mut gradients = HashMap::from([(output.id(), gradient)]);
        for Step { operation, output } in self.0.into_iter().rev() {
            let Some(gradient) = gradients.remove(&output.id()) else { continue };
            for (input, gradient) in operation.backward(&output, &gradient)? {
                let Some(gradient) = gradient else { continue };
                if !recorded.contains(&input.id()) && !input.is_variable() {
                    bail!("a gradient of {:?} stops at what was not recorded", input.shape());
                }
                let sum = match gradients.remove(&input.id()) {
                    Some(other) => add(&other, &gradient)?,
                    None => gradient,
                };
                gradients.insert(input.id(), sum);
            }
        }
        Ok(Gradients(gradients))
    }
}

/// Gradients of variables.
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// That of a variable; `None` if the result does not depend on it.
    pub fn take(&mut self, variable: &Tensor) -> Option<Tensor> {
        self.0.remove(&variable.id())
    }
}

/// A scalar whose gradient with respect to `y` is `gradient`, whatever its own value (which is 0): the seed of a
/// backward pass that continues one that was computed elsewhere.
pub fn seed_gradient(y: &Tensor, gradient: Tensor) -> Result<Tensor> {
    y.apply_op1(SeedGradient { gradient })
}

struct SeedGradient {
    gradient: Tensor,
}

impl CustomOp1 for SeedGradient {
    fn name(&self) -> &'static str {
        "seed-gradient"
    }

    fn cpu_fwd(&self, _y: &CpuStorage, _l: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn cuda_fwd(&self, y: &CudaStorage, _l: &Layout) -> Result<(CudaStorage, Shape)> {
        zero_scalar(y)
    }

    fn metal_fwd(&self, y: &MetalStorage, _l: &Layout) -> Result<(MetalStorage, Shape)> {
        zero_scalar(y)
    }

    fn bwd(&self, _y: &Tensor, _res: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient.clone()))
    }
}

fn zero_scalar<S: BackendStorage>(like: &S) -> Result<(S, Shape)>
where
    S::Device: BackendDevice<Storage = S>,
{
    let shape = Shape::from(());
    Ok((S::Device::zeros_impl(like.device(), &shape, DType::F32)?, shape))
}
