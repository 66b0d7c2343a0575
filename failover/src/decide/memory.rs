//! What a controller remembers between two decisions: how long something has been so.

use std::time::Duration;

use crate::model::{ClusterFacts, Policy};

/// A small windowed memory. Cheap to clone; lost with the controller without harm: a successor only waits longer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    /// The epoch that the rest is about.
    pub epoch: u64,
    /// Whether the node that serves was seen alive in this epoch.
    pub seen_alive: bool,
}

impl Memory {
    /// The memory after looking at `facts`, `elapsed` after looking the last time. Call it once for each snapshot, before
    /// [`decide`](super::decide()).
    #[must_use]
    pub fn observe(&self, facts: &ClusterFacts, policy: &Policy, elapsed: Duration) -> Self {
        let _ = (policy, elapsed, facts);
        self.clone()
    }
}
