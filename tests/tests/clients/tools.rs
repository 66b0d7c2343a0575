//! Tools that speak the replication protocol themselves: `mariadb-binlog`, and readers of rows in other languages.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::template::{REPL_PASSWORD, program};
use baton_testbed::{Bed, Cmd, DEADLINE, MariaDb, RelayProc, cmp_files, cmp_prefix, dir, scenario, wait_until};

use crate::support::{wait_same_end, write_everything};

/// Creating the environment fetches packages.
const INSTALL: Duration = Duration::from_secs(300);

/// A primary and a relay with a log of several files.
fn pair(bed: &Bed, options: &[&str]) -> Result<(MariaDb, RelayProc)> {
    let builder = options.iter().fold(bed.mariadb("primary"), |builder, option| builder.option(option));
    let primary = builder.start()?;
    write_everything(&primary)?;
    let relay = bed.relay("relay").upstream(&primary).start()?;
    wait_same_end(&primary, &relay)?;
    Ok((primary, relay))
}

fn mariadb_binlog(port: u16, args: &[&str]) -> Result<Cmd> {
    let cmd = Cmd::new(program("mariadb-binlog")?).args(["--no-defaults", "--read-from-remote-server"]);
    let login = ["--host=127.0.0.1", "--user=repl", &format!("--password={REPL_PASSWORD}"), &format!("--port={port}")];
    Ok(cmd.args(login).args(args))
}

/// Runs it into a directory of its own and gives the names of the files that it wrote.
fn raw(bed: &Bed, name: &str, port: u16, args: &[&str]) -> Result<Vec<PathBuf>> {
    let dir = bed.path(name);
    fs::create_dir_all(&dir)?;
    let prefix = format!("--result-file={}/", dir.display());
    mariadb_binlog(port, &["--raw", &prefix])?.args(args).run(&bed.path(format!("{name}-run")), DEADLINE)?;
    let mut files: Vec<_> = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

#[test]
fn mariadb_binlog_fetches_files_that_are_the_primarys() {
    scenario("fetched", |bed| {
        let (primary, relay) = pair(bed, &[])?;
        let names = primary.binlogs()?;
        for (kind, args) in [("one", vec![names[1].as_str()]), ("all", vec!["--to-last-log", names[0].as_str()])] {
            let expected = raw(bed, &format!("{kind}-primary"), primary.port(), &args)?;
            let found = raw(bed, &format!("{kind}-relay"), relay.port(), &args)?;
            ensure!(expected.len() == found.len() && found.len() == if kind == "one" { 1 } else { names.len() });
            for (expected, found) in expected.iter().zip(&found) {
                cmp_files(expected, found)?;
                let name = found.file_name().context("no name")?.to_string_lossy().into_owned();
                let size = fs::metadata(found)?.len() as usize;
                cmp_prefix(&primary.binlog_path(&name), found, size, &[21])?;
            }
        }
        fetched_for_ever(bed, &primary, &relay, &names)
    });
}

fn fetched_for_ever(bed: &Bed, primary: &MariaDb, relay: &RelayProc, names: &[String]) -> Result<()> {
    let dir = bed.path("for-ever");
    fs::create_dir_all(&dir)?;
    let args =
        ["--raw", "--stop-never", "--stop-never-slave-server-id=77", &format!("--result-file={}/", dir.display())];
    let running = mariadb_binlog(relay.port(), &args)?.arg(&names[0]).spawn(&bed.log("for-ever"), None)?;
    primary.sql("FLUSH BINARY LOGS; INSERT INTO test.InnoDB (text) VALUES ('and on'); FLUSH BINARY LOGS")?;
    let last = primary.binlogs()?.last().context("no files")?.clone();
    let there = || {
        ensure!(running.is_running(), "it has ended");
        Ok(dir.join(&last).exists())
    };
    wait_until("the newest file to be fetched", there, |there| *there)?;
    running.kill9();
    primary
        .binlogs()?
        .iter()
        .filter(|name| **name != last)
        .try_for_each(|name| cmp_files(&primary.binlog_path(name), &dir.join(name)))
}

#[test]
fn mariadb_binlog_prints_the_same_text_from_relay_and_primary() {
    scenario("printed", |bed| {
        let (primary, relay) = pair(bed, &[])?;
        let (first, last) = (primary.binlogs()?[0].clone(), primary.binlogs()?.last().cloned().context("no files")?);
        let middle = primary.value(&format!("SHOW BINLOG EVENTS IN '{first}' LIMIT 9, 1"))?;
        ensure!(middle == first);
        let end =
            primary.sql(&format!("SHOW BINLOG EVENTS IN '{first}' LIMIT 9, 1"))?[0][4].clone().unwrap_or_default();
        let position = format!("--start-position={end}");
        let cases: [&[&str]; 6] = [
            &[&first],
            &["--verbose", "--verbose", "--to-last-log", &first],
            &[&position, &first],
            &["--start-position=0-1-5", "--to-last-log", &first],
            &["--start-position=0-1-14,7-1-3,4294967295-1-2", "--to-last-log", &first],
            &["--verify-binlog-checksum", "--base64-output=decode-rows", &last],
        ];
        for (case, args) in cases.iter().enumerate() {
            let text = |name: &str, port: u16| -> Result<String> {
                // Loaded files are written out, under names that are free.
                let loads = bed.path(format!("{name}-{case}-loads"));
                fs::create_dir_all(&loads)?;
                let cmd = mariadb_binlog(port, args)?.arg(format!("--local-load={}", loads.display()));
                let text = cmd.run(&bed.path(format!("{name}-{case}")), DEADLINE)?;
                let text = text.replace(&loads.display().to_string(), "");
                // By GTID, a server also tells the checkpoints that it meets on its way to the place; offsets are counted from what came.
                let by_gtid = args.iter().any(|arg| arg.starts_with("--start-position=0-"));
                let lines = text.lines().skip_while(|line| by_gtid && !line.contains("\tGTID "));
                let lines = lines.filter(|line| !by_gtid || !line.starts_with("# at "));
                Ok(lines.map(without_sender).collect::<Vec<_>>().join("\n"))
            };
            let (expected, found) = (text("primary", primary.port())?, text("relay", relay.port())?);
            ensure!(expected.lines().count() > 20, "{args:?}: {expected}");
            let differs = expected.lines().zip(found.lines()).find(|(a, b)| a != b);
            ensure!(differs.is_none() && expected.len() == found.len(), "{args:?}: {differs:?}");
        }
        Ok(())
    });
}

/// The sender of an artificial event (its time is 0) tells its own server_id, and sums that up.
fn without_sender(line: &str) -> &str {
    let artificial = line.starts_with("#700101");
    line.split_once("server id").filter(|_| artificial).map_or(line, |(time, _)| time)
}

#[test]
fn python_reads_the_same_rows_from_relay_and_primary() {
    scenario("python", |bed| {
        let python = python()?;
        let (primary, relay) = pair(bed, &["--binlog-row-metadata=FULL"])?;
        let (first, script) = (primary.binlogs()?[0].clone(), bed.path("read_rows.py"));
        fs::write(&script, include_str!("../../python/read_rows.py"))?;
        // The names of columns are in the log, and whether they are is asked of the server (binlog_row_metadata).
        for (case, start) in [format!("{first}:4"), "0-1-1".to_owned()].iter().enumerate() {
            let rows = |name: &str, port: u16| {
                let cmd = Cmd::new(&python).arg(&script).args([
                    &port.to_string(),
                    "repl",
                    REPL_PASSWORD,
                    start,
                    "DROP TABLE `test`",
                ]);
                cmd.run(&bed.path(format!("{name}-{case}")), DEADLINE)
            };
            let (expected, found) = (rows("primary", primary.port())?, rows("relay", relay.port())?);
            for kind in ["WriteRowsEvent", "UpdateRowsEvent", "DeleteRowsEvent", "MariadbGtidEvent"] {
                ensure!(expected.contains(kind), "{start}: no {kind} in {expected}");
            }
            let differs = expected.lines().zip(found.lines()).find(|(a, b)| a != b);
            ensure!(differs.is_none() && expected.len() == found.len(), "{start}: {differs:?}");
        }
        Ok(())
    });
}

/// The interpreter of an environment with the readers installed, made when it is not there.
fn python() -> Result<PathBuf> {
    let base = dir::base()?;
    let _one_installer = dir::lock(&base.join("python.lock"))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/python-clients.sh");
    let venv = base.join("python");
    Cmd::new(script).arg(&venv).run(&base.join("python-install"), INSTALL)?;
    Ok(venv.join("bin/python"))
}
