//! What is logged of MongoDB's failures: one WARN when it becomes unavailable, one INFO when all is well again, however many loops
//! meet that; one ERROR for what it refuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::connection::Connection;
use super::{Error, Kind, Result, progress};

/// The name under which a refused login is remembered: it concerns every operation, and is logged once.
const LOGIN: &str = "log this daemon in";

/// What failed because MongoDB is unavailable is repeated after this time at the latest, however rarely it is done.
const REPEATED_AFTER: Duration = Duration::from_secs(5);

/// Conflicts that last this long are logged.
const LONG_CONFLICT: Duration = Duration::from_secs(10);

/// Whether MongoDB is unavailable, and since when. Shared by every loop that talks to it.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    state: Arc<Mutex<State>>,
    /// Asked whether the login is lost. `None` in tests.
    connection: Option<Arc<Connection>>,
    lost_index: Arc<Notify>,
    failed_commit: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Reporters whose last operation failed. Reads may succeed while writes fail: the outage ends with the last of them.
    failing: usize,
    since: Option<Instant>,
    ended: Option<Instant>,
    /// What MongoDB refuses, and how many reporters meet that.
    refused: HashMap<String, usize>,
    /// Since when it refuses the login.
    login_refused: Option<Instant>,
}

/// Reports how the operations of one loop end, or one operation that is repeated until it succeeds.
#[derive(Debug)]
pub struct Reporter {
    outage: Outage,
    failing: bool,
    refused: Option<String>,
    conflicts: Option<Conflicts>,
}

/// Conflicts in a row.
#[derive(Debug)]
struct Conflicts {
    since: Instant,
    logged: bool,
}

impl Outage {
    pub(super) fn of(connection: Arc<Connection>) -> Self {
        Self {
            connection: Some(connection),
            ..Self::default()
        }
    }

    /// For one loop, or one operation that is repeated.
    pub fn reporter(&self) -> Reporter {
        Reporter {
            outage: self.clone(),
            failing: false,
            refused: None,
            conflicts: None,
        }
    }

    /// Waits until an operation fails for want of an index.
    pub async fn lost_index(&self) {
        self.lost_index.notified().await;
    }

    /// Waits until a commit fails, or is said to have failed although it was made.
    pub async fn failed_commit(&self) {
        self.failed_commit.notified().await;
    }

    pub(super) fn note_failed_commit(&self) {
        self.failed_commit.notify_one();
    }

    /// Whether what began then may have used a client that was replaced meanwhile.
    fn was_replaced_since(&self, began: Instant) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.was_replaced_since(began))
    }

    /// How long the present outage has lasted, if there is one.
    pub fn lasts(&self) -> Option<Duration> {
        self.state.lock().since.map(|since| since.elapsed())
    }

    /// How long MongoDB has refused the login, if it does.
    pub fn login_refused(&self) -> Option<Duration> {
        self.state.lock().login_refused.map(|since| since.elapsed())
    }
}

impl Reporter {
    /// An operation that began then has failed: logs the first failure of an outage, and the first refusal of `what`.
    pub fn failed(&mut self, what: &str, error: &Error, began: Instant) {
        progress::report();
        if let Some(connection) = &self.outage.connection {
            connection.suspect(error);
        }
        if error.lacks_index() {
            self.outage.lost_index.notify_one();
        }
        match error.kind() {
            Kind::Unavailable => self.unavailable(what, error, began),
            Kind::Conflict => self.conflict(what, error),
            Kind::Authentication if self.outage.was_replaced_since(began) => {
                self.reached();
                debug!(%error, "MongoDB refused to {what} over a client that was replaced");
            }
            Kind::TooLarge | Kind::Refused | Kind::Denied | Kind::Authentication => {
                self.reached();
                self.refused(what, error);
            }
        }
    }

    /// An operation has succeeded: logs the end of an outage where this was the last reporter of a failure.
    pub fn succeeded(&mut self) {
        self.reached();
        self.conflicts = None;
        self.accepted();
    }

    /// How long to rest, where that is `usual`: until what failed is repeated and succeeds, an outage is not over, nor is a refused login
    /// accepted.
    pub fn rest(&self, usual: Duration) -> Duration {
        let is_general = self.failing || self.refused.as_deref() == Some(LOGIN);
        if is_general { usual.min(REPEATED_AFTER) } else { usual }
    }

    /// An operation that began then has ended.
    pub fn ended<T>(&mut self, what: &str, began: Instant, result: &Result<T>) {
        match result {
            Ok(_) => self.succeeded(),
            Err(error) => self.failed(what, error, began),
        }
    }

    /// What failed is not repeated, as by an instance that has lost the lease: it is no part of an outage any more.
    pub fn forget(&mut self) {
        let mut state = self.outage.state.lock();
        state.failing -= usize::from(std::mem::take(&mut self.failing));
        if let Some(what) = self.refused.take() {
            state.accept(&what);
        }
        self.conflicts = None;
    }

    fn unavailable(&mut self, what: &str, error: &Error, began: Instant) {
        if self.outage.was_replaced_since(began) {
            debug!(%error, "MongoDB failed to {what} over a client that was replaced");
            return;
        }
        let mut state = self.outage.state.lock();
        if !self.failing && state.ended.is_some_and(|ended| began <= ended) {
            debug!(%error, "MongoDB failed to {what} during an outage that is over");
            return;
        }
        state.failing += usize::from(!self.failing);
        self.failing = true;
        if state.since.is_none() {
            state.since = Some(Instant::now());
            warn!(%error, "MongoDB is unavailable, it failed to {what}; waiting for it, what is in memory goes on");
        }
    }

    fn conflict(&mut self, what: &str, error: &Error) {
        let conflicts = self.conflicts.get_or_insert_with(|| Conflicts {
            since: Instant::now(),
            logged: false,
        });
        if !conflicts.logged && conflicts.since.elapsed() >= LONG_CONFLICT {
            conflicts.logged = true;
            warn!(%error, "for ten seconds it can't {what}, because others write the same documents, or because it writes too much at once; repeated until it works");
        }
    }

    fn refused(&mut self, what: &str, error: &Error) {
        let what = if error.kind() == Kind::Authentication {
            LOGIN
        } else {
            what
        };
        if self.refused.as_deref() == Some(what) {
            return;
        }
        self.accepted();
        self.refused = Some(what.to_owned());
        if !self.outage.state.lock().refuse(what) {
            return;
        }
        let add_to_role = error.denied().map(|denied| denied.role_line());
        if error.kind() == Kind::Denied {
            error!(%error, add_to_role, "a privilege is missing to {what}; tried again until it is granted");
        } else {
            error!(%error, "MongoDB refuses to {what}; tried again until it works");
        }
    }

    /// What was refused before is not any more, or something else is refused now.
    fn accepted(&mut self) {
        if let Some(what) = self.refused.take()
            && self.outage.state.lock().accept(&what)
        {
            info!("MongoDB no longer refuses to {what}");
        }
    }

    /// MongoDB has replied. That ends an outage also where the last that failed has given up since, as a commit does whose
    /// transaction no longer exists.
    fn reached(&mut self) {
        let mut state = self.outage.state.lock();
        state.failing -= usize::from(std::mem::take(&mut self.failing));
        if state.failing > 0 {
            return;
        }
        if let Some(since) = state.since.take() {
            state.ended = Some(Instant::now());
            let outage_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(outage_ms, "MongoDB is back");
        }
    }
}

impl State {
    /// Returns whether no reporter had met this refusal before.
    fn refuse(&mut self, what: &str) -> bool {
        let met = self.refused.entry(what.to_owned()).or_default();
        *met += 1;
        let first = *met == 1;
        if first && what == LOGIN {
            self.login_refused = Some(Instant::now());
        }
        first
    }

    /// Returns whether no reporter meets it any more.
    fn accept(&mut self, what: &str) -> bool {
        let Some(met) = self.refused.get_mut(what) else {
            return false;
        };
        *met -= 1;
        let last = *met == 0;
        if last {
            self.refused.remove(what);
        }
        if last && what == LOGIN {
            self.login_refused = None;
        }
        last
    }
}

/// It reports nothing more.
impl Drop for Reporter {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Error {
        mongodb::error::Error::from(std::io::ErrorKind::ConnectionRefused).into()
    }

    fn refusal() -> Error {
        Error::refused("no")
    }

    #[test]
    fn an_outage_lasts_until_the_last_loop_that_failed_has_succeeded() {
        let outage = Outage::default();
        let (mut read, mut write, mut other) = (outage.reporter(), outage.reporter(), outage.reporter());
        read.failed("read", &error(), Instant::now());
        write.failed("write", &error(), Instant::now());
        write.failed("write", &error(), Instant::now());
        other.succeeded();
        read.succeeded();
        assert!(outage.lasts().is_some(), "writes still fail");
        write.succeeded();
        assert!(outage.lasts().is_none());
    }

    #[test]
    fn what_is_not_repeated_holds_no_outage_open_and_what_is_rare_is_repeated_soon() {
        let outage = Outage::default();
        let (mut rare, mut other) = (outage.reporter(), outage.reporter());
        let hour = Duration::from_secs(3600);
        assert_eq!(rare.rest(hour), hour);
        rare.failed("look", &refusal(), Instant::now());
        assert_eq!(rare.rest(hour), hour, "a refusal");
        rare.failed("look", &error(), Instant::now());
        assert_eq!(rare.rest(hour), REPEATED_AFTER);
        assert_eq!(rare.rest(REPEATED_AFTER / 2), REPEATED_AFTER / 2);
        let mut login = outage.reporter();
        login.failed("look", &Error::login_refused(), Instant::now());
        assert_eq!(login.rest(hour), REPEATED_AFTER);
        assert!(outage.login_refused().is_some());
        login.succeeded();
        assert!(outage.login_refused().is_none());
        other.succeeded();
        assert!(outage.lasts().is_some());
        rare.forget();
        other.succeeded();
        assert!(outage.lasts().is_none());
        assert_eq!(rare.rest(hour), hour);
    }

    #[test]
    fn an_operation_from_before_the_end_begins_no_new_outage() {
        let outage = Outage::default();
        let mut quick = outage.reporter();
        let mut slow = outage.reporter();
        let began = Instant::now();
        quick.failed("read", &error(), began);
        quick.succeeded();
        slow.failed("write", &error(), began);
        assert!(outage.lasts().is_none());
        slow.failed("write", &error(), Instant::now());
        assert!(outage.lasts().is_some());
    }

    #[test]
    fn a_loop_that_ended_holds_no_outage_open() {
        let outage = Outage::default();
        let (mut ended, mut other) = (outage.reporter(), outage.reporter());
        ended.failed("read", &error(), Instant::now());
        other.failed("write", &error(), Instant::now());
        drop(ended);
        other.succeeded();
        assert!(outage.lasts().is_none());
    }

    #[test]
    fn an_outage_whose_last_loop_gave_up_ends_with_the_next_success_of_any() {
        let outage = Outage::default();
        let (mut gives_up, mut other) = (outage.reporter(), outage.reporter());
        gives_up.failed("commit", &error(), Instant::now());
        other.succeeded();
        assert!(outage.lasts().is_some(), "it may still be repeated");
        drop(gives_up);
        other.succeeded();
        assert!(outage.lasts().is_none());
    }

    #[test]
    fn a_refusal_is_no_outage_and_ends_one() {
        let outage = Outage::default();
        let mut reporter = outage.reporter();
        reporter.failed("write", &refusal(), Instant::now());
        assert!(outage.lasts().is_none());
        reporter.failed("write", &error(), Instant::now());
        assert!(outage.lasts().is_some());
        reporter.failed("write", &refusal(), Instant::now());
        assert!(outage.lasts().is_none(), "MongoDB has replied");
    }

    #[test]
    fn a_refusal_is_told_once_and_again_after_all_who_met_it_have_succeeded_or_ended() {
        let outage = Outage::default();
        let (mut one, mut other) = (outage.reporter(), outage.reporter());
        one.failed("write", &refusal(), Instant::now());
        other.failed("write", &refusal(), Instant::now());
        one.succeeded();
        assert!(!outage.state.lock().refuse("write"), "the other still meets it");
        outage.state.lock().accept("write");
        drop(other);
        assert!(outage.state.lock().refuse("write"));
    }
}
