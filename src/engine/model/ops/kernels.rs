//! The arithmetic of the CPU operations, on plain slices.
//!
//! Loops are written so that the compiler turns them into vector instructions: sums run in `LANES` independent
//! lanes, and everything is entered through `vectorised`, which picks the widest instruction set of the machine at
//! run time (the portable build alone would use SSE2). Every result is a function of its inputs alone, not of the
//! number of threads: a sum is never split between threads.

mod attention;

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use rayon::prelude::*;

pub use self::attention::{Attention, Heads, KvRows, attention, attention_backward};

/// Independent partial sums of a dot product: two AVX2 registers hide the latency of an addition.
const LANES: usize = 16;

/// Rows given to a thread at a time, so that small inputs are not scattered over threads.
const MIN_ROWS: usize = 8;

/// The same where a row takes a fraction of a microsecond.
const MIN_LONG_ROWS: usize = 128;

/// Runs `f` compiled for the best instruction set of this machine.
#[inline(always)]
fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0] + tail
}

/// `e^x` to 2 units in the last place for x in [-87, 88], clamped outside; branch-free, so that it vectorises.
///
/// Range reduction by ln 2 in two parts and a degree-6 polynomial (Cephes `expf`, Moshier).
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // The last bits of `rounded` are those of `n`: there is no vector instruction for a cast that saturates.
    p * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// The hyperbolic tangent to a few units in the last place; branch-free, so that it vectorises.
///
/// Near 0 a polynomial of odd degrees up to 11 (Cephes `tanhf`, Moshier), otherwise `1 - 2 / (e^(2 x) + 1)`.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3_f32;
    let p = p * z + 2.063_908_8e-2;
    let p = p * z - 5.373_971_6e-2;
    let p = p * z + 1.333_144_2e-1;
    let p = p * z - 3.333_328e-1;
    let near = p * z * x + x;
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.into_iter().fold(tail, |a, b| if b > a { b } else { a })
}

/// Replaces each value by `e^(value - shift)`; returns their sum and the sum of `e^(value - shift) * (value - shift)`.
#[inline(always)]
fn exp_sums(values: &mut [f32], shift: f32) -> (f32, f32) {
    let (mut sums, mut weighted) = ([0f32; LANES], [0f32; LANES]);
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let shifted = chunk[lane] - shift;
            chunk[lane] = exp(shifted);
            sums[lane] += chunk[lane];
            weighted[lane] += chunk[lane] * shifted;
        }
    }
    let (mut sum, mut weight) = (sums.into_iter().sum::<f32>(), weighted.into_iter().sum::<f32>());
    for value in chunks.into_remainder() {
        let shifted = *value - shift;
        *value = exp(shifted);
        sum += *value;
        weight += *value * shifted;
    }
    (sum, weight)
}

/// What is left of logits that became probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Normalised {
    /// The log-probability of token `t` is `logits[t] / temperature - normaliser`.
    pub normaliser: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
}

/// Replaces logits by the probabilities of softmax(logits / temperature).
pub fn softmax_in_place(logits: &mut [f32], temperature: f32) -> Normalised {
    vectorised(
        #[inline(always)]
        || {
            if temperature != 1.0 {
                let inverse = 1.0 / temperature;
                logits.iter_mut().for_each(|value| *value *= inverse);
            }
            let top = max(logits);
            let (sum, weighted) = exp_sums(logits, top);
            let inverse = 1.0 / sum;
            logits.iter_mut().for_each(|value| *value *= inverse);
            // -sum p ln p, where ln p = (logit - top) - ln(sum).
            Normalised { normaliser: top + sum.ln(), entropy: sum.ln() - weighted * inverse }
        },
    )
}

/// The token of the largest logit, the first of equals, and the normaliser of softmax(logits): the log-probability of
/// token `t` is `logits[t] - normaliser`. Reads only.
pub fn likeliest(logits: &[f32]) -> (u32, f32) {
    let (top, sum) = vectorised(
        #[inline(always)]
        || {
            let top = max(logits);
            let mut lanes = [0f32; LANES];
            let chunks = logits.chunks_exact(LANES);
            let tail: f32 = chunks.remainder().iter().map(|value| exp(value - top)).sum();
            for chunk in chunks {
                for lane in 0..LANES {
                    lanes[lane] += exp(chunk[lane] - top);
                }
            }
            (top, lanes.into_iter().sum::<f32>() + tail)
        },
    );
    let token = logits.iter().position(|&value| value == top).unwrap_or(0);
    (token as u32, top + sum.ln())
}

/// Part by part `x * weight / sqrt(mean(x^2) + eps)`; parts of `weight.len()`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0f32; x.len()];
    out.par_chunks_mut(width).zip(x.par_chunks(width)).with_min_len(MIN_ROWS).for_each(|(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                let inverse = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * inverse * w;
                }
            },
        )
    });
    out
}

/// Of each row of `width`, what [`rms_norm`] multiplies it with.
pub fn inverse_rms(x: &[f32], width: usize, eps: f32) -> Vec<f32> {
    let inverse = |x: &[f32]| {
        vectorised(
            #[inline(always)]
            || 1.0 / (dot(x, x) / width as f32 + eps).sqrt(),
        )
    };
    x.par_chunks(width).with_min_len(MIN_LONG_ROWS).map(inverse).collect()
}

/// The gradient of [`rms_norm`] with respect to `x`.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], grad: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0f32; x.len()];
    let rows = out.par_chunks_mut(width).zip(x.par_chunks(width)).zip(grad.par_chunks(width));
    rows.with_min_len(MIN_ROWS).for_each(|((out, x), grad)| {
        vectorised(
            #[inline(always)]
            || {
                let inverse = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
                for ((out, g), w) in out.iter_mut().zip(grad).zip(weight) {
                    *out = g * w;
                }
                let projection = dot(out, x) * inverse * inverse / width as f32;
                for (out, x) in out.iter_mut().zip(x) {
                    *out = inverse * (*out - x * projection);
                }
            },
        )
    });
    out
}

/// Elements given to a thread at a time in elementwise loops.
const MIN_ELEMENTS: usize = 4096;

/// `a + b`, element by element.
pub fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut out = a.to_vec();
    out.par_chunks_mut(MIN_ELEMENTS).zip(b.par_chunks(MIN_ELEMENTS)).for_each(|(out, b)| {
        vectorised(
            #[inline(always)]
            || out.iter_mut().zip(b).for_each(|(out, b)| *out += b),
        );
    });
    out
}

/// What a gate goes through, in the form `g * sigmoid(z(g))` that all of them have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z = g`.
    Silu,
    /// The tanh form of GELU (arXiv 1606.08415), `g / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (g + 0.044715 g^3)`:
    /// `z = 2 u`, because `1 + tanh(u) = 2 sigmoid(2 u)`.
    GeluTanh,
}

/// The `z` of [`Activation::GeluTanh`] and its derivative.
#[inline(always)]
fn gelu_z(g: f32) -> (f32, f32) {
    /// `2 * sqrt(2 / pi)`.
    const SLOPE: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    let square = 0.044_715 * g * g;
    (SLOPE * (g + square * g), SLOPE * (1.0 + 3.0 * square))
}

/// `activation(gate) * up`, element by element.
pub fn gated(gate: &[f32], up: &[f32], activation: Activation) -> Vec<f32> {
    let mut out = gate.to_vec();
    let chunks = out.par_chunks_mut(MIN_ELEMENTS).zip(up.par_chunks(MIN_ELEMENTS));
    chunks.for_each(|(out, up)| gate_in_place(out, up, activation));
    out
}

/// [`gated`] in the place of `gate`, by this thread.
pub fn gate_in_place(gate: &mut [f32], up: &[f32], activation: Activation) {
    match activation {
        Activation::Silu => gate_by(
            gate,
            up,
            #[inline(always)]
            |g| g,
        ),
        Activation::GeluTanh => gate_by(
            gate,
            up,
            #[inline(always)]
            |g| gelu_z(g).0,
        ),
    }
}

#[inline(always)]
fn gate_by(gate: &mut [f32], up: &[f32], z: impl Fn(f32) -> f32) {
    vectorised(
        #[inline(always)]
        || {
            for (g, u) in gate.iter_mut().zip(up) {
                *g = *g / (1.0 + exp(-z(*g))) * u;
            }
        },
    );
}

/// The gradients of [`gated`] with respect to `gate` and `up`.
pub fn gated_backward(gate: &[f32], up: &[f32], grad: &[f32], activation: Activation) -> (Vec<f32>, Vec<f32>) {
    match activation {
        Activation::Silu => gated_backward_by(
            [gate, up, grad],
            #[inline(always)]
            |g| (g, 1.0),
        ),
        Activation::GeluTanh => gated_backward_by([gate, up, grad], gelu_z),
    }
}

/// `z` gives `z(g)` and its derivative.
#[inline(always)]
fn gated_backward_by([gate, up, grad]: [&[f32]; 3], z: impl Fn(f32) -> (f32, f32) + Sync) -> (Vec<f32>, Vec<f32>) {
    let (mut d_gate, mut d_up) = (vec![0f32; gate.len()], vec![0f32; up.len()]);
    let outputs = d_gate.par_chunks_mut(MIN_ELEMENTS).zip(d_up.par_chunks_mut(MIN_ELEMENTS));
    let inputs = gate.par_chunks(MIN_ELEMENTS).zip(up.par_chunks(MIN_ELEMENTS)).zip(grad.par_chunks(MIN_ELEMENTS));
    outputs.zip(inputs).for_each(|((d_gate, d_up), ((gate, up), grad))| {
        vectorised(
            #[inline(always)]
            || {
                let outputs = d_gate.iter_mut().zip(d_up);
                for ((d_gate, d_up), ((g, u), grad)) in outputs.zip(gate.iter().zip(up).zip(grad)) {
                    let (z, slope) = z(*g);
                    let sigmoid = 1.0 / (1.0 + exp(-z));
                    *d_gate = grad * u * sigmoid * (1.0 + g * slope * (1.0 - sigmoid));
                    *d_up = grad * g * sigmoid;
                }
            },
        )
    });
    (d_gate, d_up)
}

/// Turns each head's pairs `(x[i], x[i + d/2])` by the row's angles; `direction` -1 turns back.
/// `x` has rows of any number of heads, `cos` and `sin` rows of `d/2`.
pub fn rope(x: &[f32], cos: &[f32], sin: &[f32], half: usize, direction: f32) -> Vec<f32> {
    let rows = cos.len() / half;
    let width = x.len() / rows.max(1);
    let mut out = vec![0f32; x.len()];
    let inputs = x.par_chunks(width).zip(cos.par_chunks(half)).zip(sin.par_chunks(half));
    out.par_chunks_mut(width).zip(inputs).with_min_len(MIN_ROWS).for_each(|(out, ((x, cos), sin))| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                    let (out_low, out_high) = out.split_at_mut(half);
                    let (x_low, x_high) = x.split_at(half);
                    for i in 0..half {
                        let (c, s) = (cos[i], sin[i] * direction);
                        out_low[i] = x_low[i] * c - x_high[i] * s;
                        out_high[i] = x_high[i] * c + x_low[i] * s;
                    }
                }
            },
        )
    });
    out
}
