//! The demo: a whole cluster on hosts of its own, told step by step. Load through the virtual IP, lag, a switchover, a killed primary, a host that is cut
//! off, the old primaries' return, and the count of lost commits. Ends with what was checked, or stays up with `KEEP=1`.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Cluster, Fault, Ledger, Node, Writers};
use baton_testbed::compare::binlog_text;
use baton_testbed::netns::as_root_of_namespaces;
use baton_testbed::{Bed, Story, procs, template, wait_until};
use clap::Parser;
use serde_json::Value;

/// Shows Baton keep a MariaDB primary replaceable, with real servers on this machine.
#[derive(Parser)]
struct Args {
    /// Seconds of load before the first change.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// Clients that write through the virtual IP.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = as_root_of_namespaces() {
        eprintln!("demo: {error:#}");
        return ExitCode::FAILURE;
    }
    let bed = match Bed::new("demo") {
        Ok(bed) => bed,
        Err(error) => {
            eprintln!("demo: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    bed.keep(false);
    let keep = std::env::var_os("KEEP").is_some_and(|value| value == "1");
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
    let mut story = Story::begin("Baton: three database servers, two relays, three controllers, one address");
    let cluster = assemble(bed, &mut story)?;
    let ledger = Ledger::default();
    let clients = cluster.writers(&ledger, args.writers, Duration::from_millis(5))?;
    clients.wait_more(1)?;
    lag(&mut story, &cluster, &ledger, args)?;

    let mut changes = Vec::new();
    let planned = change(
        &mut story,
        &cluster,
        &ledger,
        &clients,
        Fault::Switchover,
        "Change the primary on purpose: batonctl switchover",
    )?;
    changes.push(("switchover", planned));
    let title = "Kill the primary's server under load (SIGKILL)";
    changes.push(("killed primary", change(&mut story, &cluster, &ledger, &clients, Fault::Killed, title)?));
    let title = "Cut the primary's host off from everybody";
    changes.push(("host cut off", change(&mut story, &cluster, &ledger, &clients, Fault::CutOff, title)?));
    clients.stop()?;
    verify(bed, &mut story, &cluster, &ledger)?;

    story.step("Summary");
    for (what, stall) in changes {
        story.say(format!("{what:<16} writes stood still for {} ms", stall.as_millis()));
    }
    story.say(format!("{:<16} {} of {} commits that a client was told of", "lost", 0, ledger.len()));
    story.good(format!("everything that was checked holds, after {:.0} s", story.seconds()));
    if keep {
        look_around(&cluster, &mut story)?;
        loop {
            thread::park(); // SIGINT and SIGTERM stop everything that was started, and end the program.
        }
    }
    Ok(())
}

fn assemble(bed: &Bed, story: &mut Story) -> Result<Cluster> {
    story.step("Start a cluster, each part on a host (a network namespace) of its own");
    let cluster = bed.cluster().nodes(3).relays(2).three_controllers().start()?;
    let host = |name: &str, at: String, what: &str| format!("{name:<13} {at:<18} {what}");
    for node in cluster.nodes() {
        let what = format!("MariaDB {}, and its agent", template::server_version()?);
        story.say(host(node.name(), node.host().ip().to_string(), &what));
    }
    for relay in cluster.relays() {
        let what = "relay: makes the primary's binlog durable, acknowledges commits, feeds replicas";
        story.say(host(relay.name(), relay.host().ip().to_string(), what));
    }
    for controller in cluster.controllers() {
        story.say(host(controller.name(), controller.host().ip().to_string(), "controller, and a member of etcd"));
    }
    story.say(host(
        "clients",
        cluster.client().ip().to_string(),
        &format!("write to {}, the virtual IP", cluster.vip()),
    ));
    let primary = cluster.primary()?;
    story.good(format!("batonctl bootstrap --primary {0}: {0} serves, and holds {1}", primary.name(), cluster.vip()));
    Ok(cluster)
}

/// Load, and the lag of the replicas as the relays tell it; one applier is stopped for a while.
fn lag(story: &mut Story, cluster: &Cluster, ledger: &Ledger, args: &Args) -> Result<()> {
    story.step(&format!(
        "{} clients write through the virtual IP; lag as the relays tell it (GET /v1/lag)",
        args.writers
    ));
    let slow = cluster.node("db-3")?;
    let (pause, resume) = (args.seconds / 4, args.seconds * 5 / 8);
    story.say(format!("{}'s applier is stopped from second {pause} to second {resume}", slow.name()));
    story.say(story.bold(&format!("{:>3} {:>10}  {:<24} {:<24}", "s", "commits/s", "db-2", "db-3")));
    let began = Instant::now();
    let mut before = ledger.len();
    for second in 1..=args.seconds {
        thread::sleep((began + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        if second == pause {
            slow.sql("STOP SLAVE SQL_THREAD")?;
        } else if second == resume {
            slow.sql("START SLAVE SQL_THREAD")?;
        }
        let now = ledger.len();
        let cells = ["db-2", "db-3"].map(|name| cluster.node(name).map(|node| lag_of(cluster, node)));
        let [second_node, third] = cells;
        let (cell_2, cell_3) = (second_node?, third?);
        let third = if cell_3.1 { story.warn(&cell_3.0) } else { cell_3.0 };
        story.say(format!("{second:>3} {:>10}  {:<24} {third}", now - before, cell_2.0));
        before = now;
    }
    Ok(())
}

/// A replica's applied lag in few words, and whether it lags: `12 commits, 37 ms: apply`.
fn lag_of(cluster: &Cluster, node: &Node) -> (String, bool) {
    for relay in cluster.relays() {
        let lag = relay.json("/v1/lag").unwrap_or_default();
        let listed = lag["replicas"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let found = listed.rev().find(|r| r["server_id"] == node.server_id() && r["state"] != "gone").cloned();
        let Some(replica) = found else { continue };
        let applied = &replica["applied"];
        if let (Some(count), Some(ms)) = (applied["lag_transactions"].as_u64(), applied["lag_ms"].as_u64()) {
            let by = replica["bottleneck"].as_str().map_or(String::new(), |by| format!(": {by}"));
            return (format!("{count} commits, {ms} ms{by}"), count > 0);
        }
    }
    ("not listed".to_owned(), true)
}

/// One change of primary under load; gives how long writes stood still.
fn change(
    story: &mut Story,
    cluster: &Cluster,
    ledger: &Ledger,
    clients: &Writers,
    fault: Fault,
    title: &str,
) -> Result<Duration> {
    story.step(title);
    let old = cluster.wait_settled()?.clone();
    let epoch = cluster.epoch()?;
    story.say(format!("{} serves in epoch {epoch}", old.name()));
    let began = Instant::now();
    fault.inject(cluster, &old)?;
    clients.wait_elsewhere(&old)?;
    let new = cluster.wait_primary_other_than(&old)?;
    clients.wait_more(50)?;
    let stall = ledger.stall(began);
    story.good(format!(
        "{} serves in epoch {}; writes stood still for {}",
        new.name(),
        cluster.epoch()?,
        story.bold(&format!("{} ms", stall.as_millis()))
    ));
    stages(story, cluster)?;
    if fault == Fault::CutOff {
        let gone = || old.holds(cluster.vip());
        wait_until("the address to leave the old host", gone, |holds| !holds)?;
        story.good(format!("nobody reaches {}: it gave its address up, and stopped its server, by itself", old.name()));
    }
    fault.end(&old)?;
    story.check(&format!("{} is back, as a replica", old.name()), || {
        cluster.wait_settled()?;
        ensure!(old.read_only()? && old.replicates()?, "{:?}", old.slave_status()?);
        Ok(())
    })?;
    Ok(stall)
}

/// What the history says of the last operation.
fn stages(story: &Story, cluster: &Cluster) -> Result<()> {
    let history =
        wait_until("the history", || cluster.history(cluster.epoch()?), |history| history["outcome"] == "done")?;
    if let Some(reason) = history["cause"]["reason"].as_str() {
        story.say(format!("why: {reason} (says {})", history["cause"]["by"].as_str().unwrap_or("nobody")));
    }
    let stages = history["stages"].as_array().into_iter().flatten();
    let told: Vec<_> = stages
        .filter_map(|stage| Some(format!("{} at {} ms", stage["name"].as_str()?, stage["at_ms"].as_u64()?)))
        .collect();
    story.say(format!("how: {}", told.join(", ")));
    Ok(())
}

fn verify(bed: &Bed, story: &mut Story, cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    story.step("Nothing was lost, nothing stands twice, nobody wrote aside");
    let primary = cluster.wait_settled()?.clone();
    story.check(
        &format!("each of {} commits that a client was told of is on {}, once", ledger.len(), primary.name()),
        || ledger.check_against(&primary),
    )?;
    story.check("all servers hold the same (CHECKSUM TABLE)", || cluster.check(&[ledger]))?;
    let state = cluster.state()?;
    let acker = cluster.relay(state["grant_holder"].as_str().context("nobody holds the grant")?)?;
    story.check(
        &format!("mariadb-binlog replays {}'s log: one sequence, across all primaries, each commit once", acker.name()),
        || {
            let files = log_files(bed, acker.name())?;
            let text = binlog_text(&bed.path("mariadb-binlog"), &files, &["--base64-output=DECODE-ROWS", "--verbose"])?;
            let told = ledger.len();
            let rows = text.matches("INSERT INTO `test`.`ledger`").count();
            ensure!(rows >= told, "{rows} rows in the log, {told} commits told");
            Ok(())
        },
    )
}

/// The log files of a relay, oldest first.
fn log_files(bed: &Bed, relay: &str) -> Result<Vec<std::path::PathBuf>> {
    let dir = bed.path(relay).join("data");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("no {}", dir.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    let numbered = |path: &std::path::Path| {
        path.extension()
            .and_then(|ext| ext.to_str())
            .is_some_and(|ext| ext.len() == 6 && ext.bytes().all(|b| b.is_ascii_digit()))
    };
    files.retain(|path| numbered(path));
    files.sort();
    Ok(files)
}

fn look_around(cluster: &Cluster, story: &mut Story) -> Result<()> {
    story.step("It stays up: look around from another terminal, end with Ctrl-C");
    let endpoints: Vec<_> = cluster.controllers().iter().map(|c| format!("http://{}", c.http())).collect();
    let client = format!("nsenter --net={}", cluster.client().netns().display());
    story.say(format!(
        "{client} {} --endpoints {} --token-file {} status",
        baton_testbed::binaries::binary("batonctl")?.display(),
        endpoints.join(","),
        cluster.token_file()
    ));
    story.say(format!("{client} mariadb --no-defaults -h {} -u app -p{}", cluster.vip(), template::APP_PASSWORD));
    for node in cluster.nodes() {
        story.say(format!(
            "{:<13} mariadb --no-defaults --user=root --socket={}",
            node.name(),
            node.socket().display()
        ));
    }
    for part in cluster.relays().iter().chain(cluster.controllers()) {
        let url = if part.name().starts_with("relay") { "/v1/lag" } else { "/v1/cluster" };
        story.say(format!("{:<13} {client} curl http://{}{url}", part.name(), part.http()));
    }
    story.say(format!("logs and configuration: {}", cluster.bed().root().display()));
    procs::on_signal(|| println!("\nstopped, and cleaned up"));
    let _view: Value = cluster.view()?;
    story.say("waiting for Ctrl-C");
    Ok(())
}
