//! What becomes of deliveries that nobody takes: probing, dead letters, and the ways back.

use bson::doc;
use certhookd::sandbox::Response;
use http::StatusCode;
use nix::sys::signal::Signal;

use crate::fixture::{Daemon, Fixture, endpoint_key, expired};
use crate::layout;

const TWO_ATTEMPTS: &str = "delivery.max_attempts = 2\ndelivery.retry_window = \"1s\"\ncompletions.enabled = false";

async fn replay(fixture: &Fixture, arguments: &[&str]) -> String {
    let output = fixture
        .command(&[&["replay"], arguments].concat())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_probed_until_it_answers() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture
        .organization(vec![fixture.endpoint("/sick"), fixture.endpoint("/well")])
        .await;
    fixture
        .receiver
        .script("/sick", Response::failing(14, StatusCode::INTERNAL_SERVER_ERROR));
    let certificates: Vec<_> = (0..300).map(|_| expired(organization)).collect();
    fixture.badge_users().insert_many(&certificates).await.unwrap();
    let daemon = fixture.daemon().await;
    let probed = |line: &serde_json::Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("it is probed"))
    };
    daemon.wait_for(probed).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 600).await;
    daemon
        .wait_for(|line| line["message"] == "the endpoint answers again")
        .await;
    assert_eq!(daemon.count(probed), 1, "said once");
    // Until it answers it is asked one at a time; ten failures open the circuit breaker.
    assert_eq!(
        fixture.receiver.count("/sick"),
        314,
        "300 deliveries and 14 failures: nothing was hammered"
    );
    assert_eq!(fixture.receiver.count("/well"), 300);
}

#[tokio::test]
async fn dead_letters_go_out_by_themselves_when_their_endpoint_answers_again() {
    let fixture = Fixture::new().await.with(TWO_ATTEMPTS);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture
        .receiver
        .script("/a", Response::failing(6, StatusCode::BAD_GATEWAY));
    fixture
        .badge_users()
        .insert_many((0..3).map(|_| expired(organization)))
        .await
        .unwrap();
    let daemon = fixture.daemon().await;
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 3 }, 3)
        .await;
    let dead = |line: &serde_json::Value| line["level"] == "ERROR" && line["reason"] == "status 502";
    assert_eq!(daemon.count(dead), 3, "each death is one ERROR");
    assert_eq!(fixture.receiver.total(), 9);
}

#[tokio::test]
async fn dead_letters_are_replayed_by_an_operator_and_a_dry_run_only_shows_them() {
    let fixture = Fixture::new()
        .await
        .with("completions.enabled = false\ndelivery.max_attempts = 1\ndelivery.redrive_for = \"0s\"");
    let (organization, other) = (
        fixture.organization(vec![fixture.endpoint("/a")]).await,
        fixture.organization(vec![fixture.endpoint("/b")]).await,
    );
    for path in ["/a", "/b"] {
        fixture
            .receiver
            .script(path, Response::failing(2, StatusCode::INTERNAL_SERVER_ERROR));
    }
    fixture
        .badge_users()
        .insert_many([expired(organization), expired(other)])
        .await
        .unwrap();
    let daemon = fixture.daemon().await;
    let dead = doc! { "state": "dead", "reason": "1 attempt failed" };
    fixture.wait_for_deliveries(dead.clone(), 2).await;

    let shown = replay(&fixture, &["--organization", &organization.to_hex(), "--dry-run"]).await;
    assert!(
        shown.contains(&organization.to_hex()) && !shown.contains(&other.to_hex()),
        "{shown}"
    );
    assert!(
        shown.contains("1 delivery would be sent again") && shown.contains("status 500"),
        "{shown}"
    );
    assert_eq!(fixture.count_deliveries(dead.clone()).await, 2);
    assert!(
        replay(&fixture, &["--organization", &organization.to_hex()])
            .await
            .starts_with("1 delivery is")
    );
    fixture
        .receiver
        .wait_for(
            |requests| requests.iter().filter(|one| one.path == "/a").count() == 2,
            crate::fixture::LIMIT,
        )
        .await
        .unwrap();
    fixture.wait_for_deliveries(dead, 2).await;

    assert!(replay(&fixture, &["--all"]).await.starts_with("2 deliveries"));
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 1)
        .await;
    daemon.signal(Signal::SIGUSR2);
    let state = daemon.wait_for(|line| line["message"] == "state").await;
    assert_eq!(
        (&state["dead_letters"], &state["pending"]),
        (&1.into(), &0.into()),
        "{state}"
    );
}

/// The endpoint of each fails in another way.
#[tokio::test]
async fn a_single_dead_letter_of_an_endpoint_that_goes_on_failing_is_tried_once_a_minute() {
    let fixture = Fixture::new().await.with(TWO_ATTEMPTS);
    let ways = [
        ("/hung", Response::silence()),
        ("/down", Response::status(StatusCode::SERVICE_UNAVAILABLE)),
        ("/broken", Response::status(StatusCode::FOUND)),
    ];
    for (path, response) in &ways {
        fixture.receiver.script(path, [response.clone()]);
        let mut endpoint = fixture.endpoint(path);
        endpoint.insert("timeout", 1000);
        let organization = fixture.organization(vec![endpoint]).await;
        fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    }
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "redrive-look=return(1)");
    let daemon = Daemon::spawn(command);
    let again = |line: &serde_json::Value| line["message"] == "dead letters go out again";
    daemon.wait_for_nth(again, ways.len()).await;
    let failed_again = doc! { "state": "dead", "reason": "it failed again after it was a dead letter" };
    fixture.wait_for_deliveries(failed_again, 3).await;
    // Each of these is found by another look, so that a whole one is between them.
    for n in 1..=2 {
        let endpoint = fixture.endpoint("/well");
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        let letter = layout::dead(&endpoint_key(organization, &endpoint), &layout::expiry(n));
        fixture.outbox().insert_one(letter).await.unwrap();
        fixture
            .wait_for_deliveries(doc! { "state": "delivered" }, n as u64)
            .await;
        assert_eq!(daemon.count(again), ways.len() + n as usize);
    }
    // The first timeout takes all of the retry period.
    assert_eq!(ways.map(|(path, _)| fixture.receiver.count(path)), [2, 3, 3]);
}

/// One transaction per endpoint: a stop waits for no more than one of them.
#[tokio::test]
async fn a_stop_amid_many_endpoints_with_dead_letters_leaves_the_rest_alone() {
    const ENDPOINTS: usize = 300;
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|n| fixture.endpoint(&format!("/{n}"))).collect();
    let organization = fixture.organization(endpoints.clone()).await;
    let letter = |endpoint| layout::dead(&endpoint_key(organization, endpoint), &layout::expiry(1));
    let letters: Vec<_> = endpoints.iter().map(letter).collect();
    fixture.outbox().insert_many(letters).await.unwrap();
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "redrive-look=return(1)");
    let mut daemon = Daemon::spawn(command);
    let again = |line: &serde_json::Value| line["message"] == "dead letters go out again";
    daemon.wait_for(again).await;
    assert!(daemon.stop().await.success());
    let begun = daemon.count(again);
    assert!(begun < ENDPOINTS / 2, "{begun} of {ENDPOINTS}");
}
