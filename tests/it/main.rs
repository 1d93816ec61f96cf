//! Integration tests over real parts: a real mongod replica set, real sockets, real signals, the real binary.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod bed;

mod delivery;
mod guard;
mod sandbox;

mod bad_input;
mod check;
mod cli;
mod cluster;
mod dead_letters;
mod demo;
mod directory;
mod email;
mod events;
mod oauth;
mod pipeline;
mod plan;
mod precise;
mod race;
mod receivers;
mod scan;
mod send_test;
mod signals;
mod standard_webhooks;
mod statistics;
mod stream;
mod traces;
mod web;

mod crash;
mod isolation;
mod kill_points;
mod lanes;
mod lost_claim;
mod metrics;
mod outage;
mod outbox;
mod page;
mod random;
mod retries;
mod shutdown;
mod standalone;
