//! Whether an endpoint ever had more requests open at once than it may have, from all instances together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use certhookd::sandbox::Received;

use super::freeze::Freeze;

/// Requests open at once per endpoint, at most: `delivery.concurrency`.
const MOST: usize = 5;

/// How long the receiver may take to notice that a request was broken off.
const NOTICED: Duration = Duration::from_millis(100);

/// The stated exception: requests that were open already in a process that was frozen for longer than this.
const FROZEN: Duration = Duration::from_secs(10);

/// A request while it was open.
#[derive(Clone, Copy, Debug)]
struct Open {
    from: Instant,
    /// `None`: still.
    until: Option<Instant>,
    port: u16,
}

/// A line per endpoint that had too many requests at once, and how many requests were excused.
pub fn crowds(requests: &[Received], freezes: &[Freeze]) -> (Vec<String>, usize) {
    let mut paths: BTreeMap<&str, Vec<Open>> = BTreeMap::new();
    let mut excused = 0;
    for request in requests {
        if is_excused(request, freezes) {
            excused += 1;
            continue;
        }
        paths.entry(&request.path).or_default().push(open(request));
    }
    let crowds = paths.iter().filter_map(|(path, opened)| crowd(path, opened)).collect();
    (crowds, excused)
}

/// Whether it was open in a process that was frozen for too long. Its port tells the process: no other has it meanwhile.
fn is_excused(request: &Received, freezes: &[Freeze]) -> bool {
    let in_it = |freeze: &Freeze| {
        let (from, until) = (freeze.from, freeze.until.unwrap_or_else(Instant::now));
        until - from > FROZEN
            && freeze.ports.contains(&request.peer.port())
            && request.instant < until
            && request.end.get().is_none_or(|end| end.at > from)
    };
    freezes.iter().any(in_it)
}

fn open(request: &Received) -> Open {
    let until = request.end.get().map(|end| {
        let late = if end.broken_off { NOTICED } else { Duration::ZERO };
        end.at.checked_sub(late).unwrap_or(end.at)
    });
    Open {
        from: request.instant,
        until,
        port: request.peer.port(),
    }
}

/// The largest crowd at an endpoint, if it was too large. A crowd is largest when a request begins.
fn crowd(path: &str, opened: &[Open]) -> Option<String> {
    let at = |from: Instant| {
        let is_open = |one: &&Open| one.from <= from && one.until.is_none_or(|until| until > from);
        opened.iter().filter(is_open).collect::<Vec<_>>()
    };
    let crowds = opened.iter().map(|one| at(one.from));
    let largest = crowds.max_by_key(Vec::len).filter(|crowd| crowd.len() > MOST)?;
    let last = largest.iter().map(|one| one.from).max()?;
    let ages: Vec<_> = largest
        .iter()
        .map(|one| format!("port {} for {} ms", one.port, (last - one.from).as_millis()))
        .collect();
    Some(format!(
        "{} requests at once to {path}: {}",
        largest.len(),
        ages.join(", ")
    ))
}
