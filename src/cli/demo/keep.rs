//! The end of a demo that stays: where everything is, and what to try next.

use std::net::SocketAddr;
use std::path::Path;

use bson::Document;
use bson::oid::ObjectId;

use super::FLAKY;
use crate::cli::sandbox::Sandbox;

/// What endpoints on this machine need, of the demo and of commands by hand.
pub(super) const LOOPBACK: [(&str, &str); 2] = [
    ("CERTHOOKD_DELIVERY__ALLOW_HTTP", "true"),
    ("CERTHOOKD_DELIVERY__ALLOW_NETWORKS", "127.0.0.0/8"),
];

pub(super) fn introduce(sandbox: &Sandbox, page: Option<SocketAddr>) {
    say!("\nEverything still runs; Ctrl-C ends it and removes it.\n");
    if let Some(page) = page {
        say!("  status page  http://{page}/");
    }
    say!("  MongoDB      {}", sandbox.uri());
    say!("\nWhat to try next, in another terminal:\n");
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        say!("  export PATH=\"{}:$PATH\"", folder.display());
    }
    say!("  export CERTHOOKD_MONGODB__URI='{}'", sandbox.uri());
    let settings = LOOPBACK.map(|(name, value)| format!("{name}={value}"));
    say!("  export {}\n", settings.join(" "));
    let command = |what: &str, arguments: &str| say!("  certhookd {arguments:<46}  # {what}");
    command("all of it, trouble first", "status");
    let requests = sandbox.receiver.requests();
    if let Some(refused) = requests.iter().find(|request| request.path == FLAKY) {
        let event = refused.header("webhook-id");
        command("the event that was refused twice", &format!("show {event}"));
    }
    if let Some(id) = endpoint(sandbox) {
        command("a signed sample to the endpoint", &format!("send-test --endpoint {id}"));
        command(
            "nothing is sent to it until `release`",
            &format!("hold --endpoint {id}"),
        );
    }
    command("all of it once more", "replay --all --state delivered");
    command("deliveries as they change, until Ctrl-C", "events");
}

/// The id of the endpoint that fails at first.
fn endpoint(sandbox: &Sandbox) -> Option<ObjectId> {
    let organizations = sandbox.samples.organizations().iter();
    let mut endpoints = organizations.flat_map(|organization| &organization.endpoints);
    let is_flaky = |endpoint: &&Document| endpoint.get_str("url").is_ok_and(|url| url.ends_with(FLAKY));
    endpoints.find(is_flaky)?.get_object_id("_id").ok()
}
