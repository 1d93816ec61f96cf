//! The connection string's options: those that contradict what the protocol relies on are replaced.

use std::time::Duration;

use mongodb::options::{
    Acknowledgment, ClientOptions, Credential, ReadConcernLevel, ReadPreference, ReadPreferenceOptions,
    SelectionCriteria, WriteConcern,
};

/// How long one operation may wait for a usable server before it counts as failed.
const SERVER_SELECTION: Duration = Duration::from_secs(5);

/// What no waiting at all is raised to: it would fail whenever the driver has just lost sight of a server.
const LEAST_SERVER_SELECTION: Duration = Duration::from_millis(100);

/// How long a connection may take, and how often servers are looked at, which bounds how long a network that swallows
/// everything goes unnoticed. The driver's own defaults.
const LIMIT: Duration = Duration::from_secs(10);

/// Operations under way at once: two change streams, scan, fetcher, recorder, heartbeat, wake-ups, endpoints, operations,
/// and a few for status and metrics.
const CONNECTIONS: u32 = 16;

/// A write is confirmed when a majority has it in its journal: what is confirmed is never rolled back.
pub(super) fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

/// Sets what the protocol relies on; returns a line for each option of the connection string that said otherwise.
pub(super) fn set_required(options: &mut ClientOptions) -> Vec<String> {
    let mut lines = Vec::new();
    let mut report = |given: String, now: &str| {
        lines.push(format!("{given} in the connection string is not applied: it is {now}"));
    };
    options.app_name.get_or_insert_with(|| "certhookd".into());
    set_reads(options, &mut report);
    set_writes(options, &mut report);
    set_limits(options, &mut report);
    lines
}

/// Who logs in, and where MongoDB looks that user up: a path in the connection string changes it, and a login that is refused says nothing of it.
pub(super) fn login(credential: &Credential) -> Option<String> {
    let user = credential.username.as_deref()?;
    let database = credential.source.as_deref().unwrap_or("admin");
    Some(format!(
        "user {user} of database {database}, which authSource or else the path of the connection string names"
    ))
}

/// Reads go to the primary. Their read concern is the server's default; transactions and `Store::read_session` set their own.
fn set_reads(options: &mut ClientOptions, report: &mut impl FnMut(String, &str)) {
    if let Some(SelectionCriteria::ReadPreference(preference)) = options.selection_criteria.take()
        && preference != ReadPreference::Primary
    {
        report(shown(&preference), "primary");
    }
    if let Some(concern) = options.read_concern.take() {
        report(
            format!("readConcernLevel={}", level(&concern.level)),
            "the server's default",
        );
    }
    if options.retry_reads.replace(true) == Some(false) {
        report("retryReads=false".into(), "true");
    }
}

fn set_writes(options: &mut ClientOptions, report: &mut impl FnMut(String, &str)) {
    let given = options.write_concern.replace(durable()).unwrap_or_default();
    match given.w {
        None | Some(Acknowledgment::Majority) => {}
        Some(Acknowledgment::Nodes(nodes)) => report(format!("w={nodes}"), "majority"),
        Some(_) => report("w with a tag".into(), "majority"),
    }
    if let Some(limit) = given.w_timeout.filter(|limit| !limit.is_zero()) {
        report(format!("wtimeoutMS={}", limit.as_millis()), "none");
    }
    if given.journal == Some(false) {
        report("journal=false".into(), "true");
    }
    if options.retry_writes.replace(true) == Some(false) {
        report("retryWrites=false".into(), "true");
    }
}

fn set_limits(options: &mut ClientOptions, report: &mut impl FnMut(String, &str)) {
    if let Some(given) = options.max_pool_size.filter(|given| *given < CONNECTIONS) {
        report(format!("maxPoolSize={given}"), &CONNECTIONS.to_string());
    }
    options.max_pool_size = options.max_pool_size.max(Some(CONNECTIONS));
    let mut bound = |name: &str, value: &mut Option<Duration>, within: &dyn Fn(Duration) -> Duration| {
        let Some(given) = *value else { return };
        let now = within(given);
        if now != given {
            report(format!("{name}={}", given.as_millis()), &now.as_millis().to_string());
        }
        *value = Some(now);
    };
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION);
    bound(
        "serverSelectionTimeoutMS",
        &mut options.server_selection_timeout,
        &|given| given.clamp(LEAST_SERVER_SELECTION, SERVER_SELECTION),
    );
    // Zero is no limit.
    bound("connectTimeoutMS", &mut options.connect_timeout, &|given| {
        if given.is_zero() { LIMIT } else { given.min(LIMIT) }
    });
    bound("heartbeatFrequencyMS", &mut options.heartbeat_freq, &|given| {
        given.min(LIMIT)
    });
}

fn shown(preference: &ReadPreference) -> String {
    let (mode, options) = match preference {
        ReadPreference::Primary => ("primary", &None),
        ReadPreference::Secondary { options } => ("secondary", options),
        ReadPreference::PrimaryPreferred { options } => ("primaryPreferred", options),
        ReadPreference::SecondaryPreferred { options } => ("secondaryPreferred", options),
        ReadPreference::Nearest { options } => ("nearest", options),
        _ => ("other", &None),
    };
    let more = |options: &ReadPreferenceOptions| {
        let tags = options.tag_sets.is_some().then_some(" with readPreferenceTags");
        let staleness = options.max_staleness.is_some().then_some(" with maxStalenessSeconds");
        [tags, staleness].into_iter().flatten().collect::<String>()
    };
    format!(
        "readPreference={mode}{}",
        options.as_ref().map(more).unwrap_or_default()
    )
}

fn level(level: &ReadConcernLevel) -> &str {
    match level {
        ReadConcernLevel::Local => "local",
        ReadConcernLevel::Majority => "majority",
        ReadConcernLevel::Linearizable => "linearizable",
        ReadConcernLevel::Available => "available",
        ReadConcernLevel::Snapshot => "snapshot",
        ReadConcernLevel::Custom(level) => level,
        _ => "other",
    }
}
