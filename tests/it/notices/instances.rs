//! Two instances that are killed: exactly one notice of each kind per episode.

use std::collections::BTreeMap;

use super::{accepted, always, command, expire, fixture, has, id, kinds};
use crate::fixture::Daemon;

#[tokio::test]
async fn killed_at_each_step_an_episode_is_told_of_once() {
    let failpoints = [
        "episodes-noted=1*off->return",
        "episodes-noted=2*off->return",
        "episode-to-be-committed=1*off->return",
        "episode-committed=1*off->return",
        "episode-committed=2*off->return",
    ];
    futures_util::future::join_all(failpoints.map(is_told_of_once)).await;
}

async fn is_told_of_once(failpoint: &str) {
    let fixture = fixture("").await;
    let paths = ["/a", "/b", "/c"];
    let endpoints = paths.map(|path| fixture.endpoint(path));
    let organization = fixture.organization(endpoints.to_vec()).await;
    paths.iter().for_each(|path| always(&fixture, path, 500));
    expire(&fixture, organization, 30).await;
    // One of those that follow is killed, too.
    let mut doomed = Daemon::spawn(command(&fixture, failpoint));
    doomed.ended().await;
    // Each writes the configuration: none may read it meanwhile.
    let commands = ["", failpoint].map(|failpoint| command(&fixture, failpoint));
    let daemons = commands.map(Daemon::spawn);
    let keys = endpoints.each_ref().map(id);
    let all_have = |requests: &[_], kind| keys.iter().all(|key| has(requests, key, kind));
    fixture
        .wait_for(|requests| all_have(requests, "endpoint.suspended"))
        .await;
    paths.iter().for_each(|path| always(&fixture, path, 200));
    let requests = fixture
        .wait_for(|requests| all_have(requests, "endpoint.recovered"))
        .await;
    let expected = ["endpoint.failing", "endpoint.recovered", "endpoint.suspended"];
    let expected: BTreeMap<_, _> = expected.map(|kind| (kind.to_owned(), 1)).into();
    for (path, key) in paths.iter().zip(&keys) {
        fixture.wait_for(|requests| accepted(requests, path) == 30).await;
        assert_eq!(kinds(&requests, key), expected, "{failpoint}: {path}");
    }
    drop(daemons);
}
