//! The table of what was seen, and when. Writers are the probes, the reader is who decides.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_cluster::store::Snapshot;
use baton_cluster::{NodeRecord, RelayRecord};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::views::{RelayView, ReplicaView};
use crate::model::{
    AgentFacts, AgentStatus, ClusterFacts, ControllerFacts, MysqldState, NodeFacts, RelayFacts, Seen, SqlFacts,
};

/// A member that is neither configured nor announced nor part of the state is forgotten after this long.
const FORGET: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct NodeSeen {
    record: NodeRecord,
    configured: bool,
    announced: bool,
    left: Instant,
    sql: Option<(SqlFacts, Instant)>,
    agent: Option<(AgentFacts, Instant)>,
    agent_alive: Option<Instant>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct RelaySeen {
    record: RelayRecord,
    configured: bool,
    announced: bool,
    left: Instant,
    view: RelayView,
    answers: bool,
    at: Instant,
    replicas: BTreeMap<String, ReplicaView>,
}

#[derive(Debug)]
struct ControllerSeen {
    primary: Option<String>,
    answers: Option<bool>,
    at: Instant,
}

#[derive(Debug)]
struct Table {
    nodes: BTreeMap<String, NodeSeen>,
    relays: BTreeMap<String, RelaySeen>,
    controllers: BTreeMap<String, ControllerSeen>,
}

/// See the module. Shared by reference.
#[derive(Debug)]
pub struct Board {
    table: Mutex<Table>,
    started: Instant,
    changes: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        let table = Table { nodes: BTreeMap::new(), relays: BTreeMap::new(), controllers: BTreeMap::new() };
        Self { table: Mutex::new(table), started: Instant::now(), changes: watch::Sender::new(0) }
    }
}

impl Board {
    /// Told with each change that may matter; ages alone are not told.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Brings the members up to date; gives the nodes and relays that there are now.
    pub(super) fn set_members(
        &self,
        nodes: &[(NodeRecord, bool, bool)],
        relays: &[(RelayRecord, bool, bool)],
        kept: &[&str],
    ) -> (Vec<NodeRecord>, Vec<RelayRecord>) {
        let now = Instant::now();
        let mut table = self.table();
        for node in table.nodes.values_mut() {
            (node.configured, node.announced) = (false, false);
        }
        for (record, configured, announced) in nodes {
            let seen = table.nodes.entry(record.name.clone()).or_insert_with(|| NodeSeen {
                record: record.clone(),
                configured: false,
                announced: false,
                left: now,
                sql: None,
                agent: None,
                agent_alive: None,
                wake: Arc::default(),
            });
            if *announced {
                seen.record = record.clone();
            } else {
                // Its last announcement is remembered: what is not said now is as it was.
                let before = std::mem::replace(&mut seen.record, record.clone());
                let or = |now: &mut String, then: String| {
                    if now.is_empty() {
                        *now = then
                    }
                };
                or(&mut seen.record.http, before.http);
                or(&mut seen.record.host, before.host);
                or(&mut seen.record.site, before.site);
                if seen.record.mysql.is_empty() {
                    seen.record.mysql = before.mysql;
                }
                if !*configured {
                    seen.record.priority = before.priority;
                }
                seen.record.server_id = seen.record.server_id.or(before.server_id);
            }
            (seen.configured, seen.announced) = (*configured, *announced);
            if *configured || *announced {
                seen.left = now;
            }
        }
        for relay in table.relays.values_mut() {
            (relay.configured, relay.announced) = (false, false);
        }
        for (record, configured, announced) in relays {
            let seen = table.relays.entry(record.name.clone()).or_insert_with(|| RelaySeen {
                record: record.clone(),
                configured: false,
                announced: false,
                left: now,
                view: RelayView::default(),
                answers: false,
                at: now,
                replicas: BTreeMap::new(),
            });
            if *announced {
                seen.record = record.clone();
            } else {
                let before = std::mem::replace(&mut seen.record, record.clone());
                let or = |now: &mut String, then: String| {
                    if now.is_empty() {
                        *now = then
                    }
                };
                or(&mut seen.record.http, before.http);
                or(&mut seen.record.replication, before.replication);
                or(&mut seen.record.host, before.host);
                or(&mut seen.record.site, before.site);
                or(&mut seen.record.user, before.user);
                or(&mut seen.record.log_id, before.log_id);
                seen.record.server_id = seen.record.server_id.max(before.server_id);
                (seen.record.promised, seen.record.held) = (before.promised, before.held);
            }
            (seen.configured, seen.announced, seen.left) = (*configured, *announced, now);
        }
        let stays =
            |name: &str, there: bool, left: Instant| there || kept.contains(&name) || now.duration_since(left) < FORGET;
        table.nodes.retain(|name, n| stays(name, n.configured || n.announced, n.left));
        table.relays.retain(|name, r| stays(name, r.configured || r.announced, r.left));
        let members = (
            table.nodes.values().map(|n| n.record.clone()).collect(),
            table.relays.values().map(|r| r.record.clone()).collect(),
        );
        drop(table);
        self.changed();
        members
    }

    /// Woken when the node is to be asked at once, without waiting for the interval.
    pub(super) fn wake_of(&self, node: &str) -> Arc<Notify> {
        self.table().nodes.get(node).map(|n| Arc::clone(&n.wake)).unwrap_or_default()
    }

    pub(super) fn saw_sql(&self, node: &str, facts: SqlFacts) {
        let mut table = self.table();
        let Some(seen) = table.nodes.get_mut(node) else { return };
        let same = seen.sql.as_ref().is_some_and(|(old, _)| *old == facts);
        seen.sql = Some((facts, Instant::now()));
        drop(table);
        if !same {
            self.changed();
        }
    }

    pub(super) fn saw_agent(&self, node: &str, facts: AgentFacts) {
        let mut table = self.table();
        let Some(seen) = table.nodes.get_mut(node) else { return };
        let now = Instant::now();
        if matches!(facts, AgentFacts::Answers(_)) {
            seen.agent_alive = Some(now);
        }
        let same = seen.agent.as_ref().is_some_and(|(old, _)| *old == facts);
        seen.agent = Some((facts, now));
        drop(table);
        if !same {
            self.changed();
        }
    }

    /// A sign of life without news. Where it does not say how old the server's answer is, that has aged since it was told.
    pub(super) fn agent_lives(&self, node: &str, server_age_ms: Option<u64>) {
        let mut table = self.table();
        let Some(seen) = table.nodes.get_mut(node) else { return };
        let now = Instant::now();
        seen.agent_alive = Some(now);
        if let Some((AgentFacts::Answers(status), at)) = &mut seen.agent {
            let since = u64::try_from(now.saturating_duration_since(*at).as_millis()).unwrap_or(u64::MAX);
            status.server_age_ms = server_age_ms.or(status.server_age_ms.map(|age| age.saturating_add(since)));
            *at = now;
        }
    }

    /// The agent says that the process has ended: the server is asked at once.
    pub(super) fn mysqld_died(&self, node: &str) {
        let mut table = self.table();
        let Some(seen) = table.nodes.get_mut(node) else { return };
        let now = Instant::now();
        seen.agent_alive = Some(now);
        if let Some((AgentFacts::Answers(status), at)) = &mut seen.agent {
            *at = now;
            (status.mysqld, status.mysqld_ms, status.server) = (MysqldState::Dead, 0, None);
        }
        seen.wake.notify_one();
        drop(table);
        self.changed();
    }

    /// What the agent of `node` said last.
    pub fn agent_status(&self, node: &str) -> Option<AgentStatus> {
        match &self.table().nodes.get(node)?.agent {
            Some((AgentFacts::Answers(status), _)) => Some((**status).clone()),
            _ => None,
        }
    }

    pub(super) fn saw_relay(&self, relay: &str, change: impl FnOnce(&mut RelayView)) {
        let mut table = self.table();
        let Some(seen) = table.relays.get_mut(relay) else { return };
        let before = (seen.answers, RelayView { upstream_heard: None, ..seen.view.clone() });
        change(&mut seen.view);
        (seen.answers, seen.at) = (true, Instant::now());
        let same = before == (true, RelayView { upstream_heard: None, ..seen.view.clone() });
        drop(table);
        if !same {
            self.changed();
        }
    }

    /// The head has moved; whether the relay answers is for its status to say.
    pub(super) fn relay_moved(&self, relay: &str, head: String) {
        if let Some(seen) = self.table().relays.get_mut(relay) {
            seen.view.head = head;
        }
    }

    pub(super) fn relay_silent(&self, relay: &str) {
        let mut table = self.table();
        let Some(seen) = table.relays.get_mut(relay) else { return };
        let was = seen.answers;
        if was {
            (seen.answers, seen.at) = (false, Instant::now());
        }
        // What the others said of the primary may have changed with it.
        for node in table.nodes.values().filter(|_| was) {
            node.wake.notify_one();
        }
        drop(table);
        if was {
            self.changed();
        }
    }

    /// The stream from the primary has ended: the servers are asked at once.
    pub(super) fn upstream_broke(&self) {
        for node in self.table().nodes.values() {
            node.wake.notify_one();
        }
    }

    pub(super) fn saw_replicas(&self, relay: &str, replicas: BTreeMap<String, ReplicaView>) {
        if let Some(seen) = self.table().relays.get_mut(relay) {
            seen.replicas = replicas;
        }
    }

    pub(super) fn saw_controller(&self, name: &str, primary: Option<String>, answers: Option<bool>, age: Duration) {
        let now = Instant::now();
        let at = now.checked_sub(age).unwrap_or(now);
        let mut table = self.table();
        let old = table.controllers.insert(name.to_owned(), ControllerSeen { primary, answers, at });
        drop(table);
        if old.is_none_or(|o| o.answers != answers) {
            self.changed();
        }
    }

    pub(super) fn forget_controllers(&self, keep: impl Fn(&str) -> bool) {
        self.table().controllers.retain(|name, _| keep(name));
    }

    /// This controller's own last verdict on a node's server: whether it answers, and how old that is.
    pub fn own_view(&self, node: &str) -> Option<(bool, Duration)> {
        let table = self.table();
        let (facts, at) = table.nodes.get(node)?.sql.as_ref()?;
        Some((matches!(facts, SqlFacts::Answers { .. } | SqlFacts::Alive(_)), at.elapsed()))
    }

    /// Replicas as the relays see them, by relay and name.
    pub fn replicas(&self) -> BTreeMap<String, BTreeMap<String, ReplicaView>> {
        self.table().relays.iter().map(|(name, r)| (name.clone(), r.replicas.clone())).collect()
    }

    /// Last words of each relay.
    pub fn relay_views(&self) -> BTreeMap<String, RelayView> {
        self.table().relays.iter().map(|(name, r)| (name.clone(), r.view.clone())).collect()
    }

    /// Everything, each with its age by now.
    pub fn facts(&self, etcd: &Snapshot, recent_failovers: Vec<Duration>) -> ClusterFacts {
        let table = self.table();
        let now = Instant::now();
        let age = |at: Instant| now.saturating_duration_since(at);
        let primary = etcd.state.as_ref().and_then(|s| s.value.primary.as_deref());
        ClusterFacts {
            state: etcd.state.as_ref().map(|s| s.value.clone()),
            etcd_age: age(etcd.heard),
            etcd_trouble: etcd.trouble.clone(),
            // One that can't be read is one all the same.
            paused: etcd.paused.is_some() || etcd.errors.contains_key("paused"),
            request: etcd.request.as_ref().map(|r| r.value.clone()),
            nodes: table
                .nodes
                .iter()
                .map(|(name, n)| {
                    let facts = NodeFacts {
                        record: n.record.clone(),
                        announced: n.announced,
                        sql: n.sql.as_ref().map(|(value, at)| Seen { value: value.clone(), age: age(*at) }),
                        agent: n.agent.as_ref().map(|(value, at)| Seen { value: value.clone(), age: age(*at) }),
                        agent_last_seen: n.agent_alive.map(age),
                    };
                    (name.clone(), facts)
                })
                .collect(),
            relays: table.relays.iter().map(|(name, r)| (name.clone(), relay_facts(r, now))).collect(),
            controllers: table
                .controllers
                .iter()
                .map(|(name, c)| ControllerFacts {
                    name: name.clone(),
                    age: age(c.at),
                    sees_primary: c.answers.filter(|_| c.primary.as_deref() == primary),
                })
                .collect(),
            recent_failovers,
            watching_for: self.started.elapsed(),
            etcd_errors: etcd.errors.iter().map(|(key, error)| format!("{key}: {error}")).collect(),
        }
    }
}

fn relay_facts(r: &RelaySeen, now: Instant) -> RelayFacts {
    let age = now.saturating_duration_since(r.at);
    RelayFacts {
        record: r.record.clone(),
        announced: r.announced,
        answers: r.answers,
        age,
        upstream: r.view.upstream.clone(),
        upstream_address: r.view.upstream_address.clone(),
        upstream_heard: r.view.upstream_heard.map(|heard| heard + age),
        head: r.view.head.clone(),
        writable: r.view.writable,
        complete: r.view.complete,
        log_id: if r.view.log_id.is_empty() { r.record.log_id.clone() } else { r.view.log_id.clone() },
        promised: r.view.promised.max(r.record.promised),
        held: if r.view.promised >= r.record.promised { r.view.held } else { r.record.held },
        etcd_ok: !r.view.etcd_lost,
        replicas: r
            .replicas
            .iter()
            .map(|(name, v)| (name.clone(), (v.received.clone(), v.applied.clone(), v.lag_ms)))
            .collect(),
    }
}
