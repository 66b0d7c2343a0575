//! The soak test: random faults under load until the time is up, everything compared after each round. A seed repeats the order of faults.
//! Exit code 1 at the first difference, lost commit or stop; the bed is kept.

mod failover;
mod failpoints;
mod faults;
mod heavy;
mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use baton_testbed::{Bed, DEADLINE, Fleet, Kind, Plan, RowWriter, Story, wait_for};
use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use self::faults::FAULTS;
use self::heavy::HEAVY;

/// Random faults under load.
#[derive(Parser)]
struct Args {
    /// Minutes to run.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Seed of an earlier run; a new one otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// What is tried: the relay alone, the relay at each single operation of log and acknowledgement, whole clusters that lose their primary, or changes of
    /// primary struck behind each of their steps, once.
    #[arg(long, value_enum, default_value = "relay")]
    what: What,
    /// At most this many rounds of each fault of a cluster.
    #[arg(long)]
    rounds: Option<u32>,
    /// Of a cluster, only this fault: "switchover", "server killed", ...
    #[arg(long)]
    fault: Option<String>,
    /// Sessions that write while a switchover is made.
    #[arg(long, default_value_t = 64)]
    writers: u32,
    /// Whether the primary's commits wait for the relay's acknowledgement.
    #[arg(long, value_enum, default_value = "durable")]
    ack: Ack,
    /// A relay may not use more memory than this, in MiB.
    #[arg(long, default_value_t = 256)]
    memory: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Relay,
    Failpoints,
    Failover,
    Steps,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ack {
    Durable,
    Off,
}

struct Soak {
    bed: Bed,
    ack: Ack,
    fleet: Fleet,
    random: StdRng,
    /// Counts what needs a name of its own.
    count: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let bed = match Bed::new("soak") {
        Ok(bed) => bed,
        Err(error) => {
            eprintln!("soak: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut story = Story::begin(&format!("Soak: {} minutes, seed {seed}", args.minutes));
    let done = match args.what {
        What::Relay => run(&bed, &mut story, &args, seed),
        What::Failpoints => failpoints::run(&bed, &mut story, args.minutes, seed),
        What::Failover => failover::run(&bed, &mut story, &args, seed),
        What::Steps => steps::run(&bed, &mut story),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            bed.report_failure();
            eprintln!("\nsoak: {error:#}\nsoak: repeat the order of faults with SEED={seed}");
            ExitCode::FAILURE
        }
    }
}

fn run(bed: &Bed, story: &mut Story, args: &Args, seed: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(args.minutes * 60);
    let mut soak = Soak::start(bed, args.ack, seed)?;
    let (mut confirmed, mut rounds) = (0, 0);
    let mut heavy = Vec::new();
    while Instant::now() < end {
        rounds += 1;
        if rounds % 8 == 0 {
            if heavy.is_empty() {
                heavy = HEAVY.to_vec();
                heavy.shuffle(&mut soak.random);
            }
            let test = heavy.pop().context("no heavy test")?;
            story.step(&format!("round {rounds}: {test:?}"));
            soak.weigh(test).with_context(|| format!("{test:?}"))?;
        } else {
            confirmed += soak.round(story, rounds)?;
        }
        soak.check(story, args.memory)?;
    }
    story.step("Summary");
    story.good(format!(
        "{rounds} rounds, {confirmed} confirmed commits, none lost; the relays were started again {} times",
        soak.fleet.relays().map(|relay| relay.restarts()).sum::<u64>()
    ));
    Ok(())
}

impl Soak {
    fn start(bed: &Bed, ack: Ack, seed: u64) -> Result<Self> {
        let plan = Plan::new(&[Kind::Gtid, Kind::Parallel, Kind::FilePosition]).second_relay().proxies().durable();
        let fleet = plan.option("--max-binlog-size=1M").option("--max-allowed-packet=64M").start(bed)?;
        let soak = Self { bed: bed.clone(), ack, fleet, random: StdRng::seed_from_u64(seed), count: 0 };
        soak.fleet.check()?;
        soak.wait_for_acks()?;
        Ok(soak)
    }

    /// Makes commits wait for the relay, for as long as it takes; needs a connected relay to begin with.
    fn wait_for_acks(&self) -> Result<()> {
        if self.ack == Ack::Off {
            return Ok(());
        }
        self.fleet.primary.sql(
            "SET GLOBAL rpl_semi_sync_master_timeout=4294967295, GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC, GLOBAL rpl_semi_sync_master_enabled=ON",
        )?;
        Ok(())
    }

    /// A few faults while rows are written; gives how many commits were confirmed.
    fn round(&mut self, story: &mut Story, round: u32) -> Result<usize> {
        let writer = RowWriter::start(&self.fleet.primary, &format!("round_{round}"), 8, Duration::from_millis(1))?;
        let mut told = Vec::new();
        for _ in 0..self.random.random_range(1..=6) {
            let fault = *FAULTS.choose(&mut self.random).context("no faults")?;
            let goal = writer.confirmed() + self.random.random_range(0..400);
            wait_for("commits to go on", DEADLINE, || Ok((writer.confirmed() >= goal).then_some(())))
                .context(format!("before {fault:?}"))?;
            told.push(format!("{fault:?}"));
            self.strike(fault).with_context(|| format!("{fault:?}, after {told:?}"))?;
        }
        let table = writer.table().to_owned();
        let written = writer.stop()?;
        story.step(&format!(
            "round {round}: {} confirmed, {} unknown; {}",
            written.confirmed.len(),
            written.unknown.len(),
            told.join(", ")
        ));
        self.fleet.check()?;
        for db in [&self.fleet.primary].into_iter().chain(&self.fleet.replicas) {
            let lost = written.lost_on(db, &table, 5)?;
            ensure!(lost.is_empty(), "{} lacks confirmed rows of {table}: {lost:?} and perhaps more", db.name());
        }
        // Keeps the comparison quick: what was compared is dropped, everywhere.
        self.fleet.primary.sql(&format!("DROP TABLE {table}"))?;
        Ok(written.confirmed.len())
    }

    /// All caught up; data and files equal, each GTID there once; memory within its bound. What was compared may go.
    fn check(&self, story: &Story, memory: u64) -> Result<()> {
        let primary = &self.fleet.primary;
        story.check("all caught up; tables and files are the same, nothing stands twice", || {
            self.fleet.check().map(drop)
        })?;
        for relay in self.fleet.relays() {
            let used = relay.proc()?.peak_kb()? / 1024;
            if used > memory {
                bail!("{} used {used} MiB of memory, more than {memory}", relay.name());
            }
        }
        let (last, _) = primary.master_status()?;
        primary.sql(&format!("PURGE BINARY LOGS TO '{last}'")).map(drop)
    }
}
