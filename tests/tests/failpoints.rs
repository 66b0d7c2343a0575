//! A relay that is killed, or whose disk fails, at each write, sync, rename and send of log and acknowledgement, on a real disk: what a client saw succeed is in
//! its log, whatever happened and wherever.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Bed, DEADLINE, MariaDb, Proxy, RelayProc, RowWriter, cmp_prefix, scenario, seeded, wait_until};
use rand::Rng;
use serde_json::{Value, json};

const TOKEN: &str = "a-token-for-tests";

/// A primary that waits for acknowledgements, a network between, and somebody who commits.
struct Site<'a> {
    bed: &'a Bed,
    primary: MariaDb,
    network: Proxy,
    writer: RowWriter,
    /// Transactions before the writer's first row.
    base: u64,
}

impl<'a> Site<'a> {
    fn new(bed: &'a Bed) -> Result<Self> {
        let primary = bed
            .mariadb("primary")
            .durable(true)
            .option("--rpl-semi-sync-master-timeout=4294967295")
            .option("--rpl-semi-sync-master-wait-point=AFTER_SYNC")
            .start()?;
        let network = Proxy::start(primary.address())?;
        let writer = RowWriter::start(&primary, "load", 4, Duration::ZERO)?;
        wait_until("the first commits", || Ok(writer.confirmed()), |n| *n > 0)?;
        let first = primary.value("SELECT COUNT(*) FROM test.load")?.parse::<u64>()?;
        ensure!(first > 0);
        primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=ON")?;
        fs::write(bed.path("token"), TOKEN)?;
        // The table is the one transaction that is no row.
        Ok(Self { bed, primary, network, writer, base: 1 })
    }

    fn relay(&self, name: &str, plan: &str, trace: Option<&PathBuf>) -> Result<RelayProc> {
        fs::write(self.plan(name), plan)?;
        let token = format!("{:?}", self.bed.path("token").display().to_string());
        let relay = self
            .bed
            .relay(name)
            .upstream_ports(&[self.network.port()])
            .ack("durable")
            .set("listen", "token_file", &token)
            .env("BATON_FAILPOINT", &self.plan(name).display().to_string())
            .without_waiting();
        match trace {
            Some(trace) => relay.env("BATON_FAILPOINT_TRACE", &trace.display().to_string()).start(),
            None => relay.start(),
        }
    }

    fn plan(&self, name: &str) -> PathBuf {
        self.bed.path(format!("{name}.failpoint"))
    }

    fn commits_go_on(&self) -> Result<()> {
        let goal = self.writer.confirmed() + 20;
        wait_until("commits to return", || Ok(self.writer.confirmed()), |n| *n >= goal).map(drop)
    }

    /// What the relay finds on its disk, alone, holds all that any client saw succeed. Then it goes on.
    fn check(&self, relay: &RelayProc) -> Result<()> {
        self.network.refuse(true);
        self.network.cut_now();
        fs::write(self.plan(relay.name()), "")?;
        relay.kill9().ok();
        relay.restart()?;
        relay.wait_ready()?;
        let confirmed = self.writer.confirmed();
        let head = relay.status()?["log"]["head"]["gtid"].as_str().map(str::to_owned);
        let head = match head {
            Some(head) => head,
            None => relay.head_gtid()?,
        };
        let last = head.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
        ensure!(last >= confirmed + self.base, "{confirmed} commits were confirmed, the log ends at {head}");
        self.network.refuse(false);
        self.commits_go_on()
    }

    /// The relay's files are the primary's.
    fn same_files(&self, relay: &RelayProc) -> Result<()> {
        relay.wait_head(&self.primary)?;
        for file in self.primary.binlogs()? {
            let path = self.primary.binlog_path(&file);
            let end = fs::metadata(relay.log_path(&file)?)?.len();
            cmp_prefix(&path, &relay.log_path(&file)?, end as usize, &[21])?;
        }
        Ok(())
    }
}

/// All points that a relay meets in its life.
fn points(site: &Site) -> Result<BTreeSet<String>> {
    let trace = site.bed.path("trace");
    let relay = site.relay("traced", "", Some(&trace))?;
    site.commits_go_on()?;
    site.primary.sql("FLUSH BINARY LOGS")?;
    site.commits_go_on()?;
    ensure!(relay.term()?.success());
    relay.restart()?;
    site.commits_go_on()?;
    ensure!(relay.term()?.success());
    let points: BTreeSet<String> = fs::read_to_string(&trace)?.lines().map(str::to_owned).collect();
    for expected in
        ["write-binlog", "sync-binlog", "write-mark", "rename-meta.json", "sync-directory", "send-ack", "sent-ack"]
    {
        ensure!(points.contains(expected), "{expected} is not among {points:?}");
    }
    Ok(points)
}

#[test]
fn killed_at_each_write_sync_rename_and_send_the_relay_holds_what_clients_saw_succeed() {
    scenario("failpoints", |bed| {
        let site = Site::new(bed)?;
        let mut random = seeded("failpoints");
        for (round, point) in points(&site)?.iter().enumerate() {
            let action = if point.starts_with("write") && random.random_bool(0.5) { "half" } else { "kill" };
            let often = point.contains("binlog") || point.contains("ack") || point.contains("mark");
            let nth = if often { random.random_range(1..30) } else { 1 };
            let plan = format!("{point}@{nth}={action}");
            let context = || plan.clone();
            let relay = site.relay(&format!("relay-{round}"), &plan, None).with_context(context)?;
            // New files give those points a chance that come with them.
            let died = wait_until(
                &format!("the relay to die at {plan}"),
                || {
                    site.primary.sql("FLUSH BINARY LOGS").ok();
                    Ok(relay.proc().ok().is_none_or(|proc| proc.wait_exit(Duration::from_millis(200)).is_some()))
                },
                |died| *died,
            );
            if died.is_err() && !often {
                // Met only at a stop or a second start.
                relay.term().ok();
                relay.restart().ok();
            }
            site.check(&relay).with_context(context)?;
            site.same_files(&relay).with_context(context)?;
            relay.term().ok();
        }
        site.writer.stop().map(drop)
    });
}

#[test]
fn disk_that_fails_a_sync_a_write_or_all_changes_loses_nothing_that_was_acknowledged() {
    scenario("failing_operations", |bed| {
        let site = Site::new(bed)?;
        for (round, plan) in
            ["sync-binlog@7=eio", "write-binlog@9=eio", "sync-directory@4=eio", "any@60=erofs"].iter().enumerate()
        {
            let context = || (*plan).to_owned();
            let relay = site.relay(&format!("relay-{round}"), plan, None).with_context(context)?;
            let errors = || Ok(relay.metric("baton_relay_log_write_errors_total").ok().flatten().unwrap_or_default());
            site.primary.sql("FLUSH BINARY LOGS").ok();
            if plan.ends_with("erofs") {
                wait_until("the log to be read only", errors, |n| *n > 0.0).with_context(context)?;
                wait_until("/readyz to say so", || relay.get("/readyz"), |(code, _)| *code == 503)
                    .with_context(context)?;
                fs::remove_file(site.plan(relay.name()))?;
                wait_until("the relay to go on", || relay.get("/readyz"), |(code, _)| *code == 200)
                    .with_context(context)?;
            }
            site.commits_go_on().with_context(context)?;
            site.check(&relay).with_context(context)?;
            site.same_files(&relay).with_context(context)?;
            relay.term().ok();
        }
        site.writer.stop().map(drop)
    });
}

fn promise(relay: &RelayProc, grant: [u64; 2]) -> Result<(u16, Value)> {
    let (status, body) = relay.post("/v1/promise", TOKEN, &json!({"term": 1, "grant": grant}))?;
    Ok((status, serde_json::from_str(&body)?))
}

#[test]
fn promise_whose_record_fails_is_not_given_and_one_that_a_kill_interrupts_holds_or_does_not() {
    scenario("promise_fails", |bed| {
        let site = Site::new(bed)?;
        let relay = site.relay("relay", "", None)?;
        site.commits_go_on()?;
        for action in ["write-promise@2=eio", "sync-promise@2=eio"] {
            relay.term()?;
            fs::write(site.plan("relay"), action)?;
            relay.restart()?;
            site.commits_go_on()?;
            let (status, body) = promise(&relay, [5, 1])?;
            ensure!(status == 503 && body["hint"].is_string(), "{action}: {status}: {body}");
            // It was not given: the relay acknowledges on.
            site.commits_go_on().context(action)?;
            ensure!(relay.status()?["upstream"]["holds_grant"] == json!(true), "{action}");
        }
        // Killed in the middle of it: nothing was answered, so either may be found; what is found holds.
        relay.term()?;
        fs::write(site.plan("relay"), "sync-promise@2=kill")?;
        relay.restart()?;
        site.commits_go_on()?;
        ensure!(promise(&relay, [6, 1]).is_err(), "an answer came from the dead");
        let gone = || Ok(relay.proc().ok().is_none_or(|proc| proc.wait_exit(DEADLINE).is_some()));
        wait_until("the relay to die", gone, |gone| *gone)?;
        fs::write(site.plan("relay"), "")?;
        relay.restart()?;
        relay.wait_ready()?;
        let holds = relay.status()?["upstream"]["holds_grant"] == json!(true);
        if holds {
            site.commits_go_on()?;
        } else {
            let (status, _) = promise(&relay, [5, 9])?;
            ensure!(status == 409, "a lower one was given: {status}");
        }
        let (status, body) = promise(&relay, [7, 1])?;
        ensure!(status == 200 && body["complete"] == json!(true), "{status}: {body}");
        let confirmed = site.writer.confirmed();
        let tail = body["tail"]["gtid"].as_str().unwrap_or_default().to_owned();
        let last = tail.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
        ensure!(last >= confirmed + site.base, "{confirmed} commits were confirmed, the tail is {tail}");
        site.primary.kill9()?;
        site.writer.stop().map(drop)
    });
}
