//! Failover in full counts: every fault that takes the primary away, round after round on one cluster, with the stalls that clients saw; and the
//! judgement of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Fault, Stalls};
use baton_testbed::{Bed, Story};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;

use super::Args;

/// `probe.timeout` of the clusters: its default.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);

/// How often each fault is tried, and what its stalls may be: half of them, and the worst.
const COUNTS: [(Fault, u32, Duration, Duration); 7] = [
    (Fault::Killed, 20, Duration::from_millis(250), SECOND),
    (Fault::Switchover, 20, Duration::from_millis(100), SECOND),
    (Fault::Frozen, 10, PROBE_TIMEOUT.saturating_add(SECOND), PROBE_TIMEOUT.saturating_add(SECOND)),
    (Fault::HostFrozen, 10, PROBE_TIMEOUT.saturating_add(SECOND), PROBE_TIMEOUT.saturating_add(SECOND)),
    (Fault::CutOff, 10, PROBE_TIMEOUT.saturating_add(SECOND), PROBE_TIMEOUT.saturating_add(SECOND)),
    (Fault::Unplugged, 10, PROBE_TIMEOUT.saturating_add(SECOND), PROBE_TIMEOUT.saturating_add(SECOND)),
    (Fault::Crashed, 10, PROBE_TIMEOUT.saturating_add(SECOND), PROBE_TIMEOUT.saturating_add(SECOND)),
];

/// Every fault its number of rounds, then random ones until the time is up. An error at the first lost commit; in the end at stalls that are too long.
pub(super) fn run(bed: &Bed, story: &mut Story, args: &Args, seed: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(args.minutes * 60);
    let wanted = |fault: Fault| args.fault.as_ref().is_none_or(|name| *name == fault.to_string());
    let counts: Vec<_> = COUNTS.into_iter().filter(|(fault, ..)| wanted(*fault)).collect();
    ensure!(
        !counts.is_empty(),
        "no fault has that name; there are: {}",
        COUNTS.map(|(f, ..)| f.to_string()).join(", ")
    );
    let mut random = StdRng::seed_from_u64(seed);
    let mut stalls: BTreeMap<Fault, Stalls> = BTreeMap::new();
    story.step("Start a cluster: three servers, two relays, three controllers");
    let cluster = bed.cluster().nodes(3).relays(2).three_controllers().start()?;
    let mut commits = 0;
    let mut round = |story: &Story, fault: Fault| -> Result<()> {
        // Switchovers are judged under many writers, as the guarantee says.
        let round = match fault {
            Fault::Switchover => cluster.round_with(fault, args.writers, Duration::from_millis(50))?,
            _ => cluster.round(fault)?,
        };
        commits += round.commits;
        let stages = stages(&cluster.history(cluster.epoch()?)?);
        story.good(format!("{fault}: {} -> {}, {} ms ({stages})", round.from, round.to, round.stall.as_millis()));
        stalls.entry(fault).or_default().add(round.stall);
        Ok(())
    };
    for &(fault, count, ..) in &counts {
        story.step(&format!("{count} rounds: {fault}"));
        for _ in 0..args.rounds.unwrap_or(count).min(count) {
            round(story, fault)?;
        }
    }
    story.step("Random rounds until the time is up");
    while Instant::now() < end {
        let (fault, ..) = *counts.choose(&mut random).context("no fault")?;
        round(story, fault)?;
    }
    story.step("Stalls of writes: last success before to first success after");
    let mut missed = Vec::new();
    for (fault, _, half, worst) in COUNTS {
        let Some(of) = stalls.get(&fault) else { continue };
        story.say(format!("{:<20} {of}", fault.to_string()));
        if of.percentile(50) > half || of.worst() > worst {
            missed.push(format!(
                "{fault}: p50 at most {} ms, worst at most {} ms",
                half.as_millis(),
                worst.as_millis()
            ));
        }
    }
    story.good(format!("{commits} commits that a client was told of, none lost"));
    ensure!(missed.is_empty(), "too long: {}", missed.join("; "));
    Ok(())
}

/// The stages of an operation, each with the milliseconds from its beginning.
fn stages(history: &Value) -> String {
    let stages = history["stages"].as_array().into_iter().flatten();
    let told = stages.map(|s| format!("{} {}", s["name"].as_str().unwrap_or("?"), s["at_ms"]));
    told.collect::<Vec<_>>().join(", ")
}
