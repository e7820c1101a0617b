//! Stored photographs as labelled images for a network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand_chacha::ChaCha8Rng;

use super::Transform;
use crate::data::{DataError, Samples, Stored, Stream};

/// Encoded images that lie in files.
pub trait Store: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class of an image, counted from 0.
    fn label(&self, index: usize) -> i64;

    /// Where an image lies, for messages.
    fn place(&self, index: usize) -> String;

    /// The bytes of an image.
    ///
    /// # Errors
    /// The reason, in words.
    fn read(&self, index: usize) -> Result<Stored, String>;

    /// See [`Samples::order`].
    fn order(&self, rng: Option<&mut ChaCha8Rng>) -> Vec<usize> {
        crate::data::shuffled(self.len(), rng)
    }

    /// See [`Samples::stream`].
    fn stream(self: Arc<Self>, _order: &[usize], _from: usize) -> Option<Stream> {
        None
    }
}

/// The images of a split that can't be read, and how many of them may be left out.
#[derive(Debug)]
pub struct Unreadable {
    limit: usize,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    all: BTreeMap<usize, String>,
    /// Those that nobody was told of yet.
    fresh: Vec<String>,
}

impl Unreadable {
    /// None yet, at most `limit` in all.
    pub fn new(limit: usize) -> Self {
        Self { limit, found: Mutex::default() }
    }

    /// Counts an image, once however often it is tried.
    ///
    /// # Errors
    /// [`DataError::Unreadable`] with all of them if it is one too many.
    pub fn add(&self, index: usize, text: String) -> Result<(), DataError> {
        let mut found = self.lock();
        let new = found.all.insert(index, text.clone()).is_none();
        if found.all.len() > self.limit {
            return Err(DataError::Unreadable { found: found.all.values().cloned().collect(), limit: self.limit });
        }
        // One too many is no news of an image that is left out: it ends the run.
        if new {
            found.fresh.push(text);
        }
        Ok(())
    }

    /// Where those lie that were found since this was last asked, and why they can't be read.
    pub fn take_fresh(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().fresh)
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stored images under a transform.
pub struct Pictures {
    store: Arc<dyn Store>,
    transform: Transform,
    unreadable: Arc<Unreadable>,
}

impl Pictures {
    /// The images of `store` as `transform` gives them to the network; those that can't be read are counted in
    /// `unreadable`.
    pub fn new(store: Arc<dyn Store>, transform: Transform, unreadable: Arc<Unreadable>) -> Self {
        Self { store, transform, unreadable }
    }

    /// The same images under another transform.
    pub fn with(&self, transform: Transform) -> Self {
        Self { store: Arc::clone(&self.store), transform, unreadable: Arc::clone(&self.unreadable) }
    }
}

impl Samples for Pictures {
    fn len(&self) -> usize {
        self.store.len()
    }

    fn label(&self, index: usize) -> i64 {
        self.store.label(index)
    }

    fn order(&self, rng: Option<&mut ChaCha8Rng>) -> Vec<usize> {
        self.store.order(rng)
    }

    fn stream(&self, order: &[usize], from: usize) -> Option<Stream> {
        Arc::clone(&self.store).stream(order, from)
    }

    fn render(
        &self,
        index: usize,
        stored: Option<Result<Stored, String>>,
        rng: &mut ChaCha8Rng,
        out: &mut [f32],
    ) -> Result<bool, DataError> {
        let stored = stored.unwrap_or_else(|| self.store.read(index));
        let rendered = stored.and_then(|bytes| self.transform.apply(&bytes, rng, out).map_err(|e| e.to_string()));
        match rendered {
            Ok(()) => Ok(true),
            Err(reason) => {
                self.unreadable.add(index, format!("{}: {reason}", self.store.place(index)))?;
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_images_are_counted_once_up_to_the_limit() {
        let unreadable = Unreadable::new(2);
        for index in [5, 3, 5, 5, 3] {
            unreadable.add(index, format!("{index}.jpg: torn")).unwrap();
        }
        assert_eq!(unreadable.take_fresh(), ["5.jpg: torn", "3.jpg: torn"]);
        assert!(unreadable.take_fresh().is_empty());
        let error = unreadable.add(4, "4.jpg: torn".into()).unwrap_err().to_string();
        assert!(error.starts_with("3 images can't be read, more than `max_unreadable` (2)"), "{error}");
        assert!(error.contains("3.jpg: torn\n  4.jpg: torn\n  5.jpg: torn"), "{error}");
    }
}
