//! Agents that die or freeze, and addresses that are taken.

use std::time::Duration;

use anyhow::ensure;
use baton_testbed::cluster::{Fault, Ledger};
use baton_testbed::{DEADLINE, scenario, wait_for};
use rustix::process::Signal;

use crate::support::{load, rounds};

#[test]
fn agent_killed_on_the_primarys_host_leaves_the_address_to_the_kernel_which_takes_it_away() {
    scenario("agent_killed", |bed| {
        let plan = bed.cluster().agents_with("address", "valid_for", "\"2s\"").controllers_with(
            "policy",
            "valid_for",
            "\"2s\"",
        );
        // Nobody acts on it: the address has to go without anyone's help.
        let cluster = plan.controllers_with("policy", "agent_lost", "\"ignore\"").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let primary = cluster.primary()?.clone();
        primary.agent().kill9()?;
        ensure!(primary.runs(), "the server died with its agent");
        wait_for("the address to be gone", DEADLINE, || Ok((!primary.holds(cluster.vip())?).then_some(())))?;
        primary.agent().restart()?;
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn agent_restarted_in_time_keeps_the_address_and_the_server_in_service() {
    scenario("agent_restarted", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        let server = primary.host().pids_of("mariadbd");
        primary.agent().kill9()?;
        primary.agent().restart()?;
        writers.wait_more(200)?;
        cluster.wait_settled()?;
        ensure!(cluster.epoch()? == epoch, "{}", cluster.state()?);
        ensure!(primary.host().pids_of("mariadbd") == server, "the server was restarted");
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn primary_whose_agent_stays_dead_or_frozen_is_moved_by_a_switchover() {
    scenario("agent_lost", |bed| {
        let plan = bed.cluster().agents_with("address", "valid_for", "\"2s\"").controllers_with(
            "policy",
            "valid_for",
            "\"2s\"",
        );
        let cluster = plan.start()?;
        for frozen in [false, true] {
            let ledger = Ledger::default();
            let writers = load(&cluster, &ledger)?;
            let old = cluster.primary()?.clone();
            old.agent().signal(if frozen { Signal::STOP } else { Signal::KILL })?;
            writers.wait_elsewhere(&old)?;
            if frozen {
                old.agent().thaw()?
            } else {
                old.agent().restart()?
            }
            cluster.wait_settled()?;
            writers.wait_more(50)?;
            writers.stop()?;
            cluster.check(&[&ledger])?;
        }
        Ok(())
    });
}

#[test]
fn address_that_a_stranger_has_is_not_taken_and_the_reason_is_told() {
    scenario("address_conflict", |bed| {
        let cluster = bed.cluster().start()?;
        let stranger = cluster.net().host("stranger")?;
        let old = cluster.primary()?.clone();
        let other = cluster.node("db-2")?.clone();
        // The stranger takes the address in the moment in which nobody holds it.
        old.crash()?;
        stranger.add_address(cluster.vip())?;
        let told = wait_for("the new primary to say that the address is taken", Duration::from_secs(60), || {
            let status = other.status().unwrap_or_default();
            Ok(status["address_error"].as_str().map(str::to_owned))
        })?;
        println!("{told}");
        ensure!(!other.holds(cluster.vip())?, "the address is held twice");
        stranger.remove_address(cluster.vip())?;
        wait_for("the address", DEADLINE, || Ok(other.holds(cluster.vip())?.then_some(())))?;
        old.agent().start()?;
        cluster.wait_settled()?;
        Ok(())
    });
}

#[test]
fn clients_of_the_old_primary_are_cut_and_clients_with_its_hardware_address_reach_the_new_one() {
    scenario("stale_clients", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let old = cluster.primary()?.clone();
        let mut open = cluster.client_session()?;
        let ended = cluster.ctl(&["switchover", "--timeout", "60s"])?;
        ensure!(ended.code == 0, "{ended}");
        ensure!(
            open.query("INSERT INTO test.ledger (writer, n, server) VALUES (0, 1, 0)").is_err(),
            "an old session writes"
        );
        writers.wait_elsewhere(&old)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
