//! What an engine tells besides the responses: scores of tokens, and pieces of a response as they come.

use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio_util::sync::CancellationToken;

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

impl Piece {
    /// Whether it has anything to show besides its token: some text, or the end.
    pub fn shows(&self) -> bool {
        !self.text.is_empty() || self.finish.is_some()
    }
}

/// The most pieces of one call that may wait to be read: with all the scores that can be asked for they take 1 MB, and
/// a reader has fallen seconds behind.
pub const MAX_UNREAD_PIECES: usize = 4096;

/// Passes the pieces of one request on. It never waits: one for which there is no room is lost, and the reader is told.
#[derive(Clone, Debug)]
pub struct Listener {
    pieces: Sender<Piece>,
    overrun: CancellationToken,
    first_choice: usize,
}

/// The pieces of one call, as they come.
#[derive(Debug)]
pub struct Pieces {
    pieces: Receiver<Piece>,
    overrun: CancellationToken,
}

impl Listener {
    /// One listener for each of the requests of a call, `samples` responses each.
    pub fn for_requests(requests: usize, samples: usize) -> (Vec<Self>, Pieces) {
        let (sender, pieces) = channel(MAX_UNREAD_PIECES);
        let overrun = CancellationToken::new();
        let listener = |index| Self { pieces: sender.clone(), overrun: overrun.clone(), first_choice: index * samples };
        ((0..requests).map(listener).collect(), Pieces { pieces, overrun })
    }

    /// Passes a piece on, with the index of its sample as its choice. Nobody may be listening any more: the engine
    /// learns of that otherwise.
    pub fn tell(&self, piece: Piece) {
        let choice = self.first_choice + piece.choice;
        if let Err(TrySendError::Full(_)) = self.pieces.try_send(Piece { choice, ..piece }) {
            self.overrun.cancel();
        }
    }
}

impl Pieces {
    /// The next piece; `None` when the engine has let go of all requests of the call.
    pub async fn next(&mut self) -> Option<Piece> {
        self.pieces.recv().await
    }

    /// Cancelled when more than [`MAX_UNREAD_PIECES`] would have waited: some are missing, so that the call is of no
    /// use any more.
    pub fn overrun(&self) -> &CancellationToken {
        &self.overrun
    }
}
