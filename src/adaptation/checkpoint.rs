//! Where a round stands after a step, on disk: a server that is killed goes on from there, and comes to the same end.
//!
//! One file a round, replaced after each step: tensors in the format of safetensors (`policy/NAME`, `first/NAME` and
//! `second/NAME`, AdamW's moments), everything else as JSON in its metadata. It is written aside, synced and renamed,
//! so that it is there whole or not at all. A file that is damaged, or was made with anything else than the round is
//! made with now, is refused with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors::Load};
use safetensors::{SafeTensors, View, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::adaptation::{guard::Shown, trainer::TrainerState};

/// Changes with the meaning of the file.
const FORMAT: u32 = 1;

/// What the names of files begin with that are being written.
const WRITING: &str = ".writing-";

/// The key of the JSON among the metadata.
const HEADER: &str = "ttrl";

/// Three times the largest adapter that is read, see `adapters/format.rs`.
const MAX_BYTES: u64 = 3 * (4 << 30);

/// Why a checkpoint cannot be used, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the checkpoint {} is refused: {reason}", path.display())]
    Refused { path: PathBuf, reason: String },
}

/// How far a round has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps that are done.
    pub step: u32,
    /// Those of them that updated the policy.
    pub updates: u32,
    /// What the guard was shown, a step each.
    pub shown: Vec<Shown>,
}

/// What stands in the file besides tensors.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    made_with: String,
    progress: Progress,
    optimizer_steps: i32,
    /// SHA-256 over the tensors.
    content: String,
}

/// The checkpoint of one round.
pub struct Checkpoint {
    path: PathBuf,
    /// Stands for everything that the steps of the round depend on.
    made_with: String,
}

impl Checkpoint {
    pub fn new(path: PathBuf, made_with: String) -> Self {
        Self { path, made_with }
    }

    /// What was kept last; `None` if nothing was.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or was made with something else.
    pub fn read(&self) -> Result<Option<(Progress, TrainerState)>, CheckpointError> {
        let bytes = match fs::metadata(&self.path).map(|metadata| metadata.len()) {
            Ok(bytes) if bytes > MAX_BYTES => return Err(self.refused(format!("it has {bytes} bytes"))),
            Ok(_) => fs::read(&self.path).map_err(|source| self.io(source))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        self.parse(&bytes).map(Some).map_err(|reason| self.refused(reason))
    }

    fn parse(&self, bytes: &[u8]) -> Result<(Progress, TrainerState), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| text(&error))?;
        let header = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER));
        let header: Value = serde_json::from_str(header.ok_or("it is no checkpoint")?).map_err(|error| text(&error))?;
        let header: Header = serde_json::from_value(with_floats(header)).map_err(|error| text(&error))?;
        if header.format != FORMAT {
            return Err(format!("its format is {}, this program reads {FORMAT}", header.format));
        }
        if header.made_with != self.made_with {
            return Err("it was made with another model, recipe, prompt template or other questions".into());
        }
        let views = SafeTensors::deserialize(bytes).map_err(|error| text(&error))?;
        let views: BTreeMap<String, TensorView<'_>> = views.tensors().into_iter().collect();
        if content(&views) != header.content {
            return Err("it is damaged".into());
        }
        let part = |part: &str| -> Result<BTreeMap<String, Tensor>, String> {
            let named = views.iter().filter_map(|(name, view)| Some((name.strip_prefix(part)?, view)));
            named
                .map(|(name, view)| Ok((name.into(), view.load(&Device::Cpu).map_err(|error| text(&error))?)))
                .collect()
        };
        let state = TrainerState {
            policy: part("policy/")?,
            first: part("first/")?,
            second: part("second/")?,
            optimizer_steps: header.optimizer_steps,
        };
        Ok((header.progress, state))
    }

    /// Keeps where the round stands, in the place of what was kept before.
    ///
    /// # Errors
    /// If the file cannot be written; what was kept before is still there.
    pub fn write(&self, progress: &Progress, state: &TrainerState) -> Result<(), CheckpointError> {
        let bytes = self.encode(progress, state).map_err(|reason| self.refused(reason))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let name = self.path.file_name().unwrap_or_default();
        let write = || {
            fs::create_dir_all(folder)?;
            // The round's name is in it, so that it is removed with the round's other files.
            let mut prefix = std::ffi::OsString::from(WRITING);
            prefix.push(name);
            let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(folder)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| self.io(source))
    }

    fn encode(&self, progress: &Progress, state: &TrainerState) -> Result<Vec<u8>, String> {
        let parts = [("policy", &state.policy), ("first", &state.first), ("second", &state.second)];
        let mut tensors = BTreeMap::new();
        for (part, named) in parts {
            for (name, tensor) in named {
                let tensor = tensor.to_device(&Device::Cpu).and_then(|tensor| tensor.contiguous());
                tensors.insert(format!("{part}/{name}"), tensor.map_err(|error| error.to_string())?);
            }
        }
        let header = Header {
            format: FORMAT,
            made_with: self.made_with.clone(),
            progress: progress.clone(),
            optimizer_steps: state.optimizer_steps,
            content: content(&tensors),
        };
        let header = serde_json::to_value(header).map_err(|error| error.to_string())?;
        let metadata = [(HEADER.to_owned(), without_floats(header).to_string())].into();
        safetensors::serialize(&tensors, Some(metadata)).map_err(|error| error.to_string())
    }

    fn io(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Io { path: self.path.clone(), source }
    }

    fn refused(&self, reason: String) -> CheckpointError {
        CheckpointError::Refused { path: self.path.clone(), reason }
    }
}

/// SHA-256 over names, shapes and values.
fn content<V: View>(tensors: &BTreeMap<String, V>) -> String {
    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        hash.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.shape()));
        hash.update(tensor.data());
    }
    hex(&hash.finalize())
}

/// As hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What numbers that are not whole begin with in the header: their bits follow. Some decimal digits are read back with
/// an error in the last bit, and a guard that compares a number with its limit must come to the same end.
const FLOAT: &str = "f64 ";

fn without_floats(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            Value::String(format!("{FLOAT}{:016x}", number.as_f64().unwrap_or_default().to_bits()))
        }
        other => map_children(other, without_floats),
    }
}

fn with_floats(value: Value) -> Value {
    let bits = value.as_str().and_then(|text| u64::from_str_radix(text.strip_prefix(FLOAT)?, 16).ok());
    match bits {
        Some(bits) => Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number),
        None => map_children(value, with_floats),
    }
}

fn map_children(value: Value, map: fn(Value) -> Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(map).collect(),
        Value::Object(entries) => entries.into_iter().map(|(name, value)| (name, map(value))).collect(),
        other => other,
    }
}

/// The folder of the checkpoints of all rounds.
#[derive(Clone, Debug)]
pub struct CheckpointFolder(pub PathBuf);

impl CheckpointFolder {
    /// The file of a round's checkpoint.
    pub fn path(&self, round: Uuid) -> PathBuf {
        self.0.join(format!("{round}.safetensors"))
    }

    /// Whether this server has the checkpoint of a round.
    pub fn has(&self, round: Uuid) -> bool {
        self.path(round).is_file()
    }

    /// The rounds that there are files of, half-written ones of servers that were killed included.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn rounds(&self) -> io::Result<BTreeSet<Uuid>> {
        Ok(self.files()?.into_iter().map(|(round, _)| round).collect())
    }

    /// Removes all files of a round.
    ///
    /// # Errors
    /// If one of them is still there.
    pub fn remove(&self, round: Uuid) -> io::Result<()> {
        for (_, path) in self.files()?.into_iter().filter(|(of, _)| *of == round) {
            match fs::remove_file(path) {
                // Another server was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn files(&self) -> io::Result<Vec<(Uuid, PathBuf)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix(WRITING).unwrap_or(&name).split('.').next();
            files.extend(id.and_then(|id| id.parse().ok()).map(|round| (round, entry.path())));
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adaptation::{learner::VoteMetrics, trainer::UpdateMetrics};

    fn state() -> TrainerState {
        let named = |value: f32| {
            let tensor = |rows: usize| Tensor::full(value, (rows, 3), &Device::Cpu).unwrap();
            BTreeMap::from([("a".to_owned(), tensor(2)), ("b".to_owned(), tensor(1))])
        };
        TrainerState { policy: named(0.1), first: named(-1e-7), second: named(3e-12), optimizer_steps: 4 }
    }

    fn progress() -> Progress {
        // JSON's decimal digits do not give this one back.
        let majority_ratio = f64::from_bits(0x3fd5_5555_5555_5555);
        let votes = VoteMetrics { questions: 3, majority_ratio, ..VoteMetrics::default() };
        let update = UpdateMetrics { kl: 1.0, entropy: 0.123_456_789_012_345_68, ..UpdateMetrics::default() };
        let shown = Shown { votes, held_back: None, update: Some(update) };
        Progress { step: 5, updates: 4, shown: vec![shown, Shown { held_back: Some(votes), update: None, ..shown }] }
    }

    fn values(named: &BTreeMap<String, Tensor>) -> Vec<(String, Vec<u32>)> {
        let bits = |tensor: &Tensor| {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        named.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
    }

    #[test]
    fn what_was_kept_last_comes_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder(folder.path().join("rounds"));
        let round = Uuid::now_v7();
        let checkpoint = Checkpoint::new(folder.path(round), "x".into());
        assert!(checkpoint.read().unwrap().is_none() && !folder.has(round));
        checkpoint.write(&Progress::default(), &state()).unwrap();
        checkpoint.write(&progress(), &state()).unwrap();
        let (read, trainer) = checkpoint.read().unwrap().unwrap();
        assert_eq!((read, trainer.optimizer_steps), (progress(), 4));
        for (read, written) in
            [(&trainer.policy, &state().policy), (&trainer.first, &state().first), (&trainer.second, &state().second)]
        {
            assert_eq!(values(read), values(written));
        }
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_is_torn_damaged_or_of_another_round_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let checkpoint = Checkpoint::new(path.clone(), "x".into());
        checkpoint.write(&progress(), &state()).unwrap();
        let whole = fs::read(&path).unwrap();
        let refusal = |bytes: &[u8], made_with: &str| {
            fs::write(&path, bytes).unwrap();
            Checkpoint::new(path.clone(), made_with.into()).read().unwrap_err().to_string()
        };
        for length in [0, 7, 100, whole.len() - 1] {
            assert!(refusal(&whole[..length], "x").contains("is refused: "), "{length}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(refusal(&flipped, "x").ends_with("it is damaged"));
        assert!(refusal(&whole, "y").contains("made with another model, recipe"));
        let tensors = BTreeMap::from([("a", Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap())]);
        assert!(refusal(&safetensors::serialize(tensors, None).unwrap(), "x").ends_with("it is no checkpoint"));
    }

    #[test]
    fn all_files_of_a_round_are_found_and_removed_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder(folder.path().to_owned());
        let (ended, unfinished) = (Uuid::now_v7(), Uuid::now_v7());
        for round in [ended, unfinished] {
            fs::write(folder.path(round), "x").unwrap();
            fs::write(folder.0.join(format!(".writing-{round}.safetensorsAb1")), "x").unwrap();
        }
        fs::write(folder.0.join("notes.txt"), "x").unwrap();
        assert_eq!(folder.rounds().unwrap(), BTreeSet::from([ended, unfinished]));
        for _ in 0..2 {
            folder.remove(ended).unwrap();
            assert_eq!(folder.rounds().unwrap(), BTreeSet::from([unfinished]));
            assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3);
        }
        let none = CheckpointFolder(folder.0.join("none"));
        none.remove(ended).unwrap();
        assert!(none.rounds().unwrap().is_empty());
    }
}
