//! The parts that run once for each event or request: `cargo bench --bench hot`.
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;
use std::time::Duration;

use bson::{DateTime, RawDocumentBuf};
use certhookd::envelope::EncryptionKeys;
use certhookd::model::{EventType, Failure, Outcome};
use certhookd::outbox::{PastAttempts, transition};
use certhookd::platform::{Directory, EndpointPolicy, Event, badge_user, member_config, to_json};
use certhookd::sandbox::Samples;
use certhookd::sender::{RetryPolicy, sign};
use certhookd::source::deliveries;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const NOW: DateTime = DateTime::from_millis(1_764_239_400_000);

criterion_group!(hot, json, event, fan_out, signature, outcome);
criterion_main!(hot);

/// A certificate's BSON, as the driver hands it over, to the request's body.
fn json(criterion: &mut Criterion) {
    let document = certificate();
    let mut group = criterion.benchmark_group("json");
    group.throughput(Throughput::Bytes(document.as_bytes().len() as u64));
    group.bench_function("certificate", |b| b.iter(|| to_json(black_box(&document))));
    group.finish();
}

/// A certificate that expired to its event: the document as it will be marked, its JSON, the derived id.
fn event(criterion: &mut Criterion) {
    let document = certificate();
    criterion.bench_function("event", |b| b.iter(|| badge_user::expired(black_box(&document), NOW)));
}

/// An event to its deliveries: to the one endpoint of its organization that wants it, among all.
fn fan_out(criterion: &mut Criterion) {
    let (directory, event) = (directory(), expired());
    assert_eq!(deliveries(&directory, &event).len(), 1, "the sample has one subscriber");
    criterion.bench_function("fan-out", |b| {
        b.iter(|| deliveries(black_box(&directory), black_box(&event)))
    });
}

/// Standard Webhooks' signature, with one secret and with two, as during a rotation.
fn signature(criterion: &mut Criterion) {
    let message = expired().message;
    let secrets = [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
    ]
    .map(Into::into);
    for (name, secrets) in [
        ("signature, 1 secret", &secrets[..1]),
        ("signature, 2 secrets", &secrets[..]),
    ] {
        sign(secrets, &message, 0).expect("the secrets are good");
        criterion.bench_function(name, |b| b.iter(|| sign(black_box(secrets), &message, 1_764_239_400)));
    }
}

/// What becomes of a delivery: done, or tried again.
fn outcome(criterion: &mut Criterion) {
    let policy = RetryPolicy {
        max_attempts: 100,
        period: Duration::from_secs(600),
    };
    let delivered = Outcome::Delivered {
        status: 200,
        elapsed: Duration::from_millis(3),
        connect: None,
    };
    let failed = Outcome::TransientFailure(Failure {
        status: Some(503),
        reason: "HTTP 503".to_owned(),
        elapsed: Duration::from_millis(3),
        ..Failure::default()
    });
    let past = PastAttempts {
        attempt: 3,
        first_attempt_at: Some(NOW),
        served_since: None,
        redriven: false,
    };
    for (name, outcome) in [("transition, delivered", delivered), ("transition, retry", failed)] {
        criterion.bench_function(name, |b| {
            b.iter(|| transition(&past, black_box(&outcome), NOW, &policy, 0.5))
        });
    }
}

fn samples() -> Samples {
    Samples::new(1, "https://receiver.example")
}

/// Of the organization whose only endpoint has a signing secret.
fn certificate() -> RawDocumentBuf {
    let mut samples = samples();
    let expected = |samples: &Samples, document| samples.expected(EventType::CertificateExpired, &[document]).len();
    let certificates = samples.expired(6, NOW);
    let one = certificates
        .into_iter()
        .find(|document| expected(&samples, document.clone()) == 1);
    bson::serialize_to_raw_document_buf(&one.expect("one has a subscriber")).expect("a sample is BSON")
}

fn expired() -> Event {
    badge_user::expired(&certificate(), NOW).expect("a sample is an event")
}

fn directory() -> Directory {
    let directory = Directory::default();
    let policy = EndpointPolicy {
        allow_http: false,
        concurrency: 5,
        keys: EncryptionKeys::NONE,
    };
    let read = |(place, config)| {
        let config = bson::serialize_to_raw_document_buf(&config).expect("a sample is BSON");
        (format!("{place}"), member_config::parse(&config, &policy))
    };
    directory.replace(samples().member_configs().into_iter().enumerate().map(read).collect());
    directory
}
