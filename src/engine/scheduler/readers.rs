//! Who needs the logits of a position, and what they make of them.

use std::{borrow::Cow, collections::BTreeMap};

use super::running::Running;
use crate::engine::{
    handle::{GenerateRequest, TokenScore},
    model::outputs::{Draws, Output, Wanted},
    response::Draw,
    sampler::{Distribution, History, Scorer},
};

/// Who needs the logits of one position.
#[derive(Default)]
pub(super) struct Readers {
    /// `(group, sample)` of those that draw from them; the samples of a group come one after another.
    pub samples: Vec<(usize, usize)>,
    /// `(group, place in its prompt)` of those whose next prompt token they score.
    pub places: Vec<(usize, usize)>,
}

/// What the logits of one position gave, with group and sample, or group and place in its prompt.
pub(super) struct Read {
    pub draws: Vec<(usize, usize, Draw)>,
    pub scores: Vec<(usize, usize, TokenScore)>,
}

impl Readers {
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.places.is_empty()
    }

    /// What is to become of the logits: draws, if all that read them draw from the whole distribution at one temperature and
    /// nobody asks for scores.
    pub fn wanted(&self, running: &[Running]) -> Wanted {
        let requests = || self.samples.iter().map(|&(group, _)| &running[group].request);
        let Some(temperature) = requests().next().map(|request| request.sampling.temperature) else {
            return Wanted::Logits;
        };
        let is_plain = |request: &GenerateRequest| {
            let sampling = &request.sampling;
            let as_it_is = !sampling.changes_logits() && (!sampling.narrows() || temperature == 0.0);
            as_it_is && sampling.temperature == temperature && request.report.tokens.is_none()
        };
        if !self.places.is_empty() || !requests().all(is_plain) {
            return Wanted::Logits;
        }
        let uniforms = self.samples.iter().map(|&(group, sample)| running[group].samples[sample].uniform);
        Wanted::Draws(Draws { temperature, uniforms: uniforms.collect() })
    }

    /// Takes what came of the logits.
    pub fn read(&self, running: &[Running], output: Output) -> Read {
        match output {
            Output::Logits(logits) => self.read_logits(running, logits),
            Output::Drawn(drawn) => {
                let draw =
                    |(&(group, sample), (token, log_prob))| (group, sample, Draw { token, log_prob, score: None });
                Read { draws: self.samples.iter().zip(drawn).map(draw).collect(), scores: vec![] }
            }
        }
    }

    /// Scores and draws. Samples of one group that wait here have the same history and share one distribution; groups may
    /// differ in their sampling parameters.
    fn read_logits(&self, running: &[Running], logits: Vec<f32>) -> Read {
        // Many that ask for the same are scored by one pass over the logits.
        let mut scorers: BTreeMap<usize, Scorer<'_>> = BTreeMap::new();
        let score = |&(group, place): &(usize, usize)| {
            let request = &running[group].request;
            let top = request.report.prompt.unwrap_or(0);
            let scorer = scorers.entry(top).or_insert_with(|| Scorer::new(&logits, top));
            (group, place, scorer.score(request.prompt[place + 1]))
        };
        let scores = self.places.iter().map(score).collect();
        let mut logits = Cow::Owned(logits);
        let mut draws = Vec::with_capacity(self.samples.len());
        let mut groups = self.samples.chunk_by(|a, b| a.0 == b.0).peekable();
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
                let (token, log_prob) = distribution.draw(all[sample].uniform);
                let score = scorer.as_ref().map(|scorer| scorer.score(token));
                draws.push((group, sample, Draw { token, log_prob, score }));
            }
        }
        Read { draws, scores }
    }
}
