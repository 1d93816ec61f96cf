//! How many deliveries of an endpoint may be in memory, in slots of the delivery queue: a pure function.
//!
//! An endpoint is **known to answer** after a success since it was assigned to this instance, until an attempt times out or its circuit
//! breaker opens.
//!
//! **Not known to answer:** one slot. All such endpoints together get at most `quarter = max_in_flight / 4`, those of one
//! organization `quarter / 2`. However many endpoints hang, three quarters of the requests in flight are left to those that
//! answer; however many of one organization hang, slots are left to others that are not known yet.
//!
//! **Known to answer:** a share of the other slots,
//!
//! ```text
//! share = (capacity - quarter) / (contenders + 1)       at least concurrency, at most what its rate needs for two seconds
//! left  = share - background                            background counts up to share / 2
//! grant = left - active                                 if active ≤ left / 2, else 0
//!         at most capacity / 2 - taken by the organization, at most capacity - taken by all
//! ```
//!
//! * `contenders` are the endpoints that are known to answer and have deliveries in memory or ask for some, this one included.
//! * The 1 leaves a share to the next endpoint that asks.
//! * With fewer slots than `concurrency` an endpoint could not use its parallel requests. An endpoint for which no slot is free
//!   waits for its turn.
//! * `background` are the endpoint's queued deliveries of the class `background`, `active` all others that are queued or in flight. What
//!   goes out before `background` need not wait until that is used up: half of the share is left to it. All together take the
//!   share, so that slots are left to others. A slot is `taken` until the result is recorded.
//! * Only half of what is left is waited for, because a read per freed slot would be a command per delivery.
//! * One organization gets at most half of the slots, as it gets at most half of the requests in flight.
//!
//! Deliveries of the class `background` get half of a grant, when all that were read before are sent. Those that a smaller share leaves
//! over give way where slots are lacking: see `queue/overtaken`.
//!
//! Where half of a batch or more has slots, the batch is read whole, because what is read in parts is recorded in parts. Then a
//! grant is exceeded, but never the capacity.
//!
//! Example: capacity 1024, max_in_flight 256, 9 contenders. The endpoint has 30 queued deliveries of the class `background` in memory and 20
//! others, its organization has taken 300 slots, all together 500. quarter = 256 / 4 = 64; share = (1024 - 64) / (9 + 1) = 96;
//! left = 96 - 30 = 66; 20 ≤ 66 / 2, so it may have 66 - 20 = 46 more. Its organization may have 512 - 300 = 212 more, and
//! 1024 - 500 = 524 are free: it gets 46.

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
    /// Endpoints that are known to answer and have deliveries in memory or ask for some.
    pub contenders: usize,
    /// Slots taken by all endpoints: until the results are recorded.
    pub taken: usize,
    /// Slots taken by the endpoint's organization.
    pub taken_by_organization: usize,
    /// Deliveries of the endpoint that are queued or in flight, without `background_of_endpoint`.
    pub active_of_endpoint: usize,
    /// Queued deliveries of the class `background`, of an endpoint that answers.
    pub background_of_endpoint: usize,
    /// Deliveries of all endpoints that are not known to answer, queued or in flight.
    pub active_of_unproven: usize,
    /// The same of the endpoint's organization alone.
    pub active_of_unproven_in_organization: usize,
    /// Whether the endpoint is known to answer.
    pub answers: bool,
    /// Slots that the endpoint can use: see [`usable`].
    pub usable: usize,
}

impl Admission {
    /// How many slots an endpoint that answers may take.
    fn share(&self) -> usize {
        let shared = self.capacity.saturating_sub(quarter(self.max_in_flight));
        let share = shared / (self.contenders + 1);
        share.max(self.concurrency).min(self.usable).max(1)
    }

    /// How many more slots the endpoint gets.
    pub(super) fn grant(&self) -> usize {
        let free = self.capacity.saturating_sub(self.taken);
        if !self.answers {
            let quarter = quarter(self.max_in_flight);
            let is_within_quarter = self.active_of_unproven < quarter;
            let is_within_half = self.active_of_unproven_in_organization < half(quarter);
            let may = is_within_quarter && is_within_half && self.active_of_endpoint == 0;
            return usize::from(may).min(free);
        }
        if self.active_of_endpoint > self.low() {
            return 0;
        }
        let organization = half(self.capacity).saturating_sub(self.taken_by_organization);
        (self.left() - self.active_of_endpoint).min(organization).min(free)
    }

    /// What deliveries of the class `background` leave of the share.
    fn left(&self) -> usize {
        let share = self.share();
        share - self.background_of_endpoint.min(share / 2)
    }

    /// An endpoint that answers gets more when it has at most this many active deliveries.
    pub(super) fn low(&self) -> usize {
        self.left() / 2
    }
}

/// Slots that a round has granted and that are not taken yet.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) all: GrantedSlots,
    organizations: HashMap<String, GrantedSlots>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GrantedSlots {
    pub(super) slots: usize,
    /// Those of endpoints that are not known to answer.
    pub(super) unproven: usize,
}

impl GrantedSlots {
    fn add(&mut self, slots: usize, answers: bool) {
        self.slots += slots;
        self.unproven += if answers { 0 } else { slots };
    }
}

impl Granted {
    /// This many go to that endpoint.
    pub(super) fn add(&mut self, endpoint: &EndpointKey, slots: usize, answers: bool) {
        let organization = self
            .organizations
            .entry(endpoint.organization().to_owned())
            .or_default();
        organization.add(slots, answers);
        self.all.add(slots, answers);
    }

    pub(super) fn to_organization(&self, organization: &str) -> GrantedSlots {
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

    /// One of ten endpoints of as many organizations, with nothing in memory.
    const FRESH: Admission = Admission {
        capacity: 1024,
        max_in_flight: 256,
        concurrency: 5,
        contenders: 10,
        taken: 0,
        taken_by_organization: 0,
        active_of_endpoint: 0,
        background_of_endpoint: 0,
        active_of_unproven: 0,
        active_of_unproven_in_organization: 0,
        answers: true,
        usable: usize::MAX,
    };

    fn grants(table: &[(&str, Admission, usize)]) {
        for (what, admission, slots) in table {
            assert_eq!(admission.grant(), *slots, "{what}: {admission:?}");
        }
    }

    #[test]
    fn an_endpoint_that_answers_gets_its_share_when_half_of_it_is_used_up() {
        let active = |active_of_endpoint| Admission {
            active_of_endpoint,
            ..FRESH
        };
        let contenders = |contenders| Admission { contenders, ..FRESH };
        let usable = |usable| Admission { usable, ..FRESH };
        grants(&[
            ("its share", FRESH, 87),
            ("alone, half of what is shared", contenders(1), 480),
            ("10,000 contenders", contenders(10_000), 5),
            ("more than half of its share left", active(44), 0),
            ("half of its share left", active(43), 44),
            ("a rate of 3 per second", usable(6), 6),
        ]);
    }

    #[test]
    fn what_waits_in_the_class_background_leaves_half_of_the_share_and_exceeds_it_together_with_others_never() {
        let beside = |background_of_endpoint, active_of_endpoint| Admission {
            background_of_endpoint,
            active_of_endpoint,
            ..FRESH
        };
        grants(&[
            ("half of its share", beside(43, 0), 44),
            ("a quarter of it", beside(20, 5), 62),
            ("more than its share, which was larger", beside(500, 5), 39),
            ("others have half of what is left", beside(43, 22), 22),
            ("others have more than half of what is left", beside(43, 23), 0),
        ]);
    }

    #[test]
    fn neither_the_capacity_nor_half_of_it_for_one_organization_is_exceeded() {
        let taken = |taken| Admission { taken, ..FRESH };
        let organization = |taken| Admission {
            taken_by_organization: taken,
            taken,
            ..FRESH
        };
        grants(&[
            ("nearly all taken", taken(1020), 4),
            ("all taken", taken(1024), 0),
            ("a shrunken capacity", taken(2000), 0),
            ("its organization has half", organization(512), 0),
            ("its organization has nearly half", organization(500), 12),
        ]);
    }

    #[test]
    fn endpoints_that_are_not_known_to_answer_get_one_slot_of_a_quarter() {
        let unproven = Admission {
            answers: false,
            ..FRESH
        };
        let others = |all, of_organization| Admission {
            active_of_unproven: all,
            active_of_unproven_in_organization: of_organization,
            ..unproven
        };
        let active = Admission {
            active_of_endpoint: 1,
            ..unproven
        };
        let beside = Admission {
            active_of_unproven: 64,
            taken: 64,
            ..FRESH
        };
        let capacity = |capacity| Admission { capacity, ..unproven };
        let in_flight = |max_in_flight| Admission {
            max_in_flight,
            ..unproven
        };
        grants(&[
            ("the first", unproven, 1),
            ("one under way", active, 0),
            ("63 others", others(63, 0), 1),
            ("64 others", others(64, 0), 0),
            ("31 others of its organization", others(31, 31), 1),
            ("32 others of its organization", others(32, 32), 0),
            ("one that answers beside 64 that don't", beside, 87),
            ("a single slot", capacity(1), 1),
            ("a single request in flight", in_flight(1), 1),
        ]);
    }

    #[test]
    fn the_example_of_the_module() {
        let example = Admission {
            contenders: 9,
            taken: 500,
            taken_by_organization: 300,
            active_of_endpoint: 20,
            background_of_endpoint: 30,
            ..FRESH
        };
        assert_eq!((example.share(), example.left()), (96, 66));
        assert_eq!(example.grant(), 46);
    }
}
