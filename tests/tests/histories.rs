//! A primary whose history is not the log's: nothing is skipped, nothing is merged; the state names the cause and what resolves it.

use std::fs::OpenOptions;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Cmd, DEADLINE, Fleet, Kind, Plan, RelayProc, relay, scenario, wait_until, witness};
use serde_json::Value;

fn insert(fleet: &Fleet, rows: u32) -> Result<()> {
    fleet.primary.sql("CREATE TABLE IF NOT EXISTS test.t (id INT AUTO_INCREMENT PRIMARY KEY, filler VARCHAR(50))")?;
    for _ in 0..rows {
        fleet.primary.sql("INSERT INTO test.t (filler) VALUES ('x')")?;
    }
    Ok(())
}

/// Waits for a state of the upstream that comes with an error that says `words` and a hint that says `hint`.
fn told(relay: &RelayProc, state: &str, words: &str, hint: &str) -> Result<Value> {
    let seen = wait_until(
        &format!("the state {state}"),
        || Ok(relay.status()?["upstream"].clone()),
        |upstream| upstream["state"] == state && upstream["error"].as_str().is_some_and(|text| text.contains(words)),
    )?;
    ensure!(seen["hint"].as_str().is_some_and(|text| text.contains(hint)), "a hint with {hint:?} was to come: {seen}");
    Ok(seen)
}

/// Sizes of the log's files: what must not change while the histories differ.
fn sizes(relay: &RelayProc) -> Result<Vec<u64>> {
    witness::log_files(relay)?.iter().map(|path| Ok(path.metadata()?.len())).collect()
}

/// `baton-relay reset-log`, as the hint says.
fn reset_log(relay: &RelayProc) -> Result<()> {
    relay.term()?;
    let stem = relay.data_dir().with_file_name("reset-log");
    let said =
        Cmd::new(relay::binary()?).args(["reset-log", "--config"]).arg(relay.config_file()).run(&stem, DEADLINE)?;
    ensure!(said.contains("old-"), "where the log lies now was to be told: {said}");
    relay.restart()
}

#[test]
fn purged_position_stops_the_relay_without_a_gap_until_the_log_is_reset() {
    scenario("purged", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).start(bed)?;
        insert(&fleet, 5)?;
        fleet.check()?;
        let head = fleet.relay.head_gtid()?;
        fleet.relay.term()?;
        for _ in 0..3 {
            insert(&fleet, 5)?;
            fleet.primary.sql("FLUSH BINARY LOGS")?;
        }
        let (last, _) = fleet.primary.master_status()?;
        let dumps = "SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
        wait_until("the primary to forget the relay", || fleet.primary.value(dumps), |count| count == "0")?;
        // A file that crash recovery may need stays for a moment.
        let purge = || {
            fleet.primary.sql(&format!("PURGE BINARY LOGS TO '{last}'"))?;
            fleet.primary.binlogs()
        };
        wait_until("the files to be purged", purge, |files| *files == [last.as_str()])?;
        fleet.relay.restart()?;
        let before = sizes(&fleet.relay)?;
        told(&fleet.relay, "stopped", "purged", "reset-log")?;
        insert(&fleet, 1)?;
        ensure!(fleet.relay.head_gtid()? == head && sizes(&fleet.relay)? == before, "the log has moved over a gap");
        ensure!(fleet.relay.get("/readyz")?.0 == 200, "what is there can still be served");
        // The new log begins behind what the replica has: that is told as a server would.
        reset_log(&fleet.relay)?;
        fleet.relay.wait_head(&fleet.primary)?;
        let status = wait_until(
            "the replica to be told",
            || fleet.replicas[0].slave_status(),
            |status| status["Last_IO_Errno"] == "1236",
        )?;
        ensure!(status["Slave_IO_Running"] == "No", "{status:?}");
        Ok(())
    });
}

#[test]
fn reset_of_the_primary_is_a_diverged_history_that_reset_log_resolves() {
    scenario("reset_master", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).start(bed)?;
        insert(&fleet, 20)?;
        fleet.primary.sql("FLUSH BINARY LOGS")?;
        insert(&fleet, 20)?;
        fleet.check()?;
        let (head, before) = (fleet.relay.head_gtid()?, sizes(&fleet.relay)?);
        fleet.primary.sql("RESET MASTER")?;
        insert(&fleet, 5)?;
        told(&fleet.relay, "diverged", "primary", "reset-log")?;
        ensure!(fleet.relay.head_gtid()? == head && sizes(&fleet.relay)? == before, "two histories were merged");
        // The replica is brought in line as an operator would: it has the rows already.
        let replica = &fleet.replicas[0];
        replica.stop_slave()?;
        reset_log(&fleet.relay)?;
        fleet.relay.wait_head(&fleet.primary)?;
        replica.sql("RESET SLAVE; SET GLOBAL gtid_slave_pos=''; DROP TABLE test.t")?;
        fleet.primary.sql("RESET MASTER; DROP TABLE test.t")?;
        told(&fleet.relay, "diverged", "primary", "reset-log")?;
        reset_log(&fleet.relay)?;
        fleet.primary.sql("CREATE TABLE test.u (id INT PRIMARY KEY)")?;
        replica.sql("SET GLOBAL gtid_slave_pos='0-1-1'")?;
        replica.start_slave()?;
        fleet.check().map(drop)
    });
}

#[test]
fn primary_that_lost_the_tail_of_its_binlog_is_diverged() {
    scenario("lost_tail", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).start(bed)?;
        insert(&fleet, 10)?;
        fleet.check()?;
        let (file, earlier) = fleet.primary.master_status()?;
        insert(&fleet, 10)?;
        fleet.check()?;
        let (head, before) = (fleet.relay.head_gtid()?, sizes(&fleet.relay)?);
        // As after a power cut with sync_binlog=0: the last transactions are not in the file any more.
        fleet.primary.kill9()?;
        OpenOptions::new().write(true).open(fleet.primary.binlog_path(&file))?.set_len(earlier)?;
        fleet.primary.restart()?;
        told(&fleet.relay, "diverged", "lacks what the log holds", "reset-log")?;
        // It reuses numbers, and comes past the log's: still another history.
        insert(&fleet, 15)?;
        fleet.relay.term()?;
        fleet.relay.restart()?;
        let upstream = || Ok(fleet.relay.status()?["upstream"].clone());
        let seen = wait_until("the relay to judge", upstream, |upstream| upstream["error"].is_string())?;
        ensure!(seen["state"] == "diverged", "{seen}");
        ensure!(fleet.relay.head_gtid()? == head && sizes(&fleet.relay)? == before, "two histories were merged");
        reset_log(&fleet.relay)?;
        fleet.relay.wait_head(&fleet.primary)?;
        witness::check_mirror(&fleet.primary, &fleet.relay)?;
        witness::check_each_once(&fleet.relay).map(drop)
    });
}

#[test]
fn another_server_under_the_same_address_is_diverged_and_the_right_one_is_followed_again() {
    scenario("another_server", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).proxies().start(bed)?;
        insert(&fleet, 10)?;
        fleet.check()?;
        let before = sizes(&fleet.relay)?;
        let stranger = bed.mariadb("stranger").server_id(50).start()?;
        let twin = bed.mariadb("twin").server_id(1).start()?;
        for other in [&stranger, &twin] {
            other.sql("CREATE TABLE test.other (id INT PRIMARY KEY, filler VARCHAR(3000))")?;
            for id in 0..20 {
                other.sql(&format!("INSERT INTO test.other VALUES ({id}, REPEAT('y', 2900))"))?;
            }
        }
        for (other, words) in [(&stranger, "server 50"), (&twin, "the primary")] {
            fleet.upstream()?.set_target(other.address());
            fleet.upstream()?.cut_now();
            let seen = told(&fleet.relay, "diverged", words, "reset-log")?;
            ensure!(sizes(&fleet.relay)? == before, "two histories were merged: {seen}");
            fleet.upstream()?.set_target(fleet.primary.address());
            fleet.upstream()?.cut_now();
            let streaming = || Ok(fleet.relay.status()?["upstream"]["state"].as_str().context("no state")?.to_owned());
            wait_until("the right server to be followed again", streaming, |state| state == "streaming")?;
        }
        insert(&fleet, 5)?;
        fleet.check().map(drop)
    });
}
