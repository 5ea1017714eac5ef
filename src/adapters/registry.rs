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
    store::{AdapterRecord, Attempt, LIVE, ModelId, Promoter, Round, SharedStore, StoreError, UNKNOWN_MODEL, Watch},
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
    store: SharedStore,
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
        store: SharedStore,
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
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        time::{Duration, SystemTime},
    };

    use async_trait::async_trait;
    use candle_core::{Device, Tensor};
    use chrono::DateTime;
    use tempfile::TempDir;
    use tokio::sync::Barrier;
    use uuid::Uuid;

    use super::*;
    use crate::{
        engine::{
            handle::{EngineStats, GenerateRequest, Group, Line, ModelInfo},
            model::{
                lora::{LoraConfig, Projection, peft_name},
                tokenizer::Tokenizer,
            },
        },
        store::{
            AdapterUse, Answer, Candidate, EvaluationSet, EvaluationStore, EvaluationSummary, Feedback, FeedbackStore,
            Given, GivenBack, Question, RoundQuestion, RoundStep, RoundUpdate, SeenAnswer, Span, Store, Unfinished,
            WatchStore,
        },
    };

    /// Counts what it loads and what is still held; a lease's weights are the name of its version.
    struct FakeEngine {
        info: ModelInfo,
        loads: AtomicUsize,
        resident: Arc<AtomicUsize>,
        broken: AtomicBool,
        /// Takes no adapter, as if all had other shapes.
        odd: AtomicBool,
        /// A folder that somebody removes while the next adapter is loaded.
        vanishing: Mutex<Option<PathBuf>>,
    }

    impl FakeEngine {
        fn of(name: &str) -> Self {
            let info = ModelInfo {
                name: name.into(),
                fingerprint: format!("{name}'s weights"),
                context_tokens: 1,
                vocab_size: 1,
                parameters: 1,
            };
            Self {
                info,
                loads: AtomicUsize::default(),
                resident: Arc::default(),
                broken: AtomicBool::default(),
                odd: AtomicBool::default(),
                vanishing: Mutex::default(),
            }
        }
    }

    struct Weights {
        version: Version,
        resident: Arc<AtomicUsize>,
    }

    impl Drop for Weights {
        fn drop(&mut self) {
            self.resident.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[async_trait]
    impl Engine for FakeEngine {
        fn check(&self, _: &GenerateRequest) -> Result<(), EngineError> {
            Ok(())
        }

        fn base(&self) -> Lease {
            Lease::new(Version::base(), ())
        }

        async fn load_adapter(&self, adapter: Arc<Adapter>) -> Result<Lease, EngineError> {
            tokio::task::yield_now().await;
            if self.broken.load(Ordering::SeqCst) {
                return Err(EngineError::Stopped);
            }
            if self.odd.load(Ordering::SeqCst) {
                return Err(EngineError::AdapterMismatch("of another shape".into()));
            }
            if let Some(folder) = self.vanishing.lock().unwrap().take() {
                std::fs::remove_dir_all(folder).unwrap();
            }
            self.loads.fetch_add(1, Ordering::SeqCst);
            self.resident.fetch_add(1, Ordering::SeqCst);
            let version = adapter.version.clone();
            Ok(Lease::new(version.clone(), Weights { version, resident: self.resident.clone() }))
        }

        fn line(&self) -> &Line {
            unimplemented!("a registry does not ask")
        }

        fn info(&self) -> &ModelInfo {
            &self.info
        }

        fn tokenizer(&self) -> &Tokenizer {
            unimplemented!("a registry does not ask")
        }

        fn stats(&self) -> EngineStats {
            unimplemented!("a registry does not ask")
        }

        async fn generate(&self, _: Vec<GenerateRequest>) -> Result<Vec<Group>, EngineError> {
            unimplemented!("a registry does not ask")
        }
    }

    /// Remembers adapters and aliases only.
    #[derive(Default)]
    struct FakeStore {
        /// What is said of an adapter, one after the other, the last for ever; of others, that they are spare.
        uses: Mutex<BTreeMap<Version, Vec<AdapterUse>>>,
        adapters: Mutex<BTreeMap<Version, AdapterRecord>>,
        aliases: Mutex<BTreeMap<(String, String), Version>>,
    }

    #[async_trait]
    impl EvaluationStore for FakeStore {
        async fn put_evaluation_set(&self, _: &EvaluationSet) -> Result<(), StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn evaluation_set(&self, _: &str) -> Result<Option<EvaluationSet>, StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn evaluation_sets(&self) -> Result<Vec<EvaluationSummary>, StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn remove_evaluation_set(&self, _: &str) -> Result<bool, StoreError> {
            unimplemented!("a registry does not ask")
        }
    }

    #[async_trait]
    impl FeedbackStore for FakeStore {
        async fn put_feedback(&self, _: Uuid, _: &Feedback) -> Result<(), StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn feedback(&self, _: Uuid) -> Result<Option<Feedback>, StoreError> {
            unimplemented!("a registry does not ask")
        }
    }

    #[async_trait]
    impl WatchStore for FakeStore {
        async fn watched_rounds(&self, _: &str) -> Result<Vec<Round>, StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn given(&self, _: &Version, _: DateTime<Utc>, _: u32) -> Result<Given, StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn seen_answers(&self, _: &Version, _: Span, _: u32) -> Result<Vec<SeenAnswer>, StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn record_watch(&self, _: &Round, _: &Watch) -> Result<bool, StoreError> {
            unimplemented!("a registry does not ask")
        }

        async fn roll_back(&self, _: &str, _: &Round, _: &Watch) -> Result<bool, StoreError> {
            unimplemented!("no test here rolls back")
        }

        async fn was_rolled_back(&self, _: &str) -> Result<bool, StoreError> {
            unimplemented!("a registry does not ask")
        }
    }

    macro_rules! not_asked {
        ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
            #[async_trait]
            impl Store for FakeStore {
                $(async fn $name(&self, $(_: $argument),*) -> Result<$result, StoreError> {
                    unimplemented!("a registry does not ask")
                })*

                async fn record_adapter(&self, adapter: &AdapterRecord) -> Result<(), StoreError> {
                    self.adapters.lock().unwrap().entry(adapter.version.clone()).or_insert(adapter.clone());
                    Ok(())
                }

                async fn adapter(&self, version: &Version) -> Result<Option<AdapterRecord>, StoreError> {
                    Ok(self.adapters.lock().unwrap().get(version).cloned())
                }

                async fn adapters(&self, limit: u32, _: Option<&Version>) -> Result<Vec<AdapterRecord>, StoreError> {
                    Ok(self.adapters.lock().unwrap().values().take(limit as usize).cloned().collect())
                }

                async fn adapter_use(
                    &self,
                    version: &Version,
                ) -> Result<Option<(AdapterRecord, AdapterUse)>, StoreError> {
                    let mut uses = self.uses.lock().unwrap();
                    let said = match uses.get_mut(version) {
                        None => AdapterUse::Spare,
                        Some(uses) if uses.len() == 1 => uses[0],
                        Some(uses) => uses.remove(0),
                    };
                    Ok(self.adapters.lock().unwrap().get(version).map(|record| (record.clone(), said)))
                }

                async fn alias(&self, model: &str, name: &str) -> Result<Option<Version>, StoreError> {
                    tokio::task::yield_now().await;
                    Ok(self.aliases.lock().unwrap().get(&(model.into(), name.into())).cloned())
                }

                async fn swap_alias(
                    &self,
                    model: &str,
                    name: &str,
                    expected: Option<&Version>,
                    new: &Version,
                ) -> Result<bool, StoreError> {
                    let mut aliases = self.aliases.lock().unwrap();
                    let key = (model.into(), name.into());
                    let swaps = aliases.get(&key) == expected;
                    if swaps {
                        aliases.insert(key, new.clone());
                    }
                    Ok(swaps)
                }
            }
        };
    }

    not_asked! {
        ping() -> ();
        record_answer(&Question, &Answer) -> ();
        answer(Uuid) -> Option<(Question, Answer)>;
        learnable(u32) -> Vec<Candidate>;
        questions_since_last_round() -> u64;
        last_round_at() -> Option<DateTime<Utc>>;
        create_round(&Round, &[RoundQuestion], u32) -> Attempt;
        unfinished_round() -> Option<Unfinished>;
        take_over(Uuid, u32) -> Attempt;
        give_back(&Attempt, GivenBack) -> ();
        heartbeat(&Attempt, u32) -> ();
        update_round(&Attempt, RoundUpdate) -> ();
        reject_held(Uuid, &str) -> ();
        round(Uuid) -> Option<Round>;
        rounds(u32, Option<Uuid>) -> Vec<Round>;
        record_step(&Attempt, &RoundStep) -> ();
        steps(Uuid) -> Vec<RoundStep>;
        record_round_questions(&Attempt, &[RoundQuestion]) -> ();
        record_candidate(&Attempt, &AdapterRecord) -> ();
        promote(Promoter, &str, Option<&Version>, &Version) -> bool;
        round_questions(Uuid) -> Vec<RoundQuestion>;
    }

    struct World {
        engine: Arc<FakeEngine>,
        store: Arc<FakeStore>,
        dir: TempDir,
    }

    impl World {
        fn new() -> Self {
            Self { engine: Arc::new(FakeEngine::of("small")), store: Arc::default(), dir: tempfile::tempdir().unwrap() }
        }

        /// A registry as one more server on the same store and disk would have it.
        async fn open(&self) -> Result<Registry, RegistryError> {
            self.open_with(&self.engine).await
        }

        /// A registry as a server of another model would have it.
        async fn open_with(&self, engine: &Arc<FakeEngine>) -> Result<Registry, RegistryError> {
            Registry::open(engine.clone(), self.store.clone(), self.dir.path().into(), 2).await
        }

        fn say(&self, version: &Version, uses: &[AdapterUse]) {
            self.store.uses.lock().unwrap().insert(version.clone(), uses.to_vec());
        }

        /// The names in the folder of adapters.
        fn on_disk(&self) -> BTreeSet<String> {
            let entries = std::fs::read_dir(self.dir.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }

        fn resident(&self) -> usize {
            self.engine.resident.load(Ordering::SeqCst)
        }
    }

    fn files(value: f32) -> Files {
        let config = LoraConfig { r: 1, alpha: 1.0, targets: vec![Projection::QProj] };
        let tensor = |shape| Tensor::full(value, shape, &Device::Cpu).unwrap();
        let tensors =
            [('A', (1, 2)), ('B', (2, 1))].map(|(half, shape)| (peft_name(0, Projection::QProj, half), tensor(shape)));
        format::encode(&config, &tensors.into(), "m").unwrap()
    }

    async fn add(registry: &Registry, value: f32) -> Version {
        registry.add(files(value), Version::base(), None).await.unwrap()
    }

    #[tokio::test]
    async fn the_base_model_is_live_at_first() {
        let registry = World::new().open().await.unwrap();
        assert!(registry.live().version().is_base());
        assert!(registry.list(10, None).await.unwrap().is_empty());
        assert!(!registry.refresh().await.unwrap());
    }

    #[tokio::test]
    async fn a_restart_comes_back_with_the_live_version() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let version = add(&registry, 1.0).await;
        assert!(registry.activate(Some(&Version::base()), &version).await.unwrap().is_base());
        drop(registry);
        assert_eq!(world.resident(), 0);
        let registry = world.open().await.unwrap();
        assert_eq!(registry.live().version(), &version);
        assert_eq!(registry.activate(None, &Version::base()).await.unwrap(), version);
        assert!(world.open().await.unwrap().live().version().is_base());
    }

    #[tokio::test]
    async fn a_live_version_without_sound_files_stops_the_start() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let version = add(&registry, 1.0).await;
        registry.activate(None, &version).await.unwrap();
        let weights = registry.folder(&version).join("adapter_model.safetensors");
        std::fs::write(&weights, b"torn").unwrap();
        let damaged = world.open().await.err().unwrap().to_string();
        assert!(damaged.contains(version.as_str()) && damaged.contains("is damaged"), "{damaged}");
        std::fs::remove_dir_all(registry.folder(&version)).unwrap();
        let missing = world.open().await.err().unwrap().to_string();
        assert!(missing.contains("files of adapter") && missing.contains("put its files back"), "{missing}");
    }

    #[tokio::test]
    async fn a_version_that_does_not_load_does_not_become_live() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let unknown = registry.activate(None, &files(9.0).version).await.unwrap_err();
        assert!(matches!(unknown, RegistryError::Unknown(_)), "{unknown}");
        let version = add(&registry, 1.0).await;
        world.engine.broken.store(true, Ordering::SeqCst);
        let broken = registry.activate(None, &version).await.unwrap_err();
        assert!(matches!(broken, RegistryError::Engine(EngineError::Stopped)), "{broken}");
        std::fs::remove_dir_all(registry.folder(&version)).unwrap();
        let missing = registry.activate(None, &version).await.unwrap_err();
        assert!(matches!(missing, RegistryError::FilesMissing { .. }), "{missing}");
        assert!(registry.live().version().is_base());
        assert!(world.store.aliases.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn every_model_has_its_own_live_version_and_takes_no_others() {
        let world = World::new();
        let large = Arc::new(FakeEngine::of("large"));
        let registry = world.open().await.unwrap();
        let version = add(&registry, 1.0).await;
        registry.activate(None, &version).await.unwrap();
        assert_eq!(registry.list(1, None).await.unwrap()[0].model.as_ref(), Some(registry.model()));

        let other = world.open_with(&large).await.unwrap();
        assert!(other.live().version().is_base());
        let refused = other.activate(None, &version).await.unwrap_err().to_string();
        assert!(refused.contains("made for the model small (small's weig)"), "{refused}");
        assert!(refused.contains("this server serves large (large's weig)"), "{refused}");
        let own = add(&other, 2.0).await;
        other.activate(Some(&Version::base()), &own).await.unwrap();
        assert!(!registry.refresh().await.unwrap(), "what another model does is none of this one's concern");

        assert_eq!(world.open().await.unwrap().live().version(), &version);
        assert_eq!(world.open_with(&large).await.unwrap().live().version(), &own);
    }

    #[tokio::test]
    async fn what_was_live_before_models_were_told_apart_goes_to_the_first_model_that_it_fits() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let versions = [add(&registry, 1.0).await, add(&registry, 2.0).await];
        world.store.adapters.lock().unwrap().values_mut().for_each(|record| record.model = None);
        world.store.swap_alias(UNKNOWN_MODEL, LIVE, None, &versions[0]).await.unwrap();

        let large = Arc::new(FakeEngine::of("large"));
        large.odd.store(true, Ordering::SeqCst);
        assert!(world.open_with(&large).await.unwrap().live().version().is_base());
        for _ in 0..2 {
            assert_eq!(world.open().await.unwrap().live().version(), &versions[0]);
        }
        let registry = world.open().await.unwrap();
        registry.activate(Some(&versions[0]), &versions[1]).await.unwrap();
        let third = world.open_with(&Arc::new(FakeEngine::of("third"))).await.unwrap();
        assert!(third.live().version().is_base(), "it is taken over once");
    }

    #[tokio::test]
    async fn a_version_is_resident_once_and_until_its_last_lease_ends() {
        let world = World::new();
        let registry = Arc::new(world.open().await.unwrap());
        let version = add(&registry, 1.0).await;
        let tasks = (0..16).map(|_| {
            let (registry, version) = (registry.clone(), version.clone());
            tokio::spawn(async move { registry.lease(&version).await.unwrap() })
        });
        let mut leases = futures::future::try_join_all(tasks).await.unwrap();
        assert_eq!((world.engine.loads.load(Ordering::SeqCst), world.resident()), (1, 1));
        let last = leases.pop().unwrap();
        drop(leases);
        assert_eq!(world.resident(), 1);
        drop(last);
        assert_eq!(world.resident(), 0);
        assert_eq!(registry.lease(&version).await.unwrap().version(), &version);
        assert_eq!(world.engine.loads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_version_that_is_named_again_is_not_loaded_again_until_four_others_were() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let mut versions = Vec::new();
        for value in 0..=MAX_RECENT {
            versions.push(add(&registry, value as f32).await);
        }
        let loads = || world.engine.loads.load(Ordering::SeqCst);
        // The first is named in between, so the second has waited longest when the last one comes.
        for index in [0, 1, 0, 2, 0, 3, 0] {
            registry.named(Some(versions[index].as_str())).await.unwrap();
        }
        assert_eq!((loads(), world.resident()), (MAX_RECENT, MAX_RECENT));
        for (index, expected) in [(4, 5), (0, 5), (1, 6)] {
            registry.named(Some(versions[index].as_str())).await.unwrap();
            assert_eq!((loads(), world.resident()), (expected, MAX_RECENT));
        }
        registry.prune().await.unwrap();
        assert_eq!(world.resident(), 0, "files of what nobody uses can be removed");
    }

    #[tokio::test]
    async fn a_lease_outlives_a_swap() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let (old, new) = (add(&registry, 1.0).await, add(&registry, 2.0).await);
        registry.activate(None, &old).await.unwrap();
        let lease = registry.live();
        registry.activate(Some(&old), &new).await.unwrap();
        assert_eq!(lease.weights::<Weights>().unwrap().version, old);
        assert_eq!(registry.live().version(), &new);
        assert_eq!(world.resident(), 2);
        drop(lease);
        assert_eq!(world.resident(), 1);
    }

    #[tokio::test]
    async fn only_one_of_two_servers_wins_a_swap_and_the_other_follows() {
        let world = World::new();
        let (one, other) = (world.open().await.unwrap(), world.open().await.unwrap());
        let (a, b) = (add(&one, 1.0).await, add(&one, 2.0).await);
        let base = Version::base();
        let (first, second) = tokio::join!(one.activate(Some(&base), &a), other.activate(Some(&base), &b));
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        let winner = if first.is_ok() { &a } else { &b };
        let conflict = first.err().or(second.err()).unwrap();
        assert!(matches!(&conflict, RegistryError::Conflict { found, .. } if found == winner), "{conflict}");
        let refreshed = (one.refresh().await.unwrap(), other.refresh().await.unwrap());
        assert!(refreshed.0 != refreshed.1);
        assert_eq!((one.live().version(), other.live().version()), (winner, winner));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_always_see_one_whole_live_version() {
        let world = World::new();
        let registry = Arc::new(world.open().await.unwrap());
        let versions = [add(&registry, 1.0).await, add(&registry, 2.0).await];
        registry.activate(None, &versions[0]).await.unwrap();
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(5)));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (registry, stop, begun) = (registry.clone(), stop.clone(), begun.clone());
                tokio::spawn(async move {
                    begun.wait().await;
                    while !stop.load(Ordering::SeqCst) {
                        let lease = registry.live();
                        assert_eq!(&lease.weights::<Weights>().unwrap().version, lease.version());
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        begun.wait().await;
        for turn in 1..=100 {
            let previous = registry.activate(Some(&versions[(turn + 1) % 2]), &versions[turn % 2]).await.unwrap();
            assert_eq!(previous, versions[(turn + 1) % 2]);
        }
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(world.resident(), 1);
    }

    fn names<'a>(versions: impl IntoIterator<Item = &'a Version>) -> BTreeSet<String> {
        versions.into_iter().map(Version::to_string).collect()
    }

    #[tokio::test]
    async fn the_newest_files_and_those_in_use_stay_and_the_others_are_removed() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        assert!(registry.prune().await.unwrap().is_empty());
        let mut versions = Vec::new();
        for value in 0..5 {
            versions.push(add(&registry, value as f32).await);
        }
        let unknown = "f".repeat(64);
        std::fs::create_dir(world.dir.path().join(&unknown)).unwrap();
        world.say(&versions[0], &[AdapterUse::Needed]);
        let lease = registry.lease(&versions[1]).await.unwrap();
        assert_eq!(registry.prune().await.unwrap(), [versions[2].clone()]);
        let mut left = names([&versions[0], &versions[1], &versions[3], &versions[4]]);
        left.insert(unknown.clone());
        assert_eq!(world.on_disk(), left);
        assert_eq!(registry.list(10, None).await.unwrap().len(), 5, "the records stay");
        assert!(!registry.is_on_disk(&versions[2]) && registry.is_on_disk(&versions[3]));
        let removed = registry.activate(None, &versions[2]).await.unwrap_err();
        assert!(matches!(removed, RegistryError::FilesMissing { .. }), "{removed}");

        drop(lease);
        assert_eq!(registry.prune().await.unwrap(), [versions[1].clone()]);
        world.say(&versions[4], &[AdapterUse::Dismissed]);
        assert_eq!(registry.prune().await.unwrap(), [versions[4].clone()], "however new it is");
        left.retain(|name| ![&versions[1], &versions[4]].contains(&&name.parse().unwrap()));
        assert_eq!(world.on_disk(), left);
    }

    #[tokio::test]
    async fn files_that_come_into_use_while_they_are_set_aside_are_put_back() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let version = add(&registry, 1.0).await;
        world.say(&version, &[AdapterUse::Dismissed, AdapterUse::Needed]);
        assert!(registry.prune().await.unwrap().is_empty());
        assert_eq!(world.on_disk(), names([&version]));
        registry.activate(None, &version).await.unwrap();
    }

    #[tokio::test]
    async fn what_killed_servers_left_behind_is_cleared_up() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let (needed, spare) = (add(&registry, 1.0).await, add(&registry, 2.0).await);
        world.say(&needed, &[AdapterUse::Needed]);
        for version in [&needed, &spare] {
            std::fs::rename(registry.folder(version), world.dir.path().join(format!(".pruned-{version}"))).unwrap();
        }
        for (name, hours) in [(".writing-old", 25), (".writing-new", 1)] {
            let folder = world.dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let time = SystemTime::now() - Duration::from_secs(hours * 3600);
            std::fs::File::open(&folder).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(registry.prune().await.unwrap(), [spare]);
        let mut left = names([&needed]);
        left.insert(".writing-new".into());
        assert_eq!(world.on_disk(), left);
    }

    #[tokio::test]
    async fn a_version_whose_files_are_removed_while_it_is_activated_does_not_stay_live() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        let version = add(&registry, 1.0).await;
        *world.engine.vanishing.lock().unwrap() = Some(registry.folder(&version));
        let missing = registry.activate(None, &version).await.unwrap_err();
        assert!(matches!(missing, RegistryError::FilesMissing { .. }), "{missing}");
        assert!(registry.live().version().is_base());
        assert!(world.open().await.unwrap().live().version().is_base(), "a restart is not lost");
    }

    #[tokio::test]
    async fn adding_twice_is_adding_once() {
        let world = World::new();
        let registry = world.open().await.unwrap();
        assert_eq!(add(&registry, 1.0).await, add(&registry, 1.0).await);
        let records = registry.list(10, None).await.unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].bytes, files(1.0).bytes());
        assert_eq!(registry.adapter(&records[0].version).await.unwrap().config.r, 1);
    }
}
