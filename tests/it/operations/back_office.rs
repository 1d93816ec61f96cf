//! What docs/operations.md says to the platform's developers: its example works with the plain Node driver, its roles allow what they say.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use mongodb::Client;
use serde_json::Value;
use tokio::process::Command;

use crate::check::privileges::Guarded;
use crate::fixture::{Fixture, certificate, expired};
use crate::standard_webhooks::libraries;

const PAGE: &str = include_str!("../../../docs/operations.md");

/// The blocks of the page in that language.
fn blocks() -> Vec<&'static str> {
    let blocks = PAGE.split("```js\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0).collect()
}

/// Runs a script with the driver's `db` and some ids, and returns what it prints.
async fn node(fixture: &Fixture, endpoint: ObjectId, script: &str) -> String {
    let command = libraries::node();
    let home = command.get_current_dir().unwrap().to_owned();
    let folder = tempfile::tempdir_in(home).unwrap();
    let path = folder.path().join("operation.mjs");
    let script = format!(
        "import {{ MongoClient, ObjectId, Long }} from \"mongodb\";\n\
         const client = await MongoClient.connect({:?});\nconst db = client.db({:?});\nconst endpointId = new ObjectId(\"{endpoint}\");\n\
         {script}\nconsole.log(insertedId.toString());\nawait client.close();\n",
        fixture.uri(),
        fixture.database.name(),
    );
    std::fs::write(&path, script).unwrap();
    let output = Command::from(command).arg(path).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn each_kind_is_asked_for_with_the_node_driver() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint("/a");
    let id = endpoint.get_object_id("_id").unwrap();
    let organization = fixture.organization(vec![endpoint]).await;
    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    let insert = |operation: &str| {
        format!("const {{ insertedId }} = await db.collection(\"webhook_operations\").insertOne({operation});")
    };
    let table = [
        (
            blocks()[0].to_owned(),
            doc! { "target": format!("endpoint {organization}/{id}"), "instances": 1_i64 },
        ),
        (
            insert(
                "{ kind: 'backfill', selection: { endpoint: endpointId, from: new Date(0) }, options: { ratePerSecond: 1000 } }",
            ),
            doc! { "deliveries": 1_i64, "known": 0_i64, "skipped": 0_i64 },
        ),
        (
            insert(
                "{ kind: 'cancel', selection: { endpoint: endpointId, eventType: 'certificate_completed' }, options: { ratePerSecond: 0.5 } }",
            ),
            doc! { "deliveries": 1_i64 },
        ),
        (
            insert(
                "{ kind: 'replay', selection: { all: true, states: ['cancelled'] }, by: 'back office', reason: 'a mistake' }",
            ),
            doc! { "deliveries": 1_i64 },
        ),
        (
            insert("{ kind: 'release', selection: { endpoint: endpointId.toString() }, at: new Date() }"),
            doc! { "target": format!("endpoint {organization}/{id}"), "instances": 1_i64 },
        ),
    ];
    for (script, result) in table {
        let operation = ObjectId::parse_str(node(&fixture, id, &script).await).unwrap();
        let done = fixture.ended(&operation.into()).await;
        assert_eq!(done.get_document("result").ok(), Some(&result), "{script}: {done}");
    }
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
    assert_eq!(fixture.receiver.requests()[0].header("x-webhook-replay"), "true");
}

/// Creates the role as that block has it, for the fixture's database, and logs a user of it in.
async fn user(guarded: &Guarded, block: &str, name: &str) -> Client {
    let database = &guarded.fixture.database;
    let role = block.split_once("runCommand(").unwrap().1.rsplit_once(')').unwrap().0;
    let names = [
        "createRole",
        "roles",
        "privileges",
        "resource",
        "actions",
        "db",
        "collection",
    ];
    let json = names.iter().fold(role.to_owned(), |text, name| {
        text.replace(&format!("{name}: "), &format!("\"{name}\": "))
    });
    let json = json
        .replace("],\n  ],\n}", "]\n  ]\n}")
        .replace("},\n  ],\n}", "}\n  ]\n}")
        .replace("beedeez", database.name());
    let role: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let role = bson::serialize_to_document(&role).unwrap();
    database.run_command(role).await.unwrap();
    let user = doc! { "createUser": name, "pwd": "hunter2", "roles": [{ "role": name, "db": database.name() }] };
    database.client().database("admin").run_command(user).await.unwrap();
    let uri = guarded.set.uri().replace("root:sandbox@", &format!("{name}:hunter2@"));
    Client::with_uri_str(uri).await.unwrap()
}

/// Whether that may be read, and written to.
async fn may(client: &Client, database: &str, collection: &str) -> (bool, bool) {
    let collection = client.database(database).collection::<Document>(collection);
    let read = collection.find_one(doc! {}).await.is_ok();
    let write = collection
        .update_one(doc! { "_id": "nobody" }, doc! { "$set": { "cancel": true } })
        .await
        .is_ok();
    (read, write)
}

#[tokio::test]
async fn the_roles_allow_what_they_say_and_no_more() {
    let guarded = Guarded::new().await;
    let (fixture, blocks) = (&guarded.fixture, blocks());
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let _daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
    let name = fixture.database.name();

    let operator = user(&guarded, blocks[1], "certhookdOperator").await;
    let operations = operator.database(name).collection::<Document>("webhook_operations");
    let inserted = operations
        .insert_one(doc! { "kind": "hold", "selection": { "all": true } })
        .await
        .unwrap();
    let done = fixture.ended(&inserted.inserted_id).await;
    assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");

    let pipeline = vec![doc! { "$unset": ["deliveries.payload", "history.response"] }];
    assert!(blocks[2].contains(r#"[{ $unset: ["deliveries.payload", "history.response"] }]"#));
    let view = doc! { "create": "webhook_outbox_view", "viewOn": "webhook_outbox", "pipeline": pipeline };
    fixture.database.run_command(view).await.unwrap();
    let reader = user(&guarded, blocks[2].split_once(";\n").unwrap().1, "certhookdReader").await;
    let seen = reader
        .database(name)
        .collection::<Document>("webhook_outbox_view")
        .find_one(doc! {})
        .await
        .unwrap()
        .unwrap();
    let deliveries = seen.get_array("deliveries").unwrap();
    assert!(
        deliveries
            .iter()
            .filter_map(Bson::as_document)
            .all(|one| one.contains_key("event") && !one.contains_key("payload")),
        "{seen}"
    );

    for (who, client, allowed) in [
        (
            "operator",
            &operator,
            [("webhook_operations", (true, true)), ("webhook_stats", (true, false))].as_slice(),
        ),
        (
            "reader",
            &reader,
            &[
                ("webhook_outbox_view", (true, false)),
                ("webhook_state", (true, false)),
                ("webhook_stats", (true, false)),
                ("webhook_operations", (true, false)),
            ],
        ),
    ] {
        for collection in [
            "webhook_outbox",
            "webhook_outbox_view",
            "webhook_state",
            "webhook_stats",
            "webhook_operations",
            "badgeusers",
            "memberconfigs",
        ] {
            let allowed = allowed
                .iter()
                .find(|(name, _)| *name == collection)
                .map_or((false, false), |(_, allowed)| *allowed);
            assert_eq!(may(client, name, collection).await, allowed, "{who} on {collection}");
        }
    }
}
