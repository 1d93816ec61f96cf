//! Traces: what a collector gets, what the receivers see of it, and what is lost without a collector.

use bson::{Document, doc};
use certhookd::sandbox::{Received, Receiver, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::fixture::{Fixture, LIMIT, certificate, completed_id, expired, expired_id};

const OWN: &str = "00-11111111111111111111111111111111-2222222222222222-00";

fn exported(request: &Received) -> ExportTraceServiceRequest {
    assert_eq!(
        (&*request.path, request.header("content-type")),
        ("/v1/traces", "application/x-protobuf")
    );
    ExportTraceServiceRequest::decode(request.body.clone()).unwrap()
}

fn spans(requests: &[Received]) -> Vec<Span> {
    let resources = requests.iter().flat_map(|request| exported(request).resource_spans);
    let scopes = resources.flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

/// The value of an attribute, as text.
fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|found| found.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_event(spans: &[Span], event: &str) -> Vec<Span> {
    let spans = spans
        .iter()
        .filter(|span| attribute(&span.attributes, "certhookd.event_id") == event);
    let mut spans: Vec<_> = spans.cloned().collect();
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans
}

/// An endpoint that sets a `traceparent` of its own.
fn endpoint(fixture: &Fixture) -> Document {
    let mut endpoint = fixture.endpoint("/a");
    endpoint.insert("headers", doc! { "traceparent": OWN });
    endpoint
}

#[tokio::test]
async fn one_trace_leads_from_scan_or_award_to_the_response_whichever_daemon_gets_it() {
    let collector = Receiver::start().unwrap();
    let settings = format!("telemetry.otlp_endpoint = \"{}\"", collector.url(""));
    let fixture = Fixture::new().await.with(&settings);
    let endpoint = endpoint(&fixture);
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let later = Response::status(StatusCode::SERVICE_UNAVAILABLE).header(RETRY_AFTER, HeaderValue::from_static("2"));
    fixture.receiver.script("/a", [later, Response::ok()]);
    let scanned = expired(organization);
    fixture.badge_users().insert_one(&scanned).await.unwrap();
    let mut first = fixture.daemon().await;
    fixture
        .wait_for_deliveries(doc! { "state": "pending", "attempts": 1 }, 1)
        .await;
    assert!(first.stop().await.success());
    assert_eq!(spans(&collector.requests()).len(), 2, "what is left is sent at the end");
    let mut second = fixture.daemon().await;
    fixture.wait_for(|requests| requests.len() == 2).await;
    let awarded = certificate(organization, None);
    fixture.badge_users().insert_one(&awarded).await.unwrap();
    let requests = fixture.wait_for(|requests| requests.len() == 3).await;
    collector
        .wait_for(|requests| spans(requests).len() == 5, LIMIT)
        .await
        .unwrap();
    assert!(second.stop().await.success());

    let spans = spans(&collector.requests());
    let [found, failed, delivered] = of_event(&spans, &expired_id(&scanned)).try_into().unwrap();
    let hash = Sha256::digest(expired_id(&scanned));
    for (span, request) in [(&failed, &requests[0]), (&delivered, &requests[1])] {
        assert_eq!(hex(&span.trace_id), hex(&hash[..16]), "derived from the event's id");
        assert_eq!(span.parent_span_id, found.span_id);
        assert!(found.start_time_unix_nano <= span.start_time_unix_nano);
        let parent = format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
        assert_eq!(request.header("traceparent"), parent);
        assert_eq!(request.headers.get_all("traceparent").iter().count(), 1);
    }
    assert_eq!(
        (&*found.name, found.trace_id),
        ("certificate_expired", failed.trace_id.clone())
    );
    assert!(found.parent_span_id.is_empty() && failed.span_id != delivered.span_id);
    let told =
        |span: &Span| ["attempt", "outcome"].map(|name| attribute(&span.attributes, &format!("certhookd.{name}")));
    assert_eq!(
        (told(&failed), told(&delivered)),
        (["1", "failed"].map(Into::into), ["2", "delivered"].map(Into::into))
    );
    let status = failed.status.clone().unwrap();
    assert_eq!((status.code(), &*status.message), (SpanStatus::Error, "status 503"));
    assert_eq!(attribute(&delivered.attributes, "http.response.status_code"), "200");
    assert_eq!(
        attribute(&delivered.attributes, "certhookd.organization"),
        organization.to_hex()
    );
    assert!(delivered.end_time_unix_nano >= delivered.start_time_unix_nano);

    let [found, delivered] = of_event(&spans, &completed_id(&awarded)).try_into().unwrap();
    assert_eq!(
        (&*found.name, &found.span_id),
        ("certificate_completed", &delivered.parent_span_id)
    );
    let exports: Vec<_> = collector.requests().iter().map(exported).collect();
    let resource = exports[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), "certhookd");
    let address = fixture.receiver.url("");
    assert!(
        !format!("{exports:?}").contains(address.trim_start_matches("http://")),
        "no URL in a span"
    );
}

#[tokio::test]
async fn a_collector_that_is_away_costs_one_warning_and_no_delivery() {
    // Nobody listens on port 1.
    let settings = "telemetry.otlp_endpoint = \"http://127.0.0.1:1\"\ncompletions.enabled = false";
    let fixture = Fixture::new().await.with(settings);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    let lost = |line: &serde_json::Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("the collector does not take traces")
    };
    for total in [1, 2] {
        fixture.badge_users().insert_one(expired(organization)).await.unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGUSR1);
        fixture
            .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, total)
            .await;
        daemon.wait_for(lost).await;
    }
    assert!(daemon.stop().await.success());
    assert_eq!(daemon.count(lost), 1);
    let warning = daemon.wait_for(lost).await;
    assert_eq!(
        (&warning["level"], warning["message"].as_str().unwrap().contains("://")),
        (&"WARN".into(), false)
    );
}

#[tokio::test]
async fn without_a_collector_a_request_bears_what_its_endpoint_sets() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture
        .organization(vec![endpoint(&fixture), fixture.endpoint("/b")])
        .await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let _daemon = fixture.daemon().await;
    let mut requests = fixture.wait_for(|requests| requests.len() == 2).await;
    requests.sort_by(|a, b| a.path.cmp(&b.path));
    let sent: Vec<_> = requests.iter().map(|request| request.header("traceparent")).collect();
    assert_eq!(sent, [OWN, ""]);
}
