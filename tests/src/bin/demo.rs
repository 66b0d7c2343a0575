//! The demo: a primary, two relays in a row, four replicas and load, told step by step. Ends with what was checked, or stays up with `KEEP=1`.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::compare::{self, binlog_text};
use baton_testbed::{
    Bed, MariaDb, RelayProc, Source, Story, Sysbench, Workload, cmp_files, procs, template, wait_caught_up,
};
use clap::Parser;
use serde_json::Value;

/// Shows the relay at work with real MariaDB servers on this machine.
#[derive(Parser)]
struct Args {
    /// Seconds of load.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// Transactions a second.
    #[arg(long, default_value_t = 300)]
    rate: u32,
}

/// Everything that runs.
struct Cast {
    primary: MariaDb,
    relays: [RelayProc; 2],
    /// Each with the relay that it is attached to (index).
    replicas: Vec<(MariaDb, usize, &'static str)>,
}

/// The column of each downstream in the lag table: transactions, milliseconds, bottleneck.
const COLUMN: usize = 23;

fn main() -> ExitCode {
    let args = Args::parse();
    let keep = std::env::var_os("KEEP").is_some_and(|value| value == "1");
    let bed = match Bed::new("demo") {
        Ok(bed) => bed,
        Err(error) => {
            eprintln!("demo: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    bed.keep(false);
    match play(&bed, &args, keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            bed.report_failure();
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(bed: &Bed, args: &Args, keep: bool) -> Result<()> {
    let mut story = Story::begin("Baton: one primary, two relays, four replicas");
    let cast = assemble(bed, &mut story)?;
    let report = run_load(&mut story, &cast, args)?;
    verify(bed, &mut story, &cast)?;

    story.step("Summary");
    story.say(format!(
        "{} transactions at {:.0}/s, 95% within {:.1} ms, {} deadlocks retried",
        report.transactions, report.per_second, report.p95_ms, report.errors
    ));
    for relay in &cast.relays {
        let (memory, cpu) = (relay.rss_kb()? as f64 / 1024.0, relay.cpu_time()?.as_secs_f64());
        story.say(format!("{}: {memory:.0} MiB of memory, {cpu:.1} s of processor time", relay.name()));
    }
    story.good(format!("everything that was checked holds, after {:.0} s", story.seconds()));
    if keep {
        look_around(bed, &mut story, &cast);
        loop {
            thread::park(); // SIGINT and SIGTERM stop everything that was started, and end the program.
        }
    }
    Ok(())
}

fn assemble(bed: &Bed, story: &mut Story) -> Result<Cast> {
    story.step("Start a MariaDB primary");
    let primary = bed.mariadb("primary").server_id(1).durable(true).option("--max-binlog-size=4M").start()?;
    story.good(format!("{} on port {}", template::server_version()?, primary.port()));

    story.step("Fill it with tables by sysbench");
    Sysbench::new(&primary).prepare()?;
    story.good("4 tables of 1000 rows");

    story.step("Start a relay that follows the primary");
    let first = bed.relay("relay-1").cluster("demo").server_id(9001).upstream(&primary).start()?;
    first.wait_head(&primary)?;
    story.good(format!(
        "relay-1 on port {}, HTTP on {}; its log has reached {}",
        first.port(),
        first.http_port(),
        first.head_gtid()?
    ));

    story.step("Start a second relay behind the first");
    let second = bed.relay("relay-2").cluster("demo").server_id(9002).behind(&first).start()?;
    second.wait_head(&primary)?;
    story.good(format!("relay-2 on port {}, HTTP on {}", second.port(), second.http_port()));

    story.step("Attach ordinary replicas, with nothing but CHANGE MASTER TO");
    let mut replicas = Vec::new();
    let log = primary.binlogs()?.into_iter().next().context("the primary has no binlog")?;
    let file_pos = Source::file_pos(first.port(), &log, 4);
    let kinds = [
        ("replica-1", 1, Source::gtid(first.port()), 0, "GTID"),
        ("replica-2", 4, Source::gtid(first.port()), 0, "GTID, 4 parallel appliers"),
        ("replica-3", 1, file_pos, 0, "file and position"),
        ("replica-4", 1, Source::gtid(second.port()), 1, "GTID, attached to relay-2"),
    ];
    for (id, (name, appliers, source, relay, kind)) in (2..).zip(kinds) {
        let builder = bed.mariadb(name).server_id(id).option(&format!("--report-host={name}"));
        let replica = builder.parallel_appliers(if appliers > 1 { appliers } else { 0 }).start()?;
        replica.replicate_from(&source)?;
        wait_caught_up(&primary, &replica)?;
        story.good(format!("{name} on port {}: {kind}; caught up", replica.port()));
        replicas.push((replica, relay, kind));
    }
    Ok(Cast { primary, relays: [first, second], replicas })
}

fn run_load(story: &mut Story, cast: &Cast, args: &Args) -> Result<baton_testbed::Report> {
    story.step(&format!("{} s of writes; the lag as the relays tell it (GET /v1/lag)", args.seconds));
    let (pause, resume) = (args.seconds / 4, args.seconds / 2);
    story.say(format!("replica-2's applier is stopped from second {pause} to second {resume}\n"));
    let mut head = format!("{:>4} {:>6}  {:<13}", "s", "trx/s", "relay-1's head");
    let mut units = " ".repeat(head.len());
    for name in ["replica-1", "replica-2", "replica-3", "relay-2 (sent)", "replica-4"] {
        head += &format!(" | {name:<COLUMN$}");
        units += &format!(" | {:>5} {:>9} {:<7}", "trx", "lag", "held by");
    }
    story.say(story.bold(&head));
    story.say(story.bold(&units));
    let load =
        Sysbench::new(&cast.primary).rate(args.rate).start(Workload::WriteOnly, Duration::from_secs(args.seconds))?;
    let began = Instant::now();
    let (slow, _, _) = cast.replicas.get(1).context("no second replica")?;
    for second in 1..=args.seconds {
        thread::sleep((began + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        if second == pause {
            slow.sql("STOP SLAVE SQL_THREAD")?;
        } else if second == resume {
            slow.sql("START SLAVE SQL_THREAD")?;
        }
        let tps = load.transactions_per_second().unwrap_or(0.0);
        story.say(lag_line(story, cast, second, tps)?);
        if !load.is_running() {
            break;
        }
    }
    let report = load.wait()?;
    story.good(format!("{} transactions committed on the primary", report.transactions));
    Ok(report)
}

fn lag_line(story: &Story, cast: &Cast, second: u64, tps: f64) -> Result<String> {
    let [first, second_relay] = [cast.relays[0].lag()?, cast.relays[1].lag()?];
    let mut line = format!("{second:>4} {tps:>6.0}  {:<14}", first["head"]["gtid"].as_str().unwrap_or("-"));
    let columns = [
        (&first, 2, "applied"),
        (&first, 3, "applied"),
        (&first, 4, "applied"),
        (&first, 9002, "received"),
        (&second_relay, 5, "applied"),
    ];
    for (lag, server_id, what) in columns {
        let (cell, lags) = cell(lag, server_id, what);
        line += &format!(" | {}", if lags { story.warn(&cell) } else { cell });
    }
    Ok(line.trim_end().to_owned())
}

/// One replica's lag in few words, as wide as its column, and whether it lags: `   12     37 ms apply`.
fn cell(lag: &Value, server_id: u64, what: &str) -> (String, bool) {
    let listed = lag["replicas"].as_array().into_iter().flatten();
    let replica = listed.into_iter().find(|replica| replica["server_id"] == server_id).unwrap_or(&Value::Null);
    let figures = &replica[what];
    let (Some(transactions), Some(millis)) = (figures["lag_transactions"].as_u64(), figures["lag_ms"].as_u64()) else {
        let why = replica["error"].as_str().or(replica["state"].as_str()).unwrap_or("not listed");
        return (format!("{:<COLUMN$}", why.chars().take(COLUMN).collect::<String>()), true);
    };
    let bottleneck = replica["bottleneck"].as_str().unwrap_or("-");
    (format!("{transactions:>5} {millis:>6} ms {bottleneck:<7}"), transactions > 0)
}

fn verify(bed: &Bed, story: &mut Story, cast: &Cast) -> Result<()> {
    story.step("Everybody catches up");
    for relay in &cast.relays {
        story.check(&format!("{} has all", relay.name()), || relay.wait_head(&cast.primary))?;
    }
    for (replica, _, _) in &cast.replicas {
        story.check(&format!("{} has applied all", replica.name()), || wait_caught_up(&cast.primary, replica))?;
    }

    story.step("The data is the same everywhere (CHECKSUM TABLE)");
    for (replica, _, kind) in &cast.replicas {
        story.check(&format!("{} ({kind}) = primary", replica.name()), || {
            let tables = compare::compare_tables(&cast.primary, replica, &["sbtest"])?;
            ensure!(tables > 0, "there are no tables to compare");
            Ok(())
        })?;
    }

    story.step("The relays' log files are the primary's, byte for byte (cmp)");
    cast.primary.sql("FLUSH BINARY LOGS")?;
    let mut files = cast.primary.binlogs()?;
    let open = files.pop();
    for relay in &cast.relays {
        relay.wait_head(&cast.primary)?;
        let mut bytes = 0;
        story.check(&format!("{}: {} closed files", relay.name(), files.len()), || {
            for file in &files {
                let original = cast.primary.binlog_path(file);
                bytes += std::fs::metadata(&original)?.len();
                baton_testbed::wait_for(&format!("{} to close {file}", relay.name()), baton_testbed::DEADLINE, || {
                    Ok(relay.log_path(file).is_ok_and(|copy| cmp_files(&original, &copy).is_ok()).then_some(()))
                })
                .or_else(|_| cmp_files(&original, &relay.log_path(file)?))?;
            }
            Ok(())
        })?;
        story.say(format!(
            "   {:.1} MiB, then {} still open",
            bytes as f64 / f64::from(1 << 20),
            open.as_deref().unwrap_or("none")
        ));
    }
    story.check("mariadb-binlog reads every file of relay-1 and verifies its checksums", || {
        let text = binlog_text(&bed.path("mariadb-binlog"), &cast.relays[0].log_files()?, &[])?;
        ensure!(text.contains("COMMIT"), "mariadb-binlog printed no transaction");
        Ok(())
    })
}

fn look_around(bed: &Bed, story: &mut Story, cast: &Cast) {
    story.step("It stays up: look around, end with Ctrl-C");
    let client = |db: &MariaDb| format!("mariadb --no-defaults --user=root --socket={}", db.socket().display());
    story.say(format!("{:<10} {}", "primary", client(&cast.primary)));
    for (replica, _, kind) in &cast.replicas {
        story.say(format!("{:<10} {}   # {kind}", replica.name(), client(replica)));
    }
    for relay in &cast.relays {
        let http = format!("http://127.0.0.1:{}", relay.http_port());
        story.say(format!("{:<10} curl {http}/v1/lag   # also /v1/status, /v1/watch, /metrics", relay.name()));
        story.say(format!(
            "{:<10} logs in {}, configuration {}",
            "",
            relay.log_file().display(),
            relay.config_file().display()
        ));
        let shell =
            format!("mariadb --no-defaults -h 127.0.0.1 -P {} -u repl -p{}", relay.port(), template::REPL_PASSWORD);
        story.say(format!("{:<10} {shell} -e 'SHOW BINARY LOGS'", ""));
    }
    let source = Source::gtid(cast.relays[0].port()).statement();
    story.say(format!("another replica: {source}"));
    story.say(format!("all files: {}", bed.root().display()));
    story.say("waiting for Ctrl-C");
    procs::on_signal(|| println!("\nstopped, and cleaned up"));
}
