//! Products of a model's matrices with rows: by cuBLAS or, of few rows in bf16, by a kernel of ours where this card is faster
//! with it.
//!
//! Decoding a few dozen sequences takes as long as it takes to read the matrices, and how near a library comes to that depends
//! on the shape. So both are tried on every shape of the model when it is loaded, and ours is taken only where it makes the same
//! numbers in less time.

use std::{collections::BTreeMap, time::Instant};

use candle_core::{
    CudaDevice, DType, Result,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaSlice, sys::CUdevice_attribute},
    },
};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tracing::{debug, warn};

use super::{
    Module,
    launch::{Arg, Grid, Kernel, Operand, Product, Queue, launch, pointer, product},
    recorder::{Recorder, replay},
};

/// Our kernels, each for up to so many rows.
const SIZES: [usize; 4] = [8, 16, 32, 64];
/// How a matrix is divided; see `few_rows.cu`.
const OUTPUTS: usize = 64;
const SLAB: usize = 64;
const THREADS: usize = 128;
/// Blocks on a multiprocessor that are tried.
const BLOCKS: [usize; 3] = [1, 2, 3];

/// Ours is taken if it needs no more than this part of the library's time: what is faster by less may be slower the next time,
/// and one way is better than two.
const GAIN: f64 = 0.95;
/// A difference in the results that rounding does not explain, as a share of the largest.
const TOLERANCE: f32 = 1e-3;

/// The ways to make products that suit a model's matrices best.
pub struct Products {
    device: CudaDevice,
    kernels: Vec<Kernel>,
    /// What blocks have made of tiles that others go on with, and how many of them are done with each.
    parts: CudaSlice<u8>,
    arrived: CudaSlice<u32>,
    /// Of each shape (outputs, inputs): the blocks for each of our kernels, none where cuBLAS is as fast.
    blocks: BTreeMap<(usize, usize), [Option<usize>; SIZES.len()]>,
}

/// `y = x w^T`, or `y += x w^T`.
#[derive(Clone, Copy, Debug)]
pub struct Multiplication {
    /// `[rows, inputs]`, of the type of `w`.
    pub x: u64,
    pub w: Operand,
    pub rows: usize,
    /// f32 rows: their address, and how many numbers lie between the beginnings of two.
    pub y: (u64, usize),
    pub adds: bool,
}

impl Products {
    /// Finds out how to multiply with each of these matrices.
    ///
    /// # Errors
    /// If the device fails, or has no memory for it.
    pub fn measured(device: &CudaDevice, queue: &Queue, recorder: &Recorder, matrices: &[Operand]) -> Result<Self> {
        let mut shapes: BTreeMap<(usize, usize), Vec<Operand>> = BTreeMap::new();
        for matrix in matrices.iter().filter(|matrix| matrix.dtype == DType::BF16 && matrix.inputs % SLAB == 0) {
            shapes.entry((matrix.outputs, matrix.inputs)).or_default().push(*matrix);
        }
        let multiprocessors = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = queue.stream.context().attribute(multiprocessors).w()? as usize;
        let largest = |of: fn(&(usize, usize)) -> usize| shapes.keys().map(of).max().unwrap_or(0);
        let (outputs, inputs) = (largest(|shape| shape.0), largest(|shape| shape.1));
        let most_blocks = if shapes.is_empty() { 0 } else { multiprocessors * BLOCKS[BLOCKS.len() - 1] };
        let most_rows = SIZES[SIZES.len() - 1];
        let mut products = Self {
            device: device.clone(),
            kernels: SIZES
                .iter()
                .map(|size| Kernel::load(device, Module::FewRows, &format!("multiply_{size}")))
                .collect::<Result<_>>()?,
            parts: device.alloc_zeros((most_blocks * 2 * most_rows / 8 * THREADS * 16).max(1))?,
            arrived: device.alloc_zeros(outputs.div_ceil(OUTPUTS).max(1))?,
            blocks: BTreeMap::new(),
        };
        if shapes.is_empty() {
            return Ok(products);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut number = || bf16::from_f32(rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0);
        let x = device.clone_htod(&(0..most_rows * inputs).map(|_| number()).collect::<Vec<_>>())?;
        let y = device.alloc_zeros::<f32>(most_rows * outputs)?;
        let trial = Trial { products: &products, queue, recorder, x: &x, y: &y };
        let mut found = BTreeMap::new();
        for (&shape, matrices) in &shapes {
            let mut blocks = [None; SIZES.len()];
            for (size, blocks) in blocks.iter_mut().enumerate() {
                *blocks = trial.fastest(matrices, size, multiprocessors)?;
            }
            debug!(outputs = shape.0, inputs = shape.1, ?blocks, "products of up to {SIZES:?} rows");
            found.insert(shape, blocks);
        }
        products.blocks = found;
        Ok(products)
    }

    /// Queues a multiplication.
    ///
    /// # Errors
    /// If the driver or cuBLAS refuses it.
    pub fn multiply(&self, queue: &Queue, multiplication: Multiplication) -> Result<()> {
        let Operand { outputs, inputs, .. } = multiplication.w;
        let size = SIZES.iter().position(|&size| multiplication.rows <= size);
        let blocks = size.and_then(|size| Some((size, self.blocks.get(&(outputs, inputs))?[size]?)));
        match blocks {
            Some((size, blocks)) => self.by_blocks(queue, multiplication, size, blocks),
            None => by_library(queue, multiplication),
        }
    }

    fn by_blocks(&self, queue: &Queue, multiplication: Multiplication, size: usize, blocks: usize) -> Result<()> {
        let Multiplication { x, w, rows, y: (y, stride), adds } = multiplication;
        let int = |number: usize| Arg::Int(number as i32);
        launch(
            queue,
            &self.kernels[size],
            Grid::rows(blocks, THREADS as u32),
            &[
                Arg::Pointer(x),
                Arg::Pointer(w.at),
                int(rows),
                int(w.outputs),
                int(w.inputs),
                Arg::Pointer(y),
                int(stride),
                int(usize::from(adds)),
                Arg::Pointer(pointer::of_slice(&self.parts, &self.device)),
                Arg::Pointer(pointer::of_slice(&self.arrived, &self.device)),
            ],
        )
    }
}

fn by_library(queue: &Queue, multiplication: Multiplication) -> Result<()> {
    let Multiplication { x, w, rows, y, adds } = multiplication;
    let x = Operand { at: x, ..w };
    product(&queue.blas, Product { x, w, rows, y, alpha: 1.0, beta: if adds { 1.0 } else { 0.0 } })
}

/// The blocks that the work of a matrix is divided between: a unit or more for each.
fn blocks(outputs: usize, inputs: usize, wanted: usize) -> usize {
    wanted.min(outputs.div_ceil(OUTPUTS) * (inputs / SLAB))
}

/// What it takes to try both ways.
struct Trial<'a> {
    products: &'a Products,
    queue: &'a Queue,
    recorder: &'a Recorder,
    x: &'a CudaSlice<bf16>,
    y: &'a CudaSlice<f32>,
}

impl Trial<'_> {
    /// The blocks for our kernel of a size, if it makes the products of these matrices, all of one shape, fast and right.
    fn fastest(&self, matrices: &[Operand], size: usize, multiprocessors: usize) -> Result<Option<usize>> {
        let Operand { outputs, inputs, .. } = matrices[0];
        let library = self.seconds(matrices, size, None)?;
        let mut best = (GAIN * library, None);
        for per_multiprocessor in BLOCKS {
            let blocks = blocks(outputs, inputs, per_multiprocessor * multiprocessors);
            let seconds = self.seconds(matrices, size, Some(blocks))?;
            if seconds < best.0 {
                best = (seconds, Some(blocks));
            }
        }
        let Some(blocks) = best.1 else { return Ok(None) };
        if self.is_right(matrices[0], size, blocks)? {
            return Ok(Some(blocks));
        }
        warn!(
            outputs,
            inputs,
            rows = SIZES[size],
            "a kernel of ours makes other products than cuBLAS, and is not used"
        );
        Ok(None)
    }

    fn multiply(&self, queue: &Queue, w: Operand, size: usize, blocks: Option<usize>, adds: bool) -> Result<()> {
        let device = &self.products.device;
        let [x, y] = [pointer::of_slice(self.x, device), pointer::of_slice(self.y, device)];
        let multiplication = Multiplication { x, w, rows: SIZES[size], y: (y, w.outputs), adds };
        match blocks {
            Some(blocks) => self.products.by_blocks(queue, multiplication, size, blocks),
            None => by_library(queue, multiplication),
        }
    }

    /// How long the products with all matrices take, one after another: the shortest of some times. They are recorded, so that it is
    /// not the launches that are measured.
    fn seconds(&self, matrices: &[Operand], size: usize, blocks: Option<usize>) -> Result<f64> {
        let graph = self.recorder.record(|queue| {
            matrices.iter().try_for_each(|&matrix| self.multiply(queue, matrix, size, blocks, false))
        })?;
        let mut shortest = f64::INFINITY;
        for _ in 0..5 {
            self.queue.stream.synchronize().w()?;
            let started = Instant::now();
            replay(&graph, self.queue)?;
            self.queue.stream.synchronize().w()?;
            shortest = shortest.min(started.elapsed().as_secs_f64());
        }
        Ok(shortest)
    }

    /// Whether our kernel makes what cuBLAS makes, and adds to what is there.
    fn is_right(&self, matrix: Operand, size: usize, blocks: usize) -> Result<bool> {
        let mut results = [None, Some(blocks)].into_iter().map(|blocks| {
            self.multiply(self.queue, matrix, size, blocks, false)?;
            self.multiply(self.queue, matrix, size, blocks, true)?;
            self.products.device.clone_dtoh(&self.y.slice(..SIZES[size] * matrix.outputs))
        });
        let (Some(theirs), Some(ours)) = (results.next(), results.next()) else { return Ok(false) };
        Ok(are_close(&theirs?, &ours?))
    }
}

/// Whether numbers are the same but for rounding. None is close to what is no number.
fn are_close(expected: &[f32], found: &[f32]) -> bool {
    let largest = expected.iter().fold(0f32, |largest, number| largest.max(number.abs()));
    expected.iter().zip(found).all(|(expected, found)| (expected - found).abs() <= TOLERANCE * largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_block_is_without_work() {
        assert_eq!(blocks(2048, 1536, 264), 264);
        assert_eq!(blocks(130, 128, 264), 6);
        assert_eq!(blocks(1, 64, 264), 1);
    }

    #[test]
    fn what_differs_or_is_no_number_is_not_close() {
        assert!(are_close(&[1.0, -100.0], &[1.05, -100.0]));
        assert!(!are_close(&[1.0, -100.0], &[1.2, -100.0]));
        assert!(!are_close(&[1.0, -100.0], &[1.0, f32::NAN]));
    }
}
