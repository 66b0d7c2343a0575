//! Whether an automatic failover is allowed at all.

use super::Refusal;
use crate::model::{ClusterFacts, Policy};

/// Refuses while failover is paused, or once as many as allowed have happened in the window.
pub fn allows(facts: &ClusterFacts, policy: &Policy) -> Result<(), Refusal> {
    let refuse = |why: String, hint: &str| Err(Refusal { what: "failover".to_owned(), why, hint: hint.to_owned() });
    if facts.paused {
        return refuse("automatic failover is paused".to_owned(), "batonctl resume");
    }
    let recent = recent(facts, policy);
    if recent >= policy.guard_max as usize {
        return refuse(
            format!(
                "{recent} automatic failovers in the last {} s, and {} are allowed",
                policy.guard_window.as_secs(),
                policy.guard_max
            ),
            "find out why they happen; batonctl failover does it anyway",
        );
    }
    Ok(())
}

/// Automatic failovers within the window.
pub fn recent(facts: &ClusterFacts, policy: &Policy) -> usize {
    facts.recent_failovers.iter().filter(|age| **age < policy.guard_window).count()
}
