//! Each problem, with a fault that shows it. No row of the table may be without one.

use std::collections::BTreeSet;

use baton_cluster::Grant;

use super::*;
use crate::decide::problem;
use crate::model::{AgentFacts, MysqldState, Seen, ServerRole, SqlFacts};

pub(super) type Fault = fn(&mut ClusterFacts);

fn sql(f: &mut ClusterFacts, name: &str, value: SqlFacts) {
    f.node(name).sql = Some(Seen { value, age: ms(10) });
}

pub(super) const FAULTS: &[(&str, &str, Fault)] = &[
    ("primary_crashed", "db-1", |f| f.kill("db-1")),
    ("primary_frozen", "db-1", |f| f.freeze("db-1")),
    ("primary_host_gone", "db-1", |f| f.lose_host("db-1", ms(2000))),
    ("primary_unseen_here", "db-1", |f| sql(f, "db-1", SqlFacts::Silent("no route".to_owned()))),
    ("primary_unseen_by_acker", "db-1", |f| f.relay("relay-1").upstream = "connecting".to_owned()),
    ("primary_unseen_by_clients", "db-1", |f| {
        f.status("db-1").address = None;
        f.status("db-1").address_error = Some("the interface is down".to_owned());
    }),
    ("commits_wait", "db-1", |f| {
        f.server("db-1").waiting_commits = 3;
        f.server("db-1").semi_sync_clients = 0;
    }),
    ("primary_disk", "db-1", |f| f.status("db-1").disk_ok = Some(false)),
    ("primary_lost_commits", "db-1", |f| {
        f.relay("relay-1").upstream = "diverged".to_owned();
        f.server("db-1").gtid_binlog = "0-1-90".to_owned();
    }),
    ("primary_too_many_connections", "db-1", |f| sql(f, "db-1", SqlFacts::Alive("Too many connections".to_owned()))),
    ("probe_denied", "db-1", |f| sql(f, "db-1", SqlFacts::Alive("access denied for 'baton_probe'".to_owned()))),
    ("primary_read_only", "db-1", |f| f.server("db-1").read_only = true),
    ("semi_sync_off", "db-1", |f| f.server("db-1").semi_sync = false),
    ("surplus_ackers", "db-1", |f| f.server("db-1").semi_sync_clients = 2),
    ("primary_settings", "db-1", |f| f.server("db-1").unmet = vec!["SET GLOBAL sync_binlog=1".to_owned()]),
    ("primary_agent_lost", "db-1", |f| f.lose_agent("db-1", ms(2000))),
    ("primary_address", "db-1", |f| f.status("db-1").address_error = Some("a stranger answers for it".to_owned())),
    ("primary_waits", "db-1", |f| f.status("db-1").mysqld = MysqldState::Waiting),
    ("no_acker", "acker", |f| f.state().grant_holder = None),
    ("acker_lost", "relay-1", |f| f.lose_relay("relay-1")),
    ("acker_outdated", "relay-1", |f| f.relay("relay-1").promised = Grant { epoch: 2, n: 1 }),
    ("acker_on_primarys_host", "relay-1", |f| f.relay("relay-1").record.host = "host-1".to_owned()),
    ("acker_catches_up", "relay-1", |f| f.state().grant_after = Some("0-1-101".to_owned())),
    ("no_standby", "relay-1", |f| f.lose_relay("relay-2")),
    ("relay_lost", "relay-2", |f| f.lose_relay("relay-2")),
    ("relay_not_writable", "relay-2", |f| f.relay("relay-2").writable = false),
    ("relay_damaged", "relay-1", |f| f.relay("relay-1").complete = false),
    ("relay_diverged", "relay-2", |f| f.relay("relay-2").upstream = "diverged".to_owned()),
    ("relay_refused", "relay-2", |f| f.relay("relay-2").upstream = "refused".to_owned()),
    ("agent_lost", "db-2", |f| f.node("db-2").agent = Some(Seen { value: AgentFacts::Silent, age: ms(10) })),
    ("replica_down", "db-2", |f| f.kill("db-2")),
    ("replica_applier_broken", "db-2", |f| f.replication("db-2").sql_error = Some((1062, "duplicate key".to_owned()))),
    ("replica_receiver_broken", "db-2", |f| {
        f.replication("db-2").io = "No".to_owned();
        f.replication("db-2").io_error = Some((1236, "purged".to_owned()));
    }),
    ("replica_stopped", "db-2", |f| f.replication("db-2").sql = false),
    ("replica_unattached", "db-2", |f| f.server("db-2").replication = None),
    ("replica_on_dead_relay", "db-3", |f| f.lose_relay("relay-2")),
    ("replica_on_primary", "db-2", |f| f.replication("db-2").source = "db-1:3306".to_owned()),
    ("replica_delayed", "db-2", |f| f.replication("db-2").delay = 3600),
    ("replica_filtered", "db-2", |f| f.replication("db-2").filtered = true),
    ("errant_transactions", "db-2", |f| f.server("db-2").gtid_binlog = "0-2-101".to_owned()),
    ("node_diverged", "db-2", |f| f.status("db-2").role = ServerRole::Diverged),
    ("surplus_saved", "db-2", |f| f.status("db-2").surplus = Some("/var/lib/surplus.sql".to_owned())),
    ("replica_settings", "db-2", |f| f.server("db-2").unmet = vec!["SET GLOBAL sync_binlog=1".to_owned()]),
    ("replica_writable", "db-2", |f| f.server("db-2").read_only = false),
    ("address_misplaced", "db-2", |f| f.status("db-2").address = Some("10.0.0.100/24".to_owned())),
    ("replica_disk", "db-2", |f| f.status("db-2").disk_ok = Some(false)),
    ("clone_running", "db-2", |f| f.status("db-2").clone = Some("running: 3 of 10 GiB".to_owned())),
    ("etcd_unreachable", "etcd", |f| f.etcd_age = ms(5000)),
    ("etcd_content", "etcd", |f| f.etcd_errors = vec!["nodes/db-9: no JSON".to_owned()]),
    ("not_bootstrapped", "cluster", |f| f.state = None),
    ("paused", "cluster", |f| f.paused = true),
    ("guard_exhausted", "cluster", |f| f.recent_failovers = vec![ms(1000), ms(2000)]),
    ("no_candidate", "cluster", |f| {
        f.node("db-2").record.priority = 0;
        f.node("db-3").record.priority = 0;
    }),
    ("truth_unreachable", "cluster", |f| {
        f.lose_relay("relay-1");
        f.lose_agent("db-1", ms(100));
    }),
    ("versions_differ", "db-3", |f| f.node("db-3").record.version = "0.0.9".to_owned()),
];

#[test]
fn each_problem_is_seen_and_names_its_subject() {
    for (code, subject, inflict) in FAULTS {
        let mut facts = healthy();
        inflict(&mut facts);
        let decision = after(6000, &facts, &Policy::default());
        let found = decision.problems.iter().find(|p| p.code == *code && p.subject == *subject);
        let problem = found.unwrap_or_else(|| panic!("{code} of {subject}: {:#?}", decision.problems));
        assert!(!problem.text.is_empty() && !problem.hint.is_empty(), "{code}");
    }
}

#[test]
fn no_row_of_the_table_is_without_a_fault_that_shows_it() {
    let shown: BTreeSet<&str> = FAULTS.iter().map(|(code, _, _)| *code).collect();
    let all: Vec<&str> = problem::table().map(|row| row.code).collect();
    assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), shown);
    assert_eq!(all.len(), shown.len(), "a code stands in the table twice");
}

#[test]
fn a_healthy_cluster_has_no_problems() {
    assert_eq!(at_once(&healthy()).problems, []);
}
