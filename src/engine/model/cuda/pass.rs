//! The launches of one step of the answering pass, in order.
//!
//! They read what was uploaded for the step and depend on its form alone, so that a step can be recorded and replayed.

use candle_core::{CudaDevice, DType, Result, Tensor, bail, cuda_backend::cudarc::driver::CudaSlice};

use super::{
    answering::{Kernels, LayerWeights},
    launch::{Arg, Grid, Kernel, Operand, Product, Queue, launch, pointer, product},
    products::{Multiplication, Products},
    room::{Form, Input, Places, Room},
};
use crate::engine::model::{
    config::Norm,
    decoder::{Adapted, Decoder, Layer},
    frozen::Frozen,
    lora::Projection,
    ops::Activation,
};

/// Threads of a block that goes over a row.
const ROW_THREADS: u32 = 256;
const ATTEND_THREADS: u32 = 128;
const TILE_THREADS: u32 = 128;
const DRAW_THREADS: u32 = 1024;

/// One step on its way through the layers.
pub struct Pass<'a> {
    pub device: &'a CudaDevice,
    pub queue: &'a Queue,
    pub kernels: &'a Kernels,
    pub decoder: &'a Decoder,
    pub layers: &'a [LayerWeights],
    pub products: &'a Products,
    /// Of each of the decoder's ropes.
    pub frequencies: &'a [CudaSlice<f32>],
    /// Of each layer, rows of a key and then a value.
    pub cache: &'a [CudaSlice<u8>],
    /// Blocks of attention for each key head.
    pub chunks: usize,
    pub form: &'a Form,
    pub places: Places,
    pub room: &'a Room,
    pub adapters: &'a [Adapted<'a>],
}

impl Pass<'_> {
    /// Everything from the tokens to the residual behind the last layer.
    pub fn layers(&self) -> Result<()> {
        self.embed()?;
        for layer in 0..self.layers.len() {
            self.attention(layer)?;
            self.mlp(layer)?;
        }
        Ok(())
    }

    /// The logits of `count` outputs from number `first` on, and the draws of those whose ends are at `ends` from them.
    pub fn outputs(&self, first: usize, count: usize) -> Result<()> {
        let config = self.decoder.config();
        let logits = self.at(&self.room.logits);
        let rows = self.places.outputs + 4 * first as u64;
        self.normalise((rows, count), &self.decoder.norm, &self.room.last)?;
        self.multiply(&self.room.last, count, &operand(&self.decoder.head)?, (logits, config.vocab_size), false)?;
        if let Some(cap) = config.logit_softcap {
            let elements = count * config.vocab_size;
            let grid = Grid::rows(elements.div_ceil(4 * ROW_THREADS as usize).min(65_535), ROW_THREADS);
            self.launch(&self.kernels.softcap, grid, &[logits.into(), Arg::Float(cap), Arg::Long(elements as i64)])?;
        }
        if self.form.draws == 0 {
            return Ok(());
        }
        let (first, drawn) = (4 * first as u64, self.at(&self.room.drawn));
        self.launch(
            &self.kernels.draw,
            Grid::rows(count, DRAW_THREADS),
            &[
                logits.into(),
                int(config.vocab_size),
                (self.places.temperatures + first).into(),
                self.places.uniforms.into(),
                (self.places.ends + first).into(),
                int(usize::from(first > 0)),
                drawn.into(),
                (drawn + 4 * self.form.draws as u64).into(),
            ],
        )
    }

    fn embed(&self) -> Result<()> {
        let config = self.decoder.config();
        let scale = config.embedding_scale.unwrap_or(1.0);
        self.launch(
            &self.kernels.embed,
            Grid::rows(self.form.rows, ROW_THREADS),
            &[
                operand(&self.decoder.embedding)?.at.into(),
                self.places.tokens.into(),
                Arg::Float(scale),
                int(config.hidden_size),
                self.at(&self.room.x).into(),
            ],
        )
    }

    /// Queries, keys and values, attention, and its output added to the residual.
    fn attention(&self, index: usize) -> Result<()> {
        let (config, weights, layer) = (self.decoder.config(), &self.layers[index], &self.decoder.layers[index]);
        let (query, kv) = (config.query_width(), config.kv_width());
        self.norm(layer, Norm::BeforeAttention)?;
        let (qkv, width) = (self.at(&self.room.qkv), query + 2 * kv);
        self.multiply(&self.room.normed, self.form.rows, &weights.qkv, (qkv, width), false)?;
        let columns = [(Projection::QProj, 0), (Projection::KProj, query), (Projection::VProj, query + kv)];
        for (projection, column) in columns {
            self.add_adapters(index, projection, &self.room.normed, (qkv + 4 * column as u64, width))?;
        }
        let norm_of = |norm: Norm| optional(layer.norms[norm as usize].as_ref());
        const HEADS_OF_BLOCK: usize = 4;
        let heads = config.heads + 2 * config.kv_heads;
        self.launch(
            &self.kernels.place_qkv,
            Grid { x: self.form.rows, y: heads.div_ceil(HEADS_OF_BLOCK), z: 1, threads: 32 * HEADS_OF_BLOCK as u32 },
            &[
                qkv.into(),
                optional(weights.qkv_bias.as_ref())?,
                norm_of(Norm::Queries)?,
                norm_of(Norm::Keys)?,
                Arg::Float(config.rms_norm_eps as f32),
                self.at(&self.frequencies[layer.rope]).into(),
                self.places.positions.into(),
                self.places.nodes.into(),
                int(config.heads),
                int(config.kv_heads),
                int(config.head_dim),
                self.at(&self.cache[index]).into(),
            ],
        )?;
        self.attend_tiles(index, (qkv, width))?;
        self.attend_singles(index, (qkv, width))?;
        self.add_part(index, (&self.room.attended, Projection::OProj, &weights.o), Norm::AfterAttention)
    }

    /// What queries that are neighbours in a chain make of the values.
    fn attend_tiles(&self, index: usize, (qkv, stride): (u64, usize)) -> Result<()> {
        let Some(kernel) = &self.kernels.attend_tile else { return Ok(()) };
        let config = self.decoder.config();
        let attention = config.attention(index);
        let (rows, exact) = self.room.attended.places(self.device);
        self.launch(
            kernel,
            Grid { x: self.form.tiles, y: config.heads, z: 1, threads: TILE_THREADS },
            &[
                qkv.into(),
                int(stride),
                self.at(&self.cache[index]).into(),
                self.places.tiles.into(),
                self.places.path.into(),
                self.places.spans.into(),
                int(config.heads),
                int(config.kv_heads),
                Arg::Float(attention.scale),
                int(attention.window.unwrap_or(0)),
                Arg::Float(attention.softcap.unwrap_or(0.0)),
                rows.into(),
                exact.into(),
            ],
        )
    }

    /// What the other queries make of the values.
    fn attend_singles(&self, index: usize, (qkv, stride): (u64, usize)) -> Result<()> {
        let config = self.decoder.config();
        let attention = config.attention(index);
        let (rows, exact) = self.room.attended.places(self.device);
        let partial = self.at(&self.room.partial);
        self.launch(
            &self.kernels.attend,
            Grid {
                x: self.form.singles,
                y: config.kv_heads * self.chunks,
                z: self.form.splits,
                threads: ATTEND_THREADS,
            },
            &[
                qkv.into(),
                int(stride),
                self.at(&self.cache[index]).into(),
                self.places.singles.into(),
                self.places.path.into(),
                self.places.spans.into(),
                int(config.heads),
                int(config.kv_heads),
                int(config.head_dim),
                Arg::Float(attention.scale),
                int(attention.window.unwrap_or(0)),
                Arg::Float(attention.softcap.unwrap_or(0.0)),
                int(self.form.splits),
                partial.into(),
                rows.into(),
                exact.into(),
            ],
        )?;
        if self.form.splits == 1 {
            return Ok(());
        }
        self.launch(
            &self.kernels.combine,
            Grid { x: self.form.singles, y: config.heads, z: 1, threads: 64 },
            &[
                partial.into(),
                self.places.singles.into(),
                int(config.heads),
                int(config.head_dim),
                int(self.form.splits),
                rows.into(),
                exact.into(),
            ],
        )
    }

    fn mlp(&self, index: usize) -> Result<()> {
        let (config, weights, layer) = (self.decoder.config(), &self.layers[index], &self.decoder.layers[index]);
        let (inner, rows) = (config.intermediate_size, self.form.rows);
        self.norm(layer, Norm::BeforeMlp)?;
        let gate_up = self.at(&self.room.gate_up);
        self.multiply(&self.room.normed, rows, &weights.gate_up, (gate_up, 2 * inner), false)?;
        for (projection, column) in [(Projection::GateProj, 0), (Projection::UpProj, inner)] {
            self.add_adapters(index, projection, &self.room.normed, (gate_up + 4 * column as u64, 2 * inner))?;
        }
        let (gated, exact) = self.room.gated.places(self.device);
        self.launch(
            &self.kernels.gate,
            Grid { x: rows, y: inner.div_ceil(4 * ROW_THREADS as usize), z: 1, threads: ROW_THREADS },
            &[
                gate_up.into(),
                optional(weights.gate_up_bias.as_ref())?,
                int(inner),
                int(usize::from(config.activation == Activation::GeluTanh)),
                gated.into(),
                exact.into(),
            ],
        )?;
        self.add_part(index, (&self.room.gated, Projection::DownProj, &weights.down), Norm::AfterMlp)
    }

    /// Adds what the last projection of a part of a layer makes to the residual: at once where nothing comes in between.
    fn add_part(
        &self,
        index: usize,
        (input, projection, weight): (&Input, Projection, &Operand),
        after: Norm,
    ) -> Result<()> {
        let (layer, hidden, rows) = (&self.decoder.layers[index], self.decoder.config().hidden_size, self.form.rows);
        let x = self.at(&self.room.x);
        let bias = layer.biases[projection as usize].as_ref();
        let norm = layer.norms[after as usize].as_ref();
        if bias.is_none() && norm.is_none() {
            self.multiply(input, rows, weight, (x, hidden), true)?;
            return self.add_adapters(index, projection, input, (x, hidden));
        }
        let made = self.at(&self.room.made);
        self.multiply(input, rows, weight, (made, hidden), false)?;
        self.add_adapters(index, projection, input, (made, hidden))?;
        self.launch(
            &self.kernels.add_to_residual,
            Grid::rows(rows, ROW_THREADS),
            &[
                x.into(),
                made.into(),
                optional(bias)?,
                optional(norm)?,
                Arg::Float(self.decoder.config().rms_norm_eps as f32),
                int(hidden),
            ],
        )
    }

    /// The residual, normalised, as a part of a layer takes it.
    fn norm(&self, layer: &Layer, norm: Norm) -> Result<()> {
        let Some(weight) = &layer.norms[norm as usize] else { bail!("a layer has no {norm:?}") };
        self.normalise((0, self.form.rows), weight, &self.room.normed)
    }

    /// Rows of the residual, normalised: `count` of those that the list at `rows` names, or all.
    fn normalise(&self, (rows, count): (u64, usize), weight: &Tensor, to: &Input) -> Result<()> {
        let config = self.decoder.config();
        let (to, exact) = to.places(self.device);
        self.launch(
            &self.kernels.rms_norm,
            Grid::rows(count, ROW_THREADS),
            &[
                self.at(&self.room.x).into(),
                rows.into(),
                pointer::of_tensor(weight)?.into(),
                Arg::Float(config.rms_norm_eps as f32),
                int(config.hidden_size),
                to.into(),
                exact.into(),
            ],
        )
    }

    /// `y = x w^T`, or `y += x w^T`, of rows `[count, inputs]`; `y` is f32 and has rows of a stride.
    fn multiply(&self, x: &Input, count: usize, w: &Operand, y: (u64, usize), adds: bool) -> Result<()> {
        let x = pointer::of_slice(&x.rows, self.device);
        self.products.multiply(self.queue, Multiplication { x, w: *w, rows: count, y, adds })
    }

    /// `y += scale * (x a^T) b^T` for the rows of each adapter that has this projection, in f32.
    fn add_adapters(&self, index: usize, projection: Projection, x: &Input, (y, stride): (u64, usize)) -> Result<()> {
        for Adapted { rows, lora } in self.adapters {
            let Some(pair) = lora.layer(index).pair(projection)? else { continue };
            let Some(exact) = &x.exact else { bail!("the rows of an adapter are not there in f32") };
            let ((rank, inputs), outputs) = (pair.a.dims2()?, pair.b.dim(0)?);
            let matrix = |tensor: &Tensor, outputs, inputs| -> Result<Operand> {
                Ok(Operand { at: pointer::of_tensor(tensor)?, dtype: DType::F32, outputs, inputs })
            };
            let (a, b) = (matrix(&pair.a, rank, inputs)?, matrix(&pair.b, outputs, rank)?);
            let (low, count) = (self.at(&self.room.low), rows.len());
            let x = Operand { at: pointer::of_slice(exact, self.device) + (4 * rows.start * inputs) as u64, ..a };
            product(&self.queue.blas, Product { x, w: a, rows: count, y: (low, rank), alpha: 1.0, beta: 0.0 })?;
            let (x, y) = (Operand { at: low, ..b }, (y + (4 * rows.start * stride) as u64, stride));
            product(&self.queue.blas, Product { x, w: b, rows: count, y, alpha: pair.scale as f32, beta: 1.0 })?;
        }
        Ok(())
    }

    fn launch(&self, kernel: &Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        launch(self.queue, kernel, grid, args)
    }

    fn at<T>(&self, slice: &CudaSlice<T>) -> u64 {
        pointer::of_slice(slice, self.device)
    }
}

/// Where a matrix is.
pub fn operand(matrix: &Frozen) -> Result<Operand> {
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
