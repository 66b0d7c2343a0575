//! `GET /v1/cluster`, field for field: the loop's last picture in plain words.

use std::collections::BTreeMap;

use baton_cluster::store::Leadership;
use baton_cluster::{ClusterState, OperationKind, PausedRecord, Phase};
use serde::Serialize;

use super::App;
use crate::act::Picture;
use crate::model::{AgentFacts, AgentStatus, MysqldState, NodeFacts, RelayFacts, ServerRole, SqlFacts};
use crate::probe::{RelayView, ReplicaView};

/// Everything about the cluster.
#[derive(Debug, Serialize)]
pub(super) struct ClusterReport {
    cluster: String,
    controller: String,
    version: &'static str,
    /// Whether the controller that answers leads.
    leads: bool,
    leader: Option<Leader>,
    state: Option<ClusterState>,
    paused: Option<PausedRecord>,
    /// Who gave the cluster up.
    left: Option<LeftBy>,
    primary: Option<String>,
    /// Who would be promoted now, if it had to be.
    candidate: Option<String>,
    address: Address,
    nodes: Vec<Node>,
    relays: Vec<Relay>,
    controllers: Vec<Controller>,
    problems: Vec<Problem>,
    refusing: Option<Refusing>,
    etcd: Etcd,
    guard: Option<Guard>,
    operation: Option<Operation>,
}

#[derive(Debug, Serialize)]
struct LeftBy {
    by: String,
    at: String,
    epoch: u64,
}

#[derive(Debug, Serialize)]
struct Leader {
    name: String,
    http: String,
    term: u64,
}

#[derive(Debug, Serialize)]
struct Address {
    provider: &'static str,
    vip: Option<String>,
    /// The node whose agent says that it holds it.
    held_by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Node {
    name: String,
    /// `primary | candidate | replica | fenced | diverged | unassigned | down | unknown`.
    role: &'static str,
    /// `running | silent | dead | waiting`; null: its agent does not tell.
    mysqld: Option<MysqldState>,
    /// `answers | alive | refused | silent | unknown`.
    sql: &'static str,
    sql_error: Option<String>,
    /// `answers | refused | silent | none | unknown`.
    agent: &'static str,
    read_only: Option<bool>,
    gtid: Option<String>,
    /// The relay that it is attached to.
    relay: Option<String>,
    lag_ms: Option<u64>,
    bottleneck: Option<String>,
    /// Whether it could be promoted now.
    candidate: bool,
    /// Why not.
    why_not: Option<String>,
    error: Option<String>,
    host: String,
    site: String,
    priority: u32,
    mysql: Vec<String>,
    http: String,
    server_id: Option<u32>,
    server_version: Option<String>,
    address: Option<String>,
    waiting_commits: Option<u32>,
    clone: Option<String>,
    surplus: Option<String>,
    unmet: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Relay {
    name: String,
    /// `acker | standby | idle | down`.
    role: &'static str,
    holder: bool,
    answers: bool,
    /// `upstream.state` of its status.
    upstream: String,
    upstream_address: Option<String>,
    follows: Option<String>,
    head: String,
    writable: bool,
    complete: bool,
    promised: baton_cluster::Grant,
    held: bool,
    error: Option<String>,
    host: String,
    site: String,
    replication: String,
    http: String,
    replicas: Vec<Replica>,
}

#[derive(Debug, Serialize)]
struct Replica {
    name: String,
    received: String,
    applied: Option<String>,
    lag_ms: Option<u64>,
    bottleneck: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Controller {
    name: String,
    http: String,
    version: String,
    leads: bool,
    /// Whether it sees the primary's server answer; null: it does not say.
    sees_primary: Option<bool>,
    /// Whether its configuration is that of the controller that answers.
    agrees: bool,
}

#[derive(Debug, Serialize)]
struct Problem {
    code: &'static str,
    severity: &'static str,
    subject: String,
    text: String,
    hint: String,
}

#[derive(Debug, Serialize)]
struct Refusing {
    what: String,
    why: String,
    hint: String,
}

#[derive(Debug, Serialize)]
struct Etcd {
    healthy: bool,
    age_ms: u64,
}

#[derive(Debug, Serialize)]
struct Guard {
    left: u32,
    max: u32,
    window_ms: u64,
}

#[derive(Debug, Serialize)]
struct Operation {
    epoch: u64,
    kind: OperationKind,
    phase: Phase,
    from: Option<String>,
    to: Option<String>,
    started: String,
    by: String,
    reason: String,
    /// What is being done now.
    steps: Vec<String>,
}

fn millis(age: std::time::Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// `picture` as it is shown.
pub(super) fn report(app: &App, picture: &Picture) -> ClusterReport {
    let state = picture.facts.state.as_ref();
    let leads = picture.leadership.term(tokio::time::Instant::now()).is_some();
    let (views, replicas) = (app.board.relay_views(), app.board.replicas());
    // Cut off from etcd, the last that is known may be its own lead, which has ended.
    let leader = picture.leader().filter(|l| leads || l.value.name != app.config.name);
    ClusterReport {
        cluster: app.config.cluster.clone(),
        controller: app.config.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        leads,
        leader: leader.map(|l| Leader {
            name: l.value.name.clone(),
            http: l.value.http.clone(),
            term: u64::try_from(l.create_revision).unwrap_or(0),
        }),
        state: state.cloned(),
        paused: picture.etcd.paused.as_ref().map(|p| p.value.clone()),
        left: picture.etcd.left.as_ref().filter(|_| state.is_none()).map(|l| LeftBy {
            by: l.value.by.clone(),
            at: l.value.at.clone(),
            epoch: l.value.state.epoch,
        }),
        primary: state.and_then(|s| s.primary.clone()),
        candidate: picture.decision.candidate.clone(),
        address: Address {
            provider: app.config.address.provider.name(),
            vip: app.config.address.vip.clone(),
            held_by: picture
                .facts
                .nodes
                .iter()
                .filter(|(_, n)| status(n).is_some_and(|s| s.address.is_some()))
                .map(|(name, _)| name.clone())
                .collect(),
        },
        nodes: picture.facts.nodes.iter().map(|(name, n)| node(name, n, picture, &replicas)).collect(),
        relays: picture
            .facts
            .relays
            .iter()
            .map(|(name, r)| relay(name, r, state, views.get(name), replicas.get(name)))
            .collect(),
        controllers: controllers(app, picture),
        problems: picture
            .problems()
            .into_iter()
            .map(|p| Problem {
                code: p.code,
                severity: p.severity.name(),
                subject: p.subject.clone(),
                text: p.text.clone(),
                hint: p.hint.clone(),
            })
            .collect(),
        refusing: picture.refusing.as_ref().map(|r| Refusing {
            what: r.what.clone(),
            why: r.why.clone(),
            hint: r.hint.clone(),
        }),
        etcd: Etcd { healthy: picture.etcd.healthy, age_ms: millis(picture.facts.etcd_age) },
        guard: matches!(picture.leadership, Leadership::Leader { .. }).then(|| {
            let used = u32::try_from(picture.facts.recent_failovers.len()).unwrap_or(u32::MAX);
            Guard {
                left: picture.policy.guard_max.saturating_sub(used),
                max: picture.policy.guard_max,
                window_ms: millis(picture.policy.guard_window),
            }
        }),
        operation: state.filter(|s| s.phase != Phase::Steady).map(|s| Operation {
            epoch: s.epoch,
            kind: s.kind,
            phase: s.phase,
            from: s.old_primary.clone(),
            to: s.candidate.clone(),
            started: s.started.clone(),
            by: s.cause.by.clone(),
            reason: s.cause.reason.clone(),
            steps: picture.running.clone(),
        }),
    }
}

/// What the agent of a node said last.
pub(super) fn status(node: &NodeFacts) -> Option<&AgentStatus> {
    match node.agent.as_ref().map(|seen| &seen.value) {
        Some(AgentFacts::Answers(status)) => Some(status),
        _ => None,
    }
}

fn node(
    name: &str,
    facts: &NodeFacts,
    picture: &Picture,
    replicas: &BTreeMap<String, BTreeMap<String, ReplicaView>>,
) -> Node {
    let state = picture.facts.state.as_ref();
    let status = status(facts);
    let server = status.and_then(|s| s.server.as_ref());
    let (sql, sql_error) = match facts.sql.as_ref().map(|s| &s.value) {
        Some(SqlFacts::Answers { .. }) => ("answers", None),
        Some(SqlFacts::Alive(text)) => ("alive", Some(text.clone())),
        Some(SqlFacts::Refused) => ("refused", None),
        Some(SqlFacts::Silent(text)) => ("silent", Some(text.clone())),
        None => ("unknown", None),
    };
    let agent = match facts.agent.as_ref().map(|s| &s.value) {
        _ if facts.record.has_no_agent() => "none",
        Some(AgentFacts::Answers(_)) => "answers",
        Some(AgentFacts::Refused) => "refused",
        Some(AgentFacts::Silent) => "silent",
        None => "unknown",
    };
    let primary = state.is_some_and(|s| s.primary.as_deref() == Some(name));
    let promoted = state.is_some_and(|s| s.candidate.as_deref() == Some(name));
    let dead = matches!(sql, "refused" | "silent");
    let role = match status.map(|s| s.role) {
        _ if primary => "primary",
        _ if promoted => "candidate",
        Some(ServerRole::Diverged) => "diverged",
        Some(ServerRole::Fenced) => "fenced",
        _ if dead => "down",
        Some(ServerRole::Unassigned) => "unassigned",
        Some(ServerRole::Replica | ServerRole::Primary) => "replica",
        None if sql == "unknown" => "unknown",
        None => "replica",
    };
    let attached = replicas.iter().find_map(|(relay, all)| all.get(name).map(|view| (relay, view)));
    let read_only = match facts.sql.as_ref().map(|s| &s.value) {
        Some(SqlFacts::Answers { read_only }) => Some(*read_only),
        _ => server.map(|s| s.read_only),
    };
    let why_not = picture.decision.rejected.iter().find(|r| r.node == name).map(|r| r.why.clone());
    Node {
        name: name.to_owned(),
        role,
        mysqld: status.map(|s| s.mysqld),
        sql,
        sql_error,
        agent,
        read_only,
        gtid: server.map(|s| if s.gtid_binlog.is_empty() { s.gtid_slave.clone() } else { s.gtid_binlog.clone() }),
        relay: attached.map(|(relay, _)| relay.clone()),
        lag_ms: attached.and_then(|(_, view)| view.lag_ms),
        bottleneck: attached.and_then(|(_, view)| view.bottleneck.clone()),
        candidate: !primary && why_not.is_none() && state.is_some(),
        why_not,
        error: status.and_then(|s| s.error.clone().or_else(|| s.address_error.clone())),
        host: facts.record.host.clone(),
        site: facts.record.site.clone(),
        priority: facts.record.priority,
        mysql: facts.record.mysql.clone(),
        http: if facts.record.has_no_agent() { String::new() } else { facts.record.http.clone() },
        server_id: server.map(|s| s.server_id).or(facts.record.server_id),
        server_version: server.map(|s| s.version.clone()),
        address: status.and_then(|s| s.address.clone()),
        waiting_commits: server.map(|s| s.waiting_commits),
        clone: status.and_then(|s| s.clone.clone()),
        surplus: status.and_then(|s| s.surplus.clone()),
        unmet: server.map(|s| s.unmet.clone()).unwrap_or_default(),
    }
}

fn relay(
    name: &str,
    facts: &RelayFacts,
    state: Option<&ClusterState>,
    view: Option<&RelayView>,
    replicas: Option<&BTreeMap<String, ReplicaView>>,
) -> Relay {
    let holder = state.is_some_and(|s| s.grant_holder.as_deref() == Some(name));
    let role = match (facts.answers, holder) {
        (false, _) => "down",
        (true, true) => "acker",
        (true, false) if facts.upstream == "streaming" => "standby",
        (true, false) => "idle",
    };
    Relay {
        name: name.to_owned(),
        role,
        holder,
        answers: facts.answers,
        upstream: facts.upstream.clone(),
        upstream_address: facts.upstream_address.clone(),
        follows: view.map(|v| v.follows.clone()).filter(|f| !f.is_empty()),
        head: facts.head.clone(),
        writable: facts.writable,
        complete: facts.complete,
        promised: facts.promised,
        held: facts.held,
        error: view.and_then(|v| v.error.clone()),
        host: facts.record.host.clone(),
        site: facts.record.site.clone(),
        replication: facts.record.replication.clone(),
        http: facts.record.http.clone(),
        replicas: replicas
            .into_iter()
            .flatten()
            .map(|(name, v)| Replica {
                name: name.clone(),
                received: v.received.clone(),
                applied: v.applied.clone(),
                lag_ms: v.lag_ms,
                bottleneck: v.bottleneck.clone(),
                error: v.error.clone(),
            })
            .collect(),
    }
}

fn controllers(app: &App, picture: &Picture) -> Vec<Controller> {
    let leader = picture.leader().map(|l| l.value.name.as_str());
    let digest = app.config.digest();
    let own = picture.facts.state.as_ref().and_then(|s| s.primary.as_deref()).and_then(|p| app.board.own_view(p));
    let said = |name: &str| picture.facts.controllers.iter().find(|c| c.name == name).and_then(|c| c.sees_primary);
    let all = picture.etcd.controllers.iter();
    all.map(|(name, c)| Controller {
        name: name.clone(),
        http: c.http.clone(),
        version: c.version.clone(),
        leads: leader == Some(name.as_str()),
        sees_primary: if *name == app.config.name { own.map(|(answers, _)| answers) } else { said(name) },
        agrees: c.config == digest,
    })
    .collect()
}
