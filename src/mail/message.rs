//! The e-mail itself.

use bson::DateTime;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::{Address, address::Envelope, error::Error};
use serde_json::Value;

use super::Mailer;
use crate::model::EventId;

/// The longest subject, in characters.
const LONGEST_SUBJECT: usize = 200;

impl Mailer {
    /// The e-mail to `address`. Its Message-ID is that of the event, so that duplicates can be recognized (RFC 5322, 3.6.4).
    ///
    /// # Errors
    /// The template that this certificate does not fit, or what the parts lack to be an e-mail.
    pub(super) fn compose(
        &self,
        address: Address,
        event: &EventId,
        certificate: &Value,
        now: DateTime,
    ) -> Result<Message, String> {
        let render = |key, template: &crate::config::Template| {
            let rendered = template.render(certificate);
            rendered.map_err(|error| format!("email.{key} does not fit this certificate: {error}"))
        };
        let subject = one_line(&render("subject", &self.email.subject)?);
        let text = render("text", &self.email.text)?;
        let no_email = |error: Error| format!("no e-mail can be made: {error}");
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![address.clone()]).map_err(no_email)?;
        Message::builder()
            // Made from the headers, it would lose a local part's quotes.
            .envelope(envelope)
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(subject)
            .date(now.to_system_time())
            .message_id(Some(format!("<{event}@{}>", self.from.email.domain())))
            .raw_header(automatic())
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(no_email)
    }
}

/// Asks for no automatic reply (RFC 3834, 5).
fn automatic() -> HeaderValue {
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    HeaderValue::new(name, "auto-generated".to_owned())
}

/// Runs of white space become one space each, so a line break of the template's own makes no second header.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(LONGEST_SUBJECT).collect()
}
