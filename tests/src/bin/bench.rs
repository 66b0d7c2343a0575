//! The benchmark: the relay against the primary's own fan-out, an intermediate replica and a plain `sendfile`, in one run on one machine.
//! Exit code 1 where the relay misses a goal. `docs/benchmarks.md` says what each figure means.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use baton_testbed::{Bed, MariaDb, RelayProc, Source, Story, Sysbench, Workload, template, wait_for};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[path = "../bench/acks.rs"]
mod acks;
#[path = "../bench/catchup.rs"]
mod catchup;
#[path = "../bench/client.rs"]
mod client;
#[path = "../bench/crowd.rs"]
mod crowd;
#[path = "../bench/delay.rs"]
mod delay;
#[path = "../bench/figures.rs"]
mod figures;
#[path = "../bench/floor.rs"]
mod floor;
#[path = "../bench/memory.rs"]
mod memory;

use catchup::Server;
use client::From;
use floor::Floor;

/// What can be measured.
const WHAT: [&str; 6] = ["small", "large", "delay", "memory", "crowd", "acks"];
/// How long a server may take to apply or fetch a load.
const CATCH_UP: Duration = Duration::from_secs(600);

/// Measures the relay against the primary's own fan-out, an intermediate replica and a plain sendfile.
#[derive(Parser)]
struct Args {
    /// Smaller logs, fewer rounds: under two minutes, for a first look.
    #[arg(long)]
    quick: bool,
    /// Megabytes of each log that is read.
    #[arg(long)]
    megabytes: Option<u64>,
    /// Rounds over all servers.
    #[arg(long)]
    rounds: Option<usize>,
    /// What to measure; everything by default.
    #[arg(long, value_delimiter = ',', default_value = "small,large,delay,memory,crowd,acks")]
    only: Vec<String>,
    /// Another build of the relay to measure beside the present one.
    #[arg(long, value_name = "BINARY")]
    compare: Option<PathBuf>,
    /// Serve the files given to each connection at this port, until killed: how the benchmark starts its floor.
    #[arg(long, hide = true, num_args = 2.., value_name = "PORT FILES")]
    serve_files: Option<Vec<PathBuf>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(list) = &args.serve_files {
        return match serve_files(list) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let bed = match Bed::new("bench") {
        Ok(bed) => bed,
        Err(error) => {
            eprintln!("bench: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match measure(&bed, &args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            bed.report_failure();
            eprintln!("\nbench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_files(list: &[PathBuf]) -> Result<()> {
    let (port, files) = list.split_first().context("no port")?;
    floor::serve(port.to_string_lossy().parse()?, files)
}

/// All servers of a run.
struct Servers {
    primary: MariaDb,
    relay: RelayProc,
    replica: MariaDb,
    /// The relay of another build.
    other: Option<RelayProc>,
}

fn measure(bed: &Bed, args: &Args) -> Result<bool> {
    many_files()?;
    let mut story = Story::begin(&format!("Baton bench: {}", machine()?));
    let wanted = |what: &str| args.only.iter().any(|only| only == what);
    if let Some(unknown) = args.only.iter().find(|o| !WHAT.contains(&o.as_str())) {
        bail!("--only {unknown}: allowed are {}", WHAT.join(", "));
    }
    let target = args.megabytes.unwrap_or(if args.quick { 60 } else { 300 }) * 1_000_000;
    let rounds = args.rounds.unwrap_or(if args.quick { 2 } else { 3 });
    let counts: &[usize] = if args.quick { &[1, 4] } else { &[1, 4, 16] };

    story.step("Start a primary, a relay and an intermediate replica");
    let servers = start(bed, args.compare.as_deref())?;
    let mut goals = Vec::new();
    if wanted("small") {
        story.step("Write a log of small row events: sysbench oltp_write_only");
        sysbench(&servers.primary).prepare()?;
        let from = begin_file(&servers)?;
        write_small(&servers, target)?;
        story.step("Read it");
        goals.extend(read(bed, &story, "small events", &servers, &from, counts, rounds)?);
    }
    if wanted("large") {
        story.step("Write a log of 16 KB rows");
        let from = begin_file(&servers)?;
        write_large(&servers, target)?;
        story.step("Read it");
        goals.extend(read(bed, &story, "16 KB rows", &servers, &from, counts, rounds)?);
    }
    if wanted("delay") {
        story.step("Delay of 1,000 commits a second");
        let seconds = if args.quick { 3 } else { 5 };
        goals.extend(delay::measure(&story, &servers.primary, &servers.relay, &servers.replica, rounds, seconds)?);
    }
    if wanted("memory") {
        story.step("Many clients: idle after they have read 1 MB of log at the same time, then 200 commits a second");
        let [from, ..] = begin_file(&servers)?;
        write_rows(&servers.primary, 1_000_000)?;
        settle(&servers)?;
        let primary = servers.primary.proc()?;
        let relay = servers.relay.proc()?;
        let both = [("primary", &primary, servers.primary.port()), ("relay", &relay, servers.relay.port())];
        goals.extend(memory::measure(&story, &from, &servers.primary, both)?);
    }
    if wanted("crowd") {
        story.step("Clients at the head: 10 at 2,000 commits a second, 1,000 at 200");
        // The replica rests meanwhile: the cores are for those that are measured.
        servers.replica.stop_slave()?;
        goals.extend(crowd::measure(&story, &servers.primary, &servers.relay, if args.quick { 3 } else { 10 })?);
        servers.replica.start_slave()?;
    }
    if wanted("acks") {
        story.step("What a commit waits for: the relay's acknowledgement, and a replica's");
        let seconds = if args.quick { 2 } else { 5 };
        goals.extend(acks::measure(bed, &story, &servers.primary, &servers.replica, rounds, seconds)?);
    }
    story.step("Goals");
    Ok(figures::judge(&story, &goals))
}

/// A thousand clients need as many files.
fn many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("can't read {path}"));
    let cpu = read("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, m)| m);
    let cores = std::thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let memory = read("/proc/meminfo")?;
    let kb: u64 = memory.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Ok(format!(
        "{cores} cores ({model}), {:.0} GB, Linux {}, MariaDB {}, baton-relay {}",
        kb as f64 / 1e6,
        kernel.trim(),
        template::server_version()?,
        env!("CARGO_PKG_VERSION")
    ))
}

fn start(bed: &Bed, other: Option<&Path>) -> Result<Servers> {
    // One file a log: no rotation by size in the middle.
    let server = |name: &str, id: u32| {
        let server = bed.mariadb(name).server_id(id).option("--max-connections=1200").option("--max-binlog-size=1G");
        server.option("--innodb-buffer-pool-size=256M").option("--innodb-log-file-size=256M").start()
    };
    let primary = server("primary", 1)?;
    let replica = server("replica", 2)?;
    replica.replicate_from(&Source::gtid(primary.port()))?;
    // Whoever asks for acknowledgements here counts as another acker where commits are measured.
    let relay = bed.relay("relay").upstream(&primary).ack("off").start()?;
    let other =
        other.map(|binary| bed.relay("other").server_id(9002).upstream(&primary).ack("off").binary(binary).start());
    Ok(Servers { primary, relay, replica, other: other.transpose()? })
}

/// Begins a new file on each server, and gives the places: primary (and relay), intermediate replica.
fn begin_file(servers: &Servers) -> Result<[From; 2]> {
    settle(servers)?;
    let mut places = Vec::new();
    for server in [&servers.primary, &servers.replica] {
        server.sql("FLUSH BINARY LOGS")?;
        places.push(From { file: server.master_status()?.0, position: 4 });
    }
    places.try_into().map_err(|_| anyhow::anyhow!("two servers, two places"))
}

/// Waits until everybody has everything.
fn settle(servers: &Servers) -> Result<()> {
    let goal = servers.primary.gtid_binlog_pos()?;
    wait_for("the intermediate replica to catch up", CATCH_UP, || {
        servers.replica.check_replication()?;
        Ok((servers.replica.gtid_slave_pos()? == goal).then_some(()))
    })?;
    [Some(&servers.relay), servers.other.as_ref()].into_iter().flatten().try_for_each(|r| r.wait_head(&servers.primary))
}

fn sysbench(primary: &MariaDb) -> Sysbench {
    Sysbench::new(primary).threads(8).seed(1).tables(8).table_size(10_000)
}

fn write_small(servers: &Servers, target: u64) -> Result<()> {
    let running = sysbench(&servers.primary).start(Workload::WriteOnly, CATCH_UP)?;
    wait_for("sysbench to write the log", CATCH_UP, || {
        ensure!(running.is_running(), "sysbench ended early");
        Ok((servers.primary.master_status()?.1 >= target).then_some(()))
    })?;
    running.kill();
    settle(servers)
}

fn write_large(servers: &Servers, target: u64) -> Result<()> {
    write_rows(&servers.primary, target)?;
    settle(servers)
}

/// Commits of one 16 KB row each, until the present file has that many bytes.
fn write_rows(primary: &MariaDb, target: u64) -> Result<()> {
    primary.sql("CREATE TABLE IF NOT EXISTS test.large (id BIGINT PRIMARY KEY AUTO_INCREMENT, body BLOB)")?;
    let block = "BEGIN NOT ATOMIC FOR i IN 1..64 DO INSERT INTO test.large (body) VALUES (REPEAT(MD5(RAND()), 512)); END FOR; END";
    while primary.master_status()?.1 < target {
        primary.sql(block)?;
    }
    Ok(())
}

fn read(
    bed: &Bed,
    story: &Story,
    what: &'static str,
    servers: &Servers,
    [own, other]: &[From; 2],
    counts: &[usize],
    rounds: usize,
) -> Result<Vec<figures::Goal>> {
    let names = servers.primary.binlogs()?;
    let files: Vec<PathBuf> =
        names.iter().filter(|name| **name >= own.file).map(|name| servers.primary.binlog_path(name)).collect();
    let floor = Floor::start(bed, &files)?;
    let mut all = vec![
        ("primary", servers.primary.proc()?, servers.primary.port(), own),
        ("relay", servers.relay.proc()?, servers.relay.port(), own),
        ("replica", servers.replica.proc()?, servers.replica.port(), other),
    ];
    if let Some(relay) = &servers.other {
        all.push(("other relay", relay.proc()?, relay.port(), own));
    }
    let all: Vec<Server> =
        all.into_iter().map(|(name, proc, port, from)| Server { name, proc, port, from: from.clone() }).collect();
    catchup::measure(story, what, &all, &floor, counts, rounds)
}
