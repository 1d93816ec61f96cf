//! Why there is no award.

use bson::{DateTime, RawDocument, doc};

use super::{Known, Note, instant, is_kept, note as of, wanting};
use crate::model::EventType;
use crate::platform::badge_user;
use crate::store::{LEASE, Result, Store};

/// Nothing, if the outbox tells of it.
pub(super) async fn note(
    store: &Store,
    document: &RawDocument,
    organization: Option<&str>,
    known: &Known<'_>,
) -> Result<Option<Note>> {
    if !badge_user::is_awarded(document) {
        let text = "it has no creationDate: it was not awarded yet";
        return Ok(Some(of("not_awarded", text)));
    }
    let Ok(at) = document.get_datetime("creationDate") else {
        let text = "`creationDate` is not a date: its award can't be an event";
        return Ok(Some(of("odd_creation_date", text)));
    };
    let kind = EventType::CertificateCompleted;
    if organization.is_none() || is_kept(document, kind, at, known) {
        return Ok(None);
    }
    let (code, why) = match known.config.completions.enabled {
        true => of_stream(store, at).await?,
        false => (
            "awards_off",
            "its award is not told of: completions.enabled is false".into(),
        ),
    };
    Ok(Some(of(code, why + &wanting(organization, kind, known))))
}

/// By where the change stream is, and when it was first watched.
async fn of_stream(store: &Store, at: DateTime) -> Result<(&'static str, String)> {
    let (state, when) = (store.state(), instant(at));
    let Some(position) = state.find_one(doc! { "_id": "watch" }).await? else {
        let text = format!(
            "it was awarded at {when}, and no instance has watched for awards yet: those from before that are not told of"
        );
        return Ok(("award_before_start", text));
    };
    let lease = state.find_one(doc! { "_id": LEASE }).await?;
    let since = lease.and_then(|lease| lease.get_datetime("watchedSince").ok().copied());
    let moved = position.get_datetime("at").ok().copied();
    Ok(match (since, moved) {
        (Some(since), _) if at < since => {
            let since = instant(since);
            let text = format!(
                "it was awarded at {when}, before awards were first watched for ({since}): those are not told of"
            );
            ("award_before_start", text)
        }
        (_, Some(moved)) if moved < at => {
            let moved = instant(moved);
            let text = format!("its award at {when} is not found yet: the change stream is at {moved}");
            ("award_ahead", text)
        }
        _ => {
            let text = format!(
                "nothing is kept of its award at {when}: no endpoint wanted it then, it is from before the first start, or its deliveries ended \
                 longer ago than delivery.retention"
            );
            ("award_not_sent", text)
        }
    })
}
