//! The status page and those that it leads to: HTML documents, made where they are asked for, without script and without anything from
//! elsewhere.
//!
//! What comes from outside (names, ids, reasons, responses) is escaped by the templates and stripped of what could turn or break a line.

mod endpoint;
mod frame;
mod links;
mod picture;
mod rows;
mod show;
mod view;
mod words;

use bson::DateTime;
use minijinja::Error;

use crate::metrics::{Minute, Working};
use crate::status::Status;

use frame::fill;
use view::View;
use words::{moment, seconds, span};

pub use endpoint::{OnePage, Unknown};
pub use frame::Frame;
pub use show::Shown;

/// The stylesheet, served beside the page.
pub const STYLE: &str = include_str!("page/style.css");

/// What a browser may do with a page: load that stylesheet, and send its form back here.
pub const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

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

/// The page. `unready` says why the instance does not do its work; `own` is there once it has found its database, `status` once that
/// has responded.
///
/// # Errors
/// The template does not fit its values, which a test would find.
pub fn render(unready: Option<&str>, own: Option<&Own>, status: Option<&Status>) -> Result<String, Error> {
    let instance = own.map(|own| {
        let up = span(seconds(own.now.saturating_duration_since(own.since)));
        format!("instance {}, up for {up} · {} UTC", own.id, moment(own.now))
    });
    let frame = Frame {
        unready: unready.map(str::to_owned),
        instance,
        is_renewed: true,
    };
    let body = fill(include_str!("page/page.html"), View::of(own, status))?;
    frame.around(unready.unwrap_or_default(), "", "", body)
}
