//! Which replica is promoted, and what happens when it dies while it is.

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::Ledger;
use baton_testbed::{Bed, scenario, wait_until};

use crate::support::load;

/// The primary dies; the candidate dies as soon as the state says `phase`.
fn candidate_dies_in(bed: &Bed, phase: &str, with_host: bool) -> Result<()> {
    let cluster = bed.cluster().nodes(3).start()?;
    let (ledger, intruded) = (Ledger::default(), Ledger::default());
    let writers = load(&cluster, &ledger)?;
    let (old, epoch) = (cluster.primary()?.clone(), cluster.epoch()?);
    let changes = cluster.watch_state()?;
    old.kill_server()?;
    let state = cluster.wait_phase(&changes, phase, epoch)?;
    let candidate = cluster.node(state["candidate"].as_str().context("no candidate")?)?.clone();
    let intruders = cluster.intruders(&intruded, &candidate)?;
    if with_host {
        candidate.crash()?;
    } else {
        // It may be dead already where the promotion is quicker than this test.
        let _gone = candidate.kill_server();
    }
    writers.wait_more(50)?;
    if with_host {
        candidate.agent().start()?;
    }
    cluster.wait_settled()?;
    writers.wait_more(50)?;
    writers.stop()?;
    intruders.stop()?;
    cluster.check(&[&ledger, &intruded])
}

#[test]
fn candidate_killed_while_it_catches_up_is_fenced_before_another_is_promoted() {
    scenario("candidate_catching_up", |bed| candidate_dies_in(bed, "catching_up", false));
}

#[test]
fn candidate_killed_while_it_is_promoted_is_fenced_before_another_is_promoted() {
    scenario("candidate_promoting", |bed| candidate_dies_in(bed, "promoting", false));
}

#[test]
fn candidate_whose_host_dies_while_it_is_promoted_is_replaced() {
    scenario("candidates_host", |bed| candidate_dies_in(bed, "promoting", true));
}

#[test]
fn replica_with_a_broken_applier_is_not_chosen_and_the_reason_is_told() {
    scenario("broken_applier", |bed| {
        // Without db-2, which is preferred, db-3 has to do.
        let plan = bed.cluster().nodes(3).agent_with(2, "advertise", "priority", "200");
        let cluster = plan.start()?;
        let ledger = Ledger::default();
        let (primary, broken) = (cluster.primary()?.clone(), cluster.node("db-2")?.clone());
        primary.sql("CREATE TABLE test.once (a INT PRIMARY KEY)")?;
        let goal = primary.gtid()?;
        wait_until("the table on db-2", || broken.gtid(), |gtid| *gtid == goal)?;
        broken.sql("SET sql_log_bin=0; INSERT INTO test.once VALUES (1)")?;
        primary.sql("INSERT INTO test.once VALUES (1)")?;
        cluster.wait_problem_of(&["replica_applier_broken"])?;
        let writers = load(&cluster, &ledger)?;
        primary.kill_server()?;
        writers.wait_elsewhere(&primary)?;
        ensure!(cluster.primary()?.name() == "db-3", "{} was promoted", cluster.primary()?.name());
        let epoch = cluster.epoch()?;
        println!("history: {}", cluster.history(epoch)?);
        // Mended by hand: the row was there.
        broken.sql("SET sql_log_bin=0; DELETE FROM test.once; SET sql_log_bin=1; START SLAVE SQL_THREAD")?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn replica_with_transactions_of_its_own_is_never_chosen_and_is_shown() {
    scenario("errant", |bed| {
        let cluster = bed.cluster().nodes(3).agent_with(2, "advertise", "priority", "200").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (primary, errant) = (cluster.primary()?.clone(), cluster.node("db-2")?.clone());
        // In a domain of its own, so that it goes on to replicate.
        errant.sql("SET SESSION gtid_domain_id=7; CREATE TABLE test.errant (a INT)")?;
        let problem = cluster.wait_problem_of(&["errant_transactions", "node_diverged"])?;
        ensure!(problem["subject"] == "db-2", "{problem}");
        primary.kill_server()?;
        writers.wait_elsewhere(&primary)?;
        ensure!(cluster.primary()?.name() == "db-3", "{} was promoted", cluster.primary()?.name());
        writers.wait_more(50)?;
        writers.stop()?;
        ledger.check_against(cluster.primary()?)
    });
}

#[test]
fn candidate_far_behind_in_applying_catches_up_before_it_is_promoted() {
    scenario("far_behind", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let (primary, replica) = (cluster.primary()?.clone(), cluster.node("db-2")?.clone());
        // A reader's lock keeps its applier waiting; everything is received meanwhile.
        let mut locker = replica.session()?;
        locker.query("LOCK TABLES test.ledger READ")?;
        let writers = load(&cluster, &ledger)?;
        writers.wait_more(500)?;
        primary.kill_server()?;
        let changes = cluster.watch_state()?;
        if cluster.state()?["phase"] != "catching_up" {
            cluster.wait_phase(&changes, "catching_up", 1)?;
        }
        ensure!(replica.read_only()?, "a candidate that lacks commits is writable");
        locker.query("UNLOCK TABLES")?;
        writers.wait_elsewhere(&primary)?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
