//! A healthy cluster as facts, and the faults that can befall it: for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{ClusterState, Grant, NodeRecord, RelayAccount, RelayRecord, SwitchoverRequest};

use super::{
    AgentFacts, AgentStatus, ClusterFacts, ControllerFacts, MysqldState, NodeFacts, RelayFacts, ReplicationStatus,
    Seen, ServerRole, ServerStatus, SqlFacts,
};

pub(crate) const HEAD: &str = "0-1-100";

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn fresh<T>(value: T) -> Option<Seen<T>> {
    Some(Seen { value, age: ms(10) })
}

/// `db-1` serves, `relay-1` acknowledges, `relay-2` stands by, `db-2` and `db-3` replicate from the relays.
pub(crate) fn healthy() -> ClusterFacts {
    let mut state = ClusterState::bootstrap("db-1", "test", "2026-01-01T00:00:00Z".to_owned());
    state.grant = Grant { epoch: 1, n: 1 };
    state.grant_holder = Some("relay-1".to_owned());
    state.grant_log_id = Some("log-of-relay-1".to_owned());
    state.grant_account = Some(RelayAccount { user: "relay_1".to_owned(), server_id: 9001, host: "rack-1".to_owned() });
    let nodes = [node(1, true), node(2, false), node(3, false)].into_iter().map(|n| (n.record.name.clone(), n));
    let relays = [relay(1, true), relay(2, false)].into_iter().map(|r| (r.record.name.clone(), r));
    ClusterFacts {
        state: Some(state),
        etcd_age: ms(10),
        etcd_trouble: None,
        paused: false,
        request: None,
        nodes: nodes.collect(),
        relays: relays.collect(),
        controllers: vec![ControllerFacts { name: "controller-2".to_owned(), age: ms(100), sees_primary: Some(true) }],
        recent_failovers: Vec::new(),
        watching_for: ms(60_000),
        etcd_errors: Vec::new(),
    }
}

fn node(number: u32, primary: bool) -> NodeFacts {
    let name = format!("db-{number}");
    let replication = (!primary).then(|| ReplicationStatus {
        source: format!("relay-{}:3307", number - 1),
        io: "Yes".to_owned(),
        sql: true,
        received: HEAD.to_owned(),
        ..ReplicationStatus::default()
    });
    let server = ServerStatus {
        version: "10.11.19-MariaDB".to_owned(),
        server_id: number,
        read_only: !primary,
        gtid_binlog: HEAD.to_owned(),
        gtid_slave: if primary { String::new() } else { HEAD.to_owned() },
        semi_sync: primary,
        semi_sync_clients: u32::from(primary),
        connections: 3,
        replication,
        ..ServerStatus::default()
    };
    let status = AgentStatus {
        cluster: "shop".to_owned(),
        node: name.clone(),
        mysqld: MysqldState::Running,
        mysqld_ms: 60_000,
        role: if primary { ServerRole::Primary } else { ServerRole::Replica },
        server: Some(server),
        server_age_ms: Some(20),
        error: None,
        disk_ok: Some(true),
        address: primary.then(|| "10.0.0.100/24".to_owned()),
        address_error: None,
        carrier: None,
        etcd_ok: Some(true),
        self_fenced: false,
        given_up: None,
        last_order: [0, 0, 0],
        clone: None,
        surplus: None,
    };
    NodeFacts {
        record: NodeRecord {
            name: name.clone(),
            mysql: vec![format!("{name}:3306")],
            http: format!("{name}:8092"),
            host: format!("host-{number}"),
            site: "par1".to_owned(),
            priority: 100,
            server_id: Some(number),
            hardware: String::new(),
            fence_after_ms: None,
            valid_for_ms: None,
            version: "0.1.0".to_owned(),
        },
        announced: true,
        sql: fresh(SqlFacts::Answers { read_only: !primary }),
        agent: fresh(AgentFacts::Answers(Box::new(status))),
        agent_last_seen: Some(ms(10)),
    }
}

fn relay(number: u32, held: bool) -> RelayFacts {
    RelayFacts {
        record: RelayRecord {
            name: format!("relay-{number}"),
            replication: format!("relay-{number}:3307"),
            http: format!("relay-{number}:8090"),
            host: format!("rack-{number}"),
            site: "par1".to_owned(),
            server_id: 9000 + number,
            user: format!("relay_{number}"),
            log_id: format!("log-of-relay-{number}"),
            promised: Grant { epoch: 1, n: 1 },
            held,
            version: "0.1.0".to_owned(),
        },
        announced: true,
        answers: true,
        age: ms(10),
        upstream: "streaming".to_owned(),
        upstream_address: Some(if held { "db-1:3306" } else { "relay-1:3307" }.to_owned()),
        upstream_heard: Some(ms(50)),
        head: HEAD.to_owned(),
        writable: true,
        complete: true,
        log_id: format!("log-of-relay-{number}"),
        promised: Grant { epoch: 1, n: 1 },
        held,
        etcd_ok: true,
        replicas: BTreeMap::new(),
    }
}

/// What happens to it.
impl ClusterFacts {
    pub(crate) fn node(&mut self, name: &str) -> &mut NodeFacts {
        self.nodes.get_mut(name).expect("a node of the fixture")
    }

    pub(crate) fn relay(&mut self, name: &str) -> &mut RelayFacts {
        self.relays.get_mut(name).expect("a relay of the fixture")
    }

    pub(crate) fn state(&mut self) -> &mut ClusterState {
        self.state.as_mut().expect("a state")
    }

    /// The agent's status, as long as it answers.
    pub(crate) fn status(&mut self, name: &str) -> &mut AgentStatus {
        match &mut self.node(name).agent {
            Some(Seen { value: AgentFacts::Answers(status), .. }) => status,
            other => panic!("the agent of {name} does not answer: {other:?}"),
        }
    }

    pub(crate) fn server(&mut self, name: &str) -> &mut ServerStatus {
        self.status(name).server.as_mut().expect("a server that answers")
    }

    pub(crate) fn replication(&mut self, name: &str) -> &mut ReplicationStatus {
        self.server(name).replication.get_or_insert_default()
    }

    fn nobody_streams_from(&mut self, name: &str, state: &str) {
        for relay in self.relays.values_mut() {
            if relay.upstream_address.as_deref() == Some(&format!("{name}:3306")) {
                relay.upstream = state.to_owned();
            }
        }
    }

    /// The server's process ends; its agent says so.
    pub(crate) fn kill(&mut self, name: &str) {
        self.status(name).mysqld = MysqldState::Dead;
        self.status(name).server = None;
        self.status(name).address = None;
        self.node(name).sql = fresh(SqlFacts::Refused);
        self.nobody_streams_from(name, "connecting");
        self.controllers.iter_mut().for_each(|c| c.sees_primary = Some(false));
    }

    /// The server's process is stopped, and silent for long enough.
    pub(crate) fn freeze(&mut self, name: &str) {
        self.status(name).mysqld = MysqldState::Silent;
        self.status(name).server_age_ms = Some(1500);
        self.node(name).sql = fresh(SqlFacts::Silent("no answer for 1000 ms".to_owned()));
        for relay in self.relays.values_mut() {
            if relay.upstream_address.as_deref() == Some(&format!("{name}:3306")) {
                relay.upstream_heard = Some(ms(1500));
            }
        }
        self.controllers.iter_mut().for_each(|c| c.sees_primary = Some(false));
    }

    /// Nothing on the host answers, for `silent`.
    pub(crate) fn lose_host(&mut self, name: &str, silent: Duration) {
        let node = self.node(name);
        node.sql = fresh(SqlFacts::Silent("no answer for 1000 ms".to_owned()));
        node.agent = fresh(AgentFacts::Silent);
        node.agent_last_seen = Some(silent);
        node.announced = false;
        self.nobody_streams_from(name, "connecting");
        self.controllers.iter_mut().for_each(|c| c.sees_primary = Some(false));
    }

    /// The agent alone is gone.
    pub(crate) fn lose_agent(&mut self, name: &str, silent: Duration) {
        let node = self.node(name);
        node.agent = fresh(AgentFacts::Refused);
        node.agent_last_seen = Some(silent);
        node.announced = false;
    }

    /// The relay is gone; replicas that it fed are fed no more.
    pub(crate) fn lose_relay(&mut self, name: &str) {
        let relay = self.relay(name);
        relay.answers = false;
        relay.announced = false;
        let source = relay.record.replication.clone();
        for node in self.nodes.values_mut() {
            if let Some(Seen { value: AgentFacts::Answers(status), .. }) = &mut node.agent
                && let Some(replication) = status.server.as_mut().and_then(|s| s.replication.as_mut())
                && replication.source == source
            {
                replication.io = "Connecting".to_owned();
            }
        }
    }

    pub(crate) fn ask(&mut self, to: Option<&str>, force: bool) {
        self.request = Some(SwitchoverRequest {
            id: "request-1".to_owned(),
            to: to.map(str::to_owned),
            force,
            by: "alice".to_owned(),
            asked_at: "2026-01-01T00:00:00Z".to_owned(),
        });
    }
}
