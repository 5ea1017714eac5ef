//! What to compute next: admission, batching and the life of each sample. Pure bookkeeping, no tensors, no threads.
//!
//! A step computes a set of nodes of the prefix tree under one adapter version: prompt tokens that are not in the
//! cache yet, and the last token of every sample that waits for its next one. Samples at the same node share one row
//! and each draw from its distribution, so N answers to one question cost one prefill, and answers that begin alike
//! cost one row for as long as they agree.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::engine::{
    handle::{FinishReason, GenerateRequest, Group, Lease, Priority, Rollout, Timings, Version},
    model::tokenizer::{TextStream, Tokenizer},
    prefix_tree::{NodeId, PrefixTree},
    sampler::{self, Distribution},
};

/// Identifies one call of `generate`.
pub type JobId = u64;

/// One response under way.
struct Sample {
    /// The last node, held; `None` once finished.
    tip: Option<NodeId>,
    rng: ChaCha8Rng,
    tokens: Vec<u32>,
    log_probs: Vec<f32>,
    stream: TextStream,
    /// Where the text ends, if a stop text was found.
    end: Option<usize>,
    finish: FinishReason,
}

/// One prompt with its samples, from arrival to the last token.
struct Running {
    job: JobId,
    /// Its place in the call's list of requests.
    index: usize,
    request: GenerateRequest,
    /// The nodes of the prompt, and how many of them are known to be in the cache.
    prompt: Vec<NodeId>,
    ready: usize,
    samples: Vec<Sample>,
    /// Cache rows set aside for the worst case.
    reserved: usize,
    arrived: Instant,
    started: Instant,
    first_token: Option<Instant>,
}

impl Running {
    fn is_finished(&self) -> bool {
        self.samples.iter().all(|sample| sample.tip.is_none())
    }

    fn finish(self, now: Instant) -> (JobId, usize, Group) {
        let first = self.first_token.unwrap_or(now);
        let rollout = |sample: Sample| Rollout {
            tokens: sample.tokens,
            log_probs: sample.log_probs,
            text: sample.stream.text()[..sample.end.unwrap_or(sample.stream.text().len())].to_owned(),
            finish: sample.finish,
        };
        let group = Group {
            version: self.request.lease.version().clone(),
            prompt: self.request.prompt,
            rollouts: self.samples.into_iter().map(rollout).collect(),
            timings: Timings { queue: self.started - self.arrived, prefill: first - self.started, decode: now - first },
        };
        (self.job, self.index, group)
    }
}

/// A request that waits for its place.
struct Waiting {
    job: JobId,
    index: usize,
    request: GenerateRequest,
    arrived: Instant,
}

/// The nodes of one step, all under one adapter version.
pub struct Plan {
    pub priority: Priority,
    pub lease: Lease,
    /// Each once; ancestors are in the cache or in the same plan.
    pub rows: Vec<NodeId>,
    /// Indices of the rows whose logits are needed, ascending.
    pub outputs: Vec<usize>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub prompt_tokens: u64,
    pub cached_prompt_tokens: u64,
    pub generated_tokens: u64,
    pub computed_tokens: u64,
}

/// The cache rows that a request may need at worst: its prompt, and every token of every sample on a path of its own.
pub fn worst_case_rows(request: &GenerateRequest) -> usize {
    request.prompt.len().saturating_add(request.samples.saturating_mul(request.sampling.max_tokens))
}

/// The most cache rows that requests of a priority can have together: rollouts leave half for requests.
pub fn largest_request(cache_rows: usize, priority: Priority) -> usize {
    match priority {
        Priority::Request => cache_rows,
        Priority::Rollout => cache_rows - cache_rows / 2,
    }
}

/// All generations, waiting and running.
pub struct Scheduler {
    tokenizer: Arc<Tokenizer>,
    pub tree: PrefixTree,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    reserved: usize,
    /// The part of `reserved` that is for rollouts.
    reserved_for_rollouts: usize,
    pub totals: Totals,
}

impl Scheduler {
    /// Plans over a cache of `cache_rows` rows.
    pub fn new(tokenizer: Arc<Tokenizer>, cache_rows: usize) -> Self {
        Self {
            tokenizer,
            tree: PrefixTree::new(cache_rows),
            waiting: VecDeque::new(),
            running: Vec::new(),
            reserved: 0,
            reserved_for_rollouts: 0,
            totals: Totals::default(),
        }
    }

    /// Puts the requests of one call in line.
    pub fn enqueue(&mut self, job: JobId, requests: Vec<GenerateRequest>, arrived: Instant) {
        let waiting = requests.into_iter().enumerate();
        self.waiting.extend(waiting.map(|(index, request)| Waiting { job, index, request, arrived }));
    }

    /// How many of a priority wait, and how many run.
    pub fn load(&self, priority: Priority) -> (usize, usize) {
        let waiting = self.waiting.iter().filter(|waiting| waiting.request.priority == priority).count();
        let running = self.running.iter().filter(|running| running.request.priority == priority).count();
        (waiting, running)
    }

    /// Forgets the work of calls for which `is_gone` holds.
    pub fn cancel(&mut self, is_gone: impl Fn(JobId) -> bool) {
        self.waiting.retain(|waiting| !is_gone(waiting.job));
        for index in (0..self.running.len()).rev() {
            if is_gone(self.running[index].job) {
                let gone = self.running.remove(index);
                self.leave(&gone);
            }
        }
    }

    /// Lets in what fits: requests in order of arrival, then rollouts. The first that does not fit holds back those
    /// behind it, so that a large one is not passed over for ever, and that no rollout takes the place that a request
    /// waits for.
    pub fn admit(&mut self, now: Instant) {
        for priority in [Priority::Request, Priority::Rollout] {
            while let Some(place) = self.waiting.iter().position(|waiting| waiting.request.priority == priority) {
                let rows = worst_case_rows(&self.waiting[place].request);
                if !self.fits(rows, priority) {
                    return;
                }
                let Some(waiting) = self.waiting.remove(place) else { return };
                self.start(waiting, rows, now);
            }
        }
    }

    /// Rollouts have their own limit: what requests have taken of their half leaves that of the rollouts as it is.
    fn fits(&self, rows: usize, priority: Priority) -> bool {
        let limit = largest_request(self.tree.capacity(), priority);
        let taken = match priority {
            Priority::Request => self.reserved,
            Priority::Rollout => self.reserved_for_rollouts,
        };
        taken + rows <= limit && self.reserved + rows <= self.tree.capacity()
    }

    fn start(&mut self, waiting: Waiting, reserved: usize, now: Instant) {
        let Waiting { job, index, request, arrived } = waiting;
        let version = request.lease.version();
        let mut prompt: Vec<NodeId> = Vec::with_capacity(request.prompt.len());
        for &token in &request.prompt {
            let node = match prompt.last() {
                None => self.tree.hold_root(version, token),
                Some(&parent) => self.tree.hold_child(parent, token),
            };
            #[expect(clippy::expect_used, reason = "admission has reserved a row for every token")]
            let node = node.expect("the rows were reserved");
            if let Some(&parent) = prompt.last() {
                self.tree.release(parent);
            }
            prompt.push(node);
        }
        let ready = prompt.iter().take_while(|&&node| self.tree.is_computed(node)).count();
        self.totals.prompt_tokens += prompt.len() as u64;
        self.totals.cached_prompt_tokens += ready as u64;
        let tip = prompt.last().copied();
        for _ in 1..request.samples {
            tip.into_iter().for_each(|tip| self.tree.hold_again(tip));
        }
        let samples = (0..request.samples).map(|sample| Sample {
            tip,
            rng: sampler::stream(request.seed, sample as u64),
            tokens: Vec::new(),
            log_probs: Vec::new(),
            stream: TextStream::default(),
            end: None,
            finish: FinishReason::Length,
        });
        let samples = samples.collect();
        self.reserved += reserved;
        if request.priority == Priority::Rollout {
            self.reserved_for_rollouts += reserved;
        }
        self.running.push(Running {
            job,
            index,
            request,
            prompt,
            ready,
            samples,
            reserved,
            arrived,
            started: now,
            first_token: None,
        });
    }

    /// Gives back what a generation holds.
    fn leave(&mut self, gone: &Running) {
        self.reserved -= gone.reserved;
        if gone.request.priority == Priority::Rollout {
            self.reserved_for_rollouts -= gone.reserved;
        }
        for tip in gone.samples.iter().filter_map(|sample| sample.tip) {
            self.tree.release(tip);
        }
    }

    /// The versions that have something to compute for a priority, in order of arrival.
    pub fn versions(&self, priority: Priority) -> Vec<Version> {
        let mut versions: Vec<Version> = Vec::new();
        for running in self.running.iter().filter(|running| running.request.priority == priority) {
            let version = running.request.lease.version();
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
        versions
    }

    /// The next step for one version and priority, of at most `max_rows` rows; `None` if nothing is to be done.
    pub fn plan(&self, priority: Priority, version: &Version, max_rows: usize) -> Option<Plan> {
        let mut lease = None;
        let mut rows = Vec::new();
        let mut row_of: HashMap<NodeId, usize> = HashMap::new();
        let mut outputs: Vec<usize> = Vec::new();
        let chosen =
            |running: &&Running| running.request.priority == priority && running.request.lease.version() == version;
        'groups: for running in self.running.iter().filter(chosen) {
            lease.get_or_insert(&running.request.lease);
            for &node in &running.prompt[running.ready..] {
                if !self.tree.is_computed(node) && !row_of.contains_key(&node) {
                    if rows.len() == max_rows {
                        break 'groups;
                    }
                    row_of.insert(node, rows.len());
                    rows.push(node);
                }
            }
            for tip in running.samples.iter().filter_map(|sample| sample.tip) {
                let row = match row_of.get(&tip) {
                    Some(&row) => row,
                    None if rows.len() == max_rows => break 'groups,
                    None => {
                        row_of.insert(tip, rows.len());
                        rows.push(tip);
                        rows.len() - 1
                    }
                };
                outputs.push(row);
            }
        }
        outputs.sort_unstable();
        outputs.dedup();
        (!rows.is_empty()).then_some(())?;
        Some(Plan { priority, lease: lease?.clone(), rows, outputs })
    }

    /// Takes the logits of a plan's outputs, one vector each, moves every sample that waited for one of them, and
    /// returns the generations that are finished by it.
    pub fn accept(&mut self, plan: &Plan, logits: Vec<Vec<f32>>, now: Instant) -> Vec<(JobId, usize, Group)> {
        self.totals.computed_tokens += plan.rows.len() as u64;
        plan.rows.iter().for_each(|&node| self.tree.mark_computed(node));
        let output_of: HashMap<NodeId, usize> =
            plan.outputs.iter().enumerate().map(|(output, &row)| (plan.rows[row], output)).collect();
        // Who waits for each output: (group, sample), in order.
        let mut waiters: Vec<Vec<(usize, usize)>> = vec![Vec::new(); plan.outputs.len()];
        for (group, running) in self.running.iter_mut().enumerate() {
            if running.request.lease.version() != plan.lease.version() {
                continue;
            }
            let computed = |node: &&NodeId| self.tree.is_computed(**node);
            running.ready += running.prompt[running.ready..].iter().take_while(computed).count();
            for (sample, tip) in running.samples.iter().enumerate().filter_map(|(i, s)| Some((i, s.tip?))) {
                if let Some(&output) = output_of.get(&tip) {
                    waiters[output].push((group, sample));
                }
            }
        }
        let draws: Vec<Vec<Draw>> = logits
            .into_par_iter()
            .zip(waiters.into_par_iter())
            .map(|(logits, waiters)| draw_all(&self.running, logits, &waiters))
            .collect();
        for draw in draws.into_iter().flatten() {
            self.advance(draw, now);
        }
        self.take_finished(now)
    }

    /// Drops the generations that a failed plan was for and returns their jobs.
    pub fn fail(&mut self, plan: &Plan) -> Vec<JobId> {
        let version = plan.lease.version();
        let mut jobs: Vec<JobId> = self
            .running
            .iter()
            .filter(|running| running.request.priority == plan.priority && running.request.lease.version() == version)
            .map(|running| running.job)
            .collect();
        jobs.dedup();
        self.cancel(|job| jobs.contains(&job));
        jobs
    }

    fn advance(&mut self, draw: Draw, now: Instant) {
        let Draw { group, sample, token, log_prob, rng } = draw;
        self.totals.generated_tokens += 1;
        let running = &mut self.running[group];
        running.first_token.get_or_insert(now);
        let sampling = &running.request.sampling;
        let sample = &mut running.samples[sample];
        sample.rng = rng;
        sample.tokens.push(token);
        sample.log_probs.push(log_prob);
        let Some(tip) = sample.tip else { return };
        let stopped = if self.tokenizer.end_tokens().contains(&token) {
            true
        } else {
            let searched = sample.stream.text().len();
            sample.end = find_stop(sample.stream.push(&self.tokenizer, token), searched, &sampling.stop);
            sample.end.is_some()
        };
        let next = if stopped {
            sample.finish = FinishReason::Stop;
            None
        } else if sample.tokens.len() >= sampling.max_tokens {
            None
        } else {
            #[expect(clippy::expect_used, reason = "admission has reserved a row for every token of every sample")]
            Some(self.tree.hold_child(tip, token).expect("the row was reserved"))
        };
        sample.tip = next;
        self.tree.release(tip);
    }

    fn take_finished(&mut self, now: Instant) -> Vec<(JobId, usize, Group)> {
        let mut finished = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].is_finished() {
                let running = self.running.remove(index);
                self.leave(&running);
                finished.push(running.finish(now));
            } else {
                index += 1;
            }
        }
        finished
    }
}

/// One drawn token and the state of the random numbers after it.
struct Draw {
    group: usize,
    sample: usize,
    token: u32,
    log_prob: f32,
    rng: ChaCha8Rng,
}

/// Draws for every sample that waits at one position. Samples of one group share one distribution; groups may differ
/// in their sampling parameters.
fn draw_all(running: &[Running], logits: Vec<f32>, waiters: &[(usize, usize)]) -> Vec<Draw> {
    let mut draws = Vec::with_capacity(waiters.len());
    for same_group in waiters.chunk_by(|a, b| a.0 == b.0) {
        let group = same_group[0].0;
        let distribution = Distribution::new(logits.clone(), &running[group].request.sampling);
        for &(_, sample) in same_group {
            let mut rng = running[group].samples[sample].rng.clone();
            let (token, log_prob) = distribution.draw(&mut rng);
            draws.push(Draw { group, sample, token, log_prob, rng });
        }
    }
    draws
}

/// Where the first stop text begins, if one is in `text`; none lies within the first `searched` bytes.
fn find_stop(text: &str, searched: usize, stop: &[String]) -> Option<usize> {
    let starts = stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
        let from = text.floor_char_boundary((searched + 1).saturating_sub(stop.len()));
        text[from..].find(stop.as_str()).map(|place| from + place)
    });
    starts.min()
}
