//! The decoder's pass for answering, written out launch by launch.
//!
//! It computes what `Decoder::layer` and `Decoder::logits` do, without gradients. A step of a few dozen rows reads every weight
//! once and is over in a millisecond or two, so what is fast here is what keeps launches and passes over memory few: queries,
//! keys and values are one product, and so are gate and up; a bias, the norm of a head, the rotation and the way into the cache
//! are one kernel; what a part of a layer makes is added to the residual by the product itself; tokens are drawn where the
//! logits are. Rows are f32 between the products; what goes into a product, and the cache, is of the type of the matrices.
//!
//! Small steps are recorded as CUDA graphs and replayed ([`replays`]): otherwise the CPU would launch more slowly than the
//! device computes.

mod replays;

use std::{ops::Range, sync::Arc};

use candle_core::{CudaDevice, DType, Result, Tensor, bail, cuda_backend::cudarc::driver::CudaSlice};

use self::replays::{MAX_FILLING, Replays};
use super::{
    Module,
    launch::{Kernel, Operand, Queue, pointer},
    pass::{Pass, operand},
    products::Products,
    recorder::Recorder,
    room::{Form, Places, Room, Size, splits},
};
use crate::engine::model::{
    decoder::{Adapted, Decoder, Layer},
    frozen::Frozen,
    lora::Projection,
    ops::Paths,
    outputs::{Output, Wanted},
};

/// What the logits of the rows that are computed at a time may take.
const LOGIT_BYTES: usize = 512 << 20;

/// Neighbours in a chain that a block computes together, and how many are worth it.
const TILE: usize = 64;
const MIN_TILE: usize = 8;

/// Query heads to a key head, at most: those of a query are a tile of training's attention.
const MAX_SHARED_BY: usize = 64;

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

/// How threads are put to the heads of an attention.
struct HeadShape {
    /// Of queries that are neighbours in a chain, where there is one for heads of this size.
    tile_kernel: Option<String>,
    /// Blocks for each key head: what shares it is computed together, up to eight heads, or sixteen on matrix units.
    chunks: usize,
    kernel: String,
}

impl HeadShape {
    fn of(heads: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> Result<Self> {
        let shared_by = heads / kv_heads;
        if shared_by > MAX_SHARED_BY {
            bail!("{shared_by} query heads to a key head are not computed on CUDA devices: use `device = \"cpu\"`");
        }
        let together = shared_by.next_power_of_two().min(8);
        let (lanes, numbers) = match head_dim {
            0..=16 if head_dim.is_multiple_of(4) => (4, 4),
            17..=256 if head_dim.is_multiple_of(8) => (head_dim.div_ceil(8).next_power_of_two(), 8),
            _ => bail!("heads of {head_dim} numbers are not computed on CUDA devices: use `device = \"cpu\"`"),
        };
        if dtype == DType::BF16 && matches!(head_dim, 64 | 128) {
            let tile_kernel = Some(format!("attend_tile_{head_dim}"));
            return Ok(Self {
                tile_kernel,
                chunks: shared_by.div_ceil(16),
                kernel: format!("attend_group_{head_dim}"),
            });
        }
        let kernel = format!("attend_{lanes}x{numbers}_{together}_{}", suffix(dtype)?);
        Ok(Self { tile_kernel: None, chunks: shared_by.div_ceil(together), kernel })
    }
}

pub(super) struct Kernels {
    pub embed: Kernel,
    pub rms_norm: Kernel,
    pub place_qkv: Kernel,
    pub attend: Kernel,
    pub attend_tile: Option<Kernel>,
    pub combine: Kernel,
    pub gate: Kernel,
    pub add_to_residual: Kernel,
    pub softcap: Kernel,
    pub draw: Kernel,
}

/// Where the weights of a layer are.
pub(super) struct LayerWeights {
    /// Queries, keys and values one after another, and gate and up.
    pub qkv: Operand,
    pub o: Operand,
    pub gate_up: Operand,
    pub down: Operand,
    pub qkv_bias: Option<Tensor>,
    pub gate_up_bias: Option<Tensor>,
}

/// The answering pass over a decoder, and the cache of its keys and values.
pub struct AnsweringPass {
    model: Model,
    queue: Queue,
    replays: Replays,
}

/// What does not change from step to step.
struct Model {
    decoder: Arc<Decoder>,
    device: CudaDevice,
    kernels: Kernels,
    layers: Vec<LayerWeights>,
    products: Products,
    chunks: usize,
    /// Of each of the decoder's ropes.
    frequencies: Vec<CudaSlice<f32>>,
    /// Of each layer, rows of a key and then a value. [`MAX_FILLING`] rows more than there are nodes: those that only fill a step up
    /// to a form that was recorded are written there, each to its own.
    cache: Vec<CudaSlice<u8>>,
    first_spare: u32,
}

/// A step before it is uploaded.
struct Step<'a> {
    form: Form,
    spans: Vec<[u32; 2]>,
    tiles: Vec<Range<usize>>,
    singles: Vec<u32>,
    temperatures: Vec<f32>,
    uniforms: Vec<f64>,
    /// Where the draws of each output end.
    ends: Vec<u32>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    nodes: Vec<u32>,
    outputs: Vec<u32>,
    path: &'a [u32],
    /// Nodes behind the paths, each of which is seen by a row that nobody reads.
    spares: Range<u32>,
    adapters: Vec<Adapted<'a>>,
    /// Of the adapters.
    rank: usize,
}

impl AnsweringPass {
    /// Prepares the pass, with a cache of `rows` token positions.
    ///
    /// # Errors
    /// If the cache cannot be allocated, or the model has heads of an odd size.
    pub fn new(decoder: Arc<Decoder>, rows: usize) -> Result<Self> {
        let device = decoder.device().as_cuda_device()?.clone();
        let (config, dtype) = (decoder.config(), decoder.dtype());
        if !config.hidden_size.is_multiple_of(4) || !config.intermediate_size.is_multiple_of(4) {
            bail!("rows are read four numbers at a time, and this model's widths are no multiples of four");
        }
        let heads = HeadShape::of(config.heads, config.kv_heads, config.head_dim, dtype)?;
        let load = |name: &str| Kernel::load(&device, Module::Answering, name);
        let suffix = suffix(dtype)?;
        let typed = |name: &str| load(&format!("{name}_{suffix}"));
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
        let frequencies = frequencies.collect::<Result<Vec<_>>>()?;
        let bytes = (rows + MAX_FILLING) * 2 * config.kv_width() * dtype.size_in_bytes();
        let cache = config.layers.iter().map(|_| device.alloc_zeros::<u8>(bytes)).collect::<Result<Vec<_>>>()?;
        let queue = Queue { stream: device.cuda_stream(), blas: device.cublas_handle() };
        let recorder = Recorder::new(&device)?;
        let mut matrices = vec![operand(&decoder.head)?];
        for &LayerWeights { qkv, o, gate_up, down, .. } in &layers {
            matrices.extend([qkv, o, gate_up, down]);
        }
        let products = Products::measured(&device, &queue, &recorder, &matrices)?;
        let model = Model {
            products,
            first_spare: rows as u32,
            chunks: heads.chunks,
            kernels,
            layers,
            frequencies,
            cache,
            decoder,
            device,
        };
        let replays = Replays::new(&model, recorder)?;
        Ok(Self { model, queue, replays })
    }

    /// Computes rows and returns what is wanted of some of them, whose indices are `outputs`.
    ///
    /// # Errors
    /// If the device fails or its memory is full; the cache rows of these nodes are then undefined, all others as before.
    pub fn step(&mut self, rows: Rows, outputs: &[u32], wanted: &[Wanted]) -> Result<Vec<Output>> {
        let Self { model, queue, replays } = self;
        let step = model.step(rows, outputs, wanted)?;
        match replays.fitted(model, &step) {
            Some(fitted) => {
                let room = replays.run(model, queue, &fitted)?;
                model.collect(room, &fitted.form, wanted, 0)
            }
            None => model.run(queue, &step, wanted),
        }
    }
}

impl Model {
    fn step<'a>(&self, rows: Rows<'a>, outputs: &[u32], wanted: &[Wanted]) -> Result<Step<'a>> {
        let Rows { tokens, positions, nodes, paths, adapters } = rows;
        let (count, config) = (tokens.len(), self.decoder.config());
        if positions.len() != count || nodes.len() != count || paths.len() != count {
            bail!("{count} tokens, {} positions, {} nodes, {} paths", positions.len(), nodes.len(), paths.len());
        }
        let (tiles, singles) = match self.kernels.attend_tile {
            Some(_) => tiles(paths.spans()),
            None => (vec![], (0..count as u32).collect()),
        };
        let longest = singles.iter().map(|&query| paths.spans()[query as usize].len()).max().unwrap_or(0);
        let (mut temperatures, mut uniforms, mut ends) = (vec![], vec![], vec![]);
        for wanted in wanted {
            let temperature = match wanted {
                Wanted::Logits => 0.0,
                Wanted::Draws(draws) => {
                    uniforms.extend_from_slice(&draws.uniforms);
                    draws.temperature
                }
            };
            temperatures.push(temperature);
            ends.push(uniforms.len() as u32);
        }
        let form = Form {
            rows: count,
            outputs: outputs.len(),
            draws: uniforms.len(),
            tiles: tiles.len(),
            singles: singles.len(),
            splits: splits(singles.len(), config.kv_heads * self.chunks, longest),
            adapters: adapters.iter().map(|adapted| (adapted.lora.number(), adapted.rows.clone())).collect(),
        };
        Ok(Step {
            form,
            spans: paths.spans().iter().map(|span| [span.start as u32, span.len() as u32]).collect(),
            tiles,
            singles,
            temperatures,
            uniforms,
            ends,
            tokens: tokens.to_vec(),
            positions: positions.to_vec(),
            nodes: nodes.to_vec(),
            outputs: outputs.to_vec(),
            path: paths.rows(),
            spares: 0..0,
            adapters: adapters
                .iter()
                .map(|adapted| Adapted { rows: adapted.rows.clone(), lora: adapted.lora })
                .collect(),
            rank: adapters.iter().map(|adapted| adapted.lora.rank()).max().unwrap_or(0),
        })
    }

    /// Computes a step in room of its own.
    fn run(&self, queue: &Queue, step: &Step, wanted: &[Wanted]) -> Result<Vec<Output>> {
        let (config, form) = (self.decoder.config(), &step.form);
        let at_a_time = (LOGIT_BYTES / (4 * config.vocab_size)).max(1);
        let words = step.words();
        let size = Size {
            rows: form.rows,
            outputs: form.outputs.min(at_a_time),
            draws: form.draws,
            parts: if form.splits > 1 { form.singles * form.splits } else { 0 },
            words: words.len(),
            rank: step.rank,
        };
        let mut room = Room::new(&self.device, config, size, self.decoder.dtype().size_in_bytes())?;
        self.device.memcpy_htod(&words, &mut room.words)?;
        let pass = self.pass(queue, step, &room);
        pass.layers()?;
        let mut outputs = Vec::with_capacity(wanted.len());
        for (chunk, wanted) in wanted.chunks(at_a_time).enumerate() {
            let first = chunk * at_a_time;
            pass.outputs(first, wanted.len())?;
            let drawn: usize = outputs.iter().map(Output::draws).sum();
            outputs.extend(self.collect(&room, form, wanted, drawn)?);
        }
        Ok(outputs)
    }

    fn pass<'a>(&'a self, queue: &'a Queue, step: &'a Step, room: &'a Room) -> Pass<'a> {
        Pass {
            device: &self.device,
            queue,
            kernels: &self.kernels,
            decoder: &self.decoder,
            layers: &self.layers,
            products: &self.products,
            frequencies: &self.frequencies,
            cache: &self.cache,
            chunks: self.chunks,
            form: &step.form,
            places: Places::of(&step.form, pointer::of_slice(&room.words, &self.device)),
            room,
            adapters: &step.adapters,
        }
    }

    /// Brings what is wanted of the outputs in a room to the host; `drawn` draws were of outputs before them.
    fn collect(&self, room: &Room, form: &Form, wanted: &[Wanted], drawn: usize) -> Result<Vec<Output>> {
        let vocab = self.decoder.config().vocab_size;
        let words = match wanted.iter().any(|wanted| matches!(wanted, Wanted::Draws(_))) {
            true => self.device.clone_dtoh(&room.drawn.slice(..2 * form.draws))?,
            false => vec![],
        };
        let (tokens, log_probs) = words.split_at(words.len() / 2);
        let draws = tokens.iter().zip(log_probs).map(|(&token, &bits)| (token, f32::from_bits(bits)));
        let asked: usize = wanted.iter().map(Wanted::draws).sum();
        let draws: Vec<(u32, f32)> = draws.skip(drawn).take(asked).collect();
        if draws.iter().any(|(token, log_prob)| *token as usize >= vocab || !log_prob.is_finite()) {
            bail!("the logits are no numbers");
        }
        let mut draws = draws.into_iter();
        let outputs = wanted.iter().enumerate().map(|(row, wanted)| match wanted {
            Wanted::Logits => {
                let row = room.logits.slice(row * vocab..(row + 1) * vocab);
                Ok(Output::Logits(self.device.clone_dtoh(&row)?))
            }
            Wanted::Draws(wanted) => Ok(Output::Drawn(draws.by_ref().take(wanted.uniforms.len()).collect())),
        });
        outputs.collect()
    }
}

impl Step<'_> {
    /// What is uploaded, in the order of [`Places`].
    fn words(&self) -> Vec<u32> {
        let mut words =
            Vec::with_capacity(2 * self.uniforms.len() + 8 * self.spans.len() + 4 * self.ends.len() + self.path.len());
        words.extend(self.uniforms.iter().flat_map(|uniform| {
            let bits = uniform.to_bits();
            [bits as u32, (bits >> 32) as u32]
        }));
        words.extend(self.spans.iter().flatten());
        words.extend(self.tiles.iter().flat_map(|tile| [tile.start as u32, tile.len() as u32]));
        words.extend(self.temperatures.iter().map(|temperature| temperature.to_bits()));
        for part in [&self.ends, &self.tokens, &self.positions, &self.nodes, &self.outputs, &self.singles] {
            words.extend_from_slice(part);
        }
        words.extend_from_slice(self.path);
        words.extend(self.spares.clone());
        words
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

/// What the names of kernels for a type of number end with.
fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        other => bail!("matrices of {other:?} cannot be computed with"),
    }
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
