//! What is to be done about the cluster, and why.
//!
//! Owns the verdict on the primary and the acker, the table of problems, the choice of a candidate, the fence rule and the guard. Promises:
//! pure (ages are in the facts, time passes only through [`Memory::observe`]), the same facts give the same decision, and whatever is not done
//! says why. Never does anything itself.

pub mod acker;
pub mod candidate;
pub mod fence;
pub mod guard;
pub mod memory;
pub mod position;
pub mod problem;
mod steady;
#[cfg(test)]
mod tests;
pub(crate) mod upkeep;
pub mod verdict;

pub use memory::Memory;
pub use problem::{Problem, Severity};
pub use steady::preflight;

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{ClusterState, Phase};

use crate::model::{ClusterFacts, Policy};

/// Without an answer of etcd for this long nothing is decided: what would be decided could not be recorded.
pub const ETCD_STALE: Duration = Duration::from_secs(3);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing.
    Rest,
    /// Begin a failover from the node that serves or was to serve.
    Failover {
        /// Whether something that must be had before promoting is given up (`on_missing = "force-after ..."`).
        forced: bool,
        /// The node that is to be promoted if it is fit; none: the best.
        to: Option<String>,
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
    /// Orders that need no change of state: replicas to be moved.
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
    /// The primary's agent does not know that it serves: it was started while that was being decided.
    Open {
        /// The primary.
        node: String,
    },
    /// The acker holds the grant and does not receive: its account may still be locked from an earlier revocation.
    AllowAcker {
        /// The primary.
        node: String,
        /// The acker's account.
        user: String,
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

impl Decision {
    fn rest(reason: &str) -> Self {
        Self {
            action: Action::Rest,
            reason: reason.to_owned(),
            evidence: Vec::new(),
            problems: Vec::new(),
            candidate: None,
            rejected: Vec::new(),
            refusing: None,
        }
    }

    fn act(mut self, action: Action, reason: String) -> Self {
        self.action = action;
        self.reason = reason;
        self
    }

    fn refuse(mut self, refusal: Refusal) -> Self {
        self.reason.clone_from(&refusal.why);
        self.refusing = Some(refusal);
        self
    }
}

/// Decides on `facts`. `memory` is that of the moment before, brought up to date by [`Memory::observe`].
pub fn decide(facts: &ClusterFacts, memory: &Memory, policy: &Policy) -> Decision {
    Decision { problems: problem::all(facts, memory, policy), ..judge(facts, memory, policy) }
}

/// As [`decide`], without looking for problems.
pub fn judge(facts: &ClusterFacts, memory: &Memory, policy: &Policy) -> Decision {
    let Some(state) = &facts.state else {
        return Decision::rest("the cluster has no state: batonctl bootstrap --primary NODE");
    };
    let mut decision = Decision::rest("all is well");
    let choice = foreseen(state, facts);
    decision.candidate = choice.best().map(str::to_owned);
    decision.rejected.clone_from(&choice.rejected);
    if let Some(serving) = state.serving_or_next() {
        decision.evidence = verdict::sight(serving, facts, policy).evidence;
    }
    if facts.etcd_age > ETCD_STALE {
        return decision.refuse(Refusal {
            what: "change".to_owned(),
            why: format!("etcd has not answered for {} ms", facts.etcd_age.as_millis()),
            hint: "service goes on without it; look after etcd".to_owned(),
        });
    }
    if state.phase != Phase::Steady {
        return decision.act(Action::Advance, format!("an operation is under way: {}", state.cause.reason));
    }
    steady::decide(state, facts, memory, policy, &choice, decision)
}

/// Who would be promoted if it had to be now: by what the relays' logs hold at present.
fn foreseen(state: &ClusterState, facts: &ClusterFacts) -> candidate::Choice {
    let known = state.grant_holder.as_ref().and_then(|h| facts.relays.get(h)).filter(|r| r.answers);
    let tail = match (&state.tail, known) {
        (Some(tail), _) if state.phase != Phase::Steady => tail.gtid.clone(),
        (_, Some(relay)) => relay.head.clone(),
        (_, None) => facts.relays.values().fold(String::new(), |p, r| position::union(&p, &r.head)),
    };
    let wanted = candidate::Wanted {
        tail: &tail,
        is_final: false,
        old: fence::old_primary(state),
        old_too: false,
        failed: &BTreeMap::new(),
        teller: None,
    };
    candidate::choose(facts, &wanted)
}
