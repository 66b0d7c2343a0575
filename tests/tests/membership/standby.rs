//! Relays that are fed by the one that acknowledges, and take over from it.

use std::thread;

use anyhow::{Result, ensure};
use baton_testbed::{RelayProc, compare, scenario, wait_until, witness};
use serde_json::json;

use crate::support::*;

/// Waits until a relay mirrors another one.
fn mirrors(standby: &RelayProc, acker: &RelayProc) -> Result<()> {
    let address = acker.address().to_string();
    let seen = wait_until(
        &format!("{} to follow {}", standby.name(), acker.name()),
        || standby.status(),
        |s| s["upstream"]["state"] == "streaming" && s["upstream"]["address"] == address.as_str(),
    )?;
    ensure!(seen["upstream"]["acking"] == false && seen["upstream"]["holds_grant"] == false, "{seen}");
    ensure!(seen["membership"]["follows"] == "relay" && seen["membership"]["of"] == acker.name(), "{seen}");
    Ok(())
}

/// Waits until two relays have the same head, and compares all their files.
fn equal(one: &RelayProc, two: &RelayProc) -> Result<()> {
    let head = one.status()?["log"]["head"]["gtid"].clone();
    wait_until("the other relay to have it all", || two.status(), |s| s["log"]["head"]["gtid"] == head)?;
    let (left, right) = (witness::log_files(one)?, witness::log_files(two)?);
    ensure!(left.len() == right.len(), "{left:?} and {right:?}");
    for (left, right) in left.iter().zip(&right) {
        ensure!(left.file_name() == right.file_name(), "{left:?} and {right:?}");
        compare::cmp_files(left, right)?;
    }
    let epochs = |relay: &RelayProc| -> Result<serde_json::Value> {
        let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(relay.data_dir().join("meta.json"))?)?;
        Ok(meta["epochs"].clone())
    };
    // Where an epoch began is stored a moment after it is known.
    wait_until("equal descriptions", || Ok((epochs(one)?, epochs(two)?)), |(left, right)| left == right)?;
    Ok(())
}

#[test]
fn a_standby_mirrors_the_acker_to_the_byte_across_a_failover_and_its_replicas_stay() {
    scenario("mirror", |bed| {
        let cluster = Cluster::start(bed, 3)?;
        let [one, two, three] = [0, 1, 2].map(|i| cluster.servers[i].clone());
        let (acker, standby) = (cluster.relay(1).start()?, cluster.relay(2).start()?);
        cluster.bootstrap(&acker)?;
        mirrors(&standby, &acker)?;
        attach(&two, &acker)?;
        attach(&three, &standby)?;
        insert(&one, 20)?;
        one.sql("FLUSH BINARY LOGS")?;
        insert(&one, 20)?;
        compare::wait_caught_up(&one, &three)?;
        equal(&acker, &standby)?;
        let attached = |relay: &RelayProc| -> Result<serde_json::Value> { Ok(relay.status()?["replicas"].clone()) };
        let before = attached(&standby)?[0]["connection"].clone();
        two.sql("FLUSH BINARY LOGS")?;
        one.kill9()?;
        cluster.fail_over(&acker, &one, [1, 1], &two)?;
        insert(&two, 20)?;
        two.sql("FLUSH BINARY LOGS")?;
        insert(&two, 20)?;
        compare::wait_caught_up(&two, &three)?;
        compare::compare_tables(&two, &three, &["test"])?;
        ensure!(attached(&standby)?[0]["connection"] == before, "the replica had to connect anew");
        equal(&acker, &standby)?;
        witness::check_each_once(&standby)?;
        Ok(())
    });
}

#[test]
fn a_standby_takes_over_in_the_middle_of_an_epoch_and_the_old_acker_mirrors_it() {
    scenario("takes_over", |bed| {
        let cluster = Cluster::start(bed, 1)?;
        let one = cluster.servers[0].clone();
        let (acker, standby) = (cluster.relay(1).start()?, cluster.relay(2).start()?);
        cluster.bootstrap(&acker)?;
        mirrors(&standby, &acker)?;
        insert(&one, 10)?;
        equal(&acker, &standby)?;
        // What the acker has acknowledged while the standby was away, and what nobody has.
        standby.kill9()?;
        insert(&one, 10)?;
        acker.kill9()?;
        let writer = one.clone();
        let waiting = thread::spawn(move || insert(&writer, 5));
        let waits = "SELECT VARIABLE_VALUE FROM information_schema.global_status WHERE VARIABLE_NAME = 'Rpl_semi_sync_master_wait_sessions'";
        wait_until("the commit to wait", || one.value(waits), |n| n == "1")?;
        standby.restart()?;
        // The standby takes the rest from the primary itself, and acknowledges from there on.
        let after = one.gtid_binlog_pos()?;
        cluster.write(&one, [1, 2], Some(&standby), &json!({"grant_after": after}))?;
        streams(&standby, &one, true)?;
        waiting.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        insert(&one, 5)?;
        acker.restart()?;
        mirrors(&acker, &standby)?;
        equal(&standby, &acker)?;
        witness::check_mirror(&one, &acker)?;
        Ok(())
    });
}

#[test]
fn what_only_an_old_acker_has_is_told_as_diverged_and_never_merged() {
    scenario("surplus", |bed| {
        let cluster = Cluster::start(bed, 2)?;
        let [one, two] = [0, 1].map(|i| cluster.servers[i].clone());
        let (acker, standby) = (cluster.relay(1).start()?, cluster.relay(2).start()?);
        cluster.bootstrap(&acker)?;
        mirrors(&standby, &acker)?;
        attach(&two, &standby)?;
        insert(&one, 10)?;
        compare::wait_caught_up(&one, &two)?;
        standby.kill9()?;
        insert(&one, 5)?;
        acker.kill9()?;
        one.kill9()?;
        // Forced: the standby's shorter log is the truth from here on.
        standby.restart()?;
        cluster.fail_over(&standby, &one, [1, 1], &two)?;
        insert(&two, 20)?;
        acker.restart()?;
        let seen = wait_until(
            "the surplus to be told",
            || Ok(acker.status()?["upstream"].clone()),
            |u| {
                u["state"] == "diverged"
                    || u["state"] == "stopped" && u["error"].as_str().is_some_and(|e| e.contains("goes on"))
            },
        )?;
        ensure!(seen["hint"].as_str().is_some_and(|h| h.contains("reset-log")), "{seen}");
        Ok(())
    });
}
