//! Strikes between two steps of a change of primary. Where the leader stands is read in its own log, line by line as it comes: each step that it begins,
//! that has ended, and each change of the state.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::wait::wait_until;

use super::{Cluster, Daemon, Ledger, Node, SETTLED};

/// What a leader's line says where it has begun or ended a step.
const STEPS: [&str; 4] = ["orders the node", "asks the relay to promise", "done step=", "the state is changed"];
/// The first one of an operation, and what stands behind the last.
const BEGINS: &str = "phase=Fencing";
const ENDS: &str = "the operation has ended";
/// Between two looks at the log: an order takes a few milliseconds.
const LOOK: Duration = Duration::from_micros(300);
/// No operation has more steps.
const MOST_STEPS: usize = 40;

/// Why another server is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The primary's server is killed.
    Death,
    /// Somebody asks for a switchover.
    Request,
}

/// What happens in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// SIGKILL of the leader.
    LeaderKilled,
    /// The leader's lease ends.
    LeaseEnds,
    /// The leader and etcd do not reach each other any more; it still reaches everybody else.
    LeaderCutOff,
    /// SIGKILL of the server that is to be promoted, as soon as there is one.
    CandidateKilled,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaderKilled => "leader killed",
            Self::LeaseEnds => "lease ended",
            Self::LeaderCutOff => "leader cut off from etcd",
            Self::CandidateKilled => "candidate killed",
        })
    }
}

/// How a struck operation went.
#[derive(Debug, Clone)]
pub struct Struck {
    /// The leader's line behind which the strike came.
    pub behind: String,
    /// Who served before, and who serves.
    pub from: String,
    /// See `from`.
    pub to: String,
    /// Last success before to first success after.
    pub stall: Duration,
    /// Commits that clients were told of.
    pub commits: usize,
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}, {} ms; behind {}", self.from, self.to, self.stall.as_millis(), self.behind)
    }
}

impl Cluster {
    /// A change of primary whose leader is struck behind its `nth` step, counted from 1, under load; intruders try the server that was struck or replaced all
    /// the while. Ends with the cluster settled and every commit there. None if the operation had fewer steps.
    pub fn struck(&self, cause: Cause, strike: Strike, nth: usize) -> Result<Option<Struck>> {
        let struck = self.strike(cause, strike, nth);
        struck.with_context(|| format!("{strike} behind step {nth}, {cause:?} of the primary; {}", self.told()))
    }

    fn strike(&self, cause: Cause, strike: Strike, nth: usize) -> Result<Option<Struck>> {
        let old = self.wait_settled()?.clone();
        self.wait_controllers_agree()?;
        let (ledger, intruded) = (Ledger::default(), Ledger::default());
        let writers = self.writers(&ledger, 4, Duration::from_millis(2))?;
        writers.wait_more(50)?;
        let (leader, mut lines) = (self.leader()?.clone(), Lines::of(self.leader()?)?);
        let mut intruders = vec![self.intruders(&intruded, &old)?];
        let began = Instant::now();
        let asked = match cause {
            Cause::Death => old.kill_server().map(|()| None)?,
            Cause::Request => Some(self.ctl_in_background(&["switchover", "--timeout", "60"])?),
        };
        let (behind, asked) = match (lines.nth_step(nth), asked) {
            (Err(error), Some(asked)) if asked.is_finished() => {
                let ended = asked.join().map_err(|_| anyhow!("asking for a switchover panicked"))??;
                return Err(error.context(format!("asked for a switchover: {ended}")));
            }
            (found, asked) => (found?, asked),
        };
        let there_was = behind.is_some();
        if there_was {
            let candidate = self.act(strike, &leader)?;
            intruders.extend(candidate.map(|node| self.intruders(&intruded, &node)).transpose()?);
        }
        match cause {
            Cause::Death => writers.wait_elsewhere(&old)?,
            Cause::Request => writers.wait_more(50)?,
        }
        self.wait_settled()?;
        self.net().mend_all()?;
        leader.restart()?;
        if let Some(asked) = asked {
            let _whatever_it_was_told = asked.join();
        }
        let to = self.wait_settled()?.name().to_owned();
        writers.wait_more(50)?;
        writers.stop()?;
        intruders.into_iter().try_for_each(|intruders| intruders.stop())?;
        self.check(&[&ledger, &intruded])?;
        ensure!(there_was || nth <= MOST_STEPS, "an operation has more than {MOST_STEPS} steps");
        let (stall, commits) = (ledger.stall(began), ledger.len() + intruded.len());
        Ok(behind.map(|behind| Struck { behind, from: old.name().to_owned(), to, stall, commits }))
    }

    /// Waits until every controller knows who leads: one that was cut off a moment ago can't be asked for anything yet.
    fn wait_controllers_agree(&self) -> Result<()> {
        let named = || {
            let leader = self.leader()?.name().to_owned();
            let said =
                self.controllers().iter().map(|c| Ok(c.json("/v1/cluster")?["leader"]["name"] == leader.as_str()));
            said.collect::<Result<Vec<_>>>()
        };
        wait_until("all controllers to know who leads", named, |said| said.iter().all(|agrees| *agrees)).map(drop)
    }

    /// Strikes; gives the candidate if it is that which was struck.
    fn act(&self, strike: Strike, leader: &Daemon) -> Result<Option<Node>> {
        match strike {
            Strike::LeaderKilled => leader.kill9()?,
            Strike::LeaseEnds => self.etcd().end_lease_of(&self.key("leader"))?,
            Strike::LeaderCutOff => self.etcd().hosts().try_for_each(|host| self.net().cut(leader.host(), host))?,
            Strike::CandidateKilled => {
                let state = self.state()?;
                let Some(name) = state["candidate"].as_str().or(state["primary"].as_str()) else { return Ok(None) };
                let candidate = self.node(name)?.clone();
                // It may be dead already: the primary of a switchover that was asked for just now.
                let _gone = candidate.kill_server();
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }
}

/// The lines that a program adds to its log.
struct Lines {
    file: File,
    rest: Vec<u8>,
}

impl Lines {
    /// Those that come from now on.
    fn of(daemon: &Daemon) -> Result<Self> {
        let mut file = File::open(daemon.log_file())?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, rest: Vec::new() })
    }

    /// The `nth` step of the operation that begins now; none if it ends before.
    fn nth_step(&mut self, nth: usize) -> Result<Option<String>> {
        let (end, mut count) = (Instant::now() + SETTLED, 0);
        loop {
            while let Some(line) = self.next()? {
                if line.contains(ENDS) {
                    return Ok(None);
                }
                let step = STEPS.iter().any(|step| line.contains(step));
                count += usize::from(step && (count > 0 || line.contains(BEGINS)));
                if count == nth {
                    return Ok(Some(line));
                }
            }
            if Instant::now() > end {
                bail!("the leader's log shows {count} steps of an operation, waited for {nth}");
            }
            sleep(LOOK);
        }
    }

    /// The next line, if it is there, without its time.
    fn next(&mut self) -> Result<Option<String>> {
        let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') else {
            self.file.read_to_end(&mut self.rest)?;
            if !self.rest.contains(&b'\n') {
                return Ok(None);
            }
            return self.next();
        };
        let line: Vec<u8> = self.rest.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        Ok(Some(line.split_once(" INFO ").map_or(line.clone(), |(_, said)| said.to_owned())))
    }
}
