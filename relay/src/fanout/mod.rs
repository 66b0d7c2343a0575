//! Serves the log to replicas.

mod registry;

pub use registry::{Registry, Replica, ReplicaIdentity, ReplicaState};
