//! Content-addressed adapters: their files, which version is live, and what may become so.

pub mod format;
pub mod gate;
pub mod probe;
mod prune;
pub mod registry;
