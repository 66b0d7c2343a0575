//! Servers, relays and controllers that come and go while the cluster runs: nobody else is restarted or told.

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Cluster, Ledger};
use baton_testbed::{scenario, wait_until};

use crate::support::load;

/// Waits until the controllers know (or no longer know as announced) somebody in `list`.
fn wait_listed(cluster: &Cluster, list: &str, name: &str) -> Result<()> {
    let names = || {
        let view = cluster.view()?;
        let all = view[list].as_array().with_context(|| format!("no {list} in {view}"))?;
        Ok(all.iter().filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect::<Vec<_>>())
    };
    wait_until(&format!("{name} among {list}"), names, |names| names.iter().any(|known| known == name)).map(drop)
}

#[test]
fn node_that_joins_at_run_time_is_taken_in_and_may_become_primary_and_one_that_leaves_is_let_go() {
    scenario("node_joins", |bed| {
        let cluster = bed.cluster().nodes(3).late("db-3").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let new = cluster.node("db-3")?.clone();
        ensure!(cluster.ctl(&["switchover", "--to", "db-3"])?.code == 3, "a node that is not there was taken");
        new.agent().restart()?;
        wait_listed(&cluster, "nodes", "db-3")?;
        // It has everything from the log's beginning.
        cluster.wait_settled()?;
        let ended = cluster.ctl(&["switchover", "--to", "db-3", "--timeout", "60"])?;
        ensure!(ended.code == 0, "{ended}");
        ensure!(cluster.wait_settled()?.name() == "db-3", "{}", cluster.state()?);
        // One that is stopped for good is announced no more, and nothing is expected of it.
        let gone = cluster.node("db-1")?.clone();
        gone.agent().term()?;
        let announced = || cluster.etcd().get(&cluster.key("nodes/db-1"));
        wait_until("db-1 to be announced no more", announced, Option::is_none)?;
        writers.wait_more(50)?;
        new.crash()?;
        writers.wait_elsewhere(&new)?;
        ensure!(cluster.wait_primary_other_than(&new)?.name() == "db-2", "{}", cluster.state()?);
        writers.wait_more(50)?;
        writers.stop()?;
        new.agent().start()?;
        cluster.wait_settled()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn relay_and_controller_that_join_at_run_time_take_over_when_the_first_ones_leave() {
    scenario("relay_joins", |bed| {
        let plan = bed.cluster().relays(2).controllers(2).etcd_apart();
        let cluster = plan.late("relay-2").late("controller-2").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let epoch = cluster.epoch()?;
        let problem = cluster.wait_problem_of(&["no_standby"])?;
        ensure!(problem["subject"] == "relay-1", "{problem}");
        let (relay, controller) = (cluster.relay("relay-2")?, &cluster.controllers()[1]);
        relay.restart()?;
        controller.restart()?;
        wait_listed(&cluster, "relays", "relay-2")?;
        wait_listed(&cluster, "controllers", "controller-2")?;
        let problems = || Ok(cluster.view()?["problems"].to_string());
        wait_until("a standby", problems, |problems| !problems.contains("no_standby"))?;
        cluster.relay("relay-1")?.term()?;
        cluster.controllers()[0].term()?;
        ensure!(cluster.leader()?.name() == "controller-2", "{} leads", cluster.leader()?.name());
        let holder = || Ok(cluster.state()?["grant_holder"].clone());
        wait_until("the new relay to acknowledge", holder, |holder| holder == "relay-2")?;
        writers.wait_more(50)?;
        cluster.wait_settled()?;
        ensure!(cluster.epoch()? == epoch, "a failover because somebody left: {}", cluster.state()?);
        let old = cluster.primary()?.clone();
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
