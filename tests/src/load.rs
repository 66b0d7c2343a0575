//! Load from sysbench: prepares tables, runs a workload in the background, reads its report.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::mariadb::MariaDb;
use crate::procs::{self, Cmd, Proc};
use crate::template;

/// How long preparing may take.
const PREPARE: Duration = Duration::from_secs(600);
/// How much longer than asked for a run may take.
const OVERRUN: Duration = Duration::from_secs(120);
/// The database that sysbench works in.
pub const DATABASE: &str = "sbtest";

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Reads and writes: `oltp_read_write`.
    ReadWrite,
    /// Writes in transactions of four statements: `oltp_write_only`.
    WriteOnly,
    /// Single inserts: `oltp_insert`.
    Insert,
    /// Single updates of an indexed column: `oltp_update_index`.
    UpdateIndex,
}

impl Workload {
    /// The name of sysbench's script.
    pub fn script(self) -> &'static str {
        match self {
            Self::ReadWrite => "oltp_read_write",
            Self::WriteOnly => "oltp_write_only",
            Self::Insert => "oltp_insert",
            Self::UpdateIndex => "oltp_update_index",
        }
    }
}

/// Sysbench against one server.
#[must_use]
#[derive(Clone)]
pub struct Sysbench {
    db: MariaDb,
    tables: u32,
    table_size: u32,
    threads: u32,
    rate: Option<u32>,
    seed: Option<u32>,
    extra: Vec<String>,
}

impl Sysbench {
    /// Four tables of 1,000 rows and four client threads, unlimited rate.
    pub fn new(db: &MariaDb) -> Self {
        Self { db: db.clone(), tables: 4, table_size: 1000, threads: 4, rate: None, seed: None, extra: Vec::new() }
    }

    /// Number of tables.
    pub fn tables(mut self, count: u32) -> Self {
        self.tables = count;
        self
    }

    /// Rows in each table.
    pub fn table_size(mut self, rows: u32) -> Self {
        self.table_size = rows;
        self
    }

    /// Client threads.
    pub fn threads(mut self, count: u32) -> Self {
        self.threads = count;
        self
    }

    /// Transactions a second, at most.
    pub fn rate(mut self, per_second: u32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// Seed of its random numbers.
    pub fn seed(mut self, seed: u32) -> Self {
        self.seed = Some(seed);
        self
    }

    /// A further option, such as `--mysql-ignore-errors=all`.
    pub fn option(mut self, option: &str) -> Self {
        self.extra.push(option.to_owned());
        self
    }

    /// Creates and fills the tables, unless they are there.
    pub fn prepare(&self) -> Result<()> {
        let there = format!(
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema='{DATABASE}' AND table_name LIKE 'sbtest%'"
        );
        if self.db.value(&there)? == self.tables.to_string() {
            return Ok(());
        }
        self.run_command("prepare")
    }

    /// Drops the tables.
    pub fn cleanup(&self) -> Result<()> {
        self.run_command("cleanup")
    }

    /// Starts a workload of a given length (whole seconds, at least one).
    pub fn start(&self, workload: Workload, length: Duration) -> Result<Running> {
        let seconds = length.as_secs().max(1);
        let mut cmd =
            self.command(workload)?.args([format!("--time={seconds}"), format!("--threads={}", self.threads)]);
        cmd = cmd.args(["--events=0", "--report-interval=1"]);
        cmd = cmd.args(self.rate.map(|rate| format!("--rate={rate}")));
        let out = self.stem("run").with_extension("out");
        let proc = cmd.arg("run").spawn(&self.db.bed().log(&format!("sysbench-{}", self.db.name())), Some(&out))?;
        Ok(Running { proc, out, limit: length + OVERRUN })
    }

    /// Runs a workload to its end.
    pub fn run(&self, workload: Workload, length: Duration) -> Result<Report> {
        self.start(workload, length)?.wait()
    }

    fn run_command(&self, command: &str) -> Result<()> {
        let threads = format!("--threads={}", self.tables.min(4));
        self.command(Workload::ReadWrite)?.args([&threads, command]).run(&self.stem(command), PREPARE)?;
        Ok(())
    }

    fn command(&self, workload: Workload) -> Result<Cmd> {
        let mut cmd = Cmd::new(template::program("sysbench")?).arg(workload.script());
        cmd = cmd.args(["--db-driver=mysql", "--mysql-user=root", &format!("--mysql-db={DATABASE}")]);
        cmd = cmd.arg(format!("--mysql-socket={}", self.db.socket().display()));
        cmd = cmd.args([format!("--tables={}", self.tables), format!("--table-size={}", self.table_size)]);
        cmd = cmd.args(self.seed.map(|seed| format!("--rand-seed={seed}")));
        Ok(cmd.args(&self.extra))
    }

    fn stem(&self, command: &str) -> PathBuf {
        self.db.bed().path("logs").join(format!("sysbench-{}-{command}", self.db.name()))
    }
}

/// A workload under way.
pub struct Running {
    proc: Proc,
    out: PathBuf,
    limit: Duration,
}

impl Running {
    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.proc.is_running()
    }

    /// Transactions in the latest whole second.
    pub fn transactions_per_second(&self) -> Option<f64> {
        let text = fs::read_to_string(&self.out).ok()?;
        text.lines().rev().find_map(|line| line.split_once("tps:")?.1.split_whitespace().next()?.parse().ok())
    }

    /// Waits for its end and reads the report.
    pub fn wait(self) -> Result<Report> {
        let Some(status) = self.proc.wait_exit(self.limit) else {
            bail!("sysbench did not end within {} s", self.limit.as_secs())
        };
        let text = fs::read_to_string(&self.out)?;
        if !status.success() {
            bail!("sysbench ended with {status}:\n{}{}", procs::tail(self.proc.log(), 15), procs::tail(&self.out, 15));
        }
        Report::parse(&text).with_context(|| format!("can't read sysbench's report:\n{text}"))
    }

    /// Ends it at once, without a report.
    pub fn kill(self) {
        self.proc.kill9();
    }
}

/// What sysbench measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Transactions committed.
    pub transactions: u64,
    /// Transactions a second.
    pub per_second: f64,
    /// Statements.
    pub queries: u64,
    /// Errors that were ignored and retried (deadlocks).
    pub errors: u64,
    /// Connections made anew.
    pub reconnects: u64,
    /// Mean latency of a transaction in milliseconds.
    pub mean_ms: f64,
    /// 95th percentile of the latency in milliseconds.
    pub p95_ms: f64,
    /// Greatest latency in milliseconds.
    pub max_ms: f64,
}

impl Report {
    /// Reads sysbench 1.0's text.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |key: &str| {
            let rest = text.lines().find_map(|line| line.trim().strip_prefix(key))?;
            rest.split_whitespace().next().map(str::to_owned)
        };
        let count = |key: &str| field(key)?.parse::<u64>().ok();
        let millis = |key: &str| field(key)?.parse::<f64>().ok();
        let rate = text.lines().find_map(|line| line.trim().strip_prefix("transactions:"))?.split_once('(')?.1;
        Some(Self {
            transactions: count("transactions:")?,
            per_second: rate.split_whitespace().next()?.parse().ok()?,
            queries: count("queries:")?,
            errors: count("ignored errors:")?,
            reconnects: count("reconnects:")?,
            mean_ms: millis("avg:")?,
            p95_ms: millis("95th percentile:")?,
            max_ms: millis("max:")?,
        })
    }
}
