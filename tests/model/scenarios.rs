//! What there is, and what goes wrong. Small, because each more of anything is many times more states.

use super::rules::Rules;
use super::system::{Budget, System};

pub const BATCH: System = System {
    instances: 2,
    batch: 2,
    certificates: 0,
    awards: 0,
    large: false,
    delivers: true,
    budget: CALM,
    rules: Rules::ALL,
};

pub const SINGLE: System = System { batch: 1, ..BATCH };

pub const EXPIRY: System = System {
    batch: 0,
    certificates: 1,
    delivers: false,
    ..BATCH
};

pub const EXPIRIES: System = System {
    certificates: 2,
    ..EXPIRY
};

pub const LARGE_EXPIRY: System = System { large: true, ..EXPIRY };

pub const AWARDS: System = System {
    certificates: 0,
    awards: 2,
    ..EXPIRY
};

pub const AWARD: System = System { awards: 1, ..AWARDS };

/// Nothing goes wrong.
pub const CALM: Budget = Budget {
    crashes: 0,
    leaves: 0,
    lapses: 0,
    freezes: 0,
    failures: 0,
    losses: 0,
    late_beats: 0,
    renewals: 0,
    unmarks: 0,
    holds: 0,
};

pub const CRASH: Budget = Budget { crashes: 1, ..CALM };
pub const LAPSE: Budget = Budget { lapses: 1, ..CALM };
pub const FREEZE: Budget = Budget { freezes: 1, ..CALM };
pub const LEAVE: Budget = Budget { leaves: 1, ..CALM };
pub const LATE_BEAT: Budget = Budget { late_beats: 1, ..CALM };
pub const LOSS: Budget = Budget { losses: 1, ..CALM };
pub const RENEWAL: Budget = Budget { renewals: 1, ..CALM };
pub const HOLD: Budget = Budget { holds: 1, ..CALM };
