//! Which rows the queries of an attention see.

use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

use candle_core::{Result, bail};

#[cfg(feature = "cuda")]
use super::cuda::DevicePaths;

/// For each query of an attention, the rows of the keys and values that it sees, itself included.
///
/// One form for everything: a prompt is a chain, samples that share a beginning are branches of a tree, and a row is
/// seen by whatever descends from it. The paths of a chain are one list of rows, each longer than the one before.
#[derive(Debug, Default)]
pub struct Paths {
    rows: Vec<u32>,
    spans: Vec<Range<usize>>,
    /// Of each path, how many rows at its start are those of the path before.
    shared: Vec<usize>,
    /// The same on a device, from the first attention there on.
    #[cfg(feature = "cuda")]
    pub(super) on_device: OnceLock<DevicePaths>,
}

/// By which queries a row is seen, windows aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub queries: Range<usize>,
    /// Where the row is in the path of each of them.
    pub place: usize,
}

impl Paths {
    /// Adds the path of the next query.
    pub fn push(&mut self, path: impl IntoIterator<Item = u32>) {
        let start = self.rows.len();
        self.rows.extend(path);
        let before = self.spans.last().cloned().unwrap_or(start..start);
        let same = self.rows[before.clone()].iter().zip(&self.rows[start..]).take_while(|(a, b)| a == b).count();
        let goes_on = same == before.len() && before.end == start;
        if goes_on {
            self.rows.drain(start..start + same);
        }
        self.shared.push(same);
        self.spans.push(if goes_on { before.start } else { start }..self.rows.len());
    }

    /// Adds a path that goes on from the one before, or begins, with `row`.
    pub fn push_next(&mut self, row: u32) {
        let before = self.spans.last().cloned().unwrap_or_default();
        let start = if before.end == self.rows.len() {
            before.start
        } else {
            self.rows.extend_from_within(before.clone());
            self.rows.len() - before.len()
        };
        self.rows.push(row);
        self.shared.push(before.len());
        self.spans.push(start..self.rows.len());
    }

    /// How many rows at the start of a query's path are at the start of the path before, too.
    pub fn shared(&self, query: usize) -> usize {
        self.shared[query]
    }

    /// The rows that a query sees.
    pub fn path(&self, query: usize) -> &[u32] {
        &self.rows[self.spans[query].clone()]
    }

    /// The rows of all paths.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Where in [`Self::rows`] the path of each query is. Spans that begin at the same place are those of consecutive
    /// queries, each of whose paths begins with the one before.
    pub fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }

    /// How many queries there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// For each of `count` rows, by which queries it is seen. A row that is seen by none has an empty range.
    ///
    /// # Errors
    /// If the queries that see a row do not follow each other, or see it at different places, or a path names a row that
    /// is not there.
    pub fn seen(&self, count: usize) -> Result<Vec<Seen>> {
        let mut seen = vec![Seen { queries: 0..0, place: 0 }; count];
        let mut before: &[u32] = &[];
        for query in 0..self.len() {
            let (path, same) = (self.path(query), self.shared[query]);
            for &row in &before[same..] {
                seen[row as usize].queries.end = query;
            }
            for (place, &row) in path.iter().enumerate().skip(same) {
                let Some(of_row) = seen.get_mut(row as usize) else { bail!("a path names row {row} of {count}") };
                if !of_row.queries.is_empty() {
                    bail!("the queries that see row {row} do not follow each other");
                }
                // Until it ends.
                *of_row = Seen { queries: query..self.len(), place };
            }
            before = path;
        }
        Ok(seen)
    }

    /// Runs of at most `most` consecutive queries whose paths begin at the same place of [`Self::rows`].
    pub fn runs(&self, most: usize) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (query, span) in self.spans.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if run.len() < most && self.spans[run.start].start == span.start => run.end = query + 1,
                _ => runs.push(query..query + 1),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(paths: &[&[u32]]) -> Paths {
        let mut collected = Paths::default();
        paths.iter().for_each(|path| collected.push(path.iter().copied()));
        collected
    }

    #[test]
    fn a_path_that_goes_on_shares_what_is_before_it() {
        let paths: [&[u32]; 6] = [&[5], &[5, 6], &[5, 6, 7, 8], &[5, 9], &[5, 9, 1], &[2]];
        let collected = collect(&paths);
        assert_eq!(collected.rows(), [5, 6, 7, 8, 5, 9, 1, 2]);
        for (query, path) in paths.iter().enumerate() {
            assert_eq!(collected.path(query), *path);
        }
        assert_eq!((0..6).map(|query| collected.shared(query)).collect::<Vec<_>>(), [0, 1, 2, 1, 2, 0]);
        assert_eq!(collected.runs(2), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(collected.runs(9), [0..3, 3..5, 5..6]);
    }

    #[test]
    fn a_next_row_is_the_same_as_its_path() {
        let mut paths = Paths::default();
        paths.push_next(3);
        paths.push_next(4);
        paths.push([3, 8]);
        paths.push([3]);
        paths.push_next(9);
        let same = collect(&[&[3], &[3, 4], &[3, 8], &[3], &[3, 9]]);
        assert_eq!((paths.rows(), paths.spans(), &paths.shared), (same.rows(), same.spans(), &same.shared));
    }

    #[test]
    fn a_row_is_seen_by_what_descends_from_it() {
        let seen = collect(&[&[0], &[0, 1], &[0, 1, 2], &[0, 3], &[4]]).seen(6).unwrap();
        let expected = [(0..4, 0), (1..3, 1), (2..3, 2), (3..4, 1), (4..5, 0), (0..0, 0)];
        assert_eq!(seen, expected.map(|(queries, place)| Seen { queries, place }));
        let apart = collect(&[&[0], &[0, 1], &[0, 2], &[0, 1, 3]]).seen(4).unwrap_err();
        assert!(apart.to_string().contains("row 1 do not follow"), "{apart}");
        assert!(collect(&[&[7]]).seen(7).is_err());
    }
}
