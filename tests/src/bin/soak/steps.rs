//! Changes of primary, struck behind each of their steps: the leader killed, its lease ended, cut off from etcd; the candidate killed.

use anyhow::Result;
use baton_testbed::cluster::{Cause, Strike};
use baton_testbed::{Bed, Story};

const STRIKES: [Strike; 4] = [Strike::LeaderKilled, Strike::LeaseEnds, Strike::LeaderCutOff, Strike::CandidateKilled];

/// All of them, on one cluster. An error at the first lost commit, and where no single primary comes of it.
pub(super) fn run(bed: &Bed, story: &mut Story) -> Result<()> {
    story.step("Start a cluster: three servers, a relay, two controllers, etcd on a host of its own");
    let cluster = bed.cluster().nodes(3).controllers(2).etcd_apart().start()?;
    let (mut strikes, mut commits) = (0, 0);
    for cause in [Cause::Death, Cause::Request] {
        for strike in STRIKES {
            story.step(&format!(
                "{strike}, behind each step that follows a {}",
                match cause {
                    Cause::Death => "death of the primary",
                    Cause::Request => "request for another",
                }
            ));
            let mut nth = 1;
            while let Some(struck) = cluster.struck(cause, strike, nth)? {
                story.good(format!("step {nth}: {struck}"));
                commits += struck.commits;
                strikes += 1;
                nth += 1;
            }
        }
    }
    story.good(format!("{strikes} strikes, {commits} commits that a client was told of, none lost"));
    Ok(())
}
