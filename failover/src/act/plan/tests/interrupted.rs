//! Every interrupted prefix of every operation: the leader dies after each step, before or after it took effect, and a successor that knows
//! nothing but etcd's state and the facts finishes or takes back.

use baton_cluster::{Grant, Phase};

use super::super::{Outcome, Step};
use super::stage::Stage;
use crate::model::fixture::ms;
use crate::model::{ClusterFacts, MysqldState, OrderKind, OrderResult, ServerRole};

/// Plays `begin` as often as it has steps; the n-th time the leader dies after n steps (the last one unanswered if `unanswered`).
fn interrupted_everywhere(begin: fn(&mut Stage), unanswered: bool, settled: impl Fn(&Stage)) {
    for steps in 0.. {
        let mut stage = Stage::new();
        begin(&mut stage);
        let all = stage.play(steps, unanswered);
        stage.succeed();
        stage.settle();
        settled(&stage);
        if all {
            assert!(steps >= 2, "the operation has more steps than that: {:#?}", stage.log);
            return;
        }
    }
}

fn serves(stage: &Stage, allowed: &[&str]) {
    let state = stage.state();
    let primary = state.primary.as_deref().unwrap_or("nobody");
    assert_eq!(state.phase, Phase::Steady);
    assert!(allowed.contains(&primary), "{primary} serves: {:#?}", stage.log);
    let mut facts = stage.facts.clone();
    assert!(!facts.server(primary).read_only, "{primary} is read-only: {:#?}", stage.log);
    for (name, node) in &stage.facts.nodes {
        let status = crate::decide::verdict::agent(node);
        let writable = status.and_then(|a| a.server.as_ref()).is_some_and(|s| !s.read_only);
        assert!(!writable || name == primary, "{name} is writable beside {primary}: {:#?}", stage.log);
    }
    let running = stage.history.values().filter(|h| h.outcome == "running").count();
    assert_eq!(running, 0, "{:#?}", stage.history);
}

#[test]
fn a_failover_is_finished_by_a_successor_from_every_step() {
    for unanswered in [false, true] {
        interrupted_everywhere(|s| s.facts.kill("db-1"), unanswered, |s| serves(s, &["db-2", "db-3"]));
    }
}

#[test]
fn a_switchover_is_finished_or_taken_back_by_a_successor_from_every_step() {
    for unanswered in [false, true] {
        interrupted_everywhere(|s| s.facts.ask(Some("db-3"), false), unanswered, |s| serves(s, &["db-1", "db-3"]));
    }
}

#[test]
fn a_change_of_acker_is_finished_by_a_successor_from_every_step() {
    let begin = |s: &mut Stage| {
        s.facts.lose_relay("relay-1");
        s.facts.server("db-1").semi_sync_clients = 0;
    };
    for unanswered in [false, true] {
        interrupted_everywhere(begin, unanswered, |s| {
            assert_eq!(s.state().grant_holder.as_deref(), Some("relay-2"));
            assert_eq!((s.state().grant, s.state().asked), (Grant { epoch: 1, n: 2 }, None));
            assert_eq!(s.state().grant_after.as_deref(), Some("0-1-100"));
        });
    }
}

#[test]
fn a_rescue_is_finished_by_a_successor_from_every_step() {
    let begin = |s: &mut Stage| {
        s.facts.kill("db-1");
        s.facts.lose_relay("relay-1");
    };
    for unanswered in [false, true] {
        interrupted_everywhere(begin, unanswered, |s| {
            serves(s, &["db-2", "db-3"]);
            assert_eq!(s.state().grant_holder.as_deref(), Some("relay-2"));
        });
    }
}

#[test]
fn the_next_failover_begins_from_the_candidate_that_dies_while_it_is_promoted() {
    let mut stage = Stage::new();
    stage.facts.kill("db-1");
    while stage.state().phase != Phase::Promoting {
        stage.round(10);
    }
    stage.facts.kill("db-2");
    stage.settle();
    serves(&stage, &["db-3"]);
    assert!(stage.log.contains(&"fence db-2".to_owned()), "{:#?}", stage.log);
    assert_eq!(stage.history[&2].outcome, "superseded");
}

#[test]
fn a_candidate_that_dies_before_it_is_named_is_replaced_under_a_new_epoch() {
    let mut stage = Stage::new();
    stage.facts.kill("db-1");
    while stage.state().phase != Phase::CatchingUp {
        stage.round(10);
    }
    stage.facts.kill("db-2");
    stage.settle();
    serves(&stage, &["db-3"]);
    assert_eq!(stage.state().epoch, 3);
}

#[test]
fn a_primary_that_dies_while_it_is_switched_away_from_is_failed_over() {
    let mut stage = Stage::new();
    stage.facts.ask(Some("db-2"), false);
    stage.round(10);
    stage.facts.kill("db-1");
    stage.settle();
    serves(&stage, &["db-2", "db-3"]);
}

#[test]
fn a_switchover_returns_to_the_old_primary_if_the_only_candidate_dies_after_the_revocation() {
    let mut stage = Stage::new();
    stage.facts.nodes.remove("db-3");
    stage.facts.ask(Some("db-2"), false);
    while stage.state().phase != Phase::CatchingUp {
        stage.round(10);
    }
    stage.facts.kill("db-2");
    stage.settle();
    serves(&stage, &["db-1"]);
}

#[test]
fn nothing_is_promoted_before_the_old_host_has_fenced_itself() {
    let mut stage = Stage::new();
    stage.facts.lose_host("db-1", ms(1100));
    for _ in 0..50 {
        stage.round(10);
    }
    assert_eq!(stage.state().phase, Phase::CatchingUp, "{:#?}", stage.log);
    stage.facts.node("db-1").agent_last_seen = Some(ms(1300));
    stage.settle();
    serves(&stage, &["db-2"]);
}

/// Its server has its SIGKILL, and waits in the kernel for a disk.
fn hangs_in_the_kernel(facts: &mut ClusterFacts, step: &Step) -> Option<Outcome> {
    let fence = matches!(step, Step::Order { node, kind: OrderKind::Fence {}, .. } if node == "db-1");
    fence.then(|| {
        let status = facts.status("db-1");
        (status.role, status.mysqld) = (ServerRole::Fenced, MysqldState::Silent);
        (status.server, status.address) = (None, None);
        Outcome::Done(OrderResult { killed: Some(false), ..OrderResult::default() })
    })
}

#[test]
fn a_server_that_hangs_in_the_kernel_is_replaced_on_the_word_of_the_acker() {
    let mut stage = Stage::new();
    stage.trouble = hangs_in_the_kernel;
    stage.facts.freeze("db-1");
    stage.settle();
    serves(&stage, &["db-2"]);
}

#[test]
fn the_end_of_a_binlog_is_taken_only_once_the_server_that_hung_in_the_kernel_has_ended() {
    let mut stage = Stage::new();
    stage.trouble = hangs_in_the_kernel;
    stage.facts.freeze("db-1");
    stage.facts.lose_relay("relay-1");
    for _ in 0..50 {
        stage.round(2000);
    }
    assert_eq!(stage.state().phase, Phase::Fencing, "{:#?}", stage.log);
    assert!(!stage.log.iter().any(|step| step.starts_with("rescue")), "{:#?}", stage.log);
    stage.trouble = |_, _| None;
    stage.settle();
    serves(&stage, &["db-2", "db-3"]);
}
