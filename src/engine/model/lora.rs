//! Low-rank adapters (LoRA, arXiv 2106.09685) on the seven projections of a layer.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use candle_core::{Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::packed::{Memory, PackedPair, PairShape, Words};
use crate::engine::handle::Version;

/// A linear map of a decoder layer that may carry an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Projection {
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The name that PEFT and the model's own files use: `q_proj`, ..., `down_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The module path inside a layer: `self_attn.q_proj`, ..., `mlp.down_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }
}

/// The projections that get an adapter: `all-linear`, or names with commas between them, `q_proj,v_proj`. One text, so
/// that a variable or a flag can give it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Targets(Vec<Projection>);

impl Targets {
    /// What PEFT calls all of them.
    const ALL: &str = "all-linear";

    pub fn all() -> Self {
        Self(Projection::ALL.to_vec())
    }

    /// Sorted, without repeats, at least one.
    pub fn projections(&self) -> &[Projection] {
        &self.0
    }
}

impl TryFrom<String> for Targets {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        if text.trim() == Self::ALL {
            return Ok(Self::all());
        }
        let mut targets = Vec::new();
        for name in text.split(',').map(str::trim) {
            let found = Projection::ALL.into_iter().find(|projection| projection.name() == name);
            targets.push(found.ok_or_else(|| {
                let known = Projection::ALL.map(Projection::name).join(", ");
                format!("{name:?} is no projection: write `{}`, or some of {known}", Self::ALL)
            })?);
        }
        targets.sort_unstable();
        targets.dedup();
        Ok(Self(targets))
    }
}

impl From<Targets> for String {
    fn from(targets: Targets) -> Self {
        if targets == Targets::all() {
            return Targets::ALL.into();
        }
        targets.0.into_iter().map(Projection::name).collect::<Vec<_>>().join(",")
    }
}

/// How an adapter is applied: `y += (alpha / r) * B A x` on each target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    pub alpha: f64,
    /// Sorted, without repeats.
    pub targets: Vec<Projection>,
}

impl LoraConfig {
    /// What `B A x` is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.r as f64
    }
}

/// An adapter as data: what a PEFT folder holds.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// SHA-256 over configuration and weights, see `adapters::format`.
    pub version: Version,
    pub config: LoraConfig,
    /// f32 tensors on the CPU by PEFT name:
    /// `base_model.model.model.layers.{i}.{path}.lora_A.weight` of shape `[r, in]`, and `lora_B` of `[out, r]`.
    pub tensors: BTreeMap<String, Tensor>,
}

/// The PEFT name of a tensor; `half` is `A` or `B`.
pub fn peft_name(layer: usize, projection: Projection, half: char) -> String {
    format!("base_model.model.model.layers.{layer}.{}.lora_{half}.weight", projection.path())
}

/// The two halves of one adapted projection.
#[derive(Clone, Debug)]
pub struct Pair {
    /// `[r, in]`.
    pub a: Tensor,
    /// `[out, r]`.
    pub b: Tensor,
    pub scale: f64,
}

impl Pair {
    /// What the adapter adds to the projection's output: `scale * (x A^T) B^T`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.a.t()?)?.matmul(&self.b.t()?)? * self.scale
    }

    fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self { a: self.a.detach().to_device(device)?, b: self.b.detach().to_device(device)?, scale: self.scale })
    }

    fn shape(&self) -> Result<PairShape> {
        let ((rank, inputs), outputs) = (self.a.dims2()?, self.b.dim(0)?);
        Ok(PairShape { rank, inputs, outputs })
    }

    /// `A`, and `B` with the scale in it, as numbers.
    fn numbers(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((self.a.flatten_all()?.to_vec1()?, (&self.b * self.scale)?.flatten_all()?.to_vec1()?))
    }
}

/// The adapted projections of one layer.
#[derive(Clone, Debug)]
pub enum LayerLora {
    /// By projection, for any device and with gradients.
    Pairs([Option<Pair>; 7]),
    /// By projection, for the CPU's kernels.
    Packed([Option<PackedPair>; 7]),
}

impl LayerLora {
    /// The halves of an adapted projection.
    ///
    /// # Errors
    /// If they were packed, which are for answering on a CPU only.
    pub fn pair(&self, projection: Projection) -> Result<Option<&Pair>> {
        match self {
            Self::Pairs(pairs) => Ok(pairs[projection as usize].as_ref()),
            Self::Packed(_) => bail!("this adapter was packed for answering on a CPU"),
        }
    }

    /// The pairs as the CPU's kernels read them, if they were packed.
    pub fn packed(&self) -> Option<&[Option<PackedPair>; 7]> {
        match self {
            Self::Pairs(_) => None,
            Self::Packed(packed) => Some(packed),
        }
    }
}

/// An adapter on the engine's device, layer by layer.
#[derive(Clone, Debug)]
pub struct Lora {
    /// No two that were laid out have the same.
    number: u64,
    layers: Vec<LayerLora>,
}

/// A number that was not given before.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Lora {
    /// Lays out tensors by their PEFT names. The tensors are used as they are: if they are variables, gradients
    /// reach them.
    ///
    /// # Errors
    /// In words, if a tensor is missing, superfluous or of another shape than the model's projections ask for;
    /// `shape` gives `(out, in)` of a projection.
    pub fn new(
        config: &LoraConfig,
        tensors: &BTreeMap<String, Tensor>,
        layers: usize,
        shape: impl Fn(Projection) -> (usize, usize),
    ) -> std::result::Result<Self, String> {
        let take = |name: &str, expected: (usize, usize)| {
            let tensor = tensors.get(name).ok_or(format!("it has no tensor {name}"))?;
            match tensor.dims() {
                [rows, columns] if (*rows, *columns) == expected => Ok(tensor.clone()),
                found => Err(format!("{name} has shape {found:?}, the model needs {expected:?}")),
            }
        };
        let mut laid_out = Vec::with_capacity(layers);
        for index in 0..layers {
            let mut pairs = Projection::ALL.map(|_| None);
            for &projection in &config.targets {
                let (out, input) = shape(projection);
                pairs[projection as usize] = Some(Pair {
                    a: take(&peft_name(index, projection, 'A'), (config.r, input))?,
                    b: take(&peft_name(index, projection, 'B'), (out, config.r))?,
                    scale: config.scale(),
                });
            }
            laid_out.push(LayerLora::Pairs(pairs));
        }
        let expected = layers * config.targets.len() * 2;
        if tensors.len() != expected {
            return Err(format!("it has {} tensors, the model with these targets needs {expected}", tensors.len()));
        }
        Ok(Self { number: next_number(), layers: laid_out })
    }

    /// What tells it from every other that was laid out in this process, those of the same version included.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The largest rank of its pairs; 0 if there are none, or they are packed.
    pub fn rank(&self) -> usize {
        let of_pair = |pair: &Option<Pair>| pair.as_ref().map_or(0, |pair| pair.b.dims()[1]);
        let of_layer = |layer: &LayerLora| match layer {
            LayerLora::Pairs(pairs) => pairs.iter().map(of_pair).max().unwrap_or(0),
            LayerLora::Packed(_) => 0,
        };
        self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    /// The adapted projections of a layer.
    pub fn layer(&self, index: usize) -> &LayerLora {
        &self.layers[index]
    }

    /// The same adapter on a device, for answering only: no gradient reaches it, and nothing is held twice.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if device.is_cpu() {
            return self.pack();
        }
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let mut pairs = Projection::ALL.map(|_| None);
            for projection in Projection::ALL {
                pairs[projection as usize] = layer.pair(projection)?.map(|pair| pair.to_device(device)).transpose()?;
            }
            layers.push(LayerLora::Pairs(pairs));
        }
        Ok(Self { number: next_number(), layers })
    }

    /// The same adapter as the CPU's kernels read it, all of it in one piece of memory.
    fn pack(&self) -> Result<Self> {
        let mut end = 0;
        let mut places = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let mut of_layer = Projection::ALL.map(|_| None);
            for projection in Projection::ALL {
                let Some(pair) = layer.pair(projection)? else { continue };
                let shape = pair.shape()?;
                of_layer[projection as usize] = Some((pair, shape, end..end + shape.words()));
                end += shape.words();
            }
            places.push(of_layer);
        }
        let mut memory = Memory::zeros(end);
        for (pair, shape, place) in places.iter().flatten().flatten() {
            let (a, b) = pair.numbers()?;
            shape.lay_out(&a, &b, &mut memory.floats_mut()[place.clone()]);
        }
        let memory = Arc::new(memory);
        let packed = |place: Option<(&Pair, PairShape, Range<usize>)>| {
            place.map(|(_, shape, place)| PackedPair::new(shape, Words::new(&memory, place)))
        };
        let layers = places.into_iter().map(|places| LayerLora::Packed(places.map(packed))).collect();
        Ok(Self { number: next_number(), layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_they_were_written_and_unknown_ones_are_named() {
        let read = |text: &str| Targets::try_from(text.to_owned());
        for text in ["all-linear", "q_proj,v_proj", "down_proj"] {
            assert_eq!(String::from(read(text).unwrap()), text);
        }
        let targets = read("v_proj, q_proj,v_proj").unwrap();
        assert_eq!(targets.projections(), [Projection::QProj, Projection::VProj]);
        for text in ["", "q_proj,,v_proj", "all", "lm_head"] {
            assert!(read(text).unwrap_err().contains("`all-linear`"), "{text}");
        }
    }
}
