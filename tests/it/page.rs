//! The status page: true, harmless whatever endpoints are called, and there when MongoDB is not.

mod html;

use bson::{Document, doc};
use certhookd::sandbox::Answer;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use crate::bed::{Bed, expired, is_scan};
use crate::web::{LISTEN, Page, address, get, request_as};
use html::{Piece, parse, table};

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

/// The elements that the page has of its own.
const ELEMENTS: [&str; 35] = [
    "html",
    "head",
    "meta",
    "title",
    "link",
    "body",
    "header",
    "main",
    "section",
    "h1",
    "h2",
    "p",
    "small",
    "ul",
    "li",
    "b",
    "span",
    "figure",
    "figcaption",
    "svg",
    "g",
    "path",
    "rect",
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "bdi",
    "code",
    "dl",
    "dt",
    "dd",
];

async fn page(bed: &Bed) -> Page {
    let daemon = bed.daemon().await;
    daemon.wait_for(is_scan).await;
    bed.wait_for_count(
        &bed.deliveries(),
        doc! { "attempts": { "$gte": 1 }, "state": { "$ne": "claimed" } },
        4,
    )
    .await;
    bed.wait_until_counted().await;
    get(address(&daemon).await, "/").await
}

fn named(mut endpoint: Document, name: &str) -> Document {
    endpoint.insert("name", name);
    endpoint
}

#[tokio::test]
async fn it_tells_of_endpoints_dead_letters_retries_daemons_and_the_last_hour() {
    let bed = Bed::new().await.with(&format!(
        "{LISTEN}\ndelivery.retry_window = \"60m\"\ndelivery.max_attempts = 4"
    ));
    bed.receiver.script("/gone", [Answer::status(StatusCode::GONE)]);
    let later = Answer::status(StatusCode::SERVICE_UNAVAILABLE).header(RETRY_AFTER, HeaderValue::from_static("1200"));
    bed.receiver.script("/down", [later]);
    let mut refused = bed.endpoint("/odd");
    refused.insert("url", "ftp://files.test/");
    let endpoints = ["/fine", "/gone", "/down"].map(|path| bed.endpoint(path));
    let owner = bed.organization(endpoints.into_iter().chain([refused]).collect()).await;
    let two = bed.organization(vec![bed.endpoint("/other")]).await;
    bed.badge_users()
        .insert_many([expired(owner), expired(two)])
        .await
        .unwrap();
    let page = page(&bed).await;
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
    assert_eq!(row("/fine"), ["enabled", "1", "0", "100 %", "0", "0", "0"]);
    assert_eq!(row("/gone"), ["enabled", "0", "1", "0 %", "0", "1", "0"]);
    assert_eq!(row("/down"), ["enabled", "0", "1", "0 %", "1", "0", "0"]);
    assert_eq!(endpoints.iter().filter(|row| row[2] == "out of service").count(), 1);
    assert_eq!(endpoints.len(), 5);

    let dead = table(&pieces, "Dead letters");
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0][0].as_str(), dead[0][2].as_str()), ("/gone", "1"));
    assert_eq!(
        dead[0][4..],
        ["expired", "1", "the receiver answered 410 Gone", "status 410"]
    );
    let next = table(&pieces, "Next attempts");
    assert_eq!(
        (next.len(), next[0][0].as_str(), next[0][6].as_str()),
        (1, "/down", "status 503")
    );
    assert!(next[0][3].starts_with("in 1"), "{next:?}");
    let daemons = table(&pieces, "Daemons and sources");
    assert_eq!(
        (daemons.len(), daemons[0][4].as_str(), daemons[0][7].as_str()),
        (1, "alive", "scan, watch")
    );
    assert!(
        page.body.contains("2 delivered, 2 failed attempts</title>"),
        "the picture: {}",
        page.body
    );
    assert!(!page.body.contains("127.0.0.1"), "no URL");
}

#[tokio::test]
async fn hostile_names_stay_text_and_the_page_loads_nothing_else() {
    let bed = Bed::new().await.with(LISTEN);
    bed.receiver.script("/gone", [Answer::status(StatusCode::GONE)]);
    let endpoints = HOSTILE.map(|name| named(bed.endpoint("/gone"), name));
    let owner = bed.organization(endpoints.to_vec()).await;
    bed.badge_users().insert_one(expired(owner)).await.unwrap();
    let daemon = bed.daemon().await;
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "dead" }, HOSTILE.len() as u64)
        .await;
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
    for piece in &pieces {
        let Piece::Open(name, attributes) = piece else { continue };
        assert!(ELEMENTS.contains(&name.as_str()), "{piece:?}");
        for (attribute, value) in attributes {
            assert!(
                !attribute.starts_with("on") && attribute != "style" && attribute != "src",
                "{piece:?}"
            );
            assert!(attribute != "href" || value == "style.css", "{piece:?}");
        }
    }
    let policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
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
async fn it_is_not_served_under_a_foreign_name() {
    let bed = Bed::new().await.with(LISTEN);
    let daemon = bed.daemon().await;
    let address = address(&daemon).await;
    for path in ["/", "/metrics"] {
        let page = request_as(address, "rebound.example", "GET", path).await;
        assert_eq!((page.status, page.body.lines().count()), (421, 1), "{}", page.body);
        assert_eq!(request_as(address, "localhost", "GET", path).await.status, 200);
    }
}

#[tokio::test]
async fn without_mongodb_it_says_so() {
    let bed = Bed::new()
        .await
        .with(&format!("{LISTEN}\nmongodb.uri = \"mongodb://127.0.0.1:1/\""));
    let daemon = bed.launch();
    let page = get(address(&daemon).await, "/").await;
    assert_eq!(page.status, 200);
    let pieces = parse(&page.body);
    assert!(
        pieces.contains(&Piece::Text("starting: waiting for MongoDB".into())),
        "{}",
        page.body
    );
}
