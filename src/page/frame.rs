//! What all pages have: the head, the state of the daemon and the search.

use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error};
use serde::Serialize;

use super::words::foreign;

/// What is around a page.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Why the instance does not do its work, if it does not.
    pub unready: Option<String>,
    /// Which instance serves it.
    pub instance: Option<String>,
    /// Whether the browser asks for it again by itself.
    pub is_renewed: bool,
}

#[derive(Debug, Serialize)]
struct View {
    version: &'static str,
    title: String,
    unready: Option<String>,
    instance: Option<String>,
    renewed: bool,
    /// Leads to the status page.
    root: &'static str,
    asked: String,
    body: Value,
}

/// The template's name ends in `.html`, so that every value is escaped as HTML.
pub(super) fn fill(template: &str, view: impl Serialize) -> Result<String, Error> {
    Environment::new().render_named_str("page.html", template, Value::from(Serde(view)))
}

impl Frame {
    /// A whole document around `body`, which is HTML already; `root` leads from it to the status page, `asked` is in the search.
    pub(super) fn around(&self, title: &str, root: &'static str, asked: &str, body: String) -> Result<String, Error> {
        let view = View {
            version: env!("CARGO_PKG_VERSION"),
            title: foreign(title),
            unready: self.unready.as_deref().map(foreign),
            instance: self.instance.as_deref().map(foreign),
            renewed: self.is_renewed,
            root,
            asked: foreign(asked),
            body: Value::from_safe_string(body),
        };
        fill(include_str!("frame.html"), view)
    }
}
