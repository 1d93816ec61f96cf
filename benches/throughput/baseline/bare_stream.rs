//! The bare stream: a change stream on the certificates, and a POST for each insert as soon as it is seen.
//!
//! It stores nothing: no outbox, no resume token. What is in flight when it dies is lost, and so is what was not sent for
//! another reason. All else that the bare loop leaves out is left out here too.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow};
use bson::{RawDocument, RawDocumentBuf, doc};
use certhookd::platform::badge_user;
use http::HeaderValue;
use mongodb::Database;
use tokio::sync::mpsc;

use super::post::{Connections, Job};
use super::say;

/// More than are ever busy at 200 awards a second.
const CONNECTIONS: usize = 8;

/// Watches and sends until the process is ended.
pub async fn run(database: &Database, receiver: SocketAddr) -> Result<()> {
    let (sent, mut done) = mpsc::channel(CONNECTIONS);
    tokio::spawn(async move { while done.recv().await.is_some() {} });
    let mut connections = Connections::open(receiver, CONNECTIONS, &sent).await?;
    let collection = database.collection::<RawDocumentBuf>("badgeusers");
    let inserts = doc! { "$match": { "operationType": "insert" } };
    let mut stream = collection
        .watch()
        .pipeline([inserts])
        .await?
        .with_type::<RawDocumentBuf>();
    say("ready");
    loop {
        if let Some(change) = stream.next_if_any().await? {
            let document = change.get_document("fullDocument")?;
            connections.send(vec![job(document)?]).await?;
        }
    }
}

fn job(document: &RawDocument) -> Result<Job> {
    let event = badge_user::completed(document).map_err(|unfit| anyhow!("{}", unfit.reason))?;
    Ok(Job {
        id: String::new(),
        path: "/".to_owned(),
        event_id: HeaderValue::from_str(event.message.event_id.as_str()).context("an id that no header can hold")?,
        body: event.message.body,
    })
}
