//! Statements and commands that are no replication, or only about it.

use anyhow::{Context, Result, ensure};
use baton_testbed::sql::{Sql, SqlError, code_of};
use baton_testbed::template::{REPL_PASSWORD, program};
use baton_testbed::{Bed, Cmd, DEADLINE, MariaDb, RelayProc, Source, scenario, wait_caught_up, wait_until};

fn code(answer: Result<impl Sized>) -> u16 {
    answer.err().and_then(|error| error.downcast_ref::<SqlError>().map(|error| error.code)).unwrap_or(0)
}

#[test]
fn what_is_not_replication_gets_a_clear_error_and_the_session_goes_on() {
    scenario("not_replication", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        relay.wait_head(&primary)?;
        let (mut there, mut here) = (primary.session_as("repl", REPL_PASSWORD)?, relay.session()?);
        for statement in [
            "SELECT @@nonsense",
            "SELECT @@global.nonsense",
            "SELECT 'no end",
            "",
            "SET",
            "KILL",
            "SELECT nonsense_function(1)",
            "SET GLOBAL binlog_checksum=NONE",
        ] {
            let (expected, found) = (there.query(statement), here.query(statement));
            let (expected, found) = (code(expected), code(found));
            // An empty statement is 1065 there; both are errors of syntax.
            ensure!(
                expected != 0 && (expected == found || statement.is_empty()),
                "{statement:?}: {expected} there, {found} here"
            );
        }
        for statement in [
            "DROP TABLE test.t",
            "INSERT INTO test.t VALUES (1)",
            "SELECT * FROM test.t",
            "SELECT 1 + 1 FROM t",
            "CHANGE MASTER TO MASTER_PORT=1",
            "RESET MASTER",
            "PURGE BINARY LOGS TO 'x'",
            "FLUSH BINARY LOGS",
            "SHUTDOWN",
            "CREATE USER x",
            "LOAD DATA LOCAL INFILE 'x' INTO TABLE t",
        ] {
            let error = here.query(statement).err().with_context(|| format!("{statement} was done"))?;
            ensure!(
                code_of(&error) == Some(1235) && format!("{error:#}").contains("send other statements to the primary"),
                "{statement}: {error:#}"
            );
        }
        for statement in [
            "SELECT VERSION()",
            "SELECT @@server_id IS NOT NULL",
            "SELECT BINLOG_GTID_POS('nosuch.000001', 4)",
            "SELECT BINLOG_GTID_POS('mysql-bin.000001', 4)",
            "SELECT @@gtid_binlog_pos",
            "SELECT @@global.gtid_domain_id",
            "SELECT @unset",
            "SELECT NULL",
            "SHOW VARIABLES LIKE 'server\\_i%'",
            "SHOW VARIABLES LIKE 'version'",
            "SHOW GLOBAL VARIABLES LIKE 'binlog_format'",
            "SET NAMES utf8mb4",
            "SET @a=1, @b='two'",
            "SELECT @b",
        ] {
            let (expected, found) = (there.query(statement), here.query(statement));
            match (expected, found) {
                (Ok(expected), Ok(found)) => {
                    let known =
                        |rows: &[Vec<Option<String>>]| rows.iter().map(|row| row.last().cloned()).collect::<Vec<_>>();
                    let differs = statement.contains("server\\_id") || statement.contains("server\\_i%");
                    ensure!(
                        differs || known(&expected) == known(&found),
                        "{statement}: {expected:?} there, {found:?} here"
                    );
                }
                (expected, found) => ensure!(code(found) == 1235, "{statement}: {expected:?} there"),
            }
        }
        every_command(&primary, &relay)
    });
}

/// Each command code with a body that fits some: an answer comes, and the session goes on, wherever the primary's does.
fn every_command(primary: &MariaDb, relay: &RelayProc) -> Result<()> {
    let ends_it = [0x01, 0x11, 0x12, 0x1e]; // QUIT, CHANGE_USER, BINLOG_DUMP, BINLOG_DUMP_GTID
    // These are sent without an answer: STMT_SEND_LONG_DATA, STMT_CLOSE.
    let unanswered = [0x18, 0x19];
    let mut here = relay.session()?;
    for command in (0x00..=0x2f).chain([0x7f, 0xef, 0xf0, 0xfa, 0xfb, 0xff]) {
        if ends_it.contains(&command) || unanswered.contains(&command) || command == 0x03 {
            continue;
        }
        for body in [&b""[..], b"\x01\x00\x00\x00"] {
            let found = here.first_packet(&[&[command], body].concat());
            if let Err(error) = &found {
                ensure!(code_of(error).is_some(), "command {command:#04x} {body:?} got no answer: {error:#}");
            }
            if matches!(command, 0x00 | 0x0b | 0x0f | 0x10 | 0x13 | 0x14 | 0x20..) {
                ensure!(code(found) == 1047, "command {command:#04x} is not one");
            }
            let alive = here.query("SELECT @@server_id").with_context(|| format!("after command {command:#04x}"))?;
            ensure!(alive == [[Some("9001".to_owned())]]);
        }
    }
    // The command of MySQL's GTIDs, for which neither server has a stream.
    let dump_gtid =
        [&[0x1e][..], &[0; 2], &77_u32.to_le_bytes(), &[0; 4], &4_u64.to_le_bytes(), &8_u32.to_le_bytes(), &[0; 8]]
            .concat();
    let refused =
        |session: &mut Sql| session.first_packet(&dump_gtid).err().and_then(|error| error.downcast::<SqlError>().ok());
    ensure!(refused(&mut primary.session_as("repl", REPL_PASSWORD)?).is_some(), "the primary streams MySQL's GTIDs");
    let error = refused(&mut relay.session()?).context("the relay streams MySQL's GTIDs")?;
    ensure!(error.code == 1236 && error.message.contains("MASTER_USE_GTID"), "{error}");
    Ok(())
}

/// What the `mariadb` client prints for a statement: column names first, tabs in between.
fn client(bed: &Bed, port: u16, statement: &str) -> Result<Vec<Vec<String>>> {
    let cmd = Cmd::new(program("mariadb")?).args(["--no-defaults", "--host=127.0.0.1", "--user=repl", "--batch"]);
    let cmd =
        cmd.args([format!("--password={REPL_PASSWORD}"), format!("--port={port}"), format!("--execute={statement}")]);
    let text = cmd.run(&bed.path("client"), DEADLINE).with_context(|| statement.to_owned())?;
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

#[test]
fn mariadb_client_shows_the_log_and_who_reads_it_by_old_and_new_names() {
    scenario("shown", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        primary.sql("GRANT REPLICATION MASTER ADMIN, SLAVE MONITOR, PROCESS ON *.* TO repl@'%'; CREATE TABLE test.t (id INT PRIMARY KEY); FLUSH BINARY LOGS; INSERT INTO test.t VALUES (1)")?;
        let replica = bed
            .mariadb("replica")
            .server_id(2)
            .option("--report-host=replica.example")
            .option("--report-port=3399")
            .start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        wait_caught_up(&primary, &replica)?;
        let show = |port: u16, statement: &str| client(bed, port, statement);
        for statement in
            ["SHOW MASTER STATUS", "SHOW BINLOG STATUS", "SHOW BINARY LOGS", "SHOW MASTER LOGS", "show  binary\n logs"]
        {
            let same = || Ok((show(primary.port(), statement)?, show(relay.port(), statement)?));
            wait_until(&format!("the same answer to {statement}"), same, |(there, here)| there == here)?;
        }
        // MySQL's newer spellings, which this primary does not know.
        for (statement, as_old) in [
            ("SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"),
            ("SHOW REPLICAS", "SHOW SLAVE HOSTS"),
            ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS"),
        ] {
            ensure!(show(relay.port(), statement)? == show(relay.port(), as_old)?, "{statement}");
        }
        for statement in ["SHOW SLAVE HOSTS", "SHOW REPLICA HOSTS"] {
            let (there, here) = (show(primary.port(), statement)?, show(relay.port(), statement)?);
            ensure!(there[0] == here[0], "{statement}: {there:?} there, {here:?} here");
            ensure!(
                there[1][0] == "9001" && there[1][1] == "relay",
                "{there:?}: the relay is not among the primary's replicas"
            );
            ensure!(here[1..] == [["2", "replica.example", "3399", "9001"].map(str::to_owned)], "{here:?}");
        }
        let processes = show(relay.port(), "SHOW FULL PROCESSLIST")?;
        ensure!(processes[0][..8] == show(primary.port(), "SHOW PROCESSLIST")?[0][..8], "{processes:?}");
        ensure!(
            processes.iter().any(|row| row[4] == "Binlog Dump")
                && processes.iter().any(|row| row[7] == "SHOW PROCESSLIST"),
            "{processes:?}"
        );
        let status = show(relay.port(), "SHOW SLAVE STATUS")?;
        let expected = replica.answer("SHOW SLAVE STATUS")?.columns;
        let unknown: Vec<_> = status[0].iter().filter(|column| !expected.contains(column)).collect();
        ensure!(unknown.is_empty(), "columns that no replica shows: {unknown:?}");
        let row: std::collections::BTreeMap<_, _> = status[0].iter().zip(&status[1]).collect();
        let value = |column: &str| row.get(&column.to_owned()).map(|value| value.as_str());
        ensure!(
            value("Master_Port") == Some(&primary.port().to_string()) && value("Slave_IO_Running") == Some("Yes"),
            "{row:?}"
        );
        ensure!(value("Master_Server_Id") == Some("1") && value("Last_IO_Error") == Some(""), "{row:?}");
        let variables = show(relay.port(), "SHOW VARIABLES")?;
        let version = |rows: &[Vec<String>]| rows.iter().find(|row| row[0] == "version").map(|row| row[1].clone());
        ensure!(
            version(&variables).is_some() && version(&variables) == version(&show(primary.port(), "SHOW VARIABLES")?),
            "{variables:?}"
        );
        ensure!(
            show(relay.port(), "SHOW WARNINGS")?.is_empty()
                && show(relay.port(), "SHOW STATUS LIKE 'Slaves_connected'")?.len() == 2
        );
        Ok(())
    });
}
