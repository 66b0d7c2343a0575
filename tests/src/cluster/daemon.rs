//! A program of Baton on a host: started, killed, frozen, started again, and asked over HTTP from its own host, so that no cut link is in the way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::clock;
use crate::netns::Host;
use crate::procs::{self, Cmd, Proc};
use crate::relay::agent;
use crate::wait::{DEADLINE, wait_for};

/// How long a program may take to stop after SIGTERM.
const GRACE: Duration = Duration::from_secs(60);

/// A program on a host; clones share it, and it is killed when the last one goes.
#[derive(Clone)]
pub struct Daemon(Arc<Inner>);

struct Inner {
    name: String,
    host: Host,
    cmd: Cmd,
    log: PathBuf,
    config: PathBuf,
    http: u16,
    token: String,
    clock: PathBuf,
    proc: Mutex<Option<Proc>>,
}

impl Daemon {
    /// `cmd`, that serves HTTP on port `http` of `host` (0: it serves none) and obeys `token`; not started yet.
    #[expect(
        clippy::too_many_arguments,
        reason = "each of them is told apart by its type or its name at the one caller"
    )]
    pub(super) fn new(
        name: &str,
        host: &Host,
        cmd: Cmd,
        log: PathBuf,
        config: PathBuf,
        http: u16,
        token: &str,
        clock: PathBuf,
    ) -> Self {
        let (name, host, token) = (name.to_owned(), host.clone(), token.to_owned());
        Self(Arc::new(Inner { name, host, cmd, log, config, http, token, clock, proc: Mutex::new(None) }))
    }

    /// Sets its wall clock that many seconds off, within a second; for clusters with [`own_clocks`](super::ClusterPlan::own_clocks).
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        clock::set(&self.0.clock, seconds)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &PathBuf {
        &self.0.config
    }

    /// Its log output.
    pub fn log_file(&self) -> &PathBuf {
        &self.0.log
    }

    /// Where its HTTP is: `10.77.0.11:8091`.
    pub fn http(&self) -> String {
        self.0.host.at(self.0.http)
    }

    /// The running process.
    pub fn proc(&self) -> Result<Proc> {
        self.0.proc().clone().with_context(|| format!("{} was never started", self.name()))
    }

    /// Whether it runs (or is frozen).
    pub fn is_running(&self) -> bool {
        self.proc().is_ok_and(|proc| proc.is_running())
    }

    /// Starts it if it does not run, and does not wait.
    pub fn start(&self) -> Result<()> {
        let mut slot = self.0.proc();
        if !slot.as_ref().is_some_and(Proc::is_running) {
            *slot = Some(self.0.cmd.spawn(&self.0.log, None)?);
        }
        Ok(())
    }

    /// Starts it if it does not run, and waits until `/healthz` answers.
    pub fn restart(&self) -> Result<()> {
        self.start()?;
        self.wait_healthy()
    }

    /// Whether it can be asked over HTTP.
    pub(super) fn serves_http(&self) -> bool {
        self.0.http != 0
    }

    /// Waits until `/healthz` (an agent: `/liveness`) answers 200; ends at once if the program has ended. One that serves no HTTP counts as healthy.
    pub fn wait_healthy(&self) -> Result<()> {
        if !self.serves_http() {
            return Ok(());
        }
        wait_for(&format!("{} to be healthy", self.name()), DEADLINE, || {
            let proc = self.proc()?;
            if let Some(status) = proc.exit() {
                bail!("{} ended with {status}:\n{}", self.name(), procs::tail(&self.0.log, 25));
            }
            let healthy =
                ["/healthz", "/liveness"].iter().any(|path| self.get(path).is_ok_and(|(code, _)| code == 200));
            Ok(healthy.then_some(()))
        })
    }

    /// Sends a signal to the program alone, not to what it has started.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let proc = self.proc()?;
        ensure!(proc.is_running(), "{} has ended", self.name());
        ensure!(self.0.host.signal_pid(proc.pid(), signal), "{} could not be signalled", self.name());
        Ok(())
    }

    /// SIGKILL to the program alone, and waits until it is gone.
    pub fn kill9(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let gone = self.proc()?.wait_exit(GRACE);
        gone.map(drop).with_context(|| format!("{} outlives a SIGKILL", self.name()))
    }

    /// SIGTERM to the program alone, and waits for its end.
    pub fn term(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let gone = self.proc()?.wait_exit(GRACE);
        gone.map(drop).with_context(|| format!("{} outlives a SIGTERM:\n{}", self.name(), procs::tail(&self.0.log, 20)))
    }

    /// SIGSTOP to the program alone.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// `GET` with the token: status code and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let url = format!("http://{}{path}", self.http());
        let answered = self.0.host.inside(|| {
            let mut answer = agent().get(url).header("Authorization", self.bearer()).call()?;
            Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
        });
        answered.with_context(|| format!("GET {path} of {}", self.name()))
    }

    /// `POST` of JSON with the token: status code and body.
    pub fn post(&self, path: &str, body: &Value) -> Result<(u16, String)> {
        let url = format!("http://{}{path}", self.http());
        let answered = self.0.host.inside(|| {
            let mut answer = agent().post(url).header("Authorization", self.bearer()).send_json(body)?;
            Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
        });
        answered.with_context(|| format!("POST {path} of {}", self.name()))
    }

    /// `GET` of JSON; anything but 200 is an error.
    pub fn json(&self, path: &str) -> Result<Value> {
        let (code, body) = self.get(path)?;
        ensure!(code == 200, "GET {path} of {} answers {code}: {body}", self.name());
        serde_json::from_str(&body).with_context(|| format!("GET {path} of {} gives no JSON: {body}", self.name()))
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.0.token)
    }
}

impl Inner {
    fn proc(&self) -> MutexGuard<'_, Option<Proc>> {
        self.proc.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(proc) = self.proc().take() {
            proc.kill9();
        }
    }
}
