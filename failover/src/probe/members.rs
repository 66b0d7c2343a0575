//! Who is looked at: what the configuration lists and what announces itself in etcd, brought up to date as it changes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use baton_cluster::store::Snapshot;
use baton_cluster::{Grant, NodeRecord, RelayRecord};
use prometheus::HistogramVec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agentless::{self, Agentless};
use super::board::Board;
use super::sql::{Account, SqlProbe};
use super::{agents, controllers, relays, sql};
use crate::config::controller::{NodeAgent, NodeEntry, RelayEntry};
use crate::http::Client;

/// How is looked.
#[derive(Clone)]
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// This controller's name: it does not ask itself.
    pub controller: String,
    /// Nodes of the configuration.
    pub nodes: Vec<NodeEntry>,
    /// Relays of the configuration.
    pub relays: Vec<RelayEntry>,
    /// For probes.
    pub account: Account,
    /// Pause between probes.
    pub interval: Duration,
    /// Silence that counts as death.
    pub timeout: Duration,
    /// Time that a probe took, by node.
    pub latency: HistogramVec,
}

/// A task that is started anew when what it depends on changes.
struct Task {
    about: String,
    cancel: CancellationToken,
}

/// What every look needs.
struct With {
    options: Options,
    client: Client,
    board: Arc<Board>,
    etcd: watch::Receiver<Arc<Snapshot>>,
}

/// Looks at everybody until cancelled.
pub async fn watch(
    options: Options,
    client: Client,
    board: Arc<Board>,
    mut etcd: watch::Receiver<Arc<Snapshot>>,
    cancel: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let with = With { options: options.clone(), client, board: Arc::clone(&board), etcd: etcd.clone() };
    let mut tasks: BTreeMap<String, Task> = BTreeMap::new();
    loop {
        let snapshot = Arc::clone(&etcd.borrow_and_update());
        let kept: Vec<&str> = snapshot
            .state
            .iter()
            .flat_map(|s| [&s.value.primary, &s.value.candidate, &s.value.old_primary, &s.value.grant_holder])
            .flatten()
            .map(String::as_str)
            .collect();
        let (nodes, relays) = board.set_members(&nodes_of(&options, &snapshot), &relays_of(&options, &snapshot), &kept);
        let mut wanted = BTreeMap::new();
        for node in &nodes {
            let paths = node.mysql.join(",");
            wanted.insert(format!("sql/{}", node.name), paths);
            if node.has_no_agent() {
                wanted.insert(format!("server/{}", node.name), node.mysql.join(","));
            } else if !node.http.is_empty() {
                wanted.insert(format!("agent/{}", node.name), node.http.clone());
            }
        }
        for relay in relays.iter().filter(|r| !r.http.is_empty()) {
            wanted.insert(format!("relay/{}", relay.name), relay.http.clone());
        }
        for (name, controller) in snapshot.controllers.iter().filter(|(name, _)| **name != options.controller) {
            wanted.insert(format!("controller/{name}"), controller.http.clone());
        }
        board.forget_controllers(|name| wanted.contains_key(&format!("controller/{name}")));
        tasks.retain(|key, task| {
            let stays = wanted.get(key).is_some_and(|about| *about == task.about);
            if !stays {
                task.cancel.cancel();
            }
            stays
        });
        for (key, about) in wanted {
            if tasks.contains_key(&key) {
                continue;
            }
            let token = cancel.child_token();
            start(&key, &about, &with, &token, &tracker);
            tasks.insert(key, Task { about, cancel: token });
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = etcd.changed() => if changed.is_err() { break },
        }
    }
    drop(tasks);
    cancel.cancelled().await;
    tracker.close();
    tracker.wait().await;
}

fn start(key: &str, about: &str, with: &With, cancel: &CancellationToken, tracker: &TaskTracker) {
    let With { options, client, board, etcd } = with;
    let (kind, name) = key.split_once('/').unwrap_or_default();
    let (name, at) = (name.to_owned(), about.to_owned());
    let (client, board, cancel, limit) = (client.clone(), Arc::clone(board), cancel.clone(), options.timeout);
    match kind {
        "sql" => {
            let probe = SqlProbe {
                latency: options.latency.with_label_values(&[&name]),
                node: name,
                account: options.account.clone(),
                interval: options.interval,
                timeout: options.timeout,
            };
            let paths = at.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
            spawn(tracker, sql::run(probe, paths, board, cancel));
        }
        "server" => {
            let paths = at.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
            let (cluster, account) = (options.cluster.clone(), options.account.clone());
            let server = Agentless { cluster, node: name, paths, account, limit };
            spawn(tracker, agentless::run(server, board, etcd.clone(), cancel));
        }
        "agent" => spawn(tracker, agents::run(name, at, client, limit, board, cancel)),
        "relay" => spawn(tracker, relays::run(name, at, client, limit, board, cancel)),
        _ => spawn(tracker, controllers::run(name, at, client, limit, board, cancel)),
    }
}

fn spawn(tracker: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
    tracker.spawn(task);
}

/// Every node, whether it is configured, and whether it is announced.
fn nodes_of(options: &Options, etcd: &Snapshot) -> Vec<(NodeRecord, bool, bool)> {
    let mut nodes: BTreeMap<String, (NodeRecord, bool, bool)> =
        etcd.nodes.iter().map(|(name, record)| (name.clone(), (record.clone(), false, true))).collect();
    for entry in &options.nodes {
        let (record, configured, _) =
            nodes.entry(entry.name.clone()).or_insert_with(|| (unannounced(&entry.name), true, false));
        *configured = true;
        if !entry.addresses.is_empty() {
            record.mysql = entry.addresses.iter().map(ToString::to_string).collect();
        }
        match &entry.agent {
            Some(NodeAgent::At(agent)) => record.http = agent.to_string(),
            Some(NodeAgent::None) => record.http = NodeRecord::NO_AGENT.to_owned(),
            None => {}
        }
        if let Some(host) = &entry.host {
            record.host.clone_from(host);
        }
        if let Some(site) = &entry.site {
            record.site.clone_from(site);
        }
        if let Some(priority) = entry.priority {
            record.priority = priority;
        }
    }
    // A primary that went away before this controller came is known by its epoch alone.
    let primary = etcd.state.as_ref().and_then(|s| s.value.primary.as_deref().or(s.value.old_primary.as_deref()));
    if let Some(epoch) = etcd.epochs.values().rev().find(|e| Some(e.node.as_str()) == primary) {
        nodes.entry(epoch.node.clone()).or_insert_with(|| {
            let record =
                NodeRecord { mysql: epoch.mysql.clone(), server_id: Some(epoch.server_id), ..unannounced(&epoch.node) };
            (record, false, false)
        });
    }
    nodes.into_values().collect()
}

fn unannounced(name: &str) -> NodeRecord {
    NodeRecord {
        name: name.to_owned(),
        mysql: Vec::new(),
        http: String::new(),
        host: String::new(),
        site: String::new(),
        priority: 100,
        server_id: None,
        hardware: String::new(),
        fence_after_ms: None,
        valid_for_ms: None,
        version: String::new(),
    }
}

fn relays_of(options: &Options, etcd: &Snapshot) -> Vec<(RelayRecord, bool, bool)> {
    let mut relays: BTreeMap<String, (RelayRecord, bool, bool)> =
        etcd.relays.iter().map(|(name, record)| (name.clone(), (record.clone(), false, true))).collect();
    for entry in &options.relays {
        let (record, configured, _) = relays.entry(entry.name.clone()).or_insert_with(|| {
            let record = RelayRecord {
                name: entry.name.clone(),
                replication: String::new(),
                http: String::new(),
                host: String::new(),
                site: String::new(),
                server_id: 0,
                user: String::new(),
                log_id: String::new(),
                promised: Grant::default(),
                held: false,
                version: String::new(),
            };
            (record, true, false)
        });
        *configured = true;
        if let Some(replication) = &entry.replication {
            record.replication = replication.to_string();
        }
        if let Some(http) = &entry.http {
            record.http = http.to_string();
        }
        if let Some(host) = &entry.host {
            record.host.clone_from(host);
        }
        if let Some(site) = &entry.site {
            record.site.clone_from(site);
        }
    }
    relays.into_values().collect()
}
