//! The status page: true, harmless whatever endpoints are called, and there when MongoDB is not.

mod bounds;
mod endpoint;
mod html;
mod operations;
mod rows;
mod show;

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Response;
use http::StatusCode;

use crate::fixture::{Fixture, LIMIT, expired};
use crate::layout::{self, expiry};
use crate::web::{LISTEN, address, get, request_as};
use html::{Piece, harmless, parse, table};

/// What organizations may call their endpoints.
const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</td></tr></table><h1>All is well</h1>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp; <!-- ]]>",
    "invoice \u{202e}gpj.exe\u{2028}next",
    "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{200f}(1)",
];

fn named(mut endpoint: Document, name: &str) -> Document {
    endpoint.insert("name", name);
    endpoint
}

/// The key of an endpoint.
fn key(organization: ObjectId, endpoint: &Document) -> String {
    format!("{organization}/{}", endpoint.get_object_id("_id").unwrap())
}

/// A dead letter that no daemon sends again.
fn ended(endpoint: &str) -> Document {
    let mut dead = layout::dead(endpoint, &expiry(1));
    dead.extend(doc! {
        "redrivable": false, "attempts": 1, "reason": "the receiver responded with 410 Gone", "lastError": "status 410",
    });
    dead
}

#[tokio::test]
async fn it_tells_of_endpoints_dead_letters_retries_and_instances() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let mut odd = fixture.endpoint("/odd");
    odd.insert("url", "ftp://files.test/");
    let [fine, gone, down] = ["/fine", "/gone", "/down"].map(|path| fixture.endpoint(path));
    let endpoints = [fine.clone(), gone.clone(), down.clone(), odd];
    let organization = fixture.organization(endpoints.to_vec()).await;
    fixture.organization(vec![fixture.endpoint("/other")]).await;
    let [fine, gone, down] = [fine, gone, down].map(|endpoint| key(organization, &endpoint));
    layout::indexes(&fixture).await;
    let documents = [ended(&gone), layout::retry(&down, &expiry(1), 1)];
    layout::outbox(&fixture).insert_many(documents).await.unwrap();
    let figures = [
        layout::figures(&fine, 1, 0),
        layout::figures(&gone, 0, 1),
        layout::figures(&down, 0, 1),
    ];
    fixture.statistics().insert_many(figures).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture
        .state()
        .insert_many([layout::instance("lately", 3600)])
        .await
        .unwrap();
    let page = get(address(&daemon).await, "/").await;
    assert_eq!(
        (page.status, page.headers["content-type"].as_str()),
        (200, "text/html; charset=utf-8")
    );
    let pieces = parse(&page.body);

    let endpoints = table(&pieces, "Endpoints");
    let row = |name: &str| {
        endpoints
            .iter()
            .find(|row| row[0] == name)
            .unwrap_or_else(|| panic!("{name}: {endpoints:#?}"))[2..9]
            .to_vec()
    };
    assert_eq!(row("/fine"), ["served", "1", "0", "100 %", "0", "0", "0"]);
    assert_eq!(row("/gone"), ["failing", "0", "1", "0 %", "0", "1", "0"]);
    assert_eq!(row("/down"), ["failing", "0", "1", "0 %", "1", "0", "0"]);
    assert_eq!(endpoints.iter().filter(|row| row[2] == "out of service").count(), 1);
    assert_eq!(endpoints.len(), 5);

    let dead = table(&pieces, "Dead letters");
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0][0].as_str(), dead[0][2].as_str()), ("/gone", "1"));
    assert_eq!(
        dead[0][4..],
        ["expired", "1", "the receiver responded with 410 Gone", "status 410"]
    );
    let next = table(&pieces, "Next attempts");
    assert_eq!(
        (next.len(), next[0][0].as_str(), next[0][6].as_str()),
        (1, "/down", "status 503")
    );
    assert!(next[0][3].starts_with("in 5"), "{next:?}");
    let instances = table(&pieces, "Instances and sources");
    let dead = instances.iter().find(|row| row[0] == "lately").unwrap();
    assert_eq!(
        (dead[4].as_str(), dead[6].as_str(), dead[7].as_str()),
        ("dead", "60 min ago", "")
    );
    assert!(!page.body.contains("127.0.0.1"), "no URL");
}

/// Of thousands of endpoints, those with trouble are shown.
#[tokio::test]
async fn two_hundred_rows_of_a_kind_are_shown_and_the_others_counted() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let endpoints: Vec<_> = (0..300).map(|_| fixture.endpoint("/a")).collect();
    let organization = fixture.organization(endpoints.clone()).await;
    let keys: Vec<_> = endpoints.iter().map(|endpoint| key(organization, endpoint)).collect();
    layout::indexes(&fixture).await;
    let waiting = keys.iter().take(250).map(|key| layout::retry(key, &expiry(1), 1));
    layout::outbox(&fixture)
        .insert_many(waiting.chain([ended(&keys[299])]))
        .await
        .unwrap();
    let daemon = fixture.daemon().await;
    let page = get(address(&daemon).await, "/").await;
    let pieces = parse(&page.body);
    let endpoints = table(&pieces, "Endpoints");
    assert_eq!((endpoints.len(), endpoints[0][7].as_str()), (200, "1"), "trouble first");
    assert_eq!(table(&pieces, "Next attempts").len(), 200);
    for text in ["The first 200 of 300.", "The first 200 of 250 endpoints."] {
        assert!(page.body.contains(text), "{text} in {}", page.body);
    }
}

#[tokio::test]
async fn the_last_hour_of_this_instance_is_a_picture() {
    let fixture = Fixture::new().await.with(LISTEN);
    fixture.receiver.script("/gone", [Response::status(StatusCode::GONE)]);
    let organization = fixture
        .organization(vec![fixture.endpoint("/fine"), fixture.endpoint("/gone")])
        .await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    daemon.wait_for(|line| line["message"] == "delivered").await;
    daemon
        .wait_for(|line| line["level"] == "ERROR" && line["reason"] == "status 410")
        .await;
    let address = address(&daemon).await;
    let tiles = [
        "<b>1</b> <span>delivered</span>",
        "<b class=\"bad\">1</b> <span>failed attempts</span>",
    ];
    let shown = async {
        // Counts are looked at once a second.
        loop {
            let page = get(address, "/").await.body;
            if tiles.iter().all(|tile| page.contains(tile)) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let page = tokio::time::timeout(LIMIT, shown).await.unwrap();
    assert!(
        page.contains("1 delivered, ") && page.contains("1 failed attempts</title>"),
        "the picture: {page}"
    );
}

#[tokio::test]
async fn hostile_names_stay_text_and_the_page_loads_nothing_else() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let endpoints = HOSTILE.map(|name| named(fixture.endpoint("/gone"), name));
    let organization = fixture.organization(endpoints.to_vec()).await;
    layout::indexes(&fixture).await;
    let letters = endpoints.iter().map(|endpoint| ended(&key(organization, endpoint)));
    layout::outbox(&fixture).insert_many(letters).await.unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let page = get(address, "/").await;
    let pieces = parse(&page.body);

    let mut shown: Vec<_> = table(&pieces, "Dead letters")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    let turned = |name: &str| name.replace(['\u{202e}', '\u{2028}'], " ");
    let mut expected = HOSTILE.map(turned).to_vec();
    shown.sort();
    expected.sort();
    assert_eq!(shown, expected);
    harmless(&pieces);
    let policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let headers = [
        "content-security-policy",
        "x-content-type-options",
        "cache-control",
        "referrer-policy",
    ];
    let headers = headers.map(|header| page.headers[header].as_str());
    assert_eq!(headers, [policy, "nosniff", "no-store", "no-referrer"]);
    let style = get(address, "/style.css").await;
    assert_eq!(
        (style.status, style.headers["content-type"].as_str()),
        (200, "text/css; charset=utf-8")
    );
    assert!(!style.body.contains("url(") && !style.body.contains("@import"));
}

/// A page of any site may have the browser ask it under a name of that site.
#[tokio::test]
async fn page_and_metrics_are_served_without_one_another() {
    for (setting, page, metrics) in [
        ("", 200, 200),
        ("service.page = false", 404, 200),
        ("service.metrics = false", 200, 404),
    ] {
        let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{setting}"));
        let daemon = fixture.daemon().await;
        let address = address(&daemon).await;
        assert_eq!(get(address, "/").await.status, page, "{setting}");
        assert_eq!(get(address, "/metrics").await.status, metrics, "{setting}");
        assert_eq!(get(address, "/healthz").await.status, 200, "{setting}");
    }
}

#[tokio::test]
async fn it_is_not_served_under_a_foreign_name_but_under_those_that_are_allowed() {
    let allowed = "service.allowed_hosts = [\"status.example.org\", \"Bücher.example\"]";
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{allowed}"));
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    for path in ["/", "/metrics", "/show?id=a", "/endpoint/a/b"] {
        for foreign in ["rebound.example", "status.example.org.rebound.example", "example.org"] {
            let page = request_as(address, foreign, "GET", path).await;
            assert_eq!((page.status, page.body.lines().count()), (421, 1), "{}", page.body);
        }
        // A proxy passes on under which name and port it was asked.
        for allowed in [
            "localhost",
            "status.example.org",
            "Status.Example.org:8443",
            "xn--bcher-kva.example",
        ] {
            let expected = if path == "/endpoint/a/b" { 404 } else { 200 };
            assert_eq!(
                request_as(address, allowed, "GET", path).await.status,
                expected,
                "{allowed}"
            );
        }
    }
}

#[tokio::test]
async fn without_mongodb_it_says_so() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{LISTEN}\nmongodb.uri = \"mongodb://127.0.0.1:1/\""));
    let daemon = fixture.launch();
    let page = get(address(&daemon).await, "/").await;
    assert_eq!(page.status, 200);
    let pieces = parse(&page.body);
    assert!(
        pieces.contains(&Piece::Text("starting: waiting for MongoDB".into())),
        "{}",
        page.body
    );
}
