//! The file behind the spool: one JSON object a line, synced before an append returns.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Answer, Question};

/// What one line holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub question: Question,
    pub answer: Answer,
}

/// An append-only file of records, of which one process is the only user.
///
/// A record's place is counted from the first byte ever appended, so that it stays the same when the front of the file
/// is removed: the file begins at place `removed`.
pub(super) struct SpoolFile {
    path: PathBuf,
    file: File,
    /// Held for as long as the spool is open.
    _lock: File,
    removed: u64,
    end: u64,
    /// Where the record of each answer is.
    places: HashMap<Uuid, Range<u64>>,
    max_bytes: u64,
}

impl SpoolFile {
    /// Opens or makes the file at `path`, at most `max_bytes` long. What a crash left of a last line is removed and
    /// reported in the log: its writer was never told that it is safe.
    pub fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let lock = open_private(&path.with_added_extension("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::WouldBlock, "another process uses it"),
            TryLockError::Error(error) => error,
        })?;
        let mut file = open_private(path)?;
        sync_folder(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let whole = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if whole < content.len() {
            let bytes = content.len() - whole;
            tracing::warn!(path = %path.display(), bytes, "removed an incomplete last line from the spool");
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        let mut places = HashMap::new();
        let mut start = 0;
        for line in content[..whole].split_inclusive(|&byte| byte == b'\n') {
            let end = start + line.len() as u64;
            // A line that cannot be read is dealt with when it is replayed.
            if let Ok(record) = serde_json::from_slice::<Record>(line) {
                places.insert(record.answer.id, start..end);
            }
            start = end;
        }
        Ok(Self { path: path.into(), file, _lock: lock, removed: 0, end: start, places, max_bytes })
    }

    pub fn bytes(&self) -> u64 {
        self.end - self.removed
    }

    pub fn records(&self) -> u64 {
        self.places.len() as u64
    }

    /// Appends a record and returns when it is on the disk; one that is there already is left as it is.
    pub fn append(&mut self, record: &Record) -> io::Result<()> {
        if self.places.contains_key(&record.answer.id) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes() + line.len() as u64 > self.max_bytes {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("the limit is {} bytes", self.max_bytes)));
        }
        let length = self.bytes();
        self.file.seek(SeekFrom::Start(length))?;
        if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // Half a line must not stand before the next one.
            self.file.set_len(length)?;
            return Err(error);
        }
        let end = self.end + line.len() as u64;
        self.places.insert(record.answer.id, self.end..end);
        self.end = end;
        Ok(())
    }

    /// The record of an answer.
    pub fn find(&mut self, answer: Uuid) -> io::Result<Option<Record>> {
        let Some(place) = self.places.get(&answer).cloned() else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_slice(&self.read(place)?)?))
    }

    /// The place of the first byte that is still in the file.
    pub fn start(&self) -> u64 {
        self.removed
    }

    /// The bytes from `place` on that make up whole lines, as many as fit into `max_bytes` and at least one; with the
    /// place behind them. Empty at the end of the file.
    pub fn lines(&mut self, place: u64, max_bytes: u64) -> io::Result<(Vec<u8>, u64)> {
        let mut bytes = self.read(place..self.end.min(place.saturating_add(max_bytes)))?;
        if !bytes.ends_with(b"\n") && place + (bytes.len() as u64) < self.end {
            match bytes.iter().rposition(|&byte| byte == b'\n') {
                Some(last) => bytes.truncate(last + 1),
                None => return self.lines(place, max_bytes.saturating_mul(2)),
            }
        }
        let next = place + bytes.len() as u64;
        Ok((bytes, next))
    }

    /// Removes everything before `place`: the rest is written to a new file that takes the old one's place.
    pub fn remove_before(&mut self, place: u64) -> io::Result<()> {
        if place == self.removed {
            return Ok(());
        }
        let rest = self.read(place..self.end)?;
        let new_path = self.path.with_added_extension("new");
        let mut file = open_private(&new_path)?;
        file.set_len(0)?;
        file.write_all(&rest)?;
        file.sync_all()?;
        fs::rename(&new_path, &self.path)?;
        sync_folder(&self.path)?;
        self.file = file;
        self.removed = place;
        self.places.retain(|_, range| range.start >= place);
        Ok(())
    }

    /// Keeps a line that can never be stored, in a file beside the spool.
    pub fn set_aside(&self, line: &[u8]) -> io::Result<()> {
        let mut file = open_private(&self.set_aside_path())?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(line)?;
        file.sync_all()?;
        sync_folder(&self.path)
    }

    pub fn set_aside_path(&self) -> PathBuf {
        self.path.with_added_extension("damaged")
    }

    fn read(&mut self, place: Range<u64>) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(place.start - self.removed))?;
        let mut bytes = vec![0; (place.end - place.start) as usize];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Opens a file that only this account can read, and makes it if it is missing.
fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A new name is durable only when its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
