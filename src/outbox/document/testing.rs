//! Batches for the unit tests of other modules.

use super::*;
use crate::model::EventType;

/// A batch of `size` small deliveries for an endpoint, read whole.
pub(crate) fn fetched(endpoint: &str, name: &str, size: u32) -> Fetched {
    let endpoint = EndpointKey::from_stored(endpoint);
    let batch = Arc::new(Batch {
        id: format!("{endpoint}/{name}").into(),
        endpoint: endpoint.clone(),
        size,
        version: AtomicI32::new(1),
        open: AtomicU32::new(size),
        in_memory: AtomicU32::new(0),
        settled: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
    });
    let delivery = |index| Delivery {
        message: Message {
            event_id: EventId::from_stored(&format!("certificate_expired_{name}-{index}_0")),
            event_type: MessageType::Event(EventType::CertificateExpired),
            body: Bytes::from_static(b"{}"),
            is_replay: false,
        },
        endpoint: endpoint.clone(),
        attempt: 1,
        first_attempt_at: None,
        redriven: false,
        begun: 0,
        occurred_at: DateTime::from_millis(0),
        certificate: RawBson::Null,
        batch: Arc::clone(&batch),
        index,
    };
    Fetched {
        deliveries: (0..size).map(delivery).collect(),
        batch,
        class: Class::Live,
        due: DateTime::from_millis(0),
        rest: None,
    }
}
