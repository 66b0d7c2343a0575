//! The test bed: a private directory with its logs, and the frame around an end-to-end test.
//!
//! Promises: the directory goes away when the test succeeds, and stays, with its path and the ends of its logs printed, when it fails or `KEEP=1` is
//! set; what a killed run left behind is swept away by the next one; only a few beds are in use at once on a small machine.
//! Never removes a directory that another live process holds, nor one that was kept, before a day is over.

use std::fs::{self, File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::cluster::ClusterPlan;
use crate::etcd::EtcdBuilder;
use crate::mariadb::MariaDbBuilder;
use crate::ports::Port;
use crate::procs;
use crate::relay::RelayBuilder;
use crate::volume;
use crate::wait::wait_for;

/// How long a test waits for its turn before it gives up.
const TURN: Duration = Duration::from_secs(3600);
/// How long a kept directory is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// One test's directory; clones share it, and the last one removes it.
#[derive(Clone)]
pub struct Bed(Arc<Inner>);

struct Inner {
    name: String,
    root: PathBuf,
    keep: AtomicBool,
    _lock: File,
    _slot: Option<File>,
}

/// Runs one end-to-end test: waits for its turn, gives it a bed, and on an error or a panic prints the ends of all logs and keeps the bed.
///
/// # Panics
/// When the test returned an error or panicked: that is how it fails.
pub fn scenario(name: &str, test: impl FnOnce(&Bed) -> Result<()>) {
    let bed = slot()
        .and_then(|slot| Bed::create(name, Some(slot)))
        .unwrap_or_else(|error| panic!("{name}: no test bed: {error:#}"));
    match catch_unwind(AssertUnwindSafe(|| test(&bed))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            bed.report_failure();
            panic!("{name}: {error:#}");
        }
        Err(panic) => {
            bed.report_failure();
            resume_unwind(panic);
        }
    }
}

impl Bed {
    /// A bed outside of a [`scenario`]: for programs such as the demo.
    pub fn new(name: &str) -> Result<Self> {
        Self::create(name, None)
    }

    fn create(name: &str, slot: Option<File>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let runs = base()?.join("run");
        fs::create_dir_all(&runs).with_context(|| format!("can't create {}", runs.display()))?;
        let _sweeping = lock(&runs.join(".sweep"))?;
        sweep(&runs);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = runs.join(format!("{name}-{}-{count}", std::process::id()));
        fs::create_dir_all(root.join("logs")).with_context(|| format!("can't create {}", root.display()))?;
        let lock = lock(&root.join("lock"))?;
        let keep = AtomicBool::new(std::env::var_os("KEEP").is_some_and(|value| value == "1"));
        let bed = Self(Arc::new(Inner { name: name.to_owned(), root, keep, _lock: lock, _slot: slot }));
        let weak = Arc::downgrade(&bed.0);
        procs::on_signal(move || {
            if let Some(inner) = weak.upgrade() {
                inner.leave();
            }
        });
        Ok(bed)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// A path inside it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.root.join(name)
    }

    /// The log file of something called `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.0.root.join("logs").join(format!("{name}.log"))
    }

    /// Keeps the directory whatever happens, or no longer.
    pub fn keep(&self, keep: bool) {
        self.0.keep.store(keep, Ordering::Relaxed);
    }

    /// A port that nobody else gets while the lease is held.
    pub fn port(&self) -> Result<Port> {
        Port::lease()
    }

    /// A MariaDB server, to be configured and started.
    pub fn mariadb(&self, name: &str) -> MariaDbBuilder {
        MariaDbBuilder::new(self, name)
    }

    /// A cluster of database servers, relays and controllers, to be planned and started.
    pub fn cluster(&self) -> ClusterPlan {
        ClusterPlan::new(self)
    }

    /// An etcd, to be configured and started.
    pub fn etcd(&self) -> EtcdBuilder {
        EtcdBuilder::new(self)
    }

    /// A relay, to be configured and started.
    pub fn relay(&self, name: &str) -> RelayBuilder {
        RelayBuilder::new(self, name)
    }

    /// Keeps the directory, and prints the errors in every log, then the end of each.
    pub fn report_failure(&self) {
        self.keep(true);
        let mut logs: Vec<_> =
            fs::read_dir(self.path("logs")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.sort();
        let empty = |log: &PathBuf| fs::metadata(log).map_or(true, |meta| meta.len() == 0);
        logs.retain(|log| !empty(log));
        logs.retain(|log| log.extension().is_some_and(|ext| ext == "log"));
        for log in &logs {
            let errors = procs::errors(log, 12);
            if !errors.is_empty() {
                eprintln!("---- errors in {}\n{errors}", log.display());
            }
        }
        for log in &logs {
            eprintln!("---- end of {}\n{}", log.display(), procs::tail(log, 15));
        }
    }
}

impl Inner {
    fn leave(&self) {
        if self.keep.load(Ordering::Relaxed) {
            let _marked = fs::write(self.root.join("kept"), "");
            eprintln!("{}: kept {}", self.name, self.root.display());
        } else {
            let _best_effort = fs::remove_dir_all(&self.root);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Where everything of the testbed lives: `testbed` in cargo's target directory, else in the temporary directory.
pub fn base() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("can't find the running program")?;
    let target = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).map(Path::to_owned);
    let base = target.unwrap_or_else(std::env::temp_dir).join("testbed");
    fs::create_dir_all(&base).with_context(|| format!("can't create {}", base.display()))?;
    Ok(base)
}

/// Opens and locks a file, waiting for it; unlocked when dropped, also by a SIGKILL.
pub fn lock(path: &Path) -> Result<File> {
    let file = open_lock(path)?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("can't lock {}", path.display()))?;
    Ok(file)
}

fn open_lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    file.with_context(|| format!("can't open {}", path.display()))
}

/// One of a few turns, so that a small machine is not flooded with servers: `TESTBED_SLOTS`, or one for each processor, at most four.
fn slot() -> Result<File> {
    let dir = base()?.join("slots");
    fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    let cpus = std::thread::available_parallelism().map_or(2, usize::from).min(4);
    let slots = std::env::var("TESTBED_SLOTS").ok().and_then(|text| text.parse().ok()).unwrap_or(cpus).max(1);
    wait_for("a free test slot", TURN, || {
        for number in 0..slots {
            let file = open_lock(&dir.join(number.to_string()))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Some(file));
            }
        }
        Ok(None)
    })
}

/// Removes what dead processes left, but not what was kept less than a day ago.
fn sweep(runs: &Path) {
    for dir in fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
    {
        let Ok(file) = open_lock(&dir.join("lock")) else { continue };
        let held = flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        let kept = fs::metadata(dir.join("kept")).and_then(|meta| meta.modified()).ok();
        let fresh = kept.is_some_and(|at| SystemTime::now().duration_since(at).unwrap_or_default() < KEPT_FOR);
        if !held && !fresh {
            volume::unmount_below(&dir);
            let _best_effort = fs::remove_dir_all(&dir);
        }
    }
}
