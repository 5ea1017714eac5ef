//! The line in front of an engine: how many calls may be unanswered at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::engine::handle::EngineError;

/// A bound on the calls that are not answered yet.
#[derive(Debug)]
pub struct Line {
    taken: Arc<AtomicUsize>,
    places: usize,
}

impl Line {
    /// A line of so many places, all free.
    pub fn new(places: usize) -> Self {
        Self { taken: Arc::default(), places }
    }

    /// Takes a place, before anything is done for a call.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if none is free.
    pub fn enter(&self) -> Result<Place, EngineError> {
        let next = |taken| (taken < self.places).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(Place { _taken: Arc::new(Taken(self.taken.clone())) }),
            Err(waiting) => Err(EngineError::Busy { waiting }),
        }
    }
}

/// A place in the line, given back when its last clone is dropped: whoever answers a call keeps one until its reply is
/// sent, and the call's requests keep theirs until the engine has let go of them.
#[derive(Clone, Debug)]
pub struct Place {
    _taken: Arc<Taken>,
}

#[derive(Debug)]
struct Taken(Arc<AtomicUsize>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_last_clone_is_gone() {
        let line = Line::new(2);
        let (first, second) = (line.enter().unwrap(), line.enter().unwrap());
        let clone = first.clone();
        drop(first);
        assert!(matches!(line.enter(), Err(EngineError::Busy { waiting: 2 })));
        drop(clone);
        assert!(line.enter().is_ok());
        drop(second);
        let _both = [line.enter().unwrap(), line.enter().unwrap()];
    }
}
