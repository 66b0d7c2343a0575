//! What the modules share.

use std::time::Duration;

use anyhow::{Context, Result};
use baton_testbed::cluster::{Cluster, Fault, Ledger, Writers};

/// Some rounds of a fault on one cluster; their stalls are printed, and never judged here.
pub(crate) fn rounds(cluster: &Cluster, fault: Fault, count: u32) -> Result<()> {
    for number in 1..=count {
        let round = cluster.round(fault).with_context(|| format!("round {number}"))?;
        let (from, to, ms) = (&round.from, &round.to, round.stall.as_millis());
        println!("{fault}: {from} -> {to}, stall {ms} ms, {} commits", round.commits);
    }
    Ok(())
}

/// Four writers through the virtual IP, which have begun.
pub(crate) fn load(cluster: &Cluster, ledger: &Ledger) -> Result<Writers> {
    let writers = cluster.writers(ledger, 4, Duration::from_millis(2))?;
    writers.wait_more(50)?;
    Ok(writers)
}

/// Lets writers go on for a while that a fault has to act in: until `count` further commits have come. For faults that must change nothing.
pub(crate) fn goes_on(writers: &Writers, count: usize) -> Result<()> {
    writers.wait_more(count)
}
