//! Rows of the left factor of a product, and of its result.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{
    format::{BLOCK, PANEL},
    product::dispatch,
    room::Room,
};

/// Inputs whose weights are decoded at a time: 8 kB of them.
pub const DEPTH: usize = 2 * BLOCK;

/// Runs of numbers given to a thread at a time where they are only moved.
const MIN_RUNS: usize = 128;

/// Consecutive inputs of one row of the left factor.
pub type Run = [f32; DEPTH];

/// Rows of the left factor, in groups that are multiplied together: their runs lie one behind the other, so that one
/// address and fixed distances reach the same input of all of them.
pub struct Rows {
    pub groups: Vec<RowGroup>,
    /// `[chunks, slots, DEPTH]`; inputs beyond the matrix are 0.
    values: Room,
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
        Self::pack_with(x, width, |_, _, from, to| to.copy_from_slice(from))
    }

    /// The same, each number times that of its row and that of its input.
    pub fn pack_scaled(x: &[f32], of_rows: &[f32], of_inputs: &[f32]) -> Self {
        Self::pack_with(x, of_inputs.len(), |row, start, from, to| {
            let of_row = of_rows[row];
            for ((to, x), of_input) in to.iter_mut().zip(from).zip(&of_inputs[start..]) {
                *to = x * of_row * of_input;
            }
        })
    }

    /// `write` is given a row, the first input of a run, its numbers, and where they go.
    fn pack_with(x: &[f32], width: usize, write: impl Fn(usize, usize, &[f32], &mut [f32]) + Sync) -> Self {
        let mut rows = Self::room(x.len() / width, width);
        let Self { values, count, slots, .. } = &mut rows;
        let runs = values.as_chunks_mut::<DEPTH>().0.par_iter_mut().with_min_len(MIN_RUNS).enumerate();
        runs.for_each(|(place, run)| {
            let (start, row) = (place / *slots * DEPTH, place % *slots);
            let end = if row < *count { width.min(start + DEPTH) } else { start };
            let (numbers, rest) = run.split_at_mut(end - start);
            if row < *count {
                write(row, start, &x[row * width..][start..end], numbers);
            }
            rest.fill(0.0);
        });
        rows
    }

    /// Room for rows of `width`, to be filled through [`Self::chunks_mut`].
    pub fn room(count: usize, width: usize) -> Self {
        let groups = group_rows(count);
        // One at least, so that there are chunks of no rows, too.
        let slots = groups.iter().map(|group| group.size).sum::<usize>().max(1);
        Self { groups, values: Room::of(width.div_ceil(DEPTH) * slots * DEPTH), count, slots }
    }

    /// The runs of all rows, chunk after chunk.
    pub fn chunks_mut(&mut self) -> impl IndexedParallelIterator<Item = &mut [Run]> {
        self.values.as_chunks_mut().0.par_chunks_mut(self.slots)
    }

    fn chunks(&self) -> impl Iterator<Item = &[Run]> {
        self.values.as_chunks().0.chunks_exact(self.slots)
    }

    /// The runs of a group's rows, of one chunk.
    pub fn group(&self, group: RowGroup, chunk: usize) -> &[Run] {
        &self.values.as_chunks().0[chunk * self.slots + group.first..][..group.size]
    }

    /// The runs of the only group, chunk after chunk.
    pub fn only_group(&self) -> &[Run] {
        self.values.as_chunks().0
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

    /// The runs of a segment, chunk after chunk.
    pub fn segment(&self, Segment { group, row, size }: Segment) -> impl Iterator<Item = &[Run]> {
        self.chunks().map(move |runs| &runs[group.first + row..][..size])
    }

    /// Brings the results of panels, `[slots, PANEL]` each, into rows of `width`, and adds them to those of `onto`.
    pub fn unpack(&self, panels: &[f32], width: usize, onto: Option<&[f32]>) -> Vec<f32> {
        let add = |(out, onto): (&mut f32, &f32)| *out += onto;
        if !width.is_multiple_of(PANEL) {
            let mut out: Vec<f32> = (0..self.count).flat_map(|row| self.gather(panels, row, width)).collect();
            out.iter_mut().zip(onto.unwrap_or_default()).for_each(add);
            return out;
        }
        let (parts, count) = (panels.as_chunks::<PANEL>().0, width / PANEL);
        let onto = onto.map(|onto| onto.as_chunks::<PANEL>().0);
        let part = |place: usize| {
            let mut part = parts[place % count * self.slots + place / count];
            if let Some(onto) = onto {
                part.iter_mut().zip(&onto[place]).for_each(add);
            }
            part
        };
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

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Elements of one panel's results.
    pub fn panel_len(&self) -> usize {
        self.slots * PANEL
    }
}
