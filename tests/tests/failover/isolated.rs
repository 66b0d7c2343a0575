//! Parts that are cut off from etcd alone, or whose keys there are spoilt: whoever can't be obeyed by, or can't obey, is not relied on.

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Cluster, Daemon, Ledger};
use baton_testbed::{scenario, wait_until};
use serde_json::{Value, json};

use crate::support::{goes_on, load};

fn cut_off_from_etcd(cluster: &Cluster, daemon: &Daemon) -> Result<()> {
    cluster.etcd().hosts().try_for_each(|host| cluster.net().cut(daemon.host(), host))
}

fn acker(cluster: &Cluster) -> Result<String> {
    Ok(cluster.state()?["grant_holder"].as_str().context("nobody acknowledges")?.to_owned())
}

#[test]
fn acker_cut_off_from_etcd_is_replaced_before_anything_depends_on_its_promise() {
    scenario("acker_without_etcd", |bed| {
        let cluster = bed.cluster().relays(2).etcd_apart().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let first = acker(&cluster)?;
        cut_off_from_etcd(&cluster, cluster.relay(&first)?)?;
        wait_until("another acker", || acker(&cluster), |holder| *holder != first)?;
        writers.wait_more(50)?;
        let old = cluster.wait_settled()?.clone();
        let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
        ensure!(ended.code == 0, "{ended}");
        let now = cluster.wait_settled()?.clone();
        ensure!(now.name() != old.name(), "{}", cluster.state()?);
        now.kill_server()?;
        writers.wait_elsewhere(&now)?;
        cluster.net().mend_all()?;
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_that_dies_while_the_acker_can_not_ask_etcd_is_replaced_by_what_its_host_still_has() {
    scenario("rescue_without_etcd", |bed| {
        let cluster = bed.cluster().relays(2).etcd_apart().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let old = cluster.primary()?.clone();
        cut_off_from_etcd(&cluster, cluster.relay(&acker(&cluster)?)?)?;
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        cluster.net().mend_all()?;
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn node_whose_agent_is_cut_off_from_etcd_is_no_candidate() {
    scenario("candidate_without_etcd", |bed| {
        let cluster = bed.cluster().nodes(3).etcd_apart().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (old, cut) = (cluster.primary()?.clone(), cluster.node("db-2")?.clone());
        cut_off_from_etcd(&cluster, cut.agent())?;
        let dry = || cluster.ctl(&["switchover", "--to", "db-2", "--dry-run"]);
        wait_until("db-2 to be refused", dry, |ended| ended.code == 3 && ended.err.contains("does not reach etcd"))?;
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        ensure!(cluster.primary()?.name() == "db-3", "{}", cluster.state()?);
        cluster.net().mend_all()?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn settings_in_etcd_that_are_spoilt_or_gone_take_no_address_away() {
    scenario("settings_spoilt", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (primary, key) = (cluster.primary()?.clone(), cluster.key("config"));
        let log = || Ok::<_, anyhow::Error>(std::fs::read_to_string(primary.agent().log_file())?);
        let removed = log()?.matches("the virtual IP was removed").count();
        let vip = || Ok(cluster.etcd().get(&key)?.map(|entry| entry.value["vip"].clone()));
        let whole = |vip: &Option<Value>| vip.as_ref().is_some_and(Value::is_string);
        cluster.etcd().put(&key, &json!("spoilt"))?;
        wait_until("the settings to be whole", vip, whole)?;
        cluster.etcd().delete(&key)?;
        wait_until("the settings to be back", vip, whole)?;
        goes_on(&writers, 200)?;
        let now = log()?.matches("the virtual IP was removed").count();
        ensure!(now == removed && primary.holds(cluster.vip())?, "the address left: {now} times, {removed} before");
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn leader_whose_key_is_taken_away_does_not_lead_on_beside_another() {
    scenario("leaders_key", |bed| {
        let cluster = bed.cluster().controllers(2).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (old, key) = (cluster.primary()?.clone(), cluster.key("leader"));
        let term = || Ok(cluster.etcd().get(&key)?.map(|entry| entry.create_revision));
        for spoil in [false, true] {
            let before = term()?;
            if spoil {
                cluster.etcd().put(&key, &json!("spoilt"))?;
            } else {
                cluster.etcd().delete(&key)?;
            }
            wait_until("a new term", term, |now| now.is_some() && *now != before)?;
            let leads = || {
                let say = |c: &Daemon| Ok(c.json("/v1/cluster")?["leads"] == true);
                cluster.controllers().iter().map(say).collect::<Result<Vec<_>>>()
            };
            wait_until("one leader", leads, |found| found.iter().filter(|leads| **leads).count() == 1)?;
        }
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
