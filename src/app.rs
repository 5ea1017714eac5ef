//! The composition root: the only place that constructs the parts and wires them together.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device};
use chrono::Utc;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

#[cfg(feature = "cuda")]
use crate::engine::model::cuda;
use crate::{
    adaptation::{
        checkpoint::CheckpointFolder,
        round::Workbench,
        rounds::{RoundError, RoundOptions, Rounds},
        schedule::Schedule,
    },
    adapters::{
        probe::Probe,
        registry::{Registry, RegistryError},
    },
    answering::{Answering, AskError},
    completing::Completing,
    config::{self, ClientKey, KeyFileError, OperatorKey, Settings},
    engine::{
        handle::{Engine, EngineError, ModelInfo},
        model::{
            chat_template::{ChatTemplate, ChatTemplateError},
            decoder::Decoder,
            device::{self, DeviceMemory},
            error::ModelError,
            source::{self, Progress},
            weights::{self, Checkpoint},
        },
        sizes,
        thread::{EngineOptions, LocalEngine},
        turnstile::Turnstile,
    },
    evaluation::Evaluations,
    http::{self, AppState},
    prompt::{PromptError, PromptTemplate},
    prompter::{Prompter, PrompterError},
    store::{self, RoundTrigger, Store, StoreError, spool},
    telemetry::Metrics,
};

/// How often the server looks whether the database is back, another server has swapped, what was promoted does well, or
/// a round is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long it takes until a scheduled round that could not be started is tried again.
const RESTART_INTERVAL: Duration = Duration::from_secs(600);

/// How often it is told that what was promoted cannot be watched.
const WATCH_INTERVAL: Duration = Duration::from_secs(600);

/// How often files are looked for that nobody needs. A round does so when it ends; what is left comes from servers that
/// were killed.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// Why the program could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the device cannot be used: {0}")]
    Device(String),
    /// With the bytes that a token takes.
    #[error(
        "the weights leave {} MiB of the device's {} MiB free, half of which is too little for a cache: a token takes {} KiB; \
         set engine.cache_tokens by hand, or choose a smaller model or another `device`",
        memory.free >> 20, memory.total >> 20, bytes >> 10
    )]
    NoCache { memory: DeviceMemory, bytes: u64 },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{0} has no tokenizer: put its tokenizer.json into the folder, or use a GGUF file")]
    NoTokenizer(PathBuf),
    #[error("the model's chat template cannot be used: {0}")]
    Chat(#[from] ChatTemplateError),
    #[error("the model's tensors cannot be used: {0}")]
    Tensors(#[from] candle_core::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Prompter(#[from] PrompterError),
    #[error("cannot make the data directory {path}: {source}; choose another with --data-dir")]
    DataDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("no question could be answered with the settings under `answer`: {0}")]
    Defaults(#[source] AskError),
    #[error("the metrics could not be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot listen on {bind}: {source}; choose another address with --bind")]
    Bind { bind: SocketAddr, source: io::Error },
    #[error("a part of the start was interrupted")]
    Interrupted,
    #[error("the engine has stopped, which only a new start mends; the log says why")]
    EngineStopped,
}

/// What stands in for parts of the model that the settings name, where something is measured; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct StandIns {
    /// Random weights of the shape that this `config.json` describes; the tokenizer stays the model's.
    pub random_weights: Option<PathBuf>,
    /// The tokenizer of this GGUF file, if the model has none.
    pub tokenizer: Option<PathBuf>,
}

/// A model at work, before questions are put to it.
pub struct OpenModel {
    pub engine: Arc<dyn Engine>,
    pub decoder: Arc<Decoder>,
    pub turnstile: Arc<Turnstile>,
    pub chat: Option<ChatTemplate>,
}

/// Finds (and, if need be, fetches) the model, loads it and starts the engine. Blocks for seconds.
///
/// # Errors
/// Whatever is wrong with the device, the model or the prompt template.
pub fn open_workbench(settings: &Settings, progress: &dyn Progress) -> Result<Workbench, AppError> {
    open_workbench_with(settings, &StandIns::default(), progress)
}

/// [`open_workbench`] with parts of another model.
///
/// # Errors
/// The same.
pub fn open_workbench_with(
    settings: &Settings,
    stand_ins: &StandIns,
    progress: &dyn Progress,
) -> Result<Workbench, AppError> {
    let template = PromptTemplate::open(&settings.prompt_template)?;
    let OpenModel { engine, decoder, turnstile, chat } = open_model(settings, stand_ins, progress)?;
    let prompter = Arc::new(Prompter::new(engine.clone(), template, chat)?.with_reading(settings.grading));
    Ok(Workbench { engine, prompter, decoder, turnstile })
}

/// The model and its engine alone, for which no prompt template has to fit.
///
/// # Errors
/// Whatever is wrong with the device or the model.
pub fn open_model(settings: &Settings, stand_ins: &StandIns, progress: &dyn Progress) -> Result<OpenModel, AppError> {
    let device = open_device(settings.device)?;
    let files = source::resolve(&settings.model, &settings.models_dir(), progress)?;
    let dtype = match settings.dtype {
        config::Dtype::Auto if device.is_metal() => DType::F32,
        config::Dtype::Auto | config::Dtype::Bf16 => DType::BF16,
        config::Dtype::F32 => DType::F32,
    };
    let (name, checkpoint) = match &stand_ins.random_weights {
        None => (files.name, weights::load_as(&files.path, &device, dtype)?),
        Some(shape) => {
            (format!("random weights of {}", shape.display()), weights::random(shape, &files.path, &device, dtype)?)
        }
    };
    let Checkpoint { config, mut tensors, tokenizer, chat_template, fingerprint } = checkpoint;
    let spare = || stand_ins.tokenizer.as_deref().map(weights::load_tokenizer).transpose();
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer,
        None => spare()?.flatten().ok_or(AppError::NoTokenizer(files.path))?,
    };
    let text_of = |id: u32| {
        let specials = tokenizer.special_tokens().iter();
        specials.filter(|(_, special)| *special == id).map(|(text, _)| text.clone()).next()
    };
    let bos = tokenizer.bos().and_then(text_of);
    let eos = tokenizer.end_tokens().first().copied().and_then(text_of);
    let chat = chat_template.map(|source| ChatTemplate::parse(&source, bos, eos)).transpose()?;
    let decoder = Arc::new(Decoder::new(config, &mut tensors, &device)?);
    let info = ModelInfo {
        name,
        fingerprint,
        context_tokens: decoder.config().context_tokens,
        vocab_size: decoder.config().vocab_size,
        parameters: decoder.parameters(),
    };
    info!(model = info.name, parameters = info.parameters, ?device, "the model is loaded");
    let turnstile = Arc::new(Turnstile::new(settings.engine.background_share).on(device.clone()));
    let cache_tokens = match settings.engine.cache_tokens {
        Some(tokens) => tokens,
        None => fitting_cache(&decoder)?,
    };
    let options = EngineOptions { cache_tokens, max_waiting: settings.engine.max_waiting };
    let engine: Arc<dyn Engine> =
        Arc::new(LocalEngine::start(info, decoder.clone(), Arc::new(tokenizer), turnstile.clone(), options)?);
    Ok(OpenModel { engine, decoder, turnstile, chat })
}

/// The size of a cache that is not set, in tokens.
fn fitting_cache(decoder: &Decoder) -> Result<usize, AppError> {
    let device = decoder.device();
    // What loading took is freed, but in pieces that a cache does not fit into.
    device::give_back(device);
    let Some(memory) = device::memory(device)? else { return Ok(sizes::DEFAULT_CACHE_ROWS) };
    let bytes = decoder.config().cache_bytes_per_token(decoder.dtype());
    let tokens = sizes::cache_rows(memory, bytes).ok_or(AppError::NoCache { memory, bytes })?;
    info!(tokens, mib = (tokens as u64 * bytes) >> 20, free_mib = memory.free >> 20, "the cache has its size");
    Ok(tokens)
}

#[cfg(feature = "metal")]
fn open_metal() -> Result<Device, AppError> {
    Device::new_metal(0).map_err(|error| AppError::Device(format!("metal: {error}")))
}

#[cfg(not(feature = "metal"))]
fn open_metal() -> Result<Device, AppError> {
    Err(AppError::Device(
        "metal was asked for, but this build has no Metal: build with `--features metal` on a Mac, or choose `cpu`"
            .into(),
    ))
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device, AppError> {
    cuda::open(index).map_err(|error| AppError::Device(format!("cuda:{index}: {error}")))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> Result<Device, AppError> {
    Err(AppError::Device(format!(
        "cuda:{index} was asked for, but this build has no CUDA: build with `--features cuda`, or choose `cpu`"
    )))
}

fn open_device(wanted: config::Device) -> Result<Device, AppError> {
    match wanted {
        config::Device::Cpu => Ok(Device::Cpu),
        config::Device::Cuda(index) => open_cuda(index),
        config::Device::Metal => open_metal(),
        config::Device::Auto if candle_core::utils::cuda_is_available() => Ok(open_cuda(0).unwrap_or_else(|error| {
            warn!(%error, "the CPU is used instead");
            Device::Cpu
        })),
        config::Device::Auto => Ok(Device::Cpu),
    }
}

/// A server that is ready to serve.
pub struct Server {
    listener: TcpListener,
    state: AppState,
    rounds: Rounds,
    schedule: Schedule,
    deadline: Duration,
}

impl Server {
    /// Opens everything that a server needs and listens.
    ///
    /// # Errors
    /// Whatever is missing or wrong, before anything is served.
    pub async fn start(settings: Settings, progress: impl Progress + Send + 'static) -> Result<Self, AppError> {
        let started = Instant::now();
        let path = settings.data_dir.clone();
        fs::create_dir_all(&path).map_err(|source| AppError::DataDir { path, source })?;
        let bind = settings.server.bind;
        let listener = TcpListener::bind(bind).await.map_err(|source| AppError::Bind { bind, source })?;
        let operator_key = match &settings.operator_key {
            Some(key) => OperatorKey::new(key.expose_secret()),
            None => OperatorKey::load_or_create(&settings.operator_key_path())?,
        };
        let client_key = ClientKey::load_or_create(&settings.client_key_path())?;
        let database = store::connect(settings.database_address().expose_secret()).await?;
        let store = Arc::new(spool::Spooled::open(database, &settings.spool_path(), spool::MAX_SPOOL_BYTES).await?);
        let for_opening = settings.clone();
        let opening = tokio::task::spawn_blocking(move || open_workbench(&for_opening, &progress));
        let bench = opening.await.map_err(|_| AppError::Interrupted)??;
        let metrics = Arc::new(Metrics::new()?);
        let engine = bench.engine.clone();
        let (dir, keep) = (settings.adapters_dir(), settings.adapters.keep);
        let probe =
            Probe { engine: engine.clone(), decoder: bench.decoder.clone(), turnstile: bench.turnstile.clone() };
        let registry = Registry::open(engine.clone(), store.clone(), dir, keep).await?;
        let registry = Arc::new(registry.with_probe(probe));
        let answering = Arc::new(Answering::new(
            engine.clone(),
            registry.clone(),
            store.clone(),
            bench.prompter.clone(),
            settings.answer.clone(),
            metrics.clone(),
        ));
        let prompter = bench.prompter.clone();
        let completing = Arc::new(Completing::new(engine.clone(), registry.clone(), prompter, metrics.clone()));
        answering.check_defaults().map_err(AppError::Defaults)?;
        let options = RoundOptions {
            recipe: settings.learning.clone(),
            lease_seconds: settings.rounds.lease_seconds,
            checkpoints: CheckpointFolder(settings.checkpoints_dir()),
        };
        let rounds = Rounds::new(bench, store.clone(), registry.clone(), options, metrics.clone());
        let evaluations = Arc::new(Evaluations::new(Arc::new(rounds.evaluator()), registry.clone(), store.clone()));
        let schedule = Schedule {
            every_questions: settings.schedule.every_questions,
            every_minutes: settings.schedule.every_minutes,
        };
        let deadline = Duration::from_secs(settings.server.shutdown_deadline_seconds);
        let state = AppState {
            answering,
            completing,
            engine,
            registry,
            evaluations,
            rounds: Arc::new(rounds.clone()),
            store,
            metrics,
            operator_key,
            client_key,
            settings: Arc::new(settings.server),
        };
        state.metrics.start_seconds.set(started.elapsed().as_secs_f64());
        Ok(Self { listener, state, rounds, schedule, deadline })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The version that answers now.
    pub fn live(&self) -> String {
        self.state.registry.live().version().to_string()
    }

    /// Serves until `shutdown` is cancelled; then interrupts the work in the background, finishes the requests that are under way,
    /// and returns.
    ///
    /// # Errors
    /// If the engine stops meanwhile: then nothing can be answered any more, and whoever started the server should start it
    /// again. A round that ran is gone on with by the next start.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AppError> {
        let chores =
            tokio::spawn(chores(self.state.clone(), self.rounds.clone(), self.schedule, shutdown.child_token()));
        let (rounds, evaluations) = (self.rounds.clone(), self.state.evaluations.clone());
        let stopping = shutdown.clone();
        let stop_work = tokio::spawn(async move {
            stopping.cancelled().await;
            tokio::join!(rounds.stop(), evaluations.stop());
        });
        let (engine, stopping) = (self.state.engine.clone(), shutdown.clone());
        let engine_end = tokio::spawn(async move {
            let has_stopped = stopping.run_until_cancelled(engine.stopped()).await.is_some();
            if has_stopped {
                error!("the engine has stopped, and so does the server");
                stopping.cancel();
            }
            has_stopped
        });
        http::serve(self.listener, self.state, shutdown.clone(), self.deadline).await;
        shutdown.cancel();
        // A panic in one of these is logged by its own span; the server is ending anyway.
        let (_, _, has_stopped) = tokio::join!(chores, stop_work, engine_end);
        if matches!(has_stopped, Ok(true)) { Err(AppError::EngineStopped) } else { Ok(()) }
    }
}

/// What is not done, or told, again so soon.
struct Pauses {
    /// When a scheduled round may be started again, after one that could not be.
    start_at: Instant,
    /// When it is told again that nothing can be watched.
    tell_at: Instant,
}

/// What has to be looked after while the server runs.
async fn chores(state: AppState, rounds: Rounds, schedule: Schedule, shutdown: CancellationToken) {
    let started = Utc::now();
    let mut database_is_away = false;
    let mut prune_at = Instant::now();
    let mut pauses = Pauses { start_at: prune_at, tell_at: prune_at };
    while shutdown.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
        let work = chore(&state, &rounds, schedule, started, &mut pauses);
        // A replay of the spool may be cut off anywhere: what is not done is done at the next start.
        let Some(result) = shutdown.run_until_cancelled(work).await else { return };
        match (&result, database_is_away) {
            (Err(error), false) => warn!(%error, "the database does not answer; answers are kept on disk meanwhile"),
            (Ok(()), true) => info!("the database answers again"),
            _ => {}
        }
        database_is_away = result.is_err();
        if !database_is_away && prune_at <= Instant::now() {
            prune_at = Instant::now() + PRUNE_INTERVAL;
            if let Some(Err(error)) = shutdown.run_until_cancelled(state.registry.prune()).await {
                warn!(%error, "some files of adapters that nobody needs are still there");
            }
        }
    }
}

async fn chore(
    state: &AppState,
    rounds: &Rounds,
    schedule: Schedule,
    started: chrono::DateTime<Utc>,
    pauses: &mut Pauses,
) -> Result<(), StoreError> {
    let replayed = state.store.replay().await;
    state.metrics.spooled_records.set(state.store.spooled_records() as i64);
    if let Ok(replayed) = &replayed
        && replayed.records > 0
    {
        info!(records = replayed.records, damaged = replayed.damaged, "answers from the spool are in the database");
    }
    replayed?;
    rounds.recover().await?;
    match state.registry.refresh().await {
        Ok(true) => info!(live = %state.registry.live().version(), "another server has changed the live version"),
        Ok(false) => {}
        Err(RegistryError::Store(error)) => return Err(error),
        Err(error) => error!(%error, "another server's live version cannot be used here; the old one serves on"),
    }
    match rounds.watch().await {
        Err(error @ StoreError::Unavailable(_)) => return Err(error),
        Err(error) if pauses.tell_at <= Instant::now() => {
            error!(%error, "what was promoted cannot be watched");
            pauses.tell_at = Instant::now() + WATCH_INTERVAL;
        }
        _ => {}
    }
    if !schedule.is_active() || Instant::now() < pauses.start_at {
        return Ok(());
    }
    let since = state.store.last_round_at().await?.unwrap_or(started);
    if schedule.is_due(state.store.questions_since_last_round().await?, since, Utc::now()) {
        match rounds.start(RoundTrigger::Schedule, None).await {
            Ok(_) | Err(RoundError::Conflict(_) | RoundError::NothingToLearn | RoundError::Stopping) => {}
            Err(RoundError::Store(error)) => return Err(error),
            Err(error) => {
                warn!(%error, "the scheduled round is not started; it is tried again in ten minutes");
                pauses.start_at = Instant::now() + RESTART_INTERVAL;
            }
        }
    }
    Ok(())
}
