//! Replicas that begin, stop, go away and come back at places of their own choice.

use anyhow::{Result, ensure};
use baton_testbed::{
    Direction, MariaDb, Proxy, RelayProc, Source, assert_tables_equal, scenario, wait_caught_up, wait_until,
};

use crate::support::wait_same_end;

/// The relay's replication state of a server.
fn state_of(relay: &RelayProc, server_id: u32) -> Result<String> {
    let lag = relay.lag_of(&format!("server-{server_id}"))?;
    Ok(lag["state"].as_str().unwrap_or_default().to_owned())
}

fn rows(db: &MariaDb) -> Result<String> {
    db.value("SELECT COALESCE(GROUP_CONCAT(id ORDER BY id), '') FROM test.t")
}

/// A primary with `test.t`, and that table made by hand (outside of the binlog) on a replica.
fn table_on_both(primary: &MariaDb, replica: &MariaDb) -> Result<()> {
    let table = "CREATE TABLE test.t (id INT PRIMARY KEY)";
    primary.sql(table)?;
    replica.sql(&format!("SET sql_log_bin=0; {table}")).map(drop)
}

#[test]
fn replica_stops_where_it_was_told_to_and_goes_on() {
    scenario("until", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        for id in 1..=6 {
            primary.sql(&format!("INSERT INTO test.t VALUES ({id})"))?;
        }
        primary.sql(
            "SET gtid_domain_id=7; INSERT INTO test.t VALUES (7); SET gtid_domain_id=0; INSERT INTO test.t VALUES (8)",
        )?;
        // The primary's replica first, then the relay's: both end alike.
        let reference = bed.mariadb("reference").server_id(3).start()?;
        for (db, port) in [(&reference, primary.port()), (&replica, relay.port())] {
            for until in ["0-1-3", "0-1-6", "0-1-7,7-1-1"] {
                db.change_master_to(&Source::gtid(port))?;
                db.sql(&format!("START SLAVE UNTIL master_gtid_pos='{until}'"))?;
                let stopped = |status: &std::collections::BTreeMap<String, String>| {
                    status["Slave_SQL_Running"] == "No" && status["Slave_IO_Running"] == "No"
                };
                let status = wait_until("the replica to stop", || db.slave_status(), stopped)?;
                ensure!(status["Last_Errno"] == "0" && status["Last_IO_Errno"] == "0", "{status:?}");
                ensure!(db.gtid_slave_pos()? == until, "{} stopped at {}", db.name(), db.gtid_slave_pos()?);
            }
        }
        ensure!(rows(&replica)? == rows(&reference)?);
        replica.start_slave()?;
        assert_tables_equal(&primary, &replica);
        Ok(())
    });
}

#[test]
fn replica_with_a_position_of_its_own_gets_what_follows_it_in_each_domain() {
    scenario("own_position", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).option("--gtid-strict-mode=0").start()?;
        let filtered = bed.mariadb("filtered").server_id(3).start()?;
        table_on_both(&primary, &replica)?;
        filtered.sql("SET sql_log_bin=0; CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        for id in 1..=5 {
            primary.sql(&format!(
                "INSERT INTO test.t VALUES ({id}); SET gtid_domain_id=7; INSERT INTO test.t VALUES ({})",
                id + 70
            ))?;
            primary.sql("FLUSH BINARY LOGS")?;
        }
        // 0-1-1 is the table. In domain 0 it has rows 1 to 4, in domain 7 only row 71.
        replica.sql("RESET MASTER; SET GLOBAL gtid_slave_pos='0-1-5,7-1-1'")?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        wait_caught_up(&primary, &replica)?;
        ensure!(rows(&replica)? == "5,72,73,74,75", "{}", rows(&replica)?);
        // Of domain 0 nothing: the replica leaves it out, not the relay.
        filtered.sql("SET GLOBAL gtid_slave_pos='0-1-1'")?;
        let source = Source::gtid(relay.port()).statement() + ", DO_DOMAIN_IDS=(7)";
        filtered.sql(&source)?;
        filtered.start_slave()?;
        wait_caught_up(&primary, &filtered)?;
        ensure!(rows(&filtered)? == "71,72,73,74,75", "{}", rows(&filtered)?);
        Ok(())
    });
}

#[test]
fn replica_moves_from_primary_to_relay_and_back_by_gtid_and_by_file() {
    scenario("moved", |bed| {
        let primary = bed.mariadb("primary").option("--max-binlog-size=4096").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let by_gtid = bed.mariadb("by-gtid").server_id(2).start()?;
        let by_file = bed.mariadb("by-file").server_id(3).option("--rpl-semi-sync-slave-enabled=1").start()?;
        primary.sql("CREATE TABLE test.t (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(200))")?;
        let first = primary.binlogs()?[0].clone();
        by_gtid.replicate_from(&Source::gtid(primary.port()))?;
        by_file.replicate_from(&Source::file_pos(primary.port(), &first, 4))?;
        for port in [relay.port(), primary.port(), relay.port()] {
            for _ in 0..20 {
                primary.sql("INSERT INTO test.t (text) VALUES (REPEAT('x', 200))")?;
            }
            for db in [&by_gtid, &by_file] {
                db.stop_slave()?;
            }
            let status = by_file.slave_status()?;
            by_gtid.sql(&format!("CHANGE MASTER TO MASTER_PORT={port}, MASTER_HOST='127.0.0.1'"))?;
            // Names and offsets are the same on both.
            let place = (&status["Relay_Master_Log_File"], status["Exec_Master_Log_Pos"].parse()?);
            by_file.change_master_to(&Source::file_pos(port, place.0, place.1))?;
            for db in [&by_gtid, &by_file] {
                db.start_slave()?;
            }
        }
        ensure!(primary.binlogs()?.len() > 3, "the log was to have several files");
        wait_caught_up(&primary, &by_gtid)?;
        let count = || by_file.value("SELECT COUNT(*) FROM test.t");
        wait_until("the replica by file and position", count, |count| count == "60")?;
        for db in [&by_gtid, &by_file] {
            ensure!(db.checksum_tables("test")? == primary.checksum_tables("test")?, "{} differs", db.name());
        }
        Ok(())
    });
}

#[test]
fn replica_that_is_ahead_of_the_relay_is_held_and_goes_on() {
    scenario("held", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let path = Proxy::start(primary.address())?;
        let relay = bed.relay("relay").upstream_ports(&[path.port()]).start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        wait_same_end(&primary, &relay)?;
        path.stall();
        primary.sql("INSERT INTO test.t VALUES (1), (2)")?;
        let (by_gtid, by_file) =
            (bed.mariadb("by-gtid").server_id(2).start()?, bed.mariadb("by-file").server_id(3).start()?);
        for db in [&by_gtid, &by_file] {
            db.replicate_from(&Source::gtid(primary.port()))?;
            wait_caught_up(&primary, db)?;
            db.stop_slave()?;
        }
        let (file, end) = primary.master_status()?;
        by_gtid.change_master_to(&Source::gtid(relay.port()).heartbeat(0.1))?;
        by_file.change_master_to(&Source::file_pos(relay.port(), &file, end).heartbeat(0.1))?;
        for db in [&by_gtid, &by_file] {
            let beats = || {
                Ok(db.sql("SHOW STATUS LIKE 'Slave_received_heartbeats'")?[0][1]
                    .clone()
                    .unwrap_or_default()
                    .parse::<u64>()?)
            };
            let begun = beats()?;
            db.start_slave()?;
            wait_until("the replica to be held", || state_of(&relay, db.server_id()), |state| state == "held")?;
            wait_until("heartbeats while it is held", beats, |now| *now >= begun + 3)?;
            let status = db.slave_status()?;
            ensure!(status["Slave_IO_Running"] == "Yes" && status["Last_IO_Errno"] == "0", "{status:?}");
        }
        path.resume();
        primary.sql("INSERT INTO test.t VALUES (3)")?;
        for db in [&by_gtid, &by_file] {
            wait_until("the row that came later", || rows(db), |rows| rows == "1,2,3")?;
            ensure!(state_of(&relay, db.server_id())? == "streaming");
        }
        Ok(())
    });
}

#[test]
fn replica_that_is_ahead_of_a_relay_whose_log_has_just_begun_is_held_and_goes_on() {
    scenario("held_anew", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let replica = bed.mariadb("replica").server_id(2).start()?;
        for db in [&primary, &replica] {
            db.sql("SET sql_log_bin=0; CREATE TABLE test.t (id INT PRIMARY KEY, text LONGTEXT)")?;
        }
        primary.sql("INSERT INTO test.t VALUES (1, REPEAT('x', 4000000))")?;
        primary.sql("INSERT INTO test.t VALUES (2, '')")?;
        replica.replicate_from(&Source::gtid(primary.port()))?;
        wait_caught_up(&primary, &replica)?;
        replica.stop_slave()?;
        // So slow that the first transaction takes longer than all that follows here.
        let path = Proxy::start(primary.address())?;
        path.slow(Direction::ToClient, 50_000);
        let relay = bed.relay("relay").upstream_ports(&[path.port()]).start()?;
        let files = || Ok(relay.session()?.query("SHOW BINARY LOGS")?.len());
        wait_until("the log to begin", files, |files| *files == 1)?;
        replica.change_master_to(&Source::gtid(relay.port()).heartbeat(0.1))?;
        replica.start_slave()?;
        wait_until("the replica to be held", || state_of(&relay, 2), |state| state == "held")?;
        ensure!(relay.head_gtid()?.is_empty(), "the log was to have no transaction yet");
        path.resume();
        primary.sql("INSERT INTO test.t VALUES (3, '')")?;
        wait_until("the row that came later", || rows(&replica), |rows| rows == "1,2,3")?;
        let status = replica.slave_status()?;
        ensure!(status["Last_IO_Errno"] == "0" && state_of(&relay, 2)? == "streaming", "{status:?}");
        Ok(())
    });
}
