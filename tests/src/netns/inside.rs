//! The processes inside a namespace. Promises: a signal never reaches a process outside of it, whoever has been given an id meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::procs;
use crate::wait::wait_for;

/// How long signals may take to stop or end all processes of a host.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// SIGKILL to all, and waits until they are gone.
pub(super) fn kill(space: &Path) -> Result<()> {
    wait_for(&format!("everything in {} to end", space.display()), LIMIT, || {
        let left = processes(space);
        for (pid, _) in &left {
            signal(space, *pid, Signal::KILL);
        }
        Ok(left.is_empty().then_some(()))
    })
}

/// Processes whose main thread is in the namespace, without zombies.
pub(super) fn processes(space: &Path) -> Vec<(u32, String)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let here = pids.filter(|pid| is_inside(space, *pid) && procs::exists(*pid));
    here.filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())))
        .collect()
}

fn is_inside(space: &Path, pid: u32) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let of = id(Path::new(&format!("/proc/{pid}/ns/net")));
    of.is_some() && of == id(space)
}

/// Signals a process, if it is (still) in the namespace: the id may belong to somebody else by now.
pub(super) fn signal(space: &Path, pid: u32, signal: Signal) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(fd) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    is_inside(space, pid) && pidfd_send_signal(fd, signal).is_ok()
}

/// Whether all threads have stopped or ended.
pub(super) fn is_stopped(pid: u32) -> bool {
    let stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().all(|thread| fs::read_to_string(thread.path().join("stat")).map_or(true, |stat| stopped(&stat)))
}
