//! Who is to be promoted: the freshest; among equals one that clients can reach, then the one with the highest priority, then the one at the same site. Everybody else with the
//! reason why not.

use std::collections::BTreeMap;

use super::verdict::agent;
use super::{Rejected, position};
use crate::model::{AgentFacts, ClusterFacts, MysqldState, NodeFacts, ReplicationStatus, ServerRole, ServerStatus};

/// What is asked of a candidate.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The position that it must be able to reach.
    pub tail: &'a str,
    /// Whether `tail` is final: nothing beyond it was ever acknowledged.
    pub is_final: bool,
    /// The node that is replaced.
    pub old: Option<&'a str>,
    /// Whether that node itself may be chosen, having been blocked in good order.
    pub old_too: bool,
    /// Candidates that failed in this operation, with the reason.
    pub failed: &'a BTreeMap<String, String>,
    /// The relay whose log ends with `tail`, once that is final.
    pub teller: Option<&'a str>,
}

/// What came of the choice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// Those that could be promoted, the best first.
    pub fit: Vec<String>,
    /// The others.
    pub rejected: Vec<Rejected>,
}

impl Choice {
    /// The one to promote.
    pub fn best(&self) -> Option<&str> {
        self.fit.first().map(String::as_str)
    }

    /// Why `node` is not fit; none if it is, or is not known.
    pub fn why_not(&self, node: &str) -> Option<&str> {
        self.rejected.iter().find(|r| r.node == node).map(|r| r.why.as_str())
    }

    /// All reasons in one sentence.
    pub fn summary(&self) -> String {
        if self.rejected.is_empty() {
            return "there is no other node".to_owned();
        }
        self.rejected.iter().map(|r| format!("{}: {}", r.node, r.why)).collect::<Vec<_>>().join("; ")
    }
}

/// Chooses.
pub fn choose(facts: &ClusterFacts, wanted: &Wanted<'_>) -> Choice {
    let site = wanted.old.and_then(|n| facts.nodes.get(n)).map(|n| n.record.site.as_str()).unwrap_or_default();
    let mut choice = Choice::default();
    let mut ranked = Vec::new();
    for (name, node) in &facts.nodes {
        match why_not(name, node, facts, wanted) {
            Some(why) => choice.rejected.push(Rejected { node: name.clone(), why }),
            None => {
                let (applied, received) = positions(node);
                let record = &node.record;
                ranked.push((
                    position::behind(&received, wanted.tail),
                    position::behind(&applied, wanted.tail),
                    is_cut_off(facts, name),
                    std::cmp::Reverse(record.priority),
                    record.site != site,
                    name.clone(),
                ));
            }
        }
    }
    ranked.sort();
    choice.fit = ranked.into_iter().map(|r| r.5).collect();
    choice
}

/// Whether clients can't reach the virtual IP there, as far as the node's agent can tell.
pub(super) fn is_cut_off(facts: &ClusterFacts, node: &str) -> bool {
    facts.nodes.get(node).and_then(agent).is_some_and(|status| status.carrier == Some(false))
}

/// What the node's server has applied, and what it has applied or received.
fn positions(node: &NodeFacts) -> (String, String) {
    let Some(server) = agent(node).and_then(|a| a.server.as_ref()) else { return Default::default() };
    let applied = position::union(&server.gtid_binlog, &server.gtid_slave);
    let received = server.replication.as_ref().map_or(applied.clone(), |r| position::union(&applied, &r.received));
    (applied, received)
}

fn why_not(name: &str, node: &NodeFacts, facts: &ClusterFacts, wanted: &Wanted<'_>) -> Option<String> {
    let is_old = wanted.old == Some(name);
    if is_old && !wanted.old_too {
        return Some("it is the one to be replaced".to_owned());
    }
    if let Some(why) = wanted.failed.get(name) {
        return Some(format!("it failed in this operation: {why}"));
    }
    if node.record.priority == 0 {
        return Some("its priority is 0".to_owned());
    }
    let status = match node.agent.as_ref().map(|seen| &seen.value) {
        Some(AgentFacts::Answers(status)) => status,
        _ if node.record.has_no_agent() => return Some("its server does not answer".to_owned()),
        Some(AgentFacts::Refused) => return Some("connections to its agent are refused".to_owned()),
        Some(AgentFacts::Silent) => return Some("its agent does not answer".to_owned()),
        None => return Some("its agent was never seen".to_owned()),
    };
    // Both: after an outage of etcd one of them is so for a moment everywhere.
    if !node.announced && status.etcd_ok == Some(false) {
        return Some("its agent does not reach etcd, which it has to ask before it serves".to_owned());
    }
    match status.mysqld {
        MysqldState::Running => {}
        MysqldState::Silent => return Some("its server does not answer".to_owned()),
        MysqldState::Dead => return Some("its server does not run".to_owned()),
        MysqldState::Waiting => return Some("its server waits to be started".to_owned()),
    }
    let Some(server) = &status.server else { return Some("its server does not answer its agent".to_owned()) };
    if let Some(why) = unfit_role(status.role, is_old) {
        return Some(why);
    }
    if status.is_cloning() {
        return Some("its data is being replaced".to_owned());
    }
    if status.disk_ok == Some(false) {
        return Some("its disk does not take writes".to_owned());
    }
    if let Some(first) = server.unmet.first() {
        return Some(format!("it lacks what Baton needs: {first}"));
    }
    if let Some(surplus) = surplus(server, facts, wanted) {
        return Some(format!("it has transactions of its own: {surplus}"));
    }
    unfit_replication(node, server, facts, wanted)
}

fn unfit_role(role: ServerRole, is_old: bool) -> Option<String> {
    match role {
        ServerRole::Replica => None,
        ServerRole::Primary if is_old => None,
        // An interrupted promotion may have left it so.
        ServerRole::Primary => None,
        ServerRole::Fenced => Some("it is fenced and does not follow yet".to_owned()),
        ServerRole::Unassigned => Some("it has not been taken into the cluster yet".to_owned()),
        ServerRole::Diverged => Some("it has diverged: batonctl rejoin NODE --clone".to_owned()),
    }
}

/// What a server says that it has from its relay. A transaction is in its binlog a moment before it counts as applied, but never before it was received.
pub(super) fn replicated(server: &ServerStatus) -> String {
    let received = server.replication.as_ref().map(|r| r.received.as_str()).unwrap_or_default();
    position::union(&server.gtid_slave, received)
}

/// Transactions that the cluster's log lacks.
fn surplus(server: &ServerStatus, facts: &ClusterFacts, wanted: &Wanted<'_>) -> Option<String> {
    if wanted.is_final {
        let all = position::union(&server.gtid_binlog, &server.gtid_slave);
        return position::beyond(&all, wanted.tail);
    }
    // The relays' heads may be older than what the server says of itself, but what it replicated it names itself.
    let known = facts.relays.values().fold(replicated(server), |p, r| position::union(&p, &r.head));
    position::beyond(&server.gtid_binlog, &known)
}

fn unfit_replication(
    node: &NodeFacts,
    server: &ServerStatus,
    facts: &ClusterFacts,
    wanted: &Wanted<'_>,
) -> Option<String> {
    let (applied, received) = positions(node);
    let Some(replication) = &server.replication else {
        return (!position::covers(&applied, wanted.tail)).then(|| {
            format!("it does not replicate, and lacks {} transactions", position::behind(&applied, wanted.tail))
        });
    };
    if let Some((number, text)) = &replication.sql_error {
        return Some(format!("its applier stopped with error {number}: {text}"));
    }
    if replication.delay > 0 {
        return Some(format!("it is delayed by {} s", replication.delay));
    }
    if replication.filtered {
        return Some("it leaves out part of the data (replication filters)".to_owned());
    }
    if position::covers(&applied, wanted.tail) {
        return None;
    }
    if !replication.sql {
        return Some("its applier is stopped".to_owned());
    }
    let feeding =
        fed_by_a_living_relay(replication, facts) && !is_starved(replication, facts, wanted.tail, wanted.teller);
    (!feeding && !position::covers(&received, wanted.tail)).then(|| {
        let lacks = position::behind(&received, wanted.tail);
        match &replication.io_error {
            Some((number, text)) => {
                format!("it lacks {lacks} transactions and receives nothing: error {number}: {text}")
            }
            None => format!("it lacks {lacks} transactions, and {} does not feed it", replication.source),
        }
    })
}

/// Whether the relay that feeds it ends before `tail` and takes nothing more: it may be cut off from what it would have to be told. `teller` has it all.
pub(crate) fn is_starved(
    replication: &ReplicationStatus,
    facts: &ClusterFacts,
    tail: &str,
    teller: Option<&str>,
) -> bool {
    let source = facts.relays.iter().find(|(_, r)| r.record.replication == replication.source);
    source.is_some_and(|(name, relay)| {
        teller.is_some_and(|teller| teller != name)
            && relay.upstream != "streaming"
            && !position::covers(&relay.head, tail)
    })
}

fn fed_by_a_living_relay(replication: &ReplicationStatus, facts: &ClusterFacts) -> bool {
    let known_dead = facts.relays.values().any(|r| r.record.replication == replication.source && !r.feeds());
    // On the way: not connected yet, or connected and waiting for the first event.
    replication.io == "Yes" && !known_dead
        || matches!(replication.io.as_str(), "Connecting" | "Preparing")
            && facts.relays.values().any(|r| r.record.replication == replication.source && r.feeds())
}
