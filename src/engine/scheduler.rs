//! What to compute next: admission, batching and the life of each sample. Pure bookkeeping, no tensors, no threads.
//!
//! A step computes a set of nodes of the prefix tree, each under its adapter version: prompt tokens that are not in the
//! cache yet, and the last token of every sample that waits for its next one. Samples at the same node share one row
//! and each draw from its distribution, so N answers to one question cost one prefill, and answers that begin alike
//! cost one row for as long as they agree.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use rayon::prelude::*;

use crate::engine::{
    handle::{GenerateRequest, Group, Lease, Priority, Timings, TokenScore},
    model::{
        ops::Paths,
        outputs::{Draws, Output, Wanted},
        tokenizer::{TextStream, Tokenizer},
    },
    prefix_tree::{NodeId, PrefixTree},
    response::{Draw, Response},
    sampler::{self, Distribution, History, Scorer},
};

/// Identifies one call of `generate`.
pub type JobId = u64;

/// Prompt rows of one step that are scored: the logits of 128 rows of 49,152 are 25 MB.
const MAX_SCORED_ROWS: usize = 128;

/// One prompt with its samples, from arrival to the last token.
struct Running {
    job: JobId,
    /// Its place in the call's list of requests.
    index: usize,
    request: GenerateRequest,
    /// The nodes of the prompt, of which the last is held, and how many of them are known to need nothing any more.
    prompt: Vec<NodeId>,
    ready: usize,
    /// The scores of the prompt's tokens after the first, as far as they are known; empty if nobody asked.
    prompt_scores: Vec<Option<TokenScore>>,
    samples: Vec<Response>,
    /// Cache rows set aside for the worst case.
    reserved: usize,
    arrived: Instant,
    started: Instant,
    first_token: Option<Instant>,
}

impl Running {
    fn is_finished(&self) -> bool {
        self.ready == self.prompt.len() && self.samples.iter().all(|sample| sample.tip.is_none())
    }

    /// Whether the token after this place of the prompt has a score to come, for which this place's logits are needed.
    fn lacks_score(&self, place: usize) -> bool {
        self.prompt_scores.get(place).is_some_and(Option::is_none)
    }

    /// Goes on over the places that are computed and scored.
    fn settle(&mut self, tree: &PrefixTree) {
        let needs_nothing = |&place: &usize| tree.is_computed(self.prompt[place]) && !self.lacks_score(place);
        self.ready += (self.ready..self.prompt.len()).take_while(needs_nothing).count();
    }

    fn finish(self, now: Instant) -> (JobId, usize, Group) {
        let first = self.first_token.unwrap_or(now);
        let group = Group {
            version: self.request.lease.version().clone(),
            prompt: self.request.prompt,
            prompt_scores: self.prompt_scores.into_iter().flatten().collect(),
            rollouts: self.samples.into_iter().map(Response::into_rollout).collect(),
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

/// The nodes of one step.
pub struct Plan {
    pub priority: Priority,
    /// Each adapter version of the step, and its rows.
    pub leases: Vec<(Lease, Range<usize>)>,
    /// Each once; ancestors are in the cache or in the same plan.
    pub rows: Vec<NodeId>,
    /// What each row attends to: the rows of its sequence up to itself.
    pub paths: Arc<Paths>,
    /// Indices of the rows whose logits are needed, ascending.
    pub outputs: Vec<usize>,
}

/// A plan in the making.
#[derive(Default)]
struct Draft {
    rows: Vec<NodeId>,
    row_of: HashMap<NodeId, usize>,
    paths: Paths,
    outputs: Vec<usize>,
    scored_rows: usize,
}

impl Draft {
    /// The row of the last node of a path, new if need be; `None` beyond `max_rows`. The path comes in two parts, of which the
    /// second may be empty.
    fn row(&mut self, [start, end]: [&[NodeId]; 2], max_rows: usize) -> Option<usize> {
        let path = || start.iter().chain(end).copied();
        let node = path().next_back()?;
        if let Some(&row) = self.row_of.get(&node) {
            return Some(row);
        }
        let row = Some(self.rows.len()).filter(|&row| row < max_rows)?;
        // A prompt has a row after another, and a path of its own for each would be long.
        match path().rev().nth(1) {
            Some(before) if self.rows.last() == Some(&before) => self.paths.push_next(node),
            _ => self.paths.push(path()),
        }
        self.row_of.insert(node, row);
        self.rows.push(node);
        Some(row)
    }

    /// Adds the places where samples wait for their next token; `None` if not all find one.
    fn add_samples(&mut self, running: &Running, max_rows: usize) -> Option<()> {
        for sample in running.samples.iter().filter(|sample| sample.tip.is_some()) {
            let row = self.row([&running.prompt, &sample.nodes], max_rows)?;
            self.outputs.push(row);
        }
        Some(())
    }

    /// Adds what is missing of a prompt, as far as there is room, and its samples if nothing is left.
    fn add_prompt(&mut self, running: &Running, tree: &PrefixTree, max_rows: usize) -> Option<()> {
        for (place, &node) in running.prompt.iter().enumerate().skip(running.ready) {
            let scored = running.lacks_score(place);
            if scored && self.scored_rows == MAX_SCORED_ROWS {
                return None;
            }
            if !scored && tree.is_computed(node) {
                continue;
            }
            let row = self.row([&running.prompt[..=place], &[]], max_rows)?;
            if scored {
                self.outputs.push(row);
                self.scored_rows += 1;
            }
        }
        self.add_samples(running, max_rows)
    }
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
    /// waits for. Returns the generations for which nothing is left to do.
    pub fn admit(&mut self, now: Instant) -> Vec<(JobId, usize, Group)> {
        self.let_in(now);
        self.take_finished(now)
    }

    fn let_in(&mut self, now: Instant) {
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
        let tip = prompt.last().copied().filter(|_| request.sampling.max_tokens > 0);
        let text = TextStream::after(&self.tokenizer, &request.prompt);
        let sample = |sample| {
            tip.into_iter().for_each(|tip| self.tree.hold_again(tip));
            Response::new(tip, text.clone(), request.seed, sample)
        };
        let samples = (0..request.samples).map(sample).collect();
        let scores = if request.report.prompt.is_some() { prompt.len() - 1 } else { 0 };
        self.reserved += reserved;
        if request.priority == Priority::Rollout {
            self.reserved_for_rollouts += reserved;
        }
        let mut running = Running {
            job,
            index,
            request,
            prompt,
            ready: 0,
            prompt_scores: vec![None; scores],
            samples,
            reserved,
            arrived,
            started: now,
            first_token: None,
        };
        running.settle(&self.tree);
        self.totals.prompt_tokens += running.prompt.len() as u64;
        self.totals.cached_prompt_tokens += running.ready as u64;
        self.running.push(running);
    }

    /// Gives back what a generation holds.
    fn leave(&mut self, gone: &Running) {
        self.reserved -= gone.reserved;
        if gone.request.priority == Priority::Rollout {
            self.reserved_for_rollouts -= gone.reserved;
        }
        for &node in gone.samples.iter().filter_map(|sample| sample.tip.as_ref()).chain(gone.prompt.last()) {
            self.tree.release(node);
        }
    }

    /// The next step for a priority, of at most `max_rows` rows; `None` if nothing is to be done. Every version has its
    /// share of the rows, and what those before it leave.
    pub fn plan(&self, priority: Priority, max_rows: usize) -> Option<Plan> {
        let running = || self.running.iter().filter(|running| running.request.priority == priority);
        let mut versions: Vec<&Lease> = Vec::new();
        for Running { request: GenerateRequest { lease, .. }, .. } in running() {
            if !versions.iter().any(|known| known.version() == lease.version()) {
                versions.push(lease);
            }
        }
        let (mut draft, mut leases) = (Draft::default(), Vec::with_capacity(versions.len()));
        for (index, lease) in versions.iter().enumerate() {
            let start = draft.rows.len();
            let end = start + ((max_rows - start) / (versions.len() - index)).max(1);
            let end = end.min(max_rows);
            let own = || running().filter(|running| running.request.lease.version() == lease.version());
            let (ready, others): (Vec<_>, Vec<_>) = own().partition(|running| running.ready == running.prompt.len());
            // Those that draw go on, whoever else has a long prompt; the first that finds no place ends it.
            let _ = ready.into_iter().try_for_each(|running| draft.add_samples(running, end));
            for (place, running) in others.iter().enumerate() {
                // A long prompt leaves half of the room to those behind it.
                let room = end.saturating_sub(draft.rows.len());
                let own = if place + 1 == others.len() { room } else { room.div_ceil(2) };
                let _ = draft.add_prompt(running, &self.tree, draft.rows.len() + own);
            }
            if start < draft.rows.len() {
                leases.push(((*lease).clone(), start..draft.rows.len()));
            }
        }
        let Draft { rows, paths, mut outputs, .. } = draft;
        outputs.sort_unstable();
        outputs.dedup();
        (!rows.is_empty()).then_some(Plan { priority, leases, rows, paths: Arc::new(paths), outputs })
    }

    /// What is to become of the logits of each of a plan's outputs.
    pub fn wanted(&self, plan: &Plan) -> Vec<Wanted> {
        self.readers(plan).iter().map(|readers| wanted(&self.running, readers)).collect()
    }

    /// Who reads each of a plan's outputs.
    fn readers(&self, plan: &Plan) -> Vec<Readers> {
        let output_of: HashMap<NodeId, usize> =
            plan.outputs.iter().enumerate().map(|(output, &row)| (plan.rows[row], output)).collect();
        let mut readers: Vec<Readers> = plan.outputs.iter().map(|_| Readers::default()).collect();
        for (group, running) in self.running.iter().enumerate() {
            for (sample, tip) in running.samples.iter().enumerate().filter_map(|(i, s)| Some((i, s.tip?))) {
                if let Some(&output) = output_of.get(&tip) {
                    readers[output].samples.push((group, sample));
                }
            }
            for place in (running.ready..running.prompt_scores.len()).filter(|&place| running.lacks_score(place)) {
                if let Some(&output) = output_of.get(&running.prompt[place]) {
                    readers[output].places.push((group, place));
                }
            }
        }
        readers
    }

    /// Takes what came of a plan's outputs, moves every sample that waited for one of them, and returns the generations
    /// that are finished by it.
    pub fn accept(&mut self, plan: &Plan, outputs: Vec<Output>, now: Instant) -> Vec<(JobId, usize, Group)> {
        self.totals.computed_tokens += plan.rows.len() as u64;
        plan.rows.iter().for_each(|&node| self.tree.mark_computed(node));
        let is_drawn = outputs.iter().all(|output| matches!(output, Output::Drawn(_)));
        let read = |(output, readers): (Output, Readers)| match output {
            Output::Logits(logits) => read(&self.running, logits, &readers),
            Output::Drawn(drawn) => take_drawn(&self.running, drawn, &readers),
        };
        let readers = self.readers(plan);
        // What is drawn already is not worth waking other threads for.
        let read: Vec<Read> = match is_drawn {
            true => outputs.into_iter().zip(readers).map(read).collect(),
            false => outputs.into_par_iter().zip(readers).map(read).collect(),
        };
        for Read { scores, draws } in read {
            for (group, place, score) in scores {
                self.running[group].prompt_scores[place] = Some(score);
            }
            draws.into_iter().for_each(|(group, sample, draw)| self.advance(group, sample, draw, now));
        }
        self.running.iter_mut().for_each(|running| running.settle(&self.tree));
        self.take_finished(now)
    }

    /// Drops the generations that a failed plan was for and returns their jobs.
    pub fn fail(&mut self, plan: &Plan) -> Vec<JobId> {
        let is_of_plan = |running: &&Running| {
            let version = running.request.lease.version();
            running.request.priority == plan.priority && plan.leases.iter().any(|(lease, _)| lease.version() == version)
        };
        let mut jobs: Vec<JobId> = self.running.iter().filter(is_of_plan).map(|running| running.job).collect();
        jobs.dedup();
        self.cancel(|job| jobs.contains(&job));
        jobs
    }

    fn advance(&mut self, group: usize, index: usize, draw: Draw, now: Instant) {
        self.totals.generated_tokens += 1;
        let Running { request, samples, first_token, .. } = &mut self.running[group];
        first_token.get_or_insert(now);
        let sample = &mut samples[index];
        let (token, sampling) = (draw.token, &request.sampling);
        sample.push(draw, sampling, &self.tokenizer);
        if let Some(listener) = &request.report.listener {
            listener.tell(sample.news(index, &sampling.stop));
        }
        let Some(tip) = sample.tip.take() else { return };
        if sample.finish().is_none() {
            let next = self.tree.hold_child(tip, token);
            #[expect(clippy::expect_used, reason = "admission has reserved a row for every token of every sample")]
            let next = next.expect("the row was reserved");
            sample.tip = Some(next);
            sample.nodes.push(next);
        }
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

/// Who needs the logits of one position.
#[derive(Default)]
struct Readers {
    /// `(group, sample)` of those that draw from them, in order.
    samples: Vec<(usize, usize)>,
    /// `(group, place in its prompt)` of those whose next prompt token they score.
    places: Vec<(usize, usize)>,
}

/// What the logits of one position gave, with group and sample, or group and place in its prompt.
struct Read {
    draws: Vec<(usize, usize, Draw)>,
    scores: Vec<(usize, usize, TokenScore)>,
}

/// What is to become of the logits of one position: draws, if all that read them draw from the whole distribution at one
/// temperature and nobody asks for scores.
fn wanted(running: &[Running], readers: &Readers) -> Wanted {
    let requests = || readers.samples.iter().map(|&(group, _)| &running[group].request);
    let Some(temperature) = requests().next().map(|request| request.sampling.temperature) else {
        return Wanted::Logits;
    };
    let is_plain = |request: &GenerateRequest| {
        let sampling = &request.sampling;
        let as_it_is = !sampling.changes_logits() && (!sampling.narrows() || temperature == 0.0);
        as_it_is && sampling.temperature == temperature && request.report.tokens.is_none()
    };
    if !readers.places.is_empty() || !requests().all(is_plain) {
        return Wanted::Logits;
    }
    let uniform = |&(group, sample): &(usize, usize)| sampler::uniform(&mut running[group].samples[sample].rng.clone());
    let uniforms = readers.samples.iter().map(|reader| if temperature == 0.0 { 0.0 } else { uniform(reader) });
    Wanted::Draws(Draws { temperature, uniforms: uniforms.collect() })
}

/// Draws that were made elsewhere, as [`wanted`] asked for them.
fn take_drawn(running: &[Running], drawn: Vec<(u32, f32)>, readers: &Readers) -> Read {
    let draw = |(&(group, sample), (token, log_prob)): (&(usize, usize), (u32, f32))| {
        let mut rng = running[group].samples[sample].rng.clone();
        if running[group].request.sampling.temperature != 0.0 {
            sampler::uniform(&mut rng);
        }
        (group, sample, Draw { token, log_prob, score: None, rng })
    };
    Read { draws: readers.samples.iter().zip(drawn).map(draw).collect(), scores: vec![] }
}

/// Scores and draws at one position. Samples of one group that wait here have the same history and share one
/// distribution; groups may differ in their sampling parameters.
fn read(running: &[Running], logits: Vec<f32>, readers: &Readers) -> Read {
    let score = |&(group, place): &(usize, usize)| {
        let request = &running[group].request;
        let scorer = Scorer::new(&logits, request.report.prompt.unwrap_or(0));
        (group, place, scorer.score(request.prompt[place + 1]))
    };
    let scores = readers.places.iter().map(score).collect();
    let mut logits = Cow::Owned(logits);
    let mut draws = Vec::with_capacity(readers.samples.len());
    let mut groups = readers.samples.chunk_by(|a, b| a.0 == b.0).peekable();
    while let Some(samples) = groups.next() {
        let Running { request, samples: all, .. } = &running[samples[0].0];
        let is_last = groups.peek().is_none();
        let scored = request.report.tokens;
        // The last reader may have the logits, unless they are read again for scores.
        let own = if is_last && scored.is_none() { std::mem::take(&mut logits) } else { Cow::Borrowed(&*logits) };
        let history = History { prompt: &request.prompt, response: &all[samples[0].1].tokens };
        let distribution = Distribution::new(own, &request.sampling, history);
        let scorer = scored.map(|top| Scorer::new(&logits, top));
        for &(group, sample) in samples {
            let mut rng = all[sample].rng.clone();
            let (token, log_prob) = distribution.draw(&mut rng);
            let score = scorer.as_ref().map(|scorer| scorer.score(token));
            draws.push((group, sample, Draw { token, log_prob, score, rng }));
        }
    }
    Read { draws, scores }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::{handle::Version, model::weights, sampling::Sampling};

    fn scheduler() -> Scheduler {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama/tiny.gguf");
        Scheduler::new(Arc::new(weights::load_tokenizer(&file).unwrap().unwrap()), 1024)
    }

    fn request(version: &Version, first: u32, length: u32, samples: usize) -> GenerateRequest {
        GenerateRequest {
            lease: Lease::new(version.clone(), ()),
            prompt: (first..first + length).collect(),
            samples,
            sampling: Sampling { max_tokens: 4, ..Sampling::default() },
            report: Default::default(),
            place: None,
            seed: 0,
            priority: Priority::Request,
        }
    }

    /// Computes a plan with logits that make every token as likely as another.
    fn step(scheduler: &mut Scheduler, rows: usize) -> Plan {
        let plan = scheduler.plan(Priority::Request, rows).unwrap();
        let outputs = plan.outputs.iter().map(|_| Output::Logits(vec![0.0; 96])).collect();
        scheduler.accept(&plan, outputs, Instant::now());
        plan
    }

    fn start(scheduler: &mut Scheduler, requests: Vec<GenerateRequest>) {
        scheduler.enqueue(0, requests, Instant::now());
        assert!(scheduler.admit(Instant::now()).is_empty());
    }

    #[test]
    fn a_device_that_draws_is_asked_for_what_would_be_drawn_from_the_logits() {
        let logits: Vec<f32> = (0..96).map(|token| (token as f32 * 0.7).sin() * 3.0).collect();
        for temperature in [0.0, 0.8] {
            let drawn = |by_device: bool| {
                let mut scheduler = scheduler();
                let mut request = request(&Version::base(), 1, 3, 4);
                request.sampling = Sampling { temperature, max_tokens: 4, ..request.sampling };
                start(&mut scheduler, vec![request]);
                let mut finished = vec![];
                while finished.is_empty() {
                    let plan = scheduler.plan(Priority::Request, 16).unwrap();
                    let wanted = scheduler.wanted(&plan).into_iter();
                    let outputs = wanted.map(|wanted| match wanted {
                        Wanted::Draws(draws) if by_device => Output::Drawn(draw_like_a_device(&logits, &draws)),
                        Wanted::Draws(_) => Output::Logits(logits.clone()),
                        Wanted::Logits => panic!("nothing but draws is wanted"),
                    });
                    let outputs = outputs.collect();
                    finished = scheduler.accept(&plan, outputs, Instant::now());
                }
                finished.remove(0).2.rollouts
            };
            for (here, there) in drawn(false).iter().zip(drawn(true)) {
                assert_eq!(here.tokens, there.tokens);
                for (here, there) in here.log_probs.iter().zip(there.log_probs) {
                    assert!((here - there).abs() < 1e-5, "{here} {there}");
                }
            }
        }
    }

    /// As [`Draws`] says it.
    fn draw_like_a_device(logits: &[f32], draws: &Draws) -> Vec<(u32, f32)> {
        let divisor = if draws.temperature == 0.0 { 1.0 } else { f64::from(draws.temperature) };
        let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / divisor).exp()).collect();
        let total: f64 = weights.iter().sum();
        let likeliest = (0..weights.len()).rev().max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap();
        let draw = |&uniform: &f64| {
            let mut sum = 0.0;
            let reaches = |weight: &f64| {
                sum += weight / total;
                sum > uniform
            };
            let token = match draws.temperature {
                0.0 => likeliest,
                _ => weights.iter().position(reaches).unwrap(),
            };
            (token as u32, (weights[token] / total).ln() as f32)
        };
        draws.uniforms.iter().map(draw).collect()
    }

    #[test]
    fn whoever_narrows_changes_or_scores_gets_the_logits() {
        let plain = || request(&Version::base(), 1, 3, 2);
        let narrowed = Sampling { top_p: 0.9, temperature: 1.0, ..plain().sampling };
        let changed = Sampling { presence_penalty: 0.5, ..plain().sampling };
        let scored = crate::engine::handle::Report { tokens: Some(2), ..Default::default() };
        let requests = [
            GenerateRequest { sampling: narrowed, ..plain() },
            GenerateRequest { sampling: changed, ..plain() },
            GenerateRequest { report: scored, ..plain() },
        ];
        for request in requests {
            let mut scheduler = scheduler();
            start(&mut scheduler, vec![request]);
            let plan = scheduler.plan(Priority::Request, 16).unwrap();
            assert_eq!(scheduler.wanted(&plan), [Wanted::Logits]);
        }
    }

    #[test]
    fn rows_attend_to_what_is_before_them_in_their_sequence() {
        let mut scheduler = scheduler();
        let base = Version::base();
        // Two prompts that begin alike, of which the longer has two samples.
        let mut other = request(&base, 0, 9, 2);
        other.prompt[6..].fill(50);
        start(&mut scheduler, vec![request(&base, 0, 7, 1), other]);
        let mut rows = 0;
        while let Some(plan) = scheduler.plan(Priority::Request, 5) {
            let paths = (0..plan.rows.len()).map(|row| plan.paths.path(row).to_vec());
            let expected = plan.rows.iter().map(|&node| scheduler.tree.path(node));
            assert_eq!(paths.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            rows += step(&mut scheduler, 5).rows.len();
        }
        assert!((10..=10 + 3 * 3).contains(&rows), "{rows} rows");
    }

    #[test]
    fn a_short_prompt_passes_a_long_one() {
        let mut scheduler = scheduler();
        let base = Version::base();
        start(&mut scheduler, vec![request(&base, 0, 90, 1), request(&base, 200, 3, 1)]);
        let plan = step(&mut scheduler, 16);
        assert_eq!(
            (plan.rows.len(), plan.outputs.len()),
            (8 + 3, 1),
            "half for the long one, and all of the short one"
        );
    }

    #[test]
    fn samples_go_on_beside_a_long_prompt() {
        let mut scheduler = scheduler();
        let base = Version::base();
        start(&mut scheduler, vec![request(&base, 0, 90, 1), request(&base, 200, 3, 2)]);
        step(&mut scheduler, 16);
        for _ in 0..2 {
            let plan = step(&mut scheduler, 16);
            assert_eq!(plan.rows.len(), 16, "what the samples leave is the long prompt's");
            assert!((1..=2).contains(&plan.outputs.len()));
        }
    }

    #[test]
    fn every_version_has_its_share_of_a_step() {
        let mut scheduler = scheduler();
        let versions = [Version::base(), "a".repeat(64).parse().unwrap()];
        start(&mut scheduler, versions.iter().map(|version| request(version, 0, 90, 1)).collect());
        let plan = step(&mut scheduler, 16);
        let shares: Vec<_> = plan.leases.iter().map(|(lease, rows)| (lease.version(), rows.clone())).collect();
        assert_eq!(shares, [(&versions[0], 0..8), (&versions[1], 8..16)]);
    }
}
