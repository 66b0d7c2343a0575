//! What a returning primary has and the cluster's log lacks: saved to a file and reported, never thrown away, never merged.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::position::beyond;
use crate::model::ServerRole;

/// How often replication is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Raw binlog files that are kept where they can't be decoded: the surplus is at the end.
const RAW_FILES: usize = 2;
/// The source's error for what it can't serve (wire protocol: `ER_MASTER_FATAL_ERROR_READING_BINLOG`).
const CAN_NOT_SERVE: u32 = 1236;

/// Whether the source says that this server has what its log lacks, and not that it has purged what this server needs. Pure.
pub fn says_diverged(number: u32, text: &str) -> bool {
    number == CAN_NOT_SERVE && text.contains("which is not in the master's binlog")
}

/// Watches for a replica whose source says that it has diverged, until cancelled.
pub async fn watch(core: Arc<Core>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(LOOK) => {}
        }
        let duty = core.duty.get();
        if duty.role != ServerRole::Replica || core.host.alive().is_none() {
            continue;
        }
        let observed = core.observed.get();
        let Some(answer) = observed.answer else { continue };
        let error = answer.status.replication.as_ref().and_then(|r| r.io_error.clone());
        let Some((_, text)) = error.filter(|(number, text)| says_diverged(*number, text)) else { continue };
        tracing::error!(text, own = answer.status.gtid_binlog, "this server has diverged from the cluster's log");
        // What the log is known to have of it: where the newest epoch that another server began did so.
        let snapshot = core.snapshot();
        let begun = snapshot
            .epochs
            .values()
            .rev()
            .find(|e| e.node != core.config.node && beyond(&answer.status.gtid_binlog, &e.gtid).is_some());
        let common = begun.map(|e| e.gtid.clone()).unwrap_or_default();
        found(&core, &common).await;
    }
}

/// Notes that this server has diverged, and saves what it has beyond `common` (an empty one: what is to be had of its newest binlog files).
pub async fn found(core: &Core, common: &str) {
    let dir = core.config.data_dir.clone();
    let binlog = core.known.get().server.map(|s| s.log_bin_basename);
    let saved = match binlog {
        Some(base) => {
            let common = common.to_owned();
            let saved = tokio::task::spawn_blocking(move || save(&dir, &base, &common)).await;
            saved.unwrap_or_else(|e| Err(io::Error::other(e)))
        }
        None => Err(io::Error::new(io::ErrorKind::NotFound, "it is not known where the server keeps its binlog")),
    };
    let file = match saved {
        Ok(file) => {
            tracing::error!(file = %file.display(), "what this server has and the cluster's log lacks was saved");
            Some(file)
        }
        Err(error) => {
            tracing::error!(%error, "what this server has and the cluster's log lacks could not be saved: keep its binlog files");
            None
        }
    };
    let noted = core.duty.change(move |duty| {
        duty.role = ServerRole::Diverged;
        duty.opened = None;
        duty.following = None;
        duty.surplus = file;
    });
    if let Err(error) = noted.await {
        tracing::error!(%error, "that this server has diverged can't be noted");
    }
}

/// As SQL where that can be had, else the raw files.
fn save(dir: &Path, base: &Path, common: &str) -> io::Result<PathBuf> {
    let files = binlog_files(base)?;
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let sql = dir.join(format!("surplus-{stamp}.sql"));
    match decode(&files, common, &sql) {
        Ok(()) => return Ok(sql),
        Err(error) => tracing::warn!(%error, "mariadb-binlog can't decode the surplus: the raw files are kept"),
    }
    let _incomplete = fs::remove_file(&sql);
    let raw = dir.join(format!("surplus-{stamp}"));
    fs::create_dir_all(&raw)?;
    for file in files.iter().rev().take(RAW_FILES) {
        if let Some(name) = file.file_name() {
            let copy = raw.join(name);
            io::copy(&mut File::open(file)?, &mut private(&copy)?)?;
        }
    }
    Ok(raw)
}

/// A new file for nobody else's eyes: statements in it may name passwords, and rows are data.
fn private(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn decode(files: &[PathBuf], common: &str, to: &Path) -> io::Result<()> {
    if common.is_empty() {
        return Err(io::Error::other("it is not known where the surplus begins"));
    }
    let out = private(to)?;
    let output = Command::new("mariadb-binlog")
        .args(["--no-defaults", "--verbose", &format!("--start-position={common}")])
        .args(files)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .output()?;
    out.sync_all()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", output.status, said.lines().next().unwrap_or_default())))
}

/// The server's binlog files, oldest first: `<base>.<number>`.
///
/// # Errors
/// The directory can't be read, or there are none.
pub fn binlog_files(base: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = base.parent().unwrap_or_else(|| Path::new("."));
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(number) = binlog_number(base, &path) {
            files.push((number, path));
        }
    }
    if files.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there are no binlog files {}.*", base.display())));
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// The number of a binlog file of this base name.
pub fn binlog_number(base: &Path, path: &Path) -> Option<u64> {
    let stem = base.file_name()?.to_str()?;
    let number = path.file_name()?.to_str()?.strip_prefix(stem)?.strip_prefix('.')?;
    let digits = number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purged_position_is_no_divergence() {
        let diverged = "Got fatal error 1236 from master when reading data from binary log: 'Error: connecting slave requested to start from \
                        GTID 0-1-9, which is not in the master's binlog'";
        assert!(says_diverged(1236, diverged));
        assert!(!says_diverged(1236, "Could not find GTID state requested by slave in any binlog files."));
        assert!(!says_diverged(1045, diverged));
    }

    #[test]
    fn binlog_files_are_told_from_their_index_and_from_others() {
        let base = Path::new("/data/mysql-bin");
        for (name, number) in [
            ("mysql-bin.000012", Some(12)),
            ("mysql-bin.1000000", Some(1_000_000)),
            ("mysql-bin.index", None),
            ("mysql-bin.state", None),
            ("mysql-bin.12", None),
            ("mysql-bin2.000012", None),
            ("relay-bin.000012", None),
        ] {
            assert_eq!(binlog_number(base, &Path::new("/data").join(name)), number, "{name}");
        }
    }
}
