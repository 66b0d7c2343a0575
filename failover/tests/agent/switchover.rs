//! `block` and `unblock`: bounded, taken back as a whole, and never at the price of a commit.

use anyhow::{Result, ensure};
use baton_testbed::{DEADLINE, scenario, wait_for};
use serde_json::json;

use crate::stage::{Node, Stage};

fn writable(stage: &Stage) -> Result<Node> {
    let primary = stage.primary("")?;
    primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
    primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
    primary.sql(
        "CREATE EVENT test.e ON SCHEDULE EVERY 1 DAY STARTS CURRENT_TIMESTAMP + INTERVAL 1 DAY DO DELETE FROM test.t",
    )?;
    primary.wait_status("it holds the address", |s| s["address"].is_string())?;
    Ok(primary)
}

#[test]
fn blocked_primary_takes_no_writes_cuts_its_clients_and_comes_back_with_everything() {
    scenario("block", |bed| {
        let stage = Stage::new(bed)?;
        let primary = writable(&stage)?;
        let mut idle = primary.client()?;
        idle.query("SELECT 1")?;
        stage.state(
            2,
            None,
            &json!({"phase": "fencing", "kind": "switchover", "old_primary": "db-1", "candidate": "db-2"}),
        )?;
        let order = json!({"do": "block", "drain_ms": 100, "timeout_ms": 5000});
        for step in [1, 2] {
            let answer = primary.obeys((1, 2, step), &order)?;
            ensure!(answer["gtid"] == primary.sql("SELECT @@gtid_binlog_pos")?.as_str(), "{answer}");
        }
        idle.query("SELECT 1").expect_err("its session was cut");
        primary.client()?.query("INSERT INTO test.t VALUES (1)").expect_err("writes are blocked");
        ensure!(!primary.host.holds(stage.vip())? && primary.agent_check()? == "drain");
        ensure!(primary.sql("SELECT @@event_scheduler")? == "OFF");
        ensure!(primary.sql("SELECT STATUS FROM information_schema.EVENTS")? == "SLAVESIDE_DISABLED");
        primary.obeys((1, 2, 3), &json!({"do": "unblock"}))?;
        primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
        primary.client()?.query("INSERT INTO test.t VALUES (1)")?;
        ensure!(primary.sql("SELECT @@event_scheduler")? == "ON");
        ensure!(
            primary.sql("SELECT CONCAT(STATUS, ' ', DEFINER) FROM information_schema.EVENTS")?
                == "ENABLED root@localhost"
        );
        stage.state(2, Some("db-1"), &json!({}))?;
        primary.wait_status("the address is back", |s| s["address"].is_string())?;
        Ok(())
    });
}

#[test]
fn commit_that_waits_for_its_acker_is_neither_killed_nor_completed_by_a_block() {
    scenario("block-waits", |bed| {
        let stage = Stage::new(bed)?;
        let primary = writable(&stage)?;
        primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=ON")?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| primary.client()?.query("INSERT INTO test.t VALUES (7)"));
            let sessions = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='RPL_SEMI_SYNC_MASTER_WAIT_SESSIONS'";
            primary.wait_value(sessions, "1")?;
            let (code, body) = primary.order((1, 2, 1), &json!({"do": "block", "drain_ms": 50, "timeout_ms": 500}))?;
            ensure!(
                code == 422 && body["error"].as_str().is_some_and(|e| e.contains("wait for the acker")),
                "{code} {body}"
            );
            ensure!(primary.sql("SELECT COUNT(*) FROM test.t")? == "0", "the commit was completed");
            ensure!(primary.sql("SELECT @@read_only")? == "0" && primary.sql("SELECT @@event_scheduler")? == "ON");
            ensure!(!waiting.is_finished(), "the commit was ended");
            // A server in this state can only be fenced.
            let (code, body) =
                primary.order((1, 2, 2), &json!({"do": "follow", "source": "10.77.0.9:3306", "relay": "r"}))?;
            ensure!(code == 422 && body["hint"].as_str().is_some_and(|h| h.contains("fence")), "{code} {body}");
            primary.obeys((1, 2, 3), &json!({"do": "fence"}))?;
            let lost = waiting.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
            ensure!(lost.is_err(), "a commit without an acknowledgement was told as done");
            Ok(())
        })
    });
}

#[test]
fn long_transaction_and_global_lock_are_cut_after_the_drain() {
    scenario("block-cuts", |bed| {
        let stage = Stage::new(bed)?;
        let primary = writable(&stage)?;
        let mut long = primary.client()?;
        long.query("BEGIN")?;
        long.query("INSERT INTO test.t VALUES (8)")?;
        let mut locker = primary.session()?;
        locker.query("FLUSH TABLES WITH READ LOCK")?;
        primary.obeys((1, 2, 1), &json!({"do": "block", "drain_ms": 100, "timeout_ms": 10000}))?;
        long.query("COMMIT").expect_err("its session was cut");
        ensure!(primary.sql("SELECT COUNT(*) FROM test.t")? == "0");
        stage.state(
            2,
            None,
            &json!({"phase": "fencing", "kind": "switchover", "old_primary": "db-1", "candidate": "db-2"}),
        )?;
        primary.obeys((1, 2, 2), &json!({"do": "unblock"}))?;
        wait_for("writes to work", DEADLINE, || Ok((primary.sql("SELECT @@read_only")? == "0").then_some(())))?;
        Ok(())
    });
}
