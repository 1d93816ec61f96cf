//! E-mail addresses as mail servers take them.

use lettre::Address;
use lettre::message::Mailbox;
use url::Host;

/// An address, with a name or without. The domain becomes ASCII.
pub(super) fn parse(text: &str) -> Option<Mailbox> {
    let mailbox: Mailbox = text.parse().ok()?;
    Some(Mailbox::new(mailbox.name, ascii_domain(&mailbox.email)?))
}

/// The address with its domain as the domain name system writes it: `xn--bcher-kva.example` for `bücher.example`. As text a domain asks
/// for SMTPUTF8 (RFC 6531), which few mail servers know. `None` for one that has no such form.
pub(crate) fn ascii_domain(address: &Address) -> Option<Address> {
    if address.domain().is_ascii() {
        return Some(address.clone());
    }
    match Host::parse(address.domain()).ok()? {
        Host::Domain(domain) => Address::new(address.user(), domain).ok(),
        _ => None,
    }
}
