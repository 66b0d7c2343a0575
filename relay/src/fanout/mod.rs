//! Serves the log to replicas.
//!
//! Owns the replication port: logins, the statements that a source answers, start positions, streams, and the list of who is attached.
//! Promises: nothing beyond the log's head goes out; a slow client slows nobody else, and its memory is bounded.

mod acks;
mod dump;
mod emit;
mod frames;
mod gap;
mod headers;
mod held;
mod names;
mod pieces;
mod registry;
mod request;
mod server;
mod session;
mod shared;
mod sql;
mod stand_in;
mod start;

pub use registry::{MAX_GONE, Registry, Replica, ReplicaIdentity, ReplicaState};
pub(crate) use request::{MIRROR_VARIABLE, RELAY_VARIABLE};
pub use server::{Options, Shared, serve};
