//! Integration tests over real parts: a real mongod replica set, real sockets, real signals, the real binary.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod fixture;

mod guard;
mod sandbox;

mod backfill;
mod bad_input;
mod by_hand;
mod check;
mod cli;
mod cluster;
mod dead_letters;
mod demo;
mod directory;
mod email;
mod events;
mod large;
mod layout;
mod listing;
mod oauth;
mod pipeline;
mod plan;
mod precise;
mod race;
mod receivers;
mod replay;
mod scan;
mod send_test;
mod sender;
mod show;
mod signals;
mod standard_webhooks;
mod statistics;
mod status;
mod stream;
mod traces;
mod web;

mod crash;
mod endpoint_queues;
mod failpoints;
mod health;
mod history;
mod hold;
mod isolation;
mod metrics;
mod odd_documents;
mod operations;
mod outage;
mod outbox;
mod outbox_v2;
mod pace;
mod page;
mod promises;
mod random;
mod refusals;
mod retries;
mod shutdown;
mod small_cache;
mod standalone;
mod store;
mod switched_off;
mod takeover;
mod version_conflicts;
mod wake_ups;
