//! Changes of primary that somebody asked for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use baton_testbed::cluster::{Cluster, Daemon, Fault, Ledger};
use baton_testbed::scenario;

use crate::support::{load, rounds};

/// A switchover that must be refused before anything is locked: the primary serves on, in the same epoch.
fn refused(cluster: &Cluster, to: &str) -> Result<()> {
    let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.name().to_owned());
    for dry in [true, false] {
        let mut args = vec!["switchover", "--to", to, "--timeout", "30"];
        args.extend(dry.then_some("--dry-run"));
        let ended = cluster.ctl(&args)?;
        ensure!(ended.code == 3, "a switchover to {to} is not refused: {ended}");
        ensure!(ended.err.contains(to), "the refusal does not name {to}: {ended}");
        println!("to {to}: {}", ended.err.trim());
    }
    ensure!(cluster.epoch()? == epoch, "something was begun: {}", cluster.state()?);
    ensure!(cluster.primary()?.name() == primary, "{}", cluster.state()?);
    ensure!(!cluster.primary()?.read_only()?, "the primary was locked");
    Ok(())
}

#[test]
fn switchovers_move_the_primary_there_and_back_under_load() {
    scenario("switchover", |bed| rounds(&bed.cluster().start()?, Fault::Switchover, 3));
}

#[test]
fn switchover_under_64_writers_loses_no_commit() {
    scenario("switchover_64", |bed| {
        let cluster = bed.cluster().start()?;
        for _ in 0..2 {
            let round = cluster.round_with(Fault::Switchover, 64, Duration::from_millis(20))?;
            println!("{} -> {} under 64 writers: stall {} ms", round.from, round.to, round.stall.as_millis());
        }
        Ok(())
    });
}

#[test]
fn switchover_to_a_named_node_goes_there_and_a_dry_run_nowhere() {
    scenario("switchover_named", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let epoch = cluster.epoch()?;
        let dry = cluster.ctl(&["switchover", "--to", "db-3", "--dry-run"])?;
        ensure!(dry.code == 0 && dry.out.contains("db-3") && cluster.epoch()? == epoch, "{dry}");
        for to in ["db-3", "db-2", "db-1"] {
            let ended = cluster.ctl(&["switchover", "--to", to, "--timeout", "60"])?;
            ensure!(ended.code == 0, "{ended}");
            ensure!(cluster.wait_settled()?.name() == to, "{}", cluster.state()?);
        }
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn switchover_to_a_lagging_stopped_dead_or_unknown_node_is_refused_before_anything_is_locked() {
    scenario("switchover_refused", |bed| {
        let cluster = bed.cluster().nodes(3).controllers_with("policy", "max_lag", "\"500ms\"").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        refused(&cluster, "db-9")?;
        refused(&cluster, "db-1")?;
        let lagging = cluster.node("db-2")?;
        let mut locker = lagging.session()?;
        locker.query("LOCK TABLES test.ledger READ")?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            writers.wait_more(50)?;
        }
        refused(&cluster, "db-2")?;
        locker.query("UNLOCK TABLES")?;
        let stopped = cluster.node("db-3")?;
        stopped.sql("STOP SLAVE")?;
        cluster.wait_problem_of(&["replica_stopped", "replica_receiver_broken", "replica_applier_broken"])?;
        refused(&cluster, "db-3")?;
        stopped.crash()?;
        cluster.wait_problem_of(&["replica_down", "agent_lost"])?;
        refused(&cluster, "db-3")?;
        stopped.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

/// A switchover whose leader gets `strike` as soon as the state says `phase`, and `mend` once it is over, one way or the other.
pub(crate) fn switchover_struck_in(
    cluster: &Cluster,
    phase: &str,
    strike: impl Fn(&Daemon) -> Result<()>,
    mend: impl Fn(&Daemon) -> Result<()>,
) -> Result<()> {
    let (ledger, intruded) = (Ledger::default(), Ledger::default());
    let writers = load(cluster, &ledger)?;
    let (old, epoch, leader) = (cluster.primary()?.clone(), cluster.epoch()?, cluster.leader()?.clone());
    let intruders = cluster.intruders(&intruded, &old)?;
    let changes = cluster.watch_state()?;
    let asked = cluster.ctl_in_background(&["switchover", "--timeout", "60"])?;
    cluster.wait_phase(&changes, phase, epoch)?;
    strike(&leader)?;
    let began = Instant::now();
    writers.wait_more(50)?;
    cluster.wait_settled()?;
    mend(&leader)?;
    let _whatever_it_was_told = asked.join();
    writers.stop()?;
    intruders.stop()?;
    let (from, to) = (old.name(), cluster.primary()?.name().to_owned());
    println!("leader struck in {phase}: {from} -> {to}, stall {} ms", ledger.stall(began).as_millis());
    cluster.check(&[&ledger, &intruded])
}

#[test]
fn switchover_waits_within_its_bound_for_a_long_transaction_or_is_taken_back() {
    scenario("switchover_long", |bed| {
        let cluster = bed.cluster().controllers_with("policy", "block_timeout", "\"2s\"").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let primary = cluster.primary()?.clone();
        let mut long = primary.session()?;
        long.query("FLUSH TABLES WITH READ LOCK")?;
        let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
        println!("under a global read lock: {ended}");
        let _cut_maybe = long.query("UNLOCK TABLES");
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        ensure!(ended.code == 0 || ended.code == 3 || ended.code == 1, "{ended}");
        ensure!((ended.code == 0) == (cluster.primary()?.name() != primary.name()), "{ended} but {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_that_dies_in_the_middle_of_a_switchover_is_replaced_all_the_same() {
    scenario("switchover_death", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (old, epoch) = (cluster.primary()?.clone(), cluster.epoch()?);
        let changes = cluster.watch_state()?;
        let asked = cluster.ctl_in_background(&["switchover", "--timeout", "60"])?;
        cluster.wait_phase(&changes, "fencing", epoch)?;
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        let _whatever_it_was_told = asked.join();
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn switchover_to_a_node_with_transactions_of_its_own_is_refused_before_anything_is_locked() {
    scenario("switchover_diverged", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let diverged = cluster.node("db-2")?;
        // In a domain of its own, so that it goes on to replicate.
        diverged.sql("SET SESSION gtid_domain_id=7; CREATE TABLE test.errant (a INT)")?;
        let problem = cluster.wait_problem_of(&["errant_transactions", "node_diverged"])?;
        ensure!(problem["subject"] == "db-2", "{problem}");
        refused(&cluster, "db-2")?;
        // Without a name given, another one is taken.
        let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
        ensure!(ended.code == 0 && cluster.primary()?.name() == "db-3", "{ended} {}", cluster.state()?);
        writers.wait_more(50)?;
        writers.stop()?;
        ledger.check_against(cluster.primary()?)
    });
}

#[test]
fn switchover_to_a_node_under_a_global_read_lock_ends_within_its_bound_one_way_or_the_other() {
    scenario("switchover_locked_target", |bed| {
        let plan = bed.cluster().controllers_with("policy", "block_timeout", "\"2s\"");
        let cluster = plan.controllers_with("policy", "catch_up_timeout", "\"3s\"").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (primary, target) = (cluster.primary()?.clone(), cluster.node("db-2")?);
        let mut locker = target.session()?;
        locker.query("FLUSH TABLES WITH READ LOCK")?;
        let ended = cluster.ctl(&["switchover", "--to", "db-2", "--timeout", "60"])?;
        println!("to a locked server: {ended}");
        // Not for ever without a primary, although the lock stays.
        writers.wait_more(50)?;
        ensure!((ended.code == 0) == (cluster.primary()?.name() != primary.name()), "{ended} but {}", cluster.state()?);
        let _cut_maybe = locker.query("UNLOCK TABLES");
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
