//! Pages while MongoDB is slow or unavailable, and many at once.

use std::time::{Duration, Instant};

use certhookd::sandbox::{Options, Proxy, ReplicaSet};
use futures_util::future::join_all;

use super::html::{harmless, parse, text};
use super::key;
use crate::fixture::Fixture;
use crate::web::{LISTEN, address, get};

/// For half a second of waiting, and a busy machine.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn while_mongodb_does_not_respond_each_page_says_so_at_once() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let proxy = Proxy::start(set.port(0)).await.unwrap();
    let uri = format!("mongodb://{}/?directConnection=true", proxy.address());
    let fixture = Fixture::on(&uri, set.client().await.unwrap()).with(&format!(
        "{LISTEN}\nscan.on_start = false\nservice.shutdown_grace = \"1s\""
    ));
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let known = format!("/endpoint/{}", key(organization, &endpoint));
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    proxy.black_hole();
    let table = [
        (&*known, 200, "MongoDB has not responded: what it knows is not shown."),
        (
            "/endpoint/o/e",
            503,
            "MongoDB has not responded, and no endpoint o/e is configured",
        ),
        ("/show?id=a", 503, "MongoDB has not responded"),
        ("/show", 200, "Type the id"),
    ];
    for (path, status, said) in table {
        let began = Instant::now();
        // Far more than it asks MongoDB at once.
        let pages = join_all((0..20).map(|_| get(address, path))).await;
        assert!(began.elapsed() < SOON, "{path}: {:?}", began.elapsed());
        for page in pages {
            assert_eq!(page.status, status, "{path}");
            let pieces = parse(&page.body);
            harmless(&pieces);
            assert!(text(&pieces).contains(said), "{path}: {}", page.body);
        }
    }
    assert!(
        get(address, &known).await.body.contains("served"),
        "what it knows by itself"
    );
    proxy.pass();
    let back = async {
        // Each page waits for MongoDB by itself.
        while get(address, "/show?id=a").await.status != 200 {}
    };
    tokio::time::timeout(crate::fixture::LIMIT, back).await.unwrap();
}

#[tokio::test]
async fn before_there_is_a_mongodb_they_say_so() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{LISTEN}\nmongodb.uri = \"mongodb://127.0.0.1:1/\""));
    let daemon = fixture.launch();
    let address = address(&daemon).await;
    for path in ["/endpoint/o/e", "/show?id=a"] {
        let page = get(address, path).await;
        assert_eq!(page.status, 503, "{path}");
        let text = text(&parse(&page.body));
        assert_eq!(
            text.matches("starting: waiting for MongoDB").count(),
            2,
            "head and page: {text}"
        );
    }
}
