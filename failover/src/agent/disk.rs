//! Whether the disks under the server take writes: a small file beside its data, and one beside its binlog, written and synced every second.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::kept::KnownServer;

/// How often.
const PERIOD: Duration = Duration::from_secs(1);
/// In time means within this.
const PATIENCE: Duration = Duration::from_secs(2);
/// The file.
const NAME: &str = "baton-disk-check";
/// With less room than this a disk is full: a table can't grow any more (InnoDB extends by up to 4 MiB). The file's own block exists already, so writing it
/// does not tell.
const ROOM: u64 = 4 << 20;

/// Tries until cancelled. A write that hangs is waited for: there is never more than one.
pub async fn check(core: Arc<Core>, cancel: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Not while the data directory may be about to be exchanged.
        let Some(server) = core.known.get().server.filter(|_| core.host.alive().is_some()) else {
            tell(&core, None);
            continue;
        };
        let mut write = tokio::task::spawn_blocking(move || places(&server).iter().try_for_each(|dir| write(dir)));
        let written = tokio::select! {
            () = cancel.cancelled() => return,
            written = &mut write => written,
            () = sleep(PATIENCE) => {
                if tell(&core, Some(false)) {
                    tracing::warn!("the disk under the server has not taken a write for {PATIENCE:?}");
                }
                tokio::select! {
                    () = cancel.cancelled() => return,
                    late = write => late,
                }
            }
        };
        match written.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => {
                tell(&core, Some(true));
            }
            // Not the disk's fault, and not the server's either.
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
                tell(&core, None);
            }
            Err(error) => {
                if tell(&core, Some(false)) {
                    tracing::warn!(%error, "the disk under the server does not take writes");
                }
            }
        }
    }
}

/// Whether that is news.
fn tell(core: &Core, ok: Option<bool>) -> bool {
    core.extra.change_if(|e| std::mem::replace(&mut e.disk_ok, ok) != ok)
}

/// Where the server writes: one place where data and binlog share a directory.
fn places(server: &KnownServer) -> Vec<PathBuf> {
    let binlogs = server.log_bin_basename.parent().filter(|dir| dir.is_absolute() && *dir != server.datadir);
    [server.datadir.as_path()].into_iter().chain(binlogs).map(Path::to_owned).collect()
}

fn write(dir: &Path) -> io::Result<()> {
    let disk = rustix::fs::statvfs(dir)?;
    // What root may still use is of no use to a server that is not root. A disk without blocks does not count them.
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    if disk.f_blocks > 0 && room < ROOM {
        return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{} has {room} bytes left", dir.display())));
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join(NAME))?;
    file.write_all(&[b'.'; 512])?;
    file.sync_data()
}
