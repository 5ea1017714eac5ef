use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use candle_core::{Device, Tensor};
use tempfile::TempDir;
use tokio::sync::Barrier;

use super::*;
use crate::{
    engine::{
        handle::{EngineStats, GenerateRequest, Group, Line, ModelInfo},
        model::{
            lora::{LoraConfig, Projection, peft_name},
            tokenizer::Tokenizer,
        },
    },
    store::AdapterUse,
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

    fn tokenizer(&self) -> &Arc<Tokenizer> {
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
impl AdapterStore for FakeStore {
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

    async fn adapter_use(&self, version: &Version) -> Result<Option<(AdapterRecord, AdapterUse)>, StoreError> {
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

    async fn record_candidate(&self, _: &Attempt, _: &AdapterRecord) -> Result<(), StoreError> {
        unimplemented!("no test here has a round")
    }

    async fn promote(&self, _: Promoter, _: &str, _: Option<&Version>, _: &Version) -> Result<bool, StoreError> {
        unimplemented!("no test here has a round")
    }

    async fn roll_back(&self, _: &str, _: &Round, _: &Watch) -> Result<bool, StoreError> {
        unimplemented!("no test here has a round")
    }
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
