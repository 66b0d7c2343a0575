//! What a controller remembers between two decisions: how long something has been so.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_cluster::{OperationKind, Phase};

use super::acker;
use super::fence;
use super::verdict::{self, Verdict};
use crate::model::{ClusterFacts, Policy};

/// A small windowed memory. Cheap to clone; lost with the controller without harm: a successor only waits longer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    /// The node that serves, that the durations are about.
    pub serving: Option<String>,
    /// Nodes whose server was seen alive by anybody since this controller started.
    pub seen_alive: BTreeSet<String>,
    /// How long the serving node has been dead by every vantage point.
    pub dead_for: Option<Duration>,
    /// How long failover has been due, and what must be had before promoting could not be had.
    pub stuck_for: Option<Duration>,
    /// How long the serving node's disk has not taken writes.
    pub disk_bad_for: Option<Duration>,
    /// How long the serving node has lacked what the acker has.
    pub lacking_for: Option<Duration>,
    /// How long the serving node's agent has not answered while its server lives.
    pub agent_lost_for: Option<Duration>,
    /// How long the interface of the virtual IP has had no carrier on the serving node's host.
    pub link_lost_for: Option<Duration>,
    /// How long the acker has not been able to acknowledge or to promise.
    pub acker_bad_for: Option<Duration>,
    /// Where the serving node's binlog ended when commits were last seen to wait for an ack; none: none waited.
    pub waits_at: Option<String>,
    /// How long commits have waited there, and none went on.
    pub commits_stuck_for: Option<Duration>,
    /// How long more than one client of the serving node could acknowledge; kept while nothing newer is known.
    pub surplus_ackers_for: Option<Duration>,
    /// Epoch and phase of the state, and how long it has been in them.
    pub phase: Option<(u64, Phase)>,
    /// See `phase`.
    pub phase_for: Duration,
}

impl Memory {
    /// The memory after looking at `facts`, `elapsed` after looking the last time. Call it once for each snapshot, before
    /// [`decide`](super::decide()).
    #[must_use]
    pub fn observe(&self, facts: &ClusterFacts, policy: &Policy, elapsed: Duration) -> Self {
        let serving = facts.state.as_ref().and_then(|s| s.serving_or_next()).map(str::to_owned);
        let mut next = if serving == self.serving {
            self.clone()
        } else {
            Self { serving, seen_alive: self.seen_alive.clone(), stuck_for: self.stuck_for, ..Self::default() }
        };
        for name in facts.nodes.keys() {
            if verdict::sight(name, facts, policy).verdict == Verdict::Alive {
                next.seen_alive.insert(name.clone());
            }
        }
        let phase = facts.state.as_ref().map(|s| (s.epoch, s.phase));
        next.phase_for = if phase == self.phase { self.phase_for + elapsed } else { Duration::ZERO };
        next.phase = phase;
        next.observe_serving(facts, policy, elapsed);
        next
    }

    fn observe_serving(&mut self, facts: &ClusterFacts, policy: &Policy, elapsed: Duration) {
        let lasts = |so: bool, before: Option<Duration>| so.then(|| before.map_or(Duration::ZERO, |d| d + elapsed));
        let sight = self.serving.as_ref().map(|name| verdict::sight(name, facts, policy));
        let dead = sight.as_ref().is_some_and(|s| s.verdict.is_dead());
        let alive = sight.is_some_and(|s| s.verdict == Verdict::Alive);
        let node = self.serving.as_ref().and_then(|name| facts.nodes.get(name));
        let status = node.and_then(verdict::agent);

        // An agent that keeps its key in etcd is there: only this controller can't reach it.
        let agent_lost = alive
            && node.is_some_and(|n| n.agent.is_some() && !n.announced && !n.record.has_no_agent())
            && status.is_none();

        self.dead_for = lasts(dead, self.dead_for);
        self.disk_bad_for = lasts(status.is_some_and(|s| s.disk_ok == Some(false)), self.disk_bad_for);
        self.lacking_for = lasts(acker::lost_by_primary(facts).is_some(), self.lacking_for);
        self.agent_lost_for = lasts(agent_lost, self.agent_lost_for);
        self.link_lost_for = lasts(status.is_some_and(|s| s.carrier == Some(false)), self.link_lost_for);
        self.acker_bad_for = lasts(acker::fault(facts).is_some(), self.acker_bad_for);
        // An operation under way is due by itself; a switchover is not until it has become a failover.
        let failing_over =
            facts.state.as_ref().is_some_and(|s| s.phase == Phase::Fencing && s.kind == OperationKind::Failover);
        let due = dead
            || failing_over
            || self.disk_bad_for.is_some_and(|d| d >= policy.disk_timeout)
            || self.lacking_for.is_some_and(|d| d >= policy.probe_timeout);
        self.stuck_for = lasts(due && fence::means(facts).is_err(), self.stuck_for);
        if let Some(server) = status.and_then(|s| s.server.as_ref()) {
            let waits_at = (server.waiting_commits > 0).then(|| server.gtid_binlog.clone());
            let before = self.commits_stuck_for.filter(|_| waits_at == self.waits_at);
            self.commits_stuck_for = lasts(waits_at.is_some(), before);
            self.waits_at = waits_at;
            self.surplus_ackers_for = lasts(server.semi_sync_clients > 1, self.surplus_ackers_for);
        }
    }

    /// Whether somebody has seen `node` alive since this controller started.
    pub fn knows(&self, node: &str) -> bool {
        self.seen_alive.contains(node)
    }
}
