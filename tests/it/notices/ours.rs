//! A fault on this side.

use bson::doc;

use super::{daemon, expire, fixture, notices};

#[tokio::test]
async fn while_nearly_no_endpoint_can_be_connected_to_nobody_is_told_or_suspended() {
    let fixture = fixture("").await;
    // A port on which nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut organizations = Vec::new();
    for _ in 0..8 {
        let mut endpoint = fixture.endpoint("/a");
        endpoint.insert("url", format!("http://{closed}/a"));
        let organization = fixture.organization(vec![endpoint]).await;
        expire(&fixture, organization, 30).await;
        organizations.push(organization);
    }
    let daemon = daemon(&fixture).await;
    let ours = |line: &serde_json::Value| {
        line["level"] == "ERROR"
            && line["message"]
                .as_str()
                .unwrap()
                .starts_with("no connection can be made")
    };
    daemon.wait_for(ours).await;
    let failed = |line: &serde_json::Value| {
        line["message"]
            .as_str()
            .is_some_and(|message| message.starts_with("attempt failed"))
    };
    daemon.wait_for_nth(failed, 130).await;
    assert_eq!(notices(&fixture.receiver.requests()).len(), 0);
    let remembered = doc! { "episode.suspended": { "$exists": true } };
    assert_eq!(fixture.state().count_documents(remembered).await.unwrap(), 0);
    assert_eq!(daemon.count(ours), 1);

    // The others can be connected to again; these can't, and now it is they.
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(fixture.organization(vec![fixture.endpoint("/well")]).await);
    }
    for organization in others {
        let is_read = |line: &serde_json::Value| {
            line["message"] == "endpoints read" && line["organization"] == organization.to_hex()
        };
        daemon.wait_for(is_read).await;
        expire(&fixture, organization, 1).await;
    }
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    daemon
        .wait_for(|line| line["message"] == "connections to organizations can be made again")
        .await;
    fixture.wait_for(|requests| !notices(requests).is_empty()).await;
}
