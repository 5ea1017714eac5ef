//! A tally beside the right answer: every figure that needs labels is made of these. They measure; nothing is rewarded by them.

use serde::{Deserialize, Serialize};

use super::{
    answer::Answer,
    kind::AnswerKind,
    vote::{Class, Tally},
};

/// What the responses to one question are worth beside its right answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Share of the responses that are right; those without an answer are not.
    pub share: f64,
    /// Whether the majority is right. Without a majority it is not.
    pub majority: bool,
    /// Share of the responses that earn by the label what they would earn by the right answer (the reward accuracy of
    /// TTRL, arXiv 2504.16084). Where no label is right it is still high if answers are scattered: most earn nothing,
    /// and rightly. `None` if they are not rewarded by a label.
    pub reward_accuracy: Option<f64>,
}

impl Mark {
    /// Of a question's responses, where answers of a kind are expected. The label is the majority of `labels`, which are
    /// the responses' own votes or others.
    pub fn of(tally: &Tally, labels: Option<&Tally>, gold: &Answer, kind: AnswerKind) -> Self {
        let right = tally.classes.iter().find(|class| class.means(gold, kind));
        let share = right.map_or(0.0, |class| class.votes() as f64 / tally.total as f64);
        let majority = right.is_some() && right == tally.majority();
        Self {
            share,
            majority,
            reward_accuracy: labels
                .map(|labels| 1.0 - misjudged(tally, labels, share, |class| class.means(gold, kind))),
        }
    }
}

/// The share of responses that a label judges wrongly, where `right` of them are right: unless the label itself is right, those that
/// agree with it, which earn, and the right ones, which do not.
fn misjudged(tally: &Tally, labels: &Tally, right: f64, is_right: impl Fn(&Class) -> bool) -> f64 {
    let Some(label) = labels.majority() else { return right };
    if is_right(label) {
        return 0.0;
    }
    let earn = tally.classes.iter().find(|class| class.key == label.key).map_or(0, Class::votes);
    right + earn as f64 / tally.total as f64
}

/// Means of marks over questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Mean share of right responses.
    pub pass_at_1: f64,
    /// Share of questions that one of their N responses gets right: what voting could come to at most.
    pub pass_at_n: f64,
    /// Share of questions whose majority is right: the accuracy of pseudo-labels.
    pub maj_at_n: f64,
    /// `None` if one of them was not rewarded by a label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_accuracy: Option<f64>,
}

impl Accuracy {
    /// Of questions with these marks; all zero without any.
    pub fn of<'a>(marks: impl IntoIterator<Item = &'a Mark>) -> Self {
        let (mut sum, mut count) = (Self { reward_accuracy: Some(0.0), ..Self::default() }, 0);
        let one = |is: bool| f64::from(u8::from(is));
        for mark in marks {
            sum.pass_at_1 += mark.share;
            sum.pass_at_n += one(mark.share > 0.0);
            sum.maj_at_n += one(mark.majority);
            sum.reward_accuracy = sum.reward_accuracy.zip(mark.reward_accuracy).map(|(sum, more)| sum + more);
            count += 1;
        }
        let mean = |sum: f64| if count == 0 { 0.0 } else { sum / f64::from(count) };
        Self {
            pass_at_1: mean(sum.pass_at_1),
            pass_at_n: mean(sum.pass_at_n),
            maj_at_n: mean(sum.maj_at_n),
            reward_accuracy: sum.reward_accuracy.filter(|_| count > 0).map(mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mark of these answers where 47 is right; an empty text stands for no answer.
    fn mark(answers: &[&str]) -> Mark {
        let tally = Tally::count(answers.iter().map(|answer| (!answer.is_empty()).then(|| (*answer).to_owned())));
        Mark::of(&tally, Some(&tally), &Answer::read("47", AnswerKind::Auto).unwrap(), AnswerKind::Auto)
    }

    #[test]
    fn a_right_majority_rewards_every_response_rightly() {
        let right = mark(&["47", "47.0", "46", ""]);
        assert_eq!(right, Mark { share: 0.5, majority: true, reward_accuracy: Some(1.0) });
    }

    #[test]
    fn a_wrong_majority_rewards_its_own_votes_and_no_right_one() {
        let wrong = mark(&["46", "46", "47", "45", ""]);
        assert_eq!((wrong.share, wrong.majority), (0.2, false));
        assert!((wrong.reward_accuracy.unwrap() - 0.4).abs() < 1e-12, "{wrong:?}");
    }

    #[test]
    fn a_tie_and_silence_reward_nobody_which_is_wrong_for_right_responses_only() {
        assert_eq!(mark(&["46", "47", "", ""]), Mark { share: 0.25, majority: false, reward_accuracy: Some(0.75) });
        assert_eq!(mark(&["", ""]), Mark { share: 0.0, majority: false, reward_accuracy: Some(1.0) });
    }

    #[test]
    fn figures_are_means_over_questions() {
        let marks = [mark(&["47", "47", "47", "46"]), mark(&["46", "46", "46", "47"]), mark(&["1", "2", "3", "4"])];
        let accuracy = Accuracy::of(&marks);
        assert!((accuracy.pass_at_1 - 1.0 / 3.0).abs() < 1e-12);
        assert!((accuracy.pass_at_n - 2.0 / 3.0).abs() < 1e-12);
        assert!((accuracy.maj_at_n - 1.0 / 3.0).abs() < 1e-12);
        assert!((accuracy.reward_accuracy.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(Accuracy::of([]), Accuracy::default());
    }

    #[test]
    fn the_label_that_responses_are_rewarded_by_may_be_anothers() {
        let count = |answers: &[&str]| Tally::count(answers.iter().map(|answer| Some((*answer).to_owned())));
        let (tally, gold) = (count(&["46", "46", "46", "47"]), Answer::read("47", AnswerKind::Auto).unwrap());
        let by = |labels: Option<&str>| {
            let labels = labels.map(|label| count(&[label]));
            Mark::of(&tally, labels.as_ref(), &gold, AnswerKind::Auto).reward_accuracy
        };
        assert_eq!(by(Some("47.0")), Some(1.0));
        assert_eq!(by(Some("45")), Some(0.75));
        assert_eq!(by(Some("46")), Some(0.0));
        assert_eq!(by(None), None, "chance is no label");
    }
}
