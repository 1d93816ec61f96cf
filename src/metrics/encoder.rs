//! Encodes metrics for Prometheus, a call for each.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::histogram::Histogram;

/// The labels of a sample.
type Labels<const N: usize> = [(&'static str, &'static str); N];

pub(super) struct Encoder<'a>(pub(super) DescriptorEncoder<'a>);

impl Encoder<'_> {
    /// A gauge without labels; left out where its value is not known.
    pub(super) fn gauge<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: Option<V>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    /// A counter without labels; its name gets `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    /// A gauge with one label.
    pub(super) fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        samples: impl IntoIterator<Item = (&'static str, V)>,
    ) -> fmt::Result {
        let sample = |(value, count)| ([(label, value)], ConstGauge::new(count));
        self.family(name, help, MetricType::Gauge, samples.into_iter().map(sample))
    }

    /// A counter; its name gets `_total`.
    pub(super) fn counters<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<N>, &'s AtomicU64)>,
    ) -> fmt::Result {
        let sample = |(labels, count): (_, &AtomicU64)| (labels, ConstCounter::new(count.load(Ordering::Relaxed)));
        self.family(name, help, MetricType::Counter, samples.into_iter().map(sample))
    }

    /// A histogram.
    pub(super) fn histograms<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<N>, &'s Histogram)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, samples)
    }

    fn family<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels<N>, impl EncodeMetric)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, metric) in samples {
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
