//! Votes over equivalence classes of answers. No answer never votes.

use std::collections::HashMap;

use super::key::{Key, key};

/// The responses that gave one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
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
}

/// The answers to one question, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many responses there were, those without an answer included.
    pub total: usize,
    /// Most votes first; among equals the one whose first voter comes first.
    pub classes: Vec<Class>,
}

impl Tally {
    /// Counts the answers of a question's responses, in their order. `None`, and an answer without a [`key`], is
    /// counted in `total` only.
    pub fn count(answers: impl IntoIterator<Item = Option<String>>) -> Self {
        let mut total = 0;
        let mut classes: Vec<Class> = Vec::new();
        let mut places: HashMap<Key, usize> = HashMap::new();
        for (index, answer) in answers.into_iter().enumerate() {
            total += 1;
            let Some((answer, key)) = answer.and_then(|answer| key(&answer).map(|key| (answer, key))) else { continue };
            let place = *places.entry(key.clone()).or_insert(classes.len());
            match classes.get_mut(place) {
                Some(class) => class.members.push(index),
                None => classes.push(Class { key, answer, members: vec![index] }),
            }
        }
        // Classes are in the order of their first members, and the sort is stable.
        classes.sort_by_key(|class| std::cmp::Reverse(class.votes()));
        Self { total, classes }
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

    /// How many responses gave no answer.
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
    fn nothing_has_no_winner() {
        for empty in [tally(&[]), tally(&["", ""])] {
            assert_eq!(empty.majority(), None);
            assert_eq!((empty.majority_ratio(), empty.margin()), (0.0, 0.0));
        }
    }

    fn answers() -> impl Strategy<Value = Vec<Option<String>>> {
        prop::collection::vec(prop::option::of("[0-3]|1/2|0.5|x"), 0..40)
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
