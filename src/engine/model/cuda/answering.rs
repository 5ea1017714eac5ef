//! The decoder's pass for answering, written out launch by launch.
//!
//! It computes what `Decoder::layer` and `Decoder::logits` do, without gradients. A step of a few dozen rows reads every weight
//! once and is over in a millisecond or two, so what is fast here is what keeps launches and passes over memory few: queries,
//! keys and values are one product, and so are gate and up; a bias, the norm of a head, the rotation and the way into the cache
//! are one kernel; what a part of a layer makes is added to the residual by the product itself; tokens are drawn where the
//! logits are. Rows are f32 between the products; what goes into a product, and the cache, is of the type of the matrices.

use std::{ops::Range, sync::Arc};

use candle_core::{
    CudaDevice, DType, Result, Tensor, bail,
    cuda_backend::{
        WrapErr,
        cudarc::{cublas::CudaBlas, driver::CudaSlice},
    },
};

use super::{
    launch::{Arg, Grid, Kernel, Operand, Product, launch, pointer, product},
    ptx,
};
use crate::engine::model::{
    config::Norm,
    decoder::{Adapted, Decoder, Layer},
    frozen::Frozen,
    lora::{LayerLora, Lora, Projection},
    ops::{Activation, Paths},
    outputs::{Draws, Output, Wanted},
};

/// What the logits of the rows that are computed at a time may take.
const LOGIT_BYTES: usize = 512 << 20;

/// Threads of a block that goes over a row.
const ROW_THREADS: u32 = 256;
const ATTEND_THREADS: u32 = 128;
const TILE_THREADS: u32 = 128;
const DRAW_THREADS: u32 = 1024;

/// Blocks of attention that keep the multiprocessors of a large card busy, four on each.
const ATTEND_BLOCKS: usize = 528;
/// Keys that are worth a block of their own, and how many blocks a path is divided between at most.
const SPLIT_KEYS: usize = 128;
const MAX_SPLITS: usize = 32;
/// Neighbours in a chain that a block computes together, and how many are worth it.
const TILE: usize = 64;
const MIN_TILE: usize = 8;

/// Rows to be computed, each one token at one position.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub tokens: &'a [u32],
    pub positions: &'a [u32],
    /// The cache row of each key and value.
    pub nodes: &'a [u32],
    /// The cache rows that each attends to, its own included.
    pub paths: &'a Paths,
    pub adapters: &'a [Adapted<'a>],
}

/// The type of matrices, of what goes into a product, and of the cache.
#[derive(Clone, Copy, PartialEq)]
enum Number {
    F32,
    Bf16,
}

impl Number {
    fn of(dtype: DType) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::F32),
            DType::BF16 => Ok(Self::Bf16),
            other => bail!("matrices of {other:?} cannot be computed with"),
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    fn bytes(self) -> usize {
        self.dtype().size_in_bytes()
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// How threads are put to the heads of an attention.
struct HeadShape {
    /// Of queries that are neighbours in a chain, where there is one for heads of this size.
    tile_kernel: Option<String>,
    /// Blocks for each key head: what shares it is computed together, up to eight heads.
    chunks: usize,
    kernel: String,
}

impl HeadShape {
    fn of(heads: usize, kv_heads: usize, head_dim: usize, number: Number) -> Result<Self> {
        let shared_by = heads / kv_heads;
        let together = shared_by.next_power_of_two().min(8);
        let (lanes, numbers) = match head_dim {
            0..=16 if head_dim.is_multiple_of(4) => (4, 4),
            17..=256 if head_dim.is_multiple_of(8) => (head_dim.div_ceil(8).next_power_of_two(), 8),
            _ => bail!("heads of {head_dim} numbers are not computed on CUDA devices: use `device = \"cpu\"`"),
        };
        let kernel = format!("attend_{lanes}x{numbers}_{together}_{}", number.suffix());
        let tiled = number == Number::Bf16 && matches!(head_dim, 64 | 128);
        let tile_kernel = tiled.then(|| format!("attend_tile_{head_dim}"));
        Ok(Self { tile_kernel, chunks: shared_by.div_ceil(together), kernel })
    }
}

struct Kernels {
    embed: Kernel,
    rms_norm: Kernel,
    place_qkv: Kernel,
    attend: Kernel,
    attend_tile: Option<Kernel>,
    combine: Kernel,
    gate: Kernel,
    add_to_residual: Kernel,
    softcap: Kernel,
    draw: Kernel,
}

/// Where the weights of a layer are.
struct LayerWeights {
    /// Queries, keys and values one after another, and gate and up.
    qkv: Operand,
    o: Operand,
    gate_up: Operand,
    down: Operand,
    qkv_bias: Option<Tensor>,
    gate_up_bias: Option<Tensor>,
}

/// The answering pass over a decoder, and the cache of its keys and values.
pub struct Answering {
    decoder: Arc<Decoder>,
    device: CudaDevice,
    blas: Arc<CudaBlas>,
    number: Number,
    heads: HeadShape,
    kernels: Kernels,
    layers: Vec<LayerWeights>,
    /// Of each of the decoder's ropes.
    frequencies: Vec<CudaSlice<f32>>,
    /// Of each layer, rows of a key and then a value.
    cache: Vec<CudaSlice<u8>>,
}

/// Rows on the device, as they go through the layers.
struct Step<'a> {
    count: usize,
    /// `[count, hidden]`, f32.
    x: CudaSlice<f32>,
    /// All that is uploaded; the rest says where in it is what.
    _words: CudaSlice<u32>,
    spans: u64,
    positions: u64,
    nodes: u64,
    outputs: u64,
    path: u64,
    /// The queries that attend in tiles, each tile's first and how many it has.
    tiles: (u64, usize),
    /// The others, and the parts that each of their paths is divided into.
    singles: (u64, usize),
    splits: usize,
    adapters: &'a [Adapted<'a>],
}

/// Rows that go into a product.
struct Input {
    /// In the type of the matrices.
    rows: CudaSlice<u8>,
    /// The same in f32, where an adapter reads them.
    exact: Option<CudaSlice<f32>>,
}

impl Answering {
    /// Prepares the pass, with a cache of `rows` token positions.
    ///
    /// # Errors
    /// If the cache cannot be allocated, or the model has heads of an odd size.
    pub fn new(decoder: Arc<Decoder>, rows: usize) -> Result<Self> {
        let device = decoder.device().as_cuda_device()?.clone();
        let config = decoder.config();
        let number = Number::of(decoder.dtype())?;
        let heads = HeadShape::of(config.heads, config.kv_heads, config.head_dim, number)?;
        let load = |name: &str| Kernel::load(&device, name, "answering", ptx::ANSWERING);
        let typed = |name: &str| load(&format!("{name}_{}", number.suffix()));
        let kernels = Kernels {
            embed: typed("embed")?,
            rms_norm: typed("rms_norm")?,
            place_qkv: typed("place_qkv")?,
            attend: load(&heads.kernel)?,
            attend_tile: heads.tile_kernel.as_deref().map(load).transpose()?,
            combine: typed("combine")?,
            gate: typed("gate")?,
            add_to_residual: load("add_to_residual")?,
            softcap: load("softcap")?,
            draw: load("draw")?,
        };
        let layers = decoder.layers.iter().map(LayerWeights::of).collect::<Result<_>>()?;
        let frequencies = decoder.frequencies.iter().map(|frequencies| device.clone_htod(frequencies));
        let frequencies = frequencies.collect::<Result<_>>()?;
        let bytes = rows * 2 * config.kv_width() * number.bytes();
        let cache = config.layers.iter().map(|_| device.alloc_zeros::<u8>(bytes)).collect::<Result<_>>()?;
        let blas = device.cublas_handle();
        Ok(Self { device, blas, number, heads, kernels, layers, frequencies, cache, decoder })
    }

    /// Computes rows and returns what is wanted of some of them, whose indices are `outputs`.
    ///
    /// # Errors
    /// If the device fails or its memory is full; the cache rows of these nodes are then undefined, all others as before.
    pub fn step(&mut self, rows: Rows, outputs: &[u32], wanted: &[Wanted]) -> Result<Vec<Output>> {
        let step = self.upload(rows, outputs)?;
        for layer in 0..self.layers.len() {
            self.attention(layer, &step)?;
            self.mlp(layer, &step)?;
        }
        let at_a_time = (LOGIT_BYTES / (4 * self.decoder.config().vocab_size)).max(1);
        let mut made = Vec::with_capacity(wanted.len());
        for (chunk, wanted) in wanted.chunks(at_a_time).enumerate() {
            made.extend(self.outputs(&step, chunk * at_a_time, wanted)?);
        }
        Ok(made)
    }

    fn upload<'a>(&self, rows: Rows<'a>, outputs: &[u32]) -> Result<Step<'a>> {
        let Rows { tokens, positions, nodes, paths, adapters } = rows;
        let (count, config) = (tokens.len(), self.decoder.config());
        if positions.len() != count || nodes.len() != count || paths.len() != count {
            bail!("{count} tokens, {} positions, {} nodes, {} paths", positions.len(), nodes.len(), paths.len());
        }
        let (tiles, singles) = match self.kernels.attend_tile {
            Some(_) => tiles(paths.spans()),
            None => (vec![], (0..count as u32).collect()),
        };
        // What is read in pairs comes first.
        let mut words: Vec<u32> = Vec::with_capacity(7 * count + outputs.len() + paths.rows().len());
        let mut add = |more: &mut dyn Iterator<Item = u32>| {
            let start = words.len();
            words.extend(more);
            start
        };
        add(&mut paths.spans().iter().flat_map(|span| [span.start as u32, span.len() as u32]));
        let places = [
            add(&mut tiles.iter().flat_map(|tile| [tile.start as u32, tile.len() as u32])),
            add(&mut tokens.iter().copied()),
            add(&mut positions.iter().copied()),
            add(&mut nodes.iter().copied()),
            add(&mut outputs.iter().copied()),
            add(&mut singles.iter().copied()),
            add(&mut paths.rows().iter().copied()),
        ];
        let words = self.device.clone_htod(&words)?;
        let base = pointer::of_slice(&words, &self.device);
        let [tiles_at, tokens_at, positions, nodes, outputs, singles_at, path] =
            places.map(|word| base + 4 * word as u64);

        let longest = singles.iter().map(|&query| paths.spans()[query as usize].len()).max().unwrap_or(0);
        let blocks = singles.len() * config.kv_heads * self.heads.chunks;
        let splits = ATTEND_BLOCKS.div_ceil(blocks.max(1)).min(longest.div_ceil(SPLIT_KEYS)).clamp(1, MAX_SPLITS);
        let x = self.floats(count * config.hidden_size)?;
        let embedding = operand(&self.decoder.embedding)?;
        let scale = config.embedding_scale.unwrap_or(1.0);
        let x_at = pointer::of_slice(&x, &self.device);
        launch(
            &self.kernels.embed,
            Grid::rows(count, ROW_THREADS),
            &[embedding.arg(), tokens_at.into(), Arg::Float(scale), int(config.hidden_size), x_at.into()],
        )?;
        Ok(Step {
            count,
            x,
            _words: words,
            spans: base,
            positions,
            nodes,
            outputs,
            path,
            tiles: (tiles_at, tiles.len()),
            singles: (singles_at, singles.len()),
            splits,
            adapters,
        })
    }

    /// Queries, keys and values, attention, and its output added to the residual.
    fn attention(&self, index: usize, step: &Step) -> Result<()> {
        let (config, weights, layer) = (self.decoder.config(), &self.layers[index], &self.decoder.layers[index]);
        let (query, kv) = (config.query_width(), config.kv_width());
        let adapted = step.adapted(index, &Projection::ALL[..3]);
        let input = self.norm(step, layer, Norm::BeforeAttention, adapted)?;
        let width = query + 2 * kv;
        let qkv = self.floats(step.count * width)?;
        let qkv_at = pointer::of_slice(&qkv, &self.device);
        self.multiply(&input, step.count, &weights.qkv, (qkv_at, width), 0.0)?;
        for (projection, column) in
            [(Projection::QProj, 0), (Projection::KProj, query), (Projection::VProj, query + kv)]
        {
            self.add_adapters(step, index, projection, &input, (qkv_at + 4 * column as u64, width))?;
        }
        let norm_of = |norm: Norm| optional(layer.norms[norm as usize].as_ref());
        let heads = config.heads + 2 * config.kv_heads;
        const HEADS_OF_BLOCK: usize = 4;
        launch(
            &self.kernels.place_qkv,
            Grid { x: step.count, y: heads.div_ceil(HEADS_OF_BLOCK), z: 1, threads: 32 * HEADS_OF_BLOCK as u32 },
            &[
                qkv_at.into(),
                optional(weights.qkv_bias.as_ref())?,
                norm_of(Norm::Queries)?,
                norm_of(Norm::Keys)?,
                Arg::Float(config.rms_norm_eps as f32),
                pointer::of_slice(&self.frequencies[layer.rope], &self.device).into(),
                step.positions.into(),
                step.nodes.into(),
                int(config.heads),
                int(config.kv_heads),
                int(config.head_dim),
                self.cache_of(index).into(),
            ],
        )?;
        let adapted = step.adapted(index, &[Projection::OProj]);
        let attended = self.attend(index, step, (qkv_at, width), adapted)?;
        self.add_part(step, layer, (&attended, Projection::OProj, &weights.o), index, Norm::AfterAttention)
    }

    /// What the queries make of the values.
    fn attend(&self, index: usize, step: &Step, (qkv, stride): (u64, usize), adapted: bool) -> Result<Input> {
        let config = self.decoder.config();
        let attention = config.attention(index);
        let output = self.input(step.count, config.query_width(), adapted)?;
        let partial = match step.splits {
            1 => None,
            splits => Some(self.floats(step.singles.1 * config.heads * splits * (config.head_dim + 2))?),
        };
        let partial_at = partial.as_ref().map_or(0, |partial| pointer::of_slice(partial, &self.device));
        let (rows, exact) = self.places(&output);
        let (window, softcap) = (int(attention.window.unwrap_or(0)), Arg::Float(attention.softcap.unwrap_or(0.0)));
        if let Some(kernel) = &self.kernels.attend_tile {
            launch(
                kernel,
                Grid { x: step.tiles.1, y: config.heads, z: 1, threads: TILE_THREADS },
                &[
                    qkv.into(),
                    int(stride),
                    self.cache_of(index).into(),
                    step.tiles.0.into(),
                    step.path.into(),
                    step.spans.into(),
                    int(config.heads),
                    int(config.kv_heads),
                    Arg::Float(attention.scale),
                    window,
                    softcap,
                    rows.into(),
                    exact.into(),
                ],
            )?;
        }
        launch(
            &self.kernels.attend,
            Grid { x: step.singles.1, y: config.kv_heads * self.heads.chunks, z: step.splits, threads: ATTEND_THREADS },
            &[
                qkv.into(),
                int(stride),
                self.cache_of(index).into(),
                step.singles.0.into(),
                step.path.into(),
                step.spans.into(),
                int(config.heads),
                int(config.kv_heads),
                int(config.head_dim),
                Arg::Float(attention.scale),
                window,
                softcap,
                int(step.splits),
                partial_at.into(),
                rows.into(),
                exact.into(),
            ],
        )?;
        if partial.is_some() {
            launch(
                &self.kernels.combine,
                Grid { x: step.singles.1, y: config.heads, z: 1, threads: 64 },
                &[
                    partial_at.into(),
                    step.singles.0.into(),
                    int(config.heads),
                    int(config.head_dim),
                    int(step.splits),
                    rows.into(),
                    exact.into(),
                ],
            )?;
        }
        Ok(output)
    }

    fn mlp(&self, index: usize, step: &Step) -> Result<()> {
        let (config, weights, layer) = (self.decoder.config(), &self.layers[index], &self.decoder.layers[index]);
        let inner = config.intermediate_size;
        let adapted = step.adapted(index, &[Projection::GateProj, Projection::UpProj]);
        let input = self.norm(step, layer, Norm::BeforeMlp, adapted)?;
        let gate_up = self.floats(step.count * 2 * inner)?;
        let gate_up_at = pointer::of_slice(&gate_up, &self.device);
        self.multiply(&input, step.count, &weights.gate_up, (gate_up_at, 2 * inner), 0.0)?;
        for (projection, column) in [(Projection::GateProj, 0), (Projection::UpProj, inner)] {
            self.add_adapters(step, index, projection, &input, (gate_up_at + 4 * column as u64, 2 * inner))?;
        }
        let gated = self.input(step.count, inner, step.adapted(index, &[Projection::DownProj]))?;
        let (rows, exact) = self.places(&gated);
        launch(
            &self.kernels.gate,
            Grid { x: step.count, y: inner.div_ceil(8 * ROW_THREADS as usize), z: 1, threads: ROW_THREADS },
            &[
                gate_up_at.into(),
                optional(weights.gate_up_bias.as_ref())?,
                int(inner),
                int(usize::from(config.activation == Activation::GeluTanh)),
                rows.into(),
                exact.into(),
            ],
        )?;
        self.add_part(step, layer, (&gated, Projection::DownProj, &weights.down), index, Norm::AfterMlp)
    }

    /// Adds what the last projection of a part of a layer makes to the residual: at once where nothing comes in between.
    fn add_part(
        &self,
        step: &Step,
        layer: &Layer,
        (input, projection, weight): (&Input, Projection, &Operand),
        index: usize,
        after: Norm,
    ) -> Result<()> {
        let hidden = self.decoder.config().hidden_size;
        let x = pointer::of_slice(&step.x, &self.device);
        let bias = layer.biases[projection as usize].as_ref();
        let norm = layer.norms[after as usize].as_ref();
        if bias.is_none() && norm.is_none() {
            self.multiply(input, step.count, weight, (x, hidden), 1.0)?;
            return self.add_adapters(step, index, projection, input, (x, hidden));
        }
        let made = self.floats(step.count * hidden)?;
        let made_at = pointer::of_slice(&made, &self.device);
        self.multiply(input, step.count, weight, (made_at, hidden), 0.0)?;
        self.add_adapters(step, index, projection, input, (made_at, hidden))?;
        launch(
            &self.kernels.add_to_residual,
            Grid::rows(step.count, ROW_THREADS),
            &[
                x.into(),
                made_at.into(),
                optional(bias)?,
                optional(norm)?,
                Arg::Float(self.decoder.config().rms_norm_eps as f32),
                int(hidden),
            ],
        )
    }

    /// The residual, normalised, as a part of a layer takes it.
    fn norm(&self, step: &Step, layer: &Layer, norm: Norm, exact: bool) -> Result<Input> {
        let Some(weight) = &layer.norms[norm as usize] else { bail!("a layer has no {norm:?}") };
        self.normalised(step, (0, step.count), weight, exact)
    }

    /// Rows of the residual, normalised: `count` of those that the list at `rows` names, or all.
    fn normalised(&self, step: &Step, (rows, count): (u64, usize), weight: &Tensor, exact: bool) -> Result<Input> {
        let config = self.decoder.config();
        let input = self.input(count, config.hidden_size, exact)?;
        let (to, to_exact) = self.places(&input);
        launch(
            &self.kernels.rms_norm,
            Grid::rows(count, ROW_THREADS),
            &[
                pointer::of_slice(&step.x, &self.device).into(),
                rows.into(),
                pointer::of_tensor(weight)?.into(),
                Arg::Float(config.rms_norm_eps as f32),
                int(config.hidden_size),
                to.into(),
                to_exact.into(),
            ],
        )?;
        Ok(input)
    }

    /// What is wanted of some rows, of which the first is number `first` of those that anything is wanted of.
    fn outputs(&self, step: &Step, first: usize, wanted: &[Wanted]) -> Result<Vec<Output>> {
        let (config, count) = (self.decoder.config(), wanted.len());
        let rows = step.outputs + 4 * first as u64;
        let input = self.normalised(step, (rows, count), &self.decoder.norm, false)?;
        let logits = self.floats(count * config.vocab_size)?;
        let logits_at = pointer::of_slice(&logits, &self.device);
        let head = operand(&self.decoder.head)?;
        self.multiply(&input, count, &head, (logits_at, config.vocab_size), 0.0)?;
        if let Some(cap) = config.logit_softcap {
            let elements = count * config.vocab_size;
            launch(
                &self.kernels.softcap,
                Grid::rows(elements.div_ceil(4 * ROW_THREADS as usize).min(65_535), ROW_THREADS),
                &[logits_at.into(), Arg::Float(cap), Arg::Long(elements as i64)],
            )?;
        }
        let mut drawn = self.draw(logits_at, wanted)?.into_iter();
        let outputs = wanted.iter().enumerate().map(|(row, wanted)| match wanted {
            Wanted::Logits => {
                let row = logits.slice(row * config.vocab_size..(row + 1) * config.vocab_size);
                Ok(Output::Logits(self.device.clone_dtoh(&row)?))
            }
            Wanted::Draws(draws) => Ok(Output::Drawn(drawn.by_ref().take(draws.uniforms.len()).collect())),
        });
        outputs.collect()
    }

    /// All draws that are wanted of rows of logits, one after another.
    fn draw(&self, logits: u64, wanted: &[Wanted]) -> Result<Vec<(u32, f32)>> {
        let none = Draws { temperature: 0.0, uniforms: vec![] };
        let of_row = |wanted: &Wanted| match wanted {
            Wanted::Logits => none.clone(),
            Wanted::Draws(draws) => draws.clone(),
        };
        let draws: Vec<Draws> = wanted.iter().map(of_row).collect();
        let uniforms: Vec<f64> = draws.iter().flat_map(|draws| draws.uniforms.iter().copied()).collect();
        if uniforms.is_empty() {
            return Ok(vec![]);
        }
        let temperatures: Vec<f32> = draws.iter().map(|draws| draws.temperature).collect();
        let ends = draws.iter().scan(0, |end, draws| {
            *end += draws.uniforms.len() as u32;
            Some(*end)
        });
        let ends: Vec<u32> = ends.collect();
        let count = uniforms.len();
        let (uniforms, temperatures) = (self.device.clone_htod(&uniforms)?, self.device.clone_htod(&temperatures)?);
        let ends = self.device.clone_htod(&ends)?;
        // Tokens, then the bits of their log-probabilities: one copy brings both.
        let words = self.uninitialised::<u32>(2 * count)?;
        let words_at = pointer::of_slice(&words, &self.device);
        launch(
            &self.kernels.draw,
            Grid::rows(wanted.len(), DRAW_THREADS),
            &[
                logits.into(),
                int(self.decoder.config().vocab_size),
                pointer::of_slice(&temperatures, &self.device).into(),
                pointer::of_slice(&uniforms, &self.device).into(),
                pointer::of_slice(&ends, &self.device).into(),
                words_at.into(),
                (words_at + 4 * count as u64).into(),
            ],
        )?;
        let words = self.device.clone_dtoh(&words)?;
        let (tokens, log_probs) = words.split_at(count);
        Ok(tokens.iter().zip(log_probs).map(|(&token, &bits)| (token, f32::from_bits(bits))).collect())
    }

    /// `y = x w^T + beta y`, of rows `[count, inputs]`; `y` is f32 and has rows of a stride.
    fn multiply(&self, x: &Input, count: usize, w: &Operand, y: (u64, usize), beta: f32) -> Result<()> {
        let x = Operand { at: pointer::of_slice(&x.rows, &self.device), dtype: self.number.dtype(), ..*w };
        product(&self.blas, Product { x, w: *w, rows: count, y, alpha: 1.0, beta })
    }

    /// `y += scale * (x a^T) b^T` for the rows of each adapter that has this projection, in f32.
    fn add_adapters(
        &self,
        step: &Step,
        index: usize,
        projection: Projection,
        input: &Input,
        (y, stride): (u64, usize),
    ) -> Result<()> {
        for Adapted { rows, lora } in step.adapters {
            let Some(pair) = lora.layer(index).pair(projection)? else { continue };
            let Some(exact) = &input.exact else { bail!("the rows of an adapter are not there in f32") };
            let ((rank, inputs), outputs) = (pair.a.dims2()?, pair.b.dim(0)?);
            let matrix = |tensor: &Tensor, outputs, inputs| -> Result<Operand> {
                Ok(Operand { at: pointer::of_tensor(tensor)?, dtype: DType::F32, outputs, inputs })
            };
            let (a, b) = (matrix(&pair.a, rank, inputs)?, matrix(&pair.b, outputs, rank)?);
            let low = self.floats(rows.len() * rank)?;
            let low_at = pointer::of_slice(&low, &self.device);
            let x_at = pointer::of_slice(exact, &self.device) + (4 * rows.start * inputs) as u64;
            let count = rows.len();
            let x = Operand { at: x_at, ..a };
            product(&self.blas, Product { x, w: a, rows: count, y: (low_at, rank), alpha: 1.0, beta: 0.0 })?;
            let x = Operand { at: low_at, ..b };
            let y = (y + (4 * rows.start * stride) as u64, stride);
            product(&self.blas, Product { x, w: b, rows: count, y, alpha: pair.scale as f32, beta: 1.0 })?;
        }
        Ok(())
    }

    fn cache_of(&self, layer: usize) -> u64 {
        pointer::of_slice(&self.cache[layer], &self.device)
    }

    /// Room for rows on their way into a product.
    fn input(&self, rows: usize, width: usize, exact: bool) -> Result<Input> {
        let exact = exact.then(|| self.floats(rows * width)).transpose()?;
        Ok(Input { rows: self.uninitialised(rows * width * self.number.bytes())?, exact })
    }

    fn places(&self, input: &Input) -> (u64, u64) {
        let exact = input.exact.as_ref().map_or(0, |exact| pointer::of_slice(exact, &self.device));
        (pointer::of_slice(&input.rows, &self.device), exact)
    }

    fn floats(&self, count: usize) -> Result<CudaSlice<f32>> {
        self.uninitialised(count)
    }

    #[expect(unsafe_code, reason = "what is allocated here is written as a whole before it is read")]
    fn uninitialised<T: candle_core::cuda_backend::cudarc::driver::DeviceRepr>(
        &self,
        count: usize,
    ) -> Result<CudaSlice<T>> {
        // SAFETY: every buffer is the whole result of the product or kernel that follows its allocation.
        unsafe { self.device.cuda_stream().alloc(count) }.w()
    }
}

impl Step<'_> {
    /// Whether an adapter of this step has one of these projections.
    fn adapted(&self, layer: usize, projections: &[Projection]) -> bool {
        let has = |lora: &LayerLora, projection| lora.pair(projection).is_ok_and(|pair| pair.is_some());
        let of = |lora: &Lora| projections.iter().any(|&projection| has(lora.layer(layer), projection));
        self.adapters.iter().any(|adapted| of(adapted.lora))
    }
}

impl LayerWeights {
    fn of(layer: &Layer) -> Result<Self> {
        // `Decoder::new` has those that follow each other joined.
        let joined = |projections: &[Projection]| -> Result<Operand> {
            let parts = projections.iter().map(|&projection| operand(&layer.projections[projection as usize]));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let outputs = parts.iter().map(|part| part.outputs).sum();
            for (part, next) in parts.iter().zip(&parts[1..]) {
                if part.end() != next.at || part.inputs != next.inputs {
                    bail!("{projections:?} do not follow each other in memory");
                }
            }
            Ok(Operand { outputs, ..parts[0] })
        };
        let biases = |projections: &[Projection]| {
            if projections.iter().all(|&projection| layer.biases[projection as usize].is_none()) {
                return Ok(None);
            }
            let parts = projections.iter().map(|&projection| {
                match (&layer.biases[projection as usize], &layer.projections[projection as usize]) {
                    (Some(bias), _) => Ok(bias.clone()),
                    (None, Frozen::Dense(weight)) => Tensor::zeros(weight.dim(0)?, DType::F32, weight.device()),
                    (None, Frozen::Packed(_)) => bail!("the model was loaded for a CPU"),
                }
            });
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0).map(Some)
        };
        let (qkv, gate_up) = (&Projection::ALL[..3], &[Projection::GateProj, Projection::UpProj]);
        Ok(Self {
            qkv: joined(qkv)?,
            o: joined(&[Projection::OProj])?,
            gate_up: joined(gate_up)?,
            down: joined(&[Projection::DownProj])?,
            qkv_bias: biases(qkv)?,
            gate_up_bias: biases(gate_up)?,
        })
    }
}

/// Queries whose paths are a chain, as many as are computed together, and those that are left.
fn tiles(spans: &[Range<usize>]) -> (Vec<Range<usize>>, Vec<u32>) {
    let goes_on = |a: &Range<usize>, b: &Range<usize>| a.start == b.start && a.end + 1 == b.end;
    let (mut tiles, mut singles, mut first) = (vec![], vec![], 0);
    for chain in spans.chunk_by(goes_on) {
        let end = first + chain.len();
        for start in (first..end).step_by(TILE) {
            let tile = start..end.min(start + TILE);
            match tile.len() {
                MIN_TILE.. => tiles.push(tile),
                _ => singles.extend(tile.map(|query| query as u32)),
            }
        }
        first = end;
    }
    (tiles, singles)
}

/// Where a matrix is.
fn operand(matrix: &Frozen) -> Result<Operand> {
    let Frozen::Dense(tensor) = matrix else { bail!("the model was loaded for a CPU") };
    let (outputs, inputs) = tensor.dims2()?;
    Ok(Operand { at: pointer::of_tensor(tensor)?, dtype: tensor.dtype(), outputs, inputs })
}

/// Where a vector is, or nothing.
fn optional(vector: Option<&Tensor>) -> Result<Arg> {
    vector.map_or(Ok(Arg::Pointer(0)), |vector| pointer::of_tensor(vector).map(Arg::Pointer))
}

fn int(number: usize) -> Arg {
    Arg::Int(number as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_chains_are_cut_into_tiles_and_short_ones_are_left_as_they_are() {
        let chain = |start: usize, from: usize, count: usize| (0..count).map(move |i| start..start + from + i);
        // Two long chains, the tail of a chain, and a query by itself.
        let spans: Vec<_> =
            chain(0, 1, 70).chain(chain(70, 5, 64)).chain(chain(200, 9, 3)).chain(chain(300, 4, 1)).collect();
        let (tiles, singles) = tiles(&spans);
        assert_eq!(tiles, [0..64, 70..134]);
        assert_eq!(singles, [64, 65, 66, 67, 68, 69, 134, 135, 136, 137]);
    }
}
