//! Whole operations, step by step.

use baton_cluster::{Grant, Phase};

use super::super::{Outcome, Step};
use super::stage::Stage;
use crate::model::{OrderKind, OrderResult};

fn told(stage: &Stage) -> Vec<&str> {
    stage.log.iter().map(String::as_str).collect()
}

#[test]
fn primary_killed_is_followed_by_the_freshest_replica() {
    let mut stage = Stage::new();
    stage.facts.kill("db-1");
    stage.settle();
    assert_eq!(
        told(&stage),
        [
            "commit 2 Fencing nobody [1,1]",
            "fence db-1",
            "promise relay-1 [2,1]",
            "commit 2 CatchingUp db-2 [1,1]",
            "catch_up db-2",
            "prepare db-2",
            "allow_acker db-2",
            "commit 2 Promoting db-2 [2,1]",
            "open db-2",
            "commit 2 Steady db-2 [2,1]",
        ]
    );
    let epoch = &stage.epochs[0];
    assert_eq!((epoch.node.as_str(), epoch.first_file.as_deref(), epoch.shift), ("db-2", Some("mysql-bin.000003"), 5));
    let history = &stage.history[&2];
    assert_eq!((history.outcome.as_str(), history.to.as_deref()), ("done", Some("db-2")));
}

#[test]
fn switchover_blocks_while_the_acker_acknowledges_and_promises_last() {
    let mut stage = Stage::new();
    stage.facts.ask(Some("db-3"), false);
    stage.settle();
    assert_eq!(
        told(&stage),
        [
            "commit 2 Fencing db-3 [1,1]",
            "catch_up db-3",
            "allow_acker db-3",
            "block db-1",
            "catch_up db-3",
            "promise relay-1 [2,1]",
            // Side by side.
            "prepare db-3",
            "commit 2 CatchingUp db-3 [1,1]",
            "commit 2 Promoting db-3 [2,1]",
            "open db-3",
            "commit 2 Steady db-3 [2,1]",
            "follow db-1",
        ]
    );
}

/// The acker hangs, the primary dies with one commit that was never acknowledged; a standby has completed itself, and its replicas have that commit too.
fn rescued_and_the_acker_is_back(stage: &mut Stage) {
    let relay = stage.facts.relay("relay-2");
    relay.head = "0-1-101".to_owned();
    relay.promised = Grant { epoch: 2, n: 1 };
    for node in ["db-2", "db-3"] {
        let server = stage.facts.server(node);
        server.gtid_binlog = "0-1-101".to_owned();
        server.gtid_slave = "0-1-101".to_owned();
    }
}

#[test]
fn what_a_standby_rescued_is_the_truth_though_the_acker_promises_after_all() {
    let mut stage = Stage::new();
    stage.facts.kill("db-1");
    stage.round(0);
    rescued_and_the_acker_is_back(&mut stage);
    stage.settle();
    assert_eq!(
        stage.log[..5],
        [
            "commit 2 Fencing nobody [1,1]",
            "fence db-1",
            "promise relay-1 [2,1]",
            "rescue relay-2 from db-1 [2,1]",
            "commit 2 CatchingUp db-2 [1,1]",
        ]
    );
    assert_eq!(stage.epochs[0].gtid, "0-1-101");
    assert_eq!(stage.state().grant_holder.as_deref(), Some("relay-2"));
}

#[test]
fn a_rescue_that_is_known_only_after_the_choice_begins_the_operation_anew() {
    let mut stage = Stage::new();
    stage.facts.kill("db-1");
    while stage.state().phase != Phase::CatchingUp {
        stage.round(2000);
    }
    rescued_and_the_acker_is_back(&mut stage);
    stage.trouble = |facts, step| match step {
        // What a server has cannot be taken from it.
        Step::Order { node, kind: OrderKind::CatchUp { gtid, .. }, .. } if gtid == "0-1-100" => {
            assert_eq!(facts.server(node).gtid_binlog, "0-1-101");
            Some(Outcome::Done(OrderResult { reached: Some(true), ..OrderResult::default() }))
        }
        _ => None,
    };
    stage.settle();
    let anew = stage.log.iter().position(|step| step == "commit 3 Fencing nobody [1,1]").expect("a new operation");
    assert!(stage.log[anew..].contains(&"rescue relay-2 from db-1 [3,1]".to_owned()), "{:#?}", stage.log);
    assert_eq!(stage.epochs[0].gtid, "0-1-101");
    assert_eq!(stage.history[&2].outcome, "superseded");
}

#[test]
fn an_acker_that_answers_and_does_not_promise_is_made_up_for_from_the_binlog() {
    let mut stage = Stage::new();
    stage.facts.kill("db-1");
    stage.trouble = |_, step| match step {
        Step::Promise { relay, .. } if relay == "relay-1" => {
            Some(Outcome::Failed("the bearer token is wrong".to_owned()))
        }
        _ => None,
    };
    stage.settle();
    assert!(stage.log.contains(&"rescue relay-2 from db-1 [2,1]".to_owned()), "{:#?}", stage.log);
    assert_eq!(stage.state().grant_holder.as_deref(), Some("relay-2"));
}

#[test]
fn a_switchover_whose_acker_does_not_promise_is_taken_back_at_once() {
    let mut stage = Stage::new();
    stage.facts.ask(Some("db-3"), false);
    stage.trouble = |_, step| match step {
        Step::Promise { .. } => Some(Outcome::Failed("the bearer token is wrong".to_owned())),
        _ => None,
    };
    stage.settle();
    assert_eq!(stage.log.iter().filter(|step| step.starts_with("promise")).count(), 1, "{:#?}", stage.log);
    assert_eq!((stage.state().primary.as_deref(), stage.history[&2].outcome.as_str()), (Some("db-1"), "taken_back"));
}

#[test]
fn a_standby_that_is_ahead_and_has_promised_nothing_in_this_operation_is_not_asked() {
    let mut stage = Stage::new();
    stage.facts.relay("relay-2").head = "0-1-101".to_owned();
    stage.facts.kill("db-1");
    stage.settle();
    assert!(!stage.log.iter().any(|step| step.starts_with("rescue")), "{:#?}", stage.log);
    assert_eq!(stage.epochs[0].gtid, "0-1-100");
}

#[test]
fn the_first_acker_is_appointed_after_bootstrap() {
    let mut stage = Stage::new();
    let state = stage.facts.state();
    state.grant = Grant { epoch: 1, n: 0 };
    state.grant_holder = None;
    state.grant_log_id = None;
    stage.facts.relays.values_mut().for_each(|r| r.promised = Grant { epoch: 0, n: 0 });
    stage.settle();
    assert_eq!(told(&stage), ["commit 1 Steady db-1 [1,1]"]);
    assert_eq!(stage.state().grant_holder.as_deref(), Some("relay-1"));
    assert_eq!(stage.state().phase, Phase::Steady);
}
