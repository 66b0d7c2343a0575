//! Which faults lead to a failover, and which do not.

use super::*;
use crate::model::{AgentFacts, Seen, SqlFacts};

type Fault = fn(&mut ClusterFacts);

#[test]
fn a_healthy_cluster_is_left_alone() {
    let decision = at_once(&healthy());
    assert_eq!(decision.action, Action::Rest);
    assert_eq!(decision.refusing, None);
    assert_eq!(decision.candidate.as_deref(), Some("db-2"));
}

#[test]
fn what_leads_to_a_failover_at_once() {
    let table: &[(&str, Fault)] = &[
        ("killed, its agent says so", |f| f.kill("db-1")),
        ("killed together with its agent", |f| {
            f.kill("db-1");
            f.lose_agent("db-1", ms(50));
        }),
        ("killed, the stream broke, the last probe had still succeeded", |f| {
            f.kill("db-1");
            f.node("db-1").sql = Some(Seen { value: SqlFacts::Answers { read_only: false }, age: ms(90) });
        }),
        ("frozen", |f| f.freeze("db-1")),
        ("its host is gone", |f| f.lose_host("db-1", ms(1500))),
        ("killed together with one replica", |f| {
            f.kill("db-1");
            f.kill("db-2");
        }),
        ("killed together with the acker, its agent serves the end of the binlog", |f| {
            f.kill("db-1");
            f.lose_relay("relay-1");
        }),
    ];
    for (fault, inflict) in table {
        let mut facts = healthy();
        inflict(&mut facts);
        let decision = at_once(&facts);
        assert!(fails_over(&decision), "{fault}: {:?} {:?}", decision.action, decision.refusing);
        assert!(!decision.evidence.is_empty(), "{fault}");
    }
}

#[test]
fn what_leads_to_no_failover() {
    let table: &[(&str, Fault)] = &[
        ("only this controller is cut off", |f| {
            f.node("db-1").sql = Some(Seen { value: SqlFacts::Silent("no route".to_owned()), age: ms(10) });
            f.node("db-1").agent = Some(Seen { value: AgentFacts::Silent, age: ms(10) });
        }),
        ("a firewall refuses this controller", |f| {
            f.node("db-1").sql = Some(Seen { value: SqlFacts::Refused, age: ms(10) });
        }),
        ("too many connections", |f| {
            f.node("db-1").sql = Some(Seen { value: SqlFacts::Alive("too many connections".to_owned()), age: ms(10) });
            f.status("db-1").server = None;
        }),
        ("cut off from the relay only", |f| f.relay("relay-1").upstream = "connecting".to_owned()),
        ("the acker is restarted", |f| f.lose_relay("relay-1")),
        ("only another controller sees it alive", |f| {
            f.lose_host("db-1", ms(3000));
            f.controllers[0].sees_primary = Some(true);
        }),
        ("etcd is away", |f| {
            f.kill("db-1");
            f.etcd_age = ms(10_000);
        }),
    ];
    for (fault, inflict) in table {
        let mut facts = healthy();
        inflict(&mut facts);
        let decision = at_once(&facts);
        assert!(!matches!(decision.action, Action::Failover { .. }), "{fault}: {:?}", decision.reason);
    }
}

#[test]
fn a_failover_that_is_not_taken_says_why() {
    let table: &[(&str, Fault, &str)] = &[
        ("paused", |f| f.paused = true, "paused"),
        ("guard exhausted", |f| f.recent_failovers = vec![ms(1000), ms(2000)], "2 automatic failovers"),
        (
            "the acker and the host are gone",
            |f| {
                f.lose_host("db-1", ms(1500));
                f.lose_relay("relay-1");
            },
            "acker relay-1 does not answer",
        ),
        (
            "the acker lost its log, the host is gone",
            |f| {
                f.lose_host("db-1", ms(1500));
                f.relay("relay-1").log_id = "another".to_owned();
            },
            "has lost its log",
        ),
        (
            "the acker's log is damaged, the host is gone",
            |f| {
                f.lose_host("db-1", ms(1500));
                f.relay("relay-1").complete = false;
            },
            "damaged log",
        ),
        ("no acker was ever appointed", |f| f.state().grant_holder = None, "no relay ever held the grant"),
        (
            "no candidate",
            |f| {
                f.replication("db-2").sql_error = Some((1062, "duplicate key".to_owned()));
                f.node("db-3").record.priority = 0;
            },
            "db-2: its applier stopped with error 1062",
        ),
        (
            "the acker took over lately and lacks what was acknowledged before",
            |f| {
                f.state().grant_after = Some("0-1-101".to_owned());
                f.lose_host("db-1", ms(1500));
            },
            "still lacks part",
        ),
    ];
    for (fault, inflict, why) in table {
        let mut facts = healthy();
        facts.kill("db-1");
        inflict(&mut facts);
        let decision = at_once(&facts);
        assert_eq!(decision.action, Action::Rest, "{fault}: {}", decision.reason);
        assert!(refusal(&decision).contains(why), "{fault}: {:?}", decision.refusing);
    }
}
