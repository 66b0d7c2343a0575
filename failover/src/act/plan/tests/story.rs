//! Whole operations, step by step.

use baton_cluster::{Grant, Phase};

use super::stage::Stage;

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
