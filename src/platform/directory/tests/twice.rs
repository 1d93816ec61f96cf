//! One endpoint in several documents of its organization.

use super::*;
use crate::platform::directory::index::{Doubles, Index};

fn host(directory: &Directory, key: &EndpointKey) -> String {
    match directory.find(key) {
        Found::Served(endpoint) => endpoint.url.host_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn at(host: &str) -> Document {
    with(1, "url", format!("https://{host}/"))
}

#[test]
fn the_document_with_the_lower_id_counts_in_whatever_order_they_come() {
    let ids: [[RawBson; 2]; 4] = [
        [id(1).into(), id(2).into()],
        ["a".into(), "b".into()],
        [9.into(), 10.5.into()],
        [i32::MAX.into(), "1".into()],
    ];
    for [low, high] in ids.map(|ids| ids.map(DocumentId::from)) {
        for low_first in [true, false] {
            let directory = Directory::default();
            let low_says = || directory.put(&low, endpoints([at("low")]));
            if low_first {
                low_says();
            }
            directory.put(&high, endpoints([at("high"), endpoint(2)]));
            low_says();
            assert_eq!(host(&directory, &key(1)), "low");
            assert_eq!(directory.wanted(), [key(1), key(2)]);
            assert_eq!(directory.count(), counts(2, 0, 0));
            directory.put(&low, endpoints([]));
            assert_eq!(host(&directory, &key(1)), "high", "the other document has it still");
        }
    }
}

#[test]
fn an_endpoint_without_id_is_the_same_by_its_url() {
    let without_id = |url: &str| doc! { "url": url, "eventTypes": ["certificate_expired"] };
    let directory = Directory::default();
    directory.put(&document(1), endpoints([without_id("https://a.example/")]));
    directory.put(
        &document(2),
        endpoints([without_id("https://a.example/"), without_id("https://b.example/")]),
    );
    assert_eq!(directory.wanted().len(), 2);
}

#[test]
fn what_the_lower_document_says_counts_whatever_it_is() {
    let cases = [
        (with(1, "enabled", false), "disabled"),
        (with(1, "url", "ftp://x/"), "`url` is not https"),
        (with(1, "auth", 5), "`auth` is a number, expected a document"),
    ];
    for (endpoint, state) in cases {
        let directory = Directory::of(endpoints([endpoint]));
        directory.put(&document(2), endpoints([super::endpoint(1)]));
        assert_eq!(directory.state(1), state);
        directory.remove(&document(1));
        assert_eq!(
            directory.state(1),
            "served",
            "a document that is there counts before one that isn't"
        );
    }
}

#[test]
fn each_pair_of_documents_is_told_once() {
    let (mut index, now) = (Index::default(), Instant::now());
    let mut put = |n, count: u8| index.put(&document(n), endpoints((1..=count).map(endpoint)), now);
    let doubles = |count, counts, ignored| Doubles {
        endpoint: key(1),
        count,
        counts: document(counts),
        ignored: document(ignored),
    };
    assert_eq!(put(5, 2), []);
    assert_eq!(put(7, 2), [doubles(2, 5, 7)]);
    assert_eq!(put(7, 2), [], "known");
    assert_eq!(put(5, 2), [], "known");
    assert_eq!(put(3, 1), [doubles(1, 3, 5)]);
    assert_eq!(put(3, 0), []);
    assert_eq!(put(3, 1), [doubles(1, 3, 5)], "again");
}
