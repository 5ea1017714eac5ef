//! What holds of all answers and of all votes, tried on random ones.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{Answer, AnswerKind, Tally, Verdict};

fn read(text: &str) -> Option<Answer> {
    Answer::read(text, AnswerKind::Auto)
}

fn verdict(a: &str, b: &str) -> Verdict {
    Verdict::of(read(a).as_ref(), read(b).as_ref())
}

/// Numbers of which some are roundings, percentages or other readings of others.
fn figure() -> impl Strategy<Value = String> {
    const FIGURES: [&str; 18] = [
        "1",
        "25",
        "2500",
        "0.25",
        "1/4",
        "0.2500",
        "1/3",
        "0.3333",
        "0.33333",
        "0.33330",
        "3333/10000",
        "1/64",
        "0.01563",
        "0.015625",
        "1,50",
        "1.5",
        "150",
        "50",
    ];
    select(&FIGURES[..]).prop_map(str::to_owned)
}

/// Figures with and without a name and a unit.
fn quantity() -> impl Strategy<Value = String> {
    (select(vec!["", "", "x=", "y="]), figure(), select(vec!["", "", "%", " cm", " m", "\\text{ kg}"]))
        .prop_map(|(name, figure, unit)| format!("{name}{figure}{unit}"))
}

/// Answers that may leave something out that others say.
fn answer() -> impl Strategy<Value = String> {
    const TIMES: [&str; 7] = ["3:30", "3:30 pm", "15:30", "3:30 am", "12:30", "12:30 am", "0:30"];
    let pair = (figure(), figure(), 0..8).prop_map(|(a, b, how)| match how {
        0 => format!("({a}; {b})"),
        1 => format!("{a}; {b}"),
        2 => format!("[{a}; {b}]"),
        3 => format!("x={a}, y={b}"),
        4 => format!("y={b}, x={a}"),
        5 => format!("(x, y) = ({a}, {b})"),
        6 => format!("\\{{{a}; {b}\\}}"),
        _ => format!("\\begin{{pmatrix}}{a}\\\\{b}\\end{{pmatrix}}"),
    });
    let time = select(&TIMES[..]).prop_map(str::to_owned);
    let choice = (quantity(), quantity()).prop_map(|(a, b)| format!("{a} or {b}"));
    prop_oneof![6 => quantity(), 2 => pair, 1 => time, 2 => choice]
}

fn tally(answers: &[String]) -> Tally {
    Tally::count(answers.iter().cloned().map(Some))
}

/// The classes of some answers, without what depends on their order: keys, and the texts of those that voted.
fn classes(answers: &[String]) -> Vec<(String, Vec<String>)> {
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts
    };
    let classes = tally(answers).classes.into_iter().map(|class| {
        (class.key.to_string(), sorted(class.members.iter().map(|member| answers[*member].clone()).collect()))
    });
    let mut classes: Vec<_> = classes.collect();
    classes.sort();
    classes
}

/// A formula of a few letters and numbers, as the parts of which it is made.
#[derive(Clone, Debug)]
enum Formula {
    Letter(char),
    Number(u32),
    Sum(Box<Formula>, Box<Formula>),
    Product(Box<Formula>, Box<Formula>),
    Fraction(Box<Formula>, Box<Formula>),
    Root(Box<Formula>),
    Square(Box<Formula>),
}

impl Formula {
    /// In one of its spellings: each bit of `choices` decides how one part is written.
    fn spelled(&self, choices: &mut u64) -> String {
        let mut choose = || {
            *choices = choices.rotate_right(1);
            *choices & 1 == 1
        };
        let (one, other) = (choose(), choose());
        let mut bracket = |inner: &Self| {
            let inner = inner.spelled(choices);
            if one { format!("\\left( {inner} \\right)") } else { format!("({inner})") }
        };
        match self {
            Self::Letter(letter) => {
                if one {
                    format!("{{{letter}}}")
                } else {
                    letter.to_string()
                }
            }
            Self::Number(number) => {
                if one {
                    format!(" {number}.0 ")
                } else {
                    number.to_string()
                }
            }
            Self::Sum(a, b) => {
                let (first, second) = if other { (b, a) } else { (a, b) };
                let second = bracket(second);
                format!("{}{}{second}", first.spelled(choices), if one { " + " } else { "+\\," })
            }
            Self::Product(a, b) => {
                let (a, b) = if other { (bracket(b), bracket(a)) } else { (bracket(a), bracket(b)) };
                if one { format!("{a} \\cdot {b}") } else { format!("{a}{b}") }
            }
            Self::Fraction(a, b) => match (one, other) {
                (true, _) => format!("{}/{}", bracket(a), bracket(b)),
                (_, true) => format!("\\dfrac{{{}}}{{ {} }}", a.spelled(choices), b.spelled(choices)),
                _ => format!("\\frac{{{}}}{{{}}}", a.spelled(choices), b.spelled(choices)),
            },
            Self::Root(inner) if one => format!("{}^{{1/2}}", bracket(inner)),
            Self::Root(inner) => format!("\\sqrt{{{}}}", inner.spelled(choices)),
            Self::Square(inner) if other => format!("{}\\times{}", bracket(inner), bracket(inner)),
            Self::Square(inner) => format!("{}^2", bracket(inner)),
        }
    }
}

fn formula(depth: u32) -> impl Strategy<Value = Formula> {
    let leaf = prop_oneof![select(vec!['x', 'y', 'n']).prop_map(Formula::Letter), (0u32..50).prop_map(Formula::Number)];
    leaf.prop_recursive(depth, 4 * depth, 2, |inner| {
        let two = || (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        prop_oneof![
            two().prop_map(|(a, b)| Formula::Sum(a, b)),
            two().prop_map(|(a, b)| Formula::Product(a, b)),
            two().prop_map(|(a, b)| Formula::Fraction(a, b)),
            inner.clone().prop_map(|a| Formula::Root(Box::new(a))),
            inner.clone().prop_map(|a| Formula::Square(Box::new(a))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_votes_changes_a_class(
        (answers, shuffled) in vec(answer(), 0..12).prop_flat_map(|a| (Just(a.clone()), Just(a).prop_shuffle()))
    ) {
        prop_assert_eq!(classes(&answers), classes(&shuffled));
    }

    #[test]
    fn a_copy_of_a_vote_changes_nothing_but_counts(answers in vec(answer(), 1..10), which: prop::sample::Index) {
        let mut more = answers.clone();
        more.push(which.get(&answers).clone());
        let distinct = |answers: &[String]| classes(answers).into_iter().map(|(key, mut texts)| {
            texts.dedup();
            (key, texts)
        }).collect::<Vec<_>>();
        prop_assert_eq!(distinct(&answers), distinct(&more));
    }

    #[test]
    fn every_vote_of_a_class_may_mean_the_fullest_ones_in_it(answers in vec(answer(), 0..12)) {
        for class in tally(&answers).classes {
            let texts = || class.members.iter().map(|member| answers[*member].as_str());
            for fullest in texts().filter(|text| read(text).unwrap().key == class.key) {
                // That a rounding and another decimal are one number is only said by what is written exactly.
                let has_decimals = |text: &str| read(text).unwrap().form.has_decimals();
                for text in texts().filter(|text| !has_decimals(text) || !has_decimals(fullest)) {
                    prop_assert_eq!(verdict(text, fullest), Verdict::Equal, "{} and {}", text, fullest);
                }
            }
        }
    }

    #[test]
    fn equal_keys_vote_together_and_a_pair_as_its_verdict_says(answers in vec(answer(), 2)) {
        let [a, b] = [read(&answers[0]), read(&answers[1])];
        let together = tally(&answers).classes.iter().any(|class| class.votes() == 2);
        prop_assert_eq!(together, verdict(&answers[0], &answers[1]) == Verdict::Equal);
        prop_assert_eq!(verdict(&answers[0], &answers[1]), verdict(&answers[1], &answers[0]));
        if let (Some(a), Some(b)) = (a, b) {
            prop_assert!(a.key != b.key || together);
            prop_assert_eq!(a.key == b.key, a.key.to_string() == b.key.to_string());
        }
    }

    #[test]
    fn all_spellings_of_a_formula_have_one_key(formula in formula(2), choices in any::<[u64; 3]>()) {
        // Deeper ones may take too many steps in some spellings only.
        let [a, b, c] = choices.map(|mut choices| formula.spelled(&mut choices));
        let keys = [&a, &b, &c].map(|text| read(text).map(|answer| answer.key));
        prop_assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[0] == keys[2], "{} or {} or {}", a, b, c);
        if keys[0].is_some() {
            prop_assert_eq!(verdict(&a, &b), Verdict::Equal);
        }
    }

    #[test]
    fn a_changed_formula_is_another_one(formula in formula(3), mut choices in any::<u64>(), by in 1u32..9) {
        let text = formula.spelled(&mut choices);
        let bracketed = format!("({text})");
        for changed in [format!("{text}+{by}"), format!("-{bracketed}-{by}"), format!("{bracketed}/{}-z", by + 1)] {
            if let (Some(a), Some(b)) = (read(&text), read(&changed)) {
                // Of x = -x - n there is a solution: only numbers have it.
                let is_number = !text.contains(['x', 'y', 'n']);
                prop_assert!(a.key != b.key || is_number && changed.starts_with('-'), "{} and {}", text, changed);
            }
        }
    }
}
