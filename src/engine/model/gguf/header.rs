//! The header of a GGUF file: metadata, and what it says of each tensor.
//!
//! candle reads GGUF too, but panics on an alignment of 0 and does not say which tensor has an unknown type; the
//! container is small enough to read here with every length checked against the file. Format:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use crate::engine::model::error::ModelError;

/// A value of the metadata. Integers of every width are one kind, and so are floats.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine::model) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// An array of booleans or 64-bit floats; nothing here needs one.
    Skipped,
}

/// The metadata of a GGUF file by key.
#[derive(Debug, Default)]
pub(in crate::engine::model) struct Metadata(pub HashMap<String, Value>);

impl Metadata {
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.0.get(key) {
            Some(Value::Texts(texts)) => Some(texts),
            _ => None,
        }
    }

    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.0.get(key) {
            Some(Value::Integers(integers)) => Some(integers),
            _ => None,
        }
    }

    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.0.get(key) {
            Some(Value::Floats(floats)) => Some(floats),
            _ => None,
        }
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.0.get(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub fn size(&self, key: &str) -> Option<usize> {
        match self.0.get(key) {
            Some(Value::Integer(integer)) => usize::try_from(*integer).ok(),
            _ => None,
        }
    }

    pub fn float(&self, key: &str) -> Option<f64> {
        match self.0.get(key) {
            Some(Value::Float(float)) => Some(*float),
            _ => None,
        }
    }
}

/// What the header says of one tensor.
pub(super) struct Info {
    pub name: String,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    pub type_id: u32,
    /// From the start of the tensor data.
    pub offset: u64,
}

/// A file that knows how much of it is left, so that no length in it is believed before it is checked.
pub(super) struct Reader {
    path: PathBuf,
    inner: BufReader<File>,
    position: u64,
    /// Of the file, in bytes.
    pub length: u64,
}

/// The GGUF specification allows four.
const MAX_TENSOR_DIMENSIONS: u32 = 4;

impl Reader {
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|source| ModelError::io(path, source))?;
        let length = file.metadata().map_err(|source| ModelError::io(path, source))?.len();
        Ok(Self { path: path.into(), inner: BufReader::new(file), position: 0, length })
    }

    fn damaged(&self, problem: impl Into<String>) -> ModelError {
        ModelError::damaged(&self.path, problem)
    }

    /// Fails unless `count` things of at least `size` bytes each are left, and returns `count` as a `usize`.
    fn claim(&self, count: u64, size: u64, what: &str) -> Result<usize, ModelError> {
        let left = self.length - self.position;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= left => usize::try_from(count).map_err(|_| self.damaged("a length is too large")),
            _ => Err(self.damaged(format!(
                "its header announces {count} {what} at byte {}, but only {left} bytes follow",
                self.position
            ))),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        self.claim(N as u64, 1, "bytes")?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(|source| ModelError::io(&self.path, source))?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<String, ModelError> {
        let length = self.u64()?;
        let mut bytes = vec![0; self.claim(length, 1, "bytes of text")?];
        self.inner.read_exact(&mut bytes).map_err(|source| ModelError::io(&self.path, source))?;
        self.position += length;
        String::from_utf8(bytes).map_err(|_| self.damaged(format!("a text before byte {} is not UTF-8", self.position)))
    }

    /// The metadata, what is said of each tensor, and where the tensor data starts.
    pub fn header(&mut self) -> Result<(Metadata, Vec<Info>, u64), ModelError> {
        self.magic()?;
        let (tensors, keys) = (self.u64()?, self.u64()?);
        // The least a tensor takes: a name's length, the number of dimensions, the type and the offset; and the least
        // a key takes: a name's length, the value's type and a byte.
        self.claim(tensors, 24, "tensors")?;
        self.claim(keys, 13, "metadata keys")?;
        let mut metadata = Metadata::default();
        for _ in 0..keys {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind)?;
            metadata.0.insert(key, value);
        }
        let infos = (0..tensors).map(|_| self.info()).collect::<Result<Vec<_>, _>>()?;
        let alignment = match metadata.0.get("general.alignment") {
            None => 32,
            Some(Value::Integer(alignment)) if *alignment > 0 => *alignment as u64,
            Some(other) => return Err(self.damaged(format!("its alignment is {other:?}"))),
        };
        let data_start = self.position.checked_next_multiple_of(alignment);
        Ok((metadata, infos, data_start.ok_or_else(|| self.damaged(format!("its alignment is {alignment}")))?))
    }

    fn magic(&mut self) -> Result<(), ModelError> {
        if self.length == 0 {
            return Err(self.damaged("it is empty"));
        }
        if self.length < 24 || &self.bytes::<4>()? != b"GGUF" {
            let problem = "it is not a GGUF file; give a GGUF file, or the folder with config.json and the safetensors";
            return Err(ModelError::unsupported(&self.path, problem));
        }
        match self.u32()? {
            2 | 3 => Ok(()),
            version => {
                let problem = format!("it is GGUF version {version}; convert it to version 3");
                Err(ModelError::unsupported(&self.path, problem))
            }
        }
    }

    fn info(&mut self) -> Result<Info, ModelError> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > MAX_TENSOR_DIMENSIONS {
            return Err(self.damaged(format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            shape.push(usize::try_from(size).map_err(|_| self.damaged(format!("tensor {name} has a size of {size}")))?);
        }
        // The file has the fastest dimension first.
        shape.reverse();
        Ok(Info { name, shape, type_id: self.u32()?, offset: self.u64()? })
    }

    fn value(&mut self, kind: u32) -> Result<Value, ModelError> {
        match kind {
            7 => Ok(Value::Bool(self.bytes::<1>()? != [0])),
            8 => self.text().map(Value::Text),
            9 => self.array(),
            6 => Ok(Value::Float(f32::from_le_bytes(self.bytes()?).into())),
            12 => Ok(Value::Float(f64::from_le_bytes(self.bytes()?))),
            _ => self.integer(kind).map(Value::Integer),
        }
    }

    fn integer(&mut self, kind: u32) -> Result<i64, ModelError> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.bytes()?).into(),
            1 => i8::from_le_bytes(self.bytes()?).into(),
            2 => u16::from_le_bytes(self.bytes()?).into(),
            3 => i16::from_le_bytes(self.bytes()?).into(),
            4 => u32::from_le_bytes(self.bytes()?).into(),
            5 => i32::from_le_bytes(self.bytes()?).into(),
            // Nothing counted in a model file comes near the sign bit.
            10 => i64::try_from(self.u64()?).unwrap_or(i64::MAX),
            11 => i64::from_le_bytes(self.bytes()?),
            _ => return Err(self.damaged(format!("a value before byte {} has the unknown type {kind}", self.position))),
        })
    }

    fn array(&mut self) -> Result<Value, ModelError> {
        let (kind, length) = (self.u32()?, self.u64()?);
        // The least an element takes, by type number; arrays of arrays do not occur in model files.
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return Err(self.damaged(format!("an array has elements of the unknown type {kind}"))),
        };
        let length = self.claim(length, size, "array elements")?;
        match kind {
            8 => (0..length).map(|_| self.text()).collect::<Result<_, _>>().map(Value::Texts),
            6 => {
                (0..length).map(|_| Ok(f32::from_le_bytes(self.bytes()?))).collect::<Result<_, _>>().map(Value::Floats)
            }
            7 | 12 => {
                for _ in 0..length {
                    self.value(kind)?;
                }
                Ok(Value::Skipped)
            }
            _ => (0..length).map(|_| self.integer(kind)).collect::<Result<_, _>>().map(Value::Integers),
        }
    }
}
