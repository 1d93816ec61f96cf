//! The daemon while its proxy is unavailable: everything waits, nothing is charged, and all arrives.

use bson::doc;
use bson::oid::ObjectId;
use certhookd::sandbox::Response;
use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::support::{Script, Scripted, UNKNOWN};
use crate::fixture::{Daemon, Fixture, certificate, endpoint_key, expired};
use crate::outage;
use crate::web::{LISTEN, address, get};

pub fn begins(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    line["level"] == "WARN" && message.starts_with("the proxy ")
}

pub fn ends(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    line["level"] == "INFO" && message.ends_with("works again: deliveries go on")
}

fn goes_on(line: &Value) -> bool {
    line["message"] == "the proxy is still unavailable"
}

/// Lines of more than DEBUG that tell of a failed attempt.
pub fn is_failure(line: &Value) -> bool {
    line["level"] != "DEBUG" && line.get("attempt").is_some()
}

/// Certificates of that organization, whose awards come by the stream.
pub async fn award(fixture: &Fixture, organization: ObjectId, count: usize) {
    let documents: Vec<_> = (0..count).map(|_| certificate(organization, None)).collect();
    fixture.badge_users().insert_many(documents).await.unwrap();
}

/// All were delivered at the first attempt.
pub async fn assert_first_attempts(fixture: &Fixture, count: usize) {
    let count = count as u64;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, count).await;
    assert_eq!(fixture.count_deliveries(doc! { "attempts": 1 }).await, count);
    assert_eq!(
        fixture.count_deliveries(doc! { "history": { "$exists": true } }).await,
        0
    );
}

fn settings(proxy: &Scripted) -> String {
    format!("delivery.proxy = \"{}\"\n{LISTEN}", proxy.url())
}

/// The value of a metric, if it is there.
async fn metric(daemon: &Daemon, name: &str) -> Option<String> {
    let text = get(address(daemon).await, "/metrics").await.body;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.map(|line| line.split(' ').nth(1).unwrap().to_owned())
}

#[tokio::test]
async fn a_proxy_that_is_killed_and_restarted_costs_no_attempt_and_is_told_of_once() {
    let mut scripted = Scripted::start().await;
    let fixture = Fixture::new().await.with(&settings(&scripted));
    let endpoints = ["/a", "/b", "/c"].map(|path| fixture.endpoint(path)).to_vec();
    let organization = fixture.organization(endpoints).await;
    let mut daemon = fixture.daemon().await;
    assert_eq!(metric(&daemon, "certhookd_proxy_up").await.as_deref(), Some("1"));
    award(&fixture, organization, 3).await;
    assert_first_attempts(&fixture, 9).await;

    scripted.kill().await;
    award(&fixture, organization, 20).await;
    let line = daemon.wait_for(begins).await;
    assert_eq!(line["proxy"], scripted.address.to_string());
    let message = line["message"].as_str().unwrap();
    assert!(message.contains("can't be reached: connection refused"), "{message}");
    let ready = get(address(&daemon).await, "/readyz").await;
    let expected = format!(
        "the proxy {} can't be reached: connection refused, for ",
        scripted.address
    );
    assert!(ready.status == 503 && ready.body.starts_with(&expected), "{ready:?}");
    assert_eq!(metric(&daemon, "certhookd_proxy_up").await.as_deref(), Some("0"));
    assert_eq!(metric(&daemon, "certhookd_breakers_open").await.as_deref(), Some("0"));
    // For a while: after 100, 200, 400 and 800 ms. Nothing is read in vain meanwhile.
    daemon.wait_for(goes_on).await;
    let reads =
        doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()), "op": { "$in": ["query", "command"] } };
    fixture.profile(&reads).await;
    daemon.wait_for_nth(goes_on, 4).await;
    let noted = fixture.profiled(&reads).await;
    fixture.stop_profiling().await;
    assert!(noted.len() < 10, "{} reads", noted.len());
    let pending = doc! { "state": "pending", "attempts": { "$gt": 0 } };
    assert_eq!(fixture.count_deliveries(pending).await, 0, "nothing is charged");

    scripted.restart().await;
    daemon.wait_for(ends).await;
    assert_first_attempts(&fixture, 69).await;
    assert_eq!(get(address(&daemon).await, "/readyz").await.body, "ready\n");
    assert_eq!(metric(&daemon, "certhookd_proxy_up").await.as_deref(), Some("1"));
    assert_eq!((daemon.count(begins), daemon.count(ends)), (1, 1));
    assert_eq!(daemon.count(is_failure), 0, "{:#?}", daemon.lines());
    assert_eq!(fixture.receiver.total(), 69, "each once");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_login_that_is_refused_holds_everything_until_a_reload_brings_the_right_one() {
    let scripted = Scripted::start().await;
    scripted.wants(Some("bob:s3cret"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy-url");
    let write = |login: &str| std::fs::write(&file, format!("http://{login}@{}\n", scripted.address)).unwrap();
    write("bob:hunter2");
    let fixture = Fixture::new()
        .await
        .with(&format!("delivery.proxy_file = \"{}\"\n{LISTEN}", file.display()));
    let endpoints = vec![fixture.endpoint("/a"), fixture.endpoint("/b")];
    let organization = fixture.organization(endpoints).await;
    let mut daemon = fixture.daemon().await;
    award(&fixture, organization, 5).await;
    let line = daemon.wait_for(begins).await;
    let message = line["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("{} refuses the login (407)", scripted.address)),
        "{message}"
    );
    let ready = get(address(&daemon).await, "/readyz").await;
    assert!(ready.body.contains("refuses the login (407)"), "{ready:?}");
    let page = get(address(&daemon).await, "/").await.body;
    let metrics = get(address(&daemon).await, "/metrics").await.body;

    write("bob:s3cret");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(ends).await;
    assert_first_attempts(&fixture, 10).await;
    assert_eq!((daemon.count(begins), daemon.count(ends)), (1, 1));
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_for(|line| line["message"] == "state").await;
    let said = format!("{:?}{page}{metrics}{ready:?}", daemon.lines());
    for secret in ["hunter2", "s3cret", "bob", "Ym9i"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn what_the_proxy_says_of_one_endpoint_stops_no_other() {
    let dead = ["127.0.0.3:9", "127.0.0.4:9", "127.0.0.5:9", "127.0.0.6:9"];
    let scripted = Scripted::start().await;
    scripted.does_for(dead[0], Script::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n"));
    scripted.does_for(dead[1], Script::Says("HTTP/1.1 403 Forbidden\r\n\r\n"));
    scripted.does_for(dead[2], Script::Breaks);
    scripted.does_for(dead[3], Script::Hangs);
    let fixture = Fixture::new().await.with(&settings(&scripted));
    let mut endpoints = vec![fixture.endpoint("/a"), fixture.endpoint("/b")];
    for target in dead {
        let mut endpoint = fixture.endpoint("/dead");
        endpoint.insert("url", format!("http://{target}/"));
        endpoint.insert("timeout", 1000);
        endpoints.push(endpoint);
    }
    let organization = fixture.organization(endpoints).await;
    let mut daemon = fixture.daemon().await;
    award(&fixture, organization, 5).await;
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 10)
        .await;
    for reason in ["the proxy answered 502 to CONNECT", "the proxy answered 403 to CONNECT"] {
        daemon.wait_for(|line| line["reason"] == reason).await;
    }
    daemon
        .wait_for(|line| {
            line["reason"]
                .as_str()
                .is_some_and(|reason| reason.starts_with("timeout after 1000 ms"))
        })
        .await;
    assert_eq!(daemon.count(begins), 0);
    assert!(daemon.stop().await.success());
}

/// In the midst of CONNECT, and whatever it does with other requests.
#[tokio::test]
async fn a_proxy_that_breaks_off_for_a_while_costs_no_attempt_and_is_told_of_once() {
    for of_others in [Script::Closes, Script::Says(UNKNOWN)] {
        let scripted = Scripted::start().await;
        scripted.does_for_others(of_others);
        scripted.does(Script::Closes);
        let fixture = Fixture::new().await.with(&settings(&scripted));
        let endpoints = ["/a", "/b"].map(|path| fixture.endpoint(path)).to_vec();
        let organization = fixture.organization(endpoints).await;
        let mut daemon = fixture.daemon().await;
        award(&fixture, organization, 5).await;
        daemon.wait_for_nth(goes_on, 3).await;
        scripted.does(Script::Tunnel);
        daemon.wait_for(ends).await;
        assert_first_attempts(&fixture, 10).await;
        assert_eq!((daemon.count(begins), daemon.count(ends)), (1, 1));
        assert_eq!(daemon.count(is_failure), 0, "{:#?}", daemon.lines());
        assert!(daemon.stop().await.success());
    }
}

/// The time for which the proxy was unavailable is not taken from the deliveries that wait.
#[tokio::test]
async fn the_retry_period_of_what_waited_begins_anew() {
    let mut scripted = Scripted::start().await;
    let limits = "delivery.retry_window = \"1s\"\ndelivery.max_attempts = 3\ndelivery.redrive_for = \"0s\"";
    let fixture = Fixture::new().await.with(&format!("{}\n{limits}", settings(&scripted)));
    fixture
        .receiver
        .script("/a", Response::failing(2, StatusCode::INTERNAL_SERVER_ERROR));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    award(&fixture, organization, 1).await;
    daemon.wait_for(is_failure).await;
    scripted.kill().await;
    daemon.wait_for(begins).await;
    // 100, 200, 400 and 800 ms after the retry, which was due after half a second.
    daemon.wait_for_nth(goes_on, 4).await;
    scripted.restart().await;
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 3 }, 1)
        .await;
    assert!(daemon.stop().await.success());
}

/// It was sent to all the time: nothing is added to its retry period, by which a `Retry-After` is bounded.
#[tokio::test]
async fn the_retry_period_of_an_endpoint_that_is_reached_directly_does_not_begin_anew() {
    let mut scripted = Scripted::start().await;
    let limits = "delivery.no_proxy = [\"127.0.0.1\"]\ndelivery.retry_window = \"1h\"";
    let fixture = Fixture::new().await.with(&format!("{}\n{limits}", settings(&scripted)));
    let (direct, mut proxied) = (fixture.endpoint("/direct"), fixture.endpoint("/proxied"));
    proxied.insert("url", "http://127.0.0.9:9/");
    fixture
        .receiver
        .script("/direct", [Response::status(StatusCode::INTERNAL_SERVER_ERROR)]);
    let organization = fixture.organization(vec![direct.clone(), proxied]).await;
    scripted.kill().await;
    let mut daemon = fixture.daemon().await;
    award(&fixture, organization, 1).await;
    daemon.wait_for(is_failure).await;
    daemon.wait_for(begins).await;
    daemon.wait_for_nth(goes_on, 3).await;
    scripted.restart().await;
    daemon.wait_for(ends).await;
    let later = Response::status(StatusCode::SERVICE_UNAVAILABLE)
        .header(http::header::RETRY_AFTER, http::HeaderValue::from_static("7200"));
    fixture.receiver.script("/direct", [later]);
    let postponed = doc! { "endpoint": endpoint_key(organization, &direct), "lastStatus": 503 };
    fixture.wait_for_deliveries(postponed.clone(), 1).await;
    let delivery = fixture.outbox().find_one(postponed).await.unwrap().unwrap();
    let millis = |field| delivery.get_datetime(field).unwrap().timestamp_millis();
    let period = millis("due") - millis("firstAttemptAt");
    assert!((3_590_000..=3_600_000).contains(&period), "{period} ms");
    assert!(daemon.stop().await.success());
}

/// Of a large payload it is noted that an attempt begins: five such notes without a result would end it.
#[tokio::test]
async fn a_large_payload_that_waits_for_the_proxy_counts_as_not_begun() {
    let mut scripted = Scripted::start().await;
    scripted.kill().await;
    let fixture = Fixture::new().await.with(&settings(&scripted));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    let mut large = certificate(organization, None);
    large.insert("note", "x".repeat(2 << 20));
    fixture.badge_users().insert_one(large).await.unwrap();
    daemon.wait_for(begins).await;
    let taken_back = doc! { "begun": 0 };
    fixture.wait_for_count(&fixture.outbox(), taken_back, 1).await;
    scripted.restart().await;
    assert_first_attempts(&fixture, 1).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_reload_brings_a_proxy_and_takes_it_away() {
    let mut scripted = Scripted::start().await;
    let fixture = Fixture::new().await.with(LISTEN);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    let reload = async |settings: &str, n| {
        fixture.configure(settings);
        daemon.signal(Signal::SIGHUP);
        daemon
            .wait_for_nth(|line| line["message"] == "configuration reloaded", n)
            .await;
    };
    assert_eq!(metric(&daemon, "certhookd_proxy_up").await, None);
    award(&fixture, organization, 1).await;
    assert_first_attempts(&fixture, 1).await;
    reload(&settings(&scripted), 1).await;
    award(&fixture, organization, 1).await;
    assert_first_attempts(&fixture, 2).await;
    assert_eq!(scripted.targets(), [fixture.receiver.address().to_string()]);
    scripted.kill().await;
    award(&fixture, organization, 1).await;
    daemon.wait_for(begins).await;
    reload(LISTEN, 2).await;
    assert_first_attempts(&fixture, 3).await;
    let none = "no proxy is configured any more: deliveries go on without one";
    daemon.wait_for(|line| line["message"] == none).await;
    assert_eq!((daemon.count(begins), daemon.count(ends)), (1, 0));
    assert!(daemon.stop().await.success());
}

/// Both at once: what is written waits, and goes out when both are back.
#[tokio::test]
async fn the_proxy_and_mongodb_may_be_unavailable_together() {
    let mut scripted = Scripted::start().await;
    let set = certhookd::sandbox::shared().await.unwrap();
    let network = certhookd::sandbox::Proxy::start(set.port(0)).await.unwrap();
    let uri = format!(
        "mongodb://{}/?directConnection=true&{}",
        network.address(),
        outage::SOON
    );
    let fixture = Fixture::on(&uri, set.client().await.unwrap()).with(&settings(&scripted));
    fixture.receiver.script("/a", [Response::ok()]);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    scripted.kill().await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.wait_for(begins).await;
    network.cut();
    daemon.wait_for(outage::is_away).await;
    scripted.restart().await;
    daemon.wait_for(ends).await;
    network.pass();
    daemon.wait_for(outage::is_back).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2).await;
    assert_eq!((daemon.count(begins), daemon.count(ends)), (1, 1));
    assert!(daemon.stop().await.success());
}
