//! When a round is due.

use chrono::{DateTime, TimeDelta, Utc};

/// What the operator asked for; both unset means that rounds start on command only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    /// Start a round once this many questions have come in since the last one.
    pub every_questions: Option<u32>,
    /// Start a round this many minutes after the last one, if any question has come in since.
    pub every_minutes: Option<u32>,
}

impl Schedule {
    /// Whether anything is scheduled at all.
    pub fn is_active(&self) -> bool {
        self.every_questions.is_some() || self.every_minutes.is_some()
    }

    /// Whether a round is due. `since` is when the last one was created, or when the server started if there was none.
    pub fn is_due(&self, new_questions: u64, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let enough = self.every_questions.is_some_and(|every| new_questions >= u64::from(every));
        let late = self.every_minutes.is_some_and(|every| now - since >= TimeDelta::minutes(every.into()));
        enough || (late && new_questions > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(every_questions: Option<u32>, every_minutes: Option<u32>, questions: u64, minutes: i64) -> bool {
        let now = Utc::now();
        Schedule { every_questions, every_minutes }.is_due(questions, now - TimeDelta::minutes(minutes), now)
    }

    #[test]
    fn a_round_is_due_after_enough_questions() {
        assert!(!due(Some(10), None, 9, 1000));
        assert!(due(Some(10), None, 10, 0));
    }

    #[test]
    fn a_round_is_due_after_enough_time_if_there_is_anything_new() {
        assert!(!due(None, Some(30), 5, 29));
        assert!(due(None, Some(30), 5, 30));
        assert!(!due(None, Some(30), 0, 300));
    }

    #[test]
    fn nothing_is_due_without_a_schedule() {
        assert!(!due(None, None, 1000, 1000));
    }
}
