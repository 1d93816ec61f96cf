//! What sends to endpoints that have certificates of their own: each has its connections for itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::model::EndpointKey;
use crate::platform::Tls;

/// The most endpoints whose transports are kept: those that were used last. One took 12 KB when it was measured, without its connections.
const MAX_ENDPOINTS: usize = 512;

/// One `T` per endpoint, made when it is first needed.
pub(super) struct Dedicated<T>(Arc<Mutex<Kept<T>>>);

impl<T> Clone for Dedicated<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Dedicated<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Kept {
            entries: HashMap::new(),
            uses: 0,
        })))
    }
}

struct Kept<T> {
    entries: HashMap<EndpointKey, Entry<T>>,
    /// Counts up with each use.
    uses: u64,
}

struct Entry<T> {
    transports: Arc<T>,
    fingerprint: [u8; 32],
    last_use: u64,
    /// Leads to nothing once the directory has dropped the endpoint's certificates: then the entry is dropped as well.
    tls: Weak<Tls>,
}

impl<T> Dedicated<T> {
    /// The one of this endpoint. A new one is made if there is none, or if its certificates have changed.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn get<E>(
        &self,
        endpoint: &EndpointKey,
        tls: &Arc<Tls>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let Some(transports) = self.0.lock().find(endpoint, tls) {
            return Ok(transports);
        }
        // Not under the lock: it takes a millisecond. Of two that are made at once, the first counts.
        let made = Arc::new(make()?);
        let mut kept = self.0.lock();
        if let Some(transports) = kept.find(endpoint, tls) {
            return Ok(transports);
        }
        kept.insert(endpoint, tls, &made);
        Ok(made)
    }
}

impl<T> Kept<T> {
    fn find(&mut self, endpoint: &EndpointKey, tls: &Arc<Tls>) -> Option<Arc<T>> {
        self.uses += 1;
        let entry = self.entries.get_mut(endpoint)?;
        if entry.fingerprint != tls.fingerprint {
            return None;
        }
        entry.last_use = self.uses;
        // The endpoint may have been read anew.
        entry.tls = Arc::downgrade(tls);
        Some(Arc::clone(&entry.transports))
    }

    fn insert(&mut self, endpoint: &EndpointKey, tls: &Arc<Tls>, transports: &Arc<T>) {
        self.entries.retain(|_, entry| entry.tls.strong_count() > 0);
        if self.entries.len() >= MAX_ENDPOINTS {
            let by_use = self.entries.iter().min_by_key(|(_, entry)| entry.last_use);
            let oldest = by_use.map(|(key, _)| key.clone());
            oldest.and_then(|key| self.entries.remove(&key));
        }
        let entry = Entry {
            transports: Arc::clone(transports),
            fingerprint: tls.fingerprint,
            last_use: self.uses,
            tls: Arc::downgrade(tls),
        };
        self.entries.insert(endpoint.clone(), entry);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn tls(certificate: u8) -> Arc<Tls> {
        Arc::new(Tls::new(vec![vec![certificate].into()], None, Vec::new()))
    }

    fn key(n: usize) -> EndpointKey {
        EndpointKey::from_stored(&format!("o/{n}"))
    }

    fn get(kept: &Dedicated<u32>, endpoint: usize, tls: &Arc<Tls>, made: u32) -> u32 {
        let got = kept.get(&key(endpoint), tls, || Ok::<_, Infallible>(made));
        match got {
            Ok(got) => *got,
        }
    }

    #[test]
    fn each_endpoint_has_its_own_until_its_certificates_change() {
        let kept = Dedicated::default();
        let (one, same, other) = (tls(1), tls(1), tls(2));
        assert_eq!(get(&kept, 1, &one, 10), 10);
        assert_eq!(get(&kept, 1, &same, 11), 10, "read anew, the same");
        assert_eq!(get(&kept, 2, &one, 20), 20, "another endpoint of the same certificates");
        assert_eq!(get(&kept, 1, &other, 12), 12);
        assert_eq!(get(&kept, 1, &one, 13), 13);
    }

    #[test]
    fn of_ten_thousand_endpoints_those_that_are_used_are_kept() {
        let kept = Dedicated::default();
        let tls = tls(1);
        for n in 0..10_000 {
            get(&kept, n, &tls, 1);
            assert_eq!(get(&kept, 0, &tls, 2), 1, "in use all the time");
            assert!(kept.0.lock().entries.len() <= MAX_ENDPOINTS);
        }
        assert_eq!(get(&kept, 9_999, &tls, 2), 1);
        assert_eq!(get(&kept, 9_999 - MAX_ENDPOINTS, &tls, 2), 2, "long unused");
    }

    #[test]
    fn that_of_a_deleted_endpoint_is_dropped() {
        let kept = Dedicated::default();
        let deleted = tls(1);
        get(&kept, 1, &deleted, 1);
        drop(deleted);
        get(&kept, 2, &tls(2), 2);
        assert!(!kept.0.lock().entries.contains_key(&key(1)));
    }
}
