//! Wall clocks that can be set for one program at a time, by libfaketime. The clocks that only go forward stay true.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::procs::Cmd;

/// Makes `cmd` read its wall clock through `file`, which says how far it is off.
pub(super) fn give(cmd: Cmd, file: &Path) -> Result<Cmd> {
    set(file, 0)?;
    let cmd = cmd.env("LD_PRELOAD", library()?).env("FAKETIME_TIMESTAMP_FILE", file);
    let cmd = cmd.env("FAKETIME_DISABLE_SHM", "1");
    // The file is looked at once a second of the true clock.
    Ok(cmd.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_CACHE_DURATION", "1"))
}

/// How many seconds it is off from now on.
pub(super) fn set(file: &Path, seconds: i64) -> Result<()> {
    let draft = file.with_extension("draft");
    fs::write(&draft, format!("{seconds:+}\n")).with_context(|| format!("can't write {}", draft.display()))?;
    fs::rename(&draft, file).with_context(|| format!("can't replace {}", file.display()))
}

fn library() -> Result<PathBuf> {
    let dirs = fs::read_dir("/usr/lib").context("can't read /usr/lib")?.flatten();
    let mut found = dirs.map(|dir| dir.path().join("faketime/libfaketime.so.1")).filter(|file| file.is_file());
    found.next().context("libfaketime is not installed: run make deps")
}
