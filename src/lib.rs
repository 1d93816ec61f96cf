//! certhookd: durable webhooks for certificates, from the platform's MongoDB to the endpoints that subscribed.
//!
//! The modules stand in the order in which an event passes them.

mod failpoint;
pub mod model;

pub mod config;
pub mod store;

pub mod platform;

pub mod source;

pub mod trace;

pub mod outbox;

pub mod statistics;

pub mod dispatch;

pub mod mail;
pub mod sender;

pub mod cluster;
pub mod metrics;
pub mod service;
pub mod status;

pub mod page;

pub mod run;

pub mod cli;

pub mod sandbox;
