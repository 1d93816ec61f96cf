//! `certhookd health`: what `/healthz` or `/readyz` of the instance on this machine says, for a container's health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::config::Config;
use crate::sender::tls_config;
use crate::service::one_line;

/// How long the instance has to reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// What to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whether it does its work (`/readyz`), not only whether its loops move (`/healthz`).
    #[arg(long)]
    ready: bool,
}

/// Prints what it says. Succeeds if that is good.
pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Some(listen) = config.service.metrics_listen else {
        bail!("service.metrics_listen is \"\": nobody can be asked");
    };
    let path = if args.ready { "readyz" } else { "healthz" };
    let client = reqwest::Client::builder()
        // Without one its builder looks for a provider that nobody has installed; nothing here is encrypted.
        .tls_backend_preconfigured(tls_config()?)
        .no_proxy()
        .timeout(REPLY_TIMEOUT)
        .build()?;
    let asked = client.get(format!("http://{}/{path}", reached_at(listen))).send().await;
    let response = asked
        .map_err(|error| error.without_url())
        .with_context(|| format!("no instance replies at {listen}"))?;
    let is_good = response.status().is_success();
    say!(
        "{}",
        one_line(response.text().await.map_err(|error| error.without_url())?.trim_end())
    );
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An address that listens on all interfaces is reached on the loopback device.
fn reached_at(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
