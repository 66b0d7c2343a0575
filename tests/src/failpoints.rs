//! A relay that dies, or whose disk fails, at one chosen operation of log and acknowledgement; and what must hold all the same: whatever the primary
//! completed lies on the relay's disk. Only relays that were built with debug assertions have such points.
//!
//! One relay acknowledges, and nobody else. A primary whose commits wait for it (`AFTER_SYNC`) completes them in the order of its binlog, so the rows that
//! can be seen there are the acknowledged ones: a beginning of the log.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rand::Rng;
use serde_json::json;

use crate::dir::Bed;
use crate::mariadb::MariaDb;
use crate::proxy::Proxy;
use crate::relay::RelayProc;
use crate::rows::RowWriter;
use crate::wait::{DEADLINE, wait_until};
use crate::{compare, procs};

/// The bearer token of the relay.
pub const TOKEN: &str = "a-token-for-tests";
/// What the relay writes to its trace when the chosen operation has come.
const STRUCK: &str = "struck";
/// More than the relay keeps, in one row.
const LARGE: usize = 1_500_000;
/// Files that are compared with the primary's after each round: the newest ones.
const COMPARED: usize = 4;

/// When in its life a relay meets an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// While it begins a new log.
    Fresh,
    /// At any later start, or under load.
    Life,
    /// While it stops.
    Stop,
}

/// What happens at the operation, in the words that the relay understands.
pub const KILL: &str = "kill";
/// SIGKILL behind half of a write.
pub const HALF: &str = "half";
/// It fails once.
pub const EIO: &str = "eio";

/// One thing to happen.
#[derive(Debug, Clone)]
pub struct Strike {
    /// The operation.
    pub point: String,
    /// When it is met.
    pub when: When,
    /// How many of them pass before, and this one.
    pub nth: u64,
    /// What happens.
    pub action: &'static str,
}

/// Operations by name: when they are met, and how often at least.
pub type Points = BTreeMap<String, (When, u64)>;

/// A primary that waits for acknowledgements, a network between, a relay, and somebody who commits.
pub struct Site {
    bed: Bed,
    /// Another build of the relay than the one beside the running program.
    binary: Option<PathBuf>,
    /// The primary.
    pub primary: MariaDb,
    network: Proxy,
    writer: RowWriter,
    /// The only one who acknowledges.
    pub relay: RelayProc,
    relays: u32,
    /// Transactions that are no rows of the writer's.
    others: u64,
}

impl Site {
    /// Starts all of it; commits wait for the relay from here on.
    pub fn start(bed: &Bed, binary: Option<PathBuf>) -> Result<Self> {
        let primary = bed.mariadb("struck-primary").server_id(700).durable(true);
        // Small files, so that files end and begin all the time.
        let primary = ["--max-binlog-size=16K", "--rpl-semi-sync-master-timeout=4294967295"]
            .into_iter()
            .fold(primary, |primary, option| primary.option(option))
            .option("--rpl-semi-sync-master-wait-point=AFTER_SYNC")
            .start()?;
        let network = Proxy::start(primary.address())?;
        primary.sql("CREATE TABLE test.large (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
        let before = sequence(&primary.gtid_binlog_pos()?);
        let writer = RowWriter::start(&primary, "load", 4, Duration::ZERO)?;
        fs::write(bed.path("token"), TOKEN)?;
        let relay = relay(bed, "struck-1", network.port(), binary.as_ref())?;
        let site = Self { bed: bed.clone(), binary, primary, network, writer, relay, relays: 1, others: before + 1 };
        site.plan("")?;
        site.relay.restart()?;
        site.acknowledges()?;
        site.primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=ON")?;
        site.commits_go_on()?;
        Ok(site)
    }

    /// What is to happen in the relay's next life.
    pub fn plan(&self, text: &str) -> Result<()> {
        fs::write(self.path("trace"), "")?;
        Ok(fs::write(self.path("plan"), text)?)
    }

    fn path(&self, what: &str) -> PathBuf {
        self.bed.path(format!("{}.{what}", self.relay.name()))
    }

    /// The relay says that it acknowledges.
    pub fn acknowledges(&self) -> Result<()> {
        let state = || Ok(self.relay.status().map(|status| status["upstream"]["acking"].clone()).unwrap_or_default());
        wait_until("the relay to acknowledge", state, |acking| *acking == json!(true)).map(drop)
    }

    /// Commits return.
    pub fn commits_go_on(&self) -> Result<()> {
        let goal = self.writer.confirmed() + 20;
        wait_until("commits to return", || Ok(self.writer.confirmed()), |n| *n >= goal).map(drop)
    }

    /// The primary has begun two files more.
    fn files_end(&self) -> Result<()> {
        let newest = || Ok(self.primary.binlogs()?.last().cloned().unwrap_or_default());
        for _ in 0..2 {
            let before = newest()?;
            wait_until("the primary to begin a file", newest, |now| *now != before)?;
        }
        Ok(())
    }

    /// Begins a transaction of more than the relay keeps: retention has something to remove. It returns once it is acknowledged, perhaps by a later life.
    fn large(&self) -> JoinHandle<Result<()>> {
        let primary = self.primary.clone();
        thread::spawn(move || {
            primary.sql(&format!("INSERT INTO test.large (filler) VALUES (REPEAT('x', {LARGE}))")).map(drop)
        })
    }

    fn large_is_done(&mut self, large: JoinHandle<Result<()>>) -> Result<()> {
        large.join().map_err(|_| anyhow!("the writer of a large row panicked"))?.context("a large row")?;
        self.others += 1;
        Ok(())
    }

    /// A relay that has nothing yet takes the place of the present one.
    fn renew(&mut self) -> Result<()> {
        self.relays += 1;
        self.relay = relay(&self.bed, &format!("struck-{}", self.relays), self.network.port(), self.binary.as_ref())?;
        Ok(())
    }

    fn trace(&self) -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        for line in fs::read_to_string(self.path("trace"))?.lines() {
            if let Some((point, n)) = line.split_once(' ') {
                counts.insert(point.to_owned(), n.parse()?);
            }
        }
        Ok(counts)
    }

    /// All operations that a relay meets: while it begins a log, lives, and stops.
    pub fn points(&mut self) -> Result<Points> {
        ensure!(self.relay.term()?.success(), "the relay did not stop cleanly");
        self.renew()?;
        self.plan("")?;
        self.relay.restart()?;
        self.acknowledges()?;
        self.files_end()?;
        let fresh = self.trace()?;
        ensure!(self.relay.term()?.success(), "the relay did not stop cleanly");
        self.plan("")?;
        self.relay.restart()?;
        let large = self.large();
        self.large_is_done(large)?;
        self.files_end()?;
        let life = self.trace()?;
        ensure!(self.relay.term()?.success(), "the relay did not stop cleanly");
        let stop = self.trace()?;
        let mut points = Points::new();
        for (when, counts) in [(When::Life, life), (When::Stop, stop), (When::Fresh, fresh)] {
            for (point, n) in counts {
                points.entry(point).or_insert((when, n));
            }
        }
        for expected in
            ["write-binlog", "sync-binlog", "write-mark", "rename-meta.json", "sync-directory", "send-ack", "sent-ack"]
        {
            ensure!(points.contains_key(expected), "{expected} is not among {points:?}");
        }
        self.relay.restart()?;
        self.commits_go_on()?;
        Ok(points)
    }

    /// Lets it happen, and checks that nothing acknowledged is lost, and that the relay goes on.
    pub fn strike(&mut self, strike: &Strike) -> Result<()> {
        self.relay.term()?;
        if strike.when == When::Fresh {
            self.renew()?;
        }
        let before = self.settled()?;
        self.plan(&format!("{}@{}={}", strike.point, strike.nth, strike.action))?;
        self.relay.spawn()?;
        let large = strike.point.starts_with("remove-").then(|| self.large());
        if strike.when == When::Stop {
            self.commits_go_on()?;
            self.relay.term().ok();
        }
        let proc = self.relay.proc()?;
        let struck = || Ok(fs::read_to_string(self.path("trace"))?.lines().any(|line| line == STRUCK));
        wait_until("the operation", struck, |struck| *struck).context("it never came")?;
        if strike.action == EIO {
            self.outlives()?;
        } else {
            let status = proc.wait_exit(DEADLINE).context("the relay did not die")?;
            ensure!(!status.success(), "it ended with {status}");
        }
        self.check(before)?;
        large.map_or(Ok(()), |large| self.large_is_done(large))
    }

    /// A relay of which one operation failed goes on, unless it was starting or stopping: then it says why not.
    fn outlives(&self) -> Result<()> {
        let proc = self.relay.proc()?;
        let (from, mut ended) = (self.writer.confirmed(), None);
        wait_until(
            "the relay to go on or to refuse",
            || {
                ended = proc.exit();
                Ok(ended.is_some() || self.writer.confirmed() >= from + 20)
            },
            |done| *done,
        )?;
        if let Some(status) = ended {
            let log = procs::tail(proc.log(), 20);
            ensure!(status.code().is_some(), "it ended with {status}:\n{log}");
            ensure!(status.success() || log.contains("os error 5"), "it ended with {status} without a reason:\n{log}");
        }
        Ok(())
    }

    /// Rows that can be seen on the primary: those whose commits were acknowledged.
    fn completed(&self) -> Result<u64> {
        Ok(self.primary.value("SELECT COUNT(*) FROM test.load")?.parse()?)
    }

    /// As [`Site::completed`], once what was acknowledged before has been completed: nobody acknowledges any more.
    fn settled(&self) -> Result<u64> {
        let (mut last, mut same) = (0, 0);
        let rows = || {
            let now = self.completed()?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
            Ok((now, same))
        };
        Ok(wait_until("commits to stand still", rows, |(_, same)| *same >= 10)?.0)
    }

    /// What the relay finds on its disk, alone, is the beginning of what the primary wrote and holds all that it completed. Then both go on. `before`: what others
    /// may have acknowledged, which binds a relay only once it has acknowledged something itself.
    pub fn check(&self, before: u64) -> Result<()> {
        self.network.refuse(true);
        self.network.cut_now();
        self.relay.kill9()?;
        self.plan("")?;
        self.relay.spawn()?;
        self.relay.wait_ready()?;
        let completed = self.completed()?;
        let head = self.relay.head_gtid()?;
        if completed > before && sequence(&head) < completed + self.others {
            let gtid = self.primary.gtid_binlog_pos()?;
            bail!(
                "the primary (at {gtid}) completed {completed} rows and {} others, the relay's log ends at {head:?}",
                self.others
            );
        }
        let files = self.relay.log_files()?;
        for file in files.iter().rev().take(COMPARED) {
            let name = file.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
            let end = usize::try_from(fs::metadata(file)?.len())?;
            compare::cmp_prefix(&self.primary.binlog_path(name), file, end, &[21])?;
        }
        self.network.refuse(false);
        self.commits_go_on()
    }

    /// The disk becomes one that can't be changed at its `nth` change, until this is called with `None`.
    pub fn read_only(&self, nth: Option<u64>) -> Result<()> {
        match nth {
            Some(nth) => self.plan(&format!("any@{nth}=erofs")),
            None => Ok(fs::remove_file(self.path("plan"))?),
        }
    }

    /// Rows whose commit a client saw succeed.
    pub fn confirmed(&self) -> u64 {
        self.writer.confirmed()
    }

    /// Whether a position holds all that was completed.
    pub fn holds_all(&self, gtid: &str) -> Result<()> {
        let completed = self.completed()?;
        ensure!(sequence(gtid) >= completed + self.others, "{completed} rows were completed, {gtid} is the end");
        Ok(())
    }

    /// Nobody waits for acknowledgements any more; the end.
    pub fn stop(self) -> Result<()> {
        self.primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
        self.writer.stop().map(drop)
    }
}

/// Something to happen at a point: which of its operations, and what, is drawn.
pub fn draw(random: &mut impl Rng, (point, (when, seen)): (&String, &(When, u64)), action: &'static str) -> Strike {
    let nth = random.random_range(1..=(*seen).min(32));
    Strike { point: point.clone(), when: *when, nth, action }
}

/// What can happen at a point. Nothing fails where a relay sends; what it sent may be lost all the same, as after a death.
pub fn actions(point: &str) -> Vec<&'static str> {
    let mut actions = vec![KILL];
    if point.starts_with("write-") {
        actions.push(HALF);
    }
    actions.push(EIO);
    actions
}

fn relay(bed: &Bed, name: &str, upstream: u16, binary: Option<&PathBuf>) -> Result<RelayProc> {
    let path = |what: &str| bed.path(format!("{name}.{what}")).display().to_string();
    let token = format!("{:?}", bed.path("token").display().to_string());
    let relay = bed.relay(name).server_id(9700).upstream_ports(&[upstream]).ack("durable");
    let relay = relay.set("listen", "token_file", &token).set("log", "retain_bytes", "\"1MiB\"");
    let relay = relay.env("BATON_FAILPOINT", &path("plan")).env("BATON_FAILPOINT_TRACE", &path("trace"));
    match binary {
        Some(binary) => relay.binary(binary).prepare(),
        None => relay.prepare(),
    }
}

/// The number in a position of one domain; 0 of an empty one.
fn sequence(gtid: &str) -> u64 {
    gtid.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}
