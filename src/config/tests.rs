use std::fs;
use std::path::PathBuf;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::schema::keys;
use super::*;

mod connection_string;
mod email;
mod environment;
mod proxy;
mod secrets;
mod values;
mod wrong;

const SHIPPED: &str = include_str!("../../config.toml");
const DEFAULT_URI: &str = "mongodb://127.0.0.1:27017/?replicaSet=rs0";
const SECRET_URI: &str = "mongodb://alice:hunter2@db.test/?replicaSet=rs0";

/// What an operator may give, on a disk of its own.
struct Given {
    directory: TempDir,
    env: Vec<(String, String)>,
    file: Option<PathBuf>,
}

impl Given {
    fn nothing() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            env: Vec::new(),
            file: None,
        }
    }

    fn toml(text: &str) -> Self {
        let mut given = Self::nothing();
        given.file = Some(given.write("config.toml", text));
        given
    }

    fn env(mut self, variable: &str, value: &str) -> Self {
        self.env.push((variable.to_owned(), value.to_owned()));
        self
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// With a connection string, if none was given: most tests are about something else.
    fn load(&self) -> Result<Config, Faults> {
        let mut env = self.env.clone();
        let text = self
            .file
            .as_ref()
            .map(|file| fs::read_to_string(file).unwrap_or_default());
        let given = text.is_some_and(|text| text.lines().any(|line| !line.starts_with('#') && line.contains("uri")))
            || env.iter().any(|(name, _)| name.starts_with("CERTHOOKD_MONGODB__URI"))
            || self.directory.path().join("mongodb-uri").exists();
        if !given {
            env.push(("CERTHOOKD_MONGODB__URI".to_owned(), DEFAULT_URI.to_owned()));
        }
        self.load_as_it_is(&env)
    }

    fn load_as_it_is(&self, env: &[(String, String)]) -> Result<Config, Faults> {
        let credentials = Credentials {
            given: Some(self.directory.path().to_owned()),
            stores: Vec::new(),
        };
        Config::load(self.file.as_deref(), env, &credentials)
    }

    fn config(&self) -> Config {
        self.load().unwrap()
    }

    /// The faults as printed, the directory's name taken out.
    fn faults(&self) -> Vec<String> {
        let directory = format!("{}/", self.directory.path().display());
        let faults = self.load().unwrap_err().to_string();
        faults.lines().map(|line| line.replace(&directory, "")).collect()
    }
}

fn one_fault(toml: &str) -> String {
    let faults = Given::toml(toml).faults();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults.into_iter().next().unwrap()
}

/// All values, the hidden one too.
fn all_of(config: &Config) -> String {
    let config = Config {
        connection_string_from: String::new(),
        ..config.clone()
    };
    format!("{config:#?} {}", config.mongodb.uri.expose_secret())
}

/// The lines that set a key; with those, too, that are commented out.
fn settings_of(toml: &str, with_commented: bool) -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if with_commented && rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    toml.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_reload_names_the_keys_that_need_a_restart() {
    let old = Given::nothing().config();
    let new = Given::toml(
        "mongodb.database = 'other'\ncompletions.enabled = false\nqueue.capacity = 2000\nservice.metrics_listen = ''\nservice.allowed_hosts = ['a.example']\n\
         delivery.retention = '60d'\ntelemetry.otlp_endpoint = 'http://127.0.0.1:4318'\ndelivery.concurrency = 3\nscan.timezone = 'Europe/Paris'",
    )
    .env("CERTHOOKD_MONGODB__URI", SECRET_URI)
    .config();
    assert_eq!(
        restart_needed(&old, &new),
        [
            "mongodb.uri",
            "mongodb.database",
            "completions.enabled",
            "delivery.retention",
            "service.metrics_listen",
            "service.allowed_hosts",
            "telemetry.otlp_endpoint"
        ]
    );
    assert_eq!(restart_needed(&new, &new), [""; 0]);
}
