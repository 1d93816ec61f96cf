//! The e-mail address of a certificate's user.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use lettre::Address;
use serde_json::Value;

use super::Unsent;
use crate::config::{Email, ascii_domain};
use crate::store::{Error, Store};

/// The address of the certificate's user, as it is now.
pub(super) async fn address(store: &Store, email: &Email, certificate: &Value) -> Result<Address, Unsent> {
    let permanent = |reason: String| Unsent::Permanent(reason.into());
    let id = id(&certificate["_userId"]).ok_or_else(|| permanent("the certificate names no user".into()))?;
    let field = &email.address_field;
    let user = read(store, &email.users, doc! { "_id": id }, field).await?;
    let text = find(&user, field).ok_or_else(|| permanent(format!("the user has no `{field}`")))?;
    let address = text.trim().parse().ok();
    address
        .and_then(|address| ascii_domain(&address))
        .ok_or_else(|| permanent(format!("the user's `{field}` is no e-mail address")))
}

async fn read(store: &Store, users: &str, filter: Document, field: &str) -> Result<Document, Unsent> {
    let users = store.database().collection::<Document>(users);
    let projection = doc! { field: 1 };
    // A task of its own: an attempt may be cut short, but a driver's future is never dropped.
    let found = tokio::spawn(async move { users.find_one(filter).projection(projection).await }).await;
    let transient = |reason| Unsent::Transient(format!("the user can't be read: {reason}").into());
    match found {
        Ok(Ok(user)) => user.ok_or(Unsent::NoUser),
        Ok(Err(error)) => Err(transient(Error::from(error).to_string())),
        Err(error) => Err(transient(error.to_string())),
    }
}

/// What `_id` may be, as a filter: in JSON an ObjectId looks like the text of its 24 hex digits.
fn id(value: &Value) -> Option<Bson> {
    match value {
        Value::String(text) => Some(match ObjectId::parse_str(text) {
            Ok(id) => doc! { "$in": [id, text] }.into(),
            Err(_) => text.as_str().into(),
        }),
        Value::Number(number) => number.as_i64().map(Bson::from).or(number.as_f64().map(Bson::from)),
        _ => None,
    }
}

/// The text at a path of fields.
fn find<'a>(user: &'a Document, path: &str) -> Option<&'a str> {
    match path.split_once('.') {
        Some((first, rest)) => find(user.get_document(first).ok()?, rest),
        None => user.get_str(path).ok(),
    }
}
