use super::*;
use crate::model::fixture::{healthy, ms};

const TERM: u64 = 12;

/// `healthy` with the lag of each replica, as a relay knows it.
fn lagging(lags: &[(&str, Option<u64>)]) -> ClusterFacts {
    let mut facts = healthy();
    for (name, lag) in lags {
        let known = (String::new(), None, *lag);
        facts.relay("relay-1").replicas.insert((*name).to_owned(), known);
    }
    facts
}

fn wanted(facts: &ClusterFacts) -> Wanted {
    Wanted::of(facts, TERM, ms(5000)).unwrap()
}

fn names(members: &[Member]) -> Vec<&str> {
    members.iter().map(|member| member.node.as_str()).collect()
}

#[test]
fn nothing_is_wanted_before_there_is_a_state() {
    let mut facts = healthy();
    facts.state = None;
    assert_eq!(Wanted::of(&facts, TERM, ms(5000)), None);
}

#[test]
fn the_primary_serves_and_replicas_within_the_bound_may_be_read() {
    let wanted = wanted(&lagging(&[("db-2", Some(5000)), ("db-3", Some(5001))]));
    assert_eq!(wanted.rank, Rank { epoch: 1, term: TERM });
    assert_eq!(wanted.primary.unwrap().addresses, ["db-1:3306"]);
    assert_eq!(names(&wanted.replicas), ["db-2"]);
    assert_eq!(wanted.roles["db-1"], Role::Primary);
    assert_eq!(wanted.roles["db-3"], Role::Replica);
}

#[test]
fn nobody_serves_while_the_primary_is_fenced() {
    for phase in [Phase::Fencing, Phase::CatchingUp, Phase::Promoting] {
        let mut facts = lagging(&[("db-2", Some(0)), ("db-3", Some(0))]);
        let state = facts.state();
        (state.phase, state.epoch) = (phase, 2);
        (state.primary, state.old_primary, state.candidate) = (None, Some("db-1".into()), Some("db-2".into()));
        let wanted = wanted(&facts);
        assert_eq!((wanted.primary, wanted.rank.epoch), (None, 2));
        assert_eq!(wanted.roles["db-1"], Role::Fenced);
        assert_eq!(names(&wanted.replicas), ["db-2", "db-3"], "reading goes on");
    }
}

#[test]
fn a_phase_that_is_not_steady_publishes_no_primary_whatever_the_state_names() {
    let mut facts = healthy();
    facts.state().phase = Phase::Promoting;
    assert_eq!(wanted(&facts).primary, None);
}

#[test]
fn a_replica_is_known_by_the_host_of_its_address_too() {
    let mut facts = lagging(&[("10.0.1.6", Some(7)), ("db-3", Some(0))]);
    facts.node("db-2").record.mysql = vec!["10.0.1.6:3306".to_owned()];
    assert_eq!(names(&wanted(&facts).replicas), ["db-2", "db-3"]);
}

#[test]
fn a_replica_of_unknown_lag_or_stopped_or_silent_is_not_to_be_read() {
    let mut facts = lagging(&[("db-2", None), ("db-3", Some(0))]);
    assert_eq!(names(&wanted(&facts).replicas), ["db-3"]);
    if let Some(replication) = facts.status("db-3").server.as_mut().and_then(|s| s.replication.as_mut()) {
        replication.sql = false;
    }
    assert!(wanted(&facts).replicas.is_empty());
    facts = lagging(&[("db-2", Some(0)), ("db-3", Some(0))]);
    facts.node("db-3").agent = None;
    assert_eq!(names(&wanted(&facts).replicas), ["db-2"]);
    assert_eq!(wanted(&facts).roles["db-3"], Role::Unknown);
    facts.relay("relay-1").answers = false;
    assert!(wanted(&facts).replicas.is_empty(), "what a silent relay knew is old");
}

#[test]
fn a_relay_that_nobody_feeds_can_not_say_that_its_replicas_are_fresh() {
    let mut facts = lagging(&[("db-2", Some(0)), ("db-3", Some(0))]);
    let relay = facts.relay("relay-1");
    (relay.held, relay.upstream) = (false, "refused".to_owned());
    assert!(wanted(&facts).replicas.is_empty(), "they stand still with it");
    facts.relay("relay-1").held = true;
    assert_eq!(
        names(&wanted(&facts).replicas),
        ["db-2", "db-3"],
        "the acker's head is the cluster's, also while there is no primary"
    );
}

#[test]
fn a_deposed_primary_that_has_not_heard_of_it_is_shown_as_fenced_and_a_diverged_one_as_such() {
    let mut facts = healthy();
    facts.status("db-2").role = ServerRole::Primary;
    facts.status("db-3").role = ServerRole::Diverged;
    let wanted = wanted(&facts);
    assert_eq!((wanted.roles["db-2"], wanted.roles["db-3"]), (Role::Fenced, Role::Diverged));
    assert!(wanted.replicas.is_empty());
}
