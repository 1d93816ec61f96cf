//! Settings that a reload replaces while the daemon runs.

use std::sync::Arc;

use parking_lot::RwLock;

/// A value that readers take as it is now, and that a reload replaces as a whole.
#[derive(Debug)]
pub struct Reloadable<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Reloadable<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Reloadable<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The value as it is now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read())
    }

    /// Replaces the value; what [`Reloadable::get`] has returned stays the old one.
    pub fn set(&self, value: T) {
        *self.0.write() = Arc::new(value);
    }
}
