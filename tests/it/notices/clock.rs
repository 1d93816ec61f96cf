//! The database's clock was wrong, and was set back.

use std::time::Duration;

use bson::doc;
use certhookd::model::Clock;

use super::{daemon, fixture, has, id};
use crate::fixture::endpoint_key;
use crate::layout::{after, dead, expiry};

#[tokio::test]
async fn of_dead_letters_it_is_told_whatever_the_clock_was_when_it_was_told_last() {
    let fixture = fixture("").await;
    let ahead = [3600, 24 * 3600, 1000 * 24 * 3600].map(Duration::from_secs);
    let endpoints = ahead.map(|_| fixture.endpoint("/a"));
    let organization = fixture.organization(endpoints.to_vec()).await;
    for (endpoint, ahead) in endpoints.iter().zip(ahead) {
        let key = endpoint_key(organization, endpoint);
        let told =
            doc! { "_id": format!("endpoint/{key}"), "deadUntold": 1_i64, "deadToldAt": after(Clock::local(), ahead) };
        fixture.state().insert_one(told).await.unwrap();
        let mut letter = dead(&key, &expiry(1));
        letter.insert("redrivable", false);
        fixture.outbox().insert_one(letter).await.unwrap();
    }
    let _daemon = daemon(&fixture).await;
    let are_told = |requests: &[_]| endpoints.iter().all(|one| has(requests, &id(one), "delivery.dead"));
    fixture.wait_for(are_told).await;
}
