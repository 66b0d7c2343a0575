//! Comparing what should be equal: tables on two servers, files byte by byte, positions.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::mariadb::MariaDb;
use crate::procs::Cmd;
use crate::template;
use crate::wait::{DEADLINE, wait_for};

/// Waits until `replica` has applied all that `primary` has in its binlog; ends at once with the error if replication stops with one.
pub fn wait_caught_up(primary: &MariaDb, replica: &MariaDb) -> Result<()> {
    let goal = primary.gtid_binlog_pos()?;
    let mut last = String::new();
    let found = wait_for(&format!("{} to reach {goal}", replica.name()), DEADLINE, || {
        replica.check_replication()?;
        last = replica.gtid_slave_pos()?;
        Ok((last == goal).then_some(()))
    });
    found.with_context(|| {
        let mut status = replica.slave_status().unwrap_or_default();
        let telling = [
            "Slave_IO_Running",
            "Slave_SQL_Running",
            "Slave_IO_State",
            "Gtid_IO_Pos",
            "Last_IO_Error",
            "Last_SQL_Error",
        ];
        status.retain(|key, value| telling.contains(&key.as_str()) && !value.is_empty());
        format!("{} is at '{last}' of '{goal}', {status:?}", replica.name())
    })
}

/// Checks that two servers hold the same tables of `databases` with the same content.
pub fn compare_tables(primary: &MariaDb, replica: &MariaDb, databases: &[&str]) -> Result<usize> {
    let mut count = 0;
    for database in databases {
        let (expected, found) = (primary.checksum_tables(database)?, replica.checksum_tables(database)?);
        for (table, sum) in &expected {
            let other = found.get(table).with_context(|| format!("{} has no table {table}", replica.name()))?;
            ensure!(sum == other, "{table} differs: {} has {sum:?}, {} has {other:?}", primary.name(), replica.name());
        }
        if let Some(extra) = found.keys().find(|table| !expected.contains_key(*table)) {
            bail!("{} has a table {extra} that {} lacks", replica.name(), primary.name());
        }
        count += expected.len();
    }
    Ok(count)
}

/// Waits until `replica` has caught up, then checks that the databases `test` and `sbtest` are the same on both.
///
/// # Panics
/// If it does not catch up, or they differ.
pub fn assert_tables_equal(primary: &MariaDb, replica: &MariaDb) {
    let compared =
        wait_caught_up(primary, replica).and_then(|()| compare_tables(primary, replica, &["test", "sbtest"]));
    if let Err(error) = compared {
        panic!("{} and {} are not equal: {error:#}", primary.name(), replica.name());
    }
}

/// Checks that two files are equal, byte for byte; the error names the first difference.
pub fn cmp_files(expected: &Path, found: &Path) -> Result<()> {
    let (a, b) = (read(expected)?, read(found)?);
    same_up_to(expected, &a, found, &b, a.len().max(b.len()))
}

/// Checks that two files are equal in their first `length` bytes (both have that many). `except` lists offsets that may differ: offset 21 of a
/// binlog holds the in-use bit, which is cleared when the file is closed.
pub fn cmp_prefix(expected: &Path, found: &Path, length: usize, except: &[usize]) -> Result<()> {
    let (mut a, mut b) = (read(expected)?, read(found)?);
    for offset in except {
        if let (Some(x), Some(y)) = (a.get_mut(*offset), b.get_mut(*offset)) {
            (*x, *y) = (0, 0);
        }
    }
    same_up_to(expected, &a, found, &b, length)
}

/// Runs `mariadb-binlog` over files in order, verifying checksums, and gives its text.
pub fn binlog_text(stem: &Path, files: &[impl AsRef<Path>], options: &[&str]) -> Result<String> {
    let cmd = Cmd::new(template::program("mariadb-binlog")?).args(["--no-defaults", "--verify-binlog-checksum"]);
    cmd.args(options).args(files.iter().map(AsRef::as_ref)).run(stem, DEADLINE)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

fn same_up_to(expected: &Path, a: &[u8], found: &Path, b: &[u8], length: usize) -> Result<()> {
    let (head_a, head_b) = (a.get(..length).unwrap_or(a), b.get(..length).unwrap_or(b));
    if head_a == head_b && head_a.len() == length {
        return Ok(());
    }
    let at = head_a.iter().zip(head_b).position(|(x, y)| x != y).unwrap_or(head_a.len().min(head_b.len()));
    let around = |bytes: &[u8]| {
        let window = bytes.iter().skip(at).take(16);
        window.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    };
    bail!(
        "{} ({} bytes) and {} ({} bytes) differ from offset {at} on:\n  [{}]\n  [{}]",
        expected.display(),
        a.len(),
        found.display(),
        b.len(),
        around(a),
        around(b)
    )
}
