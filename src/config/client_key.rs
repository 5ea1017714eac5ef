//! The key that clients' fingerprints are made with.

use std::{fmt, path::Path};

use sha2::{Digest, Sha256};

use super::key_file::{self, KeyFileError};

/// Makes fingerprints of clients. Without the key nobody can tell whose a fingerprint is by trying all addresses.
#[derive(Clone)]
pub struct ClientKey {
    secret: String,
}

impl ClientKey {
    /// The key with this text.
    pub fn new(key: &str) -> Self {
        Self { secret: key.into() }
    }

    /// The key in the file at `path`; a new one is made if the file does not exist, for its owner's eyes only.
    ///
    /// # Errors
    /// If the file cannot be read or made, or holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        Ok(Self::new(&key_file::load_or_create(path)?))
    }

    /// The fingerprint of a client, 16 hexadecimal digits: the beginning of the SHA-256 of the key and what tells the
    /// client from others.
    pub fn fingerprint(&self, who: &str) -> String {
        let digest = Sha256::new().chain_update(&self.secret).chain_update("\n").chain_update(who).finalize();
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_clients_apart_and_are_others_with_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| ClientKey::load_or_create(&folder.path().join(name)).unwrap();
        let (one, other) = (key("one.key"), key("other.key"));
        assert_eq!(one.fingerprint("a"), key("one.key").fingerprint("a"));
        assert_eq!(one.fingerprint("a").len(), 16);
        assert_ne!(one.fingerprint("a"), one.fingerprint("b"));
        assert_ne!(one.fingerprint("a"), other.fingerprint("a"));
        assert_eq!(format!("{one:?}"), "ClientKey");
    }
}
