//! certhookd: durable webhooks for certificates, from the platform's MongoDB to the endpoints that subscribed.
//!
//! docs/internals.md has the map of the modules and one event's way through them.

mod failpoint;
pub mod model;

pub mod envelope;

pub mod config;
pub mod store;

pub mod platform;

pub mod source;

pub mod trace;

mod operations;
pub mod outbox;

mod statistics;

mod dispatch;

mod mail;
mod notices;
pub mod sender;

mod cluster;
pub mod history;
mod metrics;
mod service;
pub mod status;

mod page;

mod run;
pub use run::{Misconfigured, refuse_first_layout};

pub mod cli;

pub mod sandbox;
