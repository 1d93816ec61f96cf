//! How large each case is, in its full form and in the quick one.

use std::time::Duration;

/// The sizes of the cases. Counts are events, unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Repetitions of each pair of measurements.
    pub rounds: usize,
    /// Expired certificates before a receiver that answers at once.
    pub backlog: usize,
    /// Expired certificates before a receiver that takes 50 ms.
    pub slow_backlog: usize,
    /// Awards, at 200 a second.
    pub awards: usize,
    /// Certificates that are alive while a scan finds nothing and while the daemon idles.
    pub alive: usize,
    /// How long an idle daemon is watched.
    pub idle: Duration,
    /// Expired certificates before one daemon and before two.
    pub shared_backlog: usize,
    /// Expired certificates of ten organizations, one of which is hung.
    pub isolation: usize,
    /// Deliveries that wait for the hung one.
    pub hung_backlog: usize,
    /// Endpoints at a host each.
    pub endpoints: usize,
    /// Events for an endpoint that wants 100 per second.
    pub paced: usize,
    /// Certificates that are alive while one organization's go out by a backfill.
    pub backfilled: usize,
    /// Organizations with ten certificates each.
    pub organizations: usize,
    /// A small and a large backlog, whose cost per event is compared.
    pub growth: Option<(usize, usize)>,
}

impl Plan {
    /// What the targets speak of: about a quarter of an hour.
    pub const FULL: Self = Self {
        rounds: 5,
        backlog: 20_000,
        slow_backlog: 20_000,
        awards: 2_000,
        alive: 1_000_000,
        idle: Duration::from_secs(60),
        shared_backlog: 40_000,
        isolation: 20_000,
        hung_backlog: 1_000_000,
        endpoints: 10_000,
        backfilled: 100_000,
        organizations: 2_000,
        paced: 10_000,
        growth: Some((10_000, 1_000_000)),
    };

    /// The same in smaller; without the long cases in under two minutes.
    pub const QUICK: Self = Self {
        rounds: 3,
        backlog: 10_000,
        slow_backlog: 4_000,
        awards: 600,
        alive: 100_000,
        idle: Duration::from_secs(10),
        shared_backlog: 10_000,
        isolation: 10_000,
        hung_backlog: 50_000,
        endpoints: 2_000,
        backfilled: 10_000,
        organizations: 500,
        paced: 1_000,
        growth: None,
    };
}
