use super::*;

#[test]
fn the_defaults_are_those_that_operators_rely_on() {
    let Config {
        mongodb,
        scan,
        completions,
        queue,
        delivery,
        email,
        service,
        telemetry,
        ..
    } = Given::nothing().config();
    assert_eq!(mongodb.uri.expose_secret(), DEFAULT_URI);
    assert_eq!(
        [mongodb.database, mongodb.badge_users, mongodb.member_configs],
        ["beedeez", "badgeusers", "memberconfigs"]
    );
    assert_eq!(scan.schedule.as_str(), "0 * * * * *");
    assert_eq!(
        (scan.timezone, scan.not_before, scan.batch_size),
        (chrono_tz::UTC, None, 1000)
    );
    assert!(scan.on_start && scan.ensure_indexes && completions.enabled && !delivery.allow_http);
    assert!(delivery.keep_responses);
    assert_eq!(
        (queue.capacity, delivery.concurrency, delivery.max_in_flight),
        (1024, 5, 256)
    );
    assert_eq!((delivery.max_attempts, delivery.retry_window.as_secs()), (100, 600));
    assert_eq!(delivery.retention.as_secs(), 30 * 86_400);
    assert_eq!(delivery.payload_retention, None);
    assert_eq!(
        (delivery.allow_networks.len(), delivery.source.as_bytes()),
        (0, &b"beedeez"[..])
    );
    assert!(email.smtp_url.is_none() && email.from.is_none());
    assert_eq!(
        [email.users, email.address_field],
        ["users".to_owned(), "email".to_owned()]
    );
    assert_eq!(service.shutdown_grace.as_secs(), 20);
    assert_eq!(service.metrics_listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(telemetry.otlp_endpoint, None);
}

#[test]
fn an_empty_file_and_the_shipped_file_give_the_defaults() {
    let defaults = all_of(&Given::nothing().config());
    assert_eq!(all_of(&Given::toml("").config()), defaults);
    assert_eq!(all_of(&Given::toml(SHIPPED).config()), defaults);
    let with_uri = SHIPPED.replace("#uri =", "uri =");
    assert_eq!(all_of(&Given::toml(&with_uri).config()), defaults);
}

#[test]
fn the_shipped_file_lists_every_key_and_no_other() {
    let all: toml::Table = settings_of(SHIPPED, true).parse().unwrap();
    let listed = all.iter().flat_map(|(section, table)| {
        let keys = table.as_table().unwrap().keys();
        keys.map(move |key| format!("{section}.{key}"))
    });
    let mut listed: Vec<String> = listed.collect();
    let mut known: Vec<&str> = keys().collect();
    listed.sort();
    known.sort_unstable();
    assert_eq!(listed, known);
}

const EVERY_KEY: &str = r#"
        mongodb = { uri = "mongodb+srv://db.test", database = "b", badge_users = "u", member_configs = "m" }
        completions.enabled = false
        queue.capacity = 10
        [scan]
        schedule = "30 0 9 * * MON-FRI"
        timezone = "Europe/Paris"
        on_start = false
        not_before = 2026-01-31T01:00:00+01:00
        ensure_indexes = false
        batch_size = 7
        [delivery]
        concurrency = 2
        max_in_flight = 10
        max_attempts = 3
        retry_window = "1h 30m"
        retention = "2d"
        redrive_for = "1d"
        suspend_after = "12h"
        wait_for = "20d"
        keep_responses = false
        payload_retention = "1d"
        allow_http = true
        allow_networks = ["10.0.0.0/8", "fd00::/8"]
        source = "other"
        [email]
        smtp_url = "smtps://mail.test"
        from = "Academy <no-reply@mail.test>"
        subject = "s"
        text = "t"
        users = "people"
        address_field = "profile.mail"
        [service]
        shutdown_grace = "0s"
        metrics_listen = ""
        [notices]
        url = "https://platform.test/hooks?key=1"
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        failing_after = "1m"
        [telemetry]
        otlp_endpoint = "http://127.0.0.1:4318"
        "#;

#[test]
fn every_key_can_be_set_in_the_file() {
    let config = Given::toml(EVERY_KEY).config();
    assert_eq!(config.mongodb.uri.expose_secret(), "mongodb+srv://db.test");
    assert_eq!(config.scan.timezone, chrono_tz::Europe::Paris);
    assert_eq!(
        config.scan.not_before,
        Some(bson::DateTime::from_millis(1_769_817_600_000))
    );
    assert_eq!(
        (
            config.queue.capacity,
            config.scan.batch_size,
            config.delivery.max_attempts
        ),
        (10, 7, 3)
    );
    assert_eq!(config.delivery.retry_window.as_secs(), 5400);
    assert_eq!(
        config.delivery.payload_retention.map(|kept| kept.as_secs()),
        Some(86_400)
    );
    assert_eq!(
        config.delivery.allow_networks,
        ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    );
    assert_eq!(
        (config.service.metrics_listen, config.service.shutdown_grace.as_secs()),
        (None, 0)
    );
    let collector = config.telemetry.otlp_endpoint.unwrap();
    assert_eq!(collector.as_str(), "http://127.0.0.1:4318/");
    let email = config.email;
    assert!(email.smtp_url.is_some());
    assert_eq!(email.from.unwrap().to_string(), "Academy <no-reply@mail.test>");
    assert_eq!([email.users, email.address_field], ["people", "profile.mail"]);
    assert_eq!(format!("{:?}{:?}", email.subject, email.text), r#""s""t""#);
    assert!(!config.completions.enabled && !config.scan.on_start && config.delivery.allow_http);
    assert!(!config.delivery.keep_responses);
    let notices = config.notices;
    assert!(notices.secret.is_some() && notices.url.is_some());
    let times = [notices.failing_after, config.delivery.suspend_after];
    assert_eq!(times.map(|time| time.as_secs()), [60, 43_200]);
}

#[test]
fn the_environment_overrides_single_keys_of_the_file() {
    let config = Given::toml("[delivery]\nconcurrency = 4\nmax_attempts = 9")
        .env("CERTHOOKD_DELIVERY__CONCURRENCY", "3")
        .env("CERTHOOKD_DELIVERY__ALLOW_NETWORKS", "10.0.0.0/8, 127.0.0.0/8")
        .env("CERTHOOKD_SCAN__ON_START", "false")
        .env("CERTHOOKD_SERVICE__METRICS_LISTEN", "")
        .config();
    assert_eq!((config.delivery.concurrency, config.delivery.max_attempts), (3, 9));
    assert_eq!(config.delivery.allow_networks.len(), 2);
    assert!(!config.scan.on_start && config.service.metrics_listen.is_none());
}

#[test]
fn variables_that_are_not_configuration_are_left_alone() {
    let given = Given::nothing()
        .env("CERTHOOKD_LOG", "debug")
        .env("PATH", "/bin")
        .env("OTHER__KEY", "1");
    assert!(given.load().is_ok());
}
