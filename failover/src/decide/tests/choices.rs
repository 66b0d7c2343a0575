//! Who is promoted and who is not; what is asked for; who acknowledges.

use baton_cluster::Grant;

use super::*;
use crate::decide::{Upkeep, preflight};
use crate::model::{AgentFacts, MysqldState, Seen, ServerRole};

type Fault = fn(&mut ClusterFacts);

#[test]
fn who_is_no_candidate_and_why() {
    let table: &[(Fault, &str)] = &[
        (|f| f.node("db-2").record.priority = 0, "priority is 0"),
        (|f| f.node("db-2").agent = Some(Seen { value: AgentFacts::Silent, age: ms(10) }), "agent does not answer"),
        (|f| f.node("db-2").agent = None, "never seen"),
        (
            |f| {
                f.status("db-2").etcd_ok = Some(false);
                f.node("db-2").announced = false;
            },
            "does not reach etcd",
        ),
        (|f| f.status("db-2").mysqld = MysqldState::Dead, "does not run"),
        (|f| f.status("db-2").role = ServerRole::Fenced, "fenced"),
        (|f| f.status("db-2").role = ServerRole::Diverged, "diverged"),
        (|f| f.status("db-2").clone = Some("running: 1 of 2 GiB".to_owned()), "being replaced"),
        (|f| f.status("db-2").disk_ok = Some(false), "disk"),
        (|f| f.server("db-2").unmet = vec!["SET GLOBAL sync_binlog=1".to_owned()], "sync_binlog"),
        (|f| f.server("db-2").gtid_binlog = "0-1-100,7-2-1".to_owned(), "of its own: 7-2-1"),
        (|f| f.replication("db-2").sql_error = Some((1062, "duplicate".to_owned())), "error 1062"),
        (|f| f.replication("db-2").delay = 60, "delayed by 60 s"),
        (|f| f.replication("db-2").filtered = true, "filters"),
        (
            |f| {
                f.server("db-2").gtid_slave = "0-1-90".to_owned();
                f.server("db-2").gtid_binlog = "0-1-90".to_owned();
                f.replication("db-2").sql = false;
            },
            "applier is stopped",
        ),
        (
            |f| {
                f.server("db-2").gtid_slave = "0-1-90".to_owned();
                f.server("db-2").gtid_binlog = "0-1-90".to_owned();
                f.replication("db-2").received = "0-1-95".to_owned();
                f.replication("db-2").io = "No".to_owned();
            },
            "lacks 5 transactions",
        ),
    ];
    for (inflict, why) in table {
        let mut facts = healthy();
        inflict(&mut facts);
        let decision = at_once(&facts);
        assert_eq!(decision.candidate.as_deref(), Some("db-3"), "{why}");
        let told = decision.rejected.iter().find(|r| r.node == "db-2").map(|r| r.why.clone()).unwrap_or_default();
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn node_whose_clone_has_ended_is_a_candidate_and_is_told_whom_to_follow() {
    for how in ["done: the copy of db-3 was taken at 0-1-90, and follows", "failed: the donor does not answer"] {
        let mut facts = healthy();
        facts.status("db-2").clone = Some(how.to_owned());
        assert_eq!(at_once(&facts).candidate.as_deref(), Some("db-2"), "{how}");
        facts.replication("db-2").io = "No".to_owned();
        facts.status("db-2").role = ServerRole::Fenced;
        let Action::Upkeep(due) = at_once(&facts).action else { panic!("{how}: nothing is to be done") };
        assert!(due.iter().any(|d| matches!(d, Upkeep::Follow { node, .. } if node == "db-2")), "{how}: {due:?}");
    }
}

#[test]
fn replica_that_is_about_to_be_fed_is_a_candidate() {
    for io in ["Yes", "Preparing", "Connecting"] {
        let mut facts = healthy();
        facts.server("db-2").gtid_slave = "0-1-60".to_owned();
        facts.server("db-2").gtid_binlog = "0-1-60".to_owned();
        facts.replication("db-2").received = "0-1-60".to_owned();
        facts.replication("db-2").io = io.to_owned();
        facts.ask(Some("db-2"), false);
        let decision = at_once(&facts);
        assert!(matches!(decision.action, Action::Switchover { .. }), "{io}: {decision:?}");
    }
}

#[test]
fn what_keeps_the_acker_from_promising_is_told_before_the_lack_of_candidates() {
    let mut facts = healthy();
    facts.relays.remove("relay-2");
    facts.lose_relay("relay-1");
    facts.lose_host("db-1", ms(1500));
    for node in ["db-2", "db-3"] {
        facts.server(node).gtid_slave = "0-1-60".to_owned();
        facts.server(node).gtid_binlog = "0-1-60".to_owned();
        facts.replication(node).received = "0-1-60".to_owned();
    }
    let refused = after(1500, &facts, &Policy::default()).refusing.unwrap();
    assert!(refused.hint.contains("relay-1"), "{refused:?}");
}

#[test]
fn the_freshest_is_chosen_then_the_preferred_then_the_nearest() {
    let mut facts = healthy();
    facts.node("db-2").record.site = "par2".to_owned();
    assert_eq!(at_once(&facts).candidate.as_deref(), Some("db-3"), "the nearest");
    facts.node("db-2").record.priority = 200;
    assert_eq!(at_once(&facts).candidate.as_deref(), Some("db-2"), "the preferred");
    facts.server("db-2").gtid_slave = "0-1-99".to_owned();
    facts.server("db-2").gtid_binlog = "0-1-99".to_owned();
    facts.replication("db-2").received = "0-1-99".to_owned();
    assert_eq!(at_once(&facts).candidate.as_deref(), Some("db-3"), "the freshest");
}

#[test]
fn a_switchover_is_refused_before_anything_is_locked() {
    let table: &[(&str, Fault, &str)] = &[
        ("db-1", |_| {}, "is the primary already"),
        ("db-9", |_| {}, "is not known"),
        ("db-2", |f| f.replication("db-2").sql_error = Some((1062, "duplicate".to_owned())), "error 1062"),
        ("db-2", |f| f.status("db-2").role = ServerRole::Diverged, "diverged"),
        ("db-2", |f| f.replication("db-2").sql = false, "replication of db-2 is stopped"),
        ("db-2", |f| f.replication("db-2").io = "No".to_owned(), "replication of db-2 is stopped"),
        ("db-2", |f| f.lose_agent("db-1", ms(100)), "agent of db-1 does not answer"),
        ("db-2", |f| f.lose_relay("relay-1"), "acker relay-1 does not answer"),
        ("db-2", |f| f.state().asked = Some(Grant { epoch: 1, n: 2 }), "acker is being changed"),
        (
            "db-2",
            |f| {
                let far = ("0-1-50".to_owned(), Some("0-1-50".to_owned()), Some(60_000));
                f.relay("relay-1").replicas.insert("db-2".to_owned(), far);
            },
            "lags by 60000 ms",
        ),
    ];
    for (to, inflict, why) in table {
        let mut facts = healthy();
        inflict(&mut facts);
        let policy = Policy::default();
        let refused = preflight(&facts, &remembered(&facts, ms(0), &policy), &policy, Some(to));
        assert!(refused.clone().is_err_and(|r| r.why.contains(why)), "{why}: {refused:?}");
        facts.ask(Some(to), false);
        assert!(matches!(at_once(&facts).action, Action::RefuseRequest { .. }), "{why}");
    }
}

#[test]
fn who_asks_is_obeyed_where_it_can_be_done() {
    let mut facts = healthy();
    facts.ask(None, false);
    let request = Some("request-1".to_owned());
    assert_eq!(at_once(&facts).action, Action::Switchover { to: "db-2".to_owned(), request: request.clone() });
    facts.paused = true;
    facts.ask(Some("db-3"), true);
    let to = Some("db-3".to_owned());
    assert_eq!(at_once(&facts).action, Action::Failover { forced: false, to, request });
}

#[test]
fn the_acker_is_changed_with_patience_that_fits_the_fault() {
    let to_relay_2 = Action::ChangeAcker { to: "relay-2".to_owned() };
    let policy = Policy::default();
    let table: &[(&str, Fault, u64)] = &[
        (
            "gone, and the primary has no acker",
            |f| {
                f.lose_relay("relay-1");
                f.server("db-1").semi_sync_clients = 0;
            },
            1000,
        ),
        ("unseen here, and acknowledging still", |f| f.lose_relay("relay-1"), 5000),
        (
            "unseen, and commits wait for it",
            |f| {
                f.lose_relay("relay-1");
                f.server("db-1").waiting_commits = 64;
            },
            1000,
        ),
        (
            "cut off from etcd",
            |f| {
                f.relay("relay-1").etcd_ok = false;
                f.relay("relay-1").announced = false;
            },
            5000,
        ),
        ("its disk is full", |f| f.relay("relay-1").writable = false, 5000),
        ("its data is lost", |f| f.relay("relay-1").log_id = "another".to_owned(), 5000),
        ("on the primary's host", |f| f.relay("relay-1").record.host = "host-1".to_owned(), 0),
        ("it promised beyond", |f| f.relay("relay-1").promised = Grant { epoch: 2, n: 1 }, 0),
    ];
    for (fault, inflict, patience) in table {
        let mut facts = healthy();
        inflict(&mut facts);
        if *patience > 0 {
            let early = after(patience - 1, &facts, &policy).action;
            assert!(matches!(early, Action::Rest | Action::Upkeep(_)), "{fault}: {early:?}");
        }
        assert_eq!(after(*patience, &facts, &policy).action, to_relay_2, "{fault}");
    }
}

#[test]
fn an_acker_that_promised_beyond_with_nobody_to_follow_it_costs_the_primary_its_place() {
    let mut facts = healthy();
    facts.relays.remove("relay-2");
    facts.relay("relay-1").promised = Grant { epoch: 2, n: 1 };
    assert!(fails_over(&at_once(&facts)));
}

#[test]
fn replicas_of_a_relay_that_etcd_has_lost_are_moved_once_it_receives_nothing_more() {
    let mut facts = healthy();
    let relay = facts.relay("relay-2");
    (relay.etcd_ok, relay.announced) = (false, false);
    let follows = |facts: &ClusterFacts| {
        matches!(&after(6000, facts, &Policy::default()).action, Action::Upkeep(due)
        if due.iter().any(|d| matches!(d, Upkeep::Follow { node, relay, .. } if node == "db-3" && relay == "relay-1")))
    };
    assert!(!follows(&facts), "it streams still");
    facts.relay("relay-2").upstream = "stopped".to_owned();
    assert!(follows(&facts));
}

#[test]
fn replicas_of_a_dead_relay_are_moved_and_returned_nodes_follow() {
    let mut facts = healthy();
    facts.lose_relay("relay-2");
    let Action::Upkeep(due) = at_once(&facts).action else { panic!("nothing is due") };
    assert!(
        matches!(&due[..], [Upkeep::Follow { node, relay, .. }] if node == "db-3" && relay == "relay-1"),
        "{due:?}"
    );
    let mut facts = healthy();
    facts.server("db-2").replication = None;
    facts.status("db-2").role = ServerRole::Fenced;
    let Action::Upkeep(due) = at_once(&facts).action else { panic!("nothing is due") };
    assert!(matches!(&due[..], [Upkeep::Follow { node, .. }] if node == "db-2"), "{due:?}");
    facts.status("db-2").role = ServerRole::Diverged;
    assert_eq!(at_once(&facts).action, Action::Rest);
}

#[test]
fn a_fenced_candidate_whose_old_source_lives_is_told_to_follow_and_a_replica_that_was_stopped_is_not() {
    let mut facts = healthy();
    facts.replication("db-2").io = "No".to_owned();
    facts.replication("db-2").sql = false;
    assert_eq!(at_once(&facts).action, Action::Rest, "whoever stopped it means it");
    facts.status("db-2").role = ServerRole::Fenced;
    let Action::Upkeep(due) = at_once(&facts).action else { panic!("nothing is due") };
    assert!(matches!(&due[..], [Upkeep::Follow { node, .. }] if node == "db-2"), "{due:?}");
}

#[test]
fn primary_that_lost_what_the_acker_has_is_replaced_and_the_acker_is_not() {
    let policy = Policy::default();
    let mut facts = healthy();
    facts.relay("relay-1").upstream = "diverged".to_owned();
    // It may only be that the agent was asked before the relay.
    facts.server("db-1").gtid_binlog = "0-1-98".to_owned();
    assert_eq!(after(999, &facts, &policy).action, Action::Rest);
    let decision = after(1000, &facts, &policy);
    assert!(fails_over(&decision) && decision.reason.contains("has lost what acker relay-1 has"), "{decision:?}");
    // What the log lacks and the primary has is no loss: then something is wrong with the relay.
    facts.server("db-1").gtid_binlog = "0-1-120".to_owned();
    let decision = after(5000, &facts, &policy);
    assert_eq!(decision.action, Action::ChangeAcker { to: "relay-2".to_owned() });
    // Nothing is believed of a relay whose log has gaps.
    facts.server("db-1").gtid_binlog = "0-1-98".to_owned();
    facts.relay("relay-1").complete = false;
    assert!(!fails_over(&after(5000, &facts, &policy)));
}

#[test]
fn time_decides_where_the_faults_have_to_last() {
    let policy = Policy::default();
    let mut disk = healthy();
    disk.status("db-1").disk_ok = Some(false);
    assert_eq!(after(4999, &disk, &policy).action, Action::Rest);
    assert!(fails_over(&after(5000, &disk, &policy)));

    let mut agent = healthy();
    agent.lose_agent("db-1", ms(100));
    assert_eq!(after(4999, &agent, &policy).action, Action::Rest);
    assert!(fails_over(&after(5000, &agent, &policy)));

    let mut ackers = healthy();
    ackers.server("db-1").semi_sync_clients = 2;
    let memory = remembered(&ackers, ms(6000), &policy);
    ackers.kill("db-1");
    let decision = decide(&ackers, &memory.observe(&ackers, &policy, ms(10)), &policy);
    assert!(refusal(&decision).contains("more clients than the acker"), "{:?}", decision.refusing);

    let mut missing = healthy();
    missing.lose_host("db-1", ms(1500));
    missing.lose_relay("relay-1");
    let forcing = Policy { force_after: Some(ms(30_000)), ..Policy::default() };
    assert_eq!(after(29_999, &missing, &forcing).action, Action::Rest);
    assert!(matches!(after(30_000, &missing, &forcing).action, Action::Failover { forced: true, .. }));
}

#[test]
fn a_primary_that_clients_can_not_reach_is_moved_where_policy_wants_it_to_a_host_that_they_can() {
    let told = Policy::default();
    let moved = Policy { switchover_when_link_lost: true, ..Policy::default() };
    let to = |decision: &Decision| match &decision.action {
        Action::Switchover { to, request: None } => Some(to.clone()),
        _ => None,
    };
    let mut facts = healthy();
    facts.status("db-1").carrier = Some(false);
    assert_eq!(after(60_000, &facts, &told).action, Action::Rest, "it is only told");
    assert_eq!(to(&after(6000, &facts, &moved)).as_deref(), Some("db-2"));
    assert_eq!(after(4999, &facts, &moved).action, Action::Rest, "no sooner after a change than valid_for");
    let brief =
        remembered(&healthy(), ms(60_000), &moved).observe(&facts, &moved, ms(10)).observe(&facts, &moved, ms(999));
    assert_eq!(decide(&facts, &brief, &moved).action, Action::Rest, "a link that flickers");

    facts.status("db-2").carrier = Some(false);
    let decision = after(6000, &facts, &moved);
    assert_eq!((to(&decision).as_deref(), decision.candidate.as_deref()), (Some("db-3"), Some("db-3")));
    facts.paused = true;
    let paused = after(6000, &facts, &moved);
    assert!(to(&paused).is_none() && refusal(&paused).contains("carrier") && refusal(&paused).contains("paused"));
    facts.paused = false;
    facts.status("db-3").carrier = Some(false);
    let nowhere = after(6000, &facts, &moved);
    assert!(to(&nowhere).is_none() && refusal(&nowhere).contains("no other node"), "{:?}", nowhere.refusing);

    let mut acker_too = facts.clone();
    acker_too.lose_relay("relay-1");
    let both = after(6000, &acker_too, &moved);
    assert!(matches!(both.action, Action::ChangeAcker { .. }), "nothing else waits for that: {:?}", both.action);

    // Who is dead is replaced all the same, if need be by one that clients can't reach yet: commits must not wait for a cable.
    facts.kill("db-1");
    assert!(fails_over(&after(6000, &facts, &moved)));
}

#[test]
fn after_a_cold_start_the_last_primary_has_time_to_come_back() {
    let policy = Policy::default();
    let mut facts = healthy();
    facts.lose_host("db-1", ms(3000));
    facts.node("db-1").agent_last_seen = None;
    facts.watching_for = ms(3000);
    let memory = Memory::default().observe(&facts, &policy, ms(0));
    let decision = decide(&facts, &memory, &policy);
    assert!(refusal(&decision).contains("not seen alive since"), "{:?}", decision.refusing);
    facts.watching_for = ms(10_000);
    assert!(fails_over(&decide(&facts, &memory, &policy)));
}
