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
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Span, error, warn};

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
    sizes::{DEFAULT_CACHE_ROWS, RowLimit, StepRows},
    turnstile::Turnstile,
};

/// How long the thread sleeps while only background work is there and it is not its turn.
const BACKGROUND_POLL: Duration = Duration::from_millis(1);

/// How often an idle thread asks whether its device is lost: training that fails with it ends a round, and no engine.
const DEVICE_POLL: Duration = Duration::from_millis(500);

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
    /// Cancelled by the end of the thread.
    stopped: CancellationToken,
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
        Self::run(info, decoder, tokenizer, turnstile, options, runner)
    }

    fn run(
        info: ModelInfo,
        decoder: Arc<Decoder>,
        tokenizer: Arc<Tokenizer>,
        turnstile: Arc<Turnstile>,
        options: EngineOptions,
        runner: Runner,
    ) -> Result<Self, EngineError> {
        let (sender, receiver) = mpsc::channel();
        let idle = EngineStats { cache_tokens_capacity: options.cache_tokens, ..EngineStats::default() };
        let stats = Arc::new(Mutex::new(idle));
        let stopped = CancellationToken::new();
        let worker = Worker {
            device: decoder.device().clone(),
            runner,
            scheduler: Scheduler::new(tokenizer.clone(), options.cache_tokens),
            jobs: HashMap::new(),
            next_job: 0,
            step_rows: StepRows::on(decoder.device()),
            row_limit: RowLimit::default(),
            is_device_lost: false,
            turnstile,
            stats: stats.clone(),
            _end: stopped.clone().drop_guard(),
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
            stopped,
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

    fn tokenizer(&self) -> &Arc<Tokenizer> {
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

    async fn stopped(&self) {
        self.stopped.cancelled().await;
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
    row_limit: RowLimit,
    is_device_lost: bool,
    turnstile: Arc<Turnstile>,
    stats: Arc<Mutex<EngineStats>>,
    _end: DropGuard,
}

impl Drop for Worker {
    /// However the thread ends, background work must not wait for requests that nobody answers any more.
    fn drop(&mut self) {
        self.turnstile.set_requests_present(false);
    }
}

impl Worker {
    /// Runs until the last handle is gone and its work is dropped, or the device is lost. Whatever is unanswered then is
    /// answered by that its sender is gone.
    fn run(mut self, receiver: &Receiver<Job>) {
        let idle = (!self.device.is_cpu()).then_some(DEVICE_POLL);
        let mut wait = idle;
        loop {
            let received = match wait {
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(timeout) => receiver.recv_timeout(timeout),
            };
            match received {
                Ok(job) => self.accept_job(job),
                Err(RecvTimeoutError::Timeout) if self.jobs.is_empty() => self.look_at_device(),
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
            if self.is_device_lost {
                return;
            }
            let is_idle = self.jobs.is_empty();
            wait = match (worked, is_idle) {
                (_, true) => idle,
                (true, _) => Some(Duration::ZERO),
                (false, _) => Some(BACKGROUND_POLL),
            };
            if is_idle {
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
        let plan = self.scheduler.plan(Priority::Request, self.row_limit.within(requests));
        let rows = if plan.is_some() { rollouts_under_load } else { rollouts_idle };
        if let Some(plan) = plan {
            turnstile.request(|| self.step(&plan));
            worked = true;
        }
        if self.is_device_lost {
            return worked;
        }
        if let Some(plan) = self.scheduler.plan(Priority::Rollout, self.row_limit.within(rows)) {
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
                self.row_limit.raise(self.step_rows.rollouts_idle);
                // Whoever has an answer finds it counted.
                self.publish_stats();
                for (job, index, group) in finished {
                    self.complete(job, index, group);
                }
            }
            Err(error) => {
                let versions: Vec<_> = plan.leases.iter().map(|(lease, _)| lease.version().as_str()).collect();
                let rows = plan.rows.len();
                if device::is_out_of_memory(&error) && self.row_limit.lower(rows) {
                    warn!(rows, "a step found no memory; it is made in smaller ones");
                    return;
                }
                error!(error = %EngineError::from(&error), ?versions, rows, "a step failed");
                self.is_device_lost = device::is_lost(&error);
                self.look_at_device();
                if self.is_device_lost {
                    return;
                }
                for job in self.scheduler.fail(plan) {
                    if let Some(pending) = self.jobs.remove(&job) {
                        // The client may be gone; then nobody needs the error.
                        let _ = pending.reply.send(Err(EngineError::from(&error)));
                    }
                }
            }
        }
    }

    /// Has the engine stop if its device is lost.
    fn look_at_device(&mut self) {
        self.is_device_lost |= device::is_gone(&self.device);
        if self.is_device_lost {
            error!("the device is lost to this process, and its engine stops");
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

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::engine::{
        handle::{Report, Sampling},
        model::weights,
    };

    /// An engine of the tiny model whose steps fail as a function of their rows says.
    fn faulty(fault: impl FnMut(usize) -> Option<candle_core::Error> + Send + 'static) -> LocalEngine {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama/tiny.gguf");
        let mut checkpoint = weights::load(&file, &Device::Cpu).unwrap();
        let decoder = Arc::new(Decoder::new(checkpoint.config, &mut checkpoint.tensors, &Device::Cpu).unwrap());
        let info = ModelInfo {
            name: "tiny".into(),
            fingerprint: checkpoint.fingerprint,
            context_tokens: decoder.config().context_tokens,
            vocab_size: decoder.config().vocab_size,
            parameters: decoder.parameters(),
        };
        let options = EngineOptions { cache_tokens: 1024, max_waiting: 8 };
        let runner = Runner::new(decoder.clone(), options.cache_tokens).unwrap();
        let (tokenizer, turnstile) = (Arc::new(checkpoint.tokenizer.unwrap()), Arc::new(Turnstile::new(0.5)));
        let runner = Runner::Faulty(Box::new(fault), Box::new(runner));
        LocalEngine::run(info, decoder, tokenizer, turnstile, options, runner).unwrap()
    }

    fn request(engine: &LocalEngine) -> GenerateRequest {
        GenerateRequest {
            lease: engine.base(),
            prompt: (0..90).collect(),
            samples: 3,
            sampling: Sampling { max_tokens: 8, ignore_eos: true, ..Sampling::default() },
            seed: 7,
            priority: Priority::Request,
            report: Report::default(),
            place: None,
        }
    }

    async fn answer(engine: &LocalEngine) -> Result<Vec<Vec<u32>>, EngineError> {
        let groups = engine.generate(vec![request(engine)]).await?;
        Ok(groups[0].rollouts.iter().map(|rollout| rollout.tokens.clone()).collect())
    }

    fn short() -> candle_core::Error {
        candle_core::Error::msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")")
    }

    #[tokio::test]
    async fn a_step_that_finds_no_memory_is_made_in_smaller_ones_to_the_same_end() {
        let expected = answer(&faulty(|_| None)).await.unwrap();
        let widest = Arc::new(AtomicUsize::new(0));
        let seen = widest.clone();
        let engine = faulty(move |rows| {
            if rows > 30 {
                return Some(short());
            }
            seen.fetch_max(rows, Ordering::Relaxed);
            None
        });
        assert_eq!(answer(&engine).await.unwrap(), expected);
        assert_eq!(widest.load(Ordering::Relaxed), 22);
    }

    #[tokio::test]
    async fn what_finds_no_memory_in_the_smallest_step_is_one_error_and_the_engine_goes_on() {
        let mut failures = 0;
        let engine = faulty(move |_| {
            failures += 1;
            (failures <= 8).then(short)
        });
        // 90, 45, 22 and 16 rows, each tried twice.
        assert!(matches!(answer(&engine).await, Err(EngineError::OutOfMemory(_))));
        assert_eq!(answer(&engine).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_device_that_is_lost_ends_the_engine() {
        let lost = || candle_core::Error::msg("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")");
        let engine = faulty(move |_| Some(lost()));
        assert!(tokio::time::timeout(Duration::from_millis(20), engine.stopped()).await.is_err());
        assert!(matches!(answer(&engine).await, Err(EngineError::Stopped)));
        tokio::time::timeout(Duration::from_secs(10), engine.stopped()).await.unwrap();
        assert!(matches!(engine.generate(vec![]).await, Err(EngineError::Stopped)));
    }
}
