//! Loads a checkpoint, a GGUF file or a Hugging Face folder, under one set of names.
//!
//! Every size is checked against the file and the configuration before anything of that size is allocated, so a
//! damaged or hostile file is one error, not an exhausted machine.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use half::{bf16, f16};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    config::DecoderConfig,
    device::{self, DeviceMemory},
    error::ModelError,
    frozen::Frozen,
    gguf, hf_folder,
    lora::Projection,
    packed::{self, Encoding, Memory, PackedMatrix, Words},
    tokenizer::Tokenizer,
};

/// A model as it was published.
#[derive(Debug)]
pub struct Checkpoint {
    /// The shape of the decoder; every tensor fits it.
    pub config: DecoderConfig,
    /// The weights for the device the checkpoint was loaded for, by Hugging Face name
    /// (`model.layers.0.self_attn.q_proj.weight`), exactly those that [`expected_tensors`] lists. The rows of the
    /// query and key projections are in the half-split rotary layout: dimension `i` turns with `i + head_dim / 2`.
    pub tensors: HashMap<String, Frozen>,
    /// The model's own tokenizer; a folder without `tokenizer.json` has none.
    pub tokenizer: Option<Tokenizer>,
    /// The source of the model's chat template (Jinja).
    pub chat_template: Option<String>,
    /// Hexadecimal SHA-256 of the weight file; for several files, of their hexadecimal hashes in the order of their
    /// names, joined by newlines.
    pub fingerprint: String,
}

/// [`load_as`] with the file's own numbers on a CPU, and f32 elsewhere.
pub fn load(path: &Path, device: &Device) -> Result<Checkpoint, ModelError> {
    load_as(path, device, DType::F32)
}

/// Loads the checkpoint at `path`: a GGUF file, or a folder with `config.json` and `model.safetensors` (or shards with
/// their index), onto `device`. There, matrices are kept in `dtype`, f32 or bf16; a CPU's are packed as the file has
/// them, whatever `dtype` is.
pub fn load_as(path: &Path, device: &Device, dtype: DType) -> Result<Checkpoint, ModelError> {
    let opened = open(path)?;
    let wanted = check_tensors(&opened, path)?;
    check_memory(&opened.config, path, (device, dtype))?;
    if let Some(tokens) = opened.tokenizer.as_ref().map(Tokenizer::vocab_size)
        && tokens > opened.config.vocab_size
    {
        let problem = format!("its tokenizer has {tokens} tokens, its embedding only {}", opened.config.vocab_size);
        return Err(ModelError::damaged(path, problem));
    }
    // Hashing needs the whole file anyway; beside the decoding it costs no time of its own.
    let (fingerprint, tensors) =
        rayon::join(|| fingerprint(&opened.files), || read_tensors(&opened.tensors, &wanted, (device, dtype)));
    Ok(Checkpoint {
        config: opened.config,
        tensors: tensors?,
        tokenizer: opened.tokenizer,
        chat_template: opened.chat_template,
        fingerprint: fingerprint?,
    })
}

/// Reads everything but the tensors' values.
fn open(path: &Path) -> Result<Opened, ModelError> {
    let metadata = path.metadata().map_err(|source| ModelError::io(path, source))?;
    if metadata.is_dir() { hf_folder::open(path) } else { gguf::open(path) }
}

/// The standard deviation of random weights, with which most models begin their training.
const RANDOM_DEVIATION: f32 = 0.02;

/// A model with random weights, to measure speed with: of the shape that the `config.json` at `shape` describes, with the
/// tokenizer and the chat template of the checkpoint at `path`. Each tensor is drawn on the device, so the host never
/// holds them; norms are 1 and biases 0.
///
/// # Errors
/// If the tokenizer has more tokens than the shape, or the weights do not fit the device.
pub fn random(shape: &Path, path: &Path, device: &Device, dtype: DType) -> Result<Checkpoint, ModelError> {
    let config = hf_folder::read_config(shape)?;
    let Opened { tokenizer, chat_template, .. } = open(path)?;
    if let Some(tokens) = tokenizer.as_ref().map(Tokenizer::vocab_size).filter(|tokens| *tokens > config.vocab_size) {
        let problem = format!("it has {} tokens, the tokenizer of {} has {tokens}", config.vocab_size, path.display());
        return Err(ModelError::unsupported(shape, problem));
    }
    let mut tensors = HashMap::new();
    for (name, dims) in expected_tensors(&config) {
        let tensor = random_tensor(&name, &dims, (device, dtype)).map_err(|source| ModelError::Tensor {
            path: shape.into(),
            name: name.clone(),
            source: source.into(),
        })?;
        tensors.insert(name, tensor);
    }
    Ok(Checkpoint { config, tensors, tokenizer, chat_template, fingerprint: sha256_of_file(shape)? })
}

fn random_tensor(name: &str, dims: &[usize], (device, dtype): (&Device, DType)) -> candle_core::Result<Frozen> {
    if dims.len() == 1 {
        let value = if name.ends_with(".bias") { 0f32 } else { 1.0 };
        return Ok(Frozen::Dense(Tensor::full(value, dims, device)?));
    }
    let drawn = Tensor::randn(0f32, RANDOM_DEVIATION, dims, device)?;
    Frozen::new(&if device.is_cpu() { drawn } else { drawn.to_dtype(dtype)? })
}

/// Reads only the tokenizer of the GGUF file at `path`, if it has one; the file may be a vocabulary without a model.
pub fn load_tokenizer(path: &Path) -> Result<Option<Tokenizer>, ModelError> {
    gguf::open_tokenizer(path)
}

/// A checkpoint of which everything but the tensors' values was read.
pub(super) struct Opened {
    pub config: DecoderConfig,
    /// By Hugging Face name.
    pub tensors: HashMap<String, TensorEntry>,
    pub tokenizer: Option<Tokenizer>,
    pub chat_template: Option<String>,
    /// The weight files, sorted by name.
    pub files: Vec<PathBuf>,
}

/// Where the bytes of one tensor are and what they mean. The bytes are known to lie inside the file.
#[derive(Clone, Debug)]
pub(super) struct TensorEntry {
    pub file: PathBuf,
    /// From the start of the file, in bytes.
    pub offset: u64,
    pub bytes: usize,
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// The number of heads whose rows are stored for interleaved rotary pairs (dimension `2i` turns with `2i + 1`)
    /// and have to be brought into the half-split order.
    pub interleaved_heads: Option<usize>,
    /// Whether 1 has to be added to every value: the norms of Gemma in safetensors.
    pub less_one: bool,
}

impl TensorEntry {
    /// The weight on a device, in the half-split rotary layout; a matrix in `dtype`, a vector in f32.
    fn read(&self, name: &str, place: (&Device, DType)) -> Result<Frozen, ModelError> {
        self.decode(&self.raw(name)?, place).map_err(|source| self.error(name, source))
    }

    /// Its bytes in the file, in which every number is finite.
    fn raw(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        let io = |source| ModelError::io(&self.file, source);
        // Opened anew for each tensor, because threads that share a file share its position.
        let mut file = File::open(&self.file).map_err(io)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(io)?;
        let mut raw = vec![0; self.bytes];
        file.read_exact(&mut raw).map_err(io)?;
        if is_finite(self.encoding, &raw) {
            Ok(raw)
        } else {
            let problem = format!("its tensor {name} has a number that is not finite");
            Err(ModelError::damaged(&self.file, problem))
        }
    }

    /// The values of a vector.
    pub fn read_vector(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let values = self.read(name, (&Device::Cpu, DType::F32))?.to_tensor().and_then(|tensor| tensor.to_vec1());
        values.map_err(|source| self.error(name, source))
    }

    fn error(&self, name: &str, source: candle_core::Error) -> ModelError {
        ModelError::Tensor { path: self.file.clone(), name: name.into(), source: source.into() }
    }

    /// The shape, if it is a matrix.
    fn matrix(&self) -> Option<(usize, usize)> {
        match self.shape[..] {
            [outputs, inputs] => Some((outputs, inputs)),
            _ => None,
        }
    }

    /// Packs a matrix into words that are 0.
    fn pack(&self, name: &str, shape: (usize, usize), words: &mut [u32]) -> Result<(), ModelError> {
        let raw = self.raw(name)?;
        let row_bytes = raw.len() / shape.0.max(1);
        let row = |row: usize| &raw[self.stored_row(row, shape.0) * row_bytes..][..row_bytes];
        packed::pack(shape, self.encoding, row, words);
        Ok(())
    }

    fn decode(&self, raw: &[u8], (device, dtype): (&Device, DType)) -> candle_core::Result<Frozen> {
        // What moves for rotary pairs is a row of a matrix, or a single value of a bias.
        let rows = self.shape.first().copied().unwrap_or(1).max(1);
        let stored = packed::decode(self.encoding, raw);
        let width = stored.len() / rows;
        let row = |row: usize| &stored[self.stored_row(row, rows) * width..][..width];
        let missing = if self.less_one { 1.0 } else { 0.0 };
        let values = (0..rows).flat_map(row).map(|value| value + missing).collect();
        let tensor = Tensor::from_vec(values, self.shape.as_slice(), &Device::Cpu)?;
        let dtype = if self.matrix().is_some() { dtype } else { DType::F32 };
        Ok(Frozen::Dense(tensor.to_dtype(dtype)?.to_device(device)?))
    }

    /// Where a row of the half-split rotary layout is in the file.
    fn stored_row(&self, row: usize, rows: usize) -> usize {
        let Some(heads) = self.interleaved_heads else { return row };
        let dim = rows / heads;
        let (head, i) = (row / dim, row % dim);
        head * dim + if i < dim / 2 { 2 * i } else { 2 * (i - dim / 2) + 1 }
    }
}

/// Whether all floating-point numbers of an encoding, values or scales, are finite: one that is not would spread to
/// every answer.
fn is_finite(encoding: Encoding, raw: &[u8]) -> bool {
    use GgmlDType as Kind;
    // Where a block has its half-precision numbers (`packed/unpack.rs` says where the layouts come from).
    let halves: &[usize] = match encoding {
        Encoding::F32 => return raw.as_chunks().0.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite()),
        Encoding::Bf16 => return raw.as_chunks().0.iter().all(|bytes| bf16::from_le_bytes(*bytes).is_finite()),
        Encoding::Quantised(Kind::Q4_1 | Kind::Q5_1 | Kind::Q4K | Kind::Q5K) => &[0, 2],
        Encoding::Quantised(Kind::Q2K) => &[80, 82],
        Encoding::Quantised(Kind::Q3K) => &[108],
        Encoding::Quantised(Kind::Q6K) => &[208],
        Encoding::F16 | Encoding::Quantised(_) => &[0],
    };
    let half = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
    raw.chunks_exact(encoding.block().1).all(|block| halves.iter().all(|&at| half(block, at).is_finite()))
}

/// The name and shape of every tensor of a decoder: projections are `[out, in]`, the embedding `[vocab, hidden]`.
pub fn expected_tensors(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let mut expected = vec![
        ("model.embed_tokens.weight".into(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    if !config.tied_embeddings {
        expected.push(("lm_head.weight".into(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.layers.len() {
        for (_, norm, width) in config.norms() {
            expected.push((format!("model.layers.{layer}.{norm}.weight"), vec![width]));
        }
        for projection in Projection::ALL {
            let (path, (out, input)) = (projection.path(), config.projection_shape(projection));
            expected.push((format!("model.layers.{layer}.{path}.weight"), vec![out, input]));
            if config.biases.contains(&projection) {
                expected.push((format!("model.layers.{layer}.{path}.bias"), vec![out]));
            }
        }
    }
    expected
}

/// Checks that the tensors are exactly the expected ones, and returns their names.
fn check_tensors(opened: &Opened, path: &Path) -> Result<Vec<String>, ModelError> {
    let expected = expected_tensors(&opened.config);
    for (name, shape) in &expected {
        let Some(entry) = opened.tensors.get(name) else {
            return Err(ModelError::MissingTensor { path: path.into(), name: name.clone(), expected: shape.clone() });
        };
        if entry.shape != *shape {
            return Err(ModelError::Shape {
                path: entry.file.clone(),
                name: name.clone(),
                expected: shape.clone(),
                found: entry.shape.clone(),
            });
        }
    }
    // A tensor that nothing reads (a bias, say) means that the decoder would compute something else than this model.
    // With tied embeddings a separate head is a copy of the embedding, and inverse frequencies follow from the config.
    let harmless = |name: &str| {
        name.ends_with("rotary_emb.inv_freq") || (opened.config.tied_embeddings && name == "lm_head.weight")
    };
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let unknown = opened.tensors.keys().filter(|name| !known.contains(name.as_str()) && !harmless(name)).min();
    match unknown {
        Some(name) => Err(ModelError::unsupported(
            path,
            format!(
                "it has a tensor {name}, which its family does not; use a model of that family as it was published"
            ),
        )),
        None => Ok(expected.into_iter().map(|(name, _)| name).collect()),
    }
}

/// Whether a device with memory of its own has room for the weights; loading them takes seconds.
fn check_memory(config: &DecoderConfig, path: &Path, (device, dtype): (&Device, DType)) -> Result<(), ModelError> {
    // A device that does not tell is tried.
    let Ok(Some(DeviceMemory { free, total })) = device::memory(device) else { return Ok(()) };
    let bytes = |(_, shape): &(String, Vec<usize>)| {
        let number = if shape.len() == 2 { dtype.size_in_bytes() } else { size_of::<f32>() };
        (shape.iter().product::<usize>() * number) as u64
    };
    let needed = expected_tensors(config).iter().map(bytes).sum();
    if needed <= free {
        return Ok(());
    }
    Err(ModelError::DeviceMemory { path: path.into(), needed, free, total })
}

/// Reads the wanted tensors in parallel; one raw copy per thread is alive at a time. The matrices for a CPU share one
/// piece of memory.
fn read_tensors(
    entries: &HashMap<String, TensorEntry>,
    wanted: &[String],
    (device, dtype): (&Device, DType),
) -> Result<HashMap<String, Frozen>, ModelError> {
    let of_matrix = |name| {
        let entry: &TensorEntry = &entries[name];
        entry.matrix().filter(|_| device.is_cpu()).map(|shape| (name, entry, shape))
    };
    let matrices: Vec<(&String, &TensorEntry, (usize, usize))> = wanted.iter().filter_map(of_matrix).collect();
    let lengths = matrices.iter().map(|(_, entry, shape)| packed::packed_words(*shape, entry.encoding));
    let ends: Vec<usize> = lengths
        .scan(0, |end, length| {
            *end += length;
            Some(*end)
        })
        .collect();
    let mut memory = Memory::zeros(ends.last().copied().unwrap_or_default());
    let (mut rest, mut parts, mut start) = (&mut *memory, Vec::with_capacity(matrices.len()), 0);
    for end in &ends {
        let (part, others) = rest.split_at_mut(end - start);
        parts.push(part);
        (rest, start) = (others, *end);
    }
    let pack =
        |(words, (name, entry, shape)): (&mut [u32], &(&String, &TensorEntry, _))| entry.pack(name, *shape, words);
    parts.into_par_iter().zip(&matrices).try_for_each(pack)?;
    let memory = Arc::new(memory);
    let starts = [0].into_iter().chain(ends.iter().copied());
    let packed = matrices.into_iter().zip(starts.zip(&ends)).map(|((name, entry, shape), (start, end))| {
        let matrix = PackedMatrix::new(shape, entry.encoding, Words::new(&memory, start..*end));
        (name.clone(), Frozen::Packed(Arc::new(matrix)))
    });
    let mut tensors: HashMap<String, Frozen> = packed.collect();
    let others = wanted.par_iter().filter(|name| !tensors.contains_key(*name));
    let others = others.map(|name| Ok((name.clone(), entries[name].read(name, (device, dtype))?)));
    let others = others.collect::<Result<Vec<_>, ModelError>>()?;
    tensors.extend(others);
    Ok(tensors)
}

fn fingerprint(files: &[PathBuf]) -> Result<String, ModelError> {
    let hashes = files.par_iter().map(|file| sha256_of_file(file)).collect::<Result<Vec<_>, _>>()?;
    Ok(match hashes.as_slice() {
        [only] => only.clone(),
        several => hexadecimal(&Sha256::digest(several.join("\n"))),
    })
}

/// Hexadecimal SHA-256 of a file, read in pieces.
pub fn sha256_of_file(path: &Path) -> Result<String, ModelError> {
    let mut file = File::open(path).map_err(|source| ModelError::io(path, source))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|source| ModelError::io(path, source))? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_finite_is_found_wherever_a_block_has_it() {
        for encoding in (0..=30).filter_map(Encoding::of_gguf) {
            let (_, bytes) = encoding.block();
            for at in (0..bytes).step_by(2) {
                // Small numbers and codes; an infinity may also come to lie on codes, which are none of them.
                let mut blocks = vec![0x11; 3 * bytes];
                assert!(is_finite(encoding, &blocks), "{encoding:?}");
                blocks[bytes + at..][..2].copy_from_slice(&[0x80, 0x7f]);
                let found = packed::decode(encoding, &blocks).into_iter().all(f32::is_finite);
                assert_eq!(is_finite(encoding, &blocks), found, "{encoding:?} with an infinity at {at}");
            }
        }
    }
}
