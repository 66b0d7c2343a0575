//! The benchmark: the same work directly against the primary and through the relay, in one run on one machine. Exit code 1 where the relay misses a goal.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::{
    Bed, Cmd, MariaDb, Proc, RelayProc, Report, Source, Story, Sysbench, Workload, template, wait_caught_up, wait_for,
};
use clap::Parser;

/// Measures the relay against the primary's own fan-out.
#[derive(Parser)]
struct Args {
    /// Clients that follow the log during the load.
    #[arg(long, default_value_t = 16)]
    followers: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Samples of the delay from a commit to its sight on a replica.
    #[arg(long, default_value_t = 300)]
    samples: usize,
}

/// A figure, its peer and the goal.
struct Row {
    what: &'static str,
    direct: f64,
    relay: f64,
    unit: &'static str,
    goal: String,
    met: bool,
}

/// What the followers of one kind cost.
struct FanOut {
    report: Report,
    primary_cpu: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
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

fn measure(bed: &Bed, args: &Args) -> Result<bool> {
    let mut story =
        Story::begin(&format!("Baton bench: {} processors", thread::available_parallelism().map_or(0, usize::from)));
    story.step("Start a durable primary and a relay");
    let primary = bed.mariadb("primary").server_id(1).durable(true).start()?;
    let sysbench = Sysbench::new(&primary).threads(8).seed(1);
    sysbench.prepare()?;
    let relay = bed.relay("relay").upstream(&primary).start()?;
    relay.wait_head(&primary)?;

    story.step(&format!("Commits with {} followers", args.followers));
    let direct = fan_out(bed, &sysbench, &primary, primary.port(), args)?;
    story.say(format!("followers on the primary: {:.0} commits/s", direct.report.per_second));
    let through = fan_out(bed, &sysbench, &primary, relay.port(), args)?;
    story.say(format!("followers on the relay:   {:.0} commits/s", through.report.per_second));

    story.step("Reading the whole log");
    relay.wait_head(&primary)?;
    let (direct_read, relay_read) = (read_all(bed, &primary, primary.port())?, read_all(bed, &primary, relay.port())?);

    story.step("Delay from a commit to its sight on a replica");
    let direct_delay = delays(bed, &primary, "replica-direct", 2, primary.port(), args.samples)?;
    let relay_delay = delays(bed, &primary, "replica-relay", 3, relay.port(), args.samples)?;

    let rows = judge(&[direct, through], [direct_read, relay_read], &[direct_delay, relay_delay], &relay)?;
    story.step("Results");
    story.say(format!("{:<44} {:>10} {:>10} {:<6} {}", "", "primary", "relay", "", "goal"));
    for row in &rows {
        let line = format!("{:<44} {:>10.2} {:>10.2} {:<6} {}", row.what, row.direct, row.relay, row.unit, row.goal);
        story.say(if row.met { line } else { story.warn(&format!("{line}   MISSED")) });
    }
    Ok(rows.iter().all(|row| row.met))
}

fn judge(fan: &[FanOut; 2], read: [f64; 2], delay: &[Vec<f64>; 2], relay: &RelayProc) -> Result<Vec<Row>> {
    let [direct, through] = fan;
    let mut rows = Vec::new();
    // Each goal is a factor of what the primary does itself, or a plain bound.
    let mut at_least = |what, unit, pair: [f64; 2], factor: f64| {
        let met = pair[1] >= pair[0] * factor;
        rows.push(Row { what, direct: pair[0], relay: pair[1], unit, goal: format!(">= {factor} x primary"), met });
    };
    at_least("commits with followers", "1/s", [direct.report.per_second, through.report.per_second], 0.9);
    at_least("reading the log", "MiB/s", read, 0.8);
    let mut at_most = |what, unit, pair: [f64; 2], bound: f64| {
        rows.push(Row {
            what,
            direct: pair[0],
            relay: pair[1],
            unit,
            goal: format!("<= {bound:.2}"),
            met: pair[1] <= bound,
        });
    };
    at_most(
        "commit latency, 95%",
        "ms",
        [direct.report.p95_ms, through.report.p95_ms],
        direct.report.p95_ms * 1.5 + 2.0,
    );
    at_most(
        "primary's processor time, each 1000 commits",
        "s",
        [direct.primary_cpu, through.primary_cpu],
        direct.primary_cpu * 1.05,
    );
    let quantile = |index: usize, at: f64| {
        delay.get(index).and_then(|list| list.get((list.len() as f64 * at) as usize)).copied().unwrap_or(f64::NAN)
    };
    at_most("delay to a replica, median", "ms", [quantile(0, 0.5), quantile(1, 0.5)], quantile(0, 0.5) + 5.0);
    at_most("delay to a replica, 95%", "ms", [quantile(0, 0.95), quantile(1, 0.95)], quantile(0, 0.95) + 10.0);
    at_most("relay's memory", "MiB", [0.0, relay.rss_kb()? as f64 / 1024.0], 256.0);
    Ok(rows)
}

fn fan_out(bed: &Bed, sysbench: &Sysbench, primary: &MariaDb, port: u16, args: &Args) -> Result<FanOut> {
    let (file, _) = primary.master_status()?;
    let followers: Vec<Proc> =
        (0..args.followers).map(|number| follow(bed, port, &file, number)).collect::<Result<_>>()?;
    let before = primary.proc()?.cpu_time()?;
    let report = sysbench.run(Workload::Insert, Duration::from_secs(args.seconds))?;
    let used = primary.proc()?.cpu_time()?.saturating_sub(before).as_secs_f64();
    for follower in followers {
        ensure!(follower.is_running(), "a follower of port {port} ended: see {}", follower.log().display());
        follower.kill9();
    }
    primary.sql("FLUSH BINARY LOGS")?;
    Ok(FanOut { primary_cpu: used * 1000.0 / report.transactions.max(1) as f64, report })
}

/// A cheap follower: the stock client, writing the log as it comes.
fn follow(bed: &Bed, port: u16, file: &str, number: usize) -> Result<Proc> {
    let dir = bed.path(format!("follower-{port}-{number}"));
    std::fs::create_dir_all(&dir)?;
    let id = format!("--stop-never-slave-server-id={}", 1000 + number);
    remote(port, &dir)?.args(["--stop-never", &id, file]).spawn(&bed.log(&format!("follower-{port}")), None)
}

fn remote(port: u16, dir: &std::path::Path) -> Result<Cmd> {
    let cmd = Cmd::new(template::program("mariadb-binlog")?).args([
        "--no-defaults",
        "--read-from-remote-server",
        "--host=127.0.0.1",
    ]);
    let cmd = cmd.args([
        &format!("--port={port}"),
        "--user=repl",
        &format!("--password={}", template::REPL_PASSWORD),
        "--raw",
    ]);
    Ok(cmd.arg(format!("--result-file={}/", dir.display())))
}

/// MiB a second for one client that reads everything.
fn read_all(bed: &Bed, primary: &MariaDb, port: u16) -> Result<f64> {
    let dir = bed.path(format!("reader-{port}"));
    std::fs::create_dir_all(&dir)?;
    let first = primary.binlogs()?.into_iter().next().context("the primary has no binlog")?;
    let began = Instant::now();
    remote(port, &dir)?
        .args(["--to-last-log", &first])
        .run(&bed.path("logs").join(format!("reader-{port}")), Duration::from_secs(300))?;
    let took = began.elapsed().as_secs_f64();
    let bytes: u64 =
        std::fs::read_dir(&dir)?.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum();
    ensure!(bytes > 0, "nothing was read from port {port}");
    Ok(bytes as f64 / f64::from(1 << 20) / took)
}

/// Sorted milliseconds from a commit's return to the row's sight on a replica.
fn delays(bed: &Bed, primary: &MariaDb, name: &str, id: u32, port: u16, samples: usize) -> Result<Vec<f64>> {
    let replica = bed.mariadb(name).server_id(id).start()?;
    replica.replicate_from(&Source::gtid(port))?;
    let table = format!("test.delay_{id}");
    primary.sql(&format!("CREATE TABLE {table} (id INT PRIMARY KEY)"))?;
    wait_for(&format!("{name} to catch up"), Duration::from_secs(600), || Ok(wait_caught_up(primary, &replica).ok()))?;
    let (mut writer, mut reader) = (primary.session()?, replica.session()?);
    let mut millis = Vec::with_capacity(samples);
    for number in 0..samples {
        writer.query(&format!("INSERT INTO {table} VALUES ({number})"))?;
        let committed = Instant::now();
        let select = format!("SELECT 1 FROM {table} WHERE id={number}");
        while reader.query(&select)?.is_empty() {
            ensure!(committed.elapsed() < Duration::from_secs(30), "row {number} did not reach {name}");
        }
        millis.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    replica.stop()?;
    millis.sort_by(f64::total_cmp);
    Ok(millis)
}
