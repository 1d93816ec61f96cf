//! Sends spans to the collector, many at a time, by OTLP over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::sender::tls_config;

/// How many spans are sent at once, at most.
const BATCH: usize = 1024;

/// How long spans gather before they are sent.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the collector is waited for.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The same at the daemon's end.
const FAREWELL: Duration = Duration::from_millis(500);

/// Sends spans until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    otlp: Otlp,
    queue: mpsc::Receiver<SpanData>,
    lost: Arc<AtomicU64>,
    /// Spans lost since the collector last took all; `None` while it takes them.
    failing: Option<u64>,
}

impl Exporter {
    pub(super) fn new(url: &Url, queue: mpsc::Receiver<SpanData>, lost: Arc<AtomicU64>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config().context("TLS to the collector of traces can't be set up")?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(EXPORT_TIMEOUT)
            .build()?;
        let mut otlp = Otlp::builder()
            .with_http()
            .with_http_client(http)
            .with_endpoint(format!("{}/v1/traces", url.as_str().trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        otlp.set_resource(&resource());
        Ok(Self {
            otlp,
            queue,
            lost,
            failing: None,
        })
    }

    /// Sends spans until `end`, then what is left, once.
    pub async fn run(mut self, end: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(true) = end.run_until_cancelled(self.gather(&mut batch)).await {
            self.send(&mut batch).await;
        }
        while batch.len() < super::CAPACITY {
            let Ok(span) = self.queue.try_recv() else { break };
            batch.push(span);
        }
        let _ = timeout(FAREWELL, self.send(&mut batch)).await;
    }

    /// Waits for a span, and a while for more. Returns whether there can be any.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) -> bool {
        if self.queue.recv_many(batch, BATCH).await == 0 {
            return false;
        }
        let deadline = Instant::now() + PAUSE;
        while batch.len() < BATCH {
            let Ok(Some(span)) = timeout_at(deadline, self.queue.recv()).await else {
                break;
            };
            batch.push(span);
        }
        true
    }

    async fn send(&mut self, batch: &mut Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let spans = std::mem::take(batch);
        let count = spans.len() as u64;
        let (reason, lost) = match self.otlp.export(spans).await {
            Ok(()) => ("it is too slow".to_owned(), 0),
            Err(error) => (error.to_string(), count),
        };
        self.log(&reason, lost + self.lost.swap(0, Ordering::Relaxed));
    }

    /// One WARN when spans begin to be lost, one INFO when no more are.
    fn log(&mut self, reason: &str, lost: u64) {
        match (self.failing, lost) {
            (None, 0) => {}
            (None, _) => {
                warn!(%reason, "the collector does not take traces: they are lost until it does, deliveries go on");
                self.failing = Some(lost);
            }
            (Some(before), 0) => {
                info!(lost_spans = before, "the collector takes traces again");
                self.failing = None;
            }
            (Some(before), more) => self.failing = Some(before + more),
        }
    }
}

/// What all spans have in common.
fn resource() -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "certhookd"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}
