//! Votes over classes of equal answers. No answer never votes.

use super::{answer::Answer, join, key::Key, kind::AnswerKind};

/// Whether two answers are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Equal,
    Different,
    /// At least one of them was not understood.
    Unknown,
}

impl Verdict {
    /// Of two answers, as [`Tally`] would count them if nobody else had voted.
    pub fn of(a: Option<&Answer>, b: Option<&Answer>) -> Self {
        match (a, b) {
            (Some(a), Some(b)) if a.key == b.key || join::classes(&[a, b]).len() == 1 => Self::Equal,
            (Some(_), Some(_)) => Self::Different,
            _ => Self::Unknown,
        }
    }
}

/// The responses that gave one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// The key of the fullest answer among them.
    pub key: Key,
    /// The answer as its first voter wrote it.
    pub answer: String,
    /// Indices of the responses, ascending; never empty.
    pub members: Vec<usize>,
}

impl Class {
    /// How many responses gave this answer.
    pub fn votes(&self) -> usize {
        self.members.len()
    }

    /// Whether its answer is the same as `gold`, where answers of a kind are expected.
    pub fn means(&self, gold: &Answer, kind: AnswerKind) -> bool {
        self.key == gold.key || Verdict::of(Some(gold), Answer::read(&self.answer, kind).as_ref()) == Verdict::Equal
    }
}

/// The answers to one question, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many responses there were, those without an answer included.
    pub total: usize,
    /// How many had an answer that was not understood, and so was not counted.
    pub unknown: usize,
    /// Most votes first; among equals the one whose first voter comes first.
    pub classes: Vec<Class>,
}

impl Tally {
    /// Counts the answers of a question's responses, in their order. `None`, and an answer that is not understood, is
    /// counted in `total` only.
    pub fn count(answers: impl IntoIterator<Item = Option<String>>) -> Self {
        Self::count_as(AnswerKind::Auto, answers)
    }

    /// As [`Self::count`], where a kind of answers is expected.
    pub fn count_as(kind: AnswerKind, answers: impl IntoIterator<Item = Option<String>>) -> Self {
        let (mut total, mut unknown) = (0, 0);
        let mut votes: Vec<(usize, String)> = vec![];
        let mut read: Vec<Answer> = vec![];
        for (index, text) in answers.into_iter().enumerate() {
            total += 1;
            let Some(text) = text else { continue };
            match Answer::read(&text, kind) {
                Some(answer) => {
                    votes.push((index, text));
                    read.push(answer);
                }
                None => unknown += 1,
            }
        }
        let class = |together: join::Together| Class {
            key: together.key.clone(),
            answer: votes[together.members[0]].1.clone(),
            members: together.members.iter().map(|place| votes[*place].0).collect(),
        };
        let mut classes: Vec<Class> = join::classes(&read.iter().collect::<Vec<_>>()).into_iter().map(class).collect();
        // They are in the order of their first members, and the sort is stable.
        classes.sort_by_key(|class| std::cmp::Reverse(class.votes()));
        Self { total, unknown, classes }
    }

    /// The answer with more votes than any other; `None` if the first place is shared or nobody voted.
    pub fn majority(&self) -> Option<&Class> {
        self.classes.first().filter(|first| self.classes.get(1).is_none_or(|second| first.votes() > second.votes()))
    }

    /// Votes of the majority over all responses, those without an answer included; 0 without a majority.
    pub fn majority_ratio(&self) -> f64 {
        self.majority().map_or(0.0, |class| self.share(class.votes()))
    }

    /// By how many votes the first place leads the second, over all responses; 0 without a majority.
    pub fn margin(&self) -> f64 {
        let votes = |place: usize| self.classes.get(place).map_or(0, Class::votes);
        self.share(votes(0) - votes(1))
    }

    /// How many responses gave no answer, or one that was not understood.
    pub fn no_answer(&self) -> usize {
        self.total - self.classes.iter().map(Class::votes).sum::<usize>()
    }

    fn share(&self, votes: usize) -> f64 {
        if self.total == 0 { 0.0 } else { votes as f64 / self.total as f64 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grading::key;

    /// A tally of answers; an empty text stands for no answer.
    fn tally(answers: &[&str]) -> Tally {
        Tally::count(answers.iter().map(|a| (!a.is_empty()).then(|| a.to_string())))
    }

    #[test]
    fn equal_answers_vote_together_however_written() {
        let tally = tally(&["3", "1/2", "0.5", "\\frac{1}{2}", ""]);
        let winner = tally.majority().unwrap();
        assert_eq!((winner.answer.as_str(), &winner.members[..]), ("1/2", &[1, 2, 3][..]));
        assert_eq!(tally.classes[1].members, [0]);
        assert_eq!((tally.total, tally.no_answer()), (5, 1));
        assert!((tally.majority_ratio() - 0.6).abs() < 1e-12);
        assert!((tally.margin() - 0.4).abs() < 1e-12);
    }

    #[test]
    fn a_tie_has_no_winner() {
        let tally = tally(&["2", "1", "1", "2", "3"]);
        assert_eq!(tally.majority(), None);
        assert_eq!((tally.majority_ratio(), tally.margin()), (0.0, 0.0));
        assert_eq!(tally.classes.iter().map(|c| c.answer.as_str()).collect::<Vec<_>>(), ["2", "1", "3"]);
    }

    #[test]
    fn no_answer_never_wins() {
        let tally = tally(&["", "", "", "7", "$$"]);
        assert_eq!(tally.majority().unwrap().answer, "7");
        assert!((tally.majority_ratio() - 0.2).abs() < 1e-12);
        assert_eq!(tally.no_answer(), 4);
    }

    #[test]
    fn an_answer_that_leaves_something_out_votes_for_the_only_one_that_it_may_mean() {
        let joined = tally(&["5", "5 cm", "7", "5", "5 cm"]);
        assert_eq!(joined.classes[0].members, [0, 1, 3, 4]);
        assert_eq!(joined.classes[0].key, key("5 cm").unwrap());
        let ambiguous = tally(&["5", "5 cm", "5 kg"]);
        assert_eq!(ambiguous.classes.len(), 3);
        let chain = tally(&["5", "5 cm", "x = 5 cm"]);
        assert_eq!(chain.classes.len(), 1);
    }

    #[test]
    fn what_could_be_counted_in_two_ways_is_counted_in_neither() {
        // 25 is 25%, and not 0.25, which is 25% too.
        assert_eq!(tally(&["25", "25%"]).classes.len(), 1);
        assert_eq!(tally(&["25", "25%", "0.25"]).classes[1].members, [0]);
        assert_eq!(tally(&["25", "x = 25%", "0.25"]).classes[1].members, [0]);
        assert_eq!(tally(&["5", "x = 5\\text{ m}", "500 cm"]).classes[1].members, [0]);
        assert_eq!(tally(&["x = 5", "x = 5 cm", "5 cm", "5"]).classes.len(), 1);
        // `1 apple` is not what 1 means, but leaves it open whether 1 is an hour.
        assert_eq!(tally(&["1", "1 hour"]).classes.len(), 1);
        assert_eq!(tally(&["1", "1 apple", "1 hour"]).classes.len(), 3);
        assert_eq!(tally(&["x = 1", "x = 1 apple", "x = 1 hour", "1"]).classes.len(), 4);
        // 3:30 may be in either half of the day. 12:30 is not at night, but may be where somebody says so.
        assert_eq!(tally(&["3:30", "3:30 pm", "3:30 am"]).classes.len(), 3);
        assert_eq!(tally(&["12:30", "12:30 pm", "12:30 am"]).classes.len(), 3);
        // 1,50 is 1.5, or the two numbers of `50, 1`.
        assert_eq!(tally(&["1,50", "1.5"]).classes.len(), 1);
        assert_eq!(tally(&["1,50", "1.5", "50, 1"]).classes[0].members, [0, 2]);
        assert_eq!(tally(&["1,50 cm", "1,50 kg", "1.5"]).classes.len(), 3);
        // (1, 2) is x = 1 and y = 2 in their order.
        assert_eq!(tally(&["(1, 2)", "(x, y) = (1, 2)"]).classes.len(), 1);
        assert_eq!(tally(&["(1, 2)", "(x, y) = (1, 2)", "(y, x) = (2, 1)"]).classes.len(), 2);
    }

    #[test]
    fn a_rounding_votes_for_the_only_exact_answer_that_it_is_a_rounding_of() {
        assert_eq!(tally(&["1/3", "0.3333", "0.33333"]).classes.len(), 1);
        assert_eq!(tally(&["0.3333", "0.33333"]).classes.len(), 2);
        // Written as a fraction it is no rounding.
        assert_eq!(tally(&["1/3", "0.3333", "3333/10000"]).classes.len(), 2);
        assert_eq!(tally(&["1/3", "33333/100000", "0.3333"]).classes.len(), 3);
        assert_eq!(tally(&["2/3", "0.6666"]).classes.len(), 2);
        // All that round a number do, and none that some round, and some do not.
        assert_eq!(tally(&["1/3", "0.3333", "0.33330"]).classes.len(), 2);
        // A rounding may leave out what its number may.
        assert_eq!(tally(&["0.3333", "1/3", "x = 1/3"]).classes.len(), 1);
        assert_eq!(tally(&["0.3333", "x = 1/3 cm"]).classes.len(), 1);
        assert_eq!(tally(&["0.3333", "x = 1/3 cm", "1/3 kg"]).classes.len(), 3);
        assert_eq!(tally(&["[0.3333, 1)", "[1/3, 1)", "[1/3, 1]"]).classes.len(), 2);
    }

    #[test]
    fn an_answer_that_is_not_understood_is_counted_and_never_votes() {
        let tally = tally(&["\\foo{1}", "\\foo{1}", "\\foo{1}", "7", ""]);
        assert_eq!((tally.unknown, tally.no_answer(), tally.total), (3, 4, 5));
        assert_eq!(tally.majority().unwrap().answer, "7");
    }

    #[test]
    fn nothing_has_no_winner() {
        for empty in [tally(&[]), tally(&["", ""])] {
            assert_eq!(empty.majority(), None);
            assert_eq!((empty.majority_ratio(), empty.margin()), (0.0, 0.0));
        }
    }

    #[test]
    fn roundings_that_take_too_long_stay_apart() {
        let tuple = |third: &str| format!("({})", vec![third; 100].join("; "));
        assert_eq!(tally(&[&tuple("1/3"), &tuple("0.3333")]).classes.len(), 2);
        let digits = |n: usize| format!("0.{}", "3".repeat(n));
        assert_eq!(tally(&["1/3", &digits(1000), &digits(999)]).classes.len(), 1);
    }

    fn answers() -> impl Strategy<Value = Vec<Option<String>>> {
        prop::collection::vec(prop::option::of("[0-3]|1/2|0[.]5|x"), 0..40)
    }

    proptest! {
        #[test]
        fn the_winner_does_not_depend_on_the_order(
            (answers, shuffled) in answers().prop_flat_map(|a| (Just(a.clone()), Just(a).prop_shuffle()))
        ) {
            let (one, other) = (Tally::count(answers), Tally::count(shuffled));
            prop_assert_eq!(one.majority().map(|c| &c.key), other.majority().map(|c| &c.key));
            prop_assert_eq!(one.majority_ratio(), other.majority_ratio());
            prop_assert_eq!(one.margin(), other.margin());
            prop_assert_eq!(one.no_answer(), other.no_answer());
        }

        #[test]
        fn every_answer_is_in_the_one_class_of_its_key(answers in answers()) {
            let tally = Tally::count(answers.clone());
            for (index, answer) in answers.iter().enumerate() {
                let homes: Vec<_> = tally.classes.iter().filter(|c| c.members.contains(&index)).collect();
                prop_assert_eq!(homes.len(), usize::from(answer.is_some()));
                for home in homes {
                    prop_assert_eq!(Some(home.key.clone()), key(answer.as_ref().unwrap()));
                }
            }
            for class in &tally.classes {
                prop_assert!(class.members.is_sorted() && !class.members.is_empty());
                prop_assert_eq!(Some(&class.answer), answers[class.members[0]].as_ref());
            }
            prop_assert!(tally.classes.is_sorted_by_key(|c| std::cmp::Reverse(c.votes())));
        }
    }
}
