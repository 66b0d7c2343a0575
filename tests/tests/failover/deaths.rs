//! Servers and hosts that die.

use anyhow::ensure;
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
