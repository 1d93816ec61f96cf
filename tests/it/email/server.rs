//! A real mail server: aiosmtpd, in a process of its own.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::fixture::LIMIT;
use crate::standard_webhooks::libraries;

/// An e-mail as the server took it, decoded by Python's own library.
#[derive(Clone, Debug, Deserialize)]
pub struct Mail {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    headers: Vec<(String, String)>,
    pub text: String,
    /// Connections to the server when it had taken it, this one included.
    pub connections: usize,
}

impl Mail {
    /// The headers by their names. None is there twice.
    pub fn headers(&self) -> BTreeMap<&str, &str> {
        let headers: BTreeMap<_, _> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(headers.len(), self.headers.len(), "{self:?}");
        headers
    }
}

pub struct MailServer {
    pub port: u16,
    taken: Arc<Taken>,
    _child: Child,
}

#[derive(Default)]
struct Taken {
    mails: Mutex<Vec<Mail>>,
    grown: Notify,
}

impl MailServer {
    /// `options` are those of tests/data/interop/smtp.py.
    pub async fn start(options: &Value) -> Self {
        let mut command = Command::from(libraries::python_with("smtp.txt"));
        command
            .args(["-W", "ignore"])
            .arg(libraries::data("smtp.py"))
            .arg(options.to_string());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().expect("it has started");
        let taken = Arc::<Taken>::default();
        let sink = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sink.mails.lock().push(serde_json::from_str(&line).unwrap());
                sink.grown.notify_waiters();
            }
        });
        Self {
            port: port.parse().unwrap(),
            taken,
            _child: child,
        }
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.taken.mails.lock().clone()
    }

    /// Waits until it has taken that many.
    pub async fn wait_for(&self, count: usize) -> Vec<Mail> {
        let enough = async {
            loop {
                let grown = self.taken.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                if self.mails().len() >= count {
                    return self.mails();
                }
                grown.await;
            }
        };
        let enough = tokio::time::timeout(LIMIT, enough).await;
        enough.unwrap_or_else(|_| panic!("{count} e-mails expected: {:#?}", self.mails()))
    }
}
