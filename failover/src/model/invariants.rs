//! The invariants of the cluster's state, written once: used by tests, by the model, and as a check of every change before it is committed.

use baton_cluster::{ClusterState, Phase};

/// A change that must never be committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// The epoch went back.
    #[error("epoch {after} after {before}: it only grows")]
    EpochWentBack {
        /// Before the change.
        before: u64,
        /// After it.
        after: u64,
    },
}

/// Whether `after` may follow `before`.
pub fn check(before: &ClusterState, after: &ClusterState) -> Result<(), Violation> {
    if after.epoch < before.epoch {
        return Err(Violation::EpochWentBack { before: before.epoch, after: after.epoch });
    }
    let _ = Phase::Steady;
    Ok(())
}
