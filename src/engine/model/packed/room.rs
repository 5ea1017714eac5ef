//! Memory that stays with a thread.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// Numbers that a thread keeps in one piece, 32 MB: the logits of 64 rows and 128,000 tokens.
const MAX_LEN: usize = 8 << 20;

/// Pieces that a thread keeps: the rows of a product, its results, and those of a task.
const MAX_PIECES: usize = 4;

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Room for numbers. What is in it is left from before: it goes back to the thread, because the system takes longer to find
/// memory for the logits of many rows than to move them, and to fill it with zeros is another pass over it. Exceptionally
/// large room does not, because in time every thread has had its turn.
pub struct Room {
    numbers: Vec<f32>,
    len: usize,
}

impl Room {
    pub fn of(len: usize) -> Self {
        let kept = KEPT.with_borrow_mut(|kept| {
            let place = kept.iter().position(|numbers| numbers.len() >= len).or(kept.len().checked_sub(1))?;
            Some(kept.swap_remove(place))
        });
        let mut numbers = kept.unwrap_or_default();
        if numbers.len() < len {
            numbers.resize(len, 0.0);
        }
        Self { numbers, len }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.numbers);
        KEPT.with_borrow_mut(|kept| {
            if numbers.len() <= MAX_LEN && kept.len() < MAX_PIECES {
                kept.push(numbers);
                kept.sort_by_key(Vec::len);
            }
        });
    }
}

impl Deref for Room {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.len]
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_uses_its_room_again_unless_it_was_exceptionally_large() {
        let address = |len| Room::of(len).as_ptr();
        let first = address(1000);
        assert_eq!(address(10), first);
        let (one, other) = (Room::of(10), Room::of(10));
        assert_ne!(one.as_ptr(), other.as_ptr());
        drop((one, other));
        drop(Room::of(MAX_LEN + 1));
        assert!(KEPT.with_borrow(|kept| kept.iter().all(|numbers| numbers.len() <= MAX_LEN)));
    }

    #[test]
    fn a_thread_keeps_a_few_pieces_only() {
        let pieces: Vec<Room> = (0..10).map(Room::of).collect();
        drop(pieces);
        assert_eq!(KEPT.with_borrow(Vec::len), MAX_PIECES);
    }
}
