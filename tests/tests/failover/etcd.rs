//! etcd frozen, restarted, without a leader, gone: service goes on, and no failover comes of it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use baton_testbed::cluster::{Fault, Ledger};
use baton_testbed::scenario;

use crate::support::{goes_on, load, rounds};

#[test]
fn etcd_frozen_for_ten_seconds_stops_changes_and_not_service() {
    scenario("etcd_frozen", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        cluster.etcd().freeze()?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            goes_on(&writers, 50)?;
            ensure!(primary.holds(cluster.vip())?, "the address left although the primary serves");
        }
        cluster.etcd().thaw()?;
        cluster.wait_settled()?;
        writers.wait_more(100)?;
        ensure!(cluster.epoch()? == epoch, "a failover because of etcd: {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn etcd_restarted_and_its_leader_killed_change_nothing() {
    scenario("etcd_restarted", |bed| {
        let cluster = bed.cluster().three_controllers().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let epoch = cluster.epoch()?;
        let leader = cluster.etcd().leader()?.clone();
        leader.kill9()?;
        writers.wait_more(300)?;
        leader.restart()?;
        for member in cluster.etcd().members() {
            member.stop()?;
            writers.wait_more(100)?;
            member.restart()?;
        }
        cluster.wait_settled()?;
        ensure!(cluster.epoch()? == epoch, "a failover because of etcd: {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn primary_that_dies_while_etcd_is_down_is_replaced_once_etcd_is_back() {
    scenario("etcd_down", |bed| {
        // Its own supervisor must not be quicker: it is to stay dead.
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let primary = cluster.primary()?.clone();
        cluster.etcd().members()[0].kill9()?;
        primary.crash()?;
        let replica = cluster.node("db-2")?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            ensure!(replica.read_only()?, "a server was promoted without etcd");
        }
        cluster.etcd().members()[0].restart()?;
        writers.wait_elsewhere(&primary)?;
        primary.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
