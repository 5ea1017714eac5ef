//! From the bytes of a file to packed words, or to numbers.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{
    format::{BLOCK, Bf16, F16, F32, Format, Header, PANEL, Quantised, block_words},
    unpack,
};

/// How the rows of a matrix are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    /// Blocks that share scales; one of the types that [`Self::of_gguf`] knows.
    Quantised(GgmlDType),
}

impl Encoding {
    /// Elements in a block, and bytes of it.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Quantised(kind) => (kind.block_size(), kind.type_size()),
        }
    }

    /// The encoding behind a type number of GGUF, if there is code for it.
    pub fn of_gguf(type_id: u32) -> Option<Self> {
        Some(match type_id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Quantised(GgmlDType::Q4_0),
            3 => Self::Quantised(GgmlDType::Q4_1),
            6 => Self::Quantised(GgmlDType::Q5_0),
            7 => Self::Quantised(GgmlDType::Q5_1),
            8 => Self::Quantised(GgmlDType::Q8_0),
            10 => Self::Quantised(GgmlDType::Q2K),
            11 => Self::Quantised(GgmlDType::Q3K),
            12 => Self::Quantised(GgmlDType::Q4K),
            13 => Self::Quantised(GgmlDType::Q5K),
            14 => Self::Quantised(GgmlDType::Q6K),
            30 => Self::Bf16,
            _ => return None,
        })
    }
}

/// Runs `$body` with `$format` standing for the format in which weights of an encoding are packed.
macro_rules! with_format {
    ($encoding:expr, $format:ident => $body:expr) => {{
        use GgmlDType as Kind;
        use $crate::engine::model::packed::format::{Bf16, F16, F32, Halves, Quantised, Singles};
        match $encoding {
            Encoding::F32 => with_format!(@ F32, $format => $body),
            Encoding::F16 => with_format!(@ F16, $format => $body),
            Encoding::Bf16 => with_format!(@ Bf16, $format => $body),
            Encoding::Quantised(kind) => {
                let zero = $crate::engine::model::packed::pack::zero(kind);
                match kind {
                    Kind::Q4_0 | Kind::Q4_1 => with_format!(@ Quantised::<4, _>::new(zero, Halves), $format => $body),
                    Kind::Q4K => with_format!(@ Quantised::<4, _>::new(zero, Singles::<1>), $format => $body),
                    Kind::Q2K => with_format!(@ Quantised::<4, _>::new(zero, Singles::<2>), $format => $body),
                    Kind::Q5K => with_format!(@ Quantised::<8, _>::new(zero, Singles::<1>), $format => $body),
                    Kind::Q3K | Kind::Q6K => with_format!(@ Quantised::<8, _>::new(zero, Singles::<2>), $format => $body),
                    _ => with_format!(@ Quantised::<8, _>::new(zero, Halves), $format => $body),
                }
            }
        }
    }};
    (@ $value:expr, $format:ident => $body:expr) => {{
        let $format = $value;
        $body
    }};
}

pub(super) use with_format;

/// The code that stands for 0.
pub fn zero(kind: GgmlDType) -> u8 {
    match kind {
        GgmlDType::Q3K => 4,
        GgmlDType::Q4_0 => 8,
        GgmlDType::Q5_0 => 16,
        GgmlDType::Q6K => 32,
        GgmlDType::Q8_0 => 128,
        _ => 0,
    }
}

/// How many words the weights of a matrix `[outputs, inputs]` take.
pub fn packed_words((outputs, inputs): (usize, usize), encoding: Encoding) -> usize {
    fn words<F: Format>(_: F) -> usize {
        block_words::<F>()
    }
    outputs.div_ceil(PANEL) * inputs.div_ceil(BLOCK) * with_format!(encoding, format => words(format))
}

/// Packs a matrix from its rows as they are in a file into words that are 0; `row` gives the bytes of a row, which hold
/// `inputs` weights.
pub fn pack<'a>(
    (outputs, inputs): (usize, usize),
    encoding: Encoding,
    row: impl Fn(usize) -> &'a [u8] + Sync,
    words: &mut [u32],
) {
    fn pack_row<F: Packing>(_: F, encoding: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        F::pack_row(encoding, row, panel, column);
    }
    let panel_words = packed_words((PANEL, inputs), encoding);
    words.par_chunks_mut(panel_words.max(1)).enumerate().for_each(|(panel, words)| {
        for output in panel * PANEL..outputs.min((panel + 1) * PANEL) {
            with_format!(encoding, format => pack_row(format, encoding, row(output), words, output % PANEL));
        }
    });
}

/// How a row of a file gets into the words of its panel.
trait Packing {
    fn pack_row(encoding: Encoding, row: &[u8], panel: &mut [u32], column: usize);
}

impl Packing for F32 {
    fn pack_row(_: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        for (bytes, input) in row.as_chunks().0.iter().zip(panel.chunks_exact_mut(PANEL)) {
            input[column] = u32::from_le_bytes(*bytes);
        }
    }
}

impl Packing for F16 {
    fn pack_row(_: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        pack_halves(row, panel, column);
    }
}

impl Packing for Bf16 {
    fn pack_row(_: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        pack_halves(row, panel, column);
    }
}

fn pack_halves(row: &[u8], panel: &mut [u32], column: usize) {
    for (input, bytes) in row.as_chunks().0.iter().enumerate() {
        panel[input / 2 * PANEL + column] |= u32::from(u16::from_le_bytes(*bytes)) << (16 * (input % 2));
    }
}

impl<const BITS: usize, H: Header> Packing for Quantised<BITS, H> {
    fn pack_row(encoding: Encoding, row: &[u8], panel: &mut [u32], column: usize) {
        let Encoding::Quantised(kind) = encoding else { return };
        let mut blocks = panel.chunks_exact_mut(block_words::<Self>());
        unpack::unpack(kind, row, |weights| {
            let Some(block) = blocks.next() else { return };
            let (header, codes) = block.split_at_mut(H::WORDS);
            for group in 0..H::GROUPS {
                H::write(header, group, column, weights.scales[group], weights.minima[group]);
            }
            for (input, code) in weights.codes.into_iter().enumerate() {
                codes[input / Self::PER_WORD * PANEL + column] |= u32::from(code) << (BITS * (input % Self::PER_WORD));
            }
        });
    }
}

/// The numbers of a tensor as it is in a file, for what is not a matrix or not for this CPU.
pub fn decode(encoding: Encoding, raw: &[u8]) -> Vec<f32> {
    match encoding {
        Encoding::F32 => raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Encoding::F16 => raw.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Encoding::Bf16 => raw.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        Encoding::Quantised(kind) => {
            let (mut numbers, zero) = (Vec::new(), f32::from(zero(kind)));
            unpack::unpack(kind, raw, |weights| {
                for (input, code) in weights.codes.into_iter().enumerate() {
                    let half = input / (BLOCK / 2);
                    numbers.push((f32::from(code) - zero).mul_add(weights.scales[half], weights.minima[half]));
                }
            });
            numbers
        }
    }
}
