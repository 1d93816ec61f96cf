//! docs/receivers.md says what is so: its receivers run against the real client, its example is what is sent, its waits are kept.

mod behaviour;
pub(crate) mod page;
#[path = "receivers/receiver.rs"]
mod rust;

use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout};
use tokio::sync::mpsc;

use self::behaviour::{PATH, SECRET, check};
use crate::fixture::LIMIT;
use crate::standard_webhooks::libraries;

/// A receiver of the page as a process of its own.
pub(crate) struct Running {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.env("WEBHOOK_SECRET", SECRET).env("PORT", "0");
        let mut child = tokio::process::Command::from(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, lines }
    }

    pub(crate) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await;
        line.expect("the receiver says nothing")
            .unwrap()
            .expect("the receiver ended")
    }

    async fn check(mut self) {
        let listening = self.line().await;
        let port = listening.strip_prefix("listening on port ").unwrap();
        let url = format!("http://127.0.0.1:{port}{PATH}");
        check(&url, async || self.line().await).await;
    }
}

/// Writes a receiver of the page where its language finds the library, and runs it.
async fn run(mut command: Command, name: &str) {
    let home = command.get_current_dir().unwrap().to_owned();
    let folder = tempfile::tempdir_in(home).unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, page::block(&format!("run: {name}"))).unwrap();
    command.arg(path);
    Running::start(command).check().await;
}

#[tokio::test]
async fn the_receiver_for_node_works() {
    run(libraries::node(), "receiver.mjs").await;
}

#[tokio::test]
async fn the_receiver_for_python_works() {
    run(libraries::python(), "receiver.py").await;
}

#[tokio::test]
async fn the_receiver_for_rust_works() {
    assert_eq!(page::block("run: receiver.rs"), include_str!("receivers/receiver.rs"));
    let (events, waiting) = mpsc::channel(16);
    let (handled, mut lines) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{PATH}", listener.local_addr().unwrap());
    let router = rust::receiver(SECRET, events).unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    tokio::spawn(rust::work(waiting, move |event| {
        let id = event.certificate["_id"].as_str().unwrap();
        handled.send(format!("{}: {id}", event.event_type)).unwrap();
    }));
    check(&url, async || lines.recv().await.unwrap()).await;
}

/// The page's script against one of the page's receivers.
#[tokio::test]
async fn the_script_sends_a_sample_that_is_verified() {
    let (events, mut waiting) = mpsc::channel(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{PATH}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, rust::receiver(SECRET, events).unwrap()).into_future());
    let send = async |secret: &str| {
        let mut script = tokio::process::Command::new("python3");
        let example = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/docs/schemas/certificate_expired.example.json"
        );
        script.args(["-c", page::block("run: sample.py"), &url, secret, example]);
        script.output().await.unwrap()
    };
    let sent = send(SECRET).await;
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "204\n", "{sent:?}");
    let refused = send("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").await;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("HTTP Error 401"), "{told}");
    assert!(waiting.try_recv().is_err(), "a sample is not worked on");
}
