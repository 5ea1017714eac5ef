//! What a server does about a round that another one, or its own last run, has left unfinished.

use std::time::Duration;

use crate::store::Unfinished;

/// A round that ended its server so often, without coming further in between, would do so again.
const MAX_STALLED: u32 = 3;

/// How many lease times a round waits for the server that has its checkpoint, which may be restarting.
const GRACE_LEASES: u32 = 3;

/// What is to be done about an unfinished round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Somebody has it, or may still come for it.
    Leave,
    /// This server goes on with it.
    TakeOver,
    /// It has failed, for this reason.
    GiveUp(String),
}

/// What decides whether this server can go on with a round.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    /// It serves the model that the round trains.
    pub same_model: bool,
    pub has_checkpoint: bool,
    pub lease: Duration,
}

/// Decides about an unfinished round that this server does not run.
pub fn decide(unfinished: &Unfinished, here: Here) -> Decision {
    let Some(abandoned) = unfinished.abandoned else { return Decision::Leave };
    if unfinished.stalled >= MAX_STALLED {
        let reason = format!("its servers stopped {} times without a new step", MAX_STALLED + 1);
        return Decision::GiveUp(reason);
    }
    // Before its first step there is nothing that a checkpoint could hold.
    if here.same_model && (here.has_checkpoint || unfinished.round.step == 0) {
        return Decision::TakeOver;
    }
    if abandoned >= here.lease * GRACE_LEASES {
        return Decision::GiveUp("the server that ran it stopped, and none that could go on with it came".into());
    }
    Decision::Leave
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{
        engine::handle::Version,
        store::{Round, RoundState, RoundTrigger},
    };

    const HERE: Here = Here { same_model: true, has_checkpoint: true, lease: Duration::from_secs(60) };

    fn left(step: u32, seconds: u64, stalled: u32) -> Unfinished {
        let round = Round {
            id: Uuid::now_v7(),
            state: RoundState::Training,
            trigger: RoundTrigger::Operator,
            model: None,
            recipe: json!({}),
            seed: 1,
            attempts: 1,
            questions: 8,
            held_back: 0,
            step,
            steps: 10,
            parent_version: Version::base(),
            candidate_version: None,
            verdict: None,
            reason: None,
            watch: None,
            created_at: Utc::now(),
            started_at: None,
            finished_at: None,
        };
        Unfinished { round, abandoned: Some(Duration::from_secs(seconds)), stalled }
    }

    #[test]
    fn a_round_that_somebody_has_is_left_alone() {
        let held = Unfinished { abandoned: None, ..left(3, 0, 9) };
        assert_eq!(decide(&held, HERE), Decision::Leave);
    }

    #[test]
    fn who_has_the_checkpoint_goes_on_and_before_the_first_step_anybody_with_the_model_does() {
        let without = Here { has_checkpoint: false, ..HERE };
        assert_eq!(decide(&left(3, 0, 2), HERE), Decision::TakeOver);
        assert_eq!(decide(&left(0, 0, 0), without), Decision::TakeOver);
        assert_eq!(decide(&left(3, 0, 0), without), Decision::Leave);
        assert_eq!(decide(&left(0, 0, 0), Here { same_model: false, ..HERE }), Decision::Leave);
    }

    #[test]
    fn a_round_is_given_up_if_nobody_comes_or_if_it_does_not_come_further() {
        let without = Here { has_checkpoint: false, ..HERE };
        assert_eq!(decide(&left(3, 179, 0), without), Decision::Leave);
        let reason = |left, here| match decide(&left, here) {
            Decision::GiveUp(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(left(3, 180, 0), without).contains("none that could go on with it came"));
        assert!(reason(left(3, 0, 3), HERE).contains("4 times without a new step"));
    }
}
