//! Rounds: load, a fault that takes the primary away, the new one, the old one's return, and the judgement. Shared by tests, soak and demo.
//!
//! Promises: a round ends with the cluster as it began, but for the primary; what it measures is told and never judged here.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Cluster, Ledger, Node};

/// How many writers go through the virtual IP in a round, and their pause between commits.
const WRITERS: (u32, Duration) = (4, Duration::from_millis(2));
/// Commits before and after a fault.
const COMMITS: usize = 50;

/// What takes the primary away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of the server.
    Killed,
    /// SIGSTOP of the server; thawed after the promotion.
    Frozen,
    /// SIGSTOP of everything on its host; thawed after the promotion.
    HostFrozen,
    /// Its host is cut off from everybody; reconnected after the promotion.
    CutOff,
    /// The cable of its host is pulled; plugged in after the promotion.
    Unplugged,
    /// Its host loses its power; everything on it is started again after the promotion.
    Crashed,
    /// Nothing happens to it: somebody asks for another primary.
    Switchover,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "server killed",
            Self::Frozen => "server frozen",
            Self::HostFrozen => "host frozen",
            Self::CutOff => "host cut off",
            Self::Unplugged => "host unplugged",
            Self::Crashed => "host without power",
            Self::Switchover => "switchover",
        })
    }
}

impl Fault {
    /// Does it to a primary.
    pub fn inject(self, cluster: &Cluster, node: &Node) -> Result<()> {
        match self {
            Self::Killed => node.kill_server(),
            Self::Frozen => node.freeze_server(),
            Self::HostFrozen => node.host().freeze(),
            Self::CutOff => node.host().isolate(),
            Self::Unplugged => node.host().unplug(),
            Self::Crashed => node.crash(),
            Self::Switchover => {
                let ended = cluster.ctl(&["switchover", "--timeout", "60s"])?;
                ensure!(ended.code == 0, "batonctl switchover ended with {ended}");
                Ok(())
            }
        }
    }

    /// Ends it.
    pub fn end(self, node: &Node) -> Result<()> {
        match self {
            Self::Killed | Self::Switchover => Ok(()),
            Self::Frozen => {
                node.thaw_server();
                Ok(())
            }
            Self::HostFrozen => {
                node.host().thaw();
                Ok(())
            }
            Self::CutOff => node.host().rejoin(),
            Self::Unplugged => node.host().plug(),
            Self::Crashed => node.agent().start(),
        }
    }
}

/// How a round went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Who was the primary, and who is now.
    pub from: String,
    /// Who is.
    pub to: String,
    /// Last success before to first success after.
    pub stall: Duration,
    /// Commits that clients were told of.
    pub commits: usize,
}

impl Cluster {
    /// One round of `fault` with four writers, while two intruders try the old primary through its own address and socket all the time.
    pub fn round(&self, fault: Fault) -> Result<Round> {
        self.round_with(fault, WRITERS.0, WRITERS.1)
    }

    /// As [`Cluster::round`], with that many writers, each with that pause between its commits.
    pub fn round_with(&self, fault: Fault, writers: u32, pause: Duration) -> Result<Round> {
        let old = self.wait_settled()?.clone();
        self.act_round(fault, &old, writers, pause).with_context(|| format!("{fault} ({})", old.name()))
    }

    fn act_round(&self, fault: Fault, old: &Node, writers: u32, pause: Duration) -> Result<Round> {
        let (ledger, intruded) = (Ledger::default(), Ledger::default());
        let load = self.writers(&ledger, writers, pause)?;
        load.wait_more(COMMITS)?;
        let intruders = self.intruders(&intruded, old)?;
        let began = Instant::now();
        fault.inject(self, old)?;
        load.wait_elsewhere(old).with_context(|| self.told())?;
        let new = self.wait_primary_other_than(old)?.clone();
        load.wait_more(COMMITS)?;
        fault.end(old)?;
        self.wait_settled()?;
        load.wait_more(COMMITS)?;
        load.stop()?;
        intruders.stop()?;
        self.check(&[&ledger, &intruded])?;
        let stall = ledger.stall(began);
        Ok(Round {
            from: old.name().to_owned(),
            to: new.name().to_owned(),
            stall,
            commits: ledger.len() + intruded.len(),
        })
    }
}

/// Stalls, to be judged.
#[derive(Debug, Clone, Default)]
pub struct Stalls(Vec<Duration>);

impl Stalls {
    /// Adds one.
    pub fn add(&mut self, stall: Duration) {
        self.0.push(stall);
        self.0.sort();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one that `percent` of them do not exceed; zero if there are none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// The longest.
    pub fn worst(&self) -> Duration {
        self.percentile(100)
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_millis();
        let (p50, p90, worst) = (ms(self.percentile(50)), ms(self.percentile(90)), ms(self.worst()));
        write!(f, "{:>3} rounds, stall p50 {p50} ms, p90 {p90} ms, worst {worst} ms", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut stalls = Stalls::default();
        assert_eq!(stalls.worst(), Duration::ZERO);
        for ms in [30, 10, 20, 40] {
            stalls.add(Duration::from_millis(ms));
        }
        assert_eq!(stalls.percentile(50), Duration::from_millis(20));
        assert_eq!(stalls.percentile(90), Duration::from_millis(40));
        assert_eq!(stalls.worst(), Duration::from_millis(40));
    }
}
