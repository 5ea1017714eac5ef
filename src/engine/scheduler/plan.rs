//! The rows of one step.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{readers::Readers, running::Running};
use crate::engine::{
    handle::{Lease, Priority},
    model::ops::Paths,
    prefix_tree::{NodeId, PrefixTree},
};

/// Prompt rows of one step that are scored: the logits of 128 rows of 49,152 are 25 MB.
const MAX_SCORED_ROWS: usize = 128;

/// The nodes of one step.
pub struct Plan {
    pub priority: Priority,
    /// Each adapter version of the step, and its rows.
    pub leases: Vec<(Lease, Range<usize>)>,
    /// Each once; ancestors are in the cache or in the same plan.
    pub rows: Vec<NodeId>,
    /// What each row attends to: the rows of its sequence up to itself.
    pub paths: Arc<Paths>,
    /// Indices of the rows whose logits are needed, ascending.
    pub outputs: Vec<usize>,
    /// Who reads each of them, by their places among the groups that run: until one comes or goes.
    pub(super) readers: Vec<Readers>,
}

/// A plan in the making.
#[derive(Default)]
pub(super) struct Draft {
    pub rows: Vec<NodeId>,
    row_of: HashMap<NodeId, usize>,
    paths: Paths,
    /// Of each row; most have none.
    readers: Vec<Readers>,
    scored_rows: usize,
}

impl Draft {
    /// The row of the last node of a path, new if need be; `None` beyond `max_rows`. The path comes in two parts, of which the
    /// second may be empty.
    fn row(&mut self, [start, end]: [&[NodeId]; 2], max_rows: usize) -> Option<usize> {
        let path = || start.iter().chain(end).copied();
        let node = path().next_back()?;
        if let Some(&row) = self.row_of.get(&node) {
            return Some(row);
        }
        let row = Some(self.rows.len()).filter(|&row| row < max_rows)?;
        // A prompt has a row after another, and a path of its own for each would be long.
        match path().rev().nth(1) {
            Some(before) if self.rows.last() == Some(&before) => self.paths.push_next(node),
            _ => self.paths.push(path()),
        }
        self.row_of.insert(node, row);
        self.rows.push(node);
        self.readers.push(Readers::default());
        Some(row)
    }

    /// Adds the places where the samples of a group wait for their next token, as far as they find one.
    pub fn add_samples(&mut self, group: usize, running: &Running, max_rows: usize) {
        for (sample, response) in running.samples.iter().enumerate().filter(|(_, response)| response.tip.is_some()) {
            if let Some(row) = self.row([&running.prompt, &response.nodes], max_rows) {
                self.readers[row].samples.push((group, sample));
            }
        }
    }

    /// Adds what is missing of a group's prompt, as far as there is room, and its samples if nothing is left; `None` if
    /// something is.
    pub fn add_prompt(&mut self, group: usize, running: &Running, tree: &PrefixTree, max_rows: usize) -> Option<()> {
        for (place, &node) in running.prompt.iter().enumerate().skip(running.ready) {
            let scored = running.lacks_score(place);
            let is_scored = self.row_of.get(&node).is_some_and(|&row| !self.readers[row].places.is_empty());
            if scored && !is_scored && self.scored_rows == MAX_SCORED_ROWS {
                return None;
            }
            if !scored && tree.is_computed(node) {
                continue;
            }
            let row = self.row([&running.prompt[..=place], &[]], max_rows)?;
            if scored {
                self.readers[row].places.push((group, place));
                self.scored_rows += usize::from(!is_scored);
            }
        }
        self.add_samples(group, running, max_rows);
        Some(())
    }

    /// The plan; `None` if there is nothing in it.
    pub fn finish(self, priority: Priority, leases: Vec<(Lease, Range<usize>)>) -> Option<Plan> {
        let Self { rows, paths, readers, .. } = self;
        let (outputs, readers) = readers.into_iter().enumerate().filter(|(_, readers)| !readers.is_empty()).unzip();
        (!rows.is_empty()).then_some(Plan { priority, leases, rows, paths: Arc::new(paths), outputs, readers })
    }
}
