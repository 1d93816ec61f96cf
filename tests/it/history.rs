//! What became of each attempt: kept with the delivery, in order, bounded, printable and without secrets.

pub(crate) mod responses;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use certhookd::sandbox::Response;
use http::{HeaderValue, StatusCode};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Daemon, Fixture, endpoint_key, expired, expired_id};
use crate::sender::support::server;
use crate::sender::tls::Authority;

/// The attempts of the only delivery whose document is in that state.
async fn history(fixture: &Fixture, state: &str) -> Vec<Document> {
    fixture.wait_for_deliveries(doc! { "state": state }, 1).await;
    let delivery = fixture.deliveries(doc! { "state": state }).await.remove(0);
    let entries = delivery.get_array("history").unwrap().iter();
    entries.map(|entry| entry.as_document().unwrap().clone()).collect()
}

fn text<'a>(entry: &'a Document, field: &str) -> Option<&'a str> {
    entry.get_str(field).ok()
}

fn number(entry: &Document, field: &str) -> Option<i32> {
    entry.get_i32(field).ok()
}

/// Reads a whole request: a head, and as much as it says.
async fn read_any_request(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    loop {
        let head = seen.windows(4).position(|four| four == b"\r\n\r\n");
        let length = head.and_then(|end| {
            let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            length.parse::<usize>().ok()
        });
        if head
            .zip(length)
            .is_some_and(|(end, length)| seen.len() >= end + 4 + length)
        {
            return Ok(seen);
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(seen);
        }
    }
}

/// What a connection of that number meets: 503, silence, a reset, a certificate that nobody trusts, 200.
async fn scripted(stream: TcpStream, number: usize, good: Arc<Authority>, bad: Arc<Authority>) -> io::Result<()> {
    let authority = if number == 3 { bad } else { good };
    let mut stream = authority
        .acceptor("127.0.0.1", 2048, b"http/1.1")
        .accept(stream)
        .await?;
    read_any_request(&mut stream).await?;
    let response = match number {
        0 => "503 Busy\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 14\r\n\r\nwe are closed\n",
        1 => return std::future::pending().await,
        2 => {
            #[allow(
                deprecated,
                reason = "a linger of zero is the way to send a reset, and it blocks nobody"
            )]
            stream.get_ref().0.set_linger(Some(Duration::ZERO))?;
            return Ok(());
        }
        _ => "200 OK\r\nContent-Length: 2\r\n\r\nok",
    };
    stream.write_all(format!("HTTP/1.1 {response}").as_bytes()).await?;
    stream.flush().await
}

#[tokio::test]
async fn it_tells_of_each_attempt_in_order_across_a_crash_and_a_takeover() {
    let [good, bad] = ["good", "bad"].map(|name| Arc::new(Authority::new(name)));
    let directory = tempfile::TempDir::new().unwrap();
    let trusted = directory.path().join("ca.pem");
    std::fs::write(&trusted, good.pem()).unwrap();
    let url = server(move |stream, number| scripted(stream, number, Arc::clone(&good), Arc::clone(&bad))).await;
    // With this many, retries come soon.
    let fixture = Fixture::new()
        .await
        .with("completions.enabled = false\ndelivery.max_attempts = 1000");
    let mut endpoint = fixture.endpoint("/a");
    endpoint.extend(doc! { "url": url.replace("http:", "https:"), "timeout": 1000 });
    let organization = fixture.organization(vec![endpoint]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let start = || {
        let mut command = fixture.command(&["run"]);
        command.env("SSL_CERT_FILE", &trusted);
        Daemon::spawn(command)
    };

    let mut first = start();
    let failed_once = doc! { "state": "pending", "attempts": 1 };
    fixture.wait_for_deliveries(failed_once, 1).await;
    first.signal(Signal::SIGKILL);
    first.ended().await;
    let _second = start();
    let history = history(&fixture, "delivered").await;

    let told: Vec<_> = history
        .iter()
        .map(|entry| {
            (
                number(entry, "n").unwrap(),
                number(entry, "status"),
                text(entry, "error"),
                text(entry, "response"),
            )
        })
        .collect();
    let expected = [
        (1, Some(503), Some("status 503"), Some(r"we are closed\n")),
        (2, None, Some("timeout after 1000 ms: no response"), None),
        (3, None, Some("connection reset"), None),
        (4, None, Some("tls: certificate's issuer is not trusted"), None),
        (5, Some(200), None, None),
    ];
    assert_eq!(told, expected);
    let instances: Vec<_> = history.iter().map(|entry| text(entry, "instance").unwrap()).collect();
    assert!(
        instances[0] != instances[1] && instances[1..].iter().all(|id| *id == instances[1]),
        "{instances:?}"
    );
    assert!(
        history.is_sorted_by_key(|entry| *entry.get_datetime("at").unwrap()),
        "{history:#?}"
    );
    let has_connected =
        |entry: &Document| number(entry, "connectMs").is_some_and(|ms| ms <= number(entry, "ms").unwrap());
    assert_eq!(
        history.iter().map(has_connected).collect::<Vec<_>>(),
        [true, true, true, false, true]
    );
    assert!(number(&history[1], "ms").unwrap() >= 1000);
}

/// The reason why a delivery died, and what failed last, go with a redrive or a replay from the document: they stay in its history.
#[tokio::test]
async fn a_redrive_and_a_replay_append_to_it() {
    let settings = "completions.enabled = false\ndelivery.max_attempts = 2\ndelivery.retry_window = \"1s\"";
    let fixture = Fixture::new().await.with(settings);
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let sick = |body| Response::status(StatusCode::BAD_GATEWAY).body(body);
    fixture
        .receiver
        .script("/a", [sick("one"), sick("two"), sick("three"), Response::ok()]);
    let certificate = expired(organization);
    fixture.badge_users().insert_one(&certificate).await.unwrap();
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "redrive-look=return(1)");
    let _daemon = Daemon::spawn(command);
    fixture
        .wait_for_deliveries(doc! { "state": "dead", "attempts": 3 }, 1)
        .await;
    let id = format!("{}/{}", endpoint_key(organization, &endpoint), expired_id(&certificate));
    let replayed = fixture.outcome(&["replay", "--id", &id]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;

    let document = fixture.outbox().find_one(doc! { "_id": id }).await.unwrap().unwrap();
    let entries = document.get_array("history").unwrap().iter();
    let told = entries.map(|entry| {
        let entry = entry.as_document().unwrap();
        (
            number(entry, "n").unwrap(),
            text(entry, "response").unwrap().to_owned(),
            entry.get_bool("redriven").unwrap_or(false),
            text(entry, "reason").map(str::to_owned),
        )
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told[0], (1, "one".into(), false, None));
    assert_eq!((told[1].0, &*told[1].1, told[1].2), (2, "two", false));
    // One or the other comes first: two attempts fill the second.
    let died = told[1].3.as_deref().unwrap();
    assert!(died.contains("attempts"), "{died}");
    let again = "it failed again after it was a dead letter";
    assert_eq!(told[2], (3, "three".into(), true, Some(again.into())));
    let replays = document.get_array("replays").unwrap();
    let replay = replays[0].as_document().unwrap();
    assert_eq!(
        (
            text(replay, "state"),
            number(replay, "attempts"),
            text(replay, "reason")
        ),
        (Some("dead"), Some(3), Some(again))
    );
    assert!(replay.get_datetime("at").unwrap() <= document.get_datetime("lastAttemptAt").unwrap());
    let result = document.get_array("results").unwrap()[0].as_document().unwrap();
    assert_eq!(
        (number(result, "status"), told.len()),
        (Some(200), 3),
        "a first success is its result"
    );
}

#[tokio::test]
async fn bodies_are_kept_unless_the_operator_says_no_and_a_reload_is_enough() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let [one, two] = ["one", "two"].map(|body| Response::status(StatusCode::SERVICE_UNAVAILABLE).body(body));
    let one = one.header(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    fixture.receiver.script("/a", [one]);
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "attempts": 1 }, 1).await;
    fixture.configure("completions.enabled = false\ndelivery.keep_responses = false");
    daemon.signal(Signal::SIGHUP);
    daemon
        .wait_for(|line| line["message"] == "configuration reloaded")
        .await;
    fixture.receiver.script("/a", [two, Response::ok()]);
    let history = history(&fixture, "delivered").await;
    let bodies: Vec<_> = history.iter().map(|entry| text(entry, "response")).collect();
    assert_eq!(bodies[0], Some("one"));
    assert!(bodies.len() > 2 && !bodies.contains(&Some("two")), "{bodies:?}");
}
