//! A running pod: its containers as processes in one network namespace, its volumes as directories, its probes asked as the kubelet asks them.
//!
//! Promises: the command, environment, mounts and user are those of the manifest; a container that ends or fails its liveness is started again;
//! "ready" is what the readiness probe said last. The processes end with the last handle.

mod prepare;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use self::prepare::prepare;
use self::watch::Watcher;
use super::image::Images;
use super::manifest::{Container, PodTemplate};
use crate::dir::Bed;
use crate::netns::Host;
use crate::procs::{self, Cmd, Proc};

/// Pause before a container that ended is started again.
const RESTART: Duration = Duration::from_millis(500);
/// How often the pod is looked after.
const TURN: Duration = Duration::from_millis(50);
/// For an init container or a Job's pod.
const LONGEST: Duration = Duration::from_secs(300);

/// The content of a Secret, by its name.
pub(super) type SecretOf<'a> = Box<dyn Fn(&str) -> Result<BTreeMap<String, Vec<u8>>> + 'a>;

/// What a pod needs of its cluster.
pub(super) struct Around<'a> {
    pub(super) bed: &'a Bed,
    pub(super) images: &'a Images,
    pub(super) namespace: &'a str,
    pub(super) node: String,
    pub(super) config_maps: &'a BTreeMap<String, BTreeMap<String, String>>,
    pub(super) secrets: SecretOf<'a>,
    /// Directory with `hosts` and the like.
    pub(super) etc: PathBuf,
    /// Token, authority and address of the API, where the pod gets them.
    pub(super) api: Option<(String, String, SocketAddr)>,
}

/// A pod; clones share it.
#[derive(Clone)]
pub struct Pod(Arc<Inner>);

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

struct Inner {
    name: String,
    labels: BTreeMap<String, String>,
    node: String,
    host: Host,
    ports: BTreeMap<String, u16>,
    containers: Vec<Running>,
    ready: AtomicBool,
    stop: AtomicBool,
    grace: Duration,
}

struct Running {
    container: Container,
    cmd: Cmd,
    log: PathBuf,
    proc: Mutex<Option<Proc>>,
    restarts: AtomicU32,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its labels in the manifest.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.0.labels
    }

    /// The node that it was put on.
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// Its network namespace.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.0.host.ip().into()
    }

    /// What its readiness probes said last.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// How often containers were started again.
    pub fn restarts(&self) -> u32 {
        self.0.containers.iter().map(|c| c.restarts.load(Ordering::Relaxed)).sum()
    }

    /// The number of a port by its name.
    pub(super) fn port(&self, name: &str) -> Option<u16> {
        self.0.ports.get(name).copied()
    }

    /// The end of its containers' logs.
    pub fn tail(&self) -> String {
        self.0.containers.iter().map(|c| format!("---- {}\n{}", c.log.display(), procs::tail(&c.log, 25))).collect()
    }

    /// SIGTERM to its containers, as for a deletion, and waits for their end.
    pub fn stop(&self) -> Result<()> {
        self.0.stop.store(true, Ordering::Relaxed);
        for container in &self.0.containers {
            if let Some(proc) = container.lock().clone() {
                proc.term(self.0.grace)?;
            }
        }
        Ok(())
    }

    /// Runs the init containers to their end, then starts the others and looks after them.
    pub(super) fn start(
        name: &str,
        template: &PodTemplate,
        claims: &[String],
        host: Host,
        around: &Around<'_>,
    ) -> Result<Self> {
        let made = prepare(name, template, claims, &host, around)?;
        let pod = Self(Arc::new(made.1));
        let first = made.0;
        let weak = Arc::downgrade(&pod.0);
        thread::Builder::new().name(format!("pod-{name}")).spawn(move || {
            for (cmd, log) in first {
                // As the kubelet does: again until it succeeds.
                while run_to_end(&cmd, &log).is_err() {
                    match weak.upgrade() {
                        Some(pod) if !pod.stop.load(Ordering::Relaxed) => thread::sleep(RESTART),
                        _ => return,
                    }
                }
            }
            let Some(pod) = weak.upgrade() else { return };
            let host = pod.host.clone();
            let mut watchers: Vec<Watcher> = pod.containers.iter().map(Watcher::new).collect();
            drop(pod);
            if host.enter().is_err() {
                return;
            }
            let ip = IpAddr::from(host.ip());
            // The pod's own handle ends with the pod, so that its namespace can go.
            drop(host);
            while let Some(pod) = weak.upgrade() {
                if pod.stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut ready = true;
                for (watcher, running) in watchers.iter_mut().zip(&pod.containers) {
                    ready &= watcher.turn(running, ip);
                }
                pod.ready.store(ready, Ordering::Relaxed);
                drop(pod);
                thread::sleep(TURN);
            }
        })?;
        Ok(pod)
    }

    /// Runs a pod that ends: all its containers, side by side; gives what they printed.
    pub(super) fn run(name: &str, template: &PodTemplate, host: &Host, around: &Around<'_>) -> Result<String> {
        let (first, inner) = prepare(name, template, &[], host, around)?;
        for (cmd, log) in first {
            run_to_end(&cmd, &log)?;
        }
        let ended = |running: &Running| {
            run_to_end(&running.cmd, &running.log)
                .with_context(|| format!("container {} of {name}", running.container.name))
        };
        thread::scope(|scope| {
            let threads: Vec<_> = inner.containers.iter().map(|running| scope.spawn(|| ended(running))).collect();
            let all = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("{name}: panicked"))?);
            all.collect()
        })
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Option<Proc>> {
        self.proc.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run_to_end(cmd: &Cmd, log: &Path) -> Result<String> {
    let out = log.with_extension("out");
    let proc = cmd.spawn(log, Some(&out))?;
    let status = proc.wait_exit(LONGEST);
    let printed = fs::read_to_string(&out).unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(printed),
        Some(status) => bail!("ended with {status}:\n{}{printed}", procs::tail(log, 20)),
        None => bail!("did not end within {LONGEST:?}:\n{}", procs::tail(log, 20)),
    }
}
