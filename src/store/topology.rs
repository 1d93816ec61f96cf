//! Why no server of a connection string is usable although one replies: it is not what the string says.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::{ClientOptions, ServerAddress};

/// How long one host is asked.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// What to do about a standalone mongod.
pub const NEEDS_REPLICA_SET: &str = "this mongod is standalone, but transactions and change streams need a replica set: start it with --replSet rs0 and run rs.initiate() once (one member is enough)";

/// Asks each host by itself what it is. `Some`: those that reply are all something else than the connection string says, and this
/// says what. The driver just says that there is no server.
pub(super) async fn contradiction(options: &ClientOptions) -> Option<String> {
    let expected = options.repl_set_name.as_deref()?;
    let asked = options.hosts.iter().map(|host| hello(options, host));
    let replies = futures_util::future::join_all(asked).await;
    let contradictions: Option<Vec<_>> = replies.iter().flatten().map(|reply| differs(reply, expected)).collect();
    contradictions?.into_iter().next()
}

async fn hello(options: &ClientOptions, host: &ServerAddress) -> Option<Document> {
    let mut alone = options.clone();
    alone.hosts = vec![host.clone()];
    alone.repl_set_name = None;
    alone.direct_connection = Some(true);
    alone.server_selection_timeout = Some(REPLY_TIMEOUT);
    // `hello` needs no login.
    alone.credential = None;
    let client = Client::with_options(alone).ok()?;
    let reply = client.database("admin").run_command(doc! { "hello": 1 }).await;
    client.shutdown().immediate(true).await;
    reply.ok()
}

/// How that reply contradicts a replica set of that name.
fn differs(hello: &Document, expected: &str) -> Option<String> {
    let name = hello.get_str("setName").ok();
    let is_router = hello.get_str("msg").is_ok_and(|message| message == "isdbgrid");
    // One that waits to be initiated is none of these.
    let is_standalone = name.is_none() && !is_router && hello.get_bool("isWritablePrimary").unwrap_or(false);
    match name {
        Some(name) if name != expected => Some(format!(
            "the replica set is called {name}, but the connection string says replicaSet={expected}"
        )),
        None if is_router => Some(format!(
            "this is the router of a sharded cluster: leave replicaSet={expected} out of the connection string"
        )),
        None if is_standalone => Some(NEEDS_REPLICA_SET.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_member_of_that_set_is_told() {
        for (hello, told) in [
            (doc! { "setName": "rs0", "isWritablePrimary": true }, None),
            (doc! { "setName": "rs0", "isWritablePrimary": false }, None),
            (
                doc! { "setName": "prod", "isWritablePrimary": true },
                Some("the replica set is called prod, "),
            ),
            (
                doc! { "isWritablePrimary": true, "msg": "isdbgrid" },
                Some("this is the router of a sharded cluster"),
            ),
            (doc! { "isWritablePrimary": true }, Some("this mongod is standalone")),
            (doc! { "isWritablePrimary": false, "isreplicaset": true }, None),
        ] {
            let text = differs(&hello, "rs0");
            assert_eq!(text.is_some(), told.is_some(), "{hello}");
            assert!(
                text.unwrap_or_default().starts_with(told.unwrap_or_default()),
                "{hello}"
            );
        }
    }
}
