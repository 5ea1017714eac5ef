//! The decoder: one file of maths for every family, with the cache outside.

use std::{collections::HashMap, ops::Range, sync::Arc};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    config::{DecoderConfig, Norm},
    frozen::Frozen,
    lora::{LayerLora, Lora, Pair, Projection},
    ops::{self, Activation, Angles, Input},
    packed::{self, AdapterPairs},
    rope::Rope,
};

/// Frozen weights of one layer; matrices are `[out, in]`.
pub(super) struct Layer {
    pub(super) projections: [Frozen; 7],
    pub(super) biases: [Option<Tensor>; 7],
    pub(super) norms: [Option<Tensor>; Norm::COUNT],
    /// Which of the decoder's frequencies turn its queries and keys.
    pub(super) rope: usize,
}

/// An adapter, and the rows of a pass that it is for.
pub struct Adapted<'a> {
    pub rows: Range<usize>,
    pub lora: &'a Lora,
}

impl Layer {
    /// The one place where an adapter meets the model: `y = x W^T + b + scale * (x A^T) B^T`.
    fn project<const N: usize>(
        &self,
        input: Input,
        projections: [Projection; N],
        adapters: &[(Range<usize>, &LayerLora)],
    ) -> Result<[Tensor; N]> {
        let together = packed_pairs(adapters, projections)
            .map(|pairs| ops::packed_linears(input, self.weights(projections), &pairs));
        let mut outputs = match together.transpose()?.flatten() {
            Some(outputs) => outputs,
            None => self.project_apart(&input.tensor()?, projections, adapters)?,
        };
        for (output, projection) in outputs.iter_mut().zip(projections) {
            if let Some(bias) = &self.biases[projection as usize] {
                *output = ops::add_bias(output, bias)?;
            }
        }
        Ok(outputs)
    }

    /// The projection of an attention's output, added to `onto`: at once where nothing comes in between.
    fn output(
        &self,
        attended: &Tensor,
        adapters: &[(Range<usize>, &LayerLora)],
        onto: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (input, projections) = (Input { x: attended, norm: None }, [Projection::OProj]);
        if let (Some(onto), None) = (onto, &self.biases[Projection::OProj as usize])
            && let Some(pairs) = packed_pairs(adapters, projections)
            && let Some(output) = ops::packed_linear_onto(input, self.weights(projections)[0], &pairs, onto)?
        {
            return Ok(output);
        }
        let [output] = self.project(input, projections, adapters)?;
        onto.map_or(Ok(output.clone()), |onto| ops::add(onto, &output))
    }

    /// `down(activation(gate(x)) * up(x))`, added to `onto`: at once where nothing else comes in between.
    fn mlp(
        &self,
        input: Input,
        activation: Activation,
        adapters: &[(Range<usize>, &LayerLora)],
        onto: Option<&Tensor>,
    ) -> Result<Tensor> {
        let projections = [Projection::GateProj, Projection::UpProj, Projection::DownProj];
        if projections.iter().all(|projection| self.biases[*projection as usize].is_none())
            && let Some(pairs) = packed_pairs(adapters, projections)
            && let Some(output) = ops::packed_mlp(input, self.weights(projections), activation, &pairs, onto)?
        {
            return Ok(output);
        }
        let [gate, up] = self.project(input, [Projection::GateProj, Projection::UpProj], adapters)?;
        let gated = ops::gated(&gate, &up, activation)?;
        let [down] = self.project(Input { x: &gated, norm: None }, [Projection::DownProj], adapters)?;
        onto.map_or(Ok(down.clone()), |onto| ops::add(onto, &down))
    }

    fn weights<const N: usize>(&self, projections: [Projection; N]) -> [&Frozen; N] {
        projections.map(|projection| &self.projections[projection as usize])
    }

    /// One projection after another, each operation with its gradient.
    fn project_apart<const N: usize>(
        &self,
        x: &Tensor,
        projections: [Projection; N],
        adapters: &[(Range<usize>, &LayerLora)],
    ) -> Result<[Tensor; N]> {
        let (mut outputs, count) = (Vec::with_capacity(N), x.dim(0)?);
        for projection in projections {
            let weight = &self.projections[projection as usize];
            // In training all rows have one adapter.
            if let [(rows, lora)] = adapters
                && *rows == (0..count)
                && let Some(Pair { a, b, scale }) = lora.pair(projection)?
            {
                outputs.push(ops::adapted_linear(x, weight, [a, b], *scale)?);
                continue;
            }
            let mut output = ops::frozen_linear(x, weight)?;
            for (rows, lora) in adapters {
                let Some(pair) = lora.pair(projection)? else { continue };
                let added = pair.apply(&x.narrow(0, rows.start, rows.len())?)?;
                output = (output + added.pad_with_zeros(0, rows.start, count - rows.end)?)?;
            }
            outputs.push(output);
        }
        outputs.try_into().map_err(|_| candle_core::Error::msg("one output for each projection"))
    }
}

/// Has dense matrices of one input follow each other in memory, so that one product can be made of all of them.
fn join(matrices: &mut [Frozen]) -> Result<()> {
    let dense = matrices.iter().map(|matrix| match matrix {
        Frozen::Dense(tensor) => Some(tensor),
        Frozen::Packed(_) => None,
    });
    let Some(dense) = dense.collect::<Option<Vec<_>>>() else { return Ok(()) };
    let joined = Tensor::cat(&dense, 0)?;
    let mut start = 0;
    for matrix in matrices {
        let outputs = matrix.dims()[0];
        *matrix = Frozen::Dense(joined.narrow(0, start, outputs)?);
        start += outputs;
    }
    Ok(())
}

/// The pairs of adapters as packed products take them; `None` where they are not packed, as in training.
fn packed_pairs<'a, const N: usize>(
    adapters: &[(Range<usize>, &'a LayerLora)],
    projections: [Projection; N],
) -> Option<Vec<AdapterPairs<'a, N>>> {
    let pairs = adapters.iter().map(|(rows, lora)| {
        let pairs = lora.packed()?;
        Some((rows.clone(), projections.map(|projection| pairs[projection as usize].as_ref())))
    });
    pairs.collect()
}

/// A decoder-only transformer with frozen weights.
///
/// It computes rows, whatever they belong to: each row is one token at one position, and what it attends to is decided
/// by the caller through [`Attend`]. Answering gives rows of many sequences over a cache, training gives the rows of
/// a tree; the arithmetic is the same.
pub struct Decoder {
    config: DecoderConfig,
    pub(super) embedding: Frozen,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Tensor,
    pub(super) head: Frozen,
    /// Of each distinct rope of the layers.
    pub(super) frequencies: Vec<Vec<f32>>,
    device: Device,
}

/// What the rows of a layer attend to.
pub trait Attend: Send {
    /// Takes the layer's rotated queries `[n, heads * head_dim]`, rotated keys and values `[n, kv_heads * head_dim]`,
    /// and returns the attention's output in the shape of the queries.
    fn attend(&mut self, layer: usize, attention: ops::Attention, qkv: [Tensor; 3]) -> Result<Tensor>;
}

impl Decoder {
    /// Takes the weights out of a checkpoint's tensors (Hugging Face names, `[out, in]`, half-split rope).
    ///
    /// # Errors
    /// If a tensor is missing.
    pub fn new(config: DecoderConfig, tensors: &mut HashMap<String, Frozen>, device: &Device) -> Result<Self> {
        let mut take = |name: String| match tensors.remove(&name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the checkpoint has no tensor {name}"),
        };
        let embedding = take("model.embed_tokens.weight".into())?;
        let mut ropes: Vec<&Rope> = Vec::new();
        let mut layers = Vec::with_capacity(config.layers.len());
        for (index, of_layer) in config.layers.iter().enumerate() {
            let mut part = |name: &str, kind: &str| take(format!("model.layers.{index}.{name}.{kind}"));
            let mut projections = Vec::with_capacity(7);
            for projection in Projection::ALL {
                projections.push(part(projection.path(), "weight")?);
            }
            let mut biases = [const { None }; 7];
            for &projection in &config.biases {
                biases[projection as usize] = Some(part(projection.path(), "bias")?.to_tensor()?);
            }
            let mut norms = [const { None }; Norm::COUNT];
            for (norm, name, _) in config.norms() {
                norms[norm as usize] = Some(part(name, "weight")?.to_tensor()?);
            }
            let rope = ropes.iter().position(|rope| **rope == of_layer.rope).unwrap_or_else(|| {
                ropes.push(&of_layer.rope);
                ropes.len() - 1
            });
            for together in [&Projection::ALL[..3], &Projection::ALL[4..6]] {
                join(&mut projections[together[0] as usize..=together[together.len() - 1] as usize])?;
            }
            layers.push(Layer {
                projections: projections.try_into().map_err(|_| candle_core::Error::msg("seven projections"))?,
                biases,
                norms,
                rope,
            });
        }
        let norm = take("model.norm.weight".into())?.to_tensor()?;
        let head = if config.tied_embeddings { embedding.clone() } else { take("lm_head.weight".into())? };
        let frequencies = ropes.iter().map(|rope| rope.frequencies(config.head_dim)).collect();
        Ok(Self { config, embedding, layers, norm, head, frequencies, device: device.clone() })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The numbers that matrices are computed with, and keys and values kept in.
    pub fn dtype(&self) -> DType {
        match &self.embedding {
            Frozen::Packed(_) => DType::F32,
            Frozen::Dense(embedding) => embedding.dtype(),
        }
    }

    /// How many weights there are, tied ones once.
    pub fn parameters(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let projections: usize = layer.projections.iter().map(Frozen::elem_count).sum();
            let vectors = layer.norms.iter().chain(&layer.biases).flatten();
            projections + vectors.map(Tensor::elem_count).sum::<usize>()
        });
        let head = if self.config.tied_embeddings { 0 } else { self.head.elem_count() };
        self.embedding.elem_count() + self.norm.elem_count() + head + layers.sum::<usize>()
    }

    /// Bytes of the matrices that every pass reads in full: those of the layers, and the head.
    pub fn bytes_per_pass(&self) -> usize {
        let projections = self.layers.iter().flat_map(|layer| &layer.projections);
        projections.chain([&self.head]).map(Frozen::bytes).sum()
    }

    /// `(out, in)` of a projection.
    pub fn projection_shape(&self, projection: Projection) -> (usize, usize) {
        self.config.projection_shape(projection)
    }

    /// Token embeddings `[n, hidden]`.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let embedded = self.embedding.rows(tokens, &self.device)?;
        match self.config.embedding_scale {
            Some(scale) => embedded * f64::from(scale),
            None => Ok(embedded),
        }
    }

    /// The rotation angles of rows at these positions, for each of the ropes that the layers have.
    pub fn angles(&self, positions: &[u32]) -> Result<Vec<Angles>> {
        self.frequencies.iter().map(|frequencies| self.angles_of(frequencies, positions)).collect()
    }

    fn angles_of(&self, frequencies: &[f32], positions: &[u32]) -> Result<Angles> {
        let angles: Vec<f32> =
            positions.iter().flat_map(|&position| frequencies.iter().map(move |f| position as f32 * f)).collect();
        let shape = (positions.len(), frequencies.len());
        let on_device = |values: Vec<f32>| Tensor::from_vec(values, shape, &self.device);
        Ok(Angles {
            cos: on_device(angles.iter().map(|a| a.cos()).collect())?,
            sin: on_device(angles.iter().map(|a| a.sin()).collect())?,
        })
    }

    /// One layer: `[n, hidden] -> [n, hidden]`. `angles` are what [`Self::angles`] gives.
    pub fn layer(
        &self,
        index: usize,
        x: &Tensor,
        angles: &[Angles],
        adapters: &[Adapted<'_>],
        attend: &mut dyn Attend,
    ) -> Result<Tensor> {
        let layer = &self.layers[index];
        let adapters: Vec<_> =
            adapters.iter().map(|adapted| (adapted.rows.clone(), adapted.lora.layer(index))).collect();
        let adapters = adapters.as_slice();
        let of_norm = |norm: Norm| layer.norms[norm as usize].as_ref().map(|weight| (weight, self.config.rms_norm_eps));
        let norm = |norm: Norm, x: &Tensor| Input { x, norm: of_norm(norm) }.tensor();
        // A residual connection: what a part of the layer makes is normalised, if the family does so, and added.
        let residual = |x: &Tensor, after: Norm, part: &dyn Fn(Option<&Tensor>) -> Result<Tensor>| match of_norm(after)
        {
            None => part(Some(x)),
            Some(_) => ops::add(x, &norm(after, &part(None)?)?),
        };

        let input = Input { x, norm: of_norm(Norm::BeforeAttention) };
        let [q, k, v] = layer.project(input, [Projection::QProj, Projection::KProj, Projection::VProj], adapters)?;
        let q = ops::rope(&norm(Norm::Queries, &q)?, &angles[layer.rope])?;
        let k = ops::rope(&norm(Norm::Keys, &k)?, &angles[layer.rope])?;
        let attended = attend.attend(index, self.config.attention(index), [q, k, v])?;
        let x = residual(x, Norm::AfterAttention, &|onto| layer.output(&attended, adapters, onto))?;
        let input = Input { x: &x, norm: of_norm(Norm::BeforeMlp) };
        residual(&x, Norm::AfterMlp, &|onto| layer.mlp(input, self.config.activation, adapters, onto))
    }

    /// The final norm and the output head: hidden states `[n, hidden]` to logits `[n, vocab]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = ops::frozen_linear(&ops::rms_norm(hidden, &self.norm, self.config.rms_norm_eps)?, &self.head)?;
        match self.config.logit_softcap {
            Some(cap) => ops::softcap(&logits, cap),
            None => Ok(logits),
        }
    }

    /// The same logits, a row each. They are megabytes: on a CPU they are not copied.
    pub fn logit_rows(&self, hidden: &Tensor) -> Result<Vec<Vec<f32>>> {
        match &self.head {
            Frozen::Packed(head) if self.config.logit_softcap.is_none() => {
                let input = Input { x: hidden, norm: Some((&self.norm, self.config.rms_norm_eps)) };
                input.on_rows(|x| packed::multiply_apart(&x, head))
            }
            _ => self.logits(hidden)?.to_vec2(),
        }
    }
}

/// Attention among the rows of one pass, without a cache: each row sees the rows of its path.
pub struct WithinPass {
    pub paths: Arc<ops::Paths>,
    /// The numbers that may be multiplied, as [`Decoder::dtype`] says.
    pub products: DType,
}

impl Attend for WithinPass {
    fn attend(&mut self, _layer: usize, attention: ops::Attention, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        ops::attention([&q, &k, &v], &self.paths, attention, self.products)
    }
}
