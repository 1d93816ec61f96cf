//! What arrived, and how late.

use std::collections::HashSet;

use certhookd::sandbox::Received;

use crate::report::{Findings, Target};
use crate::statistics::quantile;
use crate::timeline::{Change, Moment, Plan, Timeline};

/// 99 in 100 must arrive within this many ms.
const TARGET: f64 = 250.0;

/// The first request of each event, as what it told of and its lateness in ms; the number of duplicates.
pub struct Arrivals {
    first: Vec<(Moment, f64)>,
    duplicates: usize,
}

impl Arrivals {
    /// Leaves out what the timeline does not know: the daemon tells of awards too.
    pub fn new(timeline: &Timeline, requests: &[Received]) -> Self {
        let (mut first, mut duplicates) = (Vec::new(), 0);
        let mut seen = HashSet::new();
        for request in requests {
            let id = request.header("webhook-id");
            match timeline.moment(id) {
                Some((moment, at)) if seen.insert(id) => {
                    let late = request.at.timestamp_millis() - at.timestamp_millis();
                    first.push((moment, late as f64));
                }
                Some(_) => duplicates += 1,
                None => {}
            }
        }
        Self { first, duplicates }
    }

    /// Adds the rows.
    pub fn report(&self, plan: Plan, findings: &mut Findings) {
        let (known, new) = (self.latenesses(Moment::Known), self.latenesses(Moment::New));
        let all = [known.clone(), new.clone()].concat();
        let p99 = percentile_99(all.clone());
        findings.note("lateness", "ms", all);
        findings.judge("lateness: p99", "ms", vec![p99], Target::AtMost(TARGET));
        for (what, latenesses) in [
            ("written before the start", known),
            ("written a second before", new),
            ("re-dated, at the new instant", self.latenesses(Moment::ReDated)),
        ] {
            let p99 = percentile_99(latenesses.clone());
            findings.note(&format!("{what} ({})", latenesses.len()), "ms", latenesses);
            findings.note(&format!("{what}: p99"), "ms", vec![p99]);
        }
        for change in Change::ALL {
            let told = self.latenesses(Moment::Old(change)).len();
            let what = format!(
                "{change:?} a second before ({}): told of at the old instant",
                plan.changed
            );
            findings.judge(&what, "", vec![told as f64], Target::AtMost(0.0));
        }
        findings.note("duplicates", "", vec![self.duplicates as f64]);
    }

    fn latenesses(&self, wanted: Moment) -> Vec<f64> {
        let these = self.first.iter().filter(|(moment, _)| *moment == wanted);
        these.map(|(_, late)| *late).collect()
    }
}

fn percentile_99(mut latenesses: Vec<f64>) -> f64 {
    latenesses.sort_by(f64::total_cmp);
    quantile(&latenesses, 0.99)
}
