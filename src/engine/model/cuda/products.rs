//! Products of a model's matrices with rows: by cuBLAS or, of few rows in bf16, by a kernel of ours where this card is faster
//! with it.
//!
//! Decoding a few dozen sequences takes as long as it takes to read the matrices, and how near a library comes to that depends
//! on the shape. So both are tried on every shape of the model when it is loaded, and ours is taken only where it makes the same
//! numbers in less time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use candle_core::{
    CudaDevice, DType, Error, Result,
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
use crate::engine::model::device::{is_lost, is_out_of_memory};

/// Our kernels, each for up to so many rows.
const KERNELS: [usize; 4] = [8, 16, 32, 64];
/// The numbers of rows that are tried, and the kernel for each: what is fastest there is taken for fewer rows, too.
const TRIED: [(usize, usize); 5] = [(1, 0), (8, 0), (16, 1), (32, 2), (64, 3)];
const MOST_ROWS: usize = 64;
/// How a matrix is divided; see `few_rows.cu`.
const OUTPUTS: usize = 64;
const SLAB: usize = 64;
const THREADS: usize = 128;
/// Blocks for each multiprocessor that are tried.
const BLOCKS: [usize; 4] = [2, 3, 4, 6];
/// How long a card computes before it is measured: an idle one has lowered its clocks.
const WARM_UP: Duration = Duration::from_millis(50);

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
    /// Of each shape (outputs, inputs) in bf16: into how many blocks our kernel divides each of what was tried, or none where
    /// cuBLAS is as fast.
    blocks: BTreeMap<(usize, usize), [Option<usize>; TRIED.len()]>,
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
    /// If the device is lost, or has no memory for it.
    pub fn measured(device: &CudaDevice, queue: &Queue, recorder: &Recorder, matrices: &[Operand]) -> Result<Self> {
        let mut shapes: BTreeMap<(usize, usize), Vec<Operand>> = BTreeMap::new();
        for matrix in matrices.iter().filter(|matrix| matrix.dtype == DType::BF16 && matrix.inputs % SLAB == 0) {
            shapes.entry((matrix.outputs, matrix.inputs)).or_default().push(*matrix);
        }
        let attribute = |attribute| Ok::<_, Error>(queue.stream.context().attribute(attribute).w()? as usize);
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let largest = |of: fn(&(usize, usize)) -> usize| shapes.keys().map(of).max().unwrap_or(0);
        let (outputs, inputs) = (largest(|shape| shape.0), largest(|shape| shape.1));
        let most_blocks = if shapes.is_empty() { 0 } else { multiprocessors * BLOCKS[BLOCKS.len() - 1] };
        let kernels = KERNELS.iter().map(|rows| Kernel::load(device, Module::FewRows, &format!("multiply_{rows}")));
        let products = Self {
            device: device.clone(),
            kernels: kernels.collect::<Result<_>>()?,
            parts: device.alloc_zeros((most_blocks * 2 * MOST_ROWS / 8 * THREADS * 16).max(1))?,
            arrived: device.alloc_zeros(outputs.div_ceil(OUTPUTS).max(1))?,
            blocks: BTreeMap::new(),
        };
        if shapes.is_empty() {
            return Ok(products);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut number = || bf16::from_f32(rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0);
        let mut trial = Trial {
            queue,
            recorder,
            multiprocessors,
            x: device.clone_htod(&(0..MOST_ROWS * inputs).map(|_| number()).collect::<Vec<_>>())?,
            y: device.alloc_zeros(MOST_ROWS * outputs)?,
            flush: device
                .alloc_zeros((2 * attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?).max(1))?,
            products,
        };
        match trial.blocks(&shapes) {
            Ok(blocks) => Ok(Self { blocks, ..trial.products }),
            Err(error) if is_out_of_memory(&error) || is_lost(&error) => Err(error),
            Err(error) => {
                warn!(%error, "the ways to make products could not be compared; cuBLAS makes all of them");
                Ok(trial.products)
            }
        }
    }

    /// Queues a multiplication.
    ///
    /// # Errors
    /// If the driver or cuBLAS refuses it.
    pub fn multiply(&self, queue: &Queue, multiplication: Multiplication) -> Result<()> {
        let Multiplication { w, rows, .. } = multiplication;
        let blocks = self.blocks.get(&(w.outputs, w.inputs)).filter(|_| w.dtype == DType::BF16);
        let tried = TRIED.iter().position(|&(most, _)| rows <= most);
        match blocks.zip(tried).and_then(|(blocks, tried)| Some((TRIED[tried].1, blocks[tried]?))) {
            Some((kernel, blocks)) => self.by_blocks(queue, multiplication, kernel, blocks),
            None => by_library(queue, multiplication),
        }
    }

    fn by_blocks(&self, queue: &Queue, multiplication: Multiplication, kernel: usize, blocks: usize) -> Result<()> {
        let Multiplication { x, w, rows, y: (y, stride), adds } = multiplication;
        let int = |number: usize| Arg::Int(number as i32);
        launch(
            queue,
            &self.kernels[kernel],
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

/// Into how many blocks the work of a matrix is divided, if so many are wanted: each has something to do.
fn divided(outputs: usize, inputs: usize, wanted: usize) -> usize {
    wanted.min(outputs.div_ceil(OUTPUTS) * (inputs / SLAB))
}

/// What it takes to try both ways.
struct Trial<'a> {
    products: Products,
    queue: &'a Queue,
    recorder: &'a Recorder,
    multiprocessors: usize,
    x: CudaSlice<bf16>,
    y: CudaSlice<f32>,
    /// Written to, it drives everything else out of the card's cache, as the rest of a model does.
    flush: CudaSlice<u8>,
}

impl Trial<'_> {
    /// See [`Products::blocks`].
    fn blocks(
        &mut self,
        shapes: &BTreeMap<(usize, usize), Vec<Operand>>,
    ) -> Result<BTreeMap<(usize, usize), [Option<usize>; TRIED.len()]>> {
        let started = Instant::now();
        while started.elapsed() < WARM_UP {
            shapes
                .values()
                .flatten()
                .try_for_each(|&matrix| self.multiply(self.queue, matrix, MOST_ROWS, None, false))?;
            self.queue.stream.synchronize().w()?;
        }
        let mut found = BTreeMap::new();
        for (&(outputs, inputs), matrices) in shapes {
            let mut blocks = [None; TRIED.len()];
            for (&(rows, kernel), blocks) in TRIED.iter().zip(&mut blocks) {
                *blocks = self.fastest(matrices, rows, kernel)?;
            }
            debug!(outputs, inputs, ?blocks, "our kernels, for {TRIED:?}");
            found.insert((outputs, inputs), blocks);
        }
        Ok(found)
    }

    /// Into how many blocks a kernel of ours divides products with these matrices, all of one shape, if it makes them
    /// faster and right.
    fn fastest(&mut self, matrices: &[Operand], rows: usize, kernel: usize) -> Result<Option<usize>> {
        let Operand { outputs, inputs, .. } = matrices[0];
        let mut best = (GAIN * self.seconds(matrices, rows, None)?, None);
        for wanted in BLOCKS {
            let blocks = divided(outputs, inputs, wanted * self.multiprocessors);
            let seconds = self.seconds(matrices, rows, Some((kernel, blocks)))?;
            if seconds < best.0 {
                best = (seconds, Some(blocks));
            }
        }
        let Some(blocks) = best.1 else { return Ok(None) };
        for (_, &matrix) in matrices.iter().enumerate().filter(|&(i, _)| i == 0 || i + 1 == matrices.len()) {
            if !self.is_right(matrix, rows, (kernel, blocks))? {
                warn!(outputs, inputs, rows, "a kernel of ours makes other products than cuBLAS, and is not used");
                return Ok(None);
            }
        }
        Ok(Some(blocks))
    }

    /// Queues a product by one of our kernels, so divided, or by cuBLAS.
    fn multiply(&self, queue: &Queue, w: Operand, rows: usize, by: Option<(usize, usize)>, adds: bool) -> Result<()> {
        let device = &self.products.device;
        let (x, y) = (pointer::of_slice(&self.x, device), pointer::of_slice(&self.y, device));
        let multiplication = Multiplication { x, w, rows, y: (y, w.outputs), adds };
        match by {
            Some((kernel, blocks)) => self.products.by_blocks(queue, multiplication, kernel, blocks),
            None => by_library(queue, multiplication),
        }
    }

    /// How long the products with all matrices take, one after another: the shortest of some times. They are recorded, so that it
    /// is not the launches that are measured.
    fn seconds(&mut self, matrices: &[Operand], rows: usize, by: Option<(usize, usize)>) -> Result<f64> {
        // What a library loads for its first product cannot be recorded.
        self.multiply(self.queue, matrices[0], rows, by, false)?;
        let graph = self
            .recorder
            .record(|queue| matrices.iter().try_for_each(|&matrix| self.multiply(queue, matrix, rows, by, false)))?;
        let mut shortest = f64::INFINITY;
        for _ in 0..5 {
            self.queue.stream.memset_zeros(&mut self.flush).w()?;
            self.queue.stream.synchronize().w()?;
            let started = Instant::now();
            replay(&graph, self.queue)?;
            self.queue.stream.synchronize().w()?;
            shortest = shortest.min(started.elapsed().as_secs_f64());
        }
        Ok(shortest)
    }

    /// Whether our kernel makes what cuBLAS makes, and adds to what is there. Neither finds what the other has made.
    fn is_right(&mut self, matrix: Operand, rows: usize, ours: (usize, usize)) -> Result<bool> {
        let mut made = |by| {
            self.queue.stream.memset_zeros(&mut self.y).w()?;
            self.multiply(self.queue, matrix, rows, by, false)?;
            self.multiply(self.queue, matrix, rows, by, true)?;
            self.products.device.clone_dtoh(&self.y.slice(..rows * matrix.outputs))
        };
        let (ours, theirs) = (made(Some(ours))?, made(None)?);
        Ok(are_close(&theirs, &ours))
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
        assert_eq!(divided(2048, 1536, 264), 264);
        assert_eq!(divided(130, 128, 264), 6);
        assert_eq!(divided(1, 64, 264), 1);
    }

    #[test]
    fn every_number_of_rows_that_is_tried_fits_its_kernel() {
        assert!(TRIED.iter().all(|&(rows, kernel)| rows <= KERNELS[kernel]));
        assert!(TRIED.is_sorted() && TRIED[TRIED.len() - 1].0 == MOST_ROWS);
    }

    #[test]
    fn what_differs_or_is_no_number_is_not_close() {
        assert!(are_close(&[1.0, -100.0], &[1.05, -100.0]));
        assert!(!are_close(&[1.0, -100.0], &[1.2, -100.0]));
        assert!(!are_close(&[1.0, -100.0], &[1.0, f32::NAN]));
    }
}
