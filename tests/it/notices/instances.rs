//! Two instances that are killed: exactly one notice of each kind per episode.

use super::{accepted, always, command, expire, fixture, has, id, kinds};
use crate::fixture::Daemon;

#[tokio::test]
async fn killed_at_each_step_an_episode_is_told_of_once() {
    let failpoints = [
        "episode-to-be-committed=1*off->return",
        "episode-committed=1*off->return",
        "episode-committed=2*off->return",
    ];
    futures_util::future::join_all(failpoints.map(is_told_of_once)).await;
}

async fn is_told_of_once(failpoint: &str) {
    let fixture = fixture("").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    always(&fixture, "/a", 500);
    expire(&fixture, organization, 30).await;
    // One of those that follow is killed, too.
    let mut doomed = Daemon::spawn(command(&fixture, failpoint));
    doomed.ended().await;
    // Each writes the configuration: none may read it meanwhile.
    let commands = ["", failpoint].map(|failpoint| command(&fixture, failpoint));
    let daemons = commands.map(Daemon::spawn);
    let key = id(&endpoint);
    fixture
        .wait_for(|requests| has(requests, &key, "endpoint.suspended"))
        .await;
    always(&fixture, "/a", 200);
    let requests = fixture
        .wait_for(|requests| has(requests, &key, "endpoint.recovered"))
        .await;
    fixture.wait_for(|requests| accepted(requests, "/a") == 30).await;
    let expected = ["endpoint.failing", "endpoint.recovered", "endpoint.suspended"];
    let expected = expected.map(|kind| (kind.to_owned(), 1)).into();
    assert_eq!(kinds(&requests, &key), expected, "{failpoint}");
    drop(daemons);
}
