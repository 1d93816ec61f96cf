//! One path of the receiver: its script and its gauges.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{End, Response};

/// The paths that were asked for or scripted.
#[derive(Debug, Default)]
pub(super) struct Routes(RwLock<HashMap<String, Arc<Route>>>);

impl Routes {
    /// The route of that path, a new one if there is none.
    pub(super) fn at(&self, path: &str) -> Arc<Route> {
        if let Some(route) = self.0.read().get(path) {
            return Arc::clone(route);
        }
        Arc::clone(self.0.write().entry(path.to_owned()).or_default())
    }
}

#[derive(Debug, Default)]
pub(super) struct Route {
    script: Mutex<VecDeque<Response>>,
    count: AtomicUsize,
    present: AtomicUsize,
    max_present: AtomicUsize,
}

impl Route {
    pub(super) fn script(&self, answers: VecDeque<Response>) {
        *self.script.lock() = answers;
    }

    /// The next response of the script; the last one stays.
    pub(super) fn next_response(&self) -> Response {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut script = self.script.lock();
        let response = if script.len() > 1 {
            script.pop_front()
        } else {
            script.front().cloned()
        };
        response.unwrap_or_else(Response::ok)
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn max_parallel(&self) -> usize {
        self.max_present.load(Ordering::Relaxed)
    }

    /// Counts a request as present until the returned value goes.
    pub(super) fn enter(&self) -> Present<'_> {
        let present = self.present.fetch_add(1, Ordering::Relaxed) + 1;
        self.max_present.fetch_max(present, Ordering::Relaxed);
        Present {
            route: self,
            end: End::default(),
        }
    }
}

/// A request that is open.
pub(super) struct Present<'a> {
    route: &'a Route,
    pub(super) end: End,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        // Unless its response was ready before.
        self.end.set(true);
        self.route.present.fetch_sub(1, Ordering::Relaxed);
    }
}
