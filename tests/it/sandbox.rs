//! The sandbox over a real mongod: it starts, survives its accidents, and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use certhookd::model::Clock;
use certhookd::sandbox::{Bulk, Options, Proxy, Receiver, ReplicaSet, Response, Samples, shared};
use http::{HeaderValue, StatusCode, header};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const LIMIT: Duration = Duration::from_secs(30);

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[tokio::test]
async fn the_shared_set_is_one_set_with_change_streams() {
    let set = shared().await.unwrap();
    assert!(std::ptr::eq(set, shared().await.unwrap()));

    let database = set.database("sandbox_shared").await.unwrap();
    let mut stream = database.collection::<Document>("things").watch().await.unwrap();
    database
        .collection("things")
        .insert_one(doc! { "_id": 1 })
        .await
        .unwrap();
    while stream.next_if_any().await.unwrap().is_none() {}

    drop(stream);
    database.client().clone().shutdown().immediate(true).await;
}

#[tokio::test]
async fn a_killed_member_comes_back_with_its_data_on_its_port() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let client = set.client().await.unwrap();
    let things: Collection<Document> = client.database("t").collection("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();

    set.kill(0).unwrap();
    assert!(!is_open(set.port(0)));
    set.restart(0).await.unwrap();
    assert_eq!(set.primary().await.unwrap(), 0);
    assert_eq!(things.count_documents(doc! {}).await.unwrap(), 1);
    client.shutdown().immediate(true).await;
}

#[tokio::test]
async fn of_three_members_another_takes_over_when_the_primary_is_killed() {
    let set = ReplicaSet::start(Options {
        members: Some(3),
        ..Options::default()
    })
    .await
    .unwrap();
    let client = set.client().await.unwrap();
    let things: Collection<Document> = client.database("t").collection("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();

    let first = set.primary().await.unwrap();
    set.kill(first).unwrap();
    let second = set.primary().await.unwrap();
    assert_ne!(first, second);
    assert_eq!(
        things.count_documents(doc! {}).await.unwrap(),
        1,
        "a majority write survives"
    );

    set.restart(first).await.unwrap();
    set.step_down(30).await.unwrap();
    assert_ne!(set.primary().await.unwrap(), second);
    client.shutdown().immediate(true).await;
}

#[tokio::test]
async fn a_frozen_member_answers_after_its_thaw() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    set.freeze(0).unwrap();
    let uri = format!(
        "{}&connectTimeoutMS=200&serverSelectionTimeoutMS=200",
        set.member_uri(0)
    );
    let client = Client::with_uri_str(uri).await.unwrap();
    assert!(client.database("admin").run_command(doc! { "ping": 1 }).await.is_err());

    set.thaw(0).unwrap();
    assert_eq!(set.primary().await.unwrap(), 0);
    client.shutdown().immediate(true).await;
}

#[tokio::test]
async fn a_standalone_has_no_change_streams() {
    let set = ReplicaSet::start(Options {
        members: None,
        ..Options::default()
    })
    .await
    .unwrap();
    let client = set.client().await.unwrap();
    let things: Collection<Document> = client.database("t").collection("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();
    assert!(things.watch().await.is_err());
    client.shutdown().immediate(true).await;
}

#[tokio::test]
async fn a_dropped_sandbox_leaves_nothing() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let (directory, port) = (set.directory().to_owned(), set.port(0));
    assert!(directory.is_dir() && is_open(port));
    drop(set);
    assert!(!directory.exists() && !is_open(port));
}

/// Runs itself in a second process, which is SIGKILLed while its mongod runs.
#[tokio::test]
async fn a_sandbox_whose_owner_is_killed_leaves_nothing() {
    const VICTIM: &str = "CERTHOOKD_TEST_VICTIM";
    if std::env::var_os(VICTIM).is_some() {
        let set = ReplicaSet::start(Options::default()).await.unwrap();
        println!("victim {} {}", set.port(0), set.directory().display());
        return std::future::pending().await;
    }
    let name = "sandbox::a_sandbox_whose_owner_is_killed_leaves_nothing";
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let line = lines
        .find_map(|line| line.split_once("victim ").map(|(_, rest)| rest.to_owned()))
        .unwrap();
    let (port, directory) = line.split_once(' ').unwrap();
    let (port, directory) = (port.parse().unwrap(), Path::new(directory));
    assert!(directory.is_dir() && is_open(port));

    let (ended, removed) = (end_of_mongod(directory), removal_of(directory));
    victim.kill().unwrap();
    victim.wait().unwrap();
    let in_time = becomes_readable(&ended) && becomes_readable(&removed);
    assert!(
        in_time && !directory.exists() && !is_open(port),
        "{line} is still there"
    );
}

/// Readable when the sandbox's mongod, which is no child of this process, has ended.
fn end_of_mongod(sandbox: &Path) -> OwnedFd {
    let folders = std::fs::read_dir(sandbox).unwrap().map(|folder| folder.unwrap().path());
    let pid = folders
        .filter_map(|folder| std::fs::read_to_string(folder.join("pid")).ok())
        .find_map(|pid| Pid::from_raw(pid.trim().parse().ok()?))
        .unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

/// Readable when the directory has been removed.
fn removal_of(directory: &Path) -> OwnedFd {
    let watch = inotify::init(inotify::CreateFlags::empty()).unwrap();
    inotify::add_watch(&watch, directory, inotify::WatchFlags::DELETE_SELF).unwrap();
    watch
}

/// Whether it does within [`LIMIT`].
fn becomes_readable(file: &OwnedFd) -> bool {
    let limit = LIMIT.try_into().unwrap();
    poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

#[tokio::test]
async fn a_driver_behind_the_proxy_loses_and_finds_its_mongod() {
    let set = shared().await.unwrap();
    let proxy = Proxy::start(set.port(0)).await.unwrap();
    let query = "directConnection=true&connectTimeoutMS=500&serverSelectionTimeoutMS=500";
    let client = Client::with_uri_str(format!("mongodb://{}/?{query}", proxy.address()))
        .await
        .unwrap();
    let ping = || async { client.database("admin").run_command(doc! { "ping": 1 }).await };
    ping().await.unwrap();

    proxy.cut();
    ping().await.unwrap_err();
    proxy.pass();
    let limit = Instant::now() + LIMIT;
    while ping().await.is_err() {
        assert!(Instant::now() < limit, "no connection after the cut");
    }
    client.shutdown().immediate(true).await;
}

#[tokio::test]
async fn samples_and_bulk_fill_a_database() {
    let set = shared().await.unwrap();
    let database = set.database("sandbox_samples").await.unwrap();
    let badge_users: Collection<Document> = database.collection("badgeusers");
    let (mut samples, mut bulk) = (Samples::new(1, "http://127.0.0.1:1"), Bulk::new(1, 10));
    let now = Clock::local();
    badge_users.insert_many(samples.expired(30, now)).await.unwrap();
    bulk.insert(&badge_users, 20_500, |_| Some(now)).await.unwrap();

    assert_eq!(badge_users.count_documents(doc! {}).await.unwrap(), 20_530);
    let first = doc! { "_ownerId": bulk.organizations()[0] };
    assert_eq!(badge_users.count_documents(first).await.unwrap(), 2_050);
    database.client().clone().shutdown().immediate(true).await;
}

async fn post(receiver: &Receiver, path: &str) -> reqwest::Response {
    client().post(receiver.url(path)).body("{}").send().await.unwrap()
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn the_receiver_keeps_what_comes_and_answers_by_its_script() {
    let receiver = Receiver::start().unwrap();
    let busy =
        Response::status(StatusCode::TOO_MANY_REQUESTS).header(header::RETRY_AFTER, HeaderValue::from_static("2"));
    receiver.script("/flaky", Response::failing(2, StatusCode::SERVICE_UNAVAILABLE));
    receiver.script("/busy", [busy]);

    for expected in [503, 503, 200, 200] {
        assert_eq!(post(&receiver, "/flaky").await.status(), expected);
    }
    let response = post(&receiver, "/busy").await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["retry-after"].as_bytes()),
        (429, b"2".as_slice())
    );
    assert_eq!(post(&receiver, "/unscripted").await.status(), 200);

    assert_eq!((receiver.total(), receiver.count("/flaky")), (6, 4));
    assert_eq!(receiver.max_parallel("/flaky"), 1, "one after the other");
    let requests = receiver.requests();
    let statuses: Vec<_> = requests
        .iter()
        .filter_map(|request| request.status.map(|s| s.as_u16()))
        .collect();
    assert_eq!(statuses, [503, 503, 200, 200, 429, 200]);
    assert_eq!(
        (&requests[0].path[..], &requests[0].body[..], requests[0].header("host")),
        ("/flaky", &b"{}"[..], &receiver.address().to_string()[..])
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_request_it_waits_for_or_says_what_came() {
    let receiver = Receiver::start().unwrap();
    let (waited, _) = tokio::join!(
        receiver.wait_for(|requests| requests.len() == 1, LIMIT),
        post(&receiver, "/a")
    );
    assert_eq!(waited.unwrap()[0].path, "/a");

    let error = receiver
        .wait_for(|requests| requests.len() > 1, Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "not within 20ms: 1 requests came, 1 to /a");
}

#[tokio::test]
async fn silence_holds_requests_and_the_gauge_counts_them_until_the_receiver_goes() {
    let receiver = Receiver::start().unwrap();
    receiver.script("/hung", [Response::silence()]);
    let (client, url) = (client(), receiver.url("/hung"));
    let hung: Vec<_> = (0..7)
        .map(|_| tokio::spawn(client.post(&url).body("{}").send()))
        .collect();
    receiver.wait_for_total(7, LIMIT).await.unwrap();
    assert_eq!(receiver.max_parallel("/hung"), 7);
    assert!(receiver.requests().iter().all(|request| request.status.is_none()));

    drop(receiver);
    for request in hung {
        let ended = tokio::time::timeout(LIMIT, request)
            .await
            .expect("the connection is cut");
        assert!(ended.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_delayed_answer_comes_no_sooner_and_a_counting_receiver_keeps_nothing() {
    let receiver = Receiver::counting().unwrap();
    receiver.script("/slow", [Response::ok().after(Duration::from_millis(80))]);
    let start = Instant::now();
    post(&receiver, "/slow").await;
    assert!(start.elapsed() >= Duration::from_millis(80));
    receiver.wait_for_total(1, LIMIT).await.unwrap();
    assert!(receiver.requests().is_empty());
}
