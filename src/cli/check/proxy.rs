//! The forward proxy, tried once.

use super::{Finding, say, warn};
use crate::config::Config;
use crate::platform::Directory;
use crate::sender::{Client, ProxyCheck};
use crate::store::Store;

const POINT: &str = "proxy";

/// Endpoints whose names are looked up for that, at most.
const TRIED: usize = 5;

/// Asks it by CONNECT for an endpoint that it leads to; sends nothing there.
pub(super) async fn try_once(config: &Config, store: &Store) -> Finding {
    let settings = match crate::run::Settings::new(config) {
        Ok(settings) => settings,
        Err(error) => return say(Finding::Misconfigured, POINT, &format!("{error:#}")),
    };
    if !settings.proxy.is_configured() {
        return Finding::Good;
    }
    // What can't be read has been said.
    let target = match crate::cli::directory(store, config).await {
        Ok(directory) => target(&settings.client.get(), &directory).await,
        Err(_) => None,
    };
    match settings.proxy.check(target.as_deref()).await {
        None => Finding::Good,
        Some(ProxyCheck::Good(text)) => say(Finding::Good, POINT, &text),
        Some(ProxyCheck::Refuses(text)) => warn(POINT, &text),
        Some(ProxyCheck::Login(text)) => say(Finding::Misconfigured, POINT, &text),
        Some(ProxyCheck::Unreachable(text)) => say(Finding::Unreachable, POINT, &text),
    }
}

/// What the proxy is asked for on behalf of the first of a few endpoints that it leads to.
async fn target(client: &Client, directory: &Directory) -> Option<String> {
    for endpoint in directory.endpoints().iter().take(TRIED) {
        if let Some(target) = client.proxied_target(endpoint).await {
            return Some(target);
        }
    }
    None
}
