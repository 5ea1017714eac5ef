//! The key that opens the operator's routes.

use std::{fmt, path::Path};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::key_file::{self, KeyFileError};

/// Knows the operator's key when it sees it. Holds its SHA-256 only, which says nothing about 32 random bytes.
#[derive(Clone)]
pub struct OperatorKey {
    digest: [u8; 32],
}

impl OperatorKey {
    /// The key with this text.
    pub fn new(key: &str) -> Self {
        Self { digest: Sha256::digest(key).into() }
    }

    /// The key in the file at `path`; a new one is made if the file does not exist, for its owner's eyes only.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        Ok(Self::new(&key_file::load_or_create(path)?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.key");
        OperatorKey::load_or_create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let again = OperatorKey::load_or_create(&path).unwrap();
        assert!(again.matches(text.trim()));
        for wrong in ["", "ttrl_", &text[..68], text.as_str()] {
            assert!(!again.matches(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn the_key_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", OperatorKey::new("0123456789abcdef")), "OperatorKey");
    }
}
