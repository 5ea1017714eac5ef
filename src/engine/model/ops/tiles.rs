//! How the attention of training is cut up for the kernels in `cuda/training.cu`: which queries and which rows a block of
//! threads has. A function of the paths alone, so that a pass comes out the same in every run.

use std::ops::Range;

use candle_core::{Result, bail};

use super::Paths;

/// Rows that a block keeps: a constant of the kernels.
pub const KEPT: usize = 64;

/// Query heads that a block goes over at least before others are asked to help it with the rows that they see, and about
/// how many blocks there are for each key head once that is so: what the sums of the parts take is bounded by it.
const PIECE: usize = 2048;
const PIECES: usize = 512;

/// The queries of each block, and what they see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryTiles {
    /// Of each query, where its path begins in the rows of all paths, and how long it is.
    pub spans: Vec<u32>,
    /// Of each tile, its first query, and how many there are.
    pub tiles: Vec<u32>,
}

impl QueryTiles {
    /// Of queries `group` of whose heads share a key head.
    ///
    /// # Errors
    /// If there are more rows than the kernels can count.
    pub fn of(paths: &Paths, group: usize) -> Result<Self> {
        let spans = paths.spans().iter().flat_map(|span| [span.start, span.len()]);
        let runs = paths.runs(KEPT / group);
        let tiles = runs.iter().flat_map(|run| [run.start, run.len()]);
        Ok(Self { spans: small(spans)?, tiles: small(tiles)? })
    }

    pub fn count(&self) -> usize {
        self.tiles.len() / 2
    }
}

/// The rows of each block, and by which queries they are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenTiles {
    /// How many rows it says it of.
    pub count: usize,
    /// Of each row, the first query that sees it, the first one after that does not, and its place in their paths.
    pub rows: Vec<u32>,
    /// The first and the last query but one of every [`KEPT`] rows together.
    pub tiles: Vec<u32>,
    /// Work for blocks: the first row, the first query, the last query but one, and the number from 1 on of the part that
    /// their sums are; 0 for the whole of it.
    pub pieces: Vec<u32>,
    /// Of rows whose sums are in parts, the first row, the first part, and how many there are.
    pub parts: Vec<u32>,
    /// How many parts there are in all.
    pub part_count: usize,
}

impl SeenTiles {
    /// Of `count` rows and queries `group` of whose heads share a key head.
    ///
    /// # Errors
    /// If the queries that see a row do not follow each other (see [`Paths::seen`]).
    pub fn of(paths: &Paths, count: usize, group: usize) -> Result<Self> {
        let seen = paths.seen(count)?;
        let tiles: Vec<Range<usize>> = seen
            .chunks(KEPT)
            .map(|rows| {
                let queries = || rows.iter().map(|row| row.queries.clone()).filter(|queries| !queries.is_empty());
                let start = queries().map(|queries| queries.start).min().unwrap_or(0);
                start..queries().map(|queries| queries.end).max().unwrap_or(start)
            })
            .collect();
        let most = (PIECE / group).max(tiles.iter().map(Range::len).sum::<usize>().div_ceil(PIECES)).max(1);
        let (mut pieces, mut parts, mut part_count) = (Vec::new(), Vec::new(), 0);
        for (index, queries) in tiles.iter().enumerate() {
            // One at least, which also says that nothing sees the rows.
            let (row, splits) = (index * KEPT, queries.len().div_ceil(most).max(1));
            let size = queries.len().div_ceil(splits);
            for split in 0..splits {
                let first = (queries.start + split * size).min(queries.end);
                let part = if splits == 1 { 0 } else { part_count + split + 1 };
                pieces.extend([row, first, (first + size).min(queries.end), part]);
            }
            if splits > 1 {
                parts.extend([row, part_count, splits]);
                part_count += splits;
            }
        }
        Ok(Self {
            count,
            rows: small(seen.iter().flat_map(|seen| [seen.queries.start, seen.queries.end, seen.place]))?,
            tiles: small(tiles.iter().flat_map(|queries| [queries.start, queries.end]))?,
            pieces: small(pieces)?,
            parts: small(parts)?,
            part_count,
        })
    }

    pub fn piece_count(&self) -> usize {
        self.pieces.len() / 4
    }

    /// How many tiles have their sums in parts.
    pub fn split_count(&self) -> usize {
        self.parts.len() / 3
    }
}

/// Numbers as the kernels take them: they count with signed ones.
fn small(numbers: impl IntoIterator<Item = usize>) -> Result<Vec<u32>> {
    let small = |number: usize| match i32::try_from(number) {
        Ok(number) => Ok(number as u32),
        Err(_) => bail!("the kernels of attention cannot count to {number}"),
    };
    numbers.into_iter().map(small).collect()
}
