//! Who may write about a round, and on whose word its candidate goes live.

use uuid::Uuid;

/// One server's attempt at a round. Each has a token of its own (a fencing token), which the row of the round keeps,
/// and every write about the round names it: a server that lost its round while it was paused or cut off can change
/// nothing more, however late it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    round: Uuid,
    token: Uuid,
}

impl Attempt {
    /// An attempt that no store knows of yet.
    pub fn new(round: Uuid) -> Self {
        Self { round, token: Uuid::now_v7() }
    }

    /// The round that it is at.
    pub fn round(&self) -> Uuid {
        self.round
    }

    /// As the store keeps it.
    pub(super) fn token(&self) -> String {
        self.token.to_string()
    }
}

/// Why a server gives a round back before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// It was asked to stop: the round has nothing to do with it.
    Stopping,
    /// Something failed that may pass, or may fail again.
    Failed,
}

/// On whose word the candidate of a round goes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promoter {
    /// The gate's: the round is `evaluating`, and this attempt holds it.
    Gate(Attempt),
    /// A person's: this round is `held`.
    Person(Uuid),
}
