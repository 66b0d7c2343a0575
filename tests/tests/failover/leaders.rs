//! Controllers that die, freeze or are cut off, most of all in the middle of a promotion.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Cluster, Daemon, Fault, Ledger};
use baton_testbed::{Host, scenario, wait_for, wait_until};

use crate::support::{goes_on, load, rounds};
use crate::switchovers::switchover_struck_in;

/// A failover whose leader gets `strike` as soon as the state says `phase`; then it gets `mend`.
fn leader_struck_in(
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
    let began = Instant::now();
    old.kill_server()?;
    cluster.wait_phase(&changes, phase, epoch)?;
    strike(&leader)?;
    writers.wait_elsewhere(&old)?;
    cluster.wait_settled()?;
    mend(&leader)?;
    writers.wait_more(50)?;
    cluster.wait_settled()?;
    writers.stop()?;
    intruders.stop()?;
    println!("leader struck in {phase}: stall {} ms", ledger.stall(began).as_millis());
    cluster.check(&[&ledger, &intruded])
}

#[test]
fn leader_frozen_in_a_promotion_and_thawed_after_its_successor_finished_spoils_nothing() {
    scenario("leader_frozen", |bed| {
        let cluster = bed.cluster().controllers(2).start()?;
        for phase in ["fencing", "promoting"] {
            leader_struck_in(&cluster, phase, |leader| leader.freeze(), |leader| leader.thaw())?;
        }
        Ok(())
    });
}

#[test]
fn leader_whose_lease_ends_in_any_phase_of_a_change_leads_on_under_a_new_term_or_is_succeeded() {
    scenario("lease_ends", |bed| {
        let cluster = bed.cluster().controllers(2).start()?;
        let key = cluster.key("leader");
        let term = || cluster.etcd().get(&key).map(|entry| entry.map(|entry| entry.create_revision));
        let a_new_term =
            |before: Option<u64>| wait_until("a lead under a new term", term, |now| now.is_some() && *now != before);
        let strike = |_: &Daemon| cluster.etcd().end_lease_of(&key);
        for phase in ["fencing", "catching_up", "promoting", "steady"] {
            let before = term()?;
            leader_struck_in(&cluster, phase, strike, |_| Ok(()))?;
            let before = a_new_term(before)?;
            let (from, epoch) = (cluster.primary()?.name().to_owned(), cluster.epoch()?);
            switchover_struck_in(&cluster, phase, strike, |_| Ok(()))?;
            a_new_term(before)?;
            // Named is named; and whoever asked once is served once.
            if matches!(phase, "promoting" | "steady") {
                let (to, now) = (cluster.primary()?.name(), cluster.epoch()?);
                ensure!(to != from && now == epoch + 1, "epoch {epoch} and {from} before, {now} and {to} after");
            }
        }
        Ok(())
    });
}

#[test]
fn leader_told_to_stop_hands_over_at_once_and_one_that_is_killed_within_its_lease() {
    scenario("hand_over", |bed| {
        let cluster = bed.cluster().controllers(2).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        for killed in [false, true] {
            let leader = cluster.leader()?.clone();
            let began = Instant::now();
            if killed {
                leader.kill9()?
            } else {
                leader.term()?
            }
            wait_for("another leader", Duration::from_secs(60), || {
                let other = cluster.etcd().get(&cluster.key("leader"))?;
                Ok(other.filter(|entry| entry.value["name"] != leader.name()).map(drop))
            })?;
            println!("handed over in {} ms (killed: {killed})", began.elapsed().as_millis());
            leader.restart()?;
        }
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn all_controllers_cut_off_let_service_go_on_without_a_failover() {
    scenario("controllers_cut_off", |bed| {
        // etcd stands apart, so that agents and relays still have it.
        let cluster = bed.cluster().controllers(2).etcd_apart().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let epoch = cluster.epoch()?;
        for controller in cluster.controllers() {
            controller.host().isolate()?;
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            goes_on(&writers, 100)?;
        }
        ensure!(cluster.epoch()? == epoch, "{}", cluster.state()?);
        cluster.net().mend_all()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])?;
        ensure!(cluster.epoch()? == epoch, "{}", cluster.state()?);
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn leader_cut_off_from_everything_steps_down_and_the_others_lead_on() {
    scenario("leader_cut_off", |bed| {
        let cluster = bed.cluster().three_controllers().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, leader) = (cluster.epoch()?, cluster.leader()?.clone());
        leader.host().isolate()?;
        wait_for("another leader", Duration::from_secs(60), || {
            let other = cluster.etcd().get(&cluster.key("leader")).ok().flatten();
            Ok(other.filter(|entry| entry.value["name"] != leader.name()).map(drop))
        })?;
        // The old one must not believe that it leads, although nobody can tell it.
        wait_for("the old leader to step down", Duration::from_secs(60), || {
            let view = leader.json("/v1/cluster").unwrap_or_default();
            Ok((view["leader"]["name"] != leader.name()).then_some(()))
        })?;
        writers.wait_more(200)?;
        ensure!(cluster.epoch()? == epoch, "{}", cluster.state()?);
        leader.host().rejoin()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn follower_cut_off_from_everything_is_missed_by_nobody_and_spoils_nothing_when_it_is_back() {
    scenario("follower_cut_off", |bed| {
        let cluster = bed.cluster().three_controllers().start()?;
        let (ledger, intruded) = (Ledger::default(), Ledger::default());
        let writers = load(&cluster, &ledger)?;
        let (epoch, leader, old) = (cluster.epoch()?, cluster.leader()?.clone(), cluster.primary()?.clone());
        // Not the one beside etcd's leader: without that etcd elects another, which may take longer than the lease.
        let etcd = cluster.etcd().leader()?.endpoint();
        let spared = |host: &Host| etcd.contains(&format!("//{}:", host.ip()));
        let mut followers = cluster.controllers().iter().filter(|c| c.name() != leader.name() && !spared(c.host()));
        let follower = followers.next().cloned().context("nobody follows")?;
        let term = cluster.etcd().get(&cluster.key("leader"))?.map(|entry| entry.create_revision);
        follower.host().isolate()?;
        let told = || follower.json("/v1/cluster").map(|view| view["problems"].to_string());
        wait_until("it to know that it is cut off", told, |problems| problems.contains("etcd_unreachable"))?;
        writers.wait_more(200)?;
        let now = cluster.etcd().get(&cluster.key("leader"))?.map(|entry| entry.create_revision);
        ensure!(now == term && cluster.epoch()? == epoch, "something changed: {}", cluster.state()?);
        let intruders = cluster.intruders(&intruded, &old)?;
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        cluster.wait_settled()?;
        let epoch = cluster.epoch()?;
        follower.host().rejoin()?;
        let told = || follower.json("/v1/cluster").map(|view| view["state"]["epoch"].clone());
        wait_until("it to have heard of the new epoch", told, |heard| *heard == epoch)?;
        writers.wait_more(100)?;
        ensure!(cluster.epoch()? == epoch, "something changed: {}", cluster.state()?);
        writers.stop()?;
        intruders.stop()?;
        cluster.check(&[&ledger, &intruded])
    });
}
