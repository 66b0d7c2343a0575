//! Clients that write all the time and remember each commit that they were told of; and the judgement by what they remember.
//!
//! Promises: a commit is in the ledger if, and only if, the server said OK to it; when a connection breaks, the outcome is unknown, and the number is
//! never used again. So a number that the ledger has and a server lacks is a lost commit, and one that a server has twice was applied twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, Node};
use crate::netns::Host;
use crate::sql::{Address, Sql};
use crate::template::APP_PASSWORD;
use crate::wait::wait_for;

/// Pause between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(5);
/// How long an attempt to connect may take: what was sent to an address on its way from host to host is lost, and must cost neither a retransmission nor
/// many attempts. The kernels answer in far less than a millisecond.
const CONNECT: Duration = Duration::from_millis(20);
/// How long an answer may take before the client gives the connection up: whoever waits for ever never sees the new primary.
const ANSWER: Duration = Duration::from_millis(300);

/// A commit that a client was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The writer.
    pub writer: u32,
    /// Its number, unique with the writer's.
    pub n: u64,
    /// `server_id` of the server that said OK.
    pub server: u32,
    /// When the statement was sent.
    pub sent: Instant,
    /// When the OK came.
    pub told: Instant,
}

/// The `server_id`s that committed, one behind the other. A commit that was sent before the next server's first OK came belongs to the turn before.
pub fn turns(ledgers: &[&Ledger]) -> Vec<u32> {
    let mut all: Vec<Commit> = ledgers.iter().flat_map(|ledger| ledger.all()).collect();
    all.sort_by_key(|commit| commit.told);
    let mut turns: Vec<(u32, Instant)> = Vec::new();
    for commit in all {
        let before = turns.iter().rev().nth(1).map(|(server, _)| *server);
        match turns.last() {
            Some((server, _)) if *server == commit.server => {}
            Some((_, began)) if before == Some(commit.server) && commit.sent < *began => {}
            _ => turns.push((commit.server, commit.told)),
        }
    }
    turns.into_iter().map(|(server, _)| server).collect()
}

/// Every commit that any client was told of. Clones share it.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Book>);

#[derive(Default)]
struct Book {
    commits: Mutex<Vec<Commit>>,
    refused: AtomicU64,
    last_error: Mutex<String>,
}

/// Whom to write to.
#[derive(Debug, Clone)]
pub enum Target {
    /// An address, from a host.
    Tcp(Host, std::net::SocketAddr),
    /// A unix socket.
    Socket(std::path::PathBuf),
}

/// Writers under way; they end when this goes.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    ledger: Ledger,
}

impl Cluster {
    /// Starts `count` writers through the virtual IP, each with that pause between its commits; they note in `ledger`.
    pub fn writers(&self, ledger: &Ledger, count: u32, pause: Duration) -> Result<Writers> {
        let target = Target::Tcp(self.client().clone(), (self.vip(), 3306).into());
        Writers::start(ledger, &vec![target; count as usize], pause)
    }

    /// Starts writers that try a server directly, through its own address and its socket, whatever the virtual IP says: they must never succeed on a
    /// server that was deposed.
    pub fn intruders(&self, ledger: &Ledger, node: &Node) -> Result<Writers> {
        let targets = [Target::Tcp(self.client().clone(), node.address()), Target::Socket(node.socket().to_owned())];
        Writers::start(ledger, &targets, Duration::from_millis(10))
    }
}

impl Writers {
    /// Starts one writer for each target.
    pub fn start(ledger: &Ledger, targets: &[Target], pause: Duration) -> Result<Self> {
        static NUMBERS: AtomicU32 = AtomicU32::new(1);
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Self { stop: stop.clone(), threads: Vec::new(), ledger: ledger.clone() };
        for target in targets {
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            let (target, ledger, stop) = (target.clone(), ledger.clone(), stop.clone());
            let body = move || write(number, &target, &ledger, &stop, pause);
            writers.threads.push(thread::Builder::new().name(format!("writer-{number}")).spawn(body)?);
        }
        Ok(writers)
    }

    /// Waits for `count` further commits.
    pub fn wait_more(&self, count: usize) -> Result<()> {
        let goal = self.ledger.len() + count;
        let found = wait_for(&format!("{count} further commits"), super::SETTLED, || {
            Ok((self.ledger.len() >= goal).then_some(()))
        });
        found.with_context(|| format!("last error of a writer: {}", self.ledger.last_error()))
    }

    /// Waits for a commit on a server other than `node`.
    pub fn wait_elsewhere(&self, node: &Node) -> Result<()> {
        let began = Instant::now();
        let found = wait_for(&format!("a commit on another server than {}", node.name()), super::SETTLED, || {
            let commits = self.ledger.commits();
            let found = commits.iter().rev().take_while(|commit| commit.told >= began);
            Ok(found.into_iter().any(|commit| commit.server != node.server_id()).then_some(()))
        });
        found.with_context(|| format!("last error of a writer: {}", self.ledger.last_error()))
    }

    /// Ends them, and waits until the last answer has come.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                bail!("a writer panicked");
            }
        }
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        let _told_by_stop = self.end();
    }
}

fn write(number: u32, target: &Target, ledger: &Ledger, stop: &AtomicBool, pause: Duration) {
    let address = match target {
        Target::Tcp(host, at) => {
            if let Err(error) = host.enter() {
                return ledger.note_error(&error);
            }
            Address::Tcp(*at)
        }
        Target::Socket(path) => Address::Socket(path.clone()),
    };
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = write_on(number, &mut n, &address, ledger, stop, pause) {
            ledger.note_error(&error);
        }
        thread::sleep(RECONNECT);
    }
}

/// One connection: until it breaks, or a commit is refused.
fn write_on(
    writer: u32,
    n: &mut u64,
    address: &Address,
    ledger: &Ledger,
    stop: &AtomicBool,
    pause: Duration,
) -> Result<()> {
    let mut sql = Sql::connect_within(address, "app", APP_PASSWORD, CONNECT, ANSWER)?;
    let server = sql.query("SELECT @@server_id")?;
    let server: u32 = server.first().and_then(|row| row.first()?.as_deref()?.parse().ok()).context("no server_id")?;
    while !stop.load(Ordering::Relaxed) {
        *n += 1;
        let sent = Instant::now();
        sql.query(&format!("INSERT INTO test.ledger (writer, n, server) VALUES ({writer}, {n}, {server})"))?;
        ledger.note(Commit { writer, n: *n, server, sent, told: Instant::now() });
        thread::sleep(pause);
    }
    Ok(())
}

impl Ledger {
    /// How many commits there are.
    pub fn len(&self) -> usize {
        self.commits().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many attempts failed: refused, or with an unknown outcome.
    pub fn failures(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The last failure, in words.
    pub fn last_error(&self) -> String {
        self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All commits so far, in the order in which clients were told.
    pub fn all(&self) -> Vec<Commit> {
        let mut all = self.commits().clone();
        all.sort_by_key(|commit| commit.told);
        all
    }

    /// The longest time without a commit, among those that ended after `since`; the last one is still open if nothing came.
    pub fn stall(&self, since: Instant) -> Duration {
        let all = self.all();
        let ends = all.iter().skip(1).map(|commit| commit.told);
        let gaps = all.iter().zip(ends).filter(|(_, end)| *end >= since);
        gaps.map(|(before, end)| end - before.told).max().unwrap_or_default()
    }

    /// Checks that `node` has every commit of the ledger, each once.
    pub fn check_against(&self, node: &Node) -> Result<()> {
        let mut there: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for row in node.sql("SELECT writer, n, COUNT(*) FROM test.ledger GROUP BY writer, n")? {
            let number = |index: usize| row.get(index).cloned().flatten().and_then(|text| text.parse::<u64>().ok());
            let [writer, n, count] =
                [number(0), number(1), number(2)].map(|cell| cell.context("a row without numbers"));
            there.insert((u32::try_from(writer?)?, n?), count?);
        }
        let all = self.all();
        let lost: Vec<_> = all.iter().filter(|commit| !there.contains_key(&(commit.writer, commit.n))).collect();
        let (count, first) = (lost.len(), lost.first());
        ensure!(
            lost.is_empty(),
            "{count} of {} commits are lost on {}, the first is {first:?}",
            all.len(),
            node.name()
        );
        let twice: Vec<_> = there.iter().filter(|(_, count)| **count > 1).take(5).collect();
        ensure!(twice.is_empty(), "{} has commits twice: {twice:?}", node.name());
        Ok(())
    }

    fn note(&self, commit: Commit) {
        self.commits().push(commit);
    }

    fn note_error(&self, error: &anyhow::Error) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        *self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
    }

    fn commits(&self) -> MutexGuard<'_, Vec<Commit>> {
        self.0.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_commit_side_by_side_take_many_turns_and_a_late_answer_takes_none() {
        let zero = Instant::now();
        let ledger = Ledger::default();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut n = 0;
        let mut note = |server, sent, told| {
            n += 1;
            ledger.note(Commit { writer: 1, n, server, sent: at(sent), told: at(told) });
        };
        note(1, 0, 10);
        note(2, 20, 30);
        note(1, 5, 35);
        note(2, 40, 50);
        assert_eq!(turns(&[&ledger]), [1, 2]);
        assert_eq!(ledger.stall(at(25)), Duration::from_millis(20));
        note(1, 55, 60);
        note(2, 65, 70);
        assert_eq!(turns(&[&ledger]), [1, 2, 1, 2]);
    }
}
