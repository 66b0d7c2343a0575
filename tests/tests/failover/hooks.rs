//! Programs of the user beside operations: who may say no, and how long they may take.

use std::fs;

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Cluster, ClusterPlan, Ledger};
use baton_testbed::{Bed, DEADLINE, scenario, wait_for, wait_until};

use crate::support::load;

/// One program for all events; the part of it that a test writes anew decides what it does.
struct Hook<'a>(&'a Bed);

impl Hook<'_> {
    /// A cluster whose controllers run it at every event, for at most two seconds.
    fn plan(&self) -> Result<ClusterPlan> {
        let (script, part, log) = (self.0.path("hook.sh"), self.0.path("hook.part"), self.0.path("hook.log"));
        let facts = "$BATON_EVENT $BATON_CLUSTER $BATON_OLD_PRIMARY $BATON_NEW_PRIMARY $BATON_EPOCH";
        fs::write(&script, format!("echo \"{facts}\" >>{}\n. {}\n", log.display(), part.display()))?;
        self.does("")?;
        let command = format!("[\"/bin/sh\", \"{}\"]", script.display());
        let events = ["before_failover", "after_failover", "before_switchover", "after_switchover"];
        let plan = events.iter().fold(self.0.cluster(), |plan, event| plan.controllers_with("hooks", event, &command));
        Ok(plan.controllers_with("hooks", "timeout", "\"2s\""))
    }

    /// What it does from now on.
    fn does(&self, script: &str) -> Result<()> {
        Ok(fs::write(self.0.path("hook.part"), format!("{script}\n"))?)
    }

    /// Waits until it was run with these facts.
    fn wait_told(&self, facts: &str) -> Result<()> {
        let told = || fs::read_to_string(self.0.path("hook.log")).context("the hook was never run");
        wait_until(&format!("the hook to be told {facts}"), told, |log| log.lines().any(|line| line == facts)).map(drop)
    }
}

/// A switchover that the hook says no to: nothing was begun.
fn vetoed(cluster: &Cluster, words: &str) -> Result<()> {
    let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
    let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
    ensure!(ended.code == 3 && ended.err.contains(words), "{ended}");
    println!("{}", ended.err.trim());
    ensure!(cluster.epoch()? == epoch && !primary.read_only()?, "something was begun: {}", cluster.state()?);
    Ok(())
}

/// Waits until a controller has logged that.
fn wait_logged(cluster: &Cluster, words: &str) -> Result<()> {
    wait_for(&format!("a controller to log {words:?}"), DEADLINE, || {
        let logs = cluster.controllers().iter().map(|c| fs::read_to_string(c.log_file()));
        Ok(logs.collect::<std::io::Result<String>>()?.contains(words).then_some(()))
    })
}

#[test]
fn hook_before_a_switchover_may_say_no_and_is_ended_when_it_hangs_and_the_one_after_it_only_warns() {
    scenario("hooks_switchover", |bed| {
        let hook = Hook(bed);
        let cluster = hook.plan()?.start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        hook.does("echo not today >&2; exit 3")?;
        vetoed(&cluster, "not today")?;
        let epoch = cluster.epoch()?;
        hook.wait_told(&format!("before_switchover shop db-1 db-2 {}", epoch + 1))?;
        let runs = fs::read_to_string(bed.path("hook.log"))?.lines().count();
        ensure!(runs == 1, "one request, and the hook was run {runs} times");
        hook.does("sleep 1000 & wait")?;
        vetoed(&cluster, "was killed")?;
        wait_for("the hook and its child to be gone", DEADLINE, || {
            Ok(cluster.leader()?.host().pids_of("sleep").is_empty().then_some(()))
        })?;
        hook.does("case $BATON_EVENT in after_*) echo nobody cares >&2; exit 4;; esac")?;
        let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
        ensure!(ended.code == 0, "{ended}");
        hook.wait_told(&format!("after_switchover shop db-1 db-2 {}", cluster.epoch()?))?;
        wait_logged(&cluster, "nobody cares")?;
        // One that hangs afterwards holds up nothing either.
        hook.does("case $BATON_EVENT in after_*) sleep 1000;; esac")?;
        let ended = cluster.ctl(&["switchover", "--timeout", "60"])?;
        ensure!(ended.code == 0, "{ended}");
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        wait_logged(&cluster, "was killed")?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn hook_before_a_failover_that_fails_or_hangs_is_not_waited_for_beyond_its_bound() {
    scenario("hooks_failover", |bed| {
        let hook = Hook(bed);
        let cluster = hook.plan()?.start()?;
        for script in ["exit 1", "sleep 1000"] {
            let ledger = Ledger::default();
            let writers = load(&cluster, &ledger)?;
            hook.does(script)?;
            let (old, epoch) = (cluster.primary()?.clone(), cluster.epoch()?);
            old.crash()?;
            writers.wait_elsewhere(&old)?;
            let new = cluster.wait_primary_other_than(&old)?.name().to_owned();
            // Who is promoted is not known before the old one is fenced.
            hook.wait_told(&format!("before_failover shop {}  {}", old.name(), epoch + 1))?;
            hook.wait_told(&format!("after_failover shop {} {new} {}", old.name(), epoch + 1))?;
            wait_logged(&cluster, "it has no veto")?;
            old.agent().start()?;
            cluster.wait_settled()?;
            writers.stop()?;
            cluster.check(&[&ledger])?;
        }
        Ok(())
    });
}

#[test]
fn hook_before_a_failover_that_was_given_a_veto_holds_it_back_and_the_reason_is_told() {
    scenario("hooks_veto", |bed| {
        let hook = Hook(bed);
        let cluster = hook.plan()?.controllers_with("hooks", "veto", "true").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        hook.does("echo the office is closed >&2; exit 1")?;
        let (old, epoch) = (cluster.primary()?.clone(), cluster.epoch()?);
        old.crash()?;
        let refusal = cluster.wait_refusal_with("the office is closed")?;
        println!("{refusal}");
        ensure!(cluster.epoch()? == epoch && cluster.node("db-2")?.read_only()?, "{}", cluster.state()?);
        // It is asked again some time later, and has no objection any more.
        hook.does("")?;
        writers.wait_elsewhere(&old)?;
        old.agent().start()?;
        cluster.wait_settled()?;
        writers.wait_more(50)?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
