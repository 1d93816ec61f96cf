//! What a newcomer runs: `certhookd demo`, and `certhookd sandbox` for scripts. Both leave nothing behind.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Collection;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// More than the demo's own limit, so that it tells what is missing.
const LIMIT: Duration = Duration::from_secs(120);

/// `certhookd COMMAND`, with a directory of its own for temporary files.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    directory: TempDir,
}

impl Running {
    fn start(command: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_certhookd"))
            .arg(command)
            .env("TMPDIR", directory.path())
            .env_remove("CERTHOOKD_LOG")
            // An operator's shell: what it names must not be touched.
            .env("CERTHOOKD_MONGODB__URI", "mongodb://127.0.0.1:1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            directory,
        }
    }

    /// The lines up to the first that is wanted; without one, all.
    async fn read_to(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut read = Vec::new();
        while let Some(line) = timeout(LIMIT, self.lines.next_line()).await.unwrap().unwrap() {
            let found = wanted(&line);
            read.push(line);
            if found {
                break;
            }
        }
        read
    }

    /// Where its mongod has left its process id.
    fn mongod(&self) -> Pid {
        let sandbox = std::fs::read_dir(self.directory.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let file: PathBuf = sandbox.path().join("0/pid");
        Pid::from_raw(std::fs::read_to_string(file).unwrap().parse().unwrap())
    }

    /// The exit code and the log, after the end; mongod and all files must be gone.
    async fn ended(self, mongod: Pid) -> (Option<i32>, String) {
        let output = timeout(LIMIT, self.child.wait_with_output()).await.unwrap().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(kill(mongod, None).is_err(), "mongod still runs");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn is_request(line: &str) -> bool {
    line.contains("\u{2026}")
}

/// The cells of a line, by the two spaces at least between columns.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect()
}

#[tokio::test]
async fn the_demo_tells_of_each_delivery_and_of_one_that_recovers() {
    let mut demo = Running::start("demo");
    let mut lines = demo.read_to(is_request).await;
    let mongod = demo.mongod();
    lines.extend(demo.read_to(|_| false).await);
    let (code, log) = demo.ended(mongod).await;
    let text = lines.join("\n");
    assert_eq!(code, Some(0), "{text}\n{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");

    let requests: Vec<_> = lines
        .iter()
        .filter(|line| is_request(line))
        .map(|line| cells(line))
        .collect();
    assert_eq!(requests.len(), 16, "14 deliveries and 2 retries:\n{text}");
    let story: Vec<_> = requests.iter().filter(|cells| cells[3] == "/horizon/lms").collect();
    let attempts: Vec<_> = story.iter().map(|cells| (cells[4], cells[5])).collect();
    assert_eq!(attempts, [("1", "503"), ("2", "503"), ("3", "200")], "{text}");
    assert!(
        story.iter().all(|cells| cells[6] == story[0][6]),
        "one webhook-id:\n{text}"
    );

    let row = |endpoint: &str| {
        let row = lines
            .iter()
            .map(|line| cells(line))
            .rfind(|cells| cells.get(1) == Some(&endpoint));
        row.unwrap()[2..].join(" ")
    };
    assert_eq!(
        (row("/horizon/lms"), row("/rail")),
        ("1 1 2".into(), "3 3 0".into()),
        "{text}"
    );
    assert_eq!(
        (row("/foods/old (off)"), row("/harbour/awards")),
        ("0 0 0".into(), "1 1 0".into()),
        "{text}"
    );
}

#[tokio::test]
async fn ctrl_c_ends_the_demo_early_and_it_tells_what_is_missing() {
    let mut demo = Running::start("demo");
    demo.read_to(is_request).await;
    let mongod = demo.mongod();
    let pid = Pid::from_raw(i32::try_from(demo.child.id().unwrap()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let text = demo.read_to(|_| false).await.join("\n");
    let (code, log) = demo.ended(mongod).await;
    assert_eq!(code, Some(1), "{text}\n{log}");
    assert!(
        text.contains("Stopped early.") && text.contains("missing: certificate_completed"),
        "{text}"
    );
}

#[tokio::test]
async fn the_sandbox_prints_its_uri_and_holds_until_its_input_closes() {
    let mut sandbox = Running::start("sandbox");
    let uri = sandbox.read_to(|_| true).await.remove(0);
    let mongod = sandbox.mongod();
    let client = mongodb::Client::with_uri_str(&uri).await.unwrap();
    let count = async |collection: &str| {
        let collection: Collection<Document> = client.database("beedeez").collection(collection);
        collection.count_documents(doc! {}).await.unwrap()
    };
    assert_eq!((count("memberconfigs").await, count("badgeusers").await), (5, 12));
    client.shutdown().immediate(true).await;

    drop(sandbox.child.stdin.take());
    let (code, log) = sandbox.ended(mongod).await;
    assert_eq!(code, Some(0), "{log}");
}
