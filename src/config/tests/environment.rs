//! Variables that are nearly those of keys.

use super::*;

#[test]
fn one_that_is_nearly_a_key_s_is_told_and_ignored() {
    for (variable, meant) in [
        ("CERTHOOKD_DELIVERY_CONCURRENCY", "CERTHOOKD_DELIVERY__CONCURRENCY"),
        ("CERTHOOKD_MONGODB_URI_FILE", "CERTHOOKD_MONGODB__URI_FILE"),
        ("certhookd_delivery__concurrency", "CERTHOOKD_DELIVERY__CONCURRENCY"),
        ("Certhookd_Scan_Time_Zone", "CERTHOOKD_SCAN__TIMEZONE"),
        ("CERTHOOKD.DELIVERY.CONCURRENCY", "CERTHOOKD_DELIVERY__CONCURRENCY"),
        ("CERTHOOK_DELIVERY__CONCURRENCY", "CERTHOOKD_DELIVERY__CONCURRENCY"),
        ("CERTHOOKD_DELIVERY_CONCURENCY", "CERTHOOKD_DELIVERY__CONCURRENCY"),
        ("CERTHOOKD_SERVICE_METRICS_LISTEN", "CERTHOOKD_SERVICE__METRICS_LISTEN"),
        ("certhookd_config", "CERTHOOKD_CONFIG"),
        ("CERTHOOKD_LOGS", "CERTHOOKD_LOG"),
        ("CERTHOOKD_LOG_LEVEL", "CERTHOOKD_LOG"),
        ("CERTHOOKD_CONFIG_FILE", "CERTHOOKD_CONFIG"),
        ("CERTHOOKD_CONCURRENCY", "CERTHOOKD_DELIVERY__CONCURRENCY"),
        ("CERTHOOKD_URI", "CERTHOOKD_MONGODB__URI"),
        ("certhookd_max_in_flight", "CERTHOOKD_DELIVERY__MAX_IN_FLIGHT"),
    ] {
        let config = Given::nothing().env(variable, "3").config();
        let warning = format!("{variable}: not a key's variable and ignored; did you mean {meant}?");
        assert_eq!(config.warnings, [warning]);
        assert_eq!(config.delivery.concurrency, 5);
    }
}

#[test]
fn those_of_others_are_none_of_ours() {
    for variable in [
        "CERTHOOKD_LOG",
        "CERTHOOKD_CONFIG",
        "CERTHOOKD_PORT",
        "CERTHOOKD_SERVICE_HOST",
        "CERTHOOKD_SERVICE_PORT",
        "CERTHOOKD_SERVICE_PORT_METRICS_LISTEN",
        "CERTHOOKD_PORT_9464_TCP",
        "CERTHOOKD_PORT_9464_TCP_ADDR",
        "CERTHOOKD_METRICS_SERVICE_HOST",
        "CERTHOOKD_METRICS_PORT_9464_TCP_PROTO",
        "CERTHOOKD_A__B_SERVICE_PORT",
        "CERTHOOKD_VERSION",
        "CERTHOOKD",
        "DELIVERY__CONCURRENCY",
        "PATH",
    ] {
        assert_eq!(
            Given::nothing().env(variable, "tcp://10.0.0.1:9464").config().warnings,
            [""; 0],
            "{variable}"
        );
    }
}
