//! Places from which nothing can be streamed.

use anyhow::{Context, Result, ensure};
use baton_testbed::dump::{Dump, End};
use baton_testbed::sql::SqlError;
use baton_testbed::template::REPL_PASSWORD;
use baton_testbed::{MariaDb, RelayProc, Source, scenario, wait_until};

/// Both servers' refusals of one request.
fn refusals(primary: &MariaDb, relay: &RelayProc, dump: &Dump) -> Result<(SqlError, SqlError)> {
    let refused = |end: End| match end {
        End::Refused(error) => Ok(error),
        other => Err(anyhow::anyhow!("not refused: {other:?}")),
    };
    let both = || -> Result<_> {
        let expected =
            refused(dump.run(&mut primary.session_as("repl", REPL_PASSWORD)?)?.end).context("by the primary")?;
        let found = refused(dump.run(&mut relay.session()?)?.end).context("by the relay")?;
        Ok((expected, found))
    };
    both().with_context(|| format!("{dump:?}"))
}

/// Refused by both with the same number, and the same words up to the first `;`.
fn same_refusal(primary: &MariaDb, relay: &RelayProc, dump: &Dump) -> Result<()> {
    let (expected, found) = refusals(primary, relay, dump)?;
    let kind = |error: &SqlError| (error.code, error.state.clone(), error.message.split(';').next().map(str::to_owned));
    ensure!(kind(&expected) == kind(&found), "{dump:?}: the primary says {expected}, the relay {found}");
    ensure!(found.code == 1236);
    Ok(())
}

#[test]
fn impossible_starts_are_refused_as_the_primary_refuses_them() {
    scenario("impossible_starts", |bed| {
        let primary = bed.mariadb("primary").option("--max-binlog-size=256K").start()?;
        let relay = bed.relay("relay").upstream(&primary).set("log", "retain_bytes", "\"1MiB\"").start()?;
        primary.sql("CREATE TABLE test.t (id INT AUTO_INCREMENT PRIMARY KEY, text LONGTEXT)")?;
        while primary.binlogs()?.len() < 9 {
            primary.sql("INSERT INTO test.t (text) VALUES (REPEAT('x', 100000))")?;
        }
        relay.wait_head(&primary)?;
        // The relay forgets by itself; the primary is told to forget the same.
        let logs = || {
            Ok(relay
                .session()?
                .query("SHOW BINARY LOGS")?
                .iter()
                .filter_map(|row| Some((row[0].clone()?, row[1].as_ref()?.parse::<u64>().ok()?)))
                .collect::<Vec<_>>())
        };
        let settled = |logs: &Vec<(String, u64)>| logs.iter().map(|(_, size)| size).sum::<u64>() <= 1 << 20;
        let oldest = wait_until("the relay to drop files", logs, settled)?.swap_remove(0).0;
        ensure!(oldest.as_str() > "mysql-bin.000003", "it has dropped hardly anything: {oldest}");
        // A file goes once the storage engine does not need it for recovery any more.
        let purge = || primary.sql(&format!("PURGE BINARY LOGS TO '{oldest}'")).and(primary.binlogs());
        wait_until("the primary to drop files", purge, |names| names.first() == Some(&oldest))?;
        let (end, last) = (primary.gtid_binlog_pos()?, primary.binlogs()?.last().cloned().context("no files")?);
        let number: u64 = end.rsplit('-').next().context("no GTID")?.parse()?;

        same_refusal(&primary, &relay, &Dump::file("nosuch.000001", 4))?;
        same_refusal(&primary, &relay, &Dump::file("mysql-bin", 4))?;
        same_refusal(&primary, &relay, &Dump::file("../../etc/passwd", 4))?;
        same_refusal(&primary, &relay, &Dump::file("mysql-bin.000001", 4))?;
        same_refusal(&primary, &relay, &Dump::file(&oldest, 100_000_000))?;
        same_refusal(&primary, &relay, &Dump::file(&oldest, 3))?;
        same_refusal(&primary, &relay, &Dump::file(&oldest, u32::MAX))?;
        for position in ["", "0-1-1", "0-1-2"] {
            same_refusal(&primary, &relay, &Dump::gtid(position))?;
        }
        for strict in [0, 1] {
            let forked = Dump::gtid(&format!("0-9-{}", number - 1));
            same_refusal(&primary, &relay, &forked.saying(&format!("SET @slave_gtid_strict_mode={strict}")))?;
        }
        for text in ["0-1", "0-1-x", "0-1-1,0-1-2", "99999999999-1-1", "'"] {
            // The primary refuses the SET statement, the relay the dump: both before anything is streamed.
            let dump = Dump::file("", 4).saying(&format!("SET @slave_connect_state='{}'", text.replace('\'', "''")));
            let refused = |run: Result<baton_testbed::dump::Stream>| {
                run.is_err()
                    || run.is_ok_and(|stream| matches!(stream.end, End::Refused(_)) && stream.events.is_empty())
            };
            ensure!(refused(dump.run(&mut relay.session()?)), "{text:?} was taken by the relay");
        }
        same_refusal(&primary, &relay, &Dump::file(&last, 4).saying_only(&["SET @mariadb_slave_capability=4"]))?;
        // In the middle of an event every number is as good as any: both refuse, in words that depend on what they take for a header.
        for position in [5, 20, 300, 70_000] {
            let (expected, found) = refusals(&primary, &relay, &Dump::file(&oldest, position))?;
            ensure!(expected.code == 1236 && found.code == 1236, "at {position}: {expected}, {found}");
        }
        // So old that the relay can't tell any more whether it was ever there; the primary remembers which servers wrote.
        let (expected, found) = refusals(&primary, &relay, &Dump::gtid("0-9-1"))?;
        ensure!(expected.code == 1236 && found.code == 1236, "{expected}, {found}");
        replicas_stop_alike(bed, &primary, &relay, number)
    });
}

/// Real replicas stop with the same error, whoever refuses them.
fn replicas_stop_alike(bed: &baton_testbed::Bed, primary: &MariaDb, relay: &RelayProc, number: u64) -> Result<()> {
    let replica = bed.mariadb("replica").server_id(2).start()?;
    let positions = [String::new(), format!("0-9-{}", number - 1)];
    for position in positions {
        let mut told = Vec::new();
        for port in [primary.port(), relay.port()] {
            replica.sql(&format!("RESET MASTER; SET GLOBAL gtid_slave_pos='{position}'"))?;
            replica.replicate_from(&Source::gtid(port))?;
            let stopped =
                wait_until("the replica to stop", || replica.slave_status(), |s| s["Slave_IO_Running"] == "No")?;
            told.push((stopped["Last_IO_Errno"].clone(), stopped["Last_IO_Error"].clone()));
            replica.stop_slave()?;
        }
        ensure!(told[0] == told[1] && told[0].0 == "1236", "{position:?}: {told:?}");
    }
    let state = || Ok(relay.lag_of("server-2")?["error"].as_str().unwrap_or_default().to_owned());
    wait_until("the relay to name the refusal", state, |error| error.contains("GTID"))?;
    Ok(())
}
