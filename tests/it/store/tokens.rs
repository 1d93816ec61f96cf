//! Which errors of a change stream mean that its token is of no use, by a real mongod's replies.

use bson::{Bson, Document, doc};
use certhookd::sandbox::{Options, ReplicaSet};
use certhookd::store::{Error, loses_token};
use mongodb::change_stream::event::ResumeToken;

use super::fixture::Fixture;

/// Refusals that say nothing of the token: it must be kept.
const PASSING: [i32; 22] = [
    6, 7, 13, 18, 50, 63, 89, 91, 133, 134, 146, 189, 211, 234, 262, 292, 391, 8000, 10107, 11600, 11602, 40573,
];

async fn token(fixture: &Fixture) -> String {
    let rows = fixture.of_store("rows");
    let mut stream = rows.watch().await.unwrap();
    fixture.collection("rows").insert_one(doc! { "_id": 1 }).await.unwrap();
    while stream.next_if_any().await.unwrap().is_none() {}
    let token = bson::serialize_to_document(&stream.resume_token().unwrap()).unwrap();
    token.get_str("_data").unwrap().to_owned()
}

async fn resume(fixture: &Fixture, token: &Document) -> Result<(), Error> {
    let token: ResumeToken = bson::deserialize_from_document(token.clone()).unwrap();
    let mut stream = fixture.of_store("rows").watch().resume_after(token).await?;
    stream.next_if_any().await?;
    Ok(())
}

/// The token with each byte changed, with each byte left out, and cut after each.
fn corrupted(token: &str) -> Vec<String> {
    let mut all = Vec::new();
    for place in (0..token.len()).step_by(2) {
        let (before, rest) = token.split_at(place);
        let (byte, after) = rest.split_at(2);
        let byte = u8::from_str_radix(byte, 16).unwrap();
        for other in [byte ^ 0xFF, byte ^ 1, 0x04, 0xF0] {
            all.push(format!("{before}{other:02X}{after}"));
        }
        all.push(format!("{before}{after}"));
        all.push(before.to_owned());
    }
    all
}

#[tokio::test]
async fn a_corrupt_token_is_lost_and_a_refusal_for_another_reason_keeps_it() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(&set).await;
    let good = token(&fixture).await;
    let good_token = doc! { "_data": &good };
    resume(&fixture, &good_token).await.unwrap();

    let mut refused = 0;
    let texts = corrupted(&good).into_iter().map(Bson::from);
    let none = ["", "token", "8", "ZZ"]
        .map(Bson::from)
        .into_iter()
        .chain([Bson::Int32(7), Bson::Null]);
    for data in texts.chain(none) {
        let token = doc! { "_data": data };
        // Some differ in nothing that matters, or name another event that is there.
        if let Err(error) = resume(&fixture, &token).await {
            assert!(loses_token(&error), "{token}: {error}");
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");

    for code in PASSING {
        fixture
            .fail(doc! { "failCommands": ["aggregate"], "errorCode": code })
            .await;
        let error = resume(&fixture, &good_token).await.unwrap_err();
        assert!(!loses_token(&error), "{error}");
    }
    fixture
        .fail(doc! { "failCommands": ["aggregate"], "closeConnection": true })
        .await;
    let error = resume(&fixture, &good_token).await.unwrap_err();
    assert!(!loses_token(&error), "{error}");
    for code in [260, 280, 286, 326, 10334] {
        fixture
            .fail(doc! { "failCommands": ["aggregate"], "errorCode": code })
            .await;
        let error = resume(&fixture, &good_token).await.unwrap_err();
        assert!(loses_token(&error), "{error}");
    }
    fixture.heal().await;
}
