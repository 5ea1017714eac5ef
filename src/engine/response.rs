//! One response under way: what was drawn, the text of it, and how much of the text may be shown.

use rand_chacha::ChaCha8Rng;

use crate::engine::{
    handle::{FinishReason, Piece, Rollout, Sampling, TokenScore},
    model::tokenizer::{TextStream, Tokenizer},
    prefix_tree::NodeId,
    sampler,
};

/// One drawn token.
pub struct Draw {
    pub token: u32,
    /// See [`Rollout::log_probs`].
    pub log_prob: f32,
    /// If asked for.
    pub score: Option<TokenScore>,
}

/// A response that is not finished, or was never to have a token.
pub struct Response {
    /// The last node, held; `None` once finished.
    pub tip: Option<NodeId>,
    /// The number in [0, 1) that its next token is drawn with.
    pub uniform: f64,
    rng: ChaCha8Rng,
    pub tokens: Vec<u32>,
    /// The nodes of its tokens, as far as they were to be computed.
    pub nodes: Vec<NodeId>,
    log_probs: Vec<f32>,
    scores: Vec<TokenScore>,
    text: Text,
    finish: Option<FinishReason>,
}

impl Response {
    /// The response of a sample after the node `tip`, without a token yet; `text` has nothing but its beginning behind
    /// the prompt.
    pub fn new(tip: Option<NodeId>, text: TextStream, seed: u64, sample: usize) -> Self {
        let mut rng = sampler::stream(seed, sample as u64);
        Self {
            tip,
            uniform: sampler::uniform(&mut rng),
            rng,
            tokens: Vec::new(),
            nodes: Vec::new(),
            log_probs: Vec::new(),
            scores: Vec::new(),
            text: Text { stream: text, end: None, shown: 0 },
            finish: None,
        }
    }

    /// Why it is over, if it is.
    pub fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Appends a token and decides whether it was the last.
    pub fn push(&mut self, draw: Draw, sampling: &Sampling, tokenizer: &Tokenizer) {
        self.uniform = sampler::uniform(&mut self.rng);
        self.tokens.push(draw.token);
        self.log_probs.push(draw.log_prob);
        self.scores.extend(draw.score);
        let is_end = !sampling.ignore_eos && tokenizer.end_tokens().contains(&draw.token);
        if is_end || self.text.push(tokenizer, draw.token, &sampling.stop) {
            self.finish = Some(FinishReason::Stop);
        } else if self.tokens.len() >= sampling.max_tokens {
            self.finish = Some(FinishReason::Length);
        }
    }

    /// What is new since the last call, of which there is one after every token; `sample` is the response's own index.
    pub fn news(&mut self, sample: usize, stop: &[String]) -> Piece {
        let shown = if self.finish.is_some() { self.text.rest() } else { self.text.settled(stop) };
        Piece {
            choice: sample,
            token: self.tokens.last().copied().unwrap_or_default(),
            score: self.scores.last().cloned(),
            text: shown.to_owned(),
            finish: self.finish,
        }
    }

    /// The whole response. One that is not finished is cut off.
    pub fn into_rollout(self) -> Rollout {
        Rollout {
            text: self.text.whole().to_owned(),
            tokens: self.tokens,
            log_probs: self.log_probs,
            scores: self.scores,
            finish: self.finish.unwrap_or(FinishReason::Length),
        }
    }
}

/// A text that grows by tokens, up to the first stop text.
#[derive(Debug)]
struct Text {
    stream: TextStream,
    /// Where it ends, if a stop text was found.
    end: Option<usize>,
    /// How many of its bytes were shown.
    shown: usize,
}

impl Text {
    /// Takes the next token; returns whether a stop text was found.
    fn push(&mut self, tokenizer: &Tokenizer, token: u32, stop: &[String]) -> bool {
        let searched = self.stream.text().len();
        self.end = find_stop(self.stream.push(tokenizer, token), searched, stop);
        self.end.is_some()
    }

    fn whole(&self) -> &str {
        let text = self.stream.text();
        &text[..self.end.unwrap_or(text.len())]
    }

    /// What was not shown yet and can be: no stop text that may still come begins in it.
    fn settled(&mut self, stop: &[String]) -> &str {
        let end = self.whole().len() - held_back(self.whole(), stop);
        self.show(end)
    }

    /// All that was not shown yet.
    fn rest(&mut self) -> &str {
        self.show(self.whole().len())
    }

    fn show(&mut self, end: usize) -> &str {
        let start = std::mem::replace(&mut self.shown, end);
        self.stream.text().get(start..end).unwrap_or_default()
    }
}

/// Where the first stop text begins, if one is in `text`; none lies within the first `searched` bytes.
fn find_stop(text: &str, searched: usize, stop: &[String]) -> Option<usize> {
    let starts = stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
        let from = text.floor_char_boundary((searched + 1).saturating_sub(stop.len()));
        text[from..].find(stop.as_str()).map(|place| from + place)
    });
    starts.min()
}

/// The length of the longest end of `text` with which a stop text begins.
fn held_back(text: &str, stop: &[String]) -> usize {
    let longest = |stop: &String| {
        let mut lengths = (1..stop.len()).rev().filter(|&length| stop.is_char_boundary(length));
        lengths.find(|&length| text.ends_with(&stop[..length])).unwrap_or(0)
    };
    stop.iter().map(longest).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_stop_text_is_found_across_what_was_searched_before() {
        let stop = texts(&["\n\n", "END"]);
        assert_eq!(find_stop("a\n\nb", 2, &stop), Some(1));
        assert_eq!(find_stop("aEND\n\n", 3, &stop), Some(1), "the first in the text, not in the list");
        assert_eq!(find_stop("aEN\nD", 0, &stop), None);
        assert_eq!(find_stop("é\n\n", 2, &stop), Some(2));
    }

    #[test]
    fn what_may_begin_a_stop_text_is_held_back() {
        let stop = texts(&["abab!", "é?"]);
        for (text, held) in [("xabab", 4), ("xab", 2), ("xaba", 3), ("xé", 2), ("x", 0), ("", 0), ("b", 0)] {
            assert_eq!(held_back(text, &stop), held, "{text}");
        }
    }

    proptest! {
        /// However a text is cut into pieces: what is shown, joined, is the text before the first stop text to be whole, and at
        /// no time is more shown than that.
        #[test]
        fn no_part_of_a_stop_text_is_shown(
            pieces in prop::collection::vec("[abé]{0,3}", 0..12), stop in prop::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let (mut text, mut shown, mut end) = (String::new(), String::new(), None);
            for piece in &pieces {
                let searched = text.len();
                text.push_str(piece);
                end = find_stop(&text, searched, &stop);
                if end.is_some() {
                    break;
                }
                let settled = text.len() - held_back(&text, &stop);
                prop_assert!(settled >= shown.len(), "what was shown is taken back");
                shown = text[..settled].to_owned();
            }
            let whole = &text[..end.unwrap_or(text.len())];
            prop_assert!(whole.starts_with(&shown));
            prop_assert!(stop.iter().all(|stop| !whole.contains(stop.as_str())));
        }
    }
}
