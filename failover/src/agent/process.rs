//! A process that is not mistaken for another: held by a pidfd.
//!
//! Promises: a signal reaches the process that was opened, or nobody; its end is known at once. Process ids are used again, pidfds are not.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For connecting to a socket; a server with a full queue lets one wait.
const CONNECT: Duration = Duration::from_millis(200);

/// What tells one process from all others, also after a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// When it was started, in the kernel's ticks since boot.
    pub started: u64,
    /// Which boot that was.
    pub boot: String,
}

/// A process, alive or not.
pub struct Process {
    identity: Identity,
    name: String,
    fd: AsyncFd<OwnedFd>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.identity.pid).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Process {
    /// Opens the process that has this id now. Needs a tokio runtime.
    ///
    /// # Errors
    /// There is none (`ESRCH`, `NotFound`), or the kernel is older than 5.3.
    pub fn open(pid: i32) -> io::Result<Self> {
        let pid_ = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(io::ErrorKind::NotFound)?;
        let fd = pidfd_open(pid_, PidfdFlags::NONBLOCK)?;
        // Read after the pidfd was opened: if it still lives after that, all of this is about it.
        let started = start_time(pid)?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).map(|n| n.trim().to_owned()).unwrap_or_default();
        let process = Self { identity: Identity { pid, started, boot: boot_id() }, name, fd: registered(fd)? };
        if !process.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(process)
    }

    /// Opens exactly this process.
    ///
    /// # Errors
    /// It is gone, whatever else has its id now.
    pub fn reopen(identity: &Identity) -> io::Result<Self> {
        let process = Self::open(identity.pid)?;
        if process.identity != *identity {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(process)
    }

    /// Opens the process that a pid file names, if that is a database server.
    ///
    /// # Errors
    /// No such file, no such process, or another kind of process.
    pub fn of_pid_file(path: &Path, names: &[&str]) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let pid = text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let process = Self::open(pid)?;
        // The kernel cuts names at 15 bytes.
        let is = |name: &&str| name.len() >= process.name.len() && name.starts_with(&process.name);
        if process.name.is_empty() || !names.iter().any(is) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(process)
    }

    /// Opens the process that listens at a unix socket.
    ///
    /// # Errors
    /// Nobody listens there, or in another process namespace.
    pub async fn of_socket(path: &Path) -> io::Result<Self> {
        let stream = timeout(CONNECT, UnixStream::connect(path))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let pid = stream.peer_cred()?.pid().filter(|pid| *pid > 0);
        Self::open(pid.ok_or(io::ErrorKind::NotFound)?)
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it lives. A zombie does not.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        // A pidfd becomes readable when its process ends.
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended and was waited for (`ESRCH`), or this user may not.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.fd, signal)?)
    }

    /// SIGKILL. That it has ended already is fine.
    ///
    /// # Errors
    /// This user may not.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Returns when it has ended.
    pub async fn ended(&self) {
        while self.is_alive() {
            match self.fd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
    }

    /// Waits for its end for at most `limit`; whether it came.
    pub async fn ended_within(&self, limit: Duration) -> bool {
        timeout(limit, self.ended()).await.is_ok() || !self.is_alive()
    }
}

/// What the deprecation is about, a descriptor that is closed or exchanged while it is registered, can't happen to an [`OwnedFd`].
#[allow(deprecated, reason = "its successor is unsafe, which this workspace denies")]
fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)): the name before it may hold anything, but no `)` after its own.
fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').map(|(_, rest)| rest);
    let field = after.and_then(|rest| rest.split_whitespace().nth(19)).and_then(|f| f.parse().ok());
    field.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_known_and_its_id_is_not_used_for_another() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::open(pid).unwrap();
        assert!(process.is_alive());
        let identity = process.identity().clone();
        assert_eq!(Process::reopen(&identity).unwrap().identity(), &identity);
        Process::reopen(&Identity { started: identity.started + 1, ..identity.clone() }).unwrap_err();
        process.kill().unwrap();
        process.ended().await;
        assert!(!process.is_alive());
        // Still a zombie: dead all the same.
        Process::open(pid).unwrap_err();
        child.wait().unwrap();
        process.kill().unwrap();
        Process::reopen(&identity).unwrap_err();
    }

    #[tokio::test]
    async fn a_pid_file_that_names_another_kind_of_process_is_out_of_date() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.pid");
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        Process::of_pid_file(&file, &["mariadbd", "mysqld"]).unwrap_err();
        std::fs::write(&file, "garbage").unwrap();
        Process::of_pid_file(&file, &["mariadbd"]).unwrap_err();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(&file, child.id().to_string()).unwrap();
        assert_eq!(Process::of_pid_file(&file, &["sleep"]).unwrap().identity().pid, i32::try_from(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
