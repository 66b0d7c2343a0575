//! Orders: a promotion step by step, fencing, changes of acker, late ones.

use anyhow::{Result, ensure};
use baton_testbed::{DEADLINE, scenario, wait_for};
use serde_json::json;

use crate::stage::{Node, Stage};

/// A writable primary without semi-sync, and a replica that follows it.
fn pair(stage: &Stage) -> Result<(Node, Node)> {
    let primary = stage.primary("")?;
    primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
    primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
    let replica = stage.started(2, "")?;
    follow(&replica, &primary, (1, 1, 1))?;
    replica.wait_value(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_name='t' AND table_schema='test'",
        "1",
    )?;
    Ok((primary, replica))
}

fn follow(node: &Node, source: &Node, number: (u64, u64, u64)) -> Result<()> {
    let order = json!({"do": "follow", "source": format!("{}:3306", source.host.ip()), "relay": source.name});
    node.obeys(number, &order).map(drop)
}

#[test]
fn replica_is_promoted_step_by_step_and_each_step_can_be_repeated() {
    scenario("promotion", |bed| {
        let stage = Stage::new(bed)?;
        let (primary, replica) = pair(&stage)?;
        primary.sql("CREATE EVENT test.e ON SCHEDULE EVERY 1 DAY STARTS CURRENT_TIMESTAMP + INTERVAL 1 DAY DO DELETE FROM test.t")?;
        primary.sql("INSERT INTO test.t VALUES (1), (2)")?;
        let target = primary.sql("SELECT @@gtid_binlog_pos")?;
        let order = json!({"do": "catch_up", "gtid": target, "timeout_ms": 20000});
        for _ in 0..2 {
            let answer = replica.obeys((1, 2, 1), &order)?;
            ensure!(answer["reached"] == true && answer["gtid"] == target.as_str(), "{answer}");
        }
        let late = replica.obeys((1, 2, 2), &json!({"do": "catch_up", "gtid": "0-1-999999", "timeout_ms": 50}))?;
        ensure!(late["reached"] == false, "{late}");
        // A primary that is killed while its replica is promoted: nothing more comes from there.
        primary.obeys((1, 2, 3), &json!({"do": "fence"}))?;
        let first = replica.obeys((1, 2, 4), &json!({"do": "prepare"}))?;
        ensure!(first["gtid"] == target.as_str() && first["server_id"] == 2, "{first}");
        let again = replica.obeys((1, 2, 5), &json!({"do": "prepare"}))?;
        ensure!(first == again, "{first} {again}");
        ensure!(replica.sql("SELECT @@read_only")? == "1" && replica.slave("Master_Host")?.is_empty());
        let (code, body) = replica.order((1, 2, 6), &json!({"do": "open", "acker_ms": 10}))?;
        ensure!(code == 409, "the state does not want it yet: {code} {body}");
        let promoting = json!({"phase": "promoting", "old_primary": "db-1", "candidate": "db-2"});
        stage.state(2, None, &promoting)?;
        for step in [6, 7] {
            replica.obeys((1, 2, step), &json!({"do": "open", "acker_ms": 10}))?;
        }
        ensure!(
            replica.sql("SELECT @@read_only")? == "0" && replica.sql("SELECT @@rpl_semi_sync_master_enabled")? == "1"
        );
        let event =
            replica.sql("SELECT CONCAT(STATUS, ' ', DEFINER) FROM information_schema.EVENTS WHERE EVENT_NAME='e'")?;
        ensure!(event == "ENABLED root@localhost", "{event}");
        ensure!(replica.sql("SELECT @@gtid_binlog_pos")? == target, "promoting has written into the binlog");
        replica.wait_status("it holds the address", |s| s["address"].is_string())?;
        ensure!(replica.host.holds(stage.vip())? && !primary.host.holds(stage.vip())?);
        ensure!(primary.servers().is_empty(), "a fenced server was started before its role was settled");
        Ok(())
    });
}

#[test]
fn late_orders_are_refused_also_after_a_restart_of_the_agent() {
    scenario("late", |bed| {
        let stage = Stage::new(bed)?;
        stage.state(3, Some("db-2"), &json!({}))?;
        let node = stage.started(1, "")?;
        node.obeys((5, 8, 3), &json!({"do": "allow_acker", "user": "nobody"}))?;
        for number in [(5, 8, 2), (5, 7, 9), (4, 9, 9)] {
            let (code, body) = node.order(number, &json!({"do": "fence"}))?;
            ensure!(code == 409 && body["last"] == json!({"term": 5, "epoch": 8, "step": 3}), "{code} {body}");
        }
        node.proc()?.kill9();
        node.start()?;
        node.wait_status("the server runs", |s| s["mysqld"] == "running")?;
        let (code, body) = node.order((5, 8, 2), &json!({"do": "fence"}))?;
        ensure!(code == 409 && node.servers().len() == 1, "{code} {body}");
        // A new leader, of whom etcd tells.
        stage.etcd.put("/baton/shop/leader", &json!({"name": "controller-2", "http": "x:1"}))?;
        let term = stage.etcd.get("/baton/shop/leader")?.map_or(0, |e| e.create_revision);
        wait_for("the deposed one to be refused", DEADLINE, || {
            let (code, _) = node.order((5, 8, 4), &json!({"do": "allow_acker", "user": "nobody"}))?;
            Ok((code == 409).then_some(()))
        })?;
        node.obeys((term, 8, 1), &json!({"do": "allow_acker", "user": "nobody"}))?;
        Ok(())
    });
}

#[test]
fn fenced_primary_comes_back_read_only_and_follows_or_keeps_what_only_it_has() {
    scenario("fence", |bed| {
        let stage = Stage::new(bed)?;
        let (primary, replica) = pair(&stage)?;
        primary.sql("INSERT INTO test.t VALUES (1)")?;
        let common = primary.sql("SELECT @@gtid_binlog_pos")?;
        replica.obeys((1, 2, 1), &json!({"do": "catch_up", "gtid": common, "timeout_ms": 20000}))?;
        stage.state(2, None, &json!({"phase": "fencing", "old_primary": "db-1"}))?;
        primary.obeys((1, 2, 2), &json!({"do": "fence"}))?;
        ensure!(primary.servers().is_empty());
        replica.obeys((1, 2, 3), &json!({"do": "prepare"}))?;
        stage.state(2, None, &json!({"phase": "promoting", "old_primary": "db-1", "candidate": "db-2"}))?;
        replica.obeys((1, 2, 4), &json!({"do": "open", "acker_ms": 0}))?;
        replica.sql("SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
        replica.sql("INSERT INTO test.t VALUES (2)")?;
        stage.epoch(2, "db-2", &common)?;
        stage.state(2, Some("db-2"), &json!({"old_primary": "db-1"}))?;
        primary.wait_sql()?;
        ensure!(primary.sql("SELECT @@read_only")? == "1" && primary.status()?["role"] == "fenced");
        follow(&primary, &replica, (1, 2, 5))?;
        primary.wait_value("SELECT COUNT(*) FROM test.t", "2")?;
        ensure!(primary.status()?["role"] == "replica");
        // Back again, and this time it has written what nobody else has.
        let common = primary.sql("SELECT @@gtid_binlog_pos")?;
        primary.sql("STOP SLAVE")?;
        for n in 1000..1005 {
            replica.sql(&format!("INSERT INTO test.t VALUES ({n})"))?;
        }
        stage.state(3, None, &json!({"phase": "fencing", "old_primary": "db-2"}))?;
        replica.obeys((1, 3, 1), &json!({"do": "fence"}))?;
        stage.epoch(3, "db-1", &common)?;
        stage.state(3, Some("db-1"), &json!({"old_primary": "db-2"}))?;
        replica.wait_sql()?;
        let order = json!({"do": "follow", "source": format!("{}:3306", primary.host.ip()), "relay": "db-1"});
        let (code, body) = replica.order((1, 3, 2), &order)?;
        ensure!(code == 422 && body["error"].as_str().is_some_and(|e| e.contains("lacks")), "{code} {body}");
        let status = replica.status()?;
        ensure!(status["role"] == "diverged", "{status}");
        let saved = std::fs::read_to_string(status["surplus"].as_str().unwrap_or_default())?;
        ensure!(saved.contains("1000") && saved.contains("GTID 0-2-"), "{saved}");
        Ok(())
    });
}

#[test]
fn acker_that_does_not_answer_is_revoked_on_the_primary_and_allowed_again() {
    scenario("acker", |bed| {
        let stage = Stage::new(bed)?;
        let (primary, replica) = pair(&stage)?;
        let dumps = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";
        primary.wait_value(dumps, "1")?;
        let before = primary.sql("SELECT @@gtid_binlog_pos")?;
        for step in [1, 2] {
            let answer =
                primary.obeys((1, 2, step), &json!({"do": "revoke_acker", "user": "relay_2", "server_id": 2}))?;
            ensure!(answer["gtid"] == before.as_str(), "{answer}");
        }
        ensure!(primary.sql(dumps)? == "0");
        wait_for("the acker to be refused", DEADLINE, || {
            Ok(replica.slave("Last_IO_Error")?.contains("locked").then_some(()))
        })?;
        let (code, body) =
            primary.order((1, 2, 3), &json!({"do": "revoke_acker", "user": "no_such", "server_id": 7}))?;
        ensure!(code == 422, "{code} {body}");
        primary.obeys((1, 2, 4), &json!({"do": "allow_acker", "user": "relay_2"}))?;
        primary.wait_value(dumps, "1")?;
        ensure!(primary.sql("SELECT @@gtid_binlog_pos")? == before, "accounts are not changed in the binlog");
        primary.obeys((1, 2, 5), &json!({"do": "release"}))?;
        ensure!(primary.status()?["role"] == "unassigned");
        Ok(())
    });
}

#[test]
fn deposed_primary_takes_back_acknowledged_commits_that_its_start_has_truncated() {
    scenario("own-events", |bed| {
        let stage = Stage::new(bed)?;
        let (primary, replica) = pair(&stage)?;
        // The replica acknowledges: it follows the primary itself here.
        primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=ON")?;
        let mut writer = primary.session()?;
        for n in 0..60 {
            writer.query(&format!("INSERT INTO test.t VALUES ({n})"))?;
        }
        stage.state(2, None, &json!({"phase": "fencing", "old_primary": "db-1"}))?;
        primary.obeys((1, 2, 1), &json!({"do": "fence"}))?;
        replica.wait_value("SELECT COUNT(*) FROM test.t", "60")?;
        let prepared = replica.obeys((1, 2, 2), &json!({"do": "prepare"}))?;
        stage.state(2, None, &json!({"phase": "promoting", "old_primary": "db-1", "candidate": "db-2"}))?;
        replica.obeys((1, 2, 3), &json!({"do": "open", "acker_ms": 0}))?;
        let tail = prepared["gtid"].as_str().unwrap_or_default();
        stage.epoch(2, "db-2", tail)?;
        stage.state(2, Some("db-2"), &json!({"old_primary": "db-1"}))?;
        primary.wait_status("the server answers its agent", |s| s["server"].is_object())?;
        let lost = primary.sql("SELECT 60 - COUNT(*) FROM test.t")?;
        ensure!(primary.sql("SELECT @@gtid_binlog_pos")? != tail || lost == "0", "rows are gone that the binlog has");
        follow(&primary, &replica, (1, 2, 4))?;
        primary.wait_value("SELECT COUNT(*) FROM test.t", "60")?;
        let checksum = "SELECT BIT_XOR(CRC32(a)) FROM test.t";
        ensure!(primary.sql(checksum)? == replica.sql(checksum)?);
        Ok(())
    });
}
