//! What is to be done next, as data.
//!
//! Owns every operation's order of steps: failover, switchover and its take-back, changes of acker, upkeep. Promises: a plan is derived from
//! etcd's state and from facts alone, so a successor continues wherever its predecessor stopped; every step is idempotent; intent is in etcd
//! before it is acted on. Never does anything itself, never reads a clock.

pub mod step;

pub use step::{Commit, HistoryChange, Outcome, Progress, Step};

use crate::decide::{Decision, Memory, Refusal};
use crate::model::{ClusterFacts, Policy};

/// Names that a plan writes into documents. They are recorded, never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// The controller that acts.
    pub by: &'a str,
    /// The present time, RFC 3339.
    pub now: &'a str,
}

/// The next steps, and what is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// May run side by side. Empty: nothing to do, or only waiting.
    pub steps: Vec<Step>,
    /// What an operation under way waits for; takes precedence over the decision's own refusal.
    pub waiting: Option<Refusal>,
}

/// The next steps of what was decided on `facts`.
pub fn next(
    decision: &Decision,
    facts: &ClusterFacts,
    memory: &Memory,
    progress: &Progress,
    policy: &Policy,
    stamp: Stamp<'_>,
) -> Plan {
    let _ = (decision, facts, memory, progress, policy, stamp);
    Plan::default()
}
