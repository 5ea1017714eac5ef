//! Which of several answers are counted together.
//!
//! Answers with one key are one group. Besides, an answer may mean another one that says more: `5` has no unit that `5 cm` has,
//! 0.3333 is a rounding of 1/3. Taken in pairs that is no equivalence (5 would be both 5 cm and 5 m), so it is decided among
//! all answers at once. A group is counted with another one, the *top* of its class, if
//!
//! - each answer in it may mean each in the top,
//! - the top itself is counted with nothing else,
//! - whatever else an answer in it may mean is counted with the same top,
//! - and, where it leaves out a unit, all in the class that have the unit would leave one figure.
//!
//! Else it is the top of a class of its own. So an answer that could be counted in two ways is counted in neither, all in a
//! class may mean the answers at its top, and no order of the answers, and no copy of one of them, changes a class.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use super::{
    answer::{Answer, Shorter},
    budget::Budget,
    key::{Key, Shape},
    rounding::{is_near, leading, rounds},
};

/// Answers that are counted together.
pub(super) struct Together<'a> {
    /// The key of those that say most.
    pub key: &'a Key,
    /// The places of all of them, ascending.
    pub members: Vec<usize>,
}

/// The classes of some answers, by their first members.
pub(super) fn classes<'a>(answers: &[&'a Answer]) -> Vec<Together<'a>> {
    let (groups, keys) = groups(answers);
    let mut links = Links::between(&groups, &keys);
    let mut tops = links.tops();
    if links.doubt_figures(&groups, &tops) {
        tops = links.tops();
    }
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (group, top) in groups.iter().zip(&tops) {
        members.entry(*top).or_default().extend(&group.members);
    }
    let together = |(top, mut members): (usize, Vec<usize>)| {
        members.sort_unstable();
        Together { key: keys[top], members }
    };
    let mut classes: Vec<Together> = members.into_iter().map(together).collect();
    classes.sort_by_key(|class| class.members[0]);
    classes
}

/// Keys by numbers. Long keys take long to be hashed and compared, so it is done once.
struct Numbers<'a> {
    known: HashMap<&'a Key, usize>,
    keys: Vec<&'a Key>,
}

impl<'a> Numbers<'a> {
    fn of(&mut self, key: &'a Key) -> usize {
        *self.known.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len() - 1
        })
    }
}

/// A way to say less: the number of its key, and whether it leaves out units.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    key: usize,
    bare: bool,
}

/// Answers with one key. Its place among the groups is the number of that.
#[derive(Default)]
struct Group<'a> {
    answers: Vec<&'a Answer>,
    members: Vec<usize>,
    /// The ways to say less than some of them, and than how many for sure.
    ways: HashMap<Way, usize>,
    /// The keys of other readings of some of them, and of how many.
    readings: HashMap<usize, usize>,
    /// How many have no unit, or anything else like it.
    unitless: usize,
    /// Whether one of them is written exactly.
    is_exact: bool,
}

impl<'a> Group<'a> {
    fn add(&mut self, member: usize, answer: &'a Answer) {
        self.answers.push(answer);
        self.members.push(member);
        self.unitless += usize::from(!answer.form.has_units());
        self.is_exact |= !answer.form.has_decimals();
    }

    fn is_all(&self, number: usize) -> bool {
        number == self.answers.len()
    }

    /// Whether it is a way to say less than each of them.
    fn has(&self, way: &Way) -> bool {
        self.ways.get(way).is_some_and(|number| self.is_all(*number))
    }
}

/// The groups of some answers, and the keys that they and their ways to say less have, by number.
fn groups<'a>(answers: &[&'a Answer]) -> (Vec<Group<'a>>, Vec<&'a Key>) {
    let keys = answers.iter().map(|answer| 2 + answer.shorter.len()).sum();
    let mut numbers = Numbers { known: HashMap::with_capacity(keys), keys: vec![] };
    let mut groups: Vec<Group> = vec![];
    let places: Vec<usize> = answers.iter().map(|answer| numbers.of(&answer.key)).collect();
    groups.resize_with(numbers.keys.len(), Group::default);
    for (member, (answer, place)) in answers.iter().zip(places).enumerate() {
        let group = &mut groups[place];
        group.add(member, answer);
        for Shorter { key, bare, sure } in &answer.shorter {
            *group.ways.entry(Way { key: numbers.of(key), bare: *bare }).or_default() += usize::from(*sure);
        }
        for reading in &answer.other_readings {
            *group.readings.entry(numbers.of(reading)).or_default() += 1;
        }
    }
    (groups, numbers.keys)
}

/// How a group stands to one that it may mean.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// Some of its answers may mean some of the other.
    Possible,
    /// Each may mean each, and leaves out a unit.
    Bare,
    /// Each may mean each, and leaves out no unit.
    Sure,
}

impl Link {
    /// By how many answers there are of which it is so, whether it is so of all in both groups, and whether a unit is left out.
    fn of(number: usize, of_all: bool, bare: bool) -> Option<Self> {
        match (of_all, bare) {
            _ if number == 0 => None,
            (false, _) => Some(Self::Possible),
            (true, true) => Some(Self::Bare),
            (true, false) => Some(Self::Sure),
        }
    }
}

/// What a decimal may be a rounding of: what a group says that is written exactly, or that with something left out.
struct Meaning<'a> {
    shape: &'a Shape,
    leading: f64,
    group: usize,
    /// Whether all of the group say it.
    of_all: bool,
    bare: bool,
}

impl<'a> Meaning<'a> {
    /// All that a group says, if it does so exactly.
    fn of(place: usize, group: &Group, keys: &[&'a Key]) -> Vec<Self> {
        let meaning = |key: usize, of_all, bare| {
            let shape = &keys[key].0;
            Some(Self { shape, leading: leading(shape)?, group: place, of_all, bare })
        };
        let ways = group.ways.iter().map(|(way, number)| meaning(way.key, group.is_all(*number), way.bare));
        ways.chain([meaning(place, true, false)]).flatten().filter(|_| group.is_exact).collect()
    }
}

/// The places of what an answer is a rounding of; `None` if that takes too many steps.
fn rounded(answer: &Answer, meanings: &[&Meaning]) -> Option<Vec<usize>> {
    let (budget, has_units) = (Budget::for_roundings(), answer.form.has_units());
    let mut found = vec![];
    for (at, meaning) in meanings.iter().enumerate().filter(|(_, meaning)| !(meaning.bare && has_units)) {
        if rounds(&answer.form, &answer.key.0, meaning.shape, &budget)? {
            found.push(at);
        }
    }
    Some(found)
}

/// How often each of some things is there.
fn counted<T: Eq + Hash>(things: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for thing in things {
        *counts.entry(thing).or_default() += 1;
    }
    counts
}

/// For each group those that it may mean, and how it stands to them.
struct Links(Vec<BTreeMap<usize, Link>>);

impl Links {
    fn between(groups: &[Group], keys: &[&Key]) -> Self {
        let mut links = Self(vec![BTreeMap::new(); groups.len()]);
        for (place, group) in groups.iter().enumerate() {
            for (way, number) in &group.ways {
                if let Some(shorter) = groups.get(way.key) {
                    let saying = if way.bare { shorter.unitless } else { shorter.answers.len() };
                    let of_all = group.is_all(*number) && shorter.is_all(saying);
                    links.add(way.key, place, Link::of(saying, of_all, way.bare));
                }
            }
            for (reading, number) in group.readings.iter().filter(|(reading, _)| **reading < groups.len()) {
                links.add(place, *reading, Link::of(*number, group.is_all(*number), false));
            }
        }
        links.add_roundings(groups, keys);
        links
    }

    fn add(&mut self, from: usize, to: usize, link: Option<Link>) {
        if let Some(link) = link.filter(|_| from != to) {
            let known = self.0[from].entry(to).or_insert(link);
            *known = link.max(*known);
        }
    }

    /// Links groups in which nothing is written exactly to what their decimals are roundings of.
    fn add_roundings(&mut self, groups: &[Group], keys: &[&Key]) {
        if groups.iter().all(|group| group.is_exact) {
            return;
        }
        let meanings: Vec<Meaning> =
            groups.iter().enumerate().flat_map(|(place, group)| Meaning::of(place, group, keys)).collect();
        for (place, group) in groups.iter().enumerate().filter(|(_, group)| !group.is_exact) {
            let Some(own) = leading(&keys[place].0) else { continue };
            let near: Vec<&Meaning> = meanings.iter().filter(|meaning| is_near(meaning.leading, own)).collect();
            let Some(rounded) = group.answers.iter().map(|answer| rounded(answer, &near)).collect::<Option<Vec<_>>>()
            else {
                // It leads in a circle, and so stays apart.
                self.0[place].insert(place, Link::Possible);
                continue;
            };
            for (at, number) in counted(rounded.into_iter().flatten()) {
                let Meaning { group: to, of_all, bare, .. } = near[at];
                self.add(place, *to, Link::of(number, *of_all && group.is_all(number), *bare));
            }
        }
    }

    /// The top of each group. Those that lead in a circle stay apart.
    fn tops(&self) -> Vec<usize> {
        let mut tops: Vec<Option<usize>> = vec![None; self.0.len()];
        loop {
            let known = |place: usize| Some((place, self.top(place, &tops)?));
            let found: Vec<(usize, usize)> =
                (0..tops.len()).filter(|place| tops[*place].is_none()).filter_map(known).collect();
            if found.is_empty() {
                return tops.into_iter().enumerate().map(|(place, top)| top.unwrap_or(place)).collect();
            }
            for (place, top) in found {
                tops[place] = Some(top);
            }
        }
    }

    /// `None` while the top of something that the group may mean is not known.
    fn top(&self, place: usize, tops: &[Option<usize>]) -> Option<usize> {
        let above: Vec<usize> = self.0[place].keys().map(|other| tops[*other]).collect::<Option<_>>()?;
        let only = above.first().filter(|first| above.iter().all(|top| top == *first));
        Some(*only.filter(|top| self.0[place].get(top).is_some_and(|link| *link > Link::Possible)).unwrap_or(&place))
    }

    /// Puts figures without a unit in doubt where those that have the unit share no figure: 25 is not counted with `x = 25%`
    /// where somebody says 0.25. Returns whether there are such.
    fn doubt_figures(&mut self, groups: &[Group], tops: &[usize]) -> bool {
        let joined = |top: usize, as_link: Link| {
            let is_so = |place: &usize| tops[*place] == top && self.0[*place].get(&top) == Some(&as_link);
            (0..groups.len()).filter(is_so).collect::<Vec<_>>()
        };
        let mut doubts = vec![];
        for (top, group) in groups.iter().enumerate() {
            let (bare, full) = (joined(top, Link::Bare), joined(top, Link::Sure));
            let is_shared = |figure| group.has(figure) && full.iter().all(|place| groups[*place].has(figure));
            if !group.ways.keys().any(|way| way.bare && is_shared(way)) {
                doubts.extend(bare.into_iter().map(|place| (place, top)));
            }
        }
        for (place, top) in &doubts {
            self.0[*place].insert(*top, Link::Possible);
        }
        !doubts.is_empty()
    }
}
