//! `baton-relay reset-log`: moves the log aside so that the next start begins a new one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::clock::Micros;
use crate::log::{DiskStorage, LogError};

/// Moves every file of the log in `data_dir` into `data_dir/old-<time>` and returns that directory.
///
/// # Errors
/// The directory is missing, in use by a running relay, holds no log, or can't be written.
pub fn reset_log(data_dir: &Path) -> anyhow::Result<PathBuf> {
    // Holding the lock keeps a relay from starting meanwhile.
    let _locked = match DiskStorage::open(data_dir) {
        // Who has it is the relay itself: another directory, as a relay that starts is told to use, would not help here.
        Err(LogError::Locked { dir }) => {
            bail!("{dir} is in use: the relay is running and has to be stopped first (systemctl stop baton-relay)")
        }
        opened => opened.with_context(|| format!("{} can't be taken", data_dir.display()))?,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(data_dir).with_context(|| format!("{} can't be read", data_dir.display()))? {
        let entry = entry?;
        // What was promised holds for this relay, whatever log it keeps.
        if entry.file_type()?.is_file() && entry.file_name() != crate::log::PROMISE_FILE {
            files.push(entry.file_name());
        }
    }
    if files.is_empty() {
        bail!("{} holds no log", data_dir.display());
    }
    let old = data_dir.join(format!("old-{}", Micros::now().0));
    fs::create_dir(&old).with_context(|| format!("{} can't be made", old.display()))?;
    for name in files {
        fs::rename(data_dir.join(&name), old.join(&name))
            .with_context(|| format!("{} can't be moved", name.display()))?;
    }
    for dir in [&old, data_dir] {
        fs::File::open(dir)?.sync_all().with_context(|| format!("{} can't be synced", dir.display()))?;
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_runs_has_to_be_stopped_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("meta.json"), "{}").unwrap();
        let running = DiskStorage::open(dir.path()).unwrap();
        let said = format!("{:#}", reset_log(dir.path()).unwrap_err());
        assert!(said.contains("has to be stopped first") && !said.contains("of its own"), "{said}");
        assert!(dir.path().join("meta.json").exists());
        drop(running);
        assert!(reset_log(dir.path()).unwrap().join("meta.json").exists());
    }
}
