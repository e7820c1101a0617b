//! Bytes whose memory a thread uses again: the system clears what it hands out, page by page.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// A picture needs so many at once, at most.
const SPARES: usize = 4;
/// The most bytes of one that is kept.
const LARGEST: usize = 16 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A vector in memory of its thread, which gets it back when this is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    /// None yet, with room for `count`.
    pub fn with_capacity(count: usize) -> Self {
        let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(count);
        Self(bytes)
    }

    /// `count` bytes of any value, to be overwritten.
    pub fn of_any_value(count: usize) -> Self {
        let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if bytes.capacity() < count {
            bytes = Vec::new();
        }
        bytes.resize(count, 0);
        Self(bytes)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        if bytes.capacity() > LARGEST {
            return;
        }
        // Not where the thread is at its end already.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(bytes);
            }
        });
    }
}

impl Deref for Bytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_never_twice_at_once() {
        let first = Bytes::of_any_value(1000);
        let there = first.as_ptr();
        let second = Bytes::of_any_value(1000);
        assert_ne!(second.as_ptr(), there);
        drop(first);
        let mut again = Bytes::with_capacity(900);
        assert_eq!((again.as_ptr(), again.len()), (there, 0));
        again.extend([7; 900]);
        drop(again);
        let longer = Bytes::of_any_value(2000);
        assert_eq!(longer.len(), 2000);
        drop((second, longer));
        assert_eq!(Bytes::of_any_value(3).len(), 3);
    }

    #[test]
    fn what_is_large_or_many_is_not_kept() {
        drop((0..20).map(|_| Bytes::of_any_value(10)).collect::<Vec<_>>());
        assert_eq!(SPARE.with_borrow(Vec::len), SPARES);
        SPARE.with_borrow_mut(Vec::clear);
        drop(Bytes::with_capacity(LARGEST + 1));
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
    }
}
