//! One log across primaries.

use anyhow::{Result, ensure};
use baton_testbed::{Bed, compare, scenario, wait_until, witness};
use serde_json::json;

use crate::support::*;

/// The size of a file.
fn len(path: &std::path::Path) -> Result<usize> {
    Ok(usize::try_from(path.metadata()?.len())?)
}

fn one_log_across_two_failovers(bed: &Bed) -> Result<()> {
    let cluster = Cluster::start(bed, 4)?;
    let [one, two, three] = [0, 1, 2].map(|i| cluster.servers[i].clone());
    let relay = cluster.relay(1).start()?;
    wait_until("the announcement", || cluster.announced(&relay), |a| a["held"] == true)?;
    cluster.bootstrap(&relay)?;
    attach(&two, &relay)?;
    attach(&three, &relay)?;
    insert(&one, 30)?;
    one.sql("FLUSH BINARY LOGS")?;
    insert(&one, 30)?;
    compare::wait_caught_up(&one, &three)?;
    let connection = || -> Result<serde_json::Value> {
        let status = relay.status()?;
        let mut attached = status["replicas"].as_array().into_iter().flatten();
        Ok(attached
            .rfind(|r| r["server_id"] == 3 && r["state"] == "streaming")
            .map_or(json!(null), |r| r["connection"].clone()))
    };
    let before = connection()?;
    ensure!(before.is_u64(), "db-3 is not attached");

    // db-1 dies; db-2, which has more files of its own behind it, is promoted.
    two.sql("FLUSH BINARY LOGS")?;
    one.kill9()?;
    cluster.fail_over(&relay, &one, [1, 1], &two)?;
    insert(&two, 20)?;
    two.sql("FLUSH BINARY LOGS")?;
    insert(&two, 20)?;
    compare::wait_caught_up(&two, &three)?;
    ensure!(connection()? == before, "the replica had to connect anew");
    three.check_replication()?;

    // And back to another one, whose files are far behind.
    two.kill9()?;
    cluster.fail_over(&relay, &two, [2, 1], &three)?;
    insert(&three, 20)?;
    relay.wait_head(&three)?;

    // Each transaction is there once; each file equals its primary's, from its first byte.
    ensure!(witness::check_each_once(&relay)? > 120, "too few transactions");
    let status = relay.status()?;
    ensure!(status["membership"]["epoch"] == 3 && status["membership"]["of"] == "db-3", "{status}");
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(relay.data_dir().join("meta.json"))?)?;
    let epochs = meta["epochs"].as_array().cloned().unwrap_or_default();
    ensure!(epochs.len() == 3, "{meta}");
    let files = witness::log_files(&relay)?;
    for path in &files {
        let number = number(&path.display().to_string())?;
        let epoch = epochs.iter().rev().find(|e| e["begin"][0].as_u64() <= Some(number)).cloned().unwrap_or_default();
        let server = &cluster.servers[epoch["server_id"].as_u64().unwrap_or(1) as usize - 1];
        let own = number as i64 - epoch["shift"].as_i64().unwrap_or(0);
        let original = server.binlog_path(&format!("mysql-bin.{own:06}"));
        // The bit that says that a file is in use is not of its content.
        compare::cmp_prefix(&original, path, len(path)?, &[21])?;
    }
    // A further replica reads all of it, and a restarted relay goes on where it was.
    relay.kill9()?;
    relay.restart()?;
    streams(&relay, &three, true)?;
    insert(&three, 5)?;
    let four = cluster.servers[3].clone();
    attach(&four, &relay)?;
    compare::wait_caught_up(&three, &four)?;
    compare::compare_tables(&three, &four, &["test"])?;
    four.check_replication()?;
    Ok(())
}

#[test]
fn replicas_stay_connected_while_the_log_goes_on_with_two_new_primaries() {
    scenario("epochs", one_log_across_two_failovers);
}

#[test]
fn a_commit_waits_from_the_promise_on_and_nothing_lower_is_taken_again() {
    scenario("promised", |bed| {
        let cluster = Cluster::start(bed, 2)?;
        let one = cluster.servers[0].clone();
        let relay = cluster.relay(1).start()?;
        cluster.bootstrap(&relay)?;
        insert(&one, 5)?;
        // An order of somebody who does not lead, and one that nobody asked for, change nothing.
        let term = cluster.term()?;
        for (term, grant) in [(term + 1, [2, 1]), (term, [2, 1])] {
            let (status, body) = relay.post("/v1/promise", TOKEN, &json!({"term": term, "grant": grant}))?;
            ensure!(status == 409, "{status}: {body}");
        }
        insert(&one, 5)?;
        let tail = cluster.promise(&relay, &one, [1, 1], [2, 1])?;
        ensure!(tail["gtid"] == one.gtid_binlog_pos()?.as_str(), "{tail}");
        told(&relay, "stopped", "[2,1] was promised")?;
        let writer = one.clone();
        let blocked = std::thread::spawn(move || insert(&writer, 1));
        let waiting = "SELECT VARIABLE_VALUE FROM information_schema.global_status WHERE VARIABLE_NAME = 'Rpl_semi_sync_master_wait_sessions'";
        wait_until("the commit to wait", || one.value(waiting), |n| n == "1")?;
        // The promise holds after a restart too, and against the state of before.
        relay.kill9()?;
        relay.restart()?;
        told(&relay, "stopped", "[2,1] was promised")?;
        ensure!(cluster.announced(&relay)?["held"] == false, "{}", cluster.announced(&relay)?);
        // A grant below it is not taken.
        cluster.steady(&one, [1, 2], Some(&relay))?;
        wait_until("the state to be seen", || relay.status(), |s| s["membership"]["follows"] == "none")?;
        ensure!(relay.status()?["upstream"]["holds_grant"] == false);
        one.kill9()?;
        let _ = blocked.join();
        Ok(())
    });
}

#[test]
fn losing_etcd_changes_nothing_and_a_restart_without_it_waits() {
    scenario("no_etcd", |bed| {
        let cluster = Cluster::start(bed, 1)?;
        let one = cluster.servers[0].clone();
        let relay = cluster.relay(1).start()?;
        cluster.bootstrap(&relay)?;
        insert(&one, 5)?;
        cluster.etcd.freeze()?;
        wait_until("the loss to be told", || relay.status(), |s| s["membership"]["etcd"]["healthy"] == false)?;
        insert(&one, 5)?;
        ensure!(relay.status()?["upstream"]["acking"] == true);
        let (status, body) = relay.post("/v1/promise", TOKEN, &json!({"term": 1, "grant": [2, 1]}))?;
        ensure!(status == 503 && body.contains("hint"), "{status}: {body}");
        insert(&one, 5)?;
        relay.kill9()?;
        relay.restart()?;
        told(&relay, "connecting", "etcd has not answered")?;
        cluster.etcd.thaw()?;
        streams(&relay, &one, true)?;
        insert(&one, 5)?;
        relay.wait_head(&one)
    });
}
