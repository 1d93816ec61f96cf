//! The search by id: what `certhookd show` says, as a page.

use bson::{Document, doc};
use certhookd::model::Clock;
use serde_json::Value;

use super::html::{Piece, harmless, links, parse, text};
use super::operations::hold;
use crate::fixture::{Fixture, expired};
use crate::layout::{self, ENDPOINT, batch, dead, delivered, expiry, retry};
use crate::web::{LISTEN, address, get, request};

const QUIET: &str = "scan.on_start = false";

fn encoded(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Its texts, with one blank for each white space.
async fn shown(address: std::net::SocketAddr, id: &str) -> String {
    let page = get(address, &format!("/show?id={}", encoded(id))).await;
    assert_eq!(page.status, 200, "{id}: {}", page.body);
    let pieces = parse(&page.body);
    harmless(&pieces);
    text(&pieces)
}

#[tokio::test]
async fn it_says_what_the_command_says() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint]).await;
    layout::indexes(&fixture).await;
    fixture.state().insert_one(hold("hold/all")).await.unwrap();
    let mut letter = dead(ENDPOINT, &expiry(1));
    letter.insert(
        "replays",
        [doc! { "at": Clock::local(), "state": "dead", "attempts": 100, "reason": "100 attempts failed" }],
    );
    let mut odd = dead(ENDPOINT, &expiry(2));
    odd.insert("attempts", "many");
    let certificate = expired(organization);
    let documents = [
        letter,
        odd,
        retry(ENDPOINT, &expiry(3), 2),
        delivered(batch(ENDPOINT, &[expiry(4)])),
    ];
    layout::outbox(&fixture).insert_many(documents).await.unwrap();
    fixture.badge_users().insert_one(&certificate).await.unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let certificate = certificate.get_object_id("_id").unwrap().to_hex();
    let asked = [
        expiry(1),
        expiry(2),
        format!("{}/{ENDPOINT}", expiry(3)),
        format!("{ENDPOINT}/{}", expiry(4)),
        certificate,
    ];
    for id in &asked {
        let page = shown(address, id).await;
        let told = fixture.outcome(&["show", "--json", id]).await;
        let told: Value = serde_json::from_str(&told.stdout).unwrap();
        let list = |value: &Value| value.as_array().unwrap().clone();
        for note in list(&told["notes"]) {
            // When the next scan is depends on when it is asked.
            let note = note["text"].as_str().unwrap().split(", at ").next().unwrap().to_owned();
            assert!(page.contains(&note), "{note} in {page}");
        }
        for odd in list(&told["odd"]) {
            assert!(page.contains(odd["why"].as_str().unwrap()), "{odd} in {page}");
        }
        for delivery in list(&told["events"])
            .iter()
            .flat_map(|event| list(&event["deliveries"]))
        {
            for field in [&delivery["event"], &delivery["state"], &delivery["next"]["text"]] {
                assert!(page.contains(field.as_str().unwrap()), "{field} in {page}");
            }
            for attempt in list(&delivery["history"]) {
                let what = attempt["error"].as_str().map_or("status 200", |error| error);
                assert!(
                    page.contains(what) && page.contains(attempt["at"].as_str().unwrap()),
                    "{attempt} in {page}"
                );
            }
            assert_eq!(
                page.matches("replayed; it was dead after 100 attempts").count(),
                list(&delivery["replays"]).len()
            );
        }
    }
    let page = parse(&get(address, &format!("/show?id={}", expiry(1))).await.body);
    assert!(
        links(&page).contains(&format!("endpoint/{ENDPOINT}")),
        "it leads to the endpoint"
    );
    assert!(
        shown(address, &format!(" {}\t", expiry(1)))
            .await
            .contains("a dead letter")
            .eq(&false)
    );
}

#[tokio::test]
async fn each_page_has_the_search_and_it_leads_here() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    for (path, action) in [("/", "show"), ("/show", "show"), ("/endpoint/a/b", "../../show")] {
        let pieces = parse(&get(address, path).await.body);
        let form = pieces.iter().find_map(|piece| match piece {
            Piece::Open(name, attributes) if name == "form" => Some(attributes.clone()),
            _ => None,
        });
        let expected = [("action", action), ("method", "get")];
        assert_eq!(
            form.unwrap(),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())),
            "{path}"
        );
    }
    let page = get(address, "/show?id=").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Type the id of a certificate"));
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(request(address, method, "/show?id=a").await.status, 405, "{method}");
    }
}

#[tokio::test]
async fn why_there_is_nothing_is_said_and_hostile_ids_stay_text() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let mut hostile = dead("o/<img src=x>", &expiry(1));
    let attempt = doc! { "at": Clock::local(), "n": 1, "error": "status 500", "status": 500, "response": "</code><script>\u{1b}[2J\u{202e}" };
    hostile.extend(doc! { "history": [attempt], "reason": "<b>\u{2028}", "lastError": "\"'><x>" });
    layout::indexes(&fixture).await;
    layout::outbox(&fixture).insert_one(hostile).await.unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let page = shown(address, &expiry(1)).await;
    assert!(
        page.contains(r"</code><script>\u{1b}[2J\u{202e}"),
        "as show says it: {page}"
    );
    for id in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "{{ 7 * 7 }}{% raw %}",
        "\u{202e}gpj.exe\u{2028}",
        "a b&id=c+d",
        "\u{1b}[2J\u{0}",
        "certificate_expired_x/o/<b>",
        "$where",
        "../../etc/passwd",
        "é 漢 🎉",
    ] {
        let page = get(address, &format!("/show?id={}", encoded(id))).await;
        assert_eq!(page.status, 200, "{id:?}");
        let pieces = parse(&page.body);
        harmless(&pieces);
        assert!(text(&pieces).contains("there is no"), "{id:?}: {}", page.body);
        for turning in ['\u{202e}', '\u{2028}', '\u{1b}', '\u{0}'] {
            assert!(!page.body.contains(turning), "{turning:?} in {id:?}");
        }
    }
    assert_eq!(
        get(address, &format!("/show?id={}", "x".repeat(2000))).await.status,
        400
    );
    assert_eq!(get(address, "/show?id=%FF%FE").await.status, 200, "what is no UTF-8");
}

/// An event may have gone to thousands.
#[tokio::test]
async fn of_many_deliveries_the_first_are_shown() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    layout::indexes(&fixture).await;
    let to = |n: usize| -> Document { dead(&format!("o/e{n:04}"), &expiry(1)) };
    layout::outbox(&fixture).insert_many((0..120).map(to)).await.unwrap();
    let daemon = fixture.daemon().await;
    let page = shown(address(&daemon).await, &expiry(1)).await;
    assert!(page.contains("The first 50 of 120 deliveries;"), "{page}");
    assert_eq!(page.matches("Next:").count(), 50);
}
