//! What must be had before another server may be made writable: invariants 1 and 2.
//!
//! Two things. **The truth**: a complete tail that holds everything that was ever acknowledged, from a relay that has promised never to
//! acknowledge for the old primary again; or, where that relay can't be had, from a standby that completed itself out of the dead primary's own
//! binlog. **The silence of the old host**: its agent says that the server is killed, or the time has passed after which it must have fenced
//! itself.

use std::time::Duration;

use baton_cluster::ClusterState;

use super::verdict::{self, agent};
use super::{Refusal, acker, position};
use crate::model::{AgentFacts, ClusterFacts, NodeFacts, Policy, SqlFacts};

/// Added to `fence_after`: for the agent to notice and to act.
pub const SELF_FENCE_MARGIN: Duration = Duration::from_millis(300);

/// How the truth can be had.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Means {
    /// The acker promises.
    Promise {
        /// The acker.
        relay: String,
    },
    /// A standby completes itself from the dead primary's binlog files.
    Rescue {
        /// The standby.
        relay: String,
        /// The node whose agent serves them.
        node: String,
    },
}

/// How the truth about the commits of the node that serves, or of `old_primary` during an operation, can be had; or what is missing.
pub fn means(facts: &ClusterFacts) -> Result<Means, Refusal> {
    let refuse = |why: String, hint: String| Err(Refusal { what: "failover".to_owned(), why, hint });
    let Some(state) = &facts.state else {
        return refuse("the cluster has no state".to_owned(), "batonctl bootstrap --primary NODE".to_owned());
    };
    let Some(holder) = &state.grant_holder else {
        return refuse(
            "no relay ever held the grant: nobody knows what was committed".to_owned(),
            "start a relay away from the primary's host; the failover waits for the primary".to_owned(),
        );
    };
    let fault = match promise_fault(state, holder, facts) {
        None => match shortfall(state, facts.relays.get(holder).map_or("", |r| r.head.as_str())) {
            None => return Ok(Means::Promise { relay: holder.clone() }),
            Some(short) => match deputy(state, holder, facts) {
                Some(_) => return Ok(Means::Promise { relay: holder.clone() }),
                None => short,
            },
        },
        Some(fault) => fault,
    };
    rescue(state, holder, &fault, facts)
}

/// The means where the acker's word does not suffice for the reason `fault`.
pub fn rescue(state: &ClusterState, holder: &str, fault: &str, facts: &ClusterFacts) -> Result<Means, Refusal> {
    rescue_by(state, holder, fault, facts, shortfall_only(state, holder, facts))
}

/// The same where the acker can't be asked for that either.
pub fn rescue_by_another(
    state: &ClusterState,
    holder: &str,
    fault: &str,
    facts: &ClusterFacts,
) -> Result<Means, Refusal> {
    rescue_by(state, holder, fault, facts, false)
}

fn rescue_by(
    state: &ClusterState,
    holder: &str,
    fault: &str,
    facts: &ClusterFacts,
    holder_too: bool,
) -> Result<Means, Refusal> {
    let refuse = |why: String, hint: String| Err(Refusal { what: "failover".to_owned(), why, hint });
    let old = old_primary(state).unwrap_or_default();
    let node = facts.nodes.get(old).filter(|n| !n.record.has_no_agent());
    let agent_answers = node.and_then(agent).is_some();
    let standby = acker::standbys(facts, state, None).into_iter().find(|s| s != holder || holder_too);
    match (agent_answers, standby) {
        (true, Some(relay)) => Ok(Means::Rescue { relay, node: old.to_owned() }),
        (true, None) => refuse(
            format!("acker {holder} {fault}, and no other relay is there to take the end of {old}'s binlog"),
            format!("waits for relay {holder}, or for another relay"),
        ),
        (false, _) => refuse(
            format!(
                "acker {holder} {fault}, and the agent of {old} does not answer: the last acknowledged commits may be nowhere else"
            ),
            format!("waits for relay {holder} or host {old}"),
        ),
    }
}

/// Whether the holder is sound and only lacks what its predecessor acknowledged: then it can complete itself like any standby.
fn shortfall_only(state: &ClusterState, holder: &str, facts: &ClusterFacts) -> bool {
    promise_fault(state, holder, facts).is_none()
}

/// What a holder that took over within the epoch still lacks of what its predecessor may have acknowledged; none if its log at `head` has all.
pub fn shortfall(state: &ClusterState, head: &str) -> Option<String> {
    let after = state.grant_after.as_deref().filter(|after| !position::covers(head, after))?;
    Some(format!("took over within the epoch and still lacks part of what was acknowledged before, up to {after}"))
}

/// Another relay whose log holds what the acker's predecessor acknowledged. Where the acker's own log does not reach that far it has acknowledged
/// nothing itself, so this one's end is the truth, once both have promised.
pub fn deputy(state: &ClusterState, holder: &str, facts: &ClusterFacts) -> Option<String> {
    let fit = acker::standbys(facts, state, Some(holder));
    fit.into_iter().find(|name| facts.relays.get(name).is_some_and(|r| shortfall(state, &r.head).is_none()))
}

/// A standby whose log goes on beyond `tail`, the acker's word, because it has completed itself from the dead primary's binlog in this operation or in one that
/// this one superseded; and the node whose agent can still prove it.
pub fn rescued_beyond(state: &ClusterState, tail: &str, facts: &ClusterFacts) -> Option<(String, String)> {
    let old = old_primary(state)?;
    let node = facts.nodes.get(old).filter(|n| !n.record.has_no_agent())?;
    agent(node)?;
    let further = |name: &String| {
        let relay = facts.relays.get(name)?;
        let more = position::covers(&relay.head, tail) && position::beyond(&relay.head, tail).is_some();
        (relay.promised > state.grant && more).then_some(())
    };
    let relay =
        acker::standbys(facts, state, state.grant_holder.as_deref()).into_iter().find(|r| further(r).is_some())?;
    Some((relay, old.to_owned()))
}

/// The node whose commits are in question: the one that serves, or the one that an operation replaces.
pub fn old_primary(state: &ClusterState) -> Option<&str> {
    state.primary.as_deref().or(state.old_primary.as_deref())
}

/// Why the acker can't give a promise that is worth something; none if it can.
pub fn promise_fault(state: &ClusterState, holder: &str, facts: &ClusterFacts) -> Option<String> {
    let Some(relay) = facts.relays.get(holder) else { return Some("is not there".to_owned()) };
    if !relay.answers {
        return Some("does not answer".to_owned());
    }
    if relay.has_lost_etcd() {
        return Some(super::acker::LOST_ETCD.to_owned());
    }
    if state.grant_log_id.as_ref().is_some_and(|id| *id != relay.log_id) {
        return Some("has lost its log: another one stands in its place".to_owned());
    }
    (!relay.complete).then(|| "has a damaged log".to_owned())
}

/// Whether policy may give up what the acker can't tell: not while the server could go on under an acker that nobody can reach, and no agent ends it.
pub fn may_be_forced(facts: &ClusterFacts) -> bool {
    let old = facts.state.as_ref().and_then(old_primary).and_then(|old| facts.nodes.get(old));
    old.is_none_or(|node| !node.record.has_no_agent() || server_refused(node))
}

fn server_refused(node: &NodeFacts) -> bool {
    node.sql.as_ref().is_some_and(|seen| seen.value == SqlFacts::Refused)
}

/// Whether the server of `node` is known not to serve any more without its agent's word: the agent must have fenced it by now, by itself.
/// Otherwise what is waited for.
pub fn silence(node: &str, facts: &ClusterFacts, policy: &Policy) -> Result<String, Refusal> {
    let what = "promotion".to_owned();
    let known = facts.nodes.get(node);
    if known.is_some_and(|n| n.record.has_no_agent()) {
        // Nobody fences it. The truth is known by now, so that has promised: nothing more completes there.
        return Ok(format!("{node} has no agent, and the acker has promised: it completes no commit"));
    }
    let silent_for = verdict::agent_silent_for(node, facts);
    // The agent's own settings, where they are longer than what the controllers were told.
    let own = |ms: fn(&baton_cluster::NodeRecord) -> Option<u64>| {
        known.and_then(|n| ms(&n.record)).map(Duration::from_millis).unwrap_or_default()
    };
    let fences = policy.fence_after.max(own(|r| r.fence_after_ms)) + SELF_FENCE_MARGIN;
    let valid_for = policy.valid_for.max(own(|r| r.valid_for_ms));
    let wait = match known.and_then(|n| n.agent.as_ref()).map(|seen| &seen.value) {
        Some(AgentFacts::Answers(_)) => {
            return Err(Refusal {
                what,
                why: format!("the agent of {node} answers and has not said yet that its server is fenced"),
                hint: format!("waits for the agent of {node}; see its log if this lasts"),
            });
        }
        // The host's kernel says that neither is there: nothing is left that could serve.
        Some(AgentFacts::Refused) if known.is_some_and(server_refused) => Duration::ZERO,
        // The server lives and its agent does not: only the kernel takes the address away.
        Some(AgentFacts::Refused) => valid_for.max(fences),
        Some(AgentFacts::Silent) | None if policy.wait_for_self_fence => fences,
        Some(AgentFacts::Silent) | None => Duration::ZERO,
    };
    if silent_for >= wait {
        return Ok(format!(
            "the agent of {node} has been silent for {} ms: it has fenced its server",
            silent_for.as_millis()
        ));
    }
    Err(Refusal {
        what,
        why: format!(
            "the agent of {node} was heard {} ms ago: it fences its server by itself within {} ms",
            silent_for.as_millis(),
            wait.as_millis()
        ),
        hint: "waits for that time to pass".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::{healthy, ms};

    #[test]
    fn an_agent_that_fences_later_than_the_controllers_were_told_is_waited_for() {
        let policy = Policy::default();
        let silent = |for_ms, fence_after_ms| {
            let mut facts = healthy();
            facts.lose_host("db-1", ms(for_ms));
            facts.node("db-1").record.fence_after_ms = fence_after_ms;
            silence("db-1", &facts, &policy).is_ok()
        };
        assert!(silent(1300, None) && silent(1300, Some(200)) && !silent(1200, Some(200)));
        assert!(!silent(4200, Some(4000)) && silent(4300, Some(4000)));
    }
}
