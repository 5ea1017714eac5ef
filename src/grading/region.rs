//! Sets of real numbers made of intervals.

use std::{cmp::Ordering, fmt};

use num_rational::BigRational;
use num_traits::Zero;

use super::numeric::part::Part;

/// Where an interval ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Limit {
    MinusInfinity,
    At(Part),
    PlusInfinity,
}

impl Limit {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::At(a), Self::At(b)) => a.compare(b),
            // The derived order puts the infinities where they belong.
            _ => self.cmp(other),
        }
    }

    pub fn is_less(&self, other: &Self) -> bool {
        self.compare(other).is_lt()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinusInfinity => f.write_str("-inf"),
            Self::At(value) => value.fmt(f),
            Self::PlusInfinity => f.write_str("inf"),
        }
    }
}

/// A place between the real numbers: right before a number, or right behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Edge {
    pub limit: Limit,
    pub behind: bool,
}

impl Edge {
    fn compare(&self, other: &Self) -> Ordering {
        self.limit.compare(&other.limit).then(self.behind.cmp(&other.behind))
    }
}

/// All numbers between edges: the first of each pair is less than the second, and no pair touches the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Region(Vec<(Edge, Edge)>);

impl Region {
    pub fn everything() -> Self {
        let edge = |limit| Edge { limit, behind: false };
        Self(vec![(edge(Limit::MinusInfinity), edge(Limit::PlusInfinity))])
    }

    pub fn positive() -> Self {
        Self::between(Limit::At(Part::Exact(BigRational::zero())), false, Limit::PlusInfinity, false)
    }

    /// The numbers between two limits; empty if the first is not less.
    pub fn between(low: Limit, low_closed: bool, high: Limit, high_closed: bool) -> Self {
        let low = Edge { behind: !low_closed && matches!(low, Limit::At(_)), limit: low };
        let high = Edge { behind: high_closed && matches!(high, Limit::At(_)), limit: high };
        Self(if low.compare(&high).is_lt() { vec![(low, high)] } else { vec![] })
    }

    pub fn point(value: Part) -> Self {
        Self::between(Limit::At(value.clone()), true, Limit::At(value), true)
    }

    /// The numbers that are in any of several regions, which are sorted once: comparing digits takes its time.
    pub fn union(regions: impl IntoIterator<Item = Self>) -> Self {
        let mut pieces: Vec<_> = regions.into_iter().flat_map(|region| region.0).collect();
        pieces.sort_by(|a, b| a.0.compare(&b.0));
        let mut merged: Vec<(Edge, Edge)> = vec![];
        for (low, high) in pieces {
            match merged.last_mut() {
                Some(last) if low.compare(&last.1).is_le() => {
                    if high.compare(&last.1).is_gt() {
                        last.1 = high;
                    }
                }
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }

    pub fn complement(&self) -> Self {
        let mut edge = Edge { limit: Limit::MinusInfinity, behind: false };
        let mut gaps = vec![];
        for (low, high) in &self.0 {
            if edge.compare(low).is_lt() {
                gaps.push((edge, low.clone()));
            }
            edge = high.clone();
        }
        let end = Edge { limit: Limit::PlusInfinity, behind: false };
        if edge.compare(&end).is_lt() {
            gaps.push((edge, end));
        }
        Self(gaps)
    }

    /// The numbers that are in all of several regions.
    pub fn intersection(regions: impl IntoIterator<Item = Self>) -> Self {
        Self::union(regions.into_iter().map(|region| region.complement())).complement()
    }

    /// The numbers whose negatives are in this.
    pub fn mirrored(&self) -> Self {
        let mirror = |edge: &Edge| Edge {
            limit: match &edge.limit {
                Limit::MinusInfinity => Limit::PlusInfinity,
                Limit::At(value) => Limit::At(value.negated()),
                Limit::PlusInfinity => Limit::MinusInfinity,
            },
            behind: matches!(edge.limit, Limit::At(_)) && !edge.behind,
        };
        Self(self.0.iter().rev().map(|(low, high)| (mirror(high), mirror(low))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ends of a region that is one bounded open interval.
    pub fn as_open_interval(&self) -> Option<(&Part, &Part)> {
        match self.0.as_slice() {
            [(Edge { limit: Limit::At(low), behind: true }, Edge { limit: Limit::At(high), behind: false })] => {
                Some((low, high))
            }
            _ => None,
        }
    }

    /// The numbers of a region that is only some of them.
    pub fn as_points(&self) -> Option<Vec<&Part>> {
        let point = |(low, high): &(Edge, Edge)| low.limit == high.limit;
        if !self.0.iter().all(point) {
            return None;
        }
        self.0.iter().map(|(low, _)| if let Limit::At(value) = &low.limit { Some(value) } else { None }).collect()
    }

    /// The limits in their order, and whether each belongs to it.
    pub fn limits(&self) -> impl Iterator<Item = (&Limit, bool)> {
        self.0.iter().flat_map(|(low, high)| [(&low.limit, !low.behind), (&high.limit, high.behind)])
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (low, high)) in self.0.iter().enumerate() {
            let infinite = low.limit == Limit::MinusInfinity;
            write!(
                f,
                "{}{}{}, {}{}",
                if at == 0 { "" } else { " u " },
                if low.behind || infinite { "(" } else { "[" },
                low.limit,
                high.limit,
                if high.behind { "]" } else { ")" },
            )?;
        }
        Ok(())
    }
}
