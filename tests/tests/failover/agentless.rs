//! Servers without agents: the controllers order them over SQL, and what keeps a lost one from committing is the acker's promise alone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Ledger, Node, Target, Writers, turns};
use baton_testbed::{scenario, wait_until};

#[test]
fn servers_without_agents_are_switched_over_and_replaced_when_they_die_without_loss() {
    scenario("agentless", |bed| {
        let cluster = bed.cluster().without_agents().start()?;
        // Through the servers' own addresses: only the primary takes a write.
        let ledger = Ledger::default();
        let target = |node: &Node| Target::Tcp(cluster.client().clone(), node.address());
        let targets: Vec<_> = cluster.nodes().iter().flat_map(|node| [target(node), target(node)]).collect();
        let writers = Writers::start(&ledger, &targets, Duration::from_millis(2))?;
        writers.wait_more(50)?;
        for to in ["db-2", "db-1"] {
            let ended = cluster.ctl(&["switchover", "--to", to, "--timeout", "60"])?;
            ensure!(ended.code == 0, "to {to}: {ended}");
            let primary = cluster.wait_settled().with_context(|| format!("after the switchover to {to}"))?;
            ensure!(primary.name() == to, "{} is the primary, {to} should be", primary.name());
            writers.wait_more(50).with_context(|| format!("after the switchover to {to}"))?;
        }
        let old = cluster.primary()?.clone();
        old.kill_server()?;
        writers.wait_elsewhere(&old)?;
        let new = cluster.wait_primary_other_than(&old)?.clone();
        writers.wait_more(50)?;

        // It comes back and follows; or it has what nobody was told of, and waits to be looked at.
        old.agent().start()?;
        old.wait_answers()?;
        let role = || -> Result<String> {
            let view = cluster.view()?;
            let nodes = view["nodes"].as_array().into_iter().flatten();
            let told = nodes.filter(|node| node["name"] == old.name()).find_map(|node| node["role"].as_str());
            Ok(told.unwrap_or_default().to_owned())
        };
        let is_settled = |role: &String| role == "diverged" || old.replicates().unwrap_or(false);
        wait_until("the old primary to follow, or to be told to have diverged", role, is_settled)?;
        ensure!(old.read_only()?, "the old primary is writable");
        writers.stop()?;
        ledger.check_against(&new)?;
        let (turns, epoch) = (turns(&[&ledger]), cluster.epoch()?);
        ensure!(turns.len() as u64 <= epoch, "servers commit side by side: in {epoch} epochs {turns:?}");
        Ok(())
    })
}

#[test]
fn servers_without_agents_are_given_up_too() {
    scenario("agentless_leave", |bed| {
        let cluster = bed.cluster().without_agents().start()?;
        let ledger = Ledger::default();
        let primary = cluster.primary()?.clone();
        let target = [Target::Tcp(cluster.client().clone(), primary.address())];
        let writers = Writers::start(&ledger, &target, Duration::from_millis(2))?;
        writers.wait_more(50)?;
        let left = cluster.ctl(&["leave", "-o", "json"])?;
        ensure!(left.code == 0 && left.json()?["done"] == true, "{left}");
        cluster.relay("relay-1")?.kill9()?;
        writers.wait_more(50).context("without a relay")?;
        writers.stop()?;
        ledger.check_against(&primary)
    })
}
