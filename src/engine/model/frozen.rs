//! A weight that training never changes.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::packed::PackedMatrix;

/// A frozen weight: a matrix `[outputs, inputs]`, or a vector.
#[derive(Clone, Debug)]
pub enum Frozen {
    /// A matrix on the CPU, as its kernels read it.
    Packed(Arc<PackedMatrix>),
    /// A vector in f32, or a matrix on another device in f32 or bf16.
    Dense(Tensor),
}

impl Frozen {
    /// A weight of these values, packed if it is a matrix on a CPU.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        match tensor.dims() {
            &[outputs, inputs] if tensor.device().is_cpu() => {
                let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
                Ok(Self::Packed(Arc::new(PackedMatrix::from_f32(&values, (outputs, inputs)))))
            }
            _ => Ok(Self::Dense(tensor.clone())),
        }
    }

    pub fn dims(&self) -> Vec<usize> {
        match self {
            Self::Packed(matrix) => vec![matrix.outputs(), matrix.inputs()],
            Self::Dense(tensor) => tensor.dims().to_vec(),
        }
    }

    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// What it takes where it lies, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.bytes(),
            Self::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
        }
    }

    /// The rows of a matrix with these indices, `[indices, inputs]`.
    pub fn rows(&self, indices: &[u32], device: &Device) -> Result<Tensor> {
        match self {
            Self::Packed(matrix) => {
                let mut rows = vec![0f32; indices.len() * matrix.inputs()];
                for (row, &index) in rows.chunks_exact_mut(matrix.inputs()).zip(indices) {
                    matrix.row(index as usize, row);
                }
                Tensor::from_vec(rows, (indices.len(), matrix.inputs()), device)
            }
            Self::Dense(tensor) => tensor.index_select(&Tensor::new(indices, device)?, 0)?.to_dtype(DType::F32),
        }
    }

    /// The weight as one f32 tensor.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match self {
            Self::Packed(matrix) => {
                let indices: Vec<u32> = (0..matrix.outputs() as u32).collect();
                self.rows(&indices, &Device::Cpu)
            }
            Self::Dense(tensor) => tensor.to_dtype(DType::F32),
        }
    }
}
