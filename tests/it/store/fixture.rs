//! A store on a database of its own, and a client beside it that makes trouble.

use std::sync::atomic::{AtomicU32, Ordering};

use bson::{Document, RawDocumentBuf, doc};
use certhookd::config::Mongodb;
use certhookd::sandbox::{ReplicaSet, shared};
use certhookd::store::Store;
use mongodb::{Client, Collection};
use tokio_util::sync::CancellationToken;

pub struct Fixture {
    pub store: Store,
    /// Ends the store's waits.
    pub stop: CancellationToken,
    pub client: Client,
    /// The store's alone, for failpoints.
    pub app_name: String,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::on(shared().await.unwrap()).await
    }

    pub async fn on(set: &ReplicaSet) -> Self {
        let client = set.client().await.unwrap();
        Self::over(set.uri(), client).await
    }

    /// With this connection string.
    pub async fn over(uri: &str, client: Client) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("s{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = if uri.contains('?') { '&' } else { '?' };
        let config = config(&format!("{uri}{options}appName={name}"), &name);
        let stop = CancellationToken::new();
        Self {
            store: Store::new(&config, stop.clone()).await.unwrap(),
            stop,
            client,
            app_name: name,
        }
    }

    /// A collection as the other client sees it.
    pub fn collection(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.app_name).collection(name)
    }

    /// The same as the store sees it.
    pub fn of_store(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.store.database().collection(name)
    }

    /// Has the store's commands fail so, until the returned value is handed to [`Fixture::heal`].
    pub async fn fail(&self, mut data: Document) {
        data.insert("appName", &self.app_name);
        self.set_failpoint(doc! { "mode": "alwaysOn", "data": data }).await;
    }

    pub async fn heal(&self) {
        self.set_failpoint(doc! { "mode": "off" }).await;
    }

    async fn set_failpoint(&self, how: Document) {
        let mut command = doc! { "configureFailPoint": "failCommand" };
        command.extend(how);
        self.client.database("admin").run_command(command).await.unwrap();
    }
}

pub fn config(uri: &str, database: &str) -> Mongodb {
    Mongodb {
        uri: uri.into(),
        database: database.to_owned(),
        badge_users: "badgeusers".to_owned(),
        member_configs: "memberconfigs".to_owned(),
    }
}
