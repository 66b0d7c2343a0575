//! Unmodified replicas, however they are set up, end with the primary's tables.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use baton_testbed::compare::compare_tables;
use baton_testbed::{
    Bed, Certs, MariaDb, RelayProc, Source, Ssl, Start, assert_tables_equal, scenario, wait_caught_up, wait_until,
};

use crate::support::{wait_same_end, write_everything};

#[test]
fn replicas_of_every_kind_get_everything_that_a_primary_writes() {
    scenario("kinds", |bed| {
        let primary = bed.mariadb("primary").option("--master-verify-checksum=1").start()?;
        write_everything(&primary)?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let first = primary.binlogs()?[0].clone();
        let by_file = || Source::file_pos(relay.port(), &first, 4);
        let kinds: [(&str, &[&str], Source); 6] = [
            ("strict", &["--gtid-strict-mode=1"], Source::gtid(relay.port())),
            ("loose", &["--gtid-strict-mode=0"], Source::new(relay.port(), Start::CurrentGtid)),
            (
                "parallel",
                &["--slave-parallel-threads=4", "--slave-parallel-mode=optimistic"],
                Source::gtid(relay.port()),
            ),
            ("by-file", &["--slave-parallel-threads=2", "--slave-sql-verify-checksum=1"], by_file()),
            (
                "semi-sync",
                &["--rpl-semi-sync-slave-enabled=1", "--skip-log-bin", "--skip-log-slave-updates"],
                by_file(),
            ),
            ("compressing", &["--slave-compressed-protocol=1", "--binlog-checksum=NONE"], Source::gtid(relay.port())),
        ];
        let replicas = std::thread::scope(|threads| {
            let started: Vec<_> = (2..)
                .zip(&kinds)
                .map(|(id, (name, options, source))| threads.spawn(move || replica(bed, id, name, options, source)))
                .collect();
            started
                .into_iter()
                .map(|thread| thread.join().expect("a replica's thread panicked"))
                .collect::<Result<Vec<_>>>()
        })?;
        // Once from the backlog, once as it happens.
        write_everything(&primary)?;
        wait_same_end(&primary, &relay)?;
        for replica in &replicas {
            caught_up_by(&primary, replica)?;
            let tables = compare_tables(&primary, replica, &["test"])?;
            ensure!(tables == 5, "{} tables on {}", tables, replica.name());
        }
        let names = replicas.iter().map(|replica| format!("server-{}", replica.server_id()));
        let lag = relay.lag()?;
        let listed: Vec<_> =
            lag["replicas"].as_array().into_iter().flatten().filter_map(|r| r["name"].as_str()).collect();
        for name in names {
            ensure!(listed.contains(&name.as_str()), "{name} is not in {listed:?}");
        }
        replicas.iter().try_for_each(stopped_and_started)
    });
}

fn replica(bed: &Bed, id: u32, name: &str, options: &[&str], source: &Source) -> Result<MariaDb> {
    let builder = options.iter().fold(bed.mariadb(name).server_id(id), |builder, option| builder.option(option));
    let replica = builder.start()?;
    replica.replicate_from(source)?;
    Ok(replica)
}

/// Whichever way it replicates: a replica by file and position is where the primary's end is.
fn caught_up_by(primary: &MariaDb, replica: &MariaDb) -> Result<()> {
    let (file, position) = primary.master_status()?;
    let goal = [file, position.to_string()];
    let at = || {
        replica.check_replication()?;
        let mut status = replica.slave_status()?;
        Ok(["Relay_Master_Log_File", "Exec_Master_Log_Pos"].map(|key| status.remove(key).unwrap_or_default()))
    };
    wait_until(&format!("{} to be at {goal:?}", replica.name()), at, |at| *at == goal).map(drop)
}

fn stopped_and_started(replica: &MariaDb) -> Result<()> {
    replica.stop_slave()?;
    replica.start_slave()?;
    let both = || Ok(replica.slave_status()?["Slave_IO_Running"] == "Yes");
    wait_until(&format!("{} to run again", replica.name()), both, |running| *running).map(drop)
}

#[test]
fn replicas_over_tls_are_served_and_those_without_are_refused_where_it_is_required() {
    scenario("tls_replicas", |bed| {
        let (certs, other) = (Certs::create(bed.root(), "relay")?, Certs::create(bed.root(), "other")?);
        let primary = bed
            .mariadb("primary")
            .tls(&certs)
            .option("--require-secure-transport=1")
            .option("--max-allowed-packet=64M")
            .start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY, text LONGTEXT)")?;
        let relay = bed.relay("relay").upstream(&primary).set("upstream", "tls", "\"require\"");
        let relay = relay.set("listen", "tls_cert_file", &format!("{:?}", certs.cert));
        let relay =
            relay.set("listen", "tls_key_file", &format!("{:?}", certs.key)).set("listen", "tls", "\"require\"");
        let relay = relay.without_waiting().start()?;
        let replica = bed.mariadb("replica").server_id(2).start()?;
        for ssl in [Ssl::On, Ssl::Verify(certs.ca.clone())] {
            replica.replicate_from(&Source::gtid(relay.port()).ssl(ssl))?;
            primary.sql("REPLACE INTO test.t VALUES (1, REPEAT('x', 17 << 20)), (2, UUID())")?;
            assert_tables_equal(&primary, &replica);
            replica.stop_slave()?;
        }
        // MariaDB 10.11 itself says 1045 to a client without TLS; the relay says what is missing (MySQL's number for it).
        let without = refusal(&replica, &Source::gtid(relay.port()))?;
        ensure!(without.0 == "3159" && without.1.contains("TLS"), "{without:?}");
        let wrong = Ssl::Verify(other.ca.clone());
        let expected = refusal(&replica, &Source::gtid(primary.port()).ssl(wrong.clone()))?;
        let found = refusal(&replica, &Source::gtid(relay.port()).ssl(wrong))?;
        ensure!(expected.0 == found.0 && found.0 == "2026", "the primary's: {expected:?}, the relay's: {found:?}");
        Ok(())
    });
}

/// Number and text of the error with which a replica fails to connect; it goes on trying.
fn refusal(replica: &MariaDb, source: &Source) -> Result<(String, String)> {
    replica.replicate_from(source)?;
    let refused = |status: &BTreeMap<String, String>| status["Last_IO_Errno"] != "0";
    let mut status = wait_until("a refusal", || replica.slave_status(), refused)?;
    ensure!(status["Slave_IO_Running"] == "Connecting", "{status:?}");
    replica.stop_slave()?;
    let mut text = |key: &str| status.remove(key).unwrap_or_default();
    Ok((text("Last_IO_Errno"), text("Last_IO_Error")))
}

#[test]
fn idle_replica_lives_on_heartbeats_and_does_not_reconnect() {
    scenario("heartbeats", |bed| {
        let primary = bed.mariadb("primary").start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).option("--slave-net-timeout=1").start()?;
        replica.replicate_from(&Source::gtid(relay.port()).heartbeat(0.25))?;
        wait_caught_up(&primary, &replica)?;
        let before = connection_of(&relay, 2)?;
        // Twelve heartbeats take three times as long as the replica waits for a sign of life.
        let count = || heartbeats(&replica);
        let begun = count()?;
        wait_until("twelve heartbeats", count, |now| *now >= begun + 12)?;
        ensure!(connection_of(&relay, 2)? == before, "the replica has connected again");
        primary.sql("INSERT INTO test.t VALUES (1)")?;
        assert_tables_equal(&primary, &replica);
        ensure!(connection_of(&relay, 2)? == before, "the replica has connected again");
        Ok(())
    });
}

fn heartbeats(replica: &MariaDb) -> Result<u64> {
    let rows = replica.sql("SHOW STATUS LIKE 'Slave_received_heartbeats'")?;
    Ok(rows.first().and_then(|row| row.get(1).cloned().flatten()).context("no such status")?.parse()?)
}

/// The relay's number of the connection of a replica.
fn connection_of(relay: &RelayProc, server_id: u64) -> Result<u64> {
    let status = relay.status()?;
    let found = status["replicas"].as_array().into_iter().flatten().find(|r| r["server_id"] == server_id);
    found
        .and_then(|r| r["connection"].as_u64())
        .with_context(|| format!("server {server_id} is not attached: {status}"))
}
