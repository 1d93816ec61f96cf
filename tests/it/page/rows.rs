//! What the rows of the page say of endpoints and dead letters, on screens of any width.

use std::time::Duration;

use bson::doc;
use certhookd::model::Clock;

use super::html::{Piece, parse};
use super::operations::hold;
use super::{ended, key};
use crate::fixture::Fixture;
use crate::layout::{self, expiry};
use crate::web::{LISTEN, address, get};

/// The state of an endpoint, and why.
#[tokio::test]
async fn a_failing_endpoint_says_so_and_why() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let mut off = fixture.endpoint("/off");
    off.insert("enabled", false);
    let endpoints = [
        fixture.endpoint("/gone"),
        fixture.endpoint("/down"),
        fixture.endpoint("/unknown"),
        fixture.endpoint("/fine"),
        off,
    ];
    let organization = fixture.organization(endpoints.to_vec()).await;
    let keys = endpoints.each_ref().map(|endpoint| key(organization, endpoint));
    let [gone, down, unknown, fine, off] = &keys;
    layout::indexes(&fixture).await;
    let documents = [ended(gone), layout::retry(down, &expiry(1), 1)];
    layout::outbox(&fixture).insert_many(documents).await.unwrap();
    let failed = |key: &str| layout::figures(key, 0, 1);
    let figures = [
        failed(gone),
        failed(down),
        failed(unknown),
        layout::figures(fine, 1, 0),
        failed(off),
    ];
    fixture.statistics().insert_many(figures).await.unwrap();
    let daemon = fixture.daemon().await;
    let page = get(address(&daemon).await, "/").await.body;
    let table = [
        (
            "/gone",
            r#"<span class="bad">failing</span> <small><bdi>status 410</bdi></small></td>"#,
        ),
        (
            "/down",
            r#"<span class="bad">failing</span> <small><bdi>status 503</bdi></small></td>"#,
        ),
        ("/unknown", r#"<span class="bad">failing</span></td>"#),
        ("/fine", "served</td>"),
        ("/off", "off</td>"),
    ];
    for (name, expected) in table {
        let shown = name.replace('/', "&#x2f;");
        let row = page
            .split("<tr>")
            .find(|row| row.contains(&format!("<bdi>{shown}</bdi>")))
            .unwrap();
        assert!(
            row.contains(&format!(r#"<td data-label="state">{expected}"#)),
            "{name}: {row}"
        );
    }
}

#[tokio::test]
async fn dead_letters_say_whether_they_go_out_again_by_themselves() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let paths = ["/refused", "/exhausted", "/aged", "/held-since", "/suspended-since"];
    let endpoints = paths.map(|path| fixture.endpoint(path));
    let organization = fixture.organization(endpoints.to_vec()).await;
    let [refused, exhausted, aged, held, suspended] = endpoints.each_ref().map(|endpoint| key(organization, endpoint));
    layout::indexes(&fixture).await;
    let day = Duration::from_secs(24 * 3600);
    let ago = |days: u32| layout::before(Clock::local(), days * day);
    let long_dead = |key: &str, event| {
        let mut letter = layout::dead(key, &expiry(event));
        letter.extend(doc! { "deadSince": ago(9), "finishedAt": ago(9) });
        letter
    };
    let young = [ended(&refused), layout::dead(&exhausted, &expiry(2))];
    let letters = young
        .into_iter()
        .chain([long_dead(&aged, 3), long_dead(&held, 4), long_dead(&suspended, 5)]);
    let past = doc! { "at": ago(8), "until": ago(4) };
    let states = [
        doc! { "_id": format!("hold/endpoint/{held}"), "at": ago(8), "until": ago(4) },
        doc! { "_id": format!("episode/{suspended}"), "suspensions": [&past] },
    ];
    fixture.state().insert_many(states).await.unwrap();
    layout::outbox(&fixture).insert_many(letters).await.unwrap();
    let daemon = fixture.daemon().await;
    let page = get(address(&daemon).await, "/").await.body;
    let (_, letters) = page.split_once("<h2>Dead letters</h2>").unwrap();
    let table = [
        ("refused", "goes out again only with replay"),
        ("exhausted", "goes out again when its endpoint succeeds"),
        ("aged", "goes out again only with replay"),
        ("held-since", "goes out again when its endpoint succeeds"),
        ("suspended-since", "goes out again when its endpoint succeeds"),
    ];
    for (name, expected) in table {
        let row = letters.split("<tr>").find(|row| row.contains(name)).unwrap();
        assert!(row.contains(expected), "{name}: {row}");
    }
    let (_, note) = letters.split_once("</table>").unwrap();
    let note = note.split("</section>").next().unwrap();
    assert!(
        note.contains("refused for good (410)") && note.contains("only with"),
        "{note}"
    );
}

/// On a phone each row is a card whose lines are named by what the cells say they are.
#[tokio::test]
async fn every_cell_says_its_column() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = key(organization, &endpoint);
    layout::indexes(&fixture).await;
    let documents = [ended(&key), layout::retry(&key, &expiry(2), 1)];
    layout::outbox(&fixture).insert_many(documents).await.unwrap();
    fixture.state().insert_one(hold("hold/all")).await.unwrap();
    let asked = doc! { "kind": "dance", "selection": { "all": true } };
    fixture.operations().insert_one(asked).await.unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let pieces = parse(&get(address, "/").await.body);
    let (mut heads, mut labels, mut tables) = (Vec::new(), Vec::new(), 0);
    for (place, piece) in pieces.iter().enumerate() {
        match (piece, pieces.get(place + 1)) {
            (Piece::Open(name, _), Some(Piece::Text(text))) if name == "th" => heads.push(text.clone()),
            (Piece::Open(name, attributes), _) if name == "td" => {
                let label = attributes.iter().find(|(attribute, _)| attribute == "data-label");
                labels.push(label.unwrap().1.clone());
            }
            (Piece::Close(name), _) if name == "table" => {
                assert_eq!(labels, heads);
                (labels, heads, tables) = (Vec::new(), Vec::new(), tables + 1);
            }
            _ => {}
        }
    }
    assert_eq!(tables, 6);
    let style = get(address, "/style.css").await.body;
    assert!(style.contains("content: attr(data-label)"));
}
