//! Hosts whose HTTP/2 fails, though they offer it: they are asked by HTTP/1.1 for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use http::Uri;
use hyper_util::client::legacy;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::reason;

/// A host is asked by HTTP/2 again after this long: it may have been mended.
const HOLDS: Duration = Duration::from_secs(24 * 60 * 60);

/// What says that the two sides don't agree about HTTP/2. Other reasons are about the server's state or the one request.
const FAULTS: [Reason; 8] = [
    Reason::PROTOCOL_ERROR,
    Reason::FLOW_CONTROL_ERROR,
    Reason::SETTINGS_TIMEOUT,
    Reason::STREAM_CLOSED,
    Reason::FRAME_SIZE_ERROR,
    Reason::COMPRESSION_ERROR,
    Reason::INADEQUATE_SECURITY,
    Reason::HTTP_1_1_REQUIRED,
];

/// The hosts that are asked by HTTP/1.1, and since when.
#[derive(Clone, Default)]
pub(super) struct Http1Hosts(Arc<Mutex<HashMap<String, Instant>>>);

impl Http1Hosts {
    pub(super) fn contains(&self, uri: &Uri) -> bool {
        let hosts = self.0.lock();
        hosts.get(host(uri)).is_some_and(|since| since.elapsed() < HOLDS)
    }

    pub(super) fn insert(&self, uri: &Uri) {
        let mut hosts = self.0.lock();
        // Those that no endpoint has any more go with the others.
        hosts.retain(|_, since| since.elapsed() < HOLDS);
        hosts.insert(host(uri).to_owned(), Instant::now());
    }

    pub(super) fn remove(&self, uri: &Uri) {
        self.0.lock().remove(host(uri));
    }
}

fn host(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

/// Why the other side, or ours, gave HTTP/2 up, if that is what failed.
pub(super) fn http2_fault(error: &legacy::Error) -> Option<Reason> {
    let reason = reason::find::<h2::Error>(error)?.reason()?;
    FAULTS.contains(&reason).then_some(reason)
}
