//! Certificates of endpoints' own that end: the platform is told of each once, whoever comes upon it and however often.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::{Received, Response};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{always, command, expire, fixture, has, id, kinds, notices};
use crate::fixture::{Daemon, Fixture, endpoint_key};
use crate::mtls::ending_in;

const ENDS: &str = "endpoint.certificate_ends";

/// Told of the same endpoint again after a second instead of an hour.
const SOON_AGAIN: &str = "certificate-notices=return(1)";

fn with_tls(fixture: &Fixture, name: &str, tls: Document) -> Document {
    let mut endpoint = fixture.endpoint(&format!("/{name}"));
    endpoint.insert("tls", tls);
    endpoint
}

fn identity(days: i64) -> Document {
    let (certificate, key) = ending_in(days);
    doc! { "clientCert": certificate, "clientKey": key }
}

/// A few instances, ready. Each writes the configuration: none may read it meanwhile.
async fn daemons(fixture: &Fixture, count: usize, failpoints: &str) -> Vec<Daemon> {
    let commands: Vec<_> = (0..count).map(|_| command(fixture, failpoints)).collect();
    let daemons: Vec<_> = commands.into_iter().map(Daemon::spawn).collect();
    for daemon in &daemons {
        daemon.wait_for(|line| line["message"] == "ready").await;
    }
    daemons
}

async fn push(fixture: &Fixture, organization: ObjectId, endpoint: &Document) {
    let push = doc! { "$push": { "webHookConfig.endpoints": endpoint } };
    set(fixture, organization, push).await;
}

async fn set(fixture: &Fixture, organization: ObjectId, change: Document) {
    let all = doc! { "_ownerId": organization };
    fixture.member_configs().update_one(all, change).await.unwrap();
}

/// An endpoint that comes now is told of: what has to be told of the others was told before it.
async fn wait_for_another(fixture: &Fixture, organization: ObjectId) -> Vec<Received> {
    let newcomer = with_tls(fixture, "newcomer", identity(1));
    push(fixture, organization, &newcomer).await;
    let newcomer = id(&newcomer);
    fixture.wait_for(|requests| has(requests, &newcomer, ENDS)).await
}

fn told(requests: &[Received], endpoint: &Document) -> usize {
    let kinds = kinds(requests, &id(endpoint));
    assert!(kinds.keys().all(|kind| kind == ENDS), "{kinds:?}");
    kinds.get(ENDS).copied().unwrap_or(0)
}

fn notice(requests: &[Received], endpoint: &Document) -> Value {
    let all = notices(requests);
    let notice = all
        .into_values()
        .find(|notice| notice["data"]["endpoint"] == id(endpoint));
    notice.unwrap()
}

#[tokio::test]
async fn what_mongodb_does_not_write_of_one_endpoint_keeps_no_other_from_being_told_of() {
    for way in ["its note", "its notice"] {
        let fixture = fixture("").await;
        let endpoints = ["a", "b", "c"].map(|name| with_tls(&fixture, name, identity(3)));
        let organization = fixture.organization(Vec::new()).await;
        let daemon = &daemons(&fixture, 1, SOON_AGAIN).await[0];
        let odd = endpoint_key(organization, &endpoints[1]);
        let (collection, refused) = match way {
            "its note" => ("webhook_state", doc! { "_id": format!("certificates/{odd}") }),
            _ => (
                "webhook_outbox",
                doc! { "deliveries.event": { "$regex": format!("certificate.*{}", id(&endpoints[1])) } },
            ),
        };
        let modify = doc! { "collMod": collection, "validator": { "$nor": [refused] } };
        fixture.database.run_command(modify).await.unwrap();
        for endpoint in &endpoints {
            push(&fixture, organization, endpoint).await;
        }
        daemon
            .wait_for(|line| {
                let message = line["message"].as_str().unwrap_or_default();
                line["level"] == "ERROR"
                    && line["endpoint"] == odd
                    && message.contains("that an endpoint's certificates end")
            })
            .await;
        let requests = wait_for_another(&fixture, organization).await;
        let told = endpoints.each_ref().map(|endpoint| told(&requests, endpoint));
        assert_eq!(told, [1, 0, 1], "{way}");
    }
}

#[tokio::test]
async fn a_certificate_that_ends_is_told_of_once_by_two_instances_restarts_reloads_and_reads() {
    let fixture = fixture("").await;
    let mut soon = identity(10);
    soon.insert("ca", ending_in(30).0);
    let far_key = identity(20);
    let mut both = identity(3);
    both.insert("ca", [ending_in(-3).0, ending_in(5).0, ending_in(99).0].concat());
    let mut off = with_tls(&fixture, "off", identity(3));
    off.insert("enabled", false);
    let endpoints = [
        with_tls(&fixture, "soon", soon.clone()),
        with_tls(&fixture, "both", both),
        with_tls(&fixture, "far", far_key),
        off,
    ];
    let organization = fixture.organization(endpoints.to_vec()).await;
    let mut running = daemons(&fixture, 2, SOON_AGAIN).await;
    fixture
        .wait_for(|requests| told(requests, &endpoints[0]) + told(requests, &endpoints[1]) == 2)
        .await;
    let requests = wait_for_another(&fixture, organization).await;
    assert_eq!(
        endpoints.each_ref().map(|endpoint| told(&requests, endpoint)),
        [1, 1, 0, 0]
    );
    let data = notice(&requests, &endpoints[0])["data"].clone();
    assert_eq!(data["organization"], organization.to_hex());
    assert_eq!(data["name"], "/soon");
    assert_eq!(data["certificates"][0]["field"], "clientCert");
    assert_eq!(data["certificates"][0]["subject"], "CN=certhookd.test");
    assert!(
        data["certificates"][0]["endsAt"]
            .as_str()
            .unwrap()
            .ends_with("T00:00:00Z")
    );
    assert!(data["next"].as_str().unwrap().contains("clientKey"), "{data}");
    let data = &notice(&requests, &endpoints[1])["data"];
    let fields: Vec<_> = data["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["field"])
        .collect();
    assert_eq!(fields, ["ca", "clientCert", "ca"], "those that end first first");

    // Stopped, killed, started, reloaded, read again.
    assert!(running.remove(0).stop().await.success());
    running[0].signal(Signal::SIGKILL);
    running[0].ended().await;
    let mut running = daemons(&fixture, 2, SOON_AGAIN).await;
    running.iter().for_each(|daemon| daemon.signal(Signal::SIGHUP));
    set(
        &fixture,
        organization,
        doc! { "$set": { "webHookConfig.endpoints.0.name": "renamed" } },
    )
    .await;
    set(
        &fixture,
        organization,
        doc! { "$unset": { "webHookConfig.endpoints.1.tls": 1 } },
    )
    .await;
    wait_for_another(&fixture, organization).await;
    set(
        &fixture,
        organization,
        doc! { "$set": { "webHookConfig.endpoints.1": &endpoints[1] } },
    )
    .await;
    let requests = wait_for_another(&fixture, organization).await;
    assert_eq!(
        endpoints.each_ref().map(|endpoint| told(&requests, endpoint)),
        [1, 1, 0, 0]
    );

    // Another one that ends, too, is told of; of two endpoints with the same one each is.
    soon.extend(identity(4));
    set(
        &fixture,
        organization,
        doc! { "$set": { "webHookConfig.endpoints.0.tls": &soon } },
    )
    .await;
    let shared = with_tls(&fixture, "shared", soon);
    push(&fixture, organization, &shared).await;
    fixture
        .wait_for(|requests| told(requests, &endpoints[0]) == 2 && told(requests, &shared) == 1)
        .await;
    for (_, body) in notices(&fixture.receiver.requests()) {
        assert!(!body.to_string().contains("BEGIN"), "{body}");
    }
    for daemon in &mut running {
        assert!(daemon.stop().await.success());
        assert_eq!(daemon.count(|line| line["level"] == "ERROR"), 0);
    }
}

#[tokio::test]
async fn killed_at_each_step_a_certificate_is_told_of_once() {
    let failpoints = ["certificates-to-be-committed=return", "certificates-committed=return"];
    let rounds = failpoints.map(|failpoint| async move {
        let fixture = fixture("").await;
        let endpoint = with_tls(&fixture, "a", identity(3));
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        Daemon::spawn(command(&fixture, failpoint)).ended().await;
        let _daemons = daemons(&fixture, 2, "").await;
        fixture.wait_for(|requests| told(requests, &endpoint) > 0).await;
        let requests = wait_for_another(&fixture, organization).await;
        assert_eq!(told(&requests, &endpoint), 1, "{failpoint}");
    });
    futures_util::future::join_all(rounds).await;
}

#[tokio::test]
async fn of_one_endpoint_it_is_told_once_an_hour_and_the_rest_later() {
    let fixture = fixture("").await;
    let bundle: String = (1..=25).map(|days| ending_in(-days).0).collect();
    let endpoint = with_tls(&fixture, "bundle", doc! { "ca": bundle });
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let mut first = daemons(&fixture, 1, "").await;
    fixture.wait_for(|requests| told(requests, &endpoint) == 1).await;
    let requests = wait_for_another(&fixture, organization).await;
    assert_eq!(told(&requests, &endpoint), 1, "not within the hour");
    assert!(first[0].stop().await.success());
    let _second = daemons(&fixture, 1, SOON_AGAIN).await;
    let requests = fixture.wait_for(|requests| told(requests, &endpoint) == 2).await;
    let named = notices(&requests).into_values();
    let named = named.filter(|notice| notice["data"]["endpoint"] == id(&endpoint));
    let mut named: Vec<_> = named
        .map(|notice| notice["data"]["certificates"].as_array().unwrap().len())
        .collect();
    named.sort_unstable();
    assert_eq!(named, [5, 20]);
}

/// While the platform is slow, a thousand notices about certificates wait; what else it is told overtakes them.
#[tokio::test]
async fn an_organization_with_a_thousand_delays_no_other_notice_and_no_delivery() {
    const MANY: usize = 1_000;
    let fixture = fixture("notices.failing_after = \"15m\"").await;
    let slow = Response::ok().after(Duration::from_millis(200));
    fixture.receiver.script("/platform", [slow]);
    let authority = ending_in(3).0;
    let many = (0..MANY).map(|_| with_tls(&fixture, "many", doc! { "ca": &authority }));
    let many = fixture.organization(many.collect()).await;
    let (well, gone) = (fixture.endpoint("/well"), fixture.endpoint("/gone"));
    let other = fixture.organization(vec![well, gone.clone()]).await;
    always(&fixture, "/gone", 410);
    let daemon = daemons(&fixture, 1, "").await.remove(0);
    let is_notice = doc! { "type": ENDS };
    fixture.wait_for_deliveries(is_notice, MANY as u64).await;
    expire(&fixture, other, 20).await;
    daemon.signal(Signal::SIGUSR1);
    fixture
        .wait_for(|requests| super::accepted(requests, "/well") == 20)
        .await;
    let suspended = |requests: &[Received]| has(requests, &id(&gone), "endpoint.suspended");
    let requests = fixture.wait_for(suspended).await;
    let before = notices(&requests).len();
    assert!(before < MANY / 2, "{before}");
    always(&fixture, "/platform", 200);
    let of_many = |requests: &[Received]| {
        let all = notices(requests).into_values();
        all.filter(|notice| notice["data"]["organization"] == many.to_hex())
            .count()
    };
    fixture.wait_for(|requests| of_many(requests) >= MANY).await;
    assert_eq!(of_many(&fixture.receiver.requests()), MANY);
}

/// Somebody else has been at the documents.
#[tokio::test]
async fn what_is_damaged_in_webhook_state_keeps_nothing_from_being_told() {
    let fixture = fixture("").await;
    let damages = [
        doc! { "certificates": "none", "at": "yesterday" },
        doc! { "certificates": [1, "x", null] },
        doc! { "at": bson::DateTime::MAX },
        doc! {},
    ];
    let endpoints: Vec<_> = damages.iter().map(|_| with_tls(&fixture, "a", identity(3))).collect();
    let organization = fixture.organization(endpoints.clone()).await;
    for (endpoint, mut damage) in endpoints.iter().zip(damages) {
        damage.insert("_id", format!("certificates/{}", endpoint_key(organization, endpoint)));
        fixture.state().insert_one(damage).await.unwrap();
    }
    let daemon = daemons(&fixture, 1, "").await.remove(0);
    let all = |requests: &[Received]| endpoints.iter().all(|endpoint| told(requests, endpoint) == 1);
    fixture.wait_for(all).await;
    assert_eq!(daemon.count(|line| line["level"] == "ERROR"), 0);
}

#[tokio::test]
async fn where_nobody_is_told_nothing_is_written_down_and_it_is_told_later() {
    let settings = "completions.enabled = false";
    let quiet = Fixture::new().await.with(settings);
    let endpoint = with_tls(&quiet, "a", identity(3));
    let organization = quiet.organization(vec![endpoint.clone()]).await;
    let daemon = daemons(&quiet, 1, "").await.remove(0);
    let warned = |line: &Value| line["level"] == "WARN" && line["endpoint"] == id(&endpoint);
    daemon.wait_for(warned).await;
    let newcomer = with_tls(&quiet, "newcomer", identity(1));
    push(&quiet, organization, &newcomer).await;
    daemon
        .wait_for(|line| line["level"] == "WARN" && line["endpoint"] == id(&newcomer))
        .await;
    let of_certificates = doc! { "_id": { "$regex": "^certificates/" } };
    assert_eq!(quiet.state().count_documents(of_certificates.clone()).await.unwrap(), 0);
    assert_eq!(quiet.outbox().count_documents(doc! {}).await.unwrap(), 0);

    let url = quiet.receiver.url("/platform");
    quiet.configure(&format!(
        "{settings}\nnotices.url = \"{url}\"\nnotices.secret = \"{}\"",
        super::SECRET
    ));
    daemon.signal(Signal::SIGHUP);
    quiet
        .wait_for(|requests| told(requests, &endpoint) + told(requests, &newcomer) == 2)
        .await;
    quiet.wait_for_count(&quiet.state(), of_certificates.clone(), 2).await;
    // What is said of an endpoint goes with it.
    set(&quiet, organization, doc! { "$pop": { "webHookConfig.endpoints": 1 } }).await;
    quiet.wait_for_count(&quiet.state(), of_certificates, 1).await;
}
