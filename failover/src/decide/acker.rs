//! The relay that acknowledges: whether it is fit, and who could take its place.

use baton_cluster::{ClusterState, Grant};

use super::position;
use super::verdict::agent;
use crate::model::{ClusterFacts, RelayFacts};

/// What is wrong with the acker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No relay holds the grant yet.
    Nobody,
    /// It can't acknowledge, or could not promise. The text says why.
    Lost(String),
    /// It stands where the primary stands.
    OnPrimarysHost(String),
    /// It has promised a grant that is higher than the one in force, so it can never acknowledge under that again.
    Outdated(Grant),
}

/// What is wrong with a relay that etcd has lost.
pub(super) const LOST_ETCD: &str = "does not reach etcd, without which it promises nothing";

/// The acker's fault, while a primary serves; none if it is fit or nobody serves.
pub fn fault(facts: &ClusterFacts) -> Option<Fault> {
    let state = facts.state.as_ref()?;
    let primary = state.primary.as_ref()?;
    let Some(holder) = &state.grant_holder else { return Some(Fault::Nobody) };
    let lost = |text: &str| Some(Fault::Lost(text.to_owned()));
    let Some(relay) = facts.relays.get(holder) else { return lost("is not there") };
    if !relay.answers {
        return lost("does not answer");
    }
    if relay.has_lost_etcd() {
        return lost(LOST_ETCD);
    }
    if state.grant_log_id.as_ref().is_some_and(|id| *id != relay.log_id) {
        return lost("has lost its log: another one stands in its place");
    }
    if relay.promised > state.grant && Some(relay.promised) != state.asked {
        return Some(Fault::Outdated(relay.promised));
    }
    if !relay.complete {
        return lost("has a damaged log");
    }
    if !relay.writable {
        return lost("can't write its log");
    }
    if matches!(relay.upstream.as_str(), "diverged" | "refused") && relay.held && lost_by_primary(facts).is_none() {
        return lost(&format!("has stopped its stream from the primary: {}", relay.upstream));
    }
    let host = facts.nodes.get(primary).map(|n| n.record.host.as_str()).unwrap_or_default();
    (!host.is_empty() && relay.record.host == host).then(|| Fault::OnPrimarysHost(host.to_owned()))
}

/// What the acker's log has and the primary, by the acker's finding and by its own word, has not: acknowledged commits that a crash took from it, or
/// a restored copy never had. No relay can follow it from there, and the log is what counts.
pub fn lost_by_primary(facts: &ClusterFacts) -> Option<String> {
    let state = facts.state.as_ref()?;
    let relay = facts.relays.get(state.grant_holder.as_ref()?)?;
    let whole = relay.answers && relay.complete && state.grant_log_id.as_ref().is_none_or(|id| *id == relay.log_id);
    if !whole || !relay.held || relay.upstream != "diverged" {
        return None;
    }
    let server = agent(facts.nodes.get(state.primary.as_ref()?)?)?.server.as_ref()?;
    position::beyond(&relay.head, &server.gtid_binlog)
}

/// Whether the acker acknowledges at present, by the primary's own word: then a controller that can't see it only can't see it.
pub fn acknowledges(facts: &ClusterFacts) -> bool {
    let server = facts
        .state
        .as_ref()
        .and_then(|s| s.primary.as_ref())
        .and_then(|p| facts.nodes.get(p))
        .and_then(agent)
        .and_then(|a| a.server.as_ref());
    server.is_some_and(|s| s.semi_sync_clients > 0)
}

/// The grant that the next change of acker within the epoch asks for: above everything given or asked so far.
pub fn next_grant(state: &ClusterState, facts: &ClusterFacts) -> Grant {
    let epoch = state.grant.epoch;
    let promised = facts.relays.values().map(|r| r.promised).filter(|g| g.epoch == epoch).map(|g| g.n).max();
    Grant { epoch, n: state.grant.n.max(promised.unwrap_or(0)) + 1 }
}

/// Relays that could hold the next grant beside the primary, the best first: those away from the primary's host with the most advanced log.
/// `except` is left out.
pub fn standbys(facts: &ClusterFacts, state: &ClusterState, except: Option<&str>) -> Vec<String> {
    let node = super::fence::old_primary(state).and_then(|p| facts.nodes.get(p));
    let host = node.map(|n| n.record.host.as_str()).unwrap_or_default();
    let site = node.map(|n| n.record.site.as_str()).unwrap_or_default();
    let grant = state.asked.unwrap_or_else(|| next_grant(state, facts));
    let fit = |relay: &RelayFacts| {
        relay.answers
            && relay.writable
            && relay.complete
            && !relay.has_lost_etcd()
            && relay.promised <= grant
            && (host.is_empty() || relay.record.host != host)
            && !matches!(relay.upstream.as_str(), "diverged")
    };
    let mut found: Vec<(&String, &RelayFacts)> =
        facts.relays.iter().filter(|(name, relay)| Some(name.as_str()) != except && fit(relay)).collect();
    let best = found.iter().fold(String::new(), |best, (_, r)| position::union(&best, &r.head));
    found.sort_by_key(|(name, r)| (position::behind(&r.head, &best), r.record.site != site, (*name).clone()));
    found.into_iter().map(|(name, _)| name.clone()).collect()
}

impl Fault {
    /// One sentence.
    pub fn text(&self, state: &ClusterState) -> String {
        let holder = state.grant_holder.as_deref().unwrap_or_default();
        match self {
            Self::Nobody => "no relay holds the grant".to_owned(),
            Self::Lost(why) => format!("acker {holder} {why}"),
            Self::OnPrimarysHost(host) => format!("acker {holder} stands on the primary's host {host}"),
            Self::Outdated(grant) => {
                format!("acker {holder} has promised {grant} and can't acknowledge under {} again", state.grant)
            }
        }
    }
}
