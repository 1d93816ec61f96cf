//! A histogram that observes without a lock; that of prometheus-client locks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Durations, counted by the bounds between which they lie.
#[derive(Debug)]
pub(super) struct Histogram {
    /// Upper bounds in milliseconds, ascending; what is longer than all has a count of its own.
    bounds: &'static [u32],
    counts: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [u32]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
        }
    }

    /// How many were observed.
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn observe(&self, duration: Duration) {
        let bounds = self.bounds;
        let index = bounds.partition_point(|bound| duration > Duration::from_millis(u64::from(*bound)));
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl EncodeMetric for &Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let seconds = |bound: &u32| f64::from(*bound) / 1000.0;
        let bounds = self.bounds.iter().map(seconds).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::prometheus_text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn a_duration_counts_up_to_the_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[10, 1000]);
        for millis in [10, 11, 1000, 1001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut registry = Registry::default();
        let mut text = String::new();
        registry.register("h", "H", Box::leak(Box::new(histogram)) as &Histogram);
        encode(&mut text, &registry).unwrap();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"h_bucket{le="0.01"} 1"#,
            r#"h_bucket{le="1"} 3"#,
            r#"h_bucket{le="+Inf"} 4"#,
            "h_sum 2.022",
            "h_count 4",
        ];
        assert_eq!(samples, expected);
    }
}
