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
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certhookd"));
        command.args(arguments);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let directory = TempDir::new().unwrap();
        let mut child = command
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
    let mut demo = Running::start(&["demo"]);
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
    let mut demo = Running::start(&["demo"]);
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

/// Commands that it says to try, as it writes them, with what it has exported.
fn to_try(lines: &[String]) -> Vec<String> {
    let after = lines.iter().skip_while(|line| !line.starts_with("What to try next"));
    let (exports, others): (Vec<_>, Vec<_>) = after
        .map(|line| line.trim())
        .filter(|line| line.starts_with("export ") || line.starts_with("certhookd "))
        .partition(|line| line.starts_with("export "));
    let exports = exports.join("; ");
    others.iter().map(|command| format!("{exports}; {command}")).collect()
}

#[tokio::test]
async fn what_is_kept_runs_until_ctrl_c_and_what_it_says_to_try_works() {
    let mut demo = Running::start(&["demo", "--keep"]);
    let lines = demo.read_to(|line| line.contains("# deliveries as they change")).await;
    let text = lines.join("\n");
    let mongod = demo.mongod();
    let page = lines.iter().find_map(|line| line.trim().strip_prefix("status page"));
    let page = page.unwrap().trim().trim_start_matches("http://").trim_end_matches('/');
    let page = crate::web::get(page.parse().unwrap(), "/").await;
    assert!(
        page.status == 200 && page.body.contains("Learning platform"),
        "{page:?}"
    );

    let commands = to_try(&lines);
    assert_eq!(commands.len(), 6, "{text}");
    for command in commands.iter().filter(|command| !command.contains(" events ")) {
        let tried = timeout(LIMIT, Command::new("sh").args(["-c", command]).output())
            .await
            .unwrap()
            .unwrap();
        assert!(
            tried.status.success() && !tried.stdout.is_empty(),
            "{command}: {tried:?}"
        );
    }

    let pid = Pid::from_raw(i32::try_from(demo.child.id().unwrap()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    demo.read_to(|_| false).await;
    let (code, log) = demo.ended(mongod).await;
    assert_eq!(code, Some(0), "{text}\n{log}");
}

/// A python that takes its time stands for a slow network.
#[tokio::test]
async fn the_first_words_come_at_once_also_while_a_mongod_is_fetched() {
    let machine = TempDir::new().unwrap();
    let python = machine.path().join("python3");
    std::fs::write(&python, "#!/bin/sh\nexec sleep 5\n").unwrap();
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sleep = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|directory| directory.join("sleep"))
        .find(|path| path.is_file());
    std::os::unix::fs::symlink(sleep.unwrap(), machine.path().join("sleep")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_certhookd"));
    command
        .arg("demo")
        .env("PATH", machine.path())
        .env("XDG_CACHE_HOME", machine.path())
        .env_remove("CERTHOOKD_MONGOD");
    let began = std::time::Instant::now();
    let mut demo = Running::of(command);
    let first = demo.read_to(|_| true).await;
    let took = began.elapsed();
    assert!(
        first[0].starts_with("certhookd demo: ") && took < Duration::from_secs(1),
        "{took:?}: {first:?}"
    );
    let mut log = BufReader::new(demo.child.stderr.take().unwrap()).lines();
    let line = timeout(LIMIT, log.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("no mongod found: fetching"), "{line}");
}

#[tokio::test]
async fn the_sandbox_prints_its_uri_and_holds_until_its_input_closes() {
    let mut sandbox = Running::start(&["sandbox"]);
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
