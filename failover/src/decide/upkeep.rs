//! Orders that need no change of state: every replica is to be fed by a living relay.

use baton_cluster::ClusterState;

use super::Upkeep;
use super::verdict::agent;
use crate::model::{ClusterFacts, MysqldState, NodeFacts, RelayFacts, ReplicationStatus, ServerRole};

impl Upkeep {
    /// Why, in one sentence.
    pub fn why(&self) -> String {
        match self {
            Self::Follow { node, relay, why } => format!("{node} is to follow {relay}: {why}"),
            Self::Open { node } => format!("{node} serves and does not know it"),
            Self::AllowAcker { node, user } => format!("{node} is to let the acker's account {user} in"),
        }
    }
}

/// All that is due.
pub(crate) fn due(state: &ClusterState, facts: &ClusterFacts) -> Vec<Upkeep> {
    let mut due = of_the_primary(state, facts);
    due.extend(of_replicas(state, facts));
    due
}

/// What keeps the primary from serving although nothing is wrong with it.
fn of_the_primary(state: &ClusterState, facts: &ClusterFacts) -> Vec<Upkeep> {
    let Some(primary) = &state.primary else { return Vec::new() };
    let Some(status) = facts.nodes.get(primary).and_then(agent) else { return Vec::new() };
    let Some(server) = &status.server else { return Vec::new() };
    // Without an agent nobody else switches its semi-sync on.
    let to_be_opened = server.read_only || facts.nodes.get(primary).is_some_and(|n| n.record.has_no_agent());
    if to_be_opened && status.role != ServerRole::Primary {
        return vec![Upkeep::Open { node: primary.clone() }];
    }
    let acker = state.grant_holder.as_ref().and_then(|h| facts.relays.get(h));
    let shut_out = acker.filter(|r| r.answers && r.held && r.upstream != "streaming" && server.semi_sync_clients == 0);
    let allow = |r: &RelayFacts| Upkeep::AllowAcker { node: primary.clone(), user: r.record.user.clone() };
    shut_out.map(allow).into_iter().collect()
}

/// Replicas that no living relay feeds, each with the relay that is to feed it.
fn of_replicas(state: &ClusterState, facts: &ClusterFacts) -> Vec<Upkeep> {
    let spared = [state.primary.as_deref(), state.candidate.as_deref()];
    let mut load: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    let mut out = Vec::new();
    for (name, node) in facts.nodes.iter().filter(|(name, _)| !spared.contains(&Some(name.as_str()))) {
        let Some(why) = unfed(node, facts) else { continue };
        let site = node.record.site.as_str();
        let relays = facts.relays.iter().filter(|(_, r)| r.feeds() && r.complete);
        let best = relays.min_by_key(|(relay, r)| {
            let attached = r.replicas.len() + load.get(relay.as_str()).copied().unwrap_or(0);
            (r.record.site != site, attached, (*relay).clone())
        });
        if let Some((relay, _)) = best {
            *load.entry(relay.as_str()).or_default() += 1;
            out.push(Upkeep::Follow { node: name.clone(), relay: relay.clone(), why });
        }
    }
    out
}

/// Why the node has to be told whom to follow; none if it is fed, or can't or must not be told.
fn unfed(node: &NodeFacts, facts: &ClusterFacts) -> Option<String> {
    let status = agent(node)?;
    if status.mysqld != MysqldState::Running || status.is_cloning() || status.role == ServerRole::Diverged {
        return None;
    }
    let Some(replication) = &status.server.as_ref()?.replication else {
        return Some("it does not replicate".to_owned());
    };
    let mut sources = facts.relays.values().filter(|r| r.record.replication == replication.source);
    if sources.any(|r| r.answers && !r.feeds()) {
        return Some(format!("its source {} has lost etcd and receives nothing", replication.source));
    }
    if replication.io == "Yes" {
        return None;
    }
    // A candidate that died before its old source was forgotten has one still, and replicates from nobody until it is told to: its agent resumes
    // only what was ordered.
    if status.role == ServerRole::Fenced {
        return Some("it was fenced, and has not been told whom to follow since".to_owned());
    }
    source_is_gone(replication, facts).then(|| format!("its source {} does not answer", replication.source))
}

/// Whether the source is a relay that does not answer, or none that is known.
fn source_is_gone(replication: &ReplicationStatus, facts: &ClusterFacts) -> bool {
    facts.relays.values().filter(|r| r.record.replication == replication.source).all(|r| !r.answers)
}
