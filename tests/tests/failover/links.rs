//! Servers and hosts that freeze, and links that are cut.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use baton_testbed::cluster::{Cluster, Fault, Ledger};
use baton_testbed::{DEADLINE, Host, scenario, wait_for};

use crate::support::{goes_on, load, rounds};

/// Everybody but the hosts in `but`.
fn others<'a>(cluster: &'a Cluster, but: &[&str]) -> Vec<&'a Host> {
    cluster.hosts().into_iter().filter(|host| !but.contains(&host.name())).collect()
}

#[test]
fn primary_frozen_then_thawed_after_the_promotion_completes_no_commit() {
    scenario("primary_frozen", |bed| rounds(&bed.cluster().start()?, Fault::Frozen, 2));
}

#[test]
fn primarys_host_frozen_then_thawed_after_the_promotion_completes_no_commit() {
    scenario("host_frozen", |bed| rounds(&bed.cluster().start()?, Fault::HostFrozen, 2));
}

#[test]
fn primarys_host_cut_off_gives_up_by_itself_and_rejoins_when_it_is_back() {
    scenario("host_cut_off", |bed| rounds(&bed.cluster().start()?, Fault::CutOff, 2));
}

#[test]
fn primarys_host_unplugged_gives_up_by_itself_and_rejoins_when_it_is_back() {
    scenario("host_unplugged", |bed| rounds(&bed.cluster().start()?, Fault::Unplugged, 1));
}

#[test]
fn cut_off_primary_loses_its_address_and_its_server_by_itself() {
    scenario("address_of_the_cut_off", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let old = cluster.primary()?.clone();
        old.host().isolate()?;
        wait_for("the address to be gone from a host that nobody reaches", DEADLINE, || {
            Ok((!old.holds(cluster.vip())?).then_some(()))
        })?;
        writers.wait_elsewhere(&old)?;
        // Whatever the old host believes, its clients find nothing to write to.
        let written = old
            .app_session()
            .and_then(|mut sql| sql.query("INSERT INTO test.ledger (writer, n, server) VALUES (0, 0, 0)"));
        ensure!(written.is_err(), "a server that was cut off takes writes");
        old.host().rejoin()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_cut_off_from_the_controllers_only_is_left_in_service() {
    scenario("cut_from_controllers", |bed| {
        let cluster = bed.cluster().three_controllers().relays_with("upstream", "heartbeat", "\"100ms\"").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        let controllers: Vec<_> = cluster.controllers().iter().map(|c| c.host()).collect();
        cluster.net().part(&[primary.host()], &controllers)?;
        // Far longer than any time-out: a thousand commits, and then some.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(6) {
            goes_on(&writers, 100)?;
        }
        ensure!(
            cluster.epoch()? == epoch,
            "a failover, although only the controllers do not see the primary: {}",
            cluster.state()?
        );
        cluster.net().mend_all()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_cut_off_from_the_acker_only_lets_commits_wait_and_tells_why() {
    scenario("cut_from_acker", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        cluster.net().cut(primary.host(), cluster.relays()[0].host())?;
        let problem = cluster.wait_problem_of(&["primary_unseen_by_acker", "commits_wait", "acker_lost"])?;
        ensure!(problem["text"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        ensure!(cluster.primary()?.name() == primary.name() || cluster.epoch()? > epoch, "{}", cluster.state()?);
        cluster.net().mend_all()?;
        writers.wait_more(50)?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_whose_link_to_the_clients_is_dead_says_so_and_is_moved_by_a_switchover() {
    scenario("cut_from_clients", |bed| {
        let cluster = bed.cluster().client_interface("eth1").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, old) = (cluster.epoch()?, cluster.primary()?.clone());
        old.host().pull_cable("eth1")?;
        let problem = cluster.wait_problem_of(&["primary_address"])?;
        println!("{problem}");
        let text = problem["text"].as_str().unwrap_or_default();
        ensure!(text.contains("eth1") && text.contains("carrier") && problem["subject"] == old.name(), "{problem}");
        ensure!(cluster.epoch()? == epoch, "a failover that nobody asked for: {}", cluster.state()?);
        let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
        ensure!(ended.code == 0, "{ended}");
        writers.wait_elsewhere(&old)?;
        old.host().plug_cable("eth1")?;
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_whose_link_to_the_clients_is_dead_is_moved_by_itself_where_policy_wants_it() {
    scenario("moved_from_dead_link", |bed| {
        let plan = bed.cluster().nodes(3).client_interface("eth1");
        let cluster = plan.controllers_with("policy", "link_lost", "\"switchover\"").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, old) = (cluster.epoch()?, cluster.primary()?.clone());
        // One that clients can't reach either is not the place to go to.
        let spare = cluster.nodes().iter().find(|node| node.name() != old.name()).context("one server")?;
        spare.host().pull_cable("eth1")?;
        old.host().pull_cable("eth1")?;
        writers.wait_elsewhere(&old)?;
        let now = cluster.wait_primary_other_than(&old)?;
        ensure!(now.name() != spare.name(), "{} is cut off too", now.name());
        let history = cluster.history(epoch + 1)?.to_string();
        ensure!(history.contains("carrier") && history.contains("switchover"), "{history}");
        for host in [old.host(), spare.host()] {
            host.plug_cable("eth1")?;
        }
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        ensure!(cluster.epoch()? == epoch + 1, "moved more than once: {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_cut_off_together_with_one_controller_is_replaced_by_the_others() {
    scenario("cut_with_a_controller", |bed| {
        let cluster = bed.cluster().three_controllers().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let old = cluster.primary()?.clone();
        let leader = cluster.leader()?.clone();
        let (old_host, leader_host) = (old.host(), leader.host());
        cluster.net().part(&[old_host, leader_host], &others(&cluster, &[old_host.name(), leader_host.name()]))?;
        writers.wait_elsewhere(&old)?;
        let now = cluster.wait_primary_other_than(&old)?;
        ensure!(
            now.name() != old.name() && cluster.leader()?.name() != leader.name(),
            "the cut off controller still leads"
        );
        cluster.net().mend_all()?;
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn flapping_links_end_in_one_writable_primary_and_lose_nothing() {
    scenario("flapping", |bed| {
        let cluster = bed.cluster().controllers_with("guard", "max", "3").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        for up_ms in [100, 100, 100, 100, 700, 700, 2000, 2000] {
            let Ok(state) = cluster.state() else { continue };
            let name = state["primary"].as_str().or(state["candidate"].as_str()).unwrap_or("db-1").to_owned();
            let host = cluster.node(&name)?.host().clone();
            host.isolate()?;
            std::thread::sleep(Duration::from_millis(up_ms)); // the fault itself
            host.rejoin()?;
            std::thread::sleep(Duration::from_millis(up_ms));
        }
        ensure!(cluster.epoch()? <= 10, "ping-pong: {}", cluster.state()?);
        wait_for("a primary, or the reason why there is none", DEADLINE, || {
            let refusing = cluster.view().is_ok_and(|view| !view["refusing"].is_null());
            Ok((refusing || cluster.state().is_ok_and(|state| state["phase"] == "steady")).then_some(()))
        })?;
        if cluster.view()?["refusing"]["what"].is_string() {
            println!("refused: {}", cluster.view()?["refusing"]);
            return cluster.check_one_writable();
        }
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
