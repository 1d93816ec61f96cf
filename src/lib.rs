//! certhookd: durable webhooks for certificates, from the platform's MongoDB to the endpoints that subscribed.
//!
//! The modules stand in the order in which an event passes them.

pub mod model;

pub mod config;

pub mod platform;

pub mod delivery;

pub mod service;
