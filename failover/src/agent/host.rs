//! The server's process as all parts of the agent see it: alive, dead, kept from starting; and the means to end it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};

use super::process::Process;
use crate::model::{AgentEvent, MysqldState};

/// Deaths that a watcher may be behind by.
const DEATHS: usize = 16;

/// The process at present.
#[derive(Debug, Clone)]
pub enum ServerProcess {
    /// It lives.
    Alive(Arc<Process>),
    /// It does not run, and how it ended.
    Dead(String),
    /// It is kept from starting, and why.
    Waiting(String),
}

/// The process, and since when it is as it is.
#[derive(Debug, Clone)]
pub struct HostState {
    /// The process.
    pub process: ServerProcess,
    /// Since when.
    pub since: Instant,
    /// Whether the agent has seen this process begin; false for one that it found.
    pub seen_starting: bool,
    /// Whether the agent has started it in the replica role.
    pub as_replica: bool,
}

impl HostState {
    /// The living process.
    pub fn alive(&self) -> Option<&Arc<Process>> {
        match &self.process {
            ServerProcess::Alive(process) => Some(process),
            _ => None,
        }
    }

    /// As it is told; `answers`: whether the server answered lately.
    pub fn told(&self, answers: bool) -> MysqldState {
        match self.process {
            ServerProcess::Alive(_) if answers => MysqldState::Running,
            ServerProcess::Alive(_) => MysqldState::Silent,
            ServerProcess::Dead(_) => MysqldState::Dead,
            ServerProcess::Waiting(_) => MysqldState::Waiting,
        }
    }
}

/// What came of killing the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// It is dead.
    Dead,
    /// It has its SIGKILL and hangs in the kernel, waiting for a disk as a rule: it executes nothing any more, and answers nobody. What it had asked the kernel to
    /// write may still be written before it ends.
    Doomed,
    /// It may live.
    Failed,
}

/// What the supervisor is to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The server runs, if it may.
    Running,
    /// It is started once to roll back what its data hold half done, and ends by itself.
    RolledBack,
    /// It is stopped cleanly, and stays so.
    Stopped,
}

/// See the module.
pub struct Host {
    state: watch::Sender<HostState>,
    wanted: watch::Sender<Wanted>,
    deaths: broadcast::Sender<AgentEvent>,
    /// Whether this agent starts the server (`--exec`).
    supervised: bool,
}

impl Host {
    /// Nothing is known to run.
    pub fn new(supervised: bool) -> Self {
        let process = ServerProcess::Dead("it has not been seen running".to_owned());
        Self {
            state: watch::Sender::new(HostState {
                process,
                since: Instant::now(),
                seen_starting: false,
                as_replica: false,
            }),
            wanted: watch::Sender::new(Wanted::Running),
            deaths: broadcast::Sender::new(DEATHS),
            supervised,
        }
    }

    /// Whether this agent starts the server.
    pub fn is_supervised(&self) -> bool {
        self.supervised
    }

    /// Follows the process.
    pub fn subscribe(&self) -> watch::Receiver<HostState> {
        self.state.subscribe()
    }

    /// The process at present.
    pub fn state(&self) -> HostState {
        self.state.borrow().clone()
    }

    /// The living process.
    pub fn alive(&self) -> Option<Arc<Process>> {
        self.state.borrow().alive().filter(|p| p.is_alive()).cloned()
    }

    /// Deaths as they happen.
    pub fn deaths(&self) -> broadcast::Receiver<AgentEvent> {
        self.deaths.subscribe()
    }

    /// What the supervisor is to bring about.
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// Tells the supervisor what to bring about.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|w| std::mem::replace(w, wanted) != wanted);
    }

    /// Notes that a process runs.
    pub(super) fn runs(&self, process: Arc<Process>, seen_starting: bool, as_replica: bool) {
        tracing::info!(pid = process.identity().pid, started = seen_starting, "the server runs");
        self.state.send_replace(HostState {
            process: ServerProcess::Alive(process),
            since: Instant::now(),
            seen_starting,
            as_replica,
        });
    }

    /// Notes that the process is about to become writable: whatever it was started as.
    pub(super) fn opens(&self) {
        self.state.send_if_modified(|state| {
            state.as_replica = false;
            // Nobody waits for this.
            false
        });
    }

    /// Notes and tells that the process has ended.
    pub(super) fn died(&self, how: String) {
        // Told first: that is what everybody waits for.
        let _nobody_listens = self.deaths.send(AgentEvent::MysqldDied { how: how.clone() });
        tracing::warn!(how, "the server has ended");
        self.state.send_replace(HostState {
            process: ServerProcess::Dead(how),
            since: Instant::now(),
            seen_starting: false,
            as_replica: false,
        });
    }

    /// Notes that the server is kept from starting. Said once for each reason.
    pub(super) fn waits(&self, why: String) {
        self.state.send_if_modified(|state| {
            let same = matches!(&state.process, ServerProcess::Waiting(old) if *old == why);
            if same {
                return false;
            }
            tracing::warn!(why, "the server is not started yet");
            if !matches!(state.process, ServerProcess::Waiting(_)) {
                state.since = Instant::now();
            }
            state.process = ServerProcess::Waiting(why);
            true
        });
    }

    /// SIGKILL, and waits for the end for at most `limit`. `socket` is where a server would listen that others
    /// have started and that was not seen yet.
    pub async fn kill(&self, socket: &Path, limit: Duration) -> Killed {
        let known = self.state.borrow().alive().cloned();
        let process = match known {
            Some(process) => process,
            // A supervisor knows that nothing runs.
            None if self.supervised => return Killed::Dead,
            None => match Process::of_socket(socket).await {
                Ok(process) => Arc::new(process),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    return Killed::Dead;
                }
                Err(_) => return Killed::Failed,
            },
        };
        if let Err(error) = process.kill() {
            let pid = process.identity().pid;
            tracing::error!(%error, pid, "the server can't be killed: run the agent as root or as the server's user");
            return Killed::Failed;
        }
        match process.ended_within(limit).await {
            true => Killed::Dead,
            false => Killed::Doomed,
        }
    }
}
