//! How many deliveries of an endpoint may be in memory: a pure function.
//!
//! An endpoint that is **not known to answer** (no success since it was assigned to this instance, or its last attempt timed
//! out) gets one slot, and all such endpoints together at most a quarter of `max_in_flight`, those of one organization half of
//! that. So endpoints that hang, however many, leave three quarters of the requests in flight to those that answer, and those of
//! one organization leave slots to others that are not known yet.
//!
//! An endpoint that answers gets its share of what those leave: `(capacity - max_in_flight / 4) / (contenders + 1)`. Contenders
//! are the endpoints that are known to answer and hold slots or ask for some. n greedy endpoints so leave one part in n + 1 to
//! the next. However many they are, a share is no less than `concurrency` slots, because with fewer an endpoint could not use its
//! parallel requests; who finds none free waits for its turn. An endpoint is refilled when half of its share is used up: a read per freed slot would be a
//! command per delivery. One organization gets at most half of the slots, as it gets at most half of the requests in flight.
//!
//! An endpoint with a rate gets no more than it can use in two seconds. All these are rounded up where half of a batch has slots: then
//! it is read whole, because what is read in parts is recorded in parts. The capacity alone is never exceeded.
//!
//! Example: capacity 1024, max_in_flight 256, 9 contenders, 20 slots held by the endpoint, 300 by its organization, 500 in all. Its
//! share is (1024 - 64) / 10 = 96, half of that is 48, it holds less, so it may have 76 more; its organization may have 212 more,
//! and 524 are free: it gets 76.

use std::collections::HashMap;

use crate::model::EndpointKey;

/// What decides about one endpoint. Slots are counted in deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// Slots in all: `queue.capacity`.
    pub capacity: usize,
    /// Requests in flight at most: `delivery.max_in_flight`.
    pub max_in_flight: usize,
    /// Requests in flight to one endpoint at most: `delivery.concurrency`.
    pub concurrency: usize,
    /// Endpoints that are known to answer and hold slots or ask for some.
    pub contenders: usize,
    /// Slots taken by all endpoints.
    pub taken: usize,
    /// Slots taken by the endpoint's organization.
    pub taken_by_organization: usize,
    /// Slots of the endpoint with deliveries that are queued or in flight.
    pub taken_by_endpoint: usize,
    /// Slots taken by all endpoints that are not known to answer.
    pub taken_by_unproven: usize,
    /// Of these, those of the endpoint's organization.
    pub unproven_by_organization: usize,
    /// Whether the endpoint is known to answer.
    pub answers: bool,
    /// Slots that the endpoint can use: see [`usable`].
    pub usable: usize,
}

impl Admission {
    /// How many slots are the endpoint's part.
    pub(super) fn share(&self) -> usize {
        let shared = self.capacity.saturating_sub(quarter(self.max_in_flight));
        let share = shared / (self.contenders + 1);
        share.max(self.concurrency).min(self.usable).max(1)
    }

    /// How many more slots the endpoint gets.
    pub(super) fn grant(&self) -> usize {
        let free = self.capacity.saturating_sub(self.taken);
        if !self.answers {
            let quarter = quarter(self.max_in_flight);
            let may = self.taken_by_unproven < quarter && self.unproven_by_organization < half(quarter);
            return usize::from(may && self.taken_by_endpoint == 0).min(free);
        }
        let share = self.share();
        if self.taken_by_endpoint > share / 2 {
            return 0;
        }
        let organization = half(self.capacity).saturating_sub(self.taken_by_organization);
        (share - self.taken_by_endpoint).min(organization).min(free)
    }
}

/// Slots that a round has granted and that are not taken yet.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) all: usize,
    pub(super) unproven: usize,
    organizations: HashMap<String, (usize, usize)>,
}

impl Granted {
    /// This many go to that endpoint.
    pub(super) fn add(&mut self, endpoint: &EndpointKey, slots: usize, answers: bool) {
        let unproven = if answers { 0 } else { slots };
        let organization = self
            .organizations
            .entry(endpoint.organization().to_owned())
            .or_default();
        organization.0 += slots;
        organization.1 += unproven;
        self.all += slots;
        self.unproven += unproven;
    }

    /// Those of an organization, and of these those of endpoints that are not known to answer.
    pub(super) fn of(&self, organization: &str) -> (usize, usize) {
        self.organizations.get(organization).copied().unwrap_or_default()
    }
}

/// Slots that an endpoint with this rate, in requests per second, can use in two seconds.
pub(super) fn usable(rate: Option<f64>) -> usize {
    rate.map_or(usize::MAX, |rate| (rate * 2.0).ceil() as usize)
}

/// What one organization gets at most, of slots and of requests in flight.
pub(super) fn half(all: usize) -> usize {
    all.div_ceil(2)
}

/// What all endpoints that are not known to answer get at most, of requests in flight.
pub(super) fn quarter(all: usize) -> usize {
    (all / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten endpoints of as many organizations, of which this one holds nothing.
    const FRESH: Admission = Admission {
        capacity: 1024,
        max_in_flight: 256,
        concurrency: 5,
        contenders: 10,
        taken: 0,
        taken_by_organization: 0,
        taken_by_endpoint: 0,
        taken_by_unproven: 0,
        unproven_by_organization: 0,
        answers: true,
        usable: usize::MAX,
    };

    #[test]
    fn the_examples() {
        let unproven = Admission {
            answers: false,
            ..FRESH
        };
        let table = [
            ("its share", FRESH, 87),
            (
                "alone, half of what is shared",
                Admission { contenders: 1, ..FRESH },
                480,
            ),
            (
                "more than half of its share left",
                Admission {
                    taken_by_endpoint: 44,
                    ..FRESH
                },
                0,
            ),
            (
                "half of its share left",
                Admission {
                    taken_by_endpoint: 43,
                    ..FRESH
                },
                44,
            ),
            ("nearly all taken", Admission { taken: 1020, ..FRESH }, 4),
            ("all taken", Admission { taken: 1024, ..FRESH }, 0),
            ("a shrunken capacity", Admission { taken: 2000, ..FRESH }, 0),
            (
                "its organization has half",
                Admission {
                    taken_by_organization: 512,
                    taken: 512,
                    ..FRESH
                },
                0,
            ),
            (
                "its organization has nearly half",
                Admission {
                    taken_by_organization: 500,
                    taken: 500,
                    ..FRESH
                },
                12,
            ),
            (
                "10,000 contenders",
                Admission {
                    contenders: 10_000,
                    ..FRESH
                },
                5,
            ),
            ("not known to answer", unproven, 1),
            (
                "not known to answer, one under way",
                Admission {
                    taken_by_endpoint: 1,
                    ..unproven
                },
                0,
            ),
            (
                "63 others not known to answer",
                Admission {
                    taken_by_unproven: 63,
                    ..unproven
                },
                1,
            ),
            (
                "64 others not known to answer",
                Admission {
                    taken_by_unproven: 64,
                    ..unproven
                },
                0,
            ),
            (
                "31 others of its organization not known to answer",
                Admission {
                    taken_by_unproven: 31,
                    unproven_by_organization: 31,
                    ..unproven
                },
                1,
            ),
            (
                "32 others of its organization not known to answer",
                Admission {
                    taken_by_unproven: 32,
                    unproven_by_organization: 32,
                    ..unproven
                },
                0,
            ),
            (
                "one that answers beside 64 that don't",
                Admission {
                    taken_by_unproven: 64,
                    taken: 64,
                    ..FRESH
                },
                87,
            ),
            (
                "a single slot",
                Admission {
                    capacity: 1,
                    ..unproven
                },
                1,
            ),
            (
                "a single request in flight",
                Admission {
                    max_in_flight: 1,
                    ..unproven
                },
                1,
            ),
            (
                "the module's",
                Admission {
                    contenders: 9,
                    taken: 500,
                    taken_by_organization: 300,
                    taken_by_endpoint: 20,
                    ..FRESH
                },
                76,
            ),
        ];
        for (what, admission, slots) in table {
            assert_eq!(admission.grant(), slots, "{what}: {admission:?}");
        }
    }
}
