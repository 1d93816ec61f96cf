//! When an endpoint was held: dead letters do not grow older meanwhile.

use bson::{DateTime, doc};
use certhookd::model::Clock;

use super::told;
use crate::fixture::{Daemon, Fixture, endpoint_key};
use crate::layout;

/// That many minutes ago.
fn ago(minutes: i64) -> DateTime {
    DateTime::from_millis(Clock::local().timestamp_millis() - minutes * 60_000)
}

#[tokio::test]
async fn time_in_which_its_endpoint_was_held_makes_no_dead_letter_older() {
    let settings = "completions.enabled = false\ndelivery.redrive_for = \"1h\"\ndelivery.suspend_after = \"30m\"";
    let fixture = Fixture::new().await.with(settings);
    // How long ago it died, what was held and from when to when, and whether it still goes out by itself. All in minutes.
    type Held<'a> = &'a [(&'a str, i64, i64)];
    let table: [(i64, Held<'_>, bool); 10] = [
        (50, &[], true),
        (70, &[], false),
        (120, &[("endpoint", 100, 10)], true),
        (120, &[("organization", 100, 10)], true),
        (120, &[("endpoint", 30, 10)], false),
        (120, &[("endpoint", 100, 60), ("organization", 90, 30)], true),
        (120, &[("endpoint", 100, 70), ("organization", 80, 60)], false),
        (300, &[("endpoint", 290, 200), ("endpoint", 200, 20)], true),
        (300, &[("endpoint", 400, 310), ("endpoint", 200, 20)], false),
        (200, &[("endpoint", 250, 20)], true),
    ];
    let mut goes_out = 0;
    for (n, (died, held, expected)) in (0..).zip(table) {
        let endpoint = fixture.endpoint(&format!("/{n}"));
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        let key = endpoint_key(organization, &endpoint);
        let mut letter = layout::dead(&key, &layout::expiry(n));
        letter.extend(doc! { "finishedAt": ago(died), "deadSince": ago(died) });
        fixture.outbox().insert_one(letter).await.unwrap();
        for what in ["endpoint", "organization"] {
            let of = |(_, from, to): &(&str, i64, i64)| doc! { "at": ago(*from), "until": ago(*to) };
            let periods: Vec<_> = held.iter().filter(|(target, ..)| *target == what).map(of).collect();
            let Some((last, past)) = periods.split_last() else {
                continue;
            };
            let target = if what == "endpoint" {
                key.clone()
            } else {
                organization.to_hex()
            };
            let mut hold = doc! { "_id": format!("hold/{what}/{target}"), "by": "a test", "past": past };
            hold.extend(last.clone());
            fixture.state().insert_one(hold).await.unwrap();
        }
        goes_out += u64::from(expected);
    }
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "redrive-look=return(1)");
    let _daemon = Daemon::spawn(command);
    fixture
        .wait_for_deliveries(doc! { "state": "delivered" }, goes_out)
        .await;
    // Found by another look, so that a whole one is before it.
    let endpoint = fixture.endpoint("/young");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let young = layout::dead(&endpoint_key(organization, &endpoint), &layout::expiry(99));
    fixture.outbox().insert_one(young).await.unwrap();
    fixture
        .wait_for_deliveries(doc! { "state": "delivered" }, goes_out + 1)
        .await;
    for (n, (_, held, expected)) in (0..).zip(table) {
        let found = fixture.deliveries(doc! { "event": layout::expiry(n) }).await.remove(0);
        let state = if expected { "delivered" } else { "dead" };
        assert_eq!(found.get_str("state").unwrap(), state, "{n}: {held:?}");
    }
}

#[tokio::test]
async fn a_hold_keeps_when_the_ones_before_it_were() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let _daemon = fixture.daemon().await;
    let id = format!("hold/endpoint/{key}");
    let state = async || fixture.state().find_one(doc! { "_id": &id }).await.unwrap().unwrap();
    let mut begins = Vec::new();
    for (round, command) in ["hold", "hold", "release", "release", "hold", "release"]
        .into_iter()
        .enumerate()
    {
        let before = fixture.state().find_one(doc! { "_id": &id }).await.unwrap();
        told(&fixture, &[command, "--endpoint", &key]).await;
        let now = state().await;
        if command == "hold" {
            begins.push(*now.get_datetime("at").unwrap());
        } else if round == 3 {
            assert_eq!(before.unwrap(), now, "it had ended");
        }
    }
    let held = state().await;
    let past = held.get_array("past").unwrap();
    let instant = |place: usize, field| *past[place].as_document().unwrap().get_datetime(field).unwrap();
    assert_eq!(past.len(), 2, "{held}");
    assert_eq!((instant(0, "at"), instant(1, "at")), (begins[0], begins[1]));
    assert_eq!(instant(0, "until"), begins[1], "the second took the place of the first");
    assert!(
        instant(1, "until") > begins[1] && instant(1, "until") < begins[2],
        "it was released in between"
    );
    assert!(held.get_datetime("until").unwrap() > &begins[2], "{held}");
}
