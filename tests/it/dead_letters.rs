//! What becomes of deliveries that nobody takes: probing, dead letters, and the ways back.

use bson::doc;
use certhookd::sandbox::Answer;
use http::StatusCode;
use nix::sys::signal::Signal;

use crate::bed::{Bed, expired};

const TWO_ATTEMPTS: &str = "delivery.max_attempts = 2\ndelivery.retry_window = \"1s\"\ncompletions.enabled = false";

async fn replay(bed: &Bed, arguments: &[&str]) -> String {
    let output = bed.command(&[&["replay"], arguments].concat()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_probed_until_it_answers() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let organization = bed
        .organization(vec![bed.endpoint("/sick"), bed.endpoint("/well")])
        .await;
    bed.receiver
        .script("/sick", Answer::failing(14, StatusCode::INTERNAL_SERVER_ERROR));
    let certificates: Vec<_> = (0..300).map(|_| expired(organization)).collect();
    bed.badge_users().insert_many(&certificates).await.unwrap();
    let daemon = bed.daemon().await;
    let probed = |line: &serde_json::Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("it is probed"))
    };
    daemon.wait_for(probed).await;
    bed.wait_for_deliveries(doc! { "state": "delivered" }, 600).await;
    daemon
        .wait_for(|line| line["message"] == "the endpoint answers again")
        .await;
    assert_eq!(daemon.count(probed), 1, "said once");
    // Until it answers it is asked one at a time; ten failures open the circuit breaker.
    assert_eq!(
        bed.receiver.count("/sick"),
        314,
        "300 deliveries and 14 failures: nothing was hammered"
    );
    assert_eq!(bed.receiver.count("/well"), 300);
}

#[tokio::test]
async fn dead_letters_go_out_by_themselves_when_their_endpoint_answers_again() {
    let bed = Bed::new().await.with(TWO_ATTEMPTS);
    let organization = bed.organization(vec![bed.endpoint("/a")]).await;
    bed.receiver.script("/a", Answer::failing(6, StatusCode::BAD_GATEWAY));
    bed.badge_users()
        .insert_many((0..3).map(|_| expired(organization)))
        .await
        .unwrap();
    let daemon = bed.daemon().await;
    bed.wait_for_deliveries(doc! { "state": "delivered", "attempts": 3 }, 3)
        .await;
    let dead = |line: &serde_json::Value| line["level"] == "ERROR" && line["reason"] == "status 502";
    assert_eq!(daemon.count(dead), 3, "each death is one ERROR");
    assert_eq!(bed.receiver.total(), 9);
}

#[tokio::test]
async fn dead_letters_are_replayed_by_an_operator_and_a_dry_run_only_shows_them() {
    let bed = Bed::new()
        .await
        .with(&format!("{TWO_ATTEMPTS}\ndelivery.redrive_for = \"0s\""));
    let (organization, other) = (
        bed.organization(vec![bed.endpoint("/a")]).await,
        bed.organization(vec![bed.endpoint("/b")]).await,
    );
    for path in ["/a", "/b"] {
        bed.receiver.script(path, Answer::failing(2, StatusCode::GONE));
    }
    bed.badge_users()
        .insert_many([expired(organization), expired(other)])
        .await
        .unwrap();
    let daemon = bed.daemon().await;
    let dead = doc! { "state": "dead", "reason": "410 Gone: not retried" };
    bed.wait_for_deliveries(dead.clone(), 2).await;

    let shown = replay(&bed, &["--organization", &organization.to_hex(), "--dry-run"]).await;
    assert!(
        shown.contains(&organization.to_hex()) && !shown.contains(&other.to_hex()),
        "{shown}"
    );
    assert!(
        shown.contains("1 deliveries would be sent again") && shown.contains("status 410"),
        "{shown}"
    );
    assert_eq!(bed.count_deliveries(dead.clone()).await, 2);
    assert!(
        replay(&bed, &["--organization", &organization.to_hex()])
            .await
            .starts_with("1 deliveries")
    );
    bed.receiver
        .wait_for(
            |requests| requests.iter().filter(|one| one.path == "/a").count() == 2,
            crate::bed::LIMIT,
        )
        .await
        .unwrap();
    bed.wait_for_deliveries(dead, 2).await;

    assert!(replay(&bed, &["--all"]).await.starts_with("2 deliveries"));
    bed.wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 1)
        .await;
    daemon.signal(Signal::SIGUSR2);
    let state = daemon.wait_for(|line| line["message"] == "state").await;
    assert_eq!(
        (&state["dead_letters"], &state["pending"]),
        (&1.into(), &0.into()),
        "{state}"
    );
}
