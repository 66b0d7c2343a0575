//! Failover in full counts: every fault that takes the primary away, round after round on one cluster, with the stalls that clients saw; and the
//! judgement of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use baton_testbed::cluster::{Fault, Stalls};
use baton_testbed::{Bed, Story};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

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
pub(super) fn run(bed: &Bed, story: &mut Story, minutes: u64, seed: u64, only: Option<u32>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut random = StdRng::seed_from_u64(seed);
    let mut stalls: BTreeMap<Fault, Stalls> = BTreeMap::new();
    story.step("Start a cluster: three servers, two relays, three controllers");
    let cluster = bed.cluster().nodes(3).relays(2).three_controllers().start()?;
    let mut commits = 0;
    let mut round = |story: &Story, fault: Fault| -> Result<()> {
        // Switchovers are judged under many writers, as the guarantee says.
        let round = match fault {
            Fault::Switchover => cluster.round_with(fault, 64, Duration::from_millis(50))?,
            _ => cluster.round(fault)?,
        };
        commits += round.commits;
        story.good(format!("{fault}: {} -> {}, {} ms", round.from, round.to, round.stall.as_millis()));
        stalls.entry(fault).or_default().add(round.stall);
        Ok(())
    };
    for (fault, count, _, _) in COUNTS {
        story.step(&format!("{count} rounds: {fault}"));
        for _ in 0..only.unwrap_or(count).min(count) {
            round(story, fault)?;
        }
    }
    story.step("Random rounds until the time is up");
    while Instant::now() < end {
        let (fault, ..) = COUNTS.choose(&mut random).copied().unwrap_or(COUNTS[0]);
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
