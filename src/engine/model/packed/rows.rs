//! Rows of the left factor of a product, and of its result.

use std::{cell::Cell, ops::Range};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{
    format::{BLOCK, PANEL},
    product::dispatch,
};

/// Inputs whose weights are decoded at a time: 8 kB of them.
pub const DEPTH: usize = 2 * BLOCK;

/// Runs of numbers given to a thread at a time where they are only moved.
const MIN_RUNS: usize = 128;

/// Numbers of room that a thread keeps, 32 MB: the logits of 64 rows and 128,000 tokens.
const MAX_KEPT: usize = 8 << 20;

/// Consecutive inputs of one row of the left factor.
pub type Run = [f32; DEPTH];

/// Rows of the left factor, in groups that are multiplied together: the runs of a group's rows lie one behind the other,
/// so that one address and fixed distances reach the same input of all of them.
pub struct Rows {
    pub groups: Vec<RowGroup>,
    /// Of each group, `[chunks, size]`; inputs beyond the matrix are 0.
    values: Vec<Run>,
    /// How many runs the inputs of a row take.
    chunks: usize,
    count: usize,
    /// Rows that are computed: those that fill up the last group are 0.
    slots: usize,
}

/// Rows that are multiplied together.
#[derive(Clone, Copy)]
pub struct RowGroup {
    pub first: usize,
    pub size: usize,
}

/// Numbers of rows for which adapters have code.
const SEGMENTS: [usize; 6] = [12, 8, 6, 4, 2, 1];

/// Group sizes for which there is code, by the number of vector registers: two accumulators a row, and some to spare.
fn group_sizes() -> &'static [usize] {
    struct Registers;
    impl WithSimd for Registers {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::REGISTER_COUNT
        }
    }
    if dispatch(Registers) >= 32 { &[12, 8, 4, 2, 1] } else { &[6, 4, 2, 1] }
}

/// The groups of a number of rows: the largest size as often as it is filled, then the smallest that holds the rest.
fn group_rows(count: usize) -> Vec<RowGroup> {
    let sizes = group_sizes();
    let (mut groups, mut first) = (Vec::new(), 0);
    while first < count {
        let smallest = sizes.iter().rev().find(|&&size| size >= count - first);
        let size = *smallest.unwrap_or(&sizes[0]);
        groups.push(RowGroup { first, size });
        first += size;
    }
    groups
}

/// Neighbouring rows of a group, as many as there is code for.
#[derive(Clone, Copy)]
pub struct Segment {
    group: RowGroup,
    /// The first of them within the group.
    row: usize,
    pub size: usize,
}

impl Segment {
    /// The first of them among all rows.
    pub fn first(self) -> usize {
        self.group.first + self.row
    }
}

impl Rows {
    /// Lays out `x`, rows of `width`.
    pub fn pack(x: &[f32], width: usize) -> Self {
        let (count, chunks) = (x.len() / width, width.div_ceil(DEPTH));
        let groups = group_rows(count);
        let slots = groups.iter().map(|group| group.size).sum();
        // The run that is to be at a place.
        let run = |place: usize| {
            let group = groups[groups.partition_point(|group| group.first * chunks <= place) - 1];
            let within = place - group.first * chunks;
            let (chunk, row) = (within / group.size, group.first + within % group.size);
            let mut run = [0f32; DEPTH];
            if row < count {
                let rest = &x[row * width..][chunk * DEPTH..width];
                match rest.first_chunk() {
                    Some(whole) => run = *whole,
                    None => run[..rest.len()].copy_from_slice(rest),
                }
            }
            run
        };
        let values: Vec<Run> = (0..slots * chunks).into_par_iter().with_min_len(MIN_RUNS).map(run).collect();
        Self { groups, values, chunks, count, slots }
    }

    /// The values of a group, `[chunks, size, DEPTH]`.
    pub fn group(&self, group: RowGroup) -> &[Run] {
        &self.values[group.first * self.chunks..][..group.size * self.chunks]
    }

    /// The rows of a range. The last group is taken whole where all its rows are in the range.
    pub fn segments(&self, rows: &Range<usize>) -> Vec<Segment> {
        let mut segments = Vec::new();
        for &group in &self.groups {
            let mut row = rows.start.max(group.first) - group.first;
            let end = match rows.end {
                end if end >= self.count => group.size,
                end => end.saturating_sub(group.first).min(group.size),
            };
            while row < end {
                let size = SEGMENTS.into_iter().find(|&size| size <= end - row).unwrap_or(1);
                segments.push(Segment { group, row, size });
                row += size;
            }
        }
        segments
    }

    /// The values of a segment, chunk after chunk.
    pub fn segment(&self, Segment { group, row, size }: Segment) -> impl Iterator<Item = &[Run]> {
        self.group(group).chunks_exact(group.size).map(move |runs| &runs[row..row + size])
    }

    /// Brings the results of panels, `[slots, PANEL]` each, into rows of `width`.
    pub fn unpack(&self, panels: &[f32], width: usize) -> Vec<f32> {
        if !width.is_multiple_of(PANEL) {
            return (0..self.count).flat_map(|row| self.gather(panels, row, width)).collect();
        }
        let (parts, count) = (panels.as_chunks::<PANEL>().0, width / PANEL);
        let part = |place: usize| parts[place % count * self.slots + place / count];
        let places = (0..self.count * count).into_par_iter().with_min_len(DEPTH / PANEL * MIN_RUNS);
        places.map(part).collect::<Vec<[f32; PANEL]>>().into_flattened()
    }

    /// The same, each row on its own.
    pub fn unpack_apart(&self, panels: &[f32], width: usize) -> Vec<Vec<f32>> {
        (0..self.count).into_par_iter().map(|row| self.gather(panels, row, width)).collect()
    }

    /// Brings the parts of one row together.
    fn gather(&self, panels: &[f32], row: usize, width: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(width.next_multiple_of(PANEL));
        for panel in panels.chunks_exact(self.slots * PANEL).take(width.div_ceil(PANEL)) {
            out.extend_from_slice(&panel[row * PANEL..][..PANEL]);
        }
        out.truncate(width);
        out
    }

    /// Lends room for the results of a number of panels to `f`. What is in it is left from before: the room stays with
    /// the thread, because the system takes longer to find memory for the logits of many rows than to move them.
    /// Exceptionally large room does not, because in time every thread has had its turn.
    pub fn with_room<R>(&self, panels: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        thread_local! {
            static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
        }
        let mut room = ROOM.take();
        let len = panels * self.panel_len();
        if room.len() < len {
            room.resize(len, 0.0);
        }
        let result = f(&mut room[..len]);
        if len <= MAX_KEPT {
            ROOM.set(room);
        }
        result
    }

    /// Elements of one panel's results.
    pub fn panel_len(&self) -> usize {
        self.slots * PANEL
    }
}
