//! What is to be done about the cluster, and why.
//!
//! Owns the verdict on the primary and the acker, the table of problems, the choice of a candidate, the fence rule and the guard. Promises:
//! pure (ages are in the facts, time passes only through [`Memory::observe`]), the same facts give the same decision, and whatever is not done
//! says why. Never does anything itself.

pub mod memory;
pub mod problem;

pub use memory::Memory;
pub use problem::{Problem, Severity};

use crate::model::{ClusterFacts, Policy};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing.
    Rest,
    /// Begin a failover from the node that serves or was to serve.
    Failover {
        /// Whether something that must be had before promoting is given up (`on_missing = "force-after ..."`).
        forced: bool,
        /// The request that asked for it; none: automatic.
        request: Option<String>,
    },
    /// Begin a switchover.
    Switchover {
        /// The node to promote.
        to: String,
        /// The request that asked for it; none: automatic.
        request: Option<String>,
    },
    /// Give the grant to a relay while the primary serves: the first one, or instead of the one that is lost.
    ChangeAcker {
        /// The relay that is to acknowledge.
        to: String,
    },
    /// An operation is under way in the state: its next steps.
    Advance,
    /// Orders that need no change of state: replicas to be moved, relays to be let in again.
    Upkeep(Vec<Upkeep>),
    /// Tell the asker no.
    RefuseRequest {
        /// The request's id.
        id: String,
        /// One sentence.
        why: String,
    },
}

/// One order of upkeep.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Upkeep {
    /// A replica is to replicate from a relay.
    Follow {
        /// The replica.
        node: String,
        /// The relay.
        relay: String,
        /// Why.
        why: String,
    },
    /// A relay that had been revoked on the primary is let in again.
    AllowAcker {
        /// The primary.
        node: String,
        /// The relay.
        relay: String,
    },
}

/// Why something that would be due is not done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// What is not done: `failover`, `switchover`, `promotion of db-2`.
    pub what: String,
    /// One sentence.
    pub why: String,
    /// What would help.
    pub hint: String,
}

/// A node that was not chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rejected {
    /// The node.
    pub node: String,
    /// Why.
    pub why: String,
}

/// What was decided, and on what grounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decision {
    /// What is to be done.
    pub action: Action,
    /// One sentence.
    pub reason: String,
    /// What was seen, a sentence each.
    pub evidence: Vec<String>,
    /// Everything that is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// Who would be promoted now, if it had to be.
    pub candidate: Option<String>,
    /// Who would not, and why.
    pub rejected: Vec<Rejected>,
    /// What is due and not done.
    pub refusing: Option<Refusal>,
}

/// Decides on `facts`. `memory` is that of the moment before, brought up to date by [`Memory::observe`].
pub fn decide(facts: &ClusterFacts, memory: &Memory, policy: &Policy) -> Decision {
    let _ = (facts, memory, policy);
    Decision {
        action: Action::Rest,
        reason: String::new(),
        evidence: Vec::new(),
        problems: Vec::new(),
        candidate: None,
        rejected: Vec::new(),
        refusing: None,
    }
}
