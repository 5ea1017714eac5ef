//! What the training of a round takes of memory, before it begins. Pure.
//!
//! The two places where training computes take different amounts: on a CPU each operation of a layer is one that keeps
//! little, on a device of its own some are made of several, and everything else is larger.

use crate::engine::model::{config::DecoderConfig, lora::Projection, training::HEAD_ROWS};

const FLOAT: u64 = 4;

/// Where training computes, and so whose memory it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The CPU.
    Machine,
    /// A device with memory of its own.
    Device,
}

impl Place {
    /// How many rows a pass has where nothing is set and there is room. Larger passes are no faster on a CPU; on a device a
    /// product of few rows leaves most of it idle.
    pub const fn pass_rows(self) -> usize {
        match self {
            Self::Machine => 2048,
            Self::Device => 16_384,
        }
    }
}

/// How often the weights of an adapter are held: as variables, as the optimizer's two moments, as gradients (of a pass, of the
/// passes before it, of both, clipped), as copies for the passes, as the snapshot that the engine loads, as the engine
/// lays it out, and as a file. The rest is what an allocator keeps between passes of different sizes.
const ADAPTER_COPIES: u64 = 18;

/// The same on a device: variables, two moments, gradients (of a pass, of those before it, of both, clipped), what the
/// optimizer makes of one of them, and what the engine answers with, of this step and of the last, joined as it reads it.
const ADAPTER_COPIES_ON_DEVICE: u64 = 12;

/// How often the logits of the rows that the head computes at a time are held: as they are, as probabilities, as their
/// gradient, and once more where one is made of another.
const LOGIT_COPIES: u64 = 5;

/// On a device the head computes more rows at a time: as many as have logits of a quarter of a gigabyte. They are held up to five
/// times: as they are, as probabilities, as their gradient, and laid out for products. The rest is for the copy of a matrix
/// that goes into a product together with its adapter.
const LOGIT_BYTES_ON_DEVICE: u64 = 6 * (256 << 20);

/// What each activation of a layer takes while the layer is computed with its graph and backwards: itself, its gradient, and
/// what is laid out for a product.
const ACTIVATION_COPIES: u64 = 2;

/// On a device a product with an adapter is made of several, and what goes into one of 16-bit weights is rounded to them first.
const ACTIVATION_COPIES_ON_DEVICE: u64 = 4;

/// What training takes, in bytes, beyond the model and the engine's cache. A bound from above, and on a CPU a narrow one (a GPU keeps more while it has it):
/// `ttrl bench train` prints it beside what is really taken (`docs/adaptation.md` has a table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    fixed: u64,
    /// For each row of a pass: a distinct token position.
    per_row: u64,
}

impl Footprint {
    /// Of an adapter of a rank on some projections, where the longest sequence has so many tokens.
    pub fn of(model: &DecoderConfig, place: Place, (rank, targets): (usize, &[Projection]), longest: usize) -> Self {
        let (hidden, inner) = (model.hidden_size as u64, model.intermediate_size as u64);
        let (query, kv) = (model.query_width() as u64, model.kv_width() as u64);
        let layers = model.layers.len() as u64;
        let pair = |target: &Projection| {
            let (out, input) = model.projection_shape(*target);
            ((out + input) * rank) as u64
        };
        let adapter = layers * targets.iter().map(pair).sum::<u64>();
        let logits = FLOAT * HEAD_ROWS as u64 * model.vocab_size as u64;
        let (adapters, logits, activations) = match place {
            Place::Machine => (ADAPTER_COPIES, LOGIT_COPIES * logits, ACTIVATION_COPIES),
            Place::Device => (ADAPTER_COPIES_ON_DEVICE, LOGIT_BYTES_ON_DEVICE, ACTIVATION_COPIES_ON_DEVICE),
        };
        // Its input, two normalised inputs, what attention and MLP give and their sums; queries, keys and values before
        // and after they are turned and laid out, and what is attended to; gate, up, and their product with what it is made of.
        let layer = 8 * hidden + 4 * query + 4 * kv + 4 * inner;
        // The input of each layer is kept, and so are the rows that a row sees.
        let row = layers * hidden + activations * layer + longest as u64;
        Self { fixed: FLOAT * adapters * adapter + logits, per_row: FLOAT * row }
    }

    /// With passes of so many rows.
    pub fn bytes(&self, rows: usize) -> u64 {
        self.fixed + self.per_row * rows as u64
    }

    /// The most rows of a pass that fit.
    fn rows_within(&self, bytes: u64) -> usize {
        (bytes.saturating_sub(self.fixed) / self.per_row) as usize
    }
}

/// Why a round is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "training would take about {} MiB, and {} MiB are free: its longest sequence has {longest} tokens, which must be trained \
     at once; set `learning.max_tokens`, `learning.lora_rank` or `engine.cache_tokens` lower, or give the server more \
     memory",
    needed >> 20, available >> 20
)]
pub struct TooLarge {
    /// Bytes, with the smallest passes that are possible.
    pub needed: u64,
    pub available: u64,
    /// Tokens.
    pub longest: usize,
}

/// How many rows a pass may have: as many as are `wanted`, or a power of two below that, so that training fits, and so that some
/// megabytes more or less make the same passes. A sequence is never divided: a pass has as many rows as the `longest`
/// one has tokens, if those are more.
///
/// # Errors
/// If even those do not fit.
pub fn fitting_rows(
    footprint: &Footprint,
    (wanted, longest): (usize, usize),
    available: u64,
) -> Result<usize, TooLarge> {
    if footprint.bytes(wanted.max(longest)) <= available {
        return Ok(wanted);
    }
    match footprint.rows_within(available) {
        rows if rows >= longest => Ok(1 << rows.min(wanted).max(1).ilog2()),
        _ => Err(TooLarge { needed: footprint.bytes(longest), available, longest }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::{config::LayerConfig, lora::Targets, ops::Activation, rope::Rope};

    /// The shape of Llama 3.1 8B.
    fn eight_billion() -> DecoderConfig {
        let rope = Rope::plain(5e5);
        DecoderConfig {
            vocab_size: 128_256,
            hidden_size: 4096,
            intermediate_size: 14_336,
            layers: vec![LayerConfig { window: None, rope }; 32],
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            rms_norm_eps: 1e-5,
            activation: Activation::Silu,
            biases: vec![],
            qk_norm: false,
            sandwich_norms: false,
            embedding_scale: None,
            attention_scale: 0.09,
            attention_softcap: None,
            logit_softcap: None,
            context_tokens: 131_072,
            tied_embeddings: false,
        }
    }

    #[test]
    fn a_device_is_asked_for_more_and_a_large_one_holds_large_passes_beside_a_large_model() {
        let targets = Targets::all();
        let of = |place| Footprint::of(&eight_billion(), place, (16, targets.projections()), 2048);
        let (machine, device) = (of(Place::Machine), of(Place::Device));
        assert!(device.per_row > machine.per_row && device.fixed > machine.fixed, "{device:?} {machine:?}");
        // What 80 GiB have left beside 15 GiB of weights and a cache of half of the rest.
        let rows = fitting_rows(&device, (Place::Device.pass_rows(), 2048), 30 << 30);
        assert_eq!(rows, Ok(8192));
        assert_eq!(fitting_rows(&device, (Place::Device.pass_rows(), 2048), 60 << 30), Ok(16_384));
    }

    const FOOTPRINT: Footprint = Footprint { fixed: 1000, per_row: 10 };

    #[test]
    fn passes_are_as_large_as_wanted_where_there_is_room() {
        assert_eq!(fitting_rows(&FOOTPRINT, (64, 20), 1640), Ok(64));
        // A sequence that is longer than a pass is one of its own.
        assert_eq!(fitting_rows(&FOOTPRINT, (64, 100), 2000), Ok(64));
    }

    #[test]
    fn passes_are_smaller_where_there_is_less_room_and_never_smaller_than_a_sequence() {
        assert_eq!(fitting_rows(&FOOTPRINT, (64, 20), 1639), Ok(32));
        assert_eq!(fitting_rows(&FOOTPRINT, (64, 20), 1200), Ok(16));
        for (available, longest) in [(1199, 20), (500, 20), (0, 20), (1990, 100)] {
            let refused = fitting_rows(&FOOTPRINT, (64, longest), available);
            assert_eq!(refused, Err(TooLarge { needed: 1000 + 10 * longest as u64, available, longest }));
        }
    }

    #[test]
    fn a_refusal_has_the_numbers() {
        let refusal = TooLarge { needed: 3 << 30, available: 512 << 20, longest: 900 }.to_string();
        assert!(refusal.starts_with("training would take about 3072 MiB, and 512 MiB are free"), "{refusal}");
        assert!(refusal.contains("900 tokens"), "{refusal}");
    }
}
