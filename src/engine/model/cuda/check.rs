//! Compares the operations on a CUDA device with the same on a CPU: what a build machine without a card cannot test.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::model::{
    frozen::Frozen,
    ops::{self, Activation, Angles, Attention, Heads, Paths, composed},
    training::{Distributions, ScoreGradient, Target},
};

/// What was compared, and how far the device is from the CPU.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The operation, and which of its results.
    pub name: String,
    /// `|a - b| / |b|`; not a number if the device gave none.
    pub error: f64,
}

/// Compares the value and the gradients of every operation of training on random inputs.
///
/// # Errors
/// If an operation could not be computed at all.
pub fn check(device: &Device) -> Result<Vec<Compared>> {
    let mut checks = Checks { device, rng: ChaCha8Rng::seed_from_u64(7), compared: Vec::new() };
    checks.elementwise()?;
    for dtype in [DType::F32, DType::BF16] {
        checks.linear(dtype)?;
    }
    let plain = |heads, kv_heads, head_dim| Attention {
        heads: Heads { heads, kv_heads, head_dim },
        scale: (head_dim as f32).sqrt().recip(),
        window: None,
        softcap: None,
    };
    for attention in [
        plain(4, 4, 16),
        plain(9, 3, 64),
        Attention { window: Some(40), ..plain(7, 1, 64) },
        Attention { softcap: Some(0.5), ..plain(2, 1, 80) },
        plain(14, 2, 128),
        Attention { window: Some(3), softcap: Some(0.7), ..plain(8, 4, 128) },
        Attention { window: Some(100), ..plain(4, 1, 256) },
        plain(64, 1, 32),
    ] {
        checks.attention(attention, DType::F32)?;
    }
    for attention in [
        plain(9, 3, 64),
        Attention { window: Some(40), ..plain(14, 2, 64) },
        Attention { softcap: Some(2.0), ..plain(4, 4, 64) },
        plain(12, 2, 128),
        Attention { window: Some(100), softcap: Some(2.0), ..plain(8, 4, 128) },
        // So many heads that the queries of the first rows are in several pieces.
        plain(48, 3, 64),
        plain(32, 1, 128),
    ] {
        checks.attention(attention, DType::BF16)?;
    }
    for softened in [1.0, 0.7] {
        checks.log_probs(softened)?;
    }
    Ok(checks.compared)
}

struct Checks<'a> {
    device: &'a Device,
    rng: ChaCha8Rng,
    compared: Vec<Compared>,
}

impl Checks<'_> {
    /// Uniform in ±1, so short that bf16 has each of them.
    fn random(&mut self, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let number = |_| (self.rng.next_u32() >> 25) as f32 / 64.0 - 127.0 / 128.0;
        Tensor::from_vec((0..shape.elem_count()).map(number).collect::<Vec<f32>>(), shape, &Device::Cpu)
    }

    fn compare(&mut self, name: String, found: &Tensor, expected: &Tensor) -> Result<()> {
        let norm = |x: &Tensor| {
            Ok::<_, candle_core::Error>(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
        };
        let found = found.to_device(&Device::Cpu)?;
        let error = norm(&(found - expected)?)? / norm(expected)?.max(f64::MIN_POSITIVE);
        self.compared.push(Compared { name, error });
        Ok(())
    }

    /// An operation here and there, with its gradients for all inputs.
    fn operation(
        &mut self,
        name: &str,
        inputs: &[Tensor],
        here: impl Fn(&[Var]) -> Result<Tensor>,
        there: impl Fn(&[Var]) -> Result<Tensor>,
    ) -> Result<()> {
        let vars = |device: &Device| {
            inputs.iter().map(|input| Var::from_tensor(&input.to_device(device)?)).collect::<Result<Vec<_>>>()
        };
        let (of_cpu, of_device) = (vars(&Device::Cpu)?, vars(self.device)?);
        let (expected, found) = (here(&of_cpu)?, there(&of_device)?);
        self.compare(format!("{name}: value"), &found, &expected)?;
        let seed = self.random(expected.shape())?;
        let expected = ops::seed_gradient(&expected, seed.clone())?.backward()?;
        let found = ops::seed_gradient(&found, seed.to_device(self.device)?)?.backward()?;
        for (index, (here, there)) in of_cpu.iter().zip(&of_device).enumerate() {
            let (Some(expected), Some(found)) = (expected.get(here), found.get(there)) else {
                candle_core::bail!("{name}: no gradient for input {index}");
            };
            self.compare(format!("{name}: gradient {index}"), found, expected)?;
        }
        Ok(())
    }

    fn elementwise(&mut self) -> Result<()> {
        for (width, rows) in [(16, 70), (960, 33), (4096, 5)] {
            let (x, weight) = (self.random((rows, 2 * width))?, self.random(width)?);
            let on_device = weight.to_device(self.device)?;
            self.operation(
                &format!("rms_norm of {width}"),
                &[x],
                |vars| composed::rms_norm(&vars[0], &weight, 1e-5),
                |vars| ops::rms_norm(&vars[0], &on_device, 1e-5),
            )?;
        }
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let inputs = [(self.random((70, 963))? * 4.0)?, self.random((70, 963))?];
            self.operation(
                &format!("gated by {activation:?}"),
                &inputs,
                |vars| composed::gated(&vars[0], &vars[1], activation),
                |vars| ops::gated(&vars[0], &vars[1], activation),
            )?;
        }
        for half in [8, 32, 64] {
            let angles = (self.random((70, half))? * 3.0)?;
            let angles = Angles { cos: angles.cos()?, sin: angles.sin()? };
            let on_device = Angles { cos: angles.cos.to_device(self.device)?, sin: angles.sin.to_device(self.device)? };
            let x = self.random((70, 3 * 2 * half))?;
            self.operation(
                &format!("rope of {}", 2 * half),
                &[x],
                |vars| composed::rope(&vars[0], &angles),
                |vars| ops::rope(&vars[0], &on_device),
            )?;
        }
        Ok(())
    }

    fn linear(&mut self, dtype: DType) -> Result<()> {
        let (rows, inputs, outputs, rank) = (70, 192, 328, 16);
        // A part of joined matrices, as those of a decoder are.
        let joined = self.random((outputs + 24, inputs))?;
        let weight = joined.narrow(0, 24, outputs)?.contiguous()?;
        let frozen = Frozen::Dense(joined.to_device(self.device)?.to_dtype(dtype)?.narrow(0, 24, outputs)?);
        let (x, a, b) = (self.random((rows, inputs))?, self.random((rank, inputs))?, self.random((outputs, rank))?);
        self.operation(
            &format!("frozen_linear in {dtype:?}"),
            std::slice::from_ref(&x),
            |vars| vars[0].matmul(&weight.t()?),
            |vars| ops::frozen_linear(&vars[0], &frozen),
        )?;
        self.operation(
            &format!("adapted_linear in {dtype:?}"),
            &[x, a, b],
            |vars| {
                let low_rank = vars[0].matmul(&vars[1].t()?)?.matmul(&vars[2].t()?)?;
                vars[0].matmul(&weight.t()?)? + (low_rank * 1.7)?
            },
            |vars| ops::adapted_linear(&vars[0], &frozen, [&vars[1], &vars[2]], 1.7),
        )
    }

    /// Over a trunk with branches, one of which has a branch of its own, and another tree.
    fn attention(&mut self, attention: Attention, products: DType) -> Result<()> {
        let mut paths = Paths::default();
        let mut chain = |start: &[u32], rows: std::ops::Range<u32>| {
            let mut path = start.to_vec();
            for row in rows {
                path.push(row);
                paths.push(path.iter().copied());
            }
            path
        };
        let trunk = chain(&[], 0..150);
        let branch = chain(&trunk, 150..231);
        chain(&branch[..170], 231..240);
        chain(&trunk[..149], 240..241);
        chain(&trunk[..70], 241..310);
        chain(&[], 310..333);
        let (rows, paths) = (333, Arc::new(paths));
        let Heads { heads, kv_heads, head_dim } = attention.heads;
        let inputs = [
            (self.random((rows, heads * head_dim))? * 3.0)?,
            self.random((rows, kv_heads * head_dim))?,
            self.random((rows, kv_heads * head_dim))?,
        ];
        let mut name = format!("attention of {heads} by {kv_heads} heads of {head_dim}");
        if products == DType::BF16 {
            name += " in BF16";
        }
        attention.window.iter().for_each(|window| name += &format!(", window {window}"));
        attention.softcap.iter().for_each(|cap| name += &format!(", cap {cap}"));
        self.operation(
            &name,
            &inputs,
            |vars| composed::attention([&vars[0], &vars[1], &vars[2]], &paths, attention),
            |vars| ops::attention([&vars[0], &vars[1], &vars[2]], &paths, attention, products),
        )
    }

    fn log_probs(&mut self, temperature: f32) -> Result<()> {
        // Of one number more than blocks have threads.
        let vocab = 5121;
        let logits = (self.random((4, vocab))? * 8.0)?;
        let targets =
            [(0, 3), (0, 700), (0, 700), (1, 0), (2, 5120), (3, 17)].map(|(row, token)| Target { row, token });
        let by_row: Vec<&[Target]> = targets.chunk_by(|a, b| a.row == b.row).collect();
        let derivatives = [(0.5, 0.0), (-1.0, 0.2), (0.3, 0.0), (1.0, -0.4), (0.0, 0.0), (-0.7, 0.0)];
        let derivatives = derivatives.map(|(log_prob, entropy)| ScoreGradient { log_prob, entropy });
        let compute = |logits: Tensor| {
            let (distributions, scores) = Distributions::of(&logits, &by_row, temperature)?;
            let scores: Vec<f32> = scores.iter().flat_map(|score| [score.log_prob, score.entropy]).collect();
            let count = scores.len();
            let gradients = distributions.logit_gradients(&logits, &by_row, &derivatives)?;
            Ok::<_, candle_core::Error>((Tensor::from_vec(scores, count, &Device::Cpu)?, gradients))
        };
        let (expected, found) = (compute(logits.clone())?, compute(logits.to_device(self.device)?)?);
        self.compare(format!("log-probabilities at {temperature}"), &found.0, &expected.0)?;
        self.compare(format!("gradient of logits at {temperature}"), &found.1, &expected.1)
    }
}
