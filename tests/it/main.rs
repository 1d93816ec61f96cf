//! Integration tests over real parts: a real mongod replica set, real sockets, real signals, the real binary.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod bed;

mod delivery;
mod guard;
mod sandbox;

mod cluster;
mod dead_letters;
mod demo;
mod oauth;
mod pipeline;
mod precise;
mod stream;
