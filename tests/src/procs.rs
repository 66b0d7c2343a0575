//! Child processes. Owns every process that the testbed starts.
//!
//! Promises: each runs in its own process group and ends when its [`Proc`] is dropped, when the program gets SIGINT or SIGTERM, and when the program
//! dies in any other way, SIGKILL included (the kernel's parent death signal, set by `setpriv` since that needs no unsafe code).
//! Never signals a process id that may have been given to somebody else: a process is reaped under the same lock that signals take.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// The program may have died before `setpriv` asked for the signal: then nobody would ever send it.
const UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$1" ] || exit 125; shift; exec "$@""#;

/// A command line to be started.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    cwd: Option<PathBuf>,
    netns: Option<PathBuf>,
}

impl Cmd {
    /// A program, looked for in `PATH` unless it is a path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new(), env: BTreeMap::new(), cwd: None, netns: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets the working directory.
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Runs it in a network namespace, named by its file.
    pub fn netns(mut self, file: impl Into<PathBuf>) -> Self {
        self.netns = Some(file.into());
        self
    }

    /// Starts it. Output goes to `log` (appended); with `stdout`, standard output goes there instead (truncated).
    pub fn spawn(&self, log: &Path, stdout: Option<&Path>) -> Result<Proc> {
        catch_signals()?;
        let append = || OpenOptions::new().create(true).append(true).open(log);
        let err = append().with_context(|| format!("can't open the log file {}", log.display()))?;
        let out = match stdout {
            Some(path) => File::create(path).with_context(|| format!("can't create {}", path.display()))?,
            None => err.try_clone()?,
        };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", UNLESS_ORPHANED, "sh"]);
        command.arg(std::process::id().to_string());
        if let Some(file) = &self.netns {
            let mut option = OsString::from("--net=");
            option.push(file);
            command.args([OsStr::new("nsenter"), &option, OsStr::new("--")]);
        }
        command.arg(&self.program).args(&self.args);
        command.env("LC_ALL", "C").envs(&self.env);
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy().into_owned();
        let child = spawn_from_lasting_thread(command)
            .with_context(|| format!("can't start {name}: setpriv (util-linux) is needed"))?;
        Proc::watch(name, child, log)
    }

    /// Runs it to its end, for at most `limit`, and gives its standard output. Files are named after `stem`.
    pub fn run(&self, stem: &Path, limit: Duration) -> Result<String> {
        let (log, out) = (stem.with_extension("log"), stem.with_extension("out"));
        let proc = self.spawn(&log, Some(&out))?;
        let status = proc.wait_exit(limit);
        let text = || fs::read(&out).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match status {
            Some(status) if status.success() => text().with_context(|| format!("can't read {}", out.display())),
            Some(status) => {
                let said = tail(&log, 20) + &tail(&out, 20);
                bail!("{} {:?} ended with {status}:\n{said}", proc.name(), self.args)
            }
            None => bail!("{} did not end within {} s", proc.name(), limit.as_secs()),
        }
    }
}

/// A running process, or one that has ended. Dropping the last clone kills it.
#[derive(Clone)]
pub struct Proc(Arc<Inner>);

struct Inner {
    name: String,
    pid: Pid,
    log: PathBuf,
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    child: Child,
    exit: Option<ExitStatus>,
}

impl Proc {
    fn watch(name: String, child: Child, log: &Path) -> Result<Self> {
        let pid = Pid::from_child(&child);
        let state = Mutex::new(State { child, exit: None });
        let inner = Arc::new(Inner { name, pid, log: log.to_owned(), state, ended: Condvar::new() });
        let mut live = live();
        live.retain(|old| old.strong_count() > 0);
        live.push(Arc::downgrade(&inner));
        drop(live);
        let weak = Arc::downgrade(&inner);
        thread::Builder::new().name(format!("wait-{}", inner.name)).spawn(move || await_end(pid, &weak))?;
        Ok(Self(inner))
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Process id; also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.0.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.0.log
    }

    /// How it ended; `None` while it runs.
    pub fn exit(&self) -> Option<ExitStatus> {
        self.0.lock().exit
    }

    /// Whether it runs (or is frozen).
    pub fn is_running(&self) -> bool {
        self.exit().is_none()
    }

    /// Waits for its end, for at most `limit`.
    pub fn wait_exit(&self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        let mut state = self.0.lock();
        while state.exit.is_none() {
            let left = end.checked_duration_since(Instant::now())?;
            state = self.0.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.exit
    }

    /// Sends a signal to its process group; an error if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.0.signal(signal)
    }

    /// SIGKILL, and waits until it is gone. Fine if it is gone already.
    pub fn kill9(&self) {
        let _gone_already = self.0.signal(Signal::KILL);
        self.wait_exit(Duration::from_secs(20));
    }

    /// SIGTERM, and waits for at most `grace`; then it is killed and that is an error.
    pub fn term(&self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exit() {
            return Ok(status);
        }
        let _just_ended = self.0.signal(Signal::TERM).and_then(|()| self.0.signal(Signal::CONT));
        self.wait_exit(grace).ok_or_else(|| {
            self.kill9();
            anyhow!(
                "{} did not end within {} s of SIGTERM; its log ends:\n{}",
                self.name(),
                grace.as_secs(),
                tail(self.log(), 20)
            )
        })
    }

    /// SIGSTOP: it keeps its sockets and does nothing.
    ///
    /// The signal is taken thread by thread: returns once all of them have stopped.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']));
        crate::wait::wait_for("every thread to stop", Duration::from_secs(10), || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid()))?;
            let mut all = threads.flatten().map(|t| std::fs::read_to_string(t.path().join("stat")));
            Ok(all.all(|stat| stat.is_ok_and(|s| stopped(&s))).then_some(()))
        })
    }

    /// SIGCONT after [`Proc::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Resident memory in KiB, from `/proc`.
    pub fn rss_kb(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it ever had, in KiB, from `/proc`.
    pub fn peak_kb(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> Result<u64> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok());
        number.with_context(|| format!("no {key} of {} (pid {})", self.name(), self.pid()))
    }

    /// Processor time used so far, user and system, from `/proc`.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = self.proc_file("stat")?;
        // The second field is the name in parentheses, which may hold blanks: utime and stime are the 12th and 13th after it.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Number of open file descriptors.
    pub fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    fn proc_file(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid());
        fs::read_to_string(&path).with_context(|| format!("can't read {path}: {} has ended?", self.name()))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let state = self.lock();
        if let Some(status) = state.exit {
            bail!("{} has ended ({status})", self.name);
        }
        kill_process_group(self.pid, signal).with_context(|| format!("can't signal {}", self.name))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.exit.is_none() {
            let _ended = kill_process_group(self.pid, Signal::KILL);
            let _reaped = state.child.wait();
        }
    }
}

/// The last `lines` lines of a file, or a note why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    let Ok(bytes) = fs::read(path) else { return format!("(no {})\n", path.display()) };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all.iter().skip(all.len().saturating_sub(lines)).flat_map(|line| [*line, "\n"]).collect()
}

/// Lines of a file that tell of an error or a crash, at most `lines` from its beginning and as many from its end; of a crashed server also where
/// it was.
pub fn errors(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let words = ["[ERROR]", " ERROR ", "got signal", "ssertion", "panicked", "[FATAL]", "/mariadbd("];
    let all: Vec<&str> = text.lines().filter(|line| words.iter().any(|word| line.contains(word))).collect();
    let cut = |line: &&str| line.chars().take(240).chain(['\n']).collect::<String>();
    let (first, rest) = all.split_at(all.len().min(lines));
    first.iter().chain(&rest[rest.len().saturating_sub(lines)..]).map(cut).collect()
}

/// Whether a process with that id exists (a zombie does not count).
pub fn exists(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Kills whatever the testbed has started and still runs.
pub fn kill_all() {
    let all: Vec<_> = live().drain(..).filter_map(|weak| weak.upgrade()).collect();
    for inner in all {
        Proc(inner).kill9();
    }
}

/// Registers what is to be done, after all processes have been killed, when SIGINT or SIGTERM ends the program.
pub fn on_signal(action: impl FnOnce() + Send + 'static) {
    hooks().push(Box::new(action));
}

type Hook = Box<dyn FnOnce() + Send>;

fn hooks() -> MutexGuard<'static, Vec<Hook>> {
    static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn live() -> MutexGuard<'static, Vec<Weak<Inner>>> {
    static LIVE: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the process is dead without reaping it, so that its id stays ours until the lock is held.
fn await_end(pid: Pid, weak: &Weak<Inner>) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
    let Some(inner) = weak.upgrade() else { return };
    let mut state = inner.lock();
    if state.exit.is_none() {
        state.exit = state.child.wait().ok();
    }
    inner.ended.notify_all();
}

/// Starts the thread that forks for all others, if it does not run yet: in the network namespace of whoever calls first.
pub(crate) fn spawner() -> &'static Sender<Job> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _asker_gone = answer.send(command.spawn());
            }
        });
        sender
    })
}

/// A command to be started, and where the child goes.
pub(crate) type Job = (Command, SyncSender<std::io::Result<Child>>);

/// The parent death signal is sent when the *thread* that forked ends; tests run in threads that do. So one thread that lasts forks for all.
fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    let (answer, child) = sync_channel(1);
    spawner().send((command, answer)).map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    Ok(child.recv().context("the thread that starts processes is gone")??)
}

fn catch_signals() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.set(()).is_err() {
        return Ok(());
    }
    let wanted = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    let mut signals = signal_hook::iterator::Signals::new(wanted).context("can't catch SIGINT and SIGTERM")?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            kill_all();
            // The newest first, as things are dropped.
            for hook in std::mem::take(&mut *hooks()).into_iter().rev() {
                hook();
            }
            let _never_returns = signal_hook::low_level::emulate_default_handler(signal);
        }
    })?;
    Ok(())
}
