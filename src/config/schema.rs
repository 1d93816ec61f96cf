//! Every key, one row each: what it means, its name, its type, its default (written as the environment would) and the
//! rule that turns a raw value into that type.

use std::net::SocketAddr;
use std::time::Duration;

use bson::DateTime;
use chrono_tz::Tz;
use croner::Cron;
use http::HeaderValue;
use ipnet::IpNet;
use lettre::message::Mailbox;
use secrecy::SecretString;
use url::Url;

use super::rules::{
    base_url, boolean, collection_name, connection_string, database_name, duration, duration_or_none, encryption_keys,
    field_path, header_value, host_names, instant, listen_address, mailbox, networks, no_proxy, notices_url, number,
    proxy_server, schedule, signing_secret, smtp_server, template, zone,
};
use super::secrets::FILE_KEYS;
use super::settings::Settings;
use super::{NoProxy, ProxyServer, SmtpServer, Template};
use crate::envelope::EncryptionKeys;

/// Turns rows into a struct with those fields, the list of its keys, and the function that reads them.
macro_rules! section {
    (
        $(#[$section_doc:meta])*
        [$section:literal] $Section:ident {
            $( $(#[$doc:meta])* $key:ident: $Type:ty = $default:literal, $rule:expr; )*
        }
    ) => {
        $(#[$section_doc])*
        #[derive(Clone, Debug)]
        pub struct $Section {
            $( $(#[$doc])* pub $key: $Type, )*
        }

        impl $Section {
            const NAME: &str = $section;
            const KEYS: &[&str] = &[$( concat!($section, ".", stringify!($key)) ),*];

            /// `None` only if a default breaks its own rule. Every key is read before any is missed: all faults show.
            pub(super) fn read(settings: &mut Settings) -> Option<Self> {
                $( let $key = settings.read(concat!($section, ".", stringify!($key)), $default, $rule); )*
                Some(Self { $( $key: $key? ),* })
            }
        }
    };
}

section! {
    /// `[mongodb]`: where the certificates are.
    ["mongodb"] Mongodb {
        /// The connection string, from `uri`, `uri_file` or the credential. Without one there is no configuration: its default
        /// replaces it while the other values are checked.
        uri: SecretString = "mongodb://none.invalid/", connection_string;
        /// The platform's database; the daemon's own collections are in it, too.
        database: String = "beedeez", database_name;
        /// The collection of BadgeUser documents.
        badge_users: String = "badgeusers", collection_name;
        /// The collection of MemberConfig documents.
        member_configs: String = "memberconfigs", collection_name;
    }
}

section! {
    /// `[scan]`: when certificates that expired are looked for.
    ["scan"] Scan {
        /// Six fields: second, minute, hour, day, month, weekday.
        schedule: Cron = "0 * * * * *", schedule;
        /// The zone in which the schedule is meant.
        timezone: Tz = "UTC", zone;
        /// Whether one scan runs at once when the daemon starts.
        on_start: bool = "true", boolean;
        /// Certificates that expired before it are left alone.
        not_before: Option<DateTime> = "", instant;
        /// Whether certificates are also scanned for at the moment they expire.
        precise: bool = "true", boolean;
        /// Whether the daemon creates the index that serves the scan.
        ensure_indexes: bool = "true", boolean;
        /// Documents read, appended and marked at a time.
        batch_size: u32 = "1000", number(1..=10_000);
    }
}

section! {
    /// `[completions]`: awarded certificates, from the change stream.
    ["completions"] Completions {
        /// Whether awards are watched for; needs a replica set.
        enabled: bool = "true", boolean;
    }
}

section! {
    /// `[queue]`: deliveries in memory.
    ["queue"] Queue {
        /// Deliveries in memory, in all.
        capacity: usize = "1024", number(1..=100_000);
    }
}

section! {
    /// `[delivery]`: how events reach the endpoints.
    ["delivery"] Delivery {
        /// Parallel requests to one endpoint.
        concurrency: usize = "5", number(1..=100);
        /// Parallel requests in all.
        max_in_flight: usize = "256", number(1..=10_000);
        /// Attempts until a delivery is a dead letter.
        max_attempts: u32 = "100", number(1..=1000);
        /// From the first attempt to the last.
        retry_window: Duration = "10m", duration("1s"..="7d");
        /// Dead letters younger than this go out again by themselves when their endpoint answers; 0 turns it off.
        redrive_for: Duration = "7d", duration("0s"..="365d");
        /// An endpoint from which nothing but failures came for this long is suspended.
        suspend_after: Duration = "5d", duration("1s"..="365d");
        /// How long deliveries wait for an endpoint that is held, suspended or out of service.
        wait_for: Duration = "30d", duration("1s"..="3650d");
        /// How long finished deliveries are kept.
        retention: Duration = "30d", duration("1h"..="3650d");
        /// Whether a failed attempt keeps the first 1 KB of its response.
        keep_responses: bool = "true", boolean;
        /// How long their payloads and bodies of responses are kept; `None`: as long.
        payload_retention: Option<Duration> = "", duration_or_none("1m"..="3650d");
        /// Whether endpoints may have `http` addresses.
        allow_http: bool = "false", boolean;
        /// Networks that may be delivered to although their addresses are blocked otherwise.
        allow_networks: Vec<IpNet> = "", networks;
        /// The forward proxy, from `proxy`, `proxy_file` or the credential; `None`: endpoints are reached directly.
        proxy: Option<ProxyServer> = "", proxy_server;
        /// Who is reached without the proxy.
        no_proxy: NoProxy = "", no_proxy;
        /// Becomes `X-Webhook-Source`.
        source: HeaderValue = "beedeez", header_value;
    }
}

section! {
    /// `[secrets]`: what endpoints' encrypted values are decrypted with.
    ["secrets"] Secrets {
        /// The keys, from `key`, `key_file` or the credential; the first encrypts.
        key: EncryptionKeys = "", encryption_keys;
    }
}

section! {
    /// `[email]`: reminders to the users of certificates that expired.
    ["email"] Email {
        /// The mail server, from `smtp_url`, `smtp_url_file` or the credential; `None` turns reminders off.
        smtp_url: Option<SmtpServer> = "", smtp_server;
        /// Their sender.
        from: Option<Mailbox> = "", mailbox;
        /// Their subject.
        subject: Template = "Your certificate {{ certificate.ruleData.name }} has expired", template;
        /// Their text.
        text: Template = "Hello,\n\nyour certificate {{ certificate.ruleData.name }} expired on \
            {{ certificate.expires[:10] }}.\n", template;
        /// The collection of users.
        users: String = "users", collection_name;
        /// The field of a user that holds the address, dots between its parts.
        address_field: String = "email", field_path;
    }
}

section! {
    /// `[service]`: the daemon itself.
    ["service"] Service {
        /// How long a stop waits for what is in flight.
        shutdown_grace: Duration = "20s", duration("0s"..="10m");
        /// Where metrics are served; `None` turns it off.
        metrics_listen: Option<SocketAddr> = "127.0.0.1:9464", listen_address;
        /// Names under which it may be asked there, besides addresses and localhost: lower case, as in the DNS.
        allowed_hosts: Vec<String> = "", host_names;
        /// Whether the status page is served there.
        page: bool = "true", boolean;
        /// Whether the metrics are served there.
        metrics: bool = "true", boolean;
        /// Whether each start holds everything: for copies of a production database.
        start_held: bool = "false", boolean;
    }
}

section! {
    /// `[operations]`: what operators and the back office ask for.
    ["operations"] Operations {
        /// How long operations that have ended are kept.
        retention: Duration = "400d", duration("1h"..="3650d");
    }
}

section! {
    /// `[notices]`: what the platform is told about endpoints.
    ["notices"] Notices {
        /// Where it is told; `None`: it isn't.
        url: Option<Url> = "", notices_url;
        /// What notices are signed with, from `secret`, `secret_file` or the credential.
        secret: Option<SecretString> = "", signing_secret;
        /// It is told of an endpoint that has failed for this long.
        failing_after: Duration = "15m", duration("1s"..="7d");
    }
}

section! {
    /// `[telemetry]`: traces.
    ["telemetry"] Telemetry {
        /// The collector of traces, without `/v1/traces`; `None` turns them off.
        otlp_endpoint: Option<Url> = "", base_url;
    }
}

/// The sections' names, as in the file.
pub(super) const SECTIONS: [&str; 11] = [
    Mongodb::NAME,
    Scan::NAME,
    Completions::NAME,
    Queue::NAME,
    Delivery::NAME,
    Secrets::NAME,
    Email::NAME,
    Service::NAME,
    Operations::NAME,
    Notices::NAME,
    Telemetry::NAME,
];

/// Every key that may be given, as `section.key`. Those that name a file have no field: what it holds becomes another's value.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    [
        Mongodb::KEYS,
        FILE_KEYS,
        Scan::KEYS,
        Completions::KEYS,
        Queue::KEYS,
        Delivery::KEYS,
        Secrets::KEYS,
        Email::KEYS,
        Service::KEYS,
        Operations::KEYS,
        Notices::KEYS,
        Telemetry::KEYS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
