//! What a controller sees of the world.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{ClusterState, NodeRecord, RelayRecord, SwitchoverRequest};
use baton_failover::model::{
    AgentFacts, AgentStatus, ClusterFacts, MysqldState, NodeFacts, RelayFacts, ReplicationStatus, Seen, ServerRole,
    ServerStatus, SqlFacts,
};

use crate::world::{Host, Relay, Role, Server, World, log_id, position, relay_name, server_name};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn facts(world: &World, state: &ClusterState) -> ClusterFacts {
    let nodes = world.servers.iter().enumerate().map(|(s, server)| (server_name(s), node(world, s, server)));
    let relays = world.relays.iter().enumerate().map(|(r, relay)| (relay_name(r), relay_facts(world, r, relay)));
    ClusterFacts {
        state: Some(state.clone()),
        etcd_age: ms(10),
        etcd_trouble: None,
        paused: false,
        request: world.etcd.asked.then(|| SwitchoverRequest {
            id: "1".to_owned(),
            to: None,
            force: false,
            by: "alice".to_owned(),
            asked_at: String::new(),
        }),
        nodes: nodes.collect(),
        relays: relays.collect(),
        controllers: Vec::new(),
        recent_failovers: Vec::new(),
        watching_for: ms(60_000),
        etcd_errors: Vec::new(),
    }
}

fn node(world: &World, s: usize, server: &Server) -> NodeFacts {
    let name = server_name(s);
    let seen = server.host == Host::Up;
    let sql = match (seen, server.runs) {
        (false, _) => SqlFacts::Silent(String::new()),
        (true, false) => SqlFacts::Refused,
        (true, true) => SqlFacts::Answers { read_only: !server.writable },
    };
    let agent = if seen { AgentFacts::Answers(Box::new(status(world, s, server))) } else { AgentFacts::Silent };
    // An agent that lives and is cut off is silent for longer than `fence_after` only once it has fenced its server.
    let silent = match server.host {
        Host::Up => 10,
        Host::Cut if !server.self_fenced => 1100,
        Host::Cut | Host::Down => 5000,
    };
    NodeFacts {
        record: NodeRecord {
            name: name.clone(),
            mysql: vec![format!("{name}:3306")],
            http: String::new(),
            host: String::new(),
            site: String::new(),
            priority: 100,
            server_id: None,
            hardware: String::new(),
            fence_after_ms: None,
            valid_for_ms: None,
            version: String::new(),
        },
        announced: seen,
        sql: Some(Seen { value: sql, age: ms(10) }),
        agent: Some(Seen { value: agent, age: ms(10) }),
        agent_last_seen: Some(ms(silent)),
    }
}

fn status(world: &World, s: usize, server: &Server) -> AgentStatus {
    // After a start an agent resumes only what was ordered.
    let resumed = server.role == Role::Replica;
    let source = server.source.map(|r| ReplicationStatus {
        source: format!("{}:3307", relay_name(r)),
        io: match (resumed, world.relays[r].up) {
            (true, true) => "Yes",
            (true, false) => "Connecting",
            (false, _) => "No",
        }
        .to_owned(),
        sql: resumed,
        received: position(&server.log),
        ..ReplicationStatus::default()
    });
    let clients = (0..world.relays.len()).filter(|r| world.streams(*r) == Some(s)).count();
    let answers = ServerStatus {
        server_id: u32::try_from(s).unwrap_or(0) + 1,
        read_only: !server.writable,
        gtid_binlog: position(&server.log),
        gtid_slave: position(&server.log),
        semi_sync: server.role == Role::Primary,
        semi_sync_clients: u32::try_from(clients).unwrap_or(0),
        replication: source,
        ..ServerStatus::default()
    };
    AgentStatus {
        cluster: String::new(),
        node: server_name(s),
        mysqld: match (server.runs, server.starting) {
            (true, _) => MysqldState::Running,
            (false, true) => MysqldState::Waiting,
            (false, false) => MysqldState::Dead,
        },
        mysqld_ms: 0,
        role: match server.role {
            Role::Primary => ServerRole::Primary,
            Role::Replica => ServerRole::Replica,
            Role::Fenced => ServerRole::Fenced,
            Role::Diverged => ServerRole::Diverged,
        },
        server: server.runs.then_some(answers),
        server_age_ms: server.runs.then_some(10),
        error: None,
        disk_ok: Some(true),
        address: server.address.then(String::new),
        address_error: None,
        carrier: None,
        etcd_ok: Some(true),
        self_fenced: server.self_fenced,
        given_up: None,
        last_order: [0, 0, 0],
        clone: None,
        surplus: None,
    }
}

fn relay_facts(world: &World, r: usize, relay: &Relay) -> RelayFacts {
    let name = relay_name(r);
    let upstream = world.streams(r);
    RelayFacts {
        record: RelayRecord {
            name: name.clone(),
            replication: format!("{name}:3307"),
            http: String::new(),
            host: String::new(),
            site: String::new(),
            server_id: u32::try_from(r).unwrap_or(0) + 9001,
            user: format!("relay-{}", r + 1),
            log_id: log_id(r, relay),
            promised: relay.promised,
            held: relay.held,
            version: String::new(),
        },
        announced: relay.up,
        answers: relay.up,
        age: ms(10),
        upstream: if upstream.is_some() { "streaming" } else { "connecting" }.to_owned(),
        upstream_address: relay.acks_for.map(|s| format!("{}:3306", server_name(s))),
        upstream_heard: Some(ms(if upstream.is_some() { 10 } else { 5000 })),
        head: position(&relay.log),
        writable: true,
        complete: true,
        log_id: log_id(r, relay),
        promised: relay.promised,
        held: relay.held,
        etcd_ok: true,
        replicas: BTreeMap::new(),
    }
}
