//! Documents that MongoDB refuses to change, as a validator does with those that were there before it: left alone for a growing
//! pause, while the others of their endpoint go on.

use std::time::Instant;

use bson::{Bson, RawDocumentBuf};
use tracing::error;

use super::Outbox;
use super::versions::raw;
use crate::model::EndpointKey;
use crate::store::{Error, Kind};

impl Outbox {
    /// The documents of that endpoint that are left alone now.
    pub(super) fn left_alone(&self, endpoint: &EndpointKey) -> Vec<Bson> {
        let refused = self.refused.lock();
        let of_endpoint = refused.at(Instant::now()).filter(|(of, _)| of == endpoint);
        of_endpoint.map(|(_, id)| id.clone()).collect()
    }

    /// Whether that error is a single document's own, of those that were to be changed: then it is left alone from now on.
    pub(super) fn leave_alone(&self, endpoint: &EndpointKey, changed: &[RawDocumentBuf], error: &Error) -> bool {
        let own = matches!(error.kind(), Kind::Refused | Kind::TooLarge);
        let document = error.row().filter(|_| own).and_then(|row| changed.get(row.index));
        let id = document.and_then(|document| Bson::try_from(raw(document, "_id")).ok());
        let Some(id) = id else { return false };
        let document = id.to_string();
        let pause = self
            .refused
            .lock()
            .refused((endpoint.clone(), id), Instant::now())
            .as_secs();
        error!(%endpoint, document, %error, "MongoDB refuses to change this document of the outbox: it is left alone for {pause} s, the others go on");
        true
    }
}
