//! Removing adapters' files, so that a server that runs for months does not fill the disk. Records stay.
//!
//! Files go when their round has ended without a promotion, or when so many newer ones are there and nobody needs them.
//! What is held for a person stays.
//!
//! Architecture invariant: the files of what is live are there. Servers share the folder and the store without a common
//! lock, so files are first set aside under another name; then the store is asked once more, and they are removed or
//! put back. Whoever makes a version live looks for its files after the swap. Of the two, at least one notices the other.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::fs;

use super::{format, registry::RegistryError};
use crate::{
    engine::handle::Version,
    store::{AdapterRecord, AdapterStore, AdapterUse, StoreError},
};

/// What folders are called that are set aside: this, then the version.
const ASIDE: &str = ".pruned-";

/// A folder that is being written for longer than this was left behind by a server that was killed: writing takes
/// seconds.
const UNFINISHED: Duration = Duration::from_secs(24 * 3600);

/// What is in the folder of adapters.
#[derive(Default)]
struct Found {
    versions: BTreeSet<Version>,
    aside: BTreeSet<Version>,
    unfinished: Vec<PathBuf>,
}

/// Removes the files of dismissed adapters, and those of spare ones that are not among the newest `keep`, unless
/// `is_leased` holds. Files that the store knows nothing of are left alone. Returns the versions whose files are gone.
pub(super) async fn prune(
    store: &dyn AdapterStore,
    dir: &Path,
    keep: usize,
    is_leased: impl Fn(&Version) -> bool + Send,
) -> Result<Vec<Version>, RegistryError> {
    let found = look(dir).await.map_err(|source| failed(dir, source))?;
    for path in &found.unfinished {
        remove(path).await.map_err(|source| failed(dir, source))?;
    }
    let mut removed = Vec::new();
    // What a server left that was killed half-way.
    for version in found.aside {
        if settle(store, dir, &version).await? {
            removed.push(version);
        }
    }
    for version in unneeded(store, found.versions, keep, is_leased).await? {
        let (home, aside) = places(dir, &version);
        match fs::rename(&home, &aside).await {
            Ok(()) => {}
            // Another server was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(dir, source)),
        }
        if settle(store, dir, &version).await? {
            removed.push(version);
        }
    }
    Ok(removed)
}

async fn look(dir: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let mut entries = match fs::read_dir(dir).await {
        // It is made with the first adapter.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(version) = name.parse::<Version>() {
            found.versions.insert(version);
        } else if let Some(Ok(version)) = name.strip_prefix(ASIDE).map(str::parse) {
            found.aside.insert(version);
        } else if name.starts_with(format::WRITING) && is_old(&entry).await {
            found.unfinished.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether nobody can be writing into a folder any more; not, if its age is not known.
async fn is_old(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().await.and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > UNFINISHED))
}

/// The versions on disk whose files may go, as far as can be said before they are set aside.
async fn unneeded(
    store: &dyn AdapterStore,
    versions: BTreeSet<Version>,
    keep: usize,
    is_leased: impl Fn(&Version) -> bool + Send,
) -> Result<Vec<Version>, StoreError> {
    let mut unneeded = Vec::new();
    let mut kept: Vec<(AdapterRecord, AdapterUse)> = Vec::new();
    for version in versions {
        match store.adapter_use(&version).await? {
            Some((_, AdapterUse::Dismissed)) => unneeded.push(version),
            Some(known) => kept.push(known),
            None => {}
        }
    }
    kept.sort_by(|(a, _), (b, _)| (b.created_at, &b.version).cmp(&(a.created_at, &a.version)));
    let surplus = kept.into_iter().skip(keep).filter(|(_, how)| *how == AdapterUse::Spare);
    unneeded.extend(surplus.map(|(record, _)| record.version).filter(|version| !is_leased(version)));
    Ok(unneeded)
}

/// Decides about files that are set aside, which nobody can have begun to use since: returns whether they are gone.
async fn settle(store: &dyn AdapterStore, dir: &Path, version: &Version) -> Result<bool, RegistryError> {
    let (home, aside) = places(dir, version);
    let needed = match store.adapter_use(version).await {
        Ok(how) => how.is_some_and(|(_, how)| how == AdapterUse::Needed),
        Err(error) => {
            // In doubt they stay. If they cannot be put back, the next look does it.
            let _ = fs::rename(&aside, &home).await;
            return Err(error.into());
        }
    };
    // They are there under both names if they were saved anew in the meantime.
    if needed && !home.is_dir() {
        fs::rename(&aside, &home).await.map_err(|source| failed(dir, source))?;
        return Ok(false);
    }
    remove(&aside).await.map_err(|source| failed(dir, source))?;
    Ok(!needed)
}

/// Removes a folder, which another server may be removing too.
async fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Where the files of a version are, and where they are once they are set aside.
fn places(dir: &Path, version: &Version) -> (PathBuf, PathBuf) {
    (dir.join(version.as_str()), dir.join(format!("{ASIDE}{version}")))
}

fn failed(dir: &Path, source: io::Error) -> RegistryError {
    RegistryError::Prune { path: dir.into(), source }
}
