//! What can be wrong with replicas and with other nodes.

use super::super::candidate::replicated;
use super::super::position;
use super::super::verdict::agent;
use super::{Row, Scene, Severity};
use crate::model::{AgentFacts, AgentStatus, MysqldState, NodeFacts, ReplicationStatus, ServerRole};

pub(super) const ROWS: &[Row] = &[
    Row {
        code: "agent_lost",
        severity: Severity::Warning,
        meaning: "A node's agent does not answer: the node is no candidate.",
        hint: "start the agent",
        matches: |s| {
            nodes(s, |n| {
                let gone = matches!(n.agent.as_ref().map(|a| &a.value), Some(AgentFacts::Refused | AgentFacts::Silent));
                (gone && !n.record.has_no_agent()).then(|| "its agent does not answer".to_owned())
            })
        },
    },
    Row {
        code: "replica_down",
        severity: Severity::Warning,
        meaning: "A replica's server does not run or does not answer.",
        hint: "see what its agent says of it, and its error log; only where its data are damaged: batonctl rejoin NODE --clone",
        matches: |s| {
            let without_agent = nodes(s, |n| {
                let gone = n.record.has_no_agent() && n.agent.is_some() && agent(n).is_none();
                gone.then(|| "its server does not answer".to_owned())
            });
            let mut found = agents(s, |a| match a.mysqld {
                MysqldState::Running => None,
                MysqldState::Silent => Some(told("its server does not answer", a)),
                MysqldState::Dead => Some(told("its server does not run", a)),
                MysqldState::Waiting => Some(told("its server waits to be started", a)),
            });
            found.extend(without_agent);
            found
        },
    },
    Row {
        code: "replica_applier_broken",
        severity: Severity::Warning,
        meaning: "A replica's applier stopped with an error: it is no candidate.",
        hint: "resolve the error on it, then START SLAVE",
        matches: |s| {
            replicas(s, |r| r.sql_error.as_ref().map(|(n, text)| format!("its applier stopped with error {n}: {text}")))
        },
    },
    Row {
        code: "replica_receiver_broken",
        severity: Severity::Warning,
        meaning: "A replica's receiver stopped with an error.",
        hint: "see the error; error 1236 means that it asks for what is purged or was never in the log",
        matches: |s| {
            replicas(s, |r| {
                let error = r.io_error.as_ref().filter(|_| r.io != "Yes")?;
                Some(format!("its receiver stopped with error {}: {}", error.0, error.1))
            })
        },
    },
    Row {
        code: "replica_stopped",
        severity: Severity::Warning,
        meaning: "A replica's replication is stopped.",
        hint: "START SLAVE on it",
        matches: |s| {
            replicas(s, |r| {
                let fine = r.sql && r.io != "No" || r.sql_error.is_some() || r.io_error.is_some();
                (!fine).then(|| "its replication is stopped".to_owned())
            })
        },
    },
    Row {
        code: "replica_unattached",
        severity: Severity::Warning,
        meaning: "A server replicates from nobody.",
        hint: "it is told whom to follow as soon as a relay answers; batonctl rejoin NODE says why not",
        matches: |s| {
            agents(s, |a| {
                let settled = !matches!(a.role, ServerRole::Diverged) && a.mysqld == MysqldState::Running;
                let server = a.server.as_ref().filter(|_| settled && !a.is_cloning())?;
                server.replication.is_none().then(|| "it replicates from nobody".to_owned())
            })
        },
    },
    Row {
        code: "replica_on_dead_relay",
        severity: Severity::Warning,
        meaning: "A replica is attached to a relay that does not answer.",
        hint: "it is moved to another one by itself",
        matches: on_dead_relay,
    },
    Row {
        code: "replica_on_primary",
        severity: Severity::Warning,
        meaning: "A replica is attached to the primary itself: it may show what a failover takes back, and it may acknowledge.",
        hint: "attach it to a relay",
        matches: on_primary,
    },
    Row {
        code: "replica_delayed",
        severity: Severity::Info,
        meaning: "A replica applies with a set delay: it is no candidate.",
        hint: "CHANGE MASTER TO MASTER_DELAY=0, unless it is meant so",
        matches: |s| replicas(s, |r| (r.delay > 0).then(|| format!("it is delayed by {} s", r.delay))),
    },
    Row {
        code: "replica_filtered",
        severity: Severity::Info,
        meaning: "A replica leaves out part of the data: it is no candidate.",
        hint: "remove the replication filters, unless they are meant so",
        matches: |s| replicas(s, |r| r.filtered.then(|| "it leaves out part of the data".to_owned())),
    },
    Row {
        code: "errant_transactions",
        severity: Severity::Warning,
        meaning: "A node has transactions of its own that the cluster's log lacks: it is no candidate.",
        hint: "batonctl rejoin NODE --clone, after looking at what they are",
        matches: errant,
    },
    Row {
        code: "node_diverged",
        severity: Severity::Warning,
        meaning: "A node was found to have committed what the cluster's log lacks, and waits.",
        hint: "batonctl rejoin NODE --clone; what was surplus is in the file that is named",
        matches: |s| {
            agents(s, |a| match (a.role, &a.surplus) {
                (ServerRole::Diverged, Some(file)) => Some(format!("it has diverged; its surplus is in {file}")),
                (ServerRole::Diverged, None) => Some("it has diverged".to_owned()),
                _ => None,
            })
        },
    },
    Row {
        code: "surplus_saved",
        severity: Severity::Info,
        meaning: "Transactions that the cluster's log lacks were saved from a returned node.",
        hint: "look at the file and remove it once it is dealt with",
        matches: |s| {
            agents(s, |a| {
                let file = a.surplus.as_ref().filter(|_| a.role != ServerRole::Diverged)?;
                Some(format!("its surplus is in {file}"))
            })
        },
    },
    Row {
        code: "replica_settings",
        severity: Severity::Warning,
        meaning: "A node lacks what Baton needs of it: it is no candidate.",
        hint: "run the statements that are named",
        matches: |s| agents(s, |a| a.server.as_ref().filter(|st| !st.unmet.is_empty()).map(|st| st.unmet.join("; "))),
    },
    Row {
        code: "replica_writable",
        severity: Severity::Critical,
        meaning: "A server that is not the primary accepts writes.",
        hint: "SET GLOBAL read_only=1 on it; its agent does so at its next start",
        matches: |s| {
            let steady = s.facts.state.as_ref().is_some_and(|st| st.primary.is_some());
            agents(s, |a| {
                a.server.as_ref().filter(|st| steady && !st.read_only).map(|_| "it accepts writes".to_owned())
            })
        },
    },
    Row {
        code: "address_misplaced",
        severity: Severity::Critical,
        meaning: "A node that is not the primary holds the virtual IP.",
        hint: "its agent removes it; see its log if this lasts",
        matches: |s| agents(s, |a| a.address.as_ref().map(|address| format!("it holds {address}"))),
    },
    Row {
        code: "replica_disk",
        severity: Severity::Warning,
        meaning: "The disk under a replica does not take writes: it is no candidate.",
        hint: "make room or repair it",
        matches: |s| agents(s, |a| (a.disk_ok == Some(false)).then(|| "its disk does not take writes".to_owned())),
    },
    Row {
        code: "clone_running",
        severity: Severity::Info,
        meaning: "A node's data is being replaced by a copy.",
        hint: "wait until it is done",
        matches: |s| agents(s, |a| a.clone.clone().filter(|_| a.is_cloning())),
    },
];

/// With what the agent says of why.
fn told(what: &str, agent: &AgentStatus) -> String {
    agent.error.as_ref().map_or_else(|| what.to_owned(), |why| format!("{what}: {why}"))
}

fn nodes(s: &Scene<'_>, what: impl Fn(&NodeFacts) -> Option<String>) -> Vec<(String, String)> {
    s.others().filter_map(|(name, node)| what(node).map(|text| (name.clone(), text))).collect()
}

fn agents(s: &Scene<'_>, what: impl Fn(&AgentStatus) -> Option<String>) -> Vec<(String, String)> {
    nodes(s, |n| agent(n).and_then(&what))
}

fn replicas(s: &Scene<'_>, what: impl Fn(&ReplicationStatus) -> Option<String>) -> Vec<(String, String)> {
    agents(s, |a| a.server.as_ref().and_then(|st| st.replication.as_ref()).and_then(&what))
}

fn on_dead_relay(s: &Scene<'_>) -> Vec<(String, String)> {
    replicas(s, |r| {
        let dead = s.facts.relays.iter().find(|(_, relay)| relay.record.replication == r.source && !relay.answers)?;
        Some(format!("its relay {} does not answer", dead.0))
    })
}

fn on_primary(s: &Scene<'_>) -> Vec<(String, String)> {
    let Some((primary, node, _)) = s.primary() else { return Vec::new() };
    replicas(s, |r| node.record.mysql.contains(&r.source).then(|| format!("it is attached to {primary} itself")))
}

fn errant(s: &Scene<'_>) -> Vec<(String, String)> {
    let head = s.facts.relays.values().fold(String::new(), |p, r| position::union(&p, &r.head));
    agents(s, |a| {
        let server = a.server.as_ref().filter(|_| !head.is_empty() && a.role != ServerRole::Diverged)?;
        let known = position::union(&replicated(server), &head);
        position::beyond(&server.gtid_binlog, &known).map(|g| format!("it has transactions of its own: {g}"))
    })
}
