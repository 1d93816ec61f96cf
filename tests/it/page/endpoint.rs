//! The page of an endpoint.

use std::time::Duration;

use bson::{Bson, Document, doc};
use certhookd::model::Clock;

use super::html::{harmless, links, parse, table, text};
use super::operations::hold;
use super::{HOSTILE, key, named};
use crate::fixture::{Fixture, LIMIT};
use crate::layout::{self, after, award, batch, before, dead, delivered, expiry, retry};
use crate::web::{LISTEN, address, get};

const QUIET: &str = "scan.on_start = false";

/// What a receiver may respond.
const RESPONSES: [&str; 5] = [
    "<script>alert(1)</script>",
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "</code></td></table><form action=\"https://evil.example\">",
    "invoice \u{202e}gpj.exe\u{2028}\u{200f}",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;",
];

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// With one attempt that failed that many minutes ago, and what the receiver responded.
fn failed(mut document: Document, ago: u64, response: &str) -> Document {
    let at = before(Clock::local(), minutes(ago));
    let attempt = doc! {
        "at": at, "instance": "5b0c1f6e9a42", "n": 7, "status": 503, "error": "status 503", "ms": 12, "connectMs": 3, "response": response,
    };
    document.extend(doc! { "history": [attempt], "attempts": 7 });
    document
}

/// The endpoint's pages, each until there is no more.
async fn walk(address: std::net::SocketAddr, path: &str, kind: &str, heading: &str) -> Vec<Vec<Vec<String>>> {
    let (mut pages, mut query) = (Vec::new(), String::new());
    loop {
        let page = get(address, &format!("{path}{query}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let pieces = parse(&page.body);
        harmless(&pieces);
        let (_, part) = page.body.split_once(&format!("<h2>{heading}</h2>")).unwrap();
        let has_rows = part.trim_start().starts_with("<div");
        pages.push(if has_rows { table(&pieces, heading) } else { Vec::new() });
        match links(&pieces)
            .into_iter()
            .find(|link| link.starts_with(&format!("?{kind}=")))
        {
            Some(more) => query = more,
            None => return pages,
        }
    }
}

#[tokio::test]
async fn each_state_is_said_with_its_reason() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let [fine, failing, mut off, mut odd, held] =
        ["/fine", "/failing", "/off", "/odd", "/held"].map(|path| fixture.endpoint(path));
    off.insert("enabled", false);
    odd.insert("url", "ftp://files.test/");
    let endpoints = [fine, failing, off, odd, held];
    let organization = fixture.organization(endpoints.to_vec()).await;
    let keys = endpoints.each_ref().map(|endpoint| key(organization, endpoint));
    let deleted = format!("{organization}/674700000000000000000099");
    layout::indexes(&fixture).await;
    let mut until = hold(&format!("hold/endpoint/{}", keys[4]));
    until.insert("until", after(Clock::local(), minutes(60)));
    fixture.state().insert_one(until).await.unwrap();
    let figures = [layout::figures(&keys[0], 5, 0), layout::figures(&keys[1], 0, 2)];
    fixture.statistics().insert_many(figures).await.unwrap();
    layout::outbox(&fixture)
        .insert_one(dead(&deleted, &expiry(1)))
        .await
        .unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let table = [
        (&keys[0], "served", ""),
        (&keys[1], "failing: ", "status 503"),
        (&keys[2], "off: ", "the endpoint was disabled"),
        (&keys[3], "out of service: ", "not https"),
        (&keys[4], "held: ", "by ops until 2"),
        (&deleted, "deleted: ", "its endpoint was deleted"),
    ];
    for (key, state, why) in table {
        let page = get(address, &format!("/endpoint/{key}")).await;
        assert_eq!(page.status, 200, "{key}");
        let (_, said) = page
            .body
            .split_once(&format!("\">{state}"))
            .unwrap_or_else(|| panic!("{state}: {}", page.body));
        let said = said.split("</p>").next().unwrap();
        assert!(said.contains(why), "{state}: {said}");
        assert!(
            !page.body.contains("127.0.0.1") && !page.body.contains("files.test"),
            "no URL"
        );
    }
}

#[tokio::test]
async fn failures_with_their_responses_what_is_under_way_dead_letters_and_a_week() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = key(organization, &endpoint);
    layout::indexes(&fixture).await;
    fixture.state().insert_one(hold("hold/all")).await.unwrap();
    let recovered = delivered(failed(retry(&key, &expiry(3), 1), 3, "recovered"));
    let documents = [
        failed(retry(&key, &expiry(1), 1), 1, "still down"),
        failed(dead(&key, &award(2)), 2, "no such route"),
        recovered,
        delivered(batch(&key, &[expiry(4)])),
        failed(dead("other/endpoint", &expiry(5)), 1, "of another"),
    ];
    layout::outbox(&fixture).insert_many(documents).await.unwrap();
    let mut figures = layout::figures(&key, 1234, 2);
    figures.insert("cancelled", 3_i64);
    fixture.statistics().insert_one(figures).await.unwrap();
    let daemon = fixture.daemon().await;
    let page = get(address(&daemon).await, &format!("/endpoint/{key}")).await;
    let pieces = parse(&page.body);
    harmless(&pieces);

    let failures = table(&pieces, "Last failures");
    let told: Vec<_> = failures
        .iter()
        .map(|row| [&*row[1], &*row[2], &*row[3], &*row[4], &*row[6]])
        .collect();
    let expected = [
        ["expired", "7", "status 503", "still down", "pending"],
        ["completed", "7", "status 503", "no such route", "dead"],
        ["expired", "7", "status 503", "recovered", "delivered"],
    ];
    assert_eq!(told, expected);
    assert_eq!(failures[0][5], "12 ms, connected in 3 ms, by 5b0c1f6e9a42");
    let under_way = table(&pieces, "Under way");
    assert_eq!(
        (under_way.len(), under_way[0][3].as_str(), under_way[0][5].as_str()),
        (1, "7", "status 503")
    );
    assert!(
        under_way[0][4].contains("waits because its endpoint is held by ops"),
        "{under_way:?}"
    );
    let letters = table(&pieces, "Dead letters");
    assert_eq!((letters.len(), letters[0][1].as_str()), (1, "completed"));
    assert!(
        letters[0][4].contains("goes out by itself once its endpoint is no longer held"),
        "{letters:?}"
    );
    let week = table(&pieces, "The last 7 days");
    assert_eq!(week.len(), 7);
    assert_eq!(week[0][1..], ["1\u{202f}234", "2", "99 %", "0", "3", "status 503"]);
    assert_eq!(week[6][1..], ["0", "0", "", "0", "0", ""]);
    let show = format!("../../show?id={}%2F{}", expiry(1), key.replace('/', "%2F"));
    assert!(links(&pieces).contains(&show), "{show}");
    assert!(
        !page.body.contains("&quot;_id&quot;") && !page.body.contains("of another"),
        "no payload, and nothing of others"
    );
}

#[tokio::test]
async fn pages_follow_one_another_the_next_due_first() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = key(organization, &endpoint);
    layout::indexes(&fixture).await;
    fixture.state().insert_one(hold("hold/all")).await.unwrap();
    // Batches of three and single ones, some due at one instant, in two queues.
    let now = Clock::local();
    let mut documents: Vec<_> = (0..10)
        .map(|n| batch(&key, &[expiry(3 * n), expiry(3 * n + 1), expiry(3 * n + 2)]))
        .collect();
    for n in 0..15 {
        let mut one = retry(&key, &expiry(100 + n), 1);
        one.insert("due", after(now, minutes(60 + n as u64 / 5)));
        documents.push(one);
    }
    for n in 0..45 {
        let mut letter = dead(&key, &award(n));
        letter.insert("finishedAt", before(now, minutes(1 + n as u64 / 10)));
        documents.push(letter);
    }
    layout::outbox(&fixture).insert_many(documents).await.unwrap();
    let daemon = fixture.daemon().await;
    let (address, path) = (address(&daemon).await, format!("/endpoint/{key}"));
    let pending = walk(address, &path, "pending", "Under way").await;
    let sizes: Vec<_> = pending.iter().map(Vec::len).filter(|size| *size > 0).collect();
    assert_eq!(sizes, [20, 20, 5]);
    let happened: Vec<_> = pending.concat().iter().map(|row| row[2].clone()).collect();
    assert!(happened[..30].is_sorted(), "what is due: {happened:?}");
    let mut each = happened.clone();
    each.sort();
    each.dedup();
    assert_eq!(each.len(), 45, "each once");
    let dead = walk(address, &path, "dead", "Dead letters").await;
    let sizes: Vec<_> = dead.iter().map(Vec::len).filter(|size| *size > 0).collect();
    assert_eq!(sizes, [20, 20, 5]);
    let mut happened: Vec<_> = dead.concat().iter().map(|row| row[2].clone()).collect();
    happened.sort();
    happened.dedup();
    assert_eq!(happened.len(), 45, "each once");
}

#[tokio::test]
async fn hostile_names_responses_and_ids_stay_text() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let endpoints = HOSTILE.map(|name| named(fixture.endpoint("/a"), name));
    let organization = fixture.organization(endpoints.to_vec()).await;
    let keys = endpoints.each_ref().map(|endpoint| key(organization, endpoint));
    layout::indexes(&fixture).await;
    let letter = |key: &str, n: usize| {
        let mut letter = failed(dead(key, &expiry(n as i64)), 1, RESPONSES[n % RESPONSES.len()]);
        letter.extend(doc! { "redrivable": false, "lastError": RESPONSES[(n + 1) % RESPONSES.len()] });
        letter
    };
    let mut letters: Vec<_> = keys.iter().enumerate().map(|(n, key)| letter(key, n)).collect();
    // What can only be if somebody else wrote it.
    let odd = ["o/<script>", "o/a?b#c", "o/..%2f", "o/a/b", "o/\"x'", "o/\u{202e}é"];
    letters.extend(odd.iter().enumerate().map(|(n, key)| letter(key, n + 20)));
    layout::outbox(&fixture).insert_many(letters).await.unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let main = parse(&get(address, "/").await.body);
    harmless(&main);
    let links: Vec<_> = links(&main)
        .into_iter()
        .filter(|link| link.starts_with("endpoint/"))
        .collect();
    for key in keys.iter().map(String::as_str).chain(odd) {
        let decoded = |link: &&String| {
            let link = percent_encoding::percent_decode_str(link.strip_prefix("endpoint/").unwrap());
            link.decode_utf8().unwrap() == key
        };
        let link = links
            .iter()
            .find(decoded)
            .unwrap_or_else(|| panic!("{key} in {links:?}"));
        let page = get(address, &format!("/{link}")).await;
        assert_eq!(page.status, 200, "{link}");
        let pieces = parse(&page.body);
        harmless(&pieces);
        assert_eq!(table(&pieces, "Last failures").len(), 1, "{link}");
        for turning in ['\u{202e}', '\u{2028}', '\u{1b}', '\u{7}'] {
            assert!(!page.body.contains(turning), "{turning:?} in {link}");
        }
    }
    let page = text(&parse(&get(address, &format!("/endpoint/{}", keys[1])).await.body));
    assert!(
        page.contains(r"\u{1b}[2J\u{1b}]0;owned\u{7}"),
        "as show says it: {page}"
    );
}

#[tokio::test]
async fn one_that_nobody_knows_is_not_found_and_the_nearest_are_named() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let endpoints = [named(fixture.endpoint("/a"), HOSTILE[0]), fixture.endpoint("/b")];
    let organization = fixture.organization(endpoints.to_vec()).await;
    let near = key(organization, &endpoints[0]);
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let long = "x".repeat(12_000);
    let mut misspelt = near.clone();
    misspelt.pop();
    for asked in [
        &*misspelt,
        "o/e",
        "%3Cscript%3E/%22%3E",
        "o/%E2%80%AE",
        "..%2F..%2F/etc",
        &format!("o/{long}"),
    ] {
        let page = get(address, &format!("/endpoint/{asked}")).await;
        assert_eq!(page.status, 404, "{asked}");
        let pieces = parse(&page.body);
        harmless(&pieces);
        assert!(text(&pieces).contains("no endpoint is named "), "{asked}");
        assert!(
            links(&pieces).contains(&format!("../../endpoint/{near}")),
            "{asked}: {}",
            page.body
        );
        assert!(page.body.len() < 20_000, "{}", page.body.len());
    }
    for (path, status) in [
        (format!("/endpoint/{near}?pending=odd"), 400),
        (format!("/endpoint/{near}?dead=%00"), 400),
        (format!("/endpoint/{near}?pending=%3Cscript%3E&dead=x"), 400),
        (format!("/endpoint/{near}?other=1"), 200),
        (format!("/endpoint/{near}/more"), 404),
        ("/endpoint/only".to_owned(), 404),
        ("/endpoint/%FF/%FF".to_owned(), 400),
    ] {
        assert_eq!(get(address, &path).await.status, status, "{path}");
    }
}

/// The ranges of one endpoint, however much is kept of it and of others.
#[tokio::test]
async fn it_reads_what_it_shows_and_no_more() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\n{QUIET}"));
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = key(organization, &endpoint);
    layout::indexes(&fixture).await;
    fixture.state().insert_one(hold("hold/all")).await.unwrap();
    let mine = (0..3000).map(|n| match n % 3 {
        0 => dead(&key, &expiry(n)),
        1 => retry(&key, &expiry(n), 1),
        _ => delivered(batch(&key, &[expiry(n)])),
    });
    let others = (0..3000).map(|n| delivered(batch("674700000000000000000003/x", &[award(n)])));
    layout::outbox(&fixture).insert_many(mine.chain(others)).await.unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let path = format!("/endpoint/{key}");
    // What the daemon does by itself is not counted: the page asks with these.
    let ours = doc! { "appName": "certhookd", "command.$db": fixture.database.name(), "$or": [
        { "planSummary": "COLLSCAN", "ns": format!("{}.webhook_outbox", fixture.database.name()) },
        { "planSummary": "COLLSCAN", "ns": format!("{}.webhook_stats", fixture.database.name()) },
        { "docsExamined": { "$gt": 500 } },
    ] };
    fixture.profile(&ours).await;
    let asked = [
        path.clone(),
        format!("/show?id={}", expiry(1)),
        "/show?id=nothing".to_owned(),
    ];
    for path in &asked {
        let answered = async { while get(address, path).await.status != 200 {} };
        tokio::time::timeout(LIMIT, answered).await.unwrap();
    }
    let more = walk(address, &path, "dead", "Dead letters");
    assert_eq!(tokio::time::timeout(LIMIT, more).await.unwrap().concat().len(), 1000);
    let noted = fixture.profiled(&ours).await;
    let noted: Vec<_> = noted
        .iter()
        .map(|one| {
            (
                one.get("command").cloned().unwrap_or(Bson::Null),
                one.get("planSummary").cloned(),
            )
        })
        .collect();
    assert!(noted.is_empty(), "{noted:#?}");
}
