//! Whether the disk under the server takes writes: a small file in its data directory, written and synced every second.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::core::Core;

/// How often.
const PERIOD: Duration = Duration::from_secs(1);
/// In time means within this.
const PATIENCE: Duration = Duration::from_secs(2);
/// The file.
const NAME: &str = "baton-disk-check";

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
        let Some(datadir) = core.known.get().server.map(|s| s.datadir).filter(|_| core.host.alive().is_some()) else {
            tell(&core, None);
            continue;
        };
        let mut write = tokio::task::spawn_blocking(move || write(&datadir));
        let written = tokio::select! {
            () = cancel.cancelled() => return,
            written = &mut write => written,
            () = sleep(PATIENCE) => {
                tell(&core, Some(false));
                tokio::select! {
                    () = cancel.cancelled() => return,
                    late = write => late,
                }
            }
        };
        match written.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => tell(&core, Some(true)),
            // Not the disk's fault, and not the server's either.
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
                tell(&core, None)
            }
            Err(error) => {
                tracing::warn!(%error, "the disk under the server does not take writes");
                tell(&core, Some(false));
            }
        }
    }
}

fn tell(core: &Core, ok: Option<bool>) {
    core.extra.send_if_modified(|e| std::mem::replace(&mut e.disk_ok, ok) != ok);
}

fn write(datadir: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(datadir.join(NAME))?;
    file.write_all(&[b'.'; 512])?;
    file.sync_data()
}
