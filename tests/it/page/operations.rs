//! What the status page says of holds and of operations.

use bson::{Document, doc};
use certhookd::model::Clock;

use super::html::{harmless, links, parse, table, text};
use super::{HOSTILE, key};
use crate::fixture::Fixture;
use crate::layout;
use crate::web::{LISTEN, address, get};

/// A hold as the daemon writes it.
pub fn hold(id: &str) -> Document {
    doc! { "_id": id, "by": "ops", "reason": "a move", "at": Clock::local(), "until": null }
}

#[tokio::test]
async fn held_endpoints_and_the_last_operations_are_told_of() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let endpoints = ["/held", "/fine"].map(|path| fixture.endpoint(path));
    let organization = fixture.organization(endpoints.to_vec()).await;
    let [held, fine] = endpoints.each_ref().map(|endpoint| key(organization, endpoint));
    layout::indexes(&fixture).await;
    let holds = [
        hold(&format!("hold/endpoint/{held}")),
        hold("hold/organization/a"),
        hold("hold/endpoint/o/<b>"),
    ];
    fixture.state().insert_many(holds).await.unwrap();
    let daemon = fixture.daemon().await;
    let of_unknown = doc! { "kind": "dance", "selection": { "all": true }, "by": HOSTILE[0], "reason": HOSTILE[6] };
    fixture.operate(of_unknown).await;
    let page = get(address(&daemon).await, "/").await;
    let pieces = parse(&page.body);
    harmless(&pieces);

    let held_ones = table(&pieces, "Holds");
    let target = format!("endpoint {held}");
    let row = held_ones.iter().find(|row| row[0] == target).unwrap();
    assert_eq!(
        (row[1].as_str(), row[3].as_str(), row[4].as_str()),
        ("ops", "it is released", "a move")
    );
    assert_eq!(held_ones.len(), 3);
    let links = links(&pieces);
    for link in [
        format!("endpoint/{held}"),
        format!("endpoint/{fine}"),
        "endpoint/o/%3Cb%3E".to_owned(),
    ] {
        assert!(links.contains(&link), "{link} in {links:?}");
    }
    let endpoints = table(&pieces, "Endpoints");
    assert_eq!(
        (endpoints[0][0].as_str(), endpoints[0][2].as_str()),
        ("/held", "held"),
        "it stands out"
    );
    assert!(text(&pieces).contains("by ops: a move"));
    let operations = table(&pieces, "Last operations");
    let told = |column: usize| operations[0][column].as_str();
    assert_eq!((told(1), told(2), told(5)), ("dance", "refused", HOSTILE[0]));
    assert!(told(6).contains("kind"), "why it was refused: {operations:?}");
}

#[tokio::test]
async fn without_any_the_page_says_so() {
    let fixture = Fixture::new().await.with(&format!("{LISTEN}\nscan.on_start = false"));
    let daemon = fixture.daemon().await;
    let page = get(address(&daemon).await, "/").await.body;
    assert!(!page.contains("<h2>Holds</h2>"));
    let (_, operations) = page.split_once("<h2>Last operations</h2>").unwrap();
    assert!(
        operations
            .trim_start()
            .starts_with("<p class=\"quiet\">None is kept.</p>")
    );
}
