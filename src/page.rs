//! The status page: one HTML document, made where it is asked for, without script and without anything from elsewhere.
//!
//! What comes from outside (endpoints' names, reasons) is escaped by the template and stripped of what could turn or break a line.

mod picture;
mod rows;
mod view;
mod words;

use bson::DateTime;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error};

use crate::metrics::{Minute, Working};
use crate::status::Status;

use view::View;

/// The stylesheet, served beside the page.
pub const STYLE: &str = include_str!("page/style.css");

/// What a browser may do with the page: load that stylesheet, and nothing else.
pub const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the page shows of the instance that serves it.
#[derive(Debug)]
pub struct Own {
    pub id: String,
    /// By the database's clock.
    pub now: DateTime,
    pub since: DateTime,
    pub working: Working,
    pub minutes: Vec<Minute>,
}

/// Its name ends in `.html`, so that every value is escaped as HTML.
const NAME: &str = "page.html";

/// The page. `unready` says why the instance does not do its work; `own` is there once it has found its database, `status` once that
/// has responded.
///
/// # Errors
/// The template does not fit its values, which a test would find.
pub fn render(unready: Option<&str>, own: Option<&Own>, status: Option<&Status>) -> Result<String, Error> {
    let view = View::of(unready, own, status);
    Environment::new().render_named_str(NAME, include_str!("page/page.html"), Value::from(Serde(view)))
}
