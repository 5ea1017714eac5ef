//! What becomes live is tried: what serving computes with it is compared with the training pass.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use candle_core::Tensor;
use tempfile::TempDir;
use ttrl::{
    adapters::{
        format,
        probe::{Probe, ProbeError},
        registry::{Registry, RegistryError},
    },
    engine::{
        handle::{Engine, EngineError, EngineStats, GenerateRequest, Group, Lease, Line, ModelInfo, Version},
        model::{lora::Adapter, tokenizer::Tokenizer},
        thread::LocalEngine,
        turnstile::Turnstile,
    },
    store::connect,
};

use crate::engine::{PROMPT, adapter_of, one, request, tiny};

/// The engine of the tiny model, which loads other weights than it is given when told to.
struct Crooked {
    engine: Arc<LocalEngine>,
    is_crooked: AtomicBool,
}

#[async_trait]
impl Engine for Crooked {
    fn info(&self) -> &ModelInfo {
        self.engine.info()
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.engine.tokenizer()
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    fn line(&self) -> &Line {
        self.engine.line()
    }

    fn base(&self) -> Lease {
        self.engine.base()
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), EngineError> {
        self.engine.check(request)
    }

    async fn generate(&self, requests: Vec<GenerateRequest>) -> Result<Vec<Group>, EngineError> {
        self.engine.generate(requests).await
    }

    async fn load_adapter(&self, adapter: Arc<Adapter>) -> Result<Lease, EngineError> {
        let mut adapter = Adapter::clone(&adapter);
        if self.is_crooked.load(Ordering::SeqCst) {
            adapter.config.alpha = -adapter.config.alpha;
        }
        self.engine.load_adapter(Arc::new(adapter)).await
    }
}

struct World {
    engine: Arc<Crooked>,
    registry: Registry,
    _dir: TempDir,
}

async fn start() -> World {
    let tiny = tiny();
    let engine = Arc::new(Crooked { engine: tiny.engine, is_crooked: AtomicBool::new(false) });
    let dir = tempfile::tempdir().unwrap();
    let store = connect(&format!("sqlite:{}", dir.path().join("t.sqlite").display())).await.unwrap();
    let probe = Probe { engine: engine.clone(), decoder: tiny.decoder, turnstile: Arc::new(Turnstile::new(0.5)) };
    let registry = Registry::open(engine.clone(), store, dir.path().join("adapters"), 20).await.unwrap();
    World { engine, registry: registry.with_probe(probe), _dir: dir }
}

impl World {
    async fn add(&self, change: impl Fn(&Tensor) -> Tensor) -> Version {
        let adapter = adapter_of('a');
        let tensors = adapter.tensors.iter().map(|(name, tensor)| (name.clone(), change(tensor))).collect();
        let files = format::encode(&adapter.config, &tensors, "tiny").unwrap();
        self.registry.add(files, Version::base(), None).await.unwrap()
    }
}

#[tokio::test]
async fn a_version_that_serves_as_it_was_trained_becomes_live() {
    let world = start().await;
    let versions = [world.add(Tensor::clone).await, world.add(|tensor| (tensor * 0.5).unwrap()).await];
    for version in [&versions[0], &versions[1], &Version::base(), &versions[0]] {
        world.registry.activate(None, version).await.unwrap();
        assert_eq!(world.registry.live().version(), version);
    }
}

#[tokio::test]
async fn a_version_that_serves_otherwise_than_it_was_trained_does_not_become_live() {
    let world = start().await;
    let (sound, other) = (world.add(Tensor::clone).await, world.add(|tensor| (tensor * 2.0).unwrap()).await);
    world.registry.activate(None, &sound).await.unwrap();
    let ask = || one(&*world.engine, request(world.registry.live(), &PROMPT, 1, 8, 3));
    let before = ask().await;
    world.engine.is_crooked.store(true, Ordering::SeqCst);
    let error = world.registry.activate(None, &other).await.unwrap_err();
    assert!(error.to_string().contains("log-probabilities differ by"), "{error}");
    assert!(matches!(error, RegistryError::Probe { source: ProbeError::OtherWeights { .. }, .. }));
    let after = ask().await;
    assert_eq!((&after.version, &after.rollouts[0].tokens), (&sound, &before.rollouts[0].tokens));
    assert!(!world.registry.refresh().await.unwrap(), "the store was not touched");
}
