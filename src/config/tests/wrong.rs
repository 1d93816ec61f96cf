use super::*;

#[test]
fn everything_is_named_at_once_sorted_by_key() {
    let given = Given::toml(
        "[delivery]\nconcurrency = 300\n[scan]\ntimezone = 'Europe/Pari'\nshedule = ''\n[servcie]\nx = 1\n\
         [queue]\ncapacity = 0\n[mongodb]\nbadge_users = 'same'\nmember_configs = 'same'\n",
    )
    .env("CERTHOOKD_SCAN__ONSTART", "true")
    .env("CERTHOOKD_SERVICE__SHUTDOWN_GRACE", "20");
    assert_eq!(
        given.faults(),
        [
            "CERTHOOKD_SCAN__ONSTART: expected a key's variable, found an unknown one; did you mean \
             CERTHOOKD_SCAN__ON_START? (the environment)",
            "delivery.concurrency: expected a whole number from 1 to 100, found 300 (config.toml:2)",
            "mongodb.member_configs: expected another collection than mongodb.badge_users, found same \
             (config.toml:12)",
            "queue.capacity: expected a whole number from 1 to 100000, found 0 (config.toml:9)",
            "scan.shedule: expected a key, found an unknown one; did you mean scan.schedule? (config.toml:5)",
            "scan.timezone: expected an IANA time zone such as Europe/Paris, found \"Europe/Pari\": did you mean \
             Europe/Paris? (config.toml:4)",
            "servcie: expected a section, found an unknown one; did you mean service? (config.toml:6)",
            "service.shutdown_grace: expected a duration from 0s to 10m, such as \"90s\" or \"2h 30m\", found \
             \"20\" (CERTHOOKD_SERVICE__SHUTDOWN_GRACE)",
        ]
    );
}

const WRONG_VALUES: [(&str, &str); 30] = [
    ("scan.on_start = 1", "scan.on_start: expected true or false, found 1 "),
    ("scan.on_start = 'true'", "expected true or false, found \"true\" "),
    (
        "scan.batch_size = '5'",
        "expected a whole number from 1 to 10000, found \"5\" ",
    ),
    (
        "scan.batch_size = 1.5",
        "expected a whole number from 1 to 10000, found 1.5 ",
    ),
    (
        "scan.batch_size = -1",
        "expected a whole number from 1 to 10000, found -1 ",
    ),
    (
        "scan.batch_size = 4294967297",
        "expected a whole number from 1 to 10000, found 4294967297 ",
    ),
    (
        "scan.batch_size = 99999999999999999999",
        "found a number beyond 64 bits ",
    ),
    (
        "delivery.retry_window = 600",
        "such as \"90s\" or \"2h 30m\", found 600 ",
    ),
    (
        "service.allowed_hosts = ['a/b']",
        "expected a list of host names without a port, such as certhookd.example.org, found [\"a/b\"]: \"a/b\" is none",
    ),
    (
        "service.allowed_hosts = ['a.example:8443']",
        "a list of host names without a port, ",
    ),
    (
        "service.allowed_hosts = ['*.a.example']",
        "a list of host names without a port, ",
    ),
    (
        "service.allowed_hosts = ['127.0.0.1']",
        "a list of host names without a port, ",
    ),
    (
        "service.allowed_hosts = 'a.example'",
        "a list of host names without a port, ",
    ),
    ("delivery.retry_window = '8d'", "expected a duration from 1s to 7d, "),
    ("delivery.retention = '59m'", "expected a duration from 1h to 3650d, "),
    (
        "delivery.payload_retention = '59s'",
        r#"expected a duration from 1m to 3650d, such as "90s" or "2h 30m", or "" for none, found "59s" "#,
    ),
    (
        "delivery.payload_retention = 7",
        "expected a duration from 1m to 3650d, ",
    ),
    (
        "delivery.allow_networks = '10.0.0.0/8'",
        "expected a list of networks such as ",
    ),
    (
        "delivery.allow_networks = ['::/0', '10.0.0.1']",
        ": \"10.0.0.1\" is none ",
    ),
    (
        "delivery.source = ''",
        "expected a name in printable ASCII, found \"\" ",
    ),
    ("delivery.source = \"a\\r\\nX-B: c\"", r#"found "a\r\nX-B: c" "#),
    (
        "service.metrics_listen = 'localhost'",
        "expected an IP address and port such as 127.0.0.1:9464",
    ),
    (
        "telemetry.otlp_endpoint = 'localhost:4318'",
        "expected http:// or https:// with a host and no password, such as http://127.0.0.1:4318",
    ),
    (
        "telemetry.otlp_endpoint = 'http://user:hunter2@collector'",
        "found a URI (not shown: it may hold a password) ",
    ),
    (
        "scan.not_before = 2026-01-31",
        "expected an instant such as 2026-01-31T00:00:00Z, or \"\" for none",
    ),
    ("mongodb.database = ' '", "expected a database name, "),
    ("mongodb.database = 'a.b'", "expected a database name, "),
    ("mongodb.badge_users = ''", "expected a collection name, "),
    ("mongodb.badge_users = 'system.users'", "expected a collection name, "),
    ("[mongodb.uri]", "mongodb.uri: expected a connection string "),
];

#[test]
fn values_say_what_was_expected_and_found() {
    for (toml, expected) in WRONG_VALUES {
        let fault = one_fault(toml);
        assert!(
            fault.contains(expected) && fault.ends_with("(config.toml:1)"),
            "{toml}: {fault}"
        );
    }
}

#[test]
fn a_schedule_has_six_fields_and_fires() {
    let fault = |schedule: &str| one_fault(&format!("scan.schedule = '{schedule}'"));
    for malformed in ["", "* * * * *", "0 0 0 1 1 * 2027", "61 * * * * *", "every minute"] {
        let fault = fault(malformed);
        assert!(
            fault.starts_with("scan.schedule: expected six cron fields (second minute hour"),
            "{fault}"
        );
    }
    assert!(fault("0 0 0 30 2 *").contains("it would never fire"));
    assert!(Given::toml("scan.schedule = '0 0 0 29 2 *'").load().is_ok());
}

#[test]
fn names_that_mean_nothing_get_the_nearest_one() {
    let cases = [
        (
            "[scan]\nenabled = true",
            "scan.enabled: expected a key, found an unknown one; did you mean completions.enabled? ",
        ),
        (
            "batch_size = 5",
            "batch_size: expected a key in a section, found an unknown one; did you mean scan.batch_size? ",
        ),
        (
            "[webhooks]\nhost = 'x'",
            "webhooks: expected a section, found an unknown one (config.toml:1)",
        ),
        (
            "[scan]\ncolour = 'x'",
            "scan.colour: expected a key, found an unknown one (config.toml:2)",
        ),
        (
            "[scan]\n\"a\\nb\" = 1",
            "scan.a\\nb: expected a key, found an unknown one (config.toml:2)",
        ),
        ("scan = 5", "scan: expected a section, found 5 (config.toml:1)"),
    ];
    for (toml, expected) in cases {
        let fault = one_fault(toml);
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn values_that_contradict_each_other() {
    let cases = [
        (
            "delivery.max_in_flight = 4",
            "delivery.concurrency: expected at most delivery.max_in_flight (4), found 5 (the default)",
        ),
        (
            "queue.capacity = 255",
            "delivery.max_in_flight: expected at most queue.capacity (255), found 256 (the default)",
        ),
        (
            "delivery.retry_window = '49s'",
            "delivery.retry_window: expected at least 49s 500ms (the 99 pauses of delivery.max_attempts, 500ms each), \
             found 49s (config.toml:1)",
        ),
        (
            "delivery = { retry_window = '2h', retention = '1h', redrive_for = '1h', suspend_after = '1h' }",
            "delivery.retention: expected at least delivery.retry_window (2h), found 1h (config.toml:1)",
        ),
        (
            "delivery.retention = '6d'",
            "delivery.redrive_for: expected at most delivery.retention (6days), found 7days (the default)",
        ),
        (
            "delivery.payload_retention = '31d'",
            "delivery.payload_retention: expected at most delivery.retention (30d), found 31d (config.toml:1)",
        ),
        (
            "delivery = { payload_retention = '30h', retention = '24h', redrive_for = '0s' }",
            "delivery.payload_retention: expected at most delivery.retention (1d), found 1day 6h (config.toml:1)",
        ),
        (
            "delivery.redrive_for = '4d'",
            "delivery.redrive_for: expected \"0s\" or at least delivery.suspend_after (5d), found 4d (config.toml:1)",
        ),
        (
            "notices.url = 'https://platform.test/'",
            "notices.secret: expected a secret, since notices.url is set, found none (the default)",
        ),
        (
            "notices = { url = 'http://platform.test/', secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' }",
            "notices.url: expected https://, since delivery.allow_http is false, found http:// (config.toml:1)",
        ),
    ];
    for (toml, expected) in cases {
        assert_eq!(one_fault(toml), expected);
    }
}

#[test]
fn a_contradiction_is_looked_for_only_between_known_values() {
    let fault = one_fault("delivery.max_in_flight = 2000\nqueue.capacity = 'many'");
    assert!(fault.starts_with("queue.capacity: expected a whole number"));

    let given = Given::toml("[delivery]\nmax_in_flight = 50\nconcurrency =").env("CERTHOOKD_QUEUE__CAPACITY", "100");
    let faults = given.faults();
    assert!(faults.iter().all(|fault| fault.contains("expected TOML")), "{faults:?}");
}

#[test]
fn a_file_that_cannot_be_read_or_parsed() {
    let mut given = Given::nothing().env("CERTHOOKD_QUEUE__CAPACITY", "many");
    given.file = Some(given.directory.path().join("absent.toml"));
    let faults = given.faults();
    assert!(
        faults[0].starts_with("absent.toml: expected a readable file: No such file"),
        "{faults:?}"
    );
    assert!(faults[1].starts_with("queue.capacity: "), "{faults:?}");

    let faults = Given::toml("[scan]\non_start = yes\n\n[queue\n").faults();
    assert!(
        faults[0].contains("expected TOML: ") && faults[0].ends_with("config.toml:2)"),
        "{faults:?}"
    );
    assert!(
        faults.iter().any(|fault| fault.ends_with("config.toml:4)")),
        "{faults:?}"
    );
}
