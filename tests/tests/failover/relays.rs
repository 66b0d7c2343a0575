//! Relays that die, freeze or are cut off: commits wait, then go on, and another relay takes over where there is one.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Cluster, Daemon, Fault, Ledger};
use baton_testbed::{Disk, scenario, wait_until};

use crate::support::{load, rounds};

/// The relay that acknowledges.
fn acker(cluster: &Cluster) -> Result<Daemon> {
    let state = cluster.state()?;
    let name = state["grant_holder"].as_str().with_context(|| format!("nobody holds the grant: {state}"))?;
    cluster.relay(name).cloned()
}

/// Waits until another relay than `old` acknowledges.
fn wait_other_acker(cluster: &Cluster, old: &Daemon) -> Result<()> {
    wait_until("another acker", || Ok(acker(cluster)?.name().to_owned()), |name| name != old.name()).map(drop)
}

#[test]
fn acker_killed_and_restarted_lets_commits_wait_and_then_go_on() {
    scenario("acker_restarted", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, relay) = (cluster.epoch()?, cluster.relays()[0].clone());
        for hard in [true, false] {
            if hard {
                relay.kill9()?
            } else {
                relay.term()?
            }
            relay.restart()?;
            writers.wait_more(50)?;
        }
        ensure!(cluster.epoch()? == epoch, "a failover because of a relay: {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn second_relay_takes_over_when_the_acker_dies_and_replicas_move_to_it() {
    scenario("second_relay", |bed| {
        let cluster = bed.cluster().relays(2).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        for _ in 0..2 {
            let (epoch, old) = (cluster.epoch()?, acker(&cluster)?);
            let began = Instant::now();
            old.kill9()?;
            wait_other_acker(&cluster, &old)?;
            writers.wait_more(50)?;
            println!("{} died: stall {} ms", old.name(), ledger.stall(began).as_millis());
            ensure!(cluster.epoch()? == epoch, "a failover because of a relay: {}", cluster.state()?);
            cluster.wait_settled()?;
            old.restart()?;
            cluster.wait_settled()?;
        }
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn acker_frozen_or_cut_off_is_revoked_on_the_primary_and_acknowledges_nothing_when_it_is_back() {
    scenario("acker_frozen", |bed| {
        let cluster = bed.cluster().relays(2).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        for cut in [false, true] {
            let old = acker(&cluster)?;
            let began = Instant::now();
            if cut {
                old.host().isolate()?
            } else {
                old.freeze()?
            }
            wait_other_acker(&cluster, &old)?;
            writers.wait_more(50)?;
            println!("{} gone (cut: {cut}): stall {} ms", old.name(), ledger.stall(began).as_millis());
            if cut {
                old.host().rejoin()?
            } else {
                old.thaw()?
            }
            let held = || Ok(old.json("/v1/status")?["membership"]["held"].clone());
            wait_until("the old acker to know that it is none", held, |held| *held == false)?;
            cluster.wait_settled()?;
        }
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn acker_whose_disk_is_full_or_turns_read_only_is_replaced_by_another_and_comes_back() {
    scenario("acker_disk", |bed| {
        let disk = |relay: &str| Disk::mount(&bed.path(relay).join("data"), 64);
        let (Some(first), Some(second)) = (disk("relay-1")?, disk("relay-2")?) else {
            eprintln!("acker_disk: skipped: mounting a disk needs root and a loop device");
            return Ok(());
        };
        let cluster = bed.cluster().relays(2).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let epoch = cluster.epoch()?;
        let disk_of = |relay: &Daemon| if relay.name() == "relay-1" { &first } else { &second };
        let old = acker(&cluster)?;
        let began = Instant::now();
        disk_of(&old).fill()?;
        // More than a log reserves ahead: until that is used up, a full disk stops nothing.
        let primary = cluster.primary()?;
        primary.sql("CREATE TABLE test.wide (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
        for _ in 0..8 {
            primary.sql("INSERT INTO test.wide (filler) SELECT REPEAT('x', 100000) FROM test.seq_1_to_10")?;
        }
        wait_other_acker(&cluster, &old)?;
        writers.wait_more(50)?;
        println!("disk of {} full: stall {} ms", old.name(), ledger.stall(began).as_millis());
        let problem = cluster.wait_problem_of(&["relay_not_writable"])?;
        ensure!(problem["subject"] == old.name(), "{problem}");
        disk_of(&old).make_room()?;
        let writable = || Ok(old.json("/v1/status")?["log"]["writable"].clone());
        wait_until("the first acker to write again", writable, |writable| *writable == true)?;
        cluster.wait_settled()?;
        let problems = || Ok(cluster.view()?["problems"].to_string());
        wait_until("a standby", problems, |problems| !problems.contains("no_standby"))?;
        // For good this time: it can't even promise, and is revoked on the primary.
        let old = acker(&cluster)?;
        let began = Instant::now();
        disk_of(&old).damage()?;
        wait_other_acker(&cluster, &old)?;
        writers.wait_more(50)?;
        println!("disk of {} read-only: stall {} ms", old.name(), ledger.stall(began).as_millis());
        ensure!(cluster.epoch()? == epoch, "a failover because of a relay: {}", cluster.state()?);
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn primary_killed_while_the_acker_hangs_is_replaced_with_what_its_host_still_has() {
    scenario("rescue", |bed| {
        let cluster = bed.cluster().relays(2).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (old, relay) = (cluster.primary()?.clone(), acker(&cluster)?);
        relay.freeze()?;
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        relay.thaw()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primarys_host_dead_while_the_acker_is_cut_off_is_refused_until_one_of_them_is_back() {
    scenario("truth_unreachable", |bed| {
        let cluster = bed.cluster().relays(2).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (old, relay) = (cluster.primary()?.clone(), acker(&cluster)?);
        relay.host().isolate()?;
        old.crash()?;
        let refusal = cluster.wait_refusal()?;
        let told = refusal.to_string();
        ensure!(told.contains(relay.name()), "the refusal does not name {}: {refusal}", relay.name());
        ensure!(cluster.node("db-2")?.read_only()?, "promoted without the truth");
        relay.host().rejoin()?;
        writers.wait_elsewhere(&old)?;
        old.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn acker_that_lost_its_data_is_not_trusted() {
    scenario("acker_lost_its_data", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (old, relay) = (cluster.primary()?.clone(), cluster.relays()[0].clone());
        relay.kill9()?;
        std::fs::remove_dir_all(bed.path(relay.name()).join("data"))?;
        old.crash()?;
        relay.restart()?;
        let refusal = cluster.wait_refusal()?;
        println!("{refusal}");
        ensure!(cluster.node("db-2")?.read_only()?, "promoted on the word of a relay that lost its log");
        old.agent().start()?;
        writers.wait_more(50)?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn rolling_restart_of_relays_controllers_agents_and_etcd_fails_no_commit_for_good() {
    scenario("rolling", |bed| {
        let cluster = bed.cluster().relays(2).three_controllers().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let epoch = cluster.epoch()?;
        for relay in cluster.relays() {
            relay.term()?;
            relay.restart()?;
            cluster.wait_settled()?;
        }
        for controller in cluster.controllers() {
            controller.term()?;
            controller.restart()?;
        }
        for member in cluster.etcd().members() {
            member.stop()?;
            member.restart()?;
        }
        cluster.wait_settled()?;
        writers.wait_more(100)?;
        ensure!(cluster.epoch()? == epoch, "a failover because of restarts: {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
