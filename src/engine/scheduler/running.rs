//! A prompt and its samples under way.

use std::time::Instant;

use super::JobId;
use crate::engine::{
    handle::{GenerateRequest, Group, Timings, TokenScore},
    prefix_tree::{NodeId, PrefixTree},
    response::Response,
};

/// One prompt with its samples, from arrival to the last token.
pub(super) struct Running {
    pub job: JobId,
    /// Its place in the call's list of requests.
    pub index: usize,
    pub request: GenerateRequest,
    /// The nodes of the prompt, of which the last is held, and how many of them are known to need nothing any more.
    pub prompt: Vec<NodeId>,
    pub ready: usize,
    /// The scores of the prompt's tokens after the first, as far as they are known; empty if nobody asked.
    pub prompt_scores: Vec<Option<TokenScore>>,
    pub samples: Vec<Response>,
    /// Cache rows set aside for the worst case.
    pub reserved: usize,
    pub arrived: Instant,
    pub started: Instant,
    pub first_token: Option<Instant>,
}

impl Running {
    pub fn is_finished(&self) -> bool {
        self.ready == self.prompt.len() && self.samples.iter().all(|sample| sample.tip.is_none())
    }

    /// Whether the token after this place of the prompt has a score to come, for which this place's logits are needed.
    pub fn lacks_score(&self, place: usize) -> bool {
        self.prompt_scores.get(place).is_some_and(Option::is_none)
    }

    /// Goes on over the places that are computed and scored.
    pub fn settle(&mut self, tree: &PrefixTree) {
        let needs_nothing = |&place: &usize| tree.is_computed(self.prompt[place]) && !self.lacks_score(place);
        self.ready += (self.ready..self.prompt.len()).take_while(needs_nothing).count();
    }

    pub fn finish(self, now: Instant) -> (JobId, usize, Group) {
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
