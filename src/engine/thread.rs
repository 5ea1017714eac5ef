//! The engine of this process: one OS thread owns the cache and runs the decoder.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use candle_core::Device;
use tokio::sync::oneshot;
use tracing::{Span, error};

use crate::engine::{
    handle::{
        Engine, EngineError, EngineStats, GenerateRequest, Group, Lease, Line, MAX_TOP_TOKENS, ModelInfo, Priority,
        Version,
    },
    model::{
        decoder::Decoder,
        device,
        lora::{Adapter, Lora},
        tokenizer::Tokenizer,
    },
    runner::{Runner, Weights},
    scheduler::{JobId, Plan, Scheduler, largest_request, worst_case_rows},
    sizes::{DEFAULT_CACHE_ROWS, StepRows},
    turnstile::Turnstile,
};

/// How long the thread sleeps while only background work is there and it is not its turn.
const BACKGROUND_POLL: Duration = Duration::from_millis(1);

/// Bounds of the engine, each with a default that suits the default model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Token positions in the key-value cache. The default model takes 46 kB for each on a CPU, half of that on a GPU.
    pub cache_tokens: usize,
    /// Calls of clients that may be unanswered at a time; more are refused. At a second each, the last of 256 waits
    /// four minutes.
    pub max_waiting: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { cache_tokens: DEFAULT_CACHE_ROWS, max_waiting: 256 }
    }
}

/// A call of `generate` on its way to the thread.
struct Job {
    requests: Vec<GenerateRequest>,
    reply: oneshot::Sender<Result<Vec<Group>, EngineError>>,
    span: Span,
    arrived: Instant,
}

/// An engine that runs in this process.
pub struct LocalEngine {
    info: ModelInfo,
    decoder: Arc<Decoder>,
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
    base: Lease,
    stats: Arc<Mutex<EngineStats>>,
    line: Line,
    /// `None` only while dropping.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl LocalEngine {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// If the cache cannot be allocated or the thread cannot be started.
    pub fn start(
        info: ModelInfo,
        decoder: Arc<Decoder>,
        tokenizer: Arc<Tokenizer>,
        turnstile: Arc<Turnstile>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        let runner = device::with_memory(decoder.device(), || Runner::new(decoder.clone(), options.cache_tokens))
            .map_err(|error| cache_error(error, &decoder, options.cache_tokens))?;
        let (sender, receiver) = mpsc::channel();
        let idle = EngineStats { cache_tokens_capacity: options.cache_tokens, ..EngineStats::default() };
        let stats = Arc::new(Mutex::new(idle));
        let worker = Worker {
            device: decoder.device().clone(),
            runner,
            scheduler: Scheduler::new(tokenizer.clone(), options.cache_tokens),
            jobs: HashMap::new(),
            next_job: 0,
            step_rows: StepRows::on(decoder.device()),
            turnstile,
            stats: stats.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || worker.run(&receiver))
            .map_err(|error| EngineError::Compute(format!("the engine's thread could not be started: {error}")))?;
        Ok(Self {
            info,
            decoder,
            tokenizer,
            base: Lease::new(Version::base(), Weights(None)),
            stats,
            line: Line::new(options.max_waiting),
            options,
            jobs: Some(sender),
            thread: Some(thread),
        })
    }
}

/// Says of a cache that found no memory how much it takes and how much there is.
fn cache_error(error: candle_core::Error, decoder: &Decoder, tokens: usize) -> EngineError {
    match (EngineError::from(error), device::memory(decoder.device())) {
        (EngineError::OutOfMemory(cause), Ok(Some(memory))) => {
            let taken = decoder.config().cache_bytes_per_token(decoder.dtype()) * tokens as u64;
            let (taken, free) = (taken >> 20, memory.free >> 20);
            EngineError::OutOfMemory(format!("a cache of {tokens} tokens takes {taken} MiB, {free} are free ({cause})"))
        }
        (error, _) => error,
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the engine's thread had panicked");
        }
    }
}

#[async_trait]
impl Engine for LocalEngine {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> &Line {
        &self.line
    }

    fn base(&self) -> Lease {
        self.base.clone()
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), EngineError> {
        let unservable = |text: String| Err(EngineError::Unservable(text));
        if request.prompt.is_empty() {
            return unservable("the prompt has no tokens".into());
        }
        let report = &request.report;
        if request.samples == 0 || (request.sampling.max_tokens == 0 && report.prompt.is_none()) {
            return unservable("at least one sample of at least one token must be asked for".into());
        }
        if let Some(top) = report.tokens.max(report.prompt).filter(|&top| top > MAX_TOP_TOKENS) {
            return unservable(format!("{top} most likely tokens are asked for, {MAX_TOP_TOKENS} is the limit"));
        }
        if let Some(token) = request.prompt.iter().find(|&&token| token as usize >= self.info.vocab_size) {
            return unservable(format!("the prompt has token {token}, the model has {}", self.info.vocab_size));
        }
        let mut biased = request.sampling.logit_bias.keys();
        if let Some(token) = biased.find(|&&token| token as usize >= self.info.vocab_size) {
            return unservable(format!("the bias is for token {token}, the model has {}", self.info.vocab_size));
        }
        let length = request.prompt.len().saturating_add(request.sampling.max_tokens);
        if length > self.info.context_tokens {
            return unservable(format!(
                "the prompt has {} tokens and up to {} are to be generated, the model's context has {}",
                request.prompt.len(),
                request.sampling.max_tokens,
                self.info.context_tokens
            ));
        }
        let rows = worst_case_rows(request);
        let limit = largest_request(self.options.cache_tokens, request.priority);
        if rows > limit {
            return unservable(format!(
                "{} samples of up to {} tokens after a prompt of {} need {rows} cached tokens, the limit is {limit}: ask \
                 for fewer or shorter samples, or raise engine.cache_tokens",
                request.samples,
                request.sampling.max_tokens,
                request.prompt.len()
            ));
        }
        Ok(())
    }

    async fn generate(&self, requests: Vec<GenerateRequest>) -> Result<Vec<Group>, EngineError> {
        requests.iter().try_for_each(|request| self.check(request))?;
        let (reply, answer) = oneshot::channel();
        let job = Job { requests, reply, span: Span::current(), arrived: Instant::now() };
        let jobs = self.jobs.as_ref().ok_or(EngineError::Stopped)?;
        jobs.send(job).map_err(|_| EngineError::Stopped)?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    async fn load_adapter(&self, adapter: Arc<Adapter>) -> Result<Lease, EngineError> {
        let decoder = self.decoder.clone();
        let load = move || {
            let shape = |projection| decoder.projection_shape(projection);
            let lora = Lora::new(&adapter.config, &adapter.tensors, decoder.config().layers.len(), shape)
                .map_err(EngineError::AdapterMismatch)?;
            let lora = device::with_memory(decoder.device(), || lora.to_device(decoder.device()))?;
            Ok(Lease::new(adapter.version.clone(), Weights(Some(lora))))
        };
        tokio::task::spawn_blocking(load).await.map_err(|_| EngineError::Stopped)?
    }
}

/// A call of `generate` under way.
struct Pending {
    reply: oneshot::Sender<Result<Vec<Group>, EngineError>>,
    span: Span,
    groups: Vec<Option<Group>>,
}

/// What the thread owns.
struct Worker {
    device: Device,
    runner: Runner,
    scheduler: Scheduler,
    jobs: HashMap<JobId, Pending>,
    next_job: JobId,
    step_rows: StepRows,
    turnstile: Arc<Turnstile>,
    stats: Arc<Mutex<EngineStats>>,
}

impl Drop for Worker {
    /// However the thread ends, background work must not wait for requests that nobody answers any more.
    fn drop(&mut self) {
        self.turnstile.set_requests_present(false);
    }
}

impl Worker {
    /// Runs until the last handle is gone and its work is dropped.
    fn run(mut self, receiver: &Receiver<Job>) {
        let mut wait = None;
        loop {
            let received = match wait {
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(timeout) => receiver.recv_timeout(timeout),
            };
            match received {
                Ok(job) => self.accept_job(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            receiver.try_iter().for_each(|job| self.accept_job(job));
            self.scheduler.cancel(|job| self.jobs.get(&job).is_none_or(|pending| pending.reply.is_closed()));
            self.jobs.retain(|_, pending| !pending.reply.is_closed());
            for (job, index, group) in self.scheduler.admit(Instant::now()) {
                self.complete(job, index, group);
            }
            let requests = self.scheduler.load(Priority::Request);
            // One that only waits, for rollouts to leave their places, must not hold those rollouts up.
            self.turnstile.set_requests_present(requests.1 > 0);
            self.publish_stats();
            let worked = self.work();
            wait = match (worked, self.jobs.is_empty()) {
                (_, true) => None,
                (true, _) => Some(Duration::ZERO),
                (false, _) => Some(BACKGROUND_POLL),
            };
            if wait.is_none() {
                self.turnstile.set_requests_present(false);
                self.publish_stats();
            }
        }
    }

    fn accept_job(&mut self, job: Job) {
        if job.requests.is_empty() {
            // Nothing to do; that there is a reply says that the thread is alive.
            let _ = job.reply.send(Ok(vec![]));
            return;
        }
        let id = self.next_job;
        self.next_job += 1;
        let groups = (0..job.requests.len()).map(|_| None).collect();
        self.jobs.insert(id, Pending { reply: job.reply, span: job.span, groups });
        self.scheduler.enqueue(id, job.requests, job.arrived);
    }

    /// One step for requests, then one for rollouts if it is their turn. Returns whether anything was computed.
    fn work(&mut self) -> bool {
        let mut worked = false;
        let turnstile = self.turnstile.clone();
        let StepRows { requests, rollouts_under_load, rollouts_idle } = self.step_rows;
        let plan = self.scheduler.plan(Priority::Request, requests);
        let rows = if plan.is_some() { rollouts_under_load } else { rollouts_idle };
        if let Some(plan) = plan {
            turnstile.request(|| self.step(&plan));
            worked = true;
        }
        if let Some(plan) = self.scheduler.plan(Priority::Rollout, rows) {
            worked |= turnstile.try_background(|| self.step(&plan)).is_some();
        }
        worked
    }

    fn step(&mut self, plan: &Plan) {
        // Inside the thread pool, so that its threads stay awake between one operation and the next.
        let finished = rayon::scope(|_| {
            let wanted = self.scheduler.wanted(plan);
            let Self { runner, scheduler, device, .. } = self;
            let outputs = device::with_memory(device, || runner.compute(&scheduler.tree, plan, &wanted))?;
            candle_core::Result::Ok(scheduler.accept(plan, outputs, Instant::now()))
        });
        match finished {
            Ok(finished) => {
                // Whoever has an answer finds it counted.
                self.publish_stats();
                for (job, index, group) in finished {
                    self.complete(job, index, group);
                }
            }
            Err(error) => {
                let versions: Vec<_> = plan.leases.iter().map(|(lease, _)| lease.version().as_str()).collect();
                error!(error = %EngineError::from(&error), ?versions, rows = plan.rows.len(), "a step failed");
                for job in self.scheduler.fail(plan) {
                    if let Some(pending) = self.jobs.remove(&job) {
                        // The client may be gone; then nobody needs the error.
                        let _ = pending.reply.send(Err(EngineError::from(&error)));
                    }
                }
            }
        }
    }

    fn complete(&mut self, job: JobId, index: usize, group: Group) {
        let Some(pending) = self.jobs.get_mut(&job) else { return };
        pending.groups[index] = Some(group);
        if pending.groups.iter().all(Option::is_some)
            && let Some(pending) = self.jobs.remove(&job)
        {
            pending.span.in_scope(|| tracing::debug!(groups = pending.groups.len(), "generated"));
            // The client may be gone; its answer is then dropped.
            let _ = pending.reply.send(Ok(pending.groups.into_iter().flatten().collect()));
        }
    }

    fn publish_stats(&self) {
        let (requests_waiting, requests_running) = self.scheduler.load(Priority::Request);
        let (rollouts_waiting, rollouts_running) = self.scheduler.load(Priority::Rollout);
        let totals = self.scheduler.totals;
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = EngineStats {
            requests_running,
            requests_waiting,
            rollouts_running,
            rollouts_waiting,
            cache_tokens_used: self.scheduler.tree.used(),
            cache_tokens_capacity: self.scheduler.tree.capacity(),
            prompt_tokens_total: totals.prompt_tokens,
            cached_prompt_tokens_total: totals.cached_prompt_tokens,
            generated_tokens_total: totals.generated_tokens,
            computed_tokens_total: totals.computed_tokens,
        };
    }
}
