//! Rare things that a real primary does, and what a replica behind the relay sees of them: the same as one at the primary.

use anyhow::{Result, ensure};
use baton_testbed::{MariaDb, Source, compare::compare_tables, scenario, wait_caught_up, wait_until};

/// Waits until replication has stopped, and gives the error of the connection's side.
fn io_error(replica: &MariaDb) -> Result<String> {
    let stopped = |status: &std::collections::BTreeMap<String, String>| {
        status.get("Slave_IO_Running").is_some_and(|running| running == "No")
    };
    let status = wait_until("the replica's connection to stop", || replica.slave_status(), stopped)?;
    Ok(format!("{} {}", status["Last_IO_Errno"], status["Last_IO_Error"]))
}

#[test]
fn a_domain_that_the_primary_is_told_to_forget_stops_nobody() {
    scenario("forgotten_domain", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        primary.sql("SET SESSION gtid_domain_id=5; INSERT INTO test.t VALUES (1)")?;
        let relay = bed.relay("relay-1").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        wait_caught_up(&primary, &replica)?;
        ensure!(relay.head_gtid()?.contains("5-1-1"));

        primary.sql("FLUSH BINARY LOGS")?;
        let (last, _) = primary.master_status()?;
        // The old files go as soon as no crash would need them any more.
        wait_until(
            "the domain to be forgotten",
            || {
                primary.sql(&format!("PURGE BINARY LOGS TO '{last}'"))?;
                Ok(primary.sql("FLUSH BINARY LOGS DELETE_DOMAIN_ID=(5)").is_ok())
            },
            |forgotten| *forgotten,
        )?;
        primary.sql("INSERT INTO test.t VALUES (2)")?;
        relay.wait_head(&primary)?;
        ensure!(!relay.head_gtid()?.contains("5-1-1"), "the log stands where the primary does");

        relay.term()?;
        relay.restart()?;
        primary.sql("INSERT INTO test.t VALUES (3)")?;
        relay.wait_head(&primary)?;
        wait_until("the last row", || replica.value("SELECT MAX(a) FROM test.t"), |max| max == "3")?;
        ensure!(compare_tables(&primary, &replica, &["test"])? == 1, "one table is compared");
        Ok(())
    });
}

#[test]
fn a_replica_with_transactions_of_its_own_in_a_domain_is_refused_once_the_primary_uses_that_domain() {
    scenario("foreign_domain", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        let relay = bed.relay("relay-1").upstream(&primary).start()?;
        let mut answers = Vec::new();
        let replicas = [bed.mariadb("direct").server_id(2).start()?, bed.mariadb("behind").server_id(3).start()?];
        for (replica, port) in replicas.iter().zip([primary.port(), relay.port()]) {
            replica.sql("SET GLOBAL gtid_slave_pos='7-9-100'")?;
            replica.replicate_from(&Source::gtid(port))?;
        }
        for replica in &replicas {
            wait_until("the table", || replica.sql("SHOW TABLES IN test LIKE 't'"), |t| !t.is_empty())?;
        }
        primary.sql("SET SESSION gtid_domain_id=7; INSERT INTO test.t VALUES (1)")?;
        for replica in &replicas {
            answers.push(io_error(replica)?);
        }
        ensure!(answers[0].starts_with("1236 ") && answers[0].contains("7-9-100"), "{answers:?}");
        ensure!(answers[0] == answers[1], "{answers:?}");
        Ok(())
    });
}

#[test]
fn until_a_transaction_that_never_was_ends_where_the_primary_is_beyond_it() {
    scenario("until_a_gap", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        primary.sql("INSERT INTO test.t VALUES (1)")?;
        let position = primary.gtid_binlog_pos()?;
        let sequence: u64 = position.rsplit('-').next().unwrap_or_default().parse()?;
        primary.sql(&format!("SET SESSION gtid_seq_no={}; INSERT INTO test.t VALUES (2)", sequence + 10))?;
        let relay = bed.relay("relay-1").upstream(&primary).start()?;
        relay.wait_head(&primary)?;
        for (name, id, port) in [("direct", 2, primary.port()), ("behind", 3, relay.port())] {
            let replica = bed.mariadb(name).server_id(id).start()?;
            replica.change_master_to(&Source::gtid(port))?;
            replica.sql(&format!("START SLAVE UNTIL master_gtid_pos='0-1-{}'", sequence + 5))?;
            wait_until(
                "the replica to stop at the gap",
                || replica.slave_status(),
                |s| s["Slave_SQL_Running"] == "No" && s["Slave_IO_Running"] == "No",
            )?;
            let status = replica.slave_status()?;
            ensure!(status["Last_Errno"] == "0" && status["Last_IO_Errno"] == "0", "{name}: {status:?}");
            ensure!(replica.value("SELECT MAX(a) FROM test.t")? == "1", "{name} is beyond the gap");
            ensure!(replica.gtid_slave_pos()? == position, "{name}");
        }
        Ok(())
    });
}
