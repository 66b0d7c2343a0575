//! The relay killed, and its disk failing, at every operation of log and acknowledgement in turn.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::failpoints::{Site, actions, draw};
use baton_testbed::{Bed, Story};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// All of them once, then over and over until the time is up.
pub(super) fn run(bed: &Bed, story: &mut Story, minutes: u64, seed: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut random = StdRng::seed_from_u64(seed);
    let mut site = Site::start(bed, relay()?)?;
    let points = site.points()?;
    let mut pairs: Vec<_> =
        points.iter().flat_map(|p| actions(p.0).into_iter().map(move |action| (p, action))).collect();
    story.step(&format!("{} operations, {} things to happen", points.len(), pairs.len()));
    let mut passes = 0;
    while passes == 0 || Instant::now() < end {
        pairs.shuffle(&mut random);
        for (number, (point, action)) in pairs.iter().enumerate() {
            if passes > 0 && Instant::now() >= end {
                break;
            }
            let strike = draw(&mut random, *point, action);
            site.strike(&strike).with_context(|| format!("{strike:?}, the {}th of pass {passes}", number + 1))?;
        }
        passes += 1;
        story.good(format!("pass {passes}: {} commits confirmed, none lost", site.confirmed()));
    }
    site.stop()
}

/// A relay that has failpoints: builds with debug assertions only.
fn relay() -> Result<Option<PathBuf>> {
    if cfg!(debug_assertions) {
        return Ok(None);
    }
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(2).context("the running program has no directory above its own")?;
    let relay = target.join("debug/baton-relay");
    ensure!(relay.is_file(), "no {}: cargo build -p baton-relay makes it", relay.display());
    Ok(Some(relay))
}
