//! Who may connect, how many, and how connections are ended.

use std::fs;

use anyhow::{Context, Result, ensure};
use baton_testbed::dump::{Dump, End};
use baton_testbed::sql::{Address, Sql, SqlError};
use baton_testbed::template::REPL_PASSWORD;
use baton_testbed::{DEADLINE, RelayProc, Source, assert_tables_equal, scenario, wait_until};
use serde_json::Value;

fn refusal(port: u16, user: &str, password: &str) -> Result<SqlError> {
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    match Sql::connect(&address, user, password, Some(DEADLINE)) {
        Ok(_) => anyhow::bail!("{user} was let in with {password:?}"),
        Err(error) => Ok(error.downcast_ref::<SqlError>().with_context(|| format!("{error:#}"))?.clone()),
    }
}

#[test]
fn logins_are_refused_in_the_primarys_words() {
    scenario("logins", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).user("other", "other-secret").start()?;
        Sql::connect(&Address::Tcp(relay.address()), "other", "other-secret", Some(DEADLINE))?;
        for (user, password) in [
            ("repl", "wrong"),
            ("repl", ""),
            ("nobody", "x"),
            ("nobody", ""),
            ("", ""),
            ("REPL", REPL_PASSWORD),
            ("other", REPL_PASSWORD),
        ] {
            let (expected, found) = (refusal(primary.port(), user, password)?, refusal(relay.port(), user, password)?);
            ensure!(found == expected, "{user:?} {password:?}: the primary says {expected}, the relay {found}");
            ensure!(found.code == 1045);
        }
        let log = fs::read_to_string(relay.log_file())?;
        ensure!(!log.contains(REPL_PASSWORD) && !log.contains("other-secret"), "a password is in the log");
        Ok(())
    });
}

#[test]
fn one_connection_too_many_is_refused_and_served_once_there_is_room() {
    scenario("too_many", |bed| {
        let primary = bed.mariadb("primary").option("--max-connections=10").start()?;
        let relay = bed.relay("relay").upstream(&primary).set("listen", "max_connections", "3").start()?;
        let session = |port: u16| {
            Sql::connect(&Address::Tcp(([127, 0, 0, 1], port).into()), "repl", REPL_PASSWORD, Some(DEADLINE))
        };
        let mut crowd = Vec::new();
        while let Ok(another) = session(primary.port()) {
            crowd.push(another);
        }
        let expected = refusal(primary.port(), "repl", REPL_PASSWORD)?;
        drop(crowd);
        let mut three = (0..3).map(|_| session(relay.port())).collect::<Result<Vec<_>>>()?;
        let found = refusal(relay.port(), "repl", REPL_PASSWORD)?;
        ensure!(
            found.message == expected.message && (found.code, expected.code) == (1040, 1040),
            "{expected:?}, {found:?}"
        );
        three.pop();
        wait_until("room for one more", || session(relay.port()).map(drop), |()| true)?;
        for mut old in three {
            old.query("SELECT 1").or_else(|_| old.query("SELECT @@server_id"))?;
        }
        Ok(())
    });
}

/// Reads a stream that waits at the head to its end.
fn end_of(session: &mut Sql) -> Result<End> {
    loop {
        if let Err(end) = session.next_event()? {
            return Ok(end);
        }
    }
}

fn streaming(session: &mut Sql, server_id: u32) -> Result<()> {
    let file = "mysql-bin.000001";
    Dump::file(file, 4).flags(2).server_id(server_id).begin(session)?;
    session.next_event()?.map(drop).map_err(|end| anyhow::anyhow!("no stream: {end:?}"))
}

#[test]
fn second_replica_with_the_same_server_id_ends_the_first_ones_stream() {
    scenario("same_server_id", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        relay.wait_head(&primary)?;
        let (mut ends, mut alive) = (Vec::new(), Vec::new());
        for connect in
            [&|| primary.session_as("repl", REPL_PASSWORD), &|| relay.session()] as [&dyn Fn() -> Result<Sql>; 2]
        {
            let (mut old, mut new) = (connect()?, connect()?);
            streaming(&mut old, 55)?;
            streaming(&mut new, 55)?;
            match end_of(&mut old)? {
                End::Refused(error) => ends.push(error),
                other => anyhow::bail!("the older stream ended with {other:?}"),
            }
            // The newer one lives.
            primary.sql("CREATE TABLE IF NOT EXISTS test.u (id INT PRIMARY KEY)")?;
            new.next_event()?.map_err(|end| anyhow::anyhow!("the newer stream ended with {end:?}"))?;
            alive.push(new);
        }
        let kind = |error: &SqlError| (error.code, error.message.split(';').next().map(str::to_owned));
        ensure!(kind(&ends[0]) == kind(&ends[1]) && ends[1].code == 4052, "{ends:?}");
        let log = fs::read_to_string(relay.log_file())?;
        ensure!(log.contains("replaced: server_id 55"), "the log does not tell");
        let attached = || Ok(relay.status()?["replicas"].clone());
        let told = |attached: &Value| attached[0]["server_id"] == 55 && attached[0]["replaces"].is_string();
        wait_until("the status to tell", attached, told)?;
        Ok(())
    });
}

#[test]
fn kill_ends_a_connection_and_a_killed_replica_comes_back() {
    scenario("kill", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        let replica = bed.mariadb("replica").server_id(2).start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        assert_tables_equal(&primary, &replica);
        for statement in ["KILL", "KILL CONNECTION", "KILL HARD", "KILL SOFT CONNECTION"] {
            let before = connection(&relay)?;
            relay.session()?.query(&format!("{statement} {before}"))?;
            wait_until("the replica to come back", || connection(&relay), |now| *now != before)?;
        }
        // One's own, somebody's who waits for nothing, nobody's.
        let (mut idle, mut killer) = (relay.session()?, relay.session()?);
        killer.query(&format!("KILL {}", idle.thread_id()))?;
        let gone = || Ok(idle.query("SELECT @@server_id").is_err());
        wait_until("the idle session to end", gone, |gone| *gone)?;
        for (session, who) in [(&mut killer, "relay"), (&mut primary.session_as("repl", REPL_PASSWORD)?, "primary")] {
            let error = session.query("KILL 99999999").err().context("nobody was killed")?;
            let error = error.downcast_ref::<SqlError>().context("no answer")?;
            ensure!(error.code == 1094 && error.message == "Unknown thread id: 99999999", "{who}: {error}");
        }
        primary.sql("INSERT INTO test.t VALUES (1)")?;
        assert_tables_equal(&primary, &replica);
        Ok(())
    });
}

/// The replica's connection, as `SHOW PROCESSLIST` tells it.
fn connection(relay: &RelayProc) -> Result<String> {
    let rows = relay.session()?.query("SHOW PROCESSLIST")?;
    let dump =
        rows.into_iter().find(|row| row[4].as_deref() == Some("Binlog Dump")).context("no replica is attached")?;
    dump.into_iter().next().flatten().context("no id")
}

#[test]
fn own_server_id_of_the_relay_is_not_taken_from_a_replica() {
    scenario("own_server_id", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).server_id(2).start()?;
        let replica = bed.mariadb("replica").server_id(2).start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        let stopped = wait_until("the replica to stop", || replica.slave_status(), |s| s["Slave_IO_Running"] == "No")?;
        ensure!(stopped["Last_IO_Errno"] == "1593", "{stopped:?}");
        let equal = bed.mariadb("equal").server_id(1).start()?;
        let refused = bed.relay("refused").server_id(1).upstream(&equal).start()?;
        let error = || Ok(refused.status()?["upstream"].clone());
        let status = wait_until("a refusal", error, |status| status["state"] == "refused")?;
        ensure!(status["error"].as_str().is_some_and(|text| text.contains("server_id 1")), "{status}");
        Ok(())
    });
}
