//! The key that opens the operator's routes.

use std::{fmt, io, io::Write, path::Path};

use rand::{TryRng, rngs::SysRng};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a usable key looks like, for messages.
pub(super) const USABLE: &str = "it must have at least 16 characters, all of them visible ASCII";

/// Tells keys of this program from others, for people and for secret scanners.
const PREFIX: &str = "ttrl_";

/// Knows the operator's key when it sees it. Holds its SHA-256 only, which says nothing about 32 random bytes.
#[derive(Clone)]
pub struct OperatorKey {
    digest: [u8; 32],
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum OperatorKeyError {
    #[error("the operator's key cannot be read from or written to {path}: {error}")]
    File { path: String, error: io::Error },
    #[error("{path} holds no usable operator's key ({USABLE}); delete the file, and the next start makes a new one")]
    Unusable { path: String },
    #[error("the system gave no random numbers for the operator's key: {0}")]
    Random(String),
}

pub(super) fn is_usable(key: &str) -> bool {
    key.len() >= 16 && key.bytes().all(|byte| byte.is_ascii_graphic())
}

impl OperatorKey {
    /// The key with this text.
    pub fn new(key: &str) -> Self {
        Self { digest: Sha256::digest(key).into() }
    }

    /// The key in the file at `path`; a new one is made if the file does not exist, for its owner's eyes only.
    pub fn load_or_create(path: &Path) -> Result<Self, OperatorKeyError> {
        match read(path)? {
            Some(key) => Ok(Self::new(&key)),
            None => create(path),
        }
    }

    /// Whether this is the key. Takes the same time for every wrong one.
    pub fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.digest.ct_eq(&presented).into()
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorKey")
    }
}

fn file_error(path: &Path, error: io::Error) -> OperatorKeyError {
    OperatorKeyError::File { path: path.display().to_string(), error }
}

fn read(path: &Path) -> Result<Option<String>, OperatorKeyError> {
    match std::fs::read_to_string(path) {
        Ok(text) if is_usable(text.trim()) => Ok(Some(text.trim().into())),
        Ok(_) => Err(OperatorKeyError::Unusable { path: path.display().to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(path, error)),
    }
}

fn create(path: &Path) -> Result<OperatorKey, OperatorKeyError> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| OperatorKeyError::Random(error.to_string()))?;
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
        true => Ok(OperatorKey::new(&key)),
        // Another start was faster.
        false => match read(path)? {
            Some(key) => Ok(OperatorKey::new(&key)),
            None => Err(file_error(path, io::ErrorKind::NotFound.into())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/operator.key");
        OperatorKey::load_or_create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("ttrl_") && text.trim().len() == 69, "{text}");
        let again = OperatorKey::load_or_create(&path).unwrap();
        assert!(again.matches(text.trim()));
        for wrong in ["", "ttrl_", &text[..68], text.as_str()] {
            assert!(!again.matches(wrong), "{wrong:?}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.key");
        OperatorKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_without_a_usable_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.key");
        for text in ["", "short", "with spaces in the midst of it"] {
            std::fs::write(&path, text).unwrap();
            let error = OperatorKey::load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("delete the file"), "{error}");
        }
    }

    #[test]
    fn the_key_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", OperatorKey::new("0123456789abcdef")), "OperatorKey");
    }
}
