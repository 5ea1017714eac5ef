//! Which adapter version is live, and leases on any version.
//!
//! Architecture invariant: there is a live version at every moment. A swap first makes the new version resident, then
//! changes the alias in the store, then the pointer in memory; whoever took a lease before keeps the old version.
//!
//! An adapter belongs to the model that it was made for, and every model has a live version of its own.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use chrono::Utc;

use crate::{
    adapters::{
        format::{self, Files, FormatError},
        probe::{Probe, ProbeError},
        prune,
    },
    engine::{
        handle::{Engine, EngineError, Lease, Version, WeakLease},
        model::lora::Adapter,
    },
    store::{AdapterRecord, AdapterStore, Attempt, LIVE, ModelId, Promoter, Round, StoreError, UNKNOWN_MODEL, Watch},
};

/// Versions that requests named and that stay resident for a while: 20 MB each for the default model and rank.
const MAX_RECENT: usize = 4;

/// Why an adapter is not available, or was not swapped.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("there is no adapter {0}")]
    Unknown(Version),
    /// A name that stands for no version.
    #[error("there is no model {0:?}; GET /v1/models lists them")]
    NoSuchName(String),
    /// Somebody else has swapped.
    #[error("the live adapter is {found}, not {expected}: somebody else has changed it")]
    Conflict { expected: Version, found: Version },
    /// Another model of the same shape would take the adapter, and talk nonsense.
    #[error("adapter {version} was made for the model {made_for}, and this server serves {served}")]
    OtherModel { version: Version, made_for: ModelId, served: ModelId },
    /// The store knows the adapter, this machine's disk does not have it.
    #[error("the files of adapter {version} are missing from {}", path.display())]
    FilesMissing { version: Version, path: PathBuf },
    #[error("files that nobody needs cannot be removed from {}: {source}", path.display())]
    Prune { path: PathBuf, source: io::Error },
    /// The adapter that should be live when the program starts cannot be.
    #[error("the live adapter {version} cannot be loaded: {source}; put its files back, or use another data directory")]
    Live { version: Version, source: Box<RegistryError> },
    /// Serving computes something else with the version than training does, or one of them fails.
    #[error("adapter {version} is not activated: {source}")]
    Probe { version: Version, source: ProbeError },
    #[error("adapter {version}: {source}")]
    Files { version: Version, source: FormatError },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Disk work was cut off, because the program is stopping.
    #[error("interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// The adapters of one engine, with their files in one folder and their records in one store. Several servers may
/// share a store; each has its own registry.
pub struct Registry {
    engine: Arc<dyn Engine>,
    store: Arc<dyn AdapterStore>,
    dir: PathBuf,
    keep: usize,
    /// What the engine serves.
    model: ModelId,
    live: ArcSwap<Lease>,
    /// Tries what is to become live, if there is one.
    probe: Option<Probe>,
    /// The version that another server made live, and that did not pass here.
    refused: Mutex<Option<Version>>,
    /// Versions that someone held when last looked at.
    resident: Mutex<HashMap<Version, WeakLease>>,
    /// Versions that requests named, the last one at the end; resident until others come or files are removed.
    recent: Mutex<VecDeque<Lease>>,
    /// Held while a version is loaded, so that none is loaded twice at once.
    loading: tokio::sync::Mutex<()>,
    /// Held while the live version changes, so that memory follows the store in the store's order.
    swapping: tokio::sync::Mutex<()>,
}

impl Registry {
    /// Comes back with the version that the alias [`LIVE`] of the engine's model stands for, the base model if there is
    /// none. `dir` holds one folder a version; it is made when the first adapter is added, and [`Self::prune`] leaves
    /// the newest `keep` in it.
    pub async fn open(
        engine: Arc<dyn Engine>,
        store: Arc<dyn AdapterStore>,
        dir: PathBuf,
        keep: usize,
    ) -> Result<Self, RegistryError> {
        let registry = Self {
            keep,
            model: ModelId::from(engine.info()),
            live: ArcSwap::from_pointee(engine.base()),
            probe: None,
            refused: Mutex::default(),
            engine,
            store,
            dir,
            resident: Mutex::default(),
            recent: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            swapping: tokio::sync::Mutex::default(),
        };
        let lease = match registry.alias().await? {
            Some(version) => registry.lease(&version).await.map_err(|source| not_live(version, source))?,
            None => registry.take_over().await?,
        };
        registry.live.store(Arc::new(lease));
        Ok(registry)
    }

    /// The same registry, which tries every version before it becomes live.
    pub fn with_probe(self, probe: Probe) -> Self {
        Self { probe: Some(probe), ..self }
    }

    /// The version that was live before versions belonged to models becomes that of the first model that it fits: until
    /// then, one data directory was for one model. The base model if there is no such version.
    async fn take_over(&self) -> Result<Lease, RegistryError> {
        let Some(version) = self.store.alias(UNKNOWN_MODEL, LIVE).await?.filter(|version| !version.is_base()) else {
            return Ok(self.engine.base());
        };
        let lease = match self.lease(&version).await {
            Ok(lease) => lease,
            Err(RegistryError::Engine(EngineError::AdapterMismatch(reason))) => {
                tracing::warn!(%version, reason, "the adapter that was live is another model's; the base model is live");
                return Ok(self.engine.base());
            }
            Err(source) => return Err(not_live(version, source)),
        };
        // In this order: whenever the program is killed, some model has it.
        self.store.swap_alias(&self.model.fingerprint, LIVE, None, &version).await?;
        self.store.swap_alias(UNKNOWN_MODEL, LIVE, Some(&version), &Version::base()).await?;
        Ok(lease)
    }

    /// The live version of this model, if one was ever activated.
    async fn alias(&self) -> Result<Option<Version>, StoreError> {
        self.store.alias(&self.model.fingerprint, LIVE).await
    }

    /// A lease on the live version. Never waits.
    pub fn live(&self) -> Lease {
        Lease::clone(&self.live.load())
    }

    /// A lease on what a name stands for, see [`Self::resolve`]; without a name, on the live version.
    pub async fn named(&self, name: Option<&str>) -> Result<Lease, RegistryError> {
        match name {
            None => Ok(self.live()),
            Some(name) if self.means_live(name) => Ok(self.live()),
            Some(name) => {
                let lease = self.lease(&self.resolve(name).await?).await?;
                self.keep(&lease);
                Ok(lease)
            }
        }
    }

    /// Keeps a version resident for the requests that may follow.
    fn keep(&self, lease: &Lease) {
        if lease.version().is_base() {
            return;
        }
        let mut recent = self.recent();
        recent.retain(|kept| kept.version() != lease.version());
        recent.push_back(lease.clone());
        if recent.len() > MAX_RECENT {
            recent.pop_front();
        }
    }

    /// The version that a client means: `base`, [`LIVE`] or the model's own name, or a version in full that can be
    /// loaded here.
    pub async fn resolve(&self, name: &str) -> Result<Version, RegistryError> {
        if self.means_live(name) {
            return Ok(self.live().version().clone());
        }
        let unknown = || RegistryError::NoSuchName(name.chars().take(80).collect());
        let version: Version = name.parse().map_err(|_| unknown())?;
        // What is in memory was checked when it came there.
        if version.is_base() || self.find_resident(&version).is_some() {
            return Ok(version);
        }
        match self.check_model(&version).await {
            Err(RegistryError::Unknown(_)) => Err(unknown()),
            other => other,
        }?;
        if self.is_on_disk(&version) { Ok(version) } else { Err(self.files_missing(&version)) }
    }

    fn means_live(&self, name: &str) -> bool {
        name == LIVE || name == self.model.name
    }

    /// A lease on a version, which is loaded if it is not resident.
    pub async fn lease(&self, version: &Version) -> Result<Lease, RegistryError> {
        if version.is_base() {
            return Ok(self.engine.base());
        }
        if let Some(lease) = self.find_resident(version) {
            return Ok(lease);
        }
        let _loading = self.loading.lock().await;
        // Somebody else may have loaded it while this waited.
        if let Some(lease) = self.find_resident(version) {
            return Ok(lease);
        }
        let lease = self.engine.load_adapter(Arc::new(self.adapter(version).await?)).await?;
        let mut resident = self.resident();
        resident.retain(|_, weak| weak.upgrade().is_some());
        resident.insert(version.clone(), lease.downgrade());
        Ok(lease)
    }

    /// The weights of a version as data, checked against it. The base model has none and is unknown here.
    pub async fn adapter(&self, version: &Version) -> Result<Adapter, RegistryError> {
        let path = self.folder(version);
        if version.is_base() || !path.is_dir() {
            return Err(match self.store.adapter(version).await? {
                Some(_) => self.files_missing(version),
                None => RegistryError::Unknown(version.clone()),
            });
        }
        let expected = version.clone();
        let read = tokio::task::spawn_blocking(move || format::read_verified(&path, &expected)).await?;
        read.map_err(|source| match self.is_on_disk(version) {
            true => RegistryError::Files { version: version.clone(), source },
            // Another server has removed them meanwhile.
            false => self.files_missing(version),
        })
    }

    /// Keeps a new adapter: its files are on disk before the store knows of it. One that a round made is the candidate of
    /// that round from then on. Adding one again changes nothing.
    pub async fn add(
        &self,
        files: Files,
        parent: Version,
        made_by: Option<&Attempt>,
    ) -> Result<Version, RegistryError> {
        let (version, bytes, dir) = (files.version.clone(), files.bytes(), self.dir.clone());
        tokio::task::spawn_blocking(move || format::write(&dir, &files))
            .await?
            .map_err(|source| RegistryError::Files { version: version.clone(), source })?;
        let record = AdapterRecord {
            version: version.clone(),
            model: Some(self.model.clone()),
            parent_version: parent,
            round_id: made_by.map(Attempt::round),
            bytes,
            created_at: Utc::now(),
        };
        match made_by {
            Some(attempt) => self.store.record_candidate(attempt, &record).await?,
            None => self.store.record_adapter(&record).await?,
        }
        Ok(version)
    }

    /// Makes a version live, forward or back, and returns the one that was. With `expected`, only if that one is live
    /// now; without, whatever is. After an error the old version is live; if the store's reply was lost on the way,
    /// [`Self::refresh`] catches up.
    pub async fn activate(&self, expected: Option<&Version>, version: &Version) -> Result<Version, RegistryError> {
        let _swapping = self.swapping.lock().await;
        let Ready { lease, alias, current } = self.prepare(expected, version).await?;
        if !self.store.swap_alias(&self.model.fingerprint, LIVE, alias.as_ref(), version).await? {
            return Err(self.overtaken(current).await?);
        }
        if !self.is_on_disk(version) {
            // Another server has removed them before it could see the swap: a restart would not find them.
            self.store.swap_alias(&self.model.fingerprint, LIVE, Some(version), &current).await?;
            return Err(self.files_missing(version));
        }
        self.live.store(Arc::new(lease));
        Ok(current)
    }

    /// Makes the candidate of a round live, if the version that the round began with still is, or if the candidate is
    /// already, and ends the round as promoted, in one. Nobody removes the files of a candidate whose round has not
    /// ended. After an error the old version is live here, and doing it again is safe: if it was done, and only the
    /// store's reply was lost, it is not done twice, whatever has become live since.
    pub async fn promote(&self, by: Promoter, parent: &Version, candidate: &Version) -> Result<(), RegistryError> {
        let _swapping = self.swapping.lock().await;
        let Ready { lease, alias, current } = self.prepare(None, candidate).await?;
        let is_expected = [parent, candidate].contains(&&current);
        // What is not expected is asked for all the same: the store knows whether this was done before.
        let expected = if is_expected { alias } else { Some(parent.clone()) };
        if !self.store.promote(by, &self.model.fingerprint, expected.as_ref(), candidate).await? {
            return Err(self.overtaken(parent.clone()).await?);
        }
        if is_expected {
            self.live.store(Arc::new(lease));
        }
        Ok(())
    }

    /// Makes the version live again that a round began with, if its candidate still is, and writes down the watch that
    /// found the candidate to be worse, in one; returns whether it did. It does not if the watch has ended meanwhile.
    /// After an error the candidate is live here, and doing it again with the same watch is safe, as in
    /// [`Self::promote`].
    pub async fn roll_back(&self, round: &Round, watch: &Watch) -> Result<bool, RegistryError> {
        let Some(candidate) = &round.candidate_version else { return Ok(false) };
        let _swapping = self.swapping.lock().await;
        // What is not expected is asked for all the same: the store knows whether this was done before.
        let Ready { lease, current, .. } = self.prepare(None, &round.parent_version).await?;
        let rolled_back = self.store.roll_back(&self.model.fingerprint, round, watch).await?;
        if rolled_back && [candidate, &round.parent_version].contains(&&current) {
            self.live.store(Arc::new(lease));
        }
        Ok(rolled_back)
    }

    /// Makes sure that a version can become live now; with `expected`, in the place of that one.
    async fn prepare(&self, expected: Option<&Version>, version: &Version) -> Result<Ready, RegistryError> {
        self.check_model(version).await?;
        // Weights that are resident need no files, but the next start does.
        if !self.is_on_disk(version) {
            return Err(self.files_missing(version));
        }
        let lease = self.lease(version).await?;
        let alias = self.alias().await?;
        let current = alias.clone().unwrap_or_else(Version::base);
        let expected = expected.unwrap_or(&current);
        if *expected != current {
            return Err(RegistryError::Conflict { expected: expected.clone(), found: current });
        }
        self.try_out(&lease).await?;
        Ok(Ready { lease, alias, current })
    }

    /// What is said when somebody else has swapped since [`Self::prepare`].
    async fn overtaken(&self, expected: Version) -> Result<RegistryError, RegistryError> {
        let found = self.alias().await?.unwrap_or_else(Version::base);
        Ok(RegistryError::Conflict { expected, found })
    }

    /// Whether a version may be live here. One that was saved before adapters belonged to models may, if its shapes fit.
    async fn check_model(&self, version: &Version) -> Result<(), RegistryError> {
        if version.is_base() {
            return Ok(());
        }
        let record = self.store.adapter(version).await?;
        match record.ok_or_else(|| RegistryError::Unknown(version.clone()))?.model {
            Some(made_for) if made_for.fingerprint != self.model.fingerprint => {
                Err(RegistryError::OtherModel { version: version.clone(), made_for, served: self.model.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Follows a swap made by another server on the same store; returns whether there was one. After an error the
    /// old version stays live.
    pub async fn refresh(&self) -> Result<bool, RegistryError> {
        let _swapping = self.swapping.lock().await;
        let version = self.alias().await?.unwrap_or_else(Version::base);
        if *self.live().version() == version {
            return Ok(false);
        }
        if self.refused.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&version) {
            return Ok(false);
        }
        let lease = self.lease(&version).await?;
        let tried = self.try_out(&lease).await;
        if matches!(tried, Err(RegistryError::Probe { source: ProbeError::OtherWeights { .. }, .. })) {
            // Trying it again would give the same.
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
        }
        tried?;
        self.live.store(Arc::new(lease));
        Ok(true)
    }

    /// Compares what serving computes with a version, as it is resident, with what training does with its files.
    async fn try_out(&self, lease: &Lease) -> Result<(), RegistryError> {
        let version = lease.version();
        // The base model is what training starts from: there is nothing to compare, and a way back must not wait.
        let Some(probe) = self.probe.as_ref().filter(|_| !version.is_base()) else { return Ok(()) };
        let tried = probe.check(lease, self.adapter(version).await?).await;
        tried.map_err(|source| RegistryError::Probe { version: version.clone(), source })
    }

    /// The model that is served.
    pub fn model(&self) -> &ModelId {
        &self.model
    }

    /// The adapters that were saved, for whichever model, newest first; those that came before one, if it is given.
    pub async fn list(&self, limit: u32, before: Option<&Version>) -> Result<Vec<AdapterRecord>, RegistryError> {
        Ok(self.store.adapters(limit, before).await?)
    }

    /// Where the files of a version are, if this machine has them.
    pub fn folder(&self, version: &Version) -> PathBuf {
        Path::join(&self.dir, version.as_str())
    }

    /// Whether a version can be loaded from this machine's disk; the base model needs no files.
    pub fn is_on_disk(&self, version: &Version) -> bool {
        version.is_base() || self.folder(version).is_dir()
    }

    /// Removes the files of adapters whose round did not promote them, and of those that nobody needs and that are not
    /// among the newest ones; returns which. Their records stay.
    pub async fn prune(&self) -> Result<Vec<Version>, RegistryError> {
        // What is only kept for requests that may follow is in nobody's use.
        self.recent().clear();
        let is_leased = |version: &Version| self.find_resident(version).is_some();
        let removed = prune::prune(&*self.store, &self.dir, self.keep, is_leased).await?;
        if !removed.is_empty() {
            tracing::info!(versions = ?removed, "removed the files of adapters that nobody needs");
        }
        Ok(removed)
    }

    fn files_missing(&self, version: &Version) -> RegistryError {
        RegistryError::FilesMissing { version: version.clone(), path: self.folder(version) }
    }

    fn find_resident(&self, version: &Version) -> Option<Lease> {
        self.resident().get(version).and_then(WeakLease::upgrade)
    }

    // Both are whole between any two of their operations, even if a thread died holding them.
    fn resident(&self) -> MutexGuard<'_, HashMap<Version, WeakLease>> {
        self.resident.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Lease>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A version that may become live, and what is live now.
struct Ready {
    lease: Lease,
    alias: Option<Version>,
    /// What `alias` stands for, the base model without one.
    current: Version,
}

fn not_live(version: Version, source: RegistryError) -> RegistryError {
    RegistryError::Live { version, source: Box::new(source) }
}

#[cfg(test)]
mod tests;
