//! What a relay of a cluster does not follow.

use anyhow::ensure;
use baton_testbed::{scenario, wait_until};
use serde_json::json;

use crate::support::*;

#[test]
fn an_epoch_that_does_not_continue_the_log_is_never_begun() {
    scenario("not_continued", |bed| {
        let cluster = Cluster::start(bed, 2)?;
        let [one, two] = [0, 1].map(|i| cluster.servers[i].clone());
        let relay = cluster.relay(1).start()?;
        cluster.bootstrap(&relay)?;
        attach(&two, &relay)?;
        insert(&one, 10)?;
        let head = relay.head_gtid()?;
        let tail = cluster.promise(&relay, &one, [1, 1], [2, 1])?;
        one.kill9()?;
        let (first, shift) = cluster.prepare(&two, &tail)?;
        let gtid = tail["gtid"].as_str().unwrap_or_default().to_owned();

        // Each wrong record is an epoch of its own: what was given once is not given again.
        let wrong = |epoch: u64, file: &str, shift: i64| -> anyhow::Result<()> {
            cluster.epoch(epoch, &two, Some(file), shift, &gtid)?;
            cluster.steady(&two, [epoch, 1], Some(&relay))
        };
        wrong(2, "mysql-bin.000099", shift - 97)?;
        told(&relay, "stopped", "mysql-bin.000099")?;
        wrong(3, &first, shift - 1)?;
        told(&relay, "diverged", "lacks what the log holds")?;
        wrong(4, "mysql-bin.000001", shift + 1)?;
        told(&relay, "diverged", "the log ends at")?;
        let record = json!({"epoch": 5, "node": "db-2", "mysql": [two.address().to_string()], "server_id": 77,
                            "first_file": first, "shift": shift, "gtid": gtid});
        cluster.etcd.put("/baton/test/epochs/0000000005", &record)?;
        cluster.steady(&two, [5, 1], Some(&relay))?;
        told(&relay, "refused", "server_id 77")?;
        ensure!(relay.head_gtid()? == head, "the log has moved");

        // The right one is taken, whatever was tried before.
        wrong(6, &first, shift)?;
        streams(&relay, &two, true)?;
        cluster.open(&two)?;
        insert(&two, 3)?;
        relay.wait_head(&two)
    });
}

#[test]
fn a_relay_that_lost_its_log_does_not_take_the_grant_of_the_lost_one() {
    scenario("lost_log", |bed| {
        let cluster = Cluster::start(bed, 1)?;
        let one = cluster.servers[0].clone();
        let relay = cluster.relay(1).start()?;
        cluster.bootstrap(&relay)?;
        insert(&one, 5)?;
        let before = relay.status()?["log"]["id"].clone();
        relay.kill9()?;
        std::fs::remove_dir_all(relay.data_dir())?;
        relay.restart()?;
        let seen = told(&relay, "stopped", "what that had acknowledged is not here")?;
        ensure!(seen["acking"] == false && seen["holds_grant"] == true, "{seen}");
        wait_until(
            "the new log to be announced",
            || cluster.announced(&relay),
            |a| a["log_id"] != before && a["log_id"].is_string(),
        )?;
        Ok(())
    });
}
