//! Servers and hosts that die.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Fault, Ledger};
use baton_testbed::{DEADLINE, scenario, wait_for, wait_until};

use crate::support::{load, rounds};

#[test]
fn primary_killed_is_replaced_and_returns_as_a_replica() {
    scenario("primary_killed", |bed| rounds(&bed.cluster().nodes(3).start()?, Fault::Killed, 3));
}

#[test]
fn primarys_host_without_power_is_replaced_and_returns_as_a_replica() {
    scenario("host_crashed", |bed| rounds(&bed.cluster().start()?, Fault::Crashed, 1));
}

#[test]
fn servers_that_die_one_after_the_other_while_they_are_promoted_are_needed_again_and_come_back() {
    scenario("all_fenced", |bed| {
        let cluster = bed.cluster().nodes(3).controllers_with("policy", "acker_timeout", "\"20s\"").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        writers.stop()?;
        let (old, relay) = (cluster.wait_settled()?.clone(), cluster.relay("relay-1")?);
        // The acker reaches neither of them: a promotion lasts.
        for node in cluster.nodes().iter().filter(|node| node.name() != old.name()) {
            cluster.net().cut(relay.host(), node.host())?;
        }
        let changes = cluster.watch_state()?;
        let mut epoch = cluster.epoch()?;
        old.kill_server()?;
        for _ in 0..2 {
            let state = cluster.wait_phase(&changes, "promoting", epoch)?;
            epoch = state["epoch"].as_u64().context("no epoch")?;
            cluster.node(state["candidate"].as_str().context("no candidate")?)?.kill_server()?;
        }
        cluster.net().mend_all()?;
        cluster.wait_settled()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn server_that_was_killed_in_the_middle_of_its_recovery_recovers_and_returns() {
    scenario("killed_in_recovery", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let old = cluster.primary()?.clone();
        let file = old.value("SELECT @@GLOBAL.log_bin_basename")? + ".000001";
        cluster.net().cut(old.host(), cluster.relays()[0].host())?;
        // Commits that wait for their ack are in the binlog, and only prepared in the engine.
        wait_for("commits to wait", DEADLINE, || {
            let waiting = old.value("SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Rpl_semi_sync_master_wait_sessions'")?;
            Ok((waiting != "0").then_some(()))
        })?;
        old.crash()?;
        cluster.net().mend_all()?;
        writers.wait_elsewhere(&old)?;
        // What a server leaves that is killed after it has cut off the end of its binlog, and before what it rolls back is on the disk.
        close_binlog(Path::new(&file))?;
        old.agent().start()?;
        cluster.wait_settled()?;
        let log = std::fs::read_to_string(old.agent().log_file())?;
        ensure!(log.contains("its binlog is marked as in use"), "the server did not need what this tests: {log}");
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

/// Takes the flag "in use" (bit 0 of the flags of its format description event) from a binlog file.
fn close_binlog(path: &Path) -> Result<()> {
    const FLAGS: u64 = 4 + 17;
    let file = File::options().read(true).write(true).open(path)?;
    let mut flags = [0];
    file.read_exact_at(&mut flags, FLAGS)?;
    ensure!(flags[0] & 1 == 1, "{} is closed already", path.display());
    file.write_all_at(&[flags[0] & !1], FLAGS)?;
    Ok(())
}

#[test]
fn primary_killed_and_restarted_at_once_stays_primary_or_comes_back_deposed() {
    scenario("killed_and_restarted", |bed| {
        // Its supervisor starts it again before anybody else could be promoted.
        let cluster = bed.cluster().agents_with("", "restart_after", "\"0s\"").start()?;
        let (ledger, intruded) = (Ledger::default(), Ledger::default());
        let writers = load(&cluster, &ledger)?;
        for _ in 0..3 {
            let primary = cluster.primary()?.clone();
            let intruders = cluster.intruders(&intruded, &primary)?;
            primary.kill_server()?;
            cluster.wait_settled()?;
            writers.wait_more(50)?;
            cluster.check_one_writable()?;
            intruders.stop()?;
        }
        writers.stop()?;
        cluster.check(&[&ledger, &intruded])
    });
}

#[test]
fn primary_and_a_replica_killed_together_leave_the_other_replica_to_serve() {
    scenario("primary_and_replica", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let primary = cluster.primary()?.clone();
        let [replica, last] = ["db-2", "db-3"].map(|name| cluster.node(name).cloned());
        let (replica, last) = (replica?, last?);
        replica.crash()?;
        primary.crash()?;
        writers.wait_elsewhere(&primary)?;
        ensure!(cluster.primary()?.name() == last.name(), "{} serves", cluster.primary()?.name());
        replica.agent().start()?;
        primary.agent().start()?;
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn second_failure_right_after_a_failover_is_handled_too() {
    scenario("second_failure", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let first = cluster.primary()?.clone();
        first.crash()?;
        writers.wait_elsewhere(&first)?;
        let second = cluster.wait_primary_other_than(&first)?.clone();
        second.kill_server()?;
        let serves_third =
            || Ok(ledger.all().last().is_some_and(|c| ![first.server_id(), second.server_id()].contains(&c.server)));
        wait_until("a commit on the third server", serves_third, |yes| *yes)?;
        first.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_and_acker_killed_together_wait_for_the_acker_and_then_nothing_is_lost() {
    scenario("primary_and_acker", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let primary = cluster.primary()?.clone();
        cluster.relays()[0].kill9()?;
        primary.crash()?;
        let refusal = cluster.wait_refusal()?;
        let told = format!("{} {}", refusal["why"], refusal["hint"]);
        ensure!(told.contains("relay-1"), "the refusal does not name the relay: {refusal}");
        ensure!(cluster.state()?["primary"] != "db-2" && cluster.state()?["primary"] != "db-3", "{}", cluster.state()?);
        cluster.relays()[0].restart()?;
        writers.wait_elsewhere(&primary)?;
        primary.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn whole_cluster_without_power_starts_cold_with_its_last_primary() {
    scenario("cold_start", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let first = cluster.primary()?.clone();
        first.kill_server()?;
        writers.wait_elsewhere(&first)?;
        let last = cluster.wait_settled()?.clone();
        writers.stop()?;
        for host in cluster.hosts() {
            host.crash()?;
        }
        // The servers first: without etcd they wait, and nobody serves.
        for node in cluster.nodes() {
            node.agent().start()?;
        }
        wait_for("the agents to wait", DEADLINE, || {
            let waits = cluster.nodes().iter().all(|node| {
                node.status().is_ok_and(|status| status["mysqld"] == "waiting" || status["role"] == "replica")
            });
            Ok(waits.then_some(()))
        })?;
        for node in cluster.nodes() {
            ensure!(!node.holds(cluster.vip())?, "{} holds the address without knowing", node.name());
        }
        cluster.start_all()?;
        let settled = cluster.wait_settled()?;
        ensure!(settled.name() == last.name(), "{} serves, {} did before", settled.name(), last.name());
        cluster.check(&[&ledger])
    });
}
