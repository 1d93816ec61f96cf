//! What the page says, in words: the template puts it in its place.

use serde::Serialize;

use super::Own;
use super::picture::Picture;
use super::rows::{EndpointView, HeadView, HoldView, InstanceView, OperationView, Rows};
use super::words::{ago, count, counted, number, seconds, span, until};
use crate::status::{DAYS, Scan, Status, Stream};

/// In seconds. A delivery that is due for longer waits too long: with the default `delivery.retry_window` of 10 minutes one that fails
/// is a dead letter by then.
const TOO_LONG: i64 = 900;

#[derive(Debug, Serialize)]
pub(super) struct View {
    own: Option<OwnView>,
    status: Option<StatusView>,
    days: i64,
}

/// What this instance knows.
#[derive(Debug, Serialize)]
struct OwnView {
    up: String,
    tiles: Vec<Tile>,
    picture: Picture,
    stream: String,
}

/// What MongoDB knows.
#[derive(Debug, Serialize)]
struct StatusView {
    asked: String,
    tiles: Vec<Tile>,
    holds: Rows<HoldView>,
    endpoints: Rows<EndpointView>,
    dead_letters: Rows<HeadView>,
    next: Rows<HeadView>,
    operations: Rows<OperationView>,
    instances: Rows<InstanceView>,
    scan: Option<String>,
    stream: Option<String>,
}

/// A number and what it counts.
#[derive(Debug, Serialize)]
struct Tile {
    name: &'static str,
    value: String,
    more: String,
    bad: bool,
}

impl View {
    pub(super) fn of(own: Option<&Own>, status: Option<&Status>) -> Self {
        Self {
            own: own.map(OwnView::of),
            status: status.zip(own).map(|(status, own)| StatusView::of(status, own)),
            days: DAYS,
        }
    }
}

impl OwnView {
    fn of(own: &Own) -> Self {
        let stream = own.working.stream_age;
        let followed = |age| format!("followed by this instance, moved {} ago", span(seconds(age)));
        Self {
            up: span(seconds(own.now.saturating_duration_since(own.since))),
            tiles: tiles_of_own(own),
            picture: Picture::of(&own.minutes, own.now),
            stream: stream.map_or_else(|| "followed by another instance, or not at all".into(), followed),
        }
    }
}

fn tiles_of_own(own: &Own) -> Vec<Tile> {
    let fill = own.working.fill;
    let delivered = own.minutes.iter().map(|minute| minute.delivered).sum();
    let failed = own.minutes.iter().map(|minute| minute.failed).sum();
    let this_minute = own.now.timestamp_millis().div_euclid(60_000);
    let last = own.minutes.iter().find(|minute| minute.number == this_minute - 1);
    let a_minute = last.map_or(0, |minute| minute.delivered);
    let of_capacity = format!("slots used of {}", number(fill.capacity as u64));
    vec![
        Tile::new("delivered", number(delivered), "in the last hour"),
        Tile::new("failed attempts", number(failed), "in the last hour").bad_if(failed > 0),
        Tile::new("delivered a minute", number(a_minute), "in the last full minute"),
        Tile::new("in flight", number(own.working.fill.in_flight as u64), "requests"),
        Tile::new("delivery queue", number(fill.taken as u64), of_capacity).bad_if(fill.taken == fill.capacity),
        Tile::new("failing", number(fill.probed as u64), "endpoints, only probed").bad_if(fill.probed > 0),
    ]
}

impl StatusView {
    fn of(status: &Status, own: &Own) -> Self {
        let now = status.at;
        let waiting = status.endpoints.iter().filter(|endpoint| endpoint.pending > 0).count();
        Self {
            asked: ago(own.now, now),
            tiles: tiles_of_outbox(status),
            holds: Rows::of(&status.holds, HoldView::of),
            endpoints: Rows::trouble_first(status),
            dead_letters: Rows::of(&status.dead_letters, |head| HeadView::of(head, ago(now, head.at))),
            next: Rows::of(&status.next, |head| HeadView::of(head, until(now, head.at))).in_all(waiting),
            operations: Rows::of(&status.operations, OperationView::of),
            instances: Rows::of(&status.instances, |instance| InstanceView::of(instance, &own.id)),
            scan: status.last_scan.as_ref().map(|scan| scan_in_words(scan, status)),
            stream: status.stream.as_ref().map(|stream| stream_in_words(stream, status)),
        }
    }
}

fn tiles_of_outbox(status: &Status) -> Vec<Tile> {
    let outbox = status.outbox;
    let oldest = outbox.oldest.map(seconds);
    let waits = oldest.map_or_else(|| "none".into(), span);
    vec![
        Tile::new("pending", count(outbox.pending), "deliveries, due now or later"),
        Tile::new("oldest due", waits, "waiting").bad_if(oldest > Some(TOO_LONG)),
        Tile::new("dead letters", count(outbox.dead), "kept").bad_if(outbox.dead > 0),
    ]
}

fn scan_in_words(scan: &Scan, status: &Status) -> String {
    let found_last = scan.found_last.as_ref().filter(|last| last.at < scan.at);
    let before = found_last.map_or_else(String::new, |last| {
        format!("; {}: {}", ago(status.at, last.at), counted(last.found, "certificate"))
    });
    format!(
        "{}: {}, {}, {} rejected, {} ms{before}",
        ago(status.at, scan.at),
        counted(scan.found, "certificate"),
        counted(scan.deliveries, "delivery"),
        count(scan.rejected),
        count(scan.duration_ms)
    )
}

fn stream_in_words(stream: &Stream, status: &Status) -> String {
    let more = if stream.catching_up {
        ", looking by query for what it missed"
    } else {
        ""
    };
    format!("read up to {}{more}", ago(status.at, stream.last_event_at))
}

impl Tile {
    fn new(name: &'static str, value: String, more: impl Into<String>) -> Self {
        Self {
            name,
            value,
            more: more.into(),
            bad: false,
        }
    }

    fn bad_if(self, bad: bool) -> Self {
        Self { bad, ..self }
    }
}
