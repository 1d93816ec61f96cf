//! What every receiver of the page does, seen from the sender.

use certhookd::model::{EventId, EventType, Message, MessageType, Outcome};
use certhookd::platform::Endpoint;
use http::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::sender::support::{self, BODY, Received, delivered, endpoint, failure, message, now};

pub(super) const PATH: &str = "/webhooks/certificates";
pub(super) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Sends to the receiver at `url` and checks its responses; `handled` waits for the next event that it worked on.
pub(super) async fn check(url: &str, mut handled: impl AsyncFnMut() -> String) {
    assert_eq!(delivered(send(url, &[SECRET], &message()).await), 204);
    assert_eq!(handled().await, "certificate_expired: 674700000000000000000001");

    assert_eq!(failure(send(url, &[OTHER], &message()).await).status, Some(401));
    assert_eq!(failure(send(url, &[], &message()).await).status, Some(401));
    assert_eq!(tampered(url).await, "401");

    // Samples are accepted, and not worked on.
    for (event_type, certificate) in [("expired", 1), ("completed", 2), ("expired", 1)] {
        let sample = Message {
            event_id: EventId::from_stored(&format!(
                "certificate_{event_type}_67470000000000000000009{certificate}_1732703400000"
            )),
            event_type: MessageType::parse(&format!("certificate_{event_type}")).unwrap(),
            ..message()
        };
        assert_eq!(delivered(send_sample(url, &sample).await), 204);
    }

    // The same once more, and another one while the secret is being changed: just that one is worked on.
    assert_eq!(delivered(send(url, &[SECRET], &message()).await), 204);
    let another = Message {
        event_id: EventId::from_stored("certificate_completed_674700000000000000000001_1732703400000"),
        event_type: EventType::CertificateCompleted.into(),
        ..message()
    };
    assert_eq!(delivered(send(url, &[OTHER, SECRET], &another).await), 204);
    assert_eq!(handled().await, "certificate_completed: 674700000000000000000001");
}

/// As `certhookd send-test` does.
async fn send_sample(url: &str, message: &Message) -> Outcome {
    let mut endpoint = Endpoint {
        signing_secrets: vec![SECRET.into()],
        ..endpoint(url)
    };
    let (name, value) = (
        HeaderName::from_static("x-webhook-test"),
        HeaderValue::from_static("true"),
    );
    endpoint.headers.insert(name, value);
    support::client().attempt(&endpoint, message, now()).await
}

async fn send(url: &str, secrets: &[&str], message: &Message) -> Outcome {
    let endpoint = Endpoint {
        signing_secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        ..endpoint(url)
    };
    support::client().attempt(&endpoint, message, now()).await
}

/// Sends a genuine request whose body was changed on the way. Returns the response's status.
async fn tampered(url: &str) -> String {
    let genuine = genuine().await;
    let (address, _) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut request = format!("POST {PATH} HTTP/1.1\r\n");
    for (name, value) in &genuine.headers {
        request += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    request += &format!("connection: close\r\n\r\n{}", BODY.replace("2024", "2034"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response.split(' ').nth(1).unwrap().to_owned()
}

async fn genuine() -> Received {
    let recorder = support::receiver().await;
    delivered(send(&recorder.url(), &[SECRET], &message()).await);
    recorder.requests().remove(0)
}
