//! What an engine tells besides the responses: scores of tokens, and pieces of a response as they come.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::engine::handle::FinishReason;

/// The most likely tokens that can be told beside each token: what completion APIs allow.
pub const MAX_TOP_TOKENS: usize = 20;

/// What is to be told of a request besides its responses; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Scores of the generated tokens, each with so many of the most likely tokens at its place.
    pub tokens: Option<usize>,
    /// The same of the prompt's tokens, from the second on. Rows of the prompt that are cached are computed again.
    pub prompt: Option<usize>,
    /// Who hears of every token when it is drawn.
    pub listener: Option<Listener>,
}

/// What the model thinks of a token after those before it, whatever the sampling: natural logarithms of
/// softmax(logits), at temperature 1, without penalties and bias.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    pub log_prob: f32,
    /// The most likely tokens at this place with their log-probabilities, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// One token of a response.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Which response: the listener's first choice and the sample's index together.
    pub choice: usize,
    pub token: u32,
    /// If asked for.
    pub score: Option<TokenScore>,
    /// The text that is settled with this token. The pieces of a response, joined, are its text: a character comes when
    /// its last byte is there, and what might be the beginning of a stop text is held back until it is known.
    pub text: String,
    /// With the last token: why it is the last.
    pub finish: Option<FinishReason>,
}

/// Passes the pieces of one request on.
///
/// The queue has no bound of its own, so that a slow reader never stops the engine; a request bounds what is in it, by
/// its samples times their `max_tokens`.
#[derive(Clone, Debug)]
pub struct Listener {
    pieces: UnboundedSender<Piece>,
    first_choice: usize,
}

impl Listener {
    /// One listener for each of the requests of a call, `samples` responses each; the receiver ends when all requests have.
    pub fn for_requests(requests: usize, samples: usize) -> (Vec<Self>, UnboundedReceiver<Piece>) {
        let (pieces, receiver) = unbounded_channel();
        let listener = |index| Self { pieces: pieces.clone(), first_choice: index * samples };
        ((0..requests).map(listener).collect(), receiver)
    }

    /// Passes a piece on, with the index of its sample as its choice. Nobody may be listening any more: the engine
    /// learns of that otherwise.
    pub fn tell(&self, piece: Piece) {
        let choice = self.first_choice + piece.choice;
        let _ = self.pieces.send(Piece { choice, ..piece });
    }
}
