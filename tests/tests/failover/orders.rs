//! What people order, and what the guard forbids: pause and resume, manual failover, too many failovers, two orders at once, giving the cluster up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Daemon, Ledger, Target, Writers};
use baton_testbed::{scenario, wait_until};

use crate::support::load;

#[test]
fn paused_cluster_does_not_fail_over_until_it_is_resumed() {
    scenario("paused", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let primary = cluster.primary()?.clone();
        let paused = cluster.ctl(&["pause", "--reason", "maintenance"])?;
        ensure!(paused.code == 0, "{paused}");
        primary.crash()?;
        let refusal = cluster.wait_refusal()?;
        ensure!(refusal.to_string().contains("pause"), "the refusal does not say that it is paused: {refusal}");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            ensure!(cluster.node("db-2")?.read_only()?, "a failover although paused");
        }
        let resumed = cluster.ctl(&["resume"])?;
        ensure!(resumed.code == 0, "{resumed}");
        writers.wait_elsewhere(&primary)?;
        primary.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn guard_refuses_the_failover_that_is_one_too_many_and_says_so() {
    scenario("guard", |bed| {
        let cluster = bed.cluster().nodes(3).controllers_with("guard", "max", "1").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let first = cluster.primary()?.clone();
        first.kill_server()?;
        writers.wait_elsewhere(&first)?;
        let second = cluster.wait_settled()?.clone();
        second.crash()?;
        let refusal = cluster.wait_refusal()?;
        ensure!(
            refusal["why"].as_str().is_some_and(|why| why.contains("are allowed")),
            "the refusal is not the guard's: {refusal}"
        );
        let problem = cluster.wait_problem_of(&["guard_exhausted"])?;
        ensure!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{problem}");
        // An order by hand is not the guard's business.
        let ordered = cluster.ctl(&["failover", "--timeout", "60"])?;
        ensure!(ordered.code == 0, "{ordered}");
        writers.wait_elsewhere(&second)?;
        second.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn two_switchovers_at_once_end_as_one_and_the_other_is_told() {
    scenario("two_orders", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (first, second) = (
            cluster.ctl_in_background(&["switchover", "--to", "db-2", "--timeout", "60"])?,
            cluster.ctl_in_background(&["switchover", "--to", "db-3", "--timeout", "60"])?,
        );
        let ended: Vec<_> = [first, second]
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a batonctl panicked"))?)
            .collect::<Result<_>>()?;
        ensure!(ended.iter().any(|ended| ended.code == 0), "{ended:?}");
        for ended in &ended {
            ensure!(ended.code == 0 || (ended.code == 3 && !ended.err.is_empty()), "{ended}");
        }
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn cluster_that_is_given_up_goes_on_without_a_failover_and_is_taken_up_again() {
    scenario("leave", |bed| {
        let cluster = bed.cluster().start()?;
        let (ledger, own) = (Ledger::default(), Ledger::default());
        let writers = load(&cluster, &ledger)?;
        // In a later epoch than the first: the log has files of two primaries then.
        let switched = cluster.ctl(&["switchover", "--to", "db-2", "--timeout", "60"])?;
        ensure!(switched.code == 0, "{switched}");
        let primary = cluster.wait_settled()?.clone();
        let replica = cluster.node("db-1")?;
        let direct = [Target::Tcp(cluster.client().clone(), primary.address())];
        let direct = Writers::start(&own, &direct, Duration::from_millis(2))?;
        direct.wait_more(20)?;
        let epoch = cluster.epoch()?;
        let dry = cluster.ctl(&["leave", "--dry-run"])?;
        ensure!(dry.code == 0 && dry.out.contains("semi-sync") && cluster.epoch()? == epoch, "{dry}");
        let left = cluster.ctl(&["leave", "-o", "json"])?;
        ensure!(left.code == 0 && left.json()?["done"] == true, "{left}");
        ensure!(cluster.state().is_err(), "there still is a state");
        ensure!(primary.value("SELECT @@rpl_semi_sync_master_enabled")? == "0", "semi-sync is on still");
        for (name, writers) in [("through the virtual IP", &writers), ("through its own address", &direct)] {
            writers.wait_more(50).with_context(|| format!("{name}, after leaving"))?;
        }
        let status = cluster.ctl(&["status"])?;
        ensure!(status.out.contains("given up by"), "{status}");

        // Replicas are fed on, also over a restart of the relay; and nothing of Baton is needed for a commit.
        let relay = cluster.relay("relay-1")?;
        relay.kill9()?;
        writers.wait_more(50)?;
        relay.start()?;
        let goal = primary.gtid()?;
        let number = |gtid: &str| gtid.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        wait_until("the replica to have it", || replica.gtid(), |has| number(has) >= number(&goal))?;
        relay.kill9()?;
        cluster.controllers().iter().try_for_each(Daemon::kill9)?;
        cluster.etcd().freeze()?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            ensure!(primary.runs() && primary.holds(cluster.vip())?, "a server that was given up is fenced");
        }
        writers.wait_more(50)?;
        cluster.etcd().thaw()?;
        cluster.controllers().iter().try_for_each(Daemon::start)?;
        relay.start()?;

        // Nobody takes over from it; it comes back as it was.
        primary.kill_server()?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            ensure!(replica.read_only()?, "a failover although the cluster was given up");
        }
        for writers in [&writers, &direct] {
            writers.wait_more(50)?;
        }
        ensure!(primary.value("SELECT @@rpl_semi_sync_master_enabled")? == "0", "semi-sync is on after a restart");

        cluster.bootstrap("db-2")?;
        ensure!(cluster.epoch()? > epoch, "the epoch does not grow");
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        direct.stop()?;
        primary.kill_server()?;
        writers.wait_elsewhere(&primary)?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger, &own])
    });
}

#[test]
fn switchover_asked_for_during_a_failover_is_told_of_it_and_the_failover_finishes() {
    scenario("order_in_a_failover", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let (old, epoch) = (cluster.primary()?.clone(), cluster.epoch()?);
        // Readers' locks keep all appliers waiting, and so the failover under way.
        let mut lockers: Vec<_> =
            ["db-2", "db-3"].iter().map(|name| cluster.node(name)?.session()).collect::<Result<_>>()?;
        for locker in &mut lockers {
            locker.query("LOCK TABLES test.ledger READ")?;
        }
        let writers = load(&cluster, &ledger)?;
        writers.wait_more(200)?;
        let changes = cluster.watch_state()?;
        old.crash()?;
        cluster.wait_phase(&changes, "catching_up", epoch)?;
        for to in ["db-2", "db-3"] {
            let ended = cluster.ctl(&["switchover", "--to", to, "--timeout", "60"])?;
            println!("{ended}");
            ensure!(ended.code == 3 && ended.err.contains("under way"), "{ended}");
        }
        ensure!(cluster.state()?["kind"] == "failover", "{}", cluster.state()?);
        drop(lockers);
        writers.wait_elsewhere(&old)?;
        old.agent().start()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
