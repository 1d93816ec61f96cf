//! A throwaway platform: mongod, sample organizations and a receiver, for `certhookd demo`, the tests and the benches.
//!
//! Everything listens on loopback alone and ends with the process that started it, however that ends.

mod binary;
mod cleanup;
mod fetch;
mod mongod;
mod proxy;
mod receiver;
mod replica_set;
mod samples;

pub use binary::mongod_binary;
pub use proxy::Proxy;
pub use receiver::{End, Ended, Received, Receiver, Response};
pub use replica_set::{Options, ReplicaSet, shared};
pub use samples::{Bulk, Organization, Samples, certificate};
