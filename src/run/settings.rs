//! What a reload replaces, each piece where its reader takes it from; and what else can't be built from any configuration.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::Notify;

use crate::config::{self, Config};
use crate::dispatch::{DeliveryQueue, Limits};
use crate::mail::Mailer;
use crate::model::{EndpointKey, Reloadable};
use crate::notices::{Episodes, Rules};
use crate::platform::{Auth, Directory, Endpoint, EndpointPolicy};
use crate::sender::{Client, Policy, Proxy, RetryPolicy, system_lookup};
use crate::source::Schedule;
use crate::trace::Tracer;

/// How long the platform may take to respond to a notice.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings that take effect without a restart.
#[derive(Clone)]
pub struct Settings {
    /// `[scan]`.
    pub scan: Reloadable<config::Scan>,
    pub schedule: Reloadable<Schedule>,
    /// Notified when the schedule was replaced.
    pub schedule_changed: Arc<Notify>,
    /// Attempts and retry period.
    pub retry: Reloadable<RetryPolicy>,
    pub endpoints: Reloadable<EndpointPolicy>,
    /// What sends, with the guard's networks and the source's name.
    pub client: Reloadable<Client>,
    /// The forward proxy, and whether it works. A reload replaces where it is.
    pub proxy: Proxy,
    /// What sends e-mails, if anything does.
    pub mailer: Reloadable<Option<Mailer>>,
    /// All of it, as it is in effect. A reload sets it last.
    pub config: Reloadable<Config>,
    /// What makes traces; stays as it is.
    pub tracer: Tracer,
}

impl Settings {
    /// The settings of a configuration.
    ///
    /// # Errors
    /// The HTTP client, the mailer or the tracer can't be built: no usable TLS roots, as a rule.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let delivery = &config.delivery;
        let proxy = Proxy::new(delivery.proxy.clone(), delivery.no_proxy.clone(), system_lookup())?;
        Ok(Self {
            scan: Reloadable::new(config.scan.clone()),
            schedule: Reloadable::new(schedule(config)),
            schedule_changed: Arc::default(),
            retry: Reloadable::new(retry(config)),
            endpoints: Reloadable::new(endpoint_policy(config)),
            client: Reloadable::new(Client::with_proxy(policy(config), system_lookup(), proxy.clone())?),
            proxy,
            mailer: Reloadable::new(Mailer::new(&config.email)?),
            config: Reloadable::new(config.clone()),
            tracer: Tracer::new(config.telemetry.otlp_endpoint.as_ref())?,
        })
    }

    /// Puts a new configuration into effect. The pooled connections to receivers are opened anew.
    ///
    /// # Errors
    /// The HTTP client or the mailer can't be built; then nothing has changed.
    pub fn replace(
        &self,
        config: &Config,
        queue: &DeliveryQueue,
        directory: &Directory,
        episodes: &Episodes,
    ) -> anyhow::Result<()> {
        let client = Client::with_proxy(policy(config), system_lookup(), self.proxy.clone())?;
        let mailer = Mailer::new(&config.email)?;
        let delivery = &config.delivery;
        self.proxy.replace(delivery.proxy.clone(), delivery.no_proxy.clone())?;
        self.client.set(client);
        directory.switch_email(mailer.is_some());
        directory.set_notices(notices(config));
        episodes.set_rules(rules(config));
        self.mailer.set(mailer);
        self.scan.set(config.scan.clone());
        self.schedule.set(schedule(config));
        self.schedule_changed.notify_one();
        self.retry.set(retry(config));
        self.endpoints.set(endpoint_policy(config));
        queue.resize(limits(config));
        Ok(())
    }
}

fn schedule(config: &Config) -> Schedule {
    Schedule {
        cron: config.scan.schedule.clone(),
        zone: config.scan.timezone,
    }
}

fn retry(config: &Config) -> RetryPolicy {
    RetryPolicy {
        max_attempts: config.delivery.max_attempts,
        period: config.delivery.retry_window,
    }
}

/// What endpoints must satisfy.
pub fn endpoint_policy(config: &Config) -> EndpointPolicy {
    EndpointPolicy {
        allow_http: config.delivery.allow_http,
        concurrency: u32::try_from(config.delivery.concurrency).unwrap_or(u32::MAX),
        keys: config.secrets.key.clone(),
    }
}

/// How long an endpoint must fail.
pub(super) fn rules(config: &Config) -> Rules {
    Rules {
        failing_after: config.notices.failing_after,
        suspend_after: config.delivery.suspend_after,
    }
}

/// Where the platform is told of endpoints, as an endpoint.
pub(super) fn notices(config: &Config) -> Option<Arc<Endpoint>> {
    let url = config.notices.url.clone()?;
    Some(Arc::new(Endpoint {
        key: EndpointKey::notices(),
        name: String::new(),
        url,
        enabled: true,
        event_types: Vec::new(),
        timeout: NOTICE_TIMEOUT,
        headers: HeaderMap::new(),
        auth: Auth::None,
        signing_secrets: config.notices.secret.iter().cloned().collect(),
        concurrency: None,
        rate_limit: None,
        tls: None,
    }))
}

/// The sizes of the delivery queue.
pub(super) fn limits(config: &Config) -> Limits {
    Limits {
        capacity: config.queue.capacity,
        max_in_flight: config.delivery.max_in_flight,
        concurrency: config.delivery.concurrency,
    }
}

fn policy(config: &Config) -> Policy {
    Policy {
        allow_http: config.delivery.allow_http,
        allow_networks: config.delivery.allow_networks.clone(),
        source: config.delivery.source.to_str().unwrap_or_default().to_owned(),
        keep_responses: config.delivery.keep_responses,
    }
}
