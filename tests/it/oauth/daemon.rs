//! The same through the whole daemon: configured in MongoDB, retried, recorded, logged.

use bson::doc;

use super::support::{Receiver, TokenServer};
use crate::fixture::{Fixture, expired};

const SECRET: &str = "s3cr3t-of-the-client";

#[tokio::test]
async fn a_failing_token_server_is_a_failed_attempt_that_tells_no_secret() {
    let (server, receiver, fixture) = (
        TokenServer::start().await,
        Receiver::start().await,
        Fixture::new().await,
    );
    let refusal = (
        400,
        r#"{"error":"invalid_client","error_description":"not s3cr3t-of-the-client"}"#,
    );
    server.answers([refusal, refusal, (200, r#"{"access_token":"s3cr3t-token"}"#)]);
    let mut endpoint = fixture.endpoint("/");
    endpoint.insert("url", receiver.url());
    endpoint.insert(
        "auth",
        doc! {
            "authType": "oauth2_client_credentials", "tokenUrl": format!("{}?s3cr3t-query", server.url()),
            "clientId": "certhookd", "clientSecret": SECRET,
        },
    );
    let organization = fixture.organization(vec![endpoint]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let mut daemon = fixture.daemon().await;
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 2 }, 1)
        .await;
    let reason = "oauth2: token server answered 400 invalid_client";
    daemon.wait_for(|line| line.to_string().contains(reason)).await;
    assert!(daemon.stop().await.success());

    assert_eq!(receiver.tokens(), ["s3cr3t-token"]);
    let delivery = fixture.outbox().find_one(doc! {}).await.unwrap().unwrap();
    assert!(!delivery.to_string().contains("s3cr3t"), "{delivery}");
    for line in daemon.lines() {
        assert!(!line.to_string().contains("s3cr3t"), "{line}");
    }
}
