//! The bare loops that the daemon is measured against, each a process of its own so that its CPU time can be told.
//!
//! Both are as fast as we could make them without giving durability up. What they leave out is said in each.

mod bare_loop;
mod bare_stream;
mod post;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bson::{RawDocumentBuf, rawdoc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use tokio::signal::unix::{SignalKind, signal};

/// The part that the process plays, as its first argument says.
pub const LOOP: &str = "bare-loop";
/// The other part.
pub const STREAM: &str = "bare-stream";

/// Plays the part that the arguments name; `None` if they name none.
pub fn part(arguments: &[String]) -> Option<impl Future<Output = Result<()>> + use<>> {
    match arguments {
        [part, uri, database, receiver] if part == LOOP || part == STREAM => {
            let (part, uri, database) = (part.clone(), uri.clone(), database.clone());
            Some(play(part, uri, database, receiver.clone()))
        }
        _ => None,
    }
}

async fn play(part: String, uri: String, database: String, receiver: String) -> Result<()> {
    let mut go = signal(SignalKind::user_defined1())?;
    let receiver: SocketAddr = receiver.parse()?;
    let client = Client::with_options(ClientOptions::parse(uri).await?)?;
    let database = client.database(&database);
    if part == STREAM {
        return bare_stream::run(&database, receiver).await;
    }
    let prepared = bare_loop::BareLoop::prepare(&database, receiver).await?;
    say("ready");
    go.recv().await.context("no signal will come any more")?;
    prepared.run().await?;
    say("recorded");
    // Until it is ended: its CPU time is still to be read.
    std::future::pending().await
}

/// Tells the bench.
fn say(what: &str) {
    eprintln!("{{\"message\":\"{what}\"}}");
}

/// Runs a write command as the daemon writes: majority and journaled. A refused document is an error.
async fn write(database: &Database, mut command: RawDocumentBuf) -> Result<()> {
    command.append(bson::cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true });
    let reply = database.run_raw_command(command).await?;
    anyhow::ensure!(reply.get("writeErrors").is_none(), "a document was refused");
    anyhow::ensure!(reply.get("writeConcernError").is_none(), "a write was not confirmed");
    Ok(())
}
