//! The soak test: random faults under load until the time is up, everything compared after each round. A seed repeats the order of faults.
//! Exit code 1 at the first difference, lost commit or stop; the bed is kept.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use baton_testbed::{
    Bed, DEADLINE, Direction, MariaDb, Proxy, RelayProc, RowWriter, Source, Story, cmp_prefix, compare, wait_caught_up,
    wait_for,
};
use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Random faults under load.
#[derive(Parser)]
struct Args {
    /// Minutes to run.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Seed of an earlier run; a new one otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// Whether the primary's commits wait for the relay's acknowledgement.
    #[arg(long, value_enum, default_value = "durable")]
    ack: Ack,
    /// The relay may not use more memory than this, in MiB.
    #[arg(long, default_value_t = 256)]
    memory: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ack {
    Durable,
    Off,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    RelayKilled,
    RelayTerminated,
    RelayFrozen,
    UpstreamCut,
    UpstreamCutInside,
    UpstreamReset,
    UpstreamBitFlipped,
    UpstreamStalled,
    UpstreamRefused,
    DownstreamCut,
    DownstreamCutInside,
    DownstreamSlow,
    ReplicaKilled,
    ReplicaStopped,
    PrimaryKilled,
    PrimaryRestarted,
    LogRotated,
}

const FAULTS: [Fault; 17] = [
    Fault::RelayKilled,
    Fault::RelayTerminated,
    Fault::RelayFrozen,
    Fault::UpstreamCut,
    Fault::UpstreamCutInside,
    Fault::UpstreamReset,
    Fault::UpstreamBitFlipped,
    Fault::UpstreamStalled,
    Fault::UpstreamRefused,
    Fault::DownstreamCut,
    Fault::DownstreamCutInside,
    Fault::DownstreamSlow,
    Fault::ReplicaKilled,
    Fault::ReplicaStopped,
    Fault::PrimaryKilled,
    Fault::PrimaryRestarted,
    Fault::LogRotated,
];

struct Soak {
    primary: MariaDb,
    relay: RelayProc,
    replicas: Vec<MariaDb>,
    /// Between primary and relay.
    upstream: Proxy,
    /// Between relay and replicas.
    downstream: Proxy,
    ack: Ack,
    random: StdRng,
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
    match run(&bed, &mut story, &args, seed) {
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
    let mut confirmed = 0;
    let mut rounds = 0;
    while Instant::now() < end {
        rounds += 1;
        let writer = RowWriter::start(&soak.primary, &format!("round_{rounds}"), 4, Duration::from_millis(1))?;
        let mut told = Vec::new();
        for _ in 0..soak.random.random_range(1..=5) {
            let fault = *FAULTS.choose(&mut soak.random).context("no faults")?;
            let goal = writer.confirmed() + soak.random.random_range(20..200);
            wait_for("commits to go on", DEADLINE, || Ok((writer.confirmed() >= goal).then_some(())))
                .context(format!("before {fault:?}"))?;
            told.push(format!("{fault:?}"));
            soak.strike(fault).with_context(|| format!("{fault:?}"))?;
        }
        let table = writer.table().to_owned();
        let written = writer.stop()?;
        confirmed += written.confirmed.len();
        story.step(&format!(
            "round {rounds}: {} confirmed, {} unknown; {}",
            written.confirmed.len(),
            written.unknown.len(),
            told.join(", ")
        ));
        soak.check(story, args.memory)?;
        for db in [&soak.primary].into_iter().chain(&soak.replicas) {
            let lost = written.lost_on(db, &table, 5)?;
            ensure!(lost.is_empty(), "{} lacks confirmed rows of {table}: {lost:?} and perhaps more", db.name());
        }
        // Keeps the comparison quick: what was compared is dropped, everywhere.
        soak.primary.sql(&format!("DROP TABLE {table}"))?;
    }
    story.step("Summary");
    story.good(format!(
        "{rounds} rounds, {confirmed} confirmed commits, none lost; the relay was started again {} times",
        soak.relay.restarts()
    ));
    Ok(())
}

impl Soak {
    fn start(bed: &Bed, ack: Ack, seed: u64) -> Result<Self> {
        let primary = bed.mariadb("primary").server_id(1).durable(true).option("--max-binlog-size=1M").start()?;
        let upstream = Proxy::start(primary.address())?;
        let relay = bed.relay("relay").upstream_ports(&[upstream.port()]).supervised().ack(if ack == Ack::Off {
            "off"
        } else {
            "durable"
        });
        let relay = relay.start()?;
        let downstream = Proxy::start(relay.address())?;
        let mut replicas = Vec::new();
        for (id, appliers) in [(2, 0), (3, 4)] {
            let replica = bed.mariadb(&format!("replica-{id}")).server_id(id).parallel_appliers(appliers).start()?;
            replica.replicate_from(&Source::gtid(downstream.port()).heartbeat(1.0))?;
            replicas.push(replica);
        }
        let soak = Self { primary, relay, replicas, upstream, downstream, ack, random: StdRng::seed_from_u64(seed) };
        soak.relay.wait_head(&soak.primary)?;
        soak.wait_for_acks()?;
        Ok(soak)
    }

    /// Makes commits wait for the relay, for as long as it takes; needs a connected relay to begin with.
    fn wait_for_acks(&self) -> Result<()> {
        if self.ack == Ack::Off {
            return Ok(());
        }
        self.primary.sql(
            "SET GLOBAL rpl_semi_sync_master_timeout=4294967295, GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC, GLOBAL rpl_semi_sync_master_enabled=ON",
        )?;
        Ok(())
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        let moment = Duration::from_millis(self.random.random_range(1..3000));
        let bytes = self.random.random_range(1..20_000);
        let victim = self.random.random_range(0..self.replicas.len());
        let replica = self.replicas.get(victim).context("no replica")?;
        match fault {
            Fault::RelayKilled => self.relay.kill9()?,
            Fault::RelayTerminated => {
                self.relay.term()?;
                self.relay.restart()?;
            }
            Fault::RelayFrozen => {
                self.relay.freeze()?;
                thread::sleep(moment);
                self.relay.thaw()?;
            }
            Fault::UpstreamCut => drop(self.upstream.cut_now()),
            Fault::UpstreamCutInside => self.upstream.cut_after(Direction::ToClient, bytes),
            Fault::UpstreamReset => drop(self.upstream.reset_now()),
            Fault::UpstreamBitFlipped => self.upstream.flip_bit_after(Direction::ToClient, bytes),
            Fault::UpstreamStalled => {
                self.upstream.stall();
                thread::sleep(moment);
                self.upstream.resume();
            }
            Fault::UpstreamRefused => {
                self.upstream.refuse(true);
                self.upstream.cut_now();
                thread::sleep(moment);
                self.upstream.refuse(false);
            }
            Fault::DownstreamCut => drop(self.downstream.cut_now()),
            Fault::DownstreamCutInside => self.downstream.cut_after(Direction::ToClient, bytes),
            Fault::DownstreamSlow => {
                self.downstream.slow(Direction::ToClient, 20_000);
                thread::sleep(moment);
                self.downstream.resume();
            }
            Fault::ReplicaKilled => {
                replica.kill9()?;
                replica.restart()?;
            }
            Fault::ReplicaStopped => {
                replica.stop_slave()?;
                thread::sleep(moment);
                replica.start_slave()?;
            }
            Fault::PrimaryKilled => {
                self.primary.kill9()?;
                self.primary.restart()?;
                self.wait_for_acks()?;
            }
            Fault::PrimaryRestarted => {
                self.primary.stop()?;
                self.primary.restart()?;
                self.wait_for_acks()?;
            }
            Fault::LogRotated => drop(self.primary.sql("FLUSH BINARY LOGS")?),
        }
        Ok(())
    }

    /// All caught up; data and files equal; memory within its bound.
    fn check(&self, story: &Story, memory: u64) -> Result<()> {
        self.upstream.disarm();
        self.downstream.disarm();
        story.check("relay and replicas catch up", || {
            self.relay.wait_head(&self.primary)?;
            self.replicas.iter().try_for_each(|replica| wait_caught_up(&self.primary, replica))
        })?;
        story.check("the tables are the same", || {
            self.replicas
                .iter()
                .try_for_each(|replica| compare::compare_tables(&self.primary, replica, &["test"]).map(drop))
        })?;
        story.check("the files are the same", || self.check_files())?;
        let used = self.relay.rss_kb()? / 1024;
        if used > memory {
            bail!("the relay uses {used} MiB of memory, more than {memory}");
        }
        Ok(())
    }

    /// A file that a crash cut short differs at offset 21 only, where the in-use bit stands.
    fn check_files(&self) -> Result<()> {
        let (_, position) = self.primary.master_status()?;
        let files = self.primary.binlogs()?;
        for (index, file) in files.iter().enumerate() {
            let original = self.primary.binlog_path(file);
            let size = std::fs::metadata(&original)?.len();
            let length = usize::try_from(if index + 1 == files.len() { position } else { size })?;
            let copy = self.relay.log_path(file)?;
            wait_for(&format!("{file} to be complete"), DEADLINE, || {
                Ok(cmp_prefix(&original, &copy, length, &[21]).ok())
            })
            .or_else(|_| cmp_prefix(&original, &copy, length, &[21]))?;
        }
        Ok(())
    }
}
