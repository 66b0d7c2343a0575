//! What is to be published, from the cluster's facts. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::Phase;

use super::slices::Rank;
use crate::model::{AgentFacts, ClusterFacts, NodeFacts, ServerRole};

/// A server that may be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of the node; of its pod too, where it is one.
    pub node: String,
    /// `host:port` of its server, the preferred path first.
    pub addresses: Vec<String>,
}

/// What a server is for; the value of the label `baton/role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves.
    Primary,
    /// It replicates.
    Replica,
    /// It is kept from committing, or becoming something else.
    Fenced,
    /// It waits for `batonctl rejoin`.
    Diverged,
    /// Nobody can say.
    Unknown,
}

impl Role {
    /// As in the label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Fenced => "fenced",
            Self::Diverged => "diverged",
            Self::Unknown => "unknown",
        }
    }
}

/// What is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// By whom and for what.
    pub rank: Rank,
    /// Who serves; nobody while the primary is fenced.
    pub primary: Option<Member>,
    /// Who may be read from, by name.
    pub replicas: Vec<Member>,
    /// Every node's role, by name.
    pub roles: BTreeMap<String, Role>,
}

impl Wanted {
    /// From what the leader of `term` knows; nothing before the cluster has a state. Replicas that lag more than `max_lag`, or of which no relay knows
    /// the lag, are left out.
    pub fn of(facts: &ClusterFacts, term: u64, max_lag: Duration) -> Option<Self> {
        let state = facts.state.as_ref()?;
        let primary = state.primary.as_ref().filter(|_| state.phase == Phase::Steady);
        let role = |name: &String, node: &NodeFacts| {
            if primary == Some(name) {
                return Role::Primary;
            }
            if state.phase != Phase::Steady && state.old_primary.as_ref() == Some(name) {
                return Role::Fenced;
            }
            match node.agent.as_ref().map(|seen| &seen.value) {
                Some(AgentFacts::Answers(status)) => match status.role {
                    // It has not heard of its successor, or waits for its first role.
                    ServerRole::Primary | ServerRole::Unassigned | ServerRole::Fenced => Role::Fenced,
                    ServerRole::Replica => Role::Replica,
                    ServerRole::Diverged => Role::Diverged,
                },
                _ => Role::Unknown,
            }
        };
        let roles: BTreeMap<String, Role> =
            facts.nodes.iter().map(|(name, node)| (name.clone(), role(name, node))).collect();
        let member = |name: &String| {
            let node = facts.nodes.get(name)?;
            Some(Member { node: name.clone(), addresses: node.record.mysql.clone() })
        };
        let readable = |name: &&String| {
            let node = facts.nodes.get(*name);
            node.is_some_and(applies) && lag(facts, name).is_some_and(|lag| lag <= max_lag)
        };
        let replicas = roles.iter().filter(|(_, role)| **role == Role::Replica).map(|(name, _)| name).filter(readable);
        Some(Self {
            rank: Rank { epoch: state.epoch, term },
            primary: primary.and_then(member),
            replicas: replicas.filter_map(member).collect(),
            roles,
        })
    }
}

/// Whether its server answers and applies what it receives.
fn applies(node: &NodeFacts) -> bool {
    let Some(AgentFacts::Answers(status)) = node.agent.as_ref().map(|seen| &seen.value) else { return false };
    let replication = status.server.as_ref().and_then(|server| server.replication.as_ref());
    replication.is_some_and(|replication| replication.sql && replication.sql_error.is_none())
}

/// The lag of a node, by the relay that knows the least of it. Relays know replicas by `report_host`: the node's name, or the host of an address of it.
/// Lag is counted against a relay's own head: one that nobody feeds, unless it is the acker, would call replicas fresh that stand still with it.
fn lag(facts: &ClusterFacts, name: &str) -> Option<Duration> {
    let node = facts.nodes.get(name)?;
    let hosts = node.record.mysql.iter().filter_map(|at| at.rsplit_once(':')).map(|(host, _)| host);
    let names: Vec<&str> = hosts.chain([name]).collect();
    let relays = facts.relays.values().filter(|r| r.answers && (r.held || r.upstream == "streaming"));
    let known = relays.flat_map(|relay| names.iter().filter_map(|name| relay.replicas.get(*name)));
    known.filter_map(|(_, _, lag_ms)| *lag_ms).min().map(Duration::from_millis)
}

#[cfg(test)]
mod tests;
