//! Templates of e-mails, in the language of Jinja.

use std::fmt;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, context};
use serde::Serialize;

use crate::model::stays_in_line;

/// What a template can speak of.
const CERTIFICATE: &str = "certificate";
const NAME: &str = "template";

/// A template that makes sense. A value that it prints stays on its line whatever it holds, and what is absent prints as
/// nothing.
#[derive(Clone)]
pub struct Template(Environment<'static>);

impl Template {
    /// Compiles `source`.
    ///
    /// # Errors
    /// What is wrong: the syntax, an unknown filter, or a variable other than `certificate`.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_formatter(print);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| describe(&error))?;
        let template = Self(environment);
        template.check_names()?;
        Ok(template)
    }

    /// The text for a certificate.
    ///
    /// # Errors
    /// What failed and in which line, without the certificate's data.
    pub fn render(&self, certificate: impl Serialize) -> Result<String, String> {
        // The detail may quote a value.
        let reason = |error: Error| format!("{} in line {}", error.kind(), error.line().unwrap_or(0));
        self.try_render(certificate).map_err(reason)
    }

    fn try_render(&self, certificate: impl Serialize) -> Result<String, Error> {
        let certificate = Value::from(Serde(certificate));
        self.0.get_template(NAME)?.render(context! { certificate })
    }

    /// Names that nothing defines are found before the first certificate.
    fn check_names(&self) -> Result<(), String> {
        let template = self.0.get_template(NAME).map_err(|error| describe(&error))?;
        let mut names: Vec<_> = template.undeclared_variables(false).into_iter().collect();
        names.sort();
        let known = |name: &str| name == CERTIFICATE || self.0.globals().any(|(global, _)| global == name);
        if let Some(name) = names.iter().find(|name| !known(name)) {
            return Err(format!("it speaks of {name:?}, but there is only {CERTIFICATE:?}"));
        }
        match self.try_render(context! {}) {
            Err(error) if is_unknown_name(&error) => Err(describe(&error)),
            // An empty certificate lacks what a real one has.
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = self.0.get_template(NAME);
        template.as_ref().map_or("", |template| template.source()).fmt(f)
    }
}

fn is_unknown_name(error: &Error) -> bool {
    use ErrorKind::{UnknownFilter, UnknownFunction, UnknownMethod, UnknownTest};
    matches!(
        error.kind(),
        UnknownFilter | UnknownFunction | UnknownMethod | UnknownTest
    )
}

fn describe(error: &Error) -> String {
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    format!("{}{detail} in line {}", error.kind(), error.line().unwrap_or(0))
}

/// Prints a value with a space for every character that could break a line or turn the direction of the text.
fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() || value.is_none() {
        return Ok(());
    }
    let text: String = value
        .to_string()
        .chars()
        .map(|c| if stays_in_line(c) { c } else { ' ' })
        .collect();
    out.write_str(&text).map_err(Error::from)
}
