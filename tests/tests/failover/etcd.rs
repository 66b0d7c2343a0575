//! etcd frozen, restarted, without a leader, gone: service goes on, and no failover comes of it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use baton_testbed::cluster::{Fault, Ledger};
use baton_testbed::{Authority, scenario, wait_until};
use serde_json::json;

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

#[test]
fn certificate_of_etcd_that_expires_or_is_exchanged_is_told_with_the_reason_and_service_goes_on() {
    scenario("etcd_certificate", |bed| {
        let names: Vec<_> = (1..=99).map(|number| format!("10.77.0.{number}")).collect();
        let (authority, stranger) =
            (Authority::create(bed.root(), "authority")?, Authority::create(bed.root(), "stranger")?);
        let good = authority.sign("good", &names)?;
        let in_use = good.copy("etcd")?;
        let cluster = bed.cluster().etcd_tls(&in_use).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        let bad = [
            (authority.sign_expired("expired", &names)?, "xpired"),
            (stranger.sign("strangers", &names)?, "UnknownIssuer"),
        ];
        for (certs, words) in &bad {
            in_use.replace_by(certs)?;
            // The connections that stand are ended: only new ones look at the certificate.
            let member = &cluster.etcd().members()[0];
            member.stop()?;
            member.restart()?;
            let unreachable = || cluster.wait_problem_of(&["etcd_unreachable"]);
            let told = wait_until("the reason", unreachable, |problem| problem["text"].to_string().contains(words))?;
            println!("{}", told["text"]);
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(6) {
                goes_on(&writers, 50)?;
                ensure!(primary.holds(cluster.vip())?, "the address left although the primary serves");
            }
            in_use.replace_by(&good)?;
            let problems = || Ok(cluster.view()?["problems"].to_string());
            wait_until("etcd to be reached again", problems, |problems| !problems.contains("etcd_unreachable"))?;
            cluster.wait_settled()?;
        }
        ensure!(cluster.epoch()? == epoch, "a failover because of a certificate: {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}

#[test]
fn documents_of_a_newer_version_are_told_and_neither_obeyed_nor_overwritten() {
    scenario("newer_documents", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        // Somebody of a newer version joins: what is unknown in its announcement does no harm.
        let mut other = cluster.etcd().get(&cluster.key("nodes/db-2"))?.map(|entry| entry.value).unwrap_or_default();
        for (key, value) in [("name", "db-9"), ("version", "99.0.0"), ("colour", "blue")] {
            other[key] = json!(value);
        }
        other["mysql"] = json!(["10.77.0.99:3306"]);
        other["http"] = json!("10.77.0.99:8092");
        cluster.etcd().put(&cluster.key("nodes/db-9"), &other)?;
        let told = cluster.wait_problem_of(&["versions_differ"])?;
        println!("{told}");
        cluster.etcd().delete(&cluster.key("nodes/db-9"))?;
        // A state that says more than is understood here may mean anything.
        let ours = cluster.state()?;
        let mut newer = ours.clone();
        newer["colour"] = json!("blue");
        cluster.etcd().put(&cluster.key("state"), &newer)?;
        let told = cluster.wait_problem_of(&["etcd_content"])?;
        println!("{told}");
        ensure!(told["text"].to_string().contains("colour") && told["text"].to_string().contains("state"), "{told}");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(6) {
            goes_on(&writers, 50)?;
            ensure!(primary.holds(cluster.vip())? && !primary.read_only()?, "the primary was taken out of service");
        }
        for order in [&["switchover", "--timeout", "10"] as &[_], &["bootstrap", "--primary", "db-2"]] {
            let refused = cluster.ctl(order)?;
            println!("{order:?}: {refused}");
            ensure!(matches!(refused.code, 3 | 4), "{order:?}: {refused}");
        }
        ensure!(cluster.state()? == newer, "the newer state was overwritten: {}", cluster.state()?);
        cluster.etcd().put(&cluster.key("state"), &ours)?;
        cluster.wait_settled()?;
        ensure!(cluster.epoch()? == epoch, "{}", cluster.state()?);
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])?;
        rounds(&cluster, Fault::Killed, 1)
    });
}
