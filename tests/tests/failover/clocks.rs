//! Wall clocks that jump: nothing in a cluster may hang on them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use baton_testbed::cluster::{Cluster, Daemon, Ledger, Node};
use baton_testbed::{scenario, wait_until};

use crate::support::{goes_on, load};

const HOUR: i64 = 3600;

/// How far the clock of a node's server is off, in seconds, against this test's.
fn server_is_off(node: &Node) -> Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    Ok(node.value("SELECT UNIX_TIMESTAMP()")?.parse::<i64>()? - i64::try_from(now)?)
}

/// Sets the clocks of these programs, and lets the cluster go on: nothing may come of it.
fn jump(cluster: &Cluster, whose: &[&Daemon], seconds: i64) -> Result<()> {
    let names: Vec<_> = whose.iter().map(|daemon| daemon.name()).collect();
    println!("{names:?}: {seconds} s");
    let ledger = Ledger::default();
    let writers = load(cluster, &ledger)?;
    let (epoch, leader) = (cluster.epoch()?, cluster.leader()?.name().to_owned());
    whose.iter().try_for_each(|daemon| daemon.set_clock(seconds))?;
    for node in cluster.nodes().iter().filter(|node| names.contains(&node.name())) {
        let off = || server_is_off(node);
        wait_until(&format!("the clock of {} to jump", node.name()), off, |off| (off - seconds).abs() < 60)?;
    }
    // Clocks are looked at once a second.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        goes_on(&writers, 50)?;
    }
    ensure!(cluster.epoch()? == epoch, "a failover because of a clock: {}", cluster.state()?);
    ensure!(cluster.leader()?.name() == leader, "another controller leads because of a clock");
    cluster.wait_settled()?;
    writers.stop()?;
    cluster.check(&[&ledger])
}

#[test]
fn clocks_that_jump_by_an_hour_on_any_host_change_nothing_and_an_operation_goes_through_while_they_differ() {
    scenario("clocks", |bed| {
        let cluster = bed.cluster().controllers(2).relays(2).own_clocks().start()?;
        let leader = cluster.leader()?.clone();
        let follower = cluster.controllers().iter().find(|c| c.name() != leader.name()).cloned();
        let (primary, replica) = (cluster.node("db-1")?.agent(), cluster.node("db-2")?.agent());
        let relays: Vec<_> = cluster.relays().iter().collect();
        let controllers: Vec<_> = [&leader].into_iter().chain(&follower).collect();
        for whose in [&[&leader] as &[_], controllers.as_slice(), &[primary], &[replica], relays.as_slice()] {
            for seconds in [HOUR, -HOUR, 0] {
                jump(&cluster, whose, seconds)?;
            }
        }
        // All at odds: a switchover, then a failover.
        jump(&cluster, &[&leader, primary], HOUR)?;
        jump(&cluster, &[replica, relays[0]], -HOUR)?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
        ensure!(ended.code == 0, "{ended}");
        let old = cluster.wait_settled()?.clone();
        old.crash()?;
        writers.wait_elsewhere(&old)?;
        old.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
