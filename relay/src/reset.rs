//! `baton-relay reset-log`: moves the log aside so that the next start begins a new one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::clock::Micros;
use crate::log::DiskStorage;

/// Moves every file of the log in `data_dir` into `data_dir/old-<time>` and returns that directory.
///
/// # Errors
/// The directory is missing, in use by a running relay, holds no log, or can't be written.
pub fn reset_log(data_dir: &Path) -> anyhow::Result<PathBuf> {
    // Holding the lock keeps a relay from starting meanwhile.
    let _locked = DiskStorage::open(data_dir).with_context(|| format!("{} can't be taken", data_dir.display()))?;
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
