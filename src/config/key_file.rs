//! Secrets that the first start makes and that are kept in a file.

use std::{io, io::Write, path::Path};

use rand::{TryRng, rngs::SysRng};

/// What a usable key looks like, for messages.
pub(super) const USABLE: &str = "it must have at least 16 characters, all of them visible ASCII";

/// Tells keys of this program from others, for people and for secret scanners.
const PREFIX: &str = "ttrl_";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("the key cannot be read from or written to {path}: {error}")]
    File { path: String, error: io::Error },
    #[error("{path} holds no usable key ({USABLE}); delete the file, and the next start makes a new one")]
    Unusable { path: String },
    #[error("the system gave no random numbers for a key: {0}")]
    Random(String),
}

pub(super) fn is_usable(key: &str) -> bool {
    key.len() >= 16 && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The key in the file at `path`; a new one is made if the file does not exist, for its owner's eyes only.
pub(super) fn load_or_create(path: &Path) -> Result<String, KeyFileError> {
    match read(path)? {
        Some(key) => Ok(key),
        None => create(path),
    }
}

fn file_error(path: &Path, error: io::Error) -> KeyFileError {
    KeyFileError::File { path: path.display().to_string(), error }
}

fn read(path: &Path) -> Result<Option<String>, KeyFileError> {
    match std::fs::read_to_string(path) {
        Ok(text) if is_usable(text.trim()) => Ok(Some(text.trim().into())),
        Ok(_) => Err(KeyFileError::Unusable { path: path.display().to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(path, error)),
    }
}

fn create(path: &Path) -> Result<String, KeyFileError> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| KeyFileError::Random(error.to_string()))?;
    let digits = bytes.map(|byte| format!("{byte:02x}")).concat();
    let key = format!("{PREFIX}{digits}");
    let written = || -> io::Result<bool> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // Temporary files are their owner's only. The rename is whole or not at all, and never replaces another
        // server's key.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(file, "{key}")?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    };
    match written().map_err(|error| file_error(path, error))? {
        true => Ok(key),
        // Another start was faster.
        false => read(path)?.ok_or_else(|| file_error(path, io::ErrorKind::NotFound.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/operator.key");
        let key = load_or_create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(key.starts_with("ttrl_") && key.len() == 69 && text.trim() == key, "{text}");
        assert_eq!(load_or_create(&path).unwrap(), key);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_ne!(load_or_create(&folder.path().join("other.key")).unwrap(), key);
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.key");
        load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_without_a_usable_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.key");
        for text in ["", "short", "with spaces in the midst of it"] {
            std::fs::write(&path, text).unwrap();
            let error = load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("delete the file"), "{error}");
        }
    }
}
