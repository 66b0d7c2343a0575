//! Serves the log to replicas.

mod registry;

pub use registry::{MAX_GONE, Registry, Replica, ReplicaIdentity, ReplicaState};
