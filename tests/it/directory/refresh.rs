//! How the directory is kept fresh, over a real mongod: what is read when, and what an accident costs.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::config::Mongodb;
use certhookd::envelope::EncryptionKeys;
use certhookd::model::{EndpointKey, EventType, Reloadable};
use certhookd::platform::{Directory, EndpointCounts, EndpointPolicy, Found, Refresh};
use certhookd::sandbox::{Options, ReplicaSet};
use certhookd::store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, LIMIT};

const MISSING: &str = "the organization's configuration document is missing";

async fn refresh(fixture: &Fixture) -> Refresh {
    let config = Mongodb {
        uri: fixture.uri().into(),
        database: fixture.database.name().to_owned(),
        badge_users: "badgeusers".to_owned(),
        member_configs: "memberconfigs".to_owned(),
    };
    Refresh {
        store: Store::new(&config, CancellationToken::new()).await.unwrap(),
        directory: Directory::default(),
        policy: Reloadable::new(EndpointPolicy {
            allow_http: true,
            concurrency: 5,
            keys: EncryptionKeys::NONE,
        }),
    }
}

fn key(organization: ObjectId, endpoint: &Document) -> EndpointKey {
    EndpointKey::from_stored(&format!("{organization}/{}", endpoint.get_object_id("_id").unwrap()))
}

fn state(directory: &Directory, key: &EndpointKey) -> String {
    match directory.find(key) {
        Found::Served(_) => "served".into(),
        Found::Off { reason } => reason.into(),
        Found::OutOfService { reason } => reason,
        Found::Email { .. } => panic!("no e-mail"),
    }
}

/// Waits until the directory has changed so.
async fn until(directory: &Directory, is_so: impl Fn(&Directory) -> bool) {
    let mut changes = directory.subscribe();
    let found = async {
        while !is_so(directory) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, found).await.unwrap();
}

/// A directory that is kept fresh, on a mongod of its own: a failpoint is the whole server's.
struct Followed {
    _set: ReplicaSet,
    fixture: Fixture,
    refresh: Refresh,
    /// One for each time that the loop reported progress.
    rounds: mpsc::UnboundedReceiver<()>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Followed {
    async fn new() -> Self {
        let set = ReplicaSet::start(Options::default()).await.unwrap();
        let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
        let refresh = refresh(&fixture).await;
        fixture.profile(&doc! { "op": "query" }).await;
        Self {
            _set: set,
            fixture,
            refresh,
            rounds: mpsc::unbounded_channel().1,
            stop: CancellationToken::new(),
            task: None,
        }
    }

    fn start(&mut self) {
        let (report, rounds) = mpsc::unbounded_channel();
        self.rounds = rounds;
        let following = self.refresh.clone().run(self.stop.clone(), move || {
            let _ = report.send(());
        });
        self.task = Some(tokio::spawn(async { following.await.unwrap() }));
    }

    async fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            tokio::time::timeout(LIMIT, self.rounds.recv()).await.unwrap().unwrap();
        }
    }

    /// The next `times` such commands fail so.
    async fn fail(&self, commands: &[&str], times: i32, failure: Document) {
        let mut data =
            doc! { "failCommands": commands, "namespace": format!("{}.memberconfigs", self.fixture.database.name()) };
        data.extend(failure);
        let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        let admin = self.fixture.database.client().database("admin");
        admin.run_command(fail).await.unwrap();
    }

    /// How often all documents were read; ends the following.
    async fn walks(mut self) -> usize {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap();
        let walks = doc! { "command.find": "memberconfigs", "command.filter": {} };
        self.fixture.profiled(&walks).await.len()
    }
}

#[tokio::test]
async fn a_refused_stream_has_all_read_now_and_then_and_not_in_a_tight_loop() {
    let mut followed = Followed::new().await;
    followed.fail(&["aggregate"], 3, doc! { "errorCode": 286 }).await;
    let began = Instant::now();
    followed.start();
    followed.rounds(1).await;
    followed.refresh.directory.followed().await;
    let organization = followed.fixture.organization(vec![]).await.to_hex();
    until(&followed.refresh.directory, |directory| {
        directory.knows_organization(&organization)
    })
    .await;
    // One before each of four readings; the last of these succeeds, and is followed by one more.
    followed.rounds(4).await;
    assert!(began.elapsed() >= Duration::from_secs(7), "{:?}", began.elapsed());
    assert_eq!(followed.walks().await, 4);
}

#[tokio::test]
async fn a_stream_that_broke_goes_on_where_it_was_and_nothing_is_read_twice() {
    let mut followed = Followed::new().await;
    followed.start();
    followed.rounds(2).await;
    followed
        .fail(&["getMore", "aggregate"], 3, doc! { "closeConnection": true })
        .await;
    for _ in 0..3 {
        let organization = followed.fixture.organization(vec![]).await.to_hex();
        until(&followed.refresh.directory, |directory| {
            directory.knows_organization(&organization)
        })
        .await;
    }
    assert_eq!(followed.walks().await, 1);
}

#[tokio::test]
async fn a_change_whose_reading_failed_is_read_again() {
    for code in [50, 2, 11601] {
        let mut followed = Followed::new().await;
        let endpoint = followed.fixture.endpoint("/a");
        let organization = followed.fixture.organization(vec![endpoint.clone()]).await;
        followed.start();
        followed.rounds(2).await;
        followed.fail(&["find"], 2, doc! { "errorCode": code }).await;
        let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
        let one = doc! { "_ownerId": organization };
        followed.fixture.member_configs().update_one(one, off).await.unwrap();
        let key = key(organization, &endpoint);
        let disabled = "the endpoint was disabled";
        until(&followed.refresh.directory, |directory| {
            state(directory, &key) == disabled
        })
        .await;
        assert_eq!(followed.walks().await, 1, "after error {code}");
    }
}

#[tokio::test]
async fn a_dropped_collection_is_out_of_service_and_what_is_restored_is_served() {
    let mut followed = Followed::new().await;
    let endpoint = followed.fixture.endpoint("/a");
    let organization = followed.fixture.organization(vec![endpoint.clone()]).await;
    followed.start();
    followed.refresh.directory.followed().await;
    let (directory, key) = (followed.refresh.directory.clone(), key(organization, &endpoint));
    let configs = followed.fixture.member_configs();
    let config = configs.find_one(doc! {}).await.unwrap().unwrap();

    configs.drop().await.unwrap();
    until(&directory, |directory| state(directory, &key) == MISSING).await;
    let wanting = directory.wanting(&organization.to_hex(), EventType::CertificateExpired);
    assert_eq!(wanting, std::slice::from_ref(&key));
    configs.insert_one(config).await.unwrap();
    until(&directory, |directory| state(directory, &key) == "served").await;
    followed.walks().await;
}

#[tokio::test]
async fn settings_that_are_no_documents_are_read_as_what_they_are() {
    let fixture = Fixture::new().await;
    let refresh = refresh(&fixture).await;
    let unreadable = "`webHookConfig.endpoints` is ";
    let cases: [(&str, Bson, &str); 9] = [
        ("webHookConfig", 5.into(), "`webHookConfig` is a number"),
        (
            "webHookConfig",
            vec![doc! { "endpoints": [] }].into(),
            "`webHookConfig` is an array",
        ),
        ("webHookConfig", "".into(), "`webHookConfig` is a string"),
        ("webHookConfig.endpoints", 5.into(), unreadable),
        ("webHookConfig.endpoints", doc! { "0": {} }.into(), unreadable),
        ("webHookConfig.endpoints", Bson::Null, unreadable),
        (
            "webHookConfig.endpoints",
            Bson::Array(vec![]),
            "the endpoint was deleted",
        ),
        ("webHookConfig", doc! {}.into(), "the endpoint was deleted"),
        ("webHookConfig", Bson::Null, "the endpoint was deleted"),
    ];
    for (field, value, expected) in cases {
        let endpoint = fixture.endpoint("/a");
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        let key = key(organization, &endpoint);
        refresh.load().await.unwrap();
        assert_eq!(state(&refresh.directory, &key), "served");
        let set = doc! { "$set": { field: &value } };
        fixture
            .member_configs()
            .update_one(doc! { "_ownerId": organization }, set)
            .await
            .unwrap();
        refresh.load().await.unwrap();
        let now = state(&refresh.directory, &key);
        assert!(now.starts_with(expected), "{field}: {value}: {now}");
    }
}

#[tokio::test]
async fn an_organization_is_read_afresh_by_the_documents_that_are_known() {
    let fixture = Fixture::new().await;
    let refresh = refresh(&fixture).await;
    let [kept, disabled, removed, deleted, replaced] = [(); 5].map(|()| fixture.endpoint("/a"));
    let all = [&kept, &disabled, &removed, &deleted, &replaced];
    let mut keys = Vec::new();
    for endpoint in all {
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        keys.push(key(organization, endpoint));
    }
    refresh.load().await.unwrap();
    let (configs, of) = (fixture.member_configs(), |n: usize| {
        doc! { "_ownerId": ObjectId::parse_str(keys[n].organization()).unwrap() }
    });
    let set = |field: &str, value: Bson| doc! { "$set": { format!("webHookConfig.endpoints{field}"): value } };
    configs
        .update_one(of(1), set(".0.enabled", false.into()))
        .await
        .unwrap();
    configs.update_one(of(2), set("", Bson::Array(vec![]))).await.unwrap();
    configs.delete_one(of(3)).await.unwrap();
    configs.delete_one(of(4)).await.unwrap();
    let mut again = of(4);
    again.insert("webHookConfig", doc! { "endpoints": [&replaced] });
    configs.insert_one(again).await.unwrap();

    for key in &keys {
        assert_eq!(state(&refresh.directory, key), "served", "as it was");
        refresh.reread_organization(key.organization()).await.unwrap();
    }
    let states = keys.iter().map(|key| state(&refresh.directory, key));
    let (disabled, deleted) = ("the endpoint was disabled", "the endpoint was deleted");
    assert_eq!(
        states.collect::<Vec<_>>(),
        ["served", disabled, deleted, MISSING, "served"]
    );
}

#[tokio::test]
async fn an_organization_that_was_never_seen_is_found_by_any_form_of_its_id() {
    let fixture = Fixture::new().await;
    let refresh = refresh(&fixture).await;
    let [oid, other] = [ObjectId::new(), ObjectId::new()];
    let ids: [Bson; 7] = [
        oid.into(),
        ObjectId::new().to_hex().into(),
        ObjectId::new().to_hex().to_uppercase().into(),
        7.into(),
        8.0.into(),
        "an organization".into(),
        doc! { "a": 1 }.into(),
    ];
    for id in &ids {
        let config = doc! { "_ownerId": id, "webHookConfig": { "endpoints": [fixture.endpoint("/a")] } };
        fixture.member_configs().insert_one(config).await.unwrap();
    }
    for id in ids.iter().chain([&other.into()]) {
        let raw = bson::RawBson::try_from(id.clone()).unwrap();
        let organization = certhookd::model::id_part(raw.as_raw_bson_ref());
        refresh.reread_organization(&organization).await.unwrap();
        assert_eq!(
            refresh.directory.knows_organization(&organization),
            *id != other.into(),
            "{id}"
        );
    }
    let seven = EndpointCounts {
        served: 7,
        ..EndpointCounts::default()
    };
    assert_eq!(refresh.directory.count(), seven);
}

#[tokio::test]
async fn what_is_found_after_a_rest_goes_to_the_endpoints_of_now() {
    let mut followed = Followed::new().await;
    followed.start();
    // Once a second for as long as it may be used; then it rests for four.
    followed.rounds(8).await;
    let endpoint = followed.fixture.endpoint("/a");
    let organization = followed.fixture.organization(vec![endpoint.clone()]).await;
    // Changes that are younger than one and a half seconds need not be known.
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    let directory = &followed.refresh.directory;
    let wanting = || directory.wanting(&organization.to_hex(), EventType::CertificateExpired);
    directory.up_to_date(std::future::pending(), || ()).await.unwrap();
    assert_eq!(wanting(), [key(organization, &endpoint)]);
}
