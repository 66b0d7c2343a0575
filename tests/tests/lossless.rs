//! The relay's acknowledgement is a promise: what a client saw succeed is in the relay's log, and nothing lets a commit return without it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Bed, MariaDb, RelayProc, RowWriter, Source, scenario, wait_until};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-for-tests";

/// A primary that waits for an acknowledgement as long as it takes.
fn lossless_primary(bed: &Bed) -> Result<MariaDb> {
    let primary = bed.mariadb("primary").server_id(1).durable(true).option("--gtid-strict-mode=ON").start()?;
    Ok(primary)
}

/// Switched on once the relay is attached: before, the first commit would wait for ever.
fn wait_for_acks(primary: &MariaDb) -> Result<()> {
    primary.sql("SET GLOBAL rpl_semi_sync_master_timeout=4294967295")?;
    primary.sql("SET GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC")?;
    primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=ON")?;
    Ok(())
}

fn relay(bed: &Bed, primary: &MariaDb) -> Result<RelayProc> {
    let token = bed.path("token");
    fs::write(&token, TOKEN)?;
    let path = format!("{:?}", token.display().to_string());
    bed.relay("relay-1").upstream(primary).ack("durable").set("listen", "token_file", &path).start()
}

fn acking(relay: &RelayProc) -> Result<()> {
    wait_until(
        "the relay to acknowledge",
        || Ok(relay.status()?["upstream"]["acking"].clone()),
        |v| *v == json!(true),
    )?;
    Ok(())
}

fn waiting_commits(primary: &MariaDb) -> Result<u64> {
    let rows = primary.sql("SHOW STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'")?;
    Ok(rows.first().and_then(|r| r.get(1)).cloned().flatten().context("no such status")?.parse()?)
}

fn progress(writer: &RowWriter, rows: u64) -> Result<u64> {
    let from = writer.confirmed();
    wait_until("commits to return", || Ok(writer.confirmed()), |n| *n >= from + rows)
}

fn unprotected(primary: &MariaDb) -> Result<String> {
    let rows = primary.sql("SHOW STATUS LIKE 'Rpl_semi_sync_master_no_tx'")?;
    rows.first().and_then(|r| r.get(1)).cloned().flatten().context("no such status")
}

#[test]
fn commits_wait_while_the_relay_is_gone_and_none_returns_unprotected() {
    scenario("commits_wait_for_the_relay", |bed| {
        let primary = lossless_primary(bed)?;
        let relay = relay(bed, &primary)?;
        acking(&relay)?;
        wait_for_acks(&primary)?;
        let writer = RowWriter::start(&primary, "t", 8, Duration::ZERO)?;
        for _ in 0..3 {
            progress(&writer, 50)?;
            relay.kill9()?;
            wait_until("commits to wait", || waiting_commits(&primary), |n| *n >= 1)?;
            relay.restart()?;
            progress(&writer, 50)?;
        }
        ensure!(relay.term()?.success(), "the relay did not stop cleanly");
        wait_until("commits to wait", || waiting_commits(&primary), |n| *n >= 1)?;
        relay.restart()?;
        progress(&writer, 50)?;
        writer.stop()?;
        ensure!(
            unprotected(&primary)? == "0",
            "{} commits returned without an acknowledgement",
            unprotected(&primary)?
        );
        ensure!(
            relay.metric("baton_relay_upstream_acks_total")?.unwrap_or(0.0) > 0.0,
            "no acknowledgement was counted"
        );
        let warnings = relay.status()?["upstream"]["warnings"].clone();
        ensure!(warnings == json!([]), "{warnings}");
        Ok(())
    });
}

#[test]
fn primary_and_relay_killed_at_once_and_the_primary_destroyed_lose_no_commit() {
    for round in 0..3 {
        scenario(&format!("both_killed_{round}"), |bed| {
            let primary = lossless_primary(bed)?;
            let relay = relay(bed, &primary)?;
            acking(&relay)?;
            wait_for_acks(&primary)?;
            let writer = RowWriter::start(&primary, "t", 64, Duration::ZERO)?;
            // The moment is random by nature: how far 64 writers have come.
            progress(&writer, 300 + round * 211)?;
            relay.kill9()?;
            primary.kill9()?;
            let written = writer.stop()?;
            fs::remove_dir_all(primary.datadir())?;

            relay.restart()?;
            let replica = bed.mariadb("fresh").server_id(2).start()?;
            replica.replicate_from(&Source::gtid(relay.port()))?;
            let head = relay.head_gtid()?;
            wait_until("the fresh replica to have all", || replica.gtid_slave_pos(), |pos| *pos == head)?;
            let lost = written.lost_on(&replica, "test.t", 10)?;
            ensure!(lost.is_empty(), "of {} confirmed commits these are lost: {lost:?}", written.confirmed.len());
            ensure!(written.confirmed.len() > 300);
            Ok(())
        });
    }
}

fn promise(relay: &RelayProc, grant: [u64; 2]) -> Result<(u16, Value)> {
    let (status, body) = relay.post("/v1/promise", TOKEN, &json!({"term": 1, "grant": grant}))?;
    Ok((status, serde_json::from_str(&body)?))
}

#[test]
fn a_promise_ends_the_acknowledging_for_ever_and_a_lower_one_is_refused_also_after_a_kill() {
    scenario("promise", |bed| {
        let primary = lossless_primary(bed)?;
        let relay = relay(bed, &primary)?;
        acking(&relay)?;
        wait_for_acks(&primary)?;
        let writer = RowWriter::start(&primary, "t", 8, Duration::ZERO)?;
        progress(&writer, 100)?;

        let (status, answer) = promise(&relay, [7, 1])?;
        relay.kill9()?; // at once: the answer must hold all the same
        ensure!(
            status == 200 && answer["promised"] == json!([7, 1]) && answer["complete"] == json!(true),
            "{status}: {answer}"
        );
        wait_until("commits to wait", || waiting_commits(&primary), |n| *n >= 1)?;
        let confirmed = writer.confirmed();
        relay.restart()?;

        let status = relay.status()?;
        ensure!(
            status["upstream"]["state"] == "stopped" && status["upstream"]["holds_grant"] == json!(false),
            "{status}"
        );
        ensure!(
            relay.head_gtid()? == answer["tail"]["gtid"].as_str().unwrap_or_default(),
            "the log moved after the promise"
        );
        let (refused, body) = promise(&relay, [6, 9])?;
        ensure!(refused == 409 && body["promised"] == json!([7, 1]) && body["hint"].is_string(), "{refused}: {body}");
        let (again, body) = promise(&relay, [7, 1])?;
        ensure!(again == 200 && body["tail"] == answer["tail"], "{again}: {body}");
        let (higher, _) = promise(&relay, [8, 1])?;
        ensure!(higher == 200);
        ensure!(
            waiting_commits(&primary)? >= 1 && writer.confirmed() == confirmed,
            "a commit returned after the promise"
        );

        // Whoever is certain takes the grant back by hand; then what waited completes.
        relay.term()?;
        let binary = baton_testbed::relay::binary()?;
        let config = relay.config_file().display().to_string();
        let taken = std::process::Command::new(binary).args(["take-grant", "--config", &config]).output()?;
        ensure!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
        relay.restart()?;
        acking(&relay)?;
        progress(&writer, 50)?;
        let (late, _) = promise(&relay, [8, 1])?;
        ensure!(late == 409, "a grant that was taken over was promised again");
        writer.stop()?;
        Ok(())
    });
}
