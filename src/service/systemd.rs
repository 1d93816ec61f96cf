//! What the daemon sends to the service manager: `sd_notify(3)`. Without one (`NOTIFY_SOCKET` is unset) nothing is sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use libsystemd::daemon::{NotifyState, notify};
use parking_lot::Mutex;

use super::one_line::one_line;

/// How much longer a start may take after each [`Manager::starting`]. Longer than any attempt to reach MongoDB.
const START_EXTENSION: Duration = Duration::from_secs(90);

type Notify = dyn Fn(&[NotifyState]) + Send + Sync;

/// The service manager. Clones speak for the same daemon.
#[derive(Clone)]
pub struct Manager {
    send: Arc<Notify>,
    status: Arc<Mutex<String>>,
}

impl Manager {
    /// The one that started this process, if there is one.
    pub fn from_env() -> Self {
        Self::new(|states| {
            if let Err(error) = notify(false, states) {
                let states = states.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                tracing::warn!(%error, states, "the service manager could not be sent this daemon's state; the daemon goes on");
            }
        })
    }

    fn new(send: impl Fn(&[NotifyState]) + Send + Sync + 'static) -> Self {
        Self {
            send: Arc::new(send),
            status: Arc::default(),
        }
    }

    /// Still starting, and alive: shows why, and asks for 90 s more from now. Call it at each attempt to reach MongoDB.
    pub fn starting(&self, why: &str) {
        let extension = START_EXTENSION.as_micros();
        (self.send)(&[NotifyState::Other(format!("EXTEND_TIMEOUT_USEC={extension}"))]);
        self.status(why);
    }

    /// The start is over: the daemon does its work from now on.
    pub fn ready(&self) {
        (self.send)(&[NotifyState::Ready]);
    }

    /// Shows `text` in `systemctl status`. Sent only when it differs from the last one.
    pub fn status(&self, text: &str) {
        let text = one_line(text);
        let mut last = self.status.lock();
        if *last != text {
            (self.send)(&[NotifyState::Status(text.clone())]);
            *last = text;
        }
    }

    /// The daemon has begun to stop.
    pub fn stopping(&self) {
        (self.send)(&[NotifyState::Stopping]);
    }

    pub(super) fn alive(&self) {
        (self.send)(&[NotifyState::Watchdog]);
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("status", &self.status.lock())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A manager that only remembers what it is sent.
    pub(in crate::service) fn listening() -> (Manager, impl Fn() -> Vec<String>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hear = Arc::clone(&heard);
        let manager = Manager::new(move |states| hear.lock().extend(states.iter().map(ToString::to_string)));
        (manager, move || std::mem::take(&mut *heard.lock()))
    }

    #[test]
    fn a_status_is_sent_when_it_changes_and_can_forge_no_other_message() {
        let (manager, heard) = listening();
        manager.status("idle");
        manager.clone().status("idle");
        manager.status("sending 3\nSTOPPING=1");
        manager.status("idle");
        assert_eq!(heard(), ["STATUS=idle", r"STATUS=sending 3\nSTOPPING=1", "STATUS=idle"]);
    }

    #[test]
    fn each_attempt_to_start_asks_for_more_time() {
        let (manager, heard) = listening();
        manager.starting("waiting for MongoDB");
        manager.starting("waiting for MongoDB");
        manager.ready();
        let more = "EXTEND_TIMEOUT_USEC=90000000";
        assert_eq!(heard(), [more, "STATUS=waiting for MongoDB", more, "READY=1"]);
    }
}
