//! What to compute next: admission, batching and the life of each sample. Pure bookkeeping, no tensors, no threads.
//!
//! A step computes a set of nodes of the prefix tree, each under its adapter version: prompt tokens that are not in the
//! cache yet, and the last token of every sample that waits for its next one. Samples at the same node share one row
//! and each draw from its distribution, so N answers to one question cost one prefill, and answers that begin alike
//! cost one row for as long as they agree.

mod plan;
mod readers;
mod running;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use rayon::prelude::*;

pub use self::plan::Plan;
use self::{
    plan::Draft,
    readers::{Read, Readers},
    running::Running,
};
use crate::engine::{
    handle::{GenerateRequest, Group, Lease, Priority},
    model::{
        outputs::{Output, Wanted},
        tokenizer::{TextStream, Tokenizer},
    },
    prefix_tree::{NodeId, PrefixTree},
    response::{Draw, Response},
};

/// Identifies one call of `generate`.
pub type JobId = u64;

/// A request that waits for its place.
struct Waiting {
    job: JobId,
    index: usize,
    request: GenerateRequest,
    arrived: Instant,
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
        let running = || self.running.iter().enumerate().filter(|(_, running)| running.request.priority == priority);
        let mut versions: Vec<&Lease> = Vec::new();
        for (_, Running { request: GenerateRequest { lease, .. }, .. }) in running() {
            if !versions.iter().any(|known| known.version() == lease.version()) {
                versions.push(lease);
            }
        }
        let (mut draft, mut leases) = (Draft::default(), Vec::with_capacity(versions.len()));
        for (index, lease) in versions.iter().enumerate() {
            let start = draft.rows.len();
            let end = start + ((max_rows - start) / (versions.len() - index)).max(1);
            let end = end.min(max_rows);
            let own = || running().filter(|(_, running)| running.request.lease.version() == lease.version());
            let (ready, others): (Vec<_>, Vec<_>) =
                own().partition(|(_, running)| running.ready == running.prompt.len());
            // Those that draw go on, whoever else has a long prompt.
            ready.into_iter().for_each(|(group, running)| draft.add_samples(group, running, end));
            let mut stopped = Vec::new();
            for (place, (group, running)) in others.iter().enumerate() {
                // A long prompt leaves half of the room to those behind it.
                let room = end.saturating_sub(draft.rows.len());
                let own = if place + 1 == others.len() { room } else { room.div_ceil(2) };
                if draft.add_prompt(*group, running, &self.tree, draft.rows.len() + own).is_none() {
                    stopped.push((*group, *running));
                }
            }
            // Where another group has the same prompt, its rows may be there all the same.
            stopped.into_iter().for_each(|(group, running)| draft.add_samples(group, running, 0));
            if start < draft.rows.len() {
                leases.push(((*lease).clone(), start..draft.rows.len()));
            }
        }
        draft.finish(priority, leases)
    }

    /// What is to become of the logits of each of a plan's outputs.
    pub fn wanted(&self, plan: &Plan) -> Vec<Wanted> {
        plan.readers.iter().map(|readers| readers.wanted(&self.running)).collect()
    }

    /// Takes what came of a plan's outputs, moves every sample that waited for one of them, and returns the generations
    /// that are finished by it.
    pub fn accept(&mut self, plan: &Plan, outputs: Vec<Output>, now: Instant) -> Vec<(JobId, usize, Group)> {
        self.totals.computed_tokens += plan.rows.len() as u64;
        plan.rows.iter().for_each(|&node| self.tree.mark_computed(node));
        let is_drawn = outputs.iter().all(|output| matches!(output, Output::Drawn(_)));
        let read = |(readers, output): (&Readers, Output)| readers.read(&self.running, output);
        // What is drawn already is not worth waking other threads for.
        let read: Vec<Read> = match is_drawn {
            true => plan.readers.iter().zip(outputs).map(read).collect(),
            false => plan.readers.par_iter().zip(outputs).map(read).collect(),
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

#[cfg(test)]
mod tests;
