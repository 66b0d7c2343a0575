//! Decisions, by tables: what befell a healthy cluster, and what is to be done about it.

mod always;
mod choices;
mod failover;
mod problems;

use std::time::Duration;

use super::{Action, Decision, Memory, decide};
use crate::model::fixture::{healthy, ms};
use crate::model::{ClusterFacts, Policy};

/// Memory of a controller that saw the cluster healthy, and has seen it as `facts` say for `lasting`.
fn remembered(facts: &ClusterFacts, lasting: Duration, policy: &Policy) -> Memory {
    let before = Memory::default().observe(&healthy(), policy, ms(0));
    before.observe(facts, policy, ms(0)).observe(facts, policy, lasting)
}

/// What is decided when `facts` have lasted for that long.
fn after(lasting: u64, facts: &ClusterFacts, policy: &Policy) -> Decision {
    decide(facts, &remembered(facts, ms(lasting), policy), policy)
}

/// What is decided at once.
fn at_once(facts: &ClusterFacts) -> Decision {
    after(0, facts, &Policy::default())
}

fn fails_over(decision: &Decision) -> bool {
    matches!(decision.action, Action::Failover { forced: false, .. })
}

/// Why it is not done.
fn refusal(decision: &Decision) -> String {
    decision.refusing.as_ref().map(|r| r.why.clone()).unwrap_or_default()
}
