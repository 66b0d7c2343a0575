//! Relays under test: writes `relay.toml`, runs the binary, asks it over HTTP. Knows only the documented command line, files and routes.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::dir::Bed;
use crate::mariadb::MariaDb;
use crate::ports::Port;
use crate::procs::{self, Cmd, Proc};
use crate::sql::{Address, Sql};
use crate::template::{MONITOR_PASSWORD, REPL_PASSWORD};
use crate::wait::{DEADLINE, wait_for, wait_until};

/// How long a relay may take to stop after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);
/// How long one HTTP request may take.
const HTTP: Duration = Duration::from_secs(10);
/// Pause between a death and the supervisor's restart.
const RESTART_PAUSE: Duration = Duration::from_millis(10);

/// How a relay is to be configured; see [`Bed::relay`].
#[must_use]
#[derive(Clone)]
pub struct RelayBuilder {
    bed: Bed,
    name: String,
    top: BTreeMap<String, String>,
    sections: BTreeMap<String, BTreeMap<String, String>>,
    users: Vec<(String, String)>,
    env: BTreeMap<String, String>,
    binary: Option<PathBuf>,
    supervised: bool,
    wait_ready: bool,
}

impl RelayBuilder {
    pub(crate) fn new(bed: &Bed, name: &str) -> Self {
        let builder = Self {
            bed: bed.clone(),
            name: name.to_owned(),
            top: BTreeMap::new(),
            sections: BTreeMap::new(),
            users: vec![("repl".to_owned(), REPL_PASSWORD.to_owned())],
            env: BTreeMap::new(),
            binary: None,
            supervised: false,
            wait_ready: true,
        };
        let builder = builder.top("cluster", &quoted("test")).top("name", &quoted(name)).top("server_id", "9001");
        builder.set("upstream", "user", &quoted("repl")).set("lag", "user", &quoted("monitor"))
    }

    /// The cluster's name; `test` by default.
    pub fn cluster(self, name: &str) -> Self {
        self.top("cluster", &quoted(name))
    }

    /// `server_id`; 9001 by default.
    pub fn server_id(self, id: u32) -> Self {
        self.top("server_id", &id.to_string())
    }

    /// Follows a server directly.
    pub fn upstream(self, server: &MariaDb) -> Self {
        self.upstream_ports(&[server.port()])
    }

    /// Follows another relay.
    pub fn behind(self, relay: &RelayProc) -> Self {
        self.upstream_ports(&[relay.port()])
    }

    /// Loopback ports that are paths to one server: proxies, say.
    pub fn upstream_ports(self, ports: &[u16]) -> Self {
        let list: Vec<_> = ports.iter().map(|port| quoted(&format!("127.0.0.1:{port}"))).collect();
        self.set("upstream", "addresses", &format!("[{}]", list.join(", ")))
    }

    /// `earliest`, `latest`, a GTID position or `file:position`.
    pub fn start_at(self, start: &str) -> Self {
        self.set("upstream", "start", &quoted(start))
    }

    /// `durable`, `received` or `off`.
    pub fn ack(self, mode: &str) -> Self {
        self.set("upstream", "ack", &quoted(mode))
    }

    /// Sets a key of a section to a literal piece of TOML: `.set("log", "retain_bytes", "\"1MiB\"")`.
    pub fn set(mut self, section: &str, key: &str, toml: &str) -> Self {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), toml.to_owned());
        self
    }

    /// Sets a key outside of all sections.
    pub fn top(mut self, key: &str, toml: &str) -> Self {
        self.top.insert(key.to_owned(), toml.to_owned());
        self
    }

    /// A further account that may replicate from the relay; `repl` always may.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// An environment variable of the process, such as `RUST_LOG`.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Another binary than [`binary`] finds: an older build, to be compared with.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Starts it again at once whenever it dies without having been told to.
    pub fn supervised(mut self) -> Self {
        self.supervised = true;
        self
    }

    /// Does not wait for `/readyz`: for relays that are expected to refuse to start or to be damaged.
    pub fn without_waiting(mut self) -> Self {
        self.wait_ready = false;
        self
    }

    /// Writes its configuration, starts it and waits until it is ready.
    pub fn start(self) -> Result<RelayProc> {
        let relay = self.prepare()?;
        relay.restart()?;
        Ok(relay)
    }

    /// Writes its configuration without starting it.
    pub fn prepare(self) -> Result<RelayProc> {
        let dir = self.bed.path(&self.name);
        fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
        let (port, http) = (Port::lease()?, Port::lease()?);
        let config = dir.join("relay.toml");
        fs::write(&config, self.config(&dir, port.number(), http.number())?)?;
        let inner = Inner {
            data_dir: dir.join("data"),
            config,
            port,
            http,
            proc: Mutex::new(None),
            wanted: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            supervised: self.supervised,
            builder: self,
        };
        let relay = RelayProc(Arc::new(inner));
        if relay.0.supervised {
            let weak = Arc::downgrade(&relay.0);
            thread::Builder::new().name("supervisor".into()).spawn(move || supervise(&weak))?;
        }
        Ok(relay)
    }

    fn config(&self, dir: &Path, port: u16, http: u16) -> Result<String> {
        let secret = |name: &str, text: &str| -> Result<String> {
            let path = dir.join(format!("{name}.password"));
            write_secret(&path, text)?;
            Ok(quoted(&path.display().to_string()))
        };
        let mut sections = self.sections.clone();
        let mut default = |section: &str, key: &str, value: String| {
            sections.entry(section.to_owned()).or_default().entry(key.to_owned()).or_insert(value);
        };
        default("upstream", "password_file", secret("upstream", REPL_PASSWORD)?);
        default("lag", "password_file", secret("monitor", MONITOR_PASSWORD)?);
        default("listen", "replication", quoted(&format!("127.0.0.1:{port}")));
        default("listen", "http", quoted(&format!("127.0.0.1:{http}")));
        if self.sections.contains_key("etcd") {
            default("advertise", "replication", quoted(&format!("127.0.0.1:{port}")));
            default("advertise", "http", quoted(&format!("127.0.0.1:{http}")));
        }
        let mut top = self.top.clone();
        top.entry("data_dir".to_owned()).or_insert_with(|| quoted(&dir.join("data").display().to_string()));
        let mut text = lines(&top);
        for (section, keys) in &sections {
            text += &format!("\n[{section}]\n{}", lines(keys));
        }
        for (name, password) in &self.users {
            let file = secret(&format!("user-{name}"), password)?;
            text += &format!("\n[[users]]\nname = {}\npassword_file = {file}\n", quoted(name));
        }
        Ok(text)
    }
}

/// A relay; clones share it, and it is killed when the last one goes.
#[derive(Clone)]
pub struct RelayProc(Arc<Inner>);

struct Inner {
    builder: RelayBuilder,
    config: PathBuf,
    data_dir: PathBuf,
    port: Port,
    http: Port,
    proc: Mutex<Option<Proc>>,
    supervised: bool,
    wanted: AtomicBool,
    restarts: AtomicU64,
}

impl RelayProc {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.builder.name
    }

    /// The port that replicas connect to.
    pub fn port(&self) -> u16 {
        self.0.port.number()
    }

    /// The address that replicas connect to.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// The port of its HTTP interface.
    pub fn http_port(&self) -> u16 {
        self.0.http.number()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.0.data_dir
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.0.config
    }

    /// Its log output.
    pub fn log_file(&self) -> PathBuf {
        self.0.builder.bed.log(self.name())
    }

    /// The running process.
    pub fn proc(&self) -> Result<Proc> {
        self.0.proc().clone().with_context(|| format!("{} was never started", self.name()))
    }

    /// How often its supervisor has started it again.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Relaxed)
    }

    /// Starts it if it does not run, and does not wait.
    pub fn spawn(&self) -> Result<()> {
        self.0.wanted.store(true, Ordering::Relaxed);
        self.0.spawn()
    }

    /// Starts it if it does not run; waits until it is ready (unless built otherwise).
    pub fn restart(&self) -> Result<()> {
        self.spawn()?;
        if self.0.builder.wait_ready { self.wait_ready() } else { Ok(()) }
    }

    /// Waits until `/readyz` answers 200; ends at once if it dies and nobody starts it again.
    pub fn wait_ready(&self) -> Result<()> {
        wait_for(&format!("{} to be ready", self.name()), DEADLINE, || {
            let proc = self.proc()?;
            if let (Some(status), false) = (proc.exit(), self.0.supervised) {
                bail!("{} ended with {status}:\n{}", self.name(), procs::tail(proc.log(), 25));
            }
            Ok(self.get("/readyz").ok().filter(|(code, _)| *code == 200).map(drop))
        })
    }

    /// SIGKILL; a supervisor starts it again.
    pub fn kill9(&self) -> Result<()> {
        self.proc()?.kill9();
        Ok(())
    }

    /// SIGTERM; its supervisor lets it be. Waits for the end.
    pub fn term(&self) -> Result<ExitStatus> {
        self.0.wanted.store(false, Ordering::Relaxed);
        self.proc()?.term(GRACE)
    }

    /// SIGSTOP.
    pub fn freeze(&self) -> Result<()> {
        self.proc()?.freeze()
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.proc()?.thaw()
    }

    /// `GET`: status code and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut answer =
            agent().get(self.url(path)).call().with_context(|| format!("GET {path} of {}", self.name()))?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }

    /// `POST` of JSON with a bearer token: status code and body.
    pub fn post(&self, path: &str, token: &str, body: &Value) -> Result<(u16, String)> {
        let request = agent().post(self.url(path)).header("Authorization", format!("Bearer {token}"));
        let mut answer = request.send_json(body).with_context(|| format!("POST {path} of {}", self.name()))?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }

    /// `GET` of JSON; anything but 200 is an error.
    pub fn json(&self, path: &str) -> Result<Value> {
        let (code, body) = self.get(path)?;
        ensure!(code == 200, "GET {path} of {} answers {code}: {body}", self.name());
        serde_json::from_str(&body).with_context(|| format!("GET {path} of {} gives no JSON: {body}", self.name()))
    }

    /// `GET /v1/lag`.
    pub fn lag(&self) -> Result<Value> {
        self.json("/v1/lag")
    }

    /// `GET /v1/lag/{replica}`.
    pub fn lag_of(&self, replica: &str) -> Result<Value> {
        self.json(&format!("/v1/lag/{replica}"))
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Value> {
        self.json("/v1/status")
    }

    /// `GET /metrics`: every sample by its name with its labels, such as `baton_relay_acks_total{...}`.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let (code, body) = self.get("/metrics")?;
        ensure!(code == 200, "GET /metrics of {} answers {code}: {body}", self.name());
        let samples = body.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Ok(samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The sum of all samples of one metric, whatever their labels; `None` if there is none.
    pub fn metric(&self, name: &str) -> Result<Option<f64>> {
        let metrics = self.metrics()?;
        let matching = metrics.iter().filter(|(key, _)| key.split('{').next() == Some(name));
        let values: Vec<f64> = matching.map(|(_, value)| *value).collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }

    /// The head's GTID position; empty while the log is empty.
    pub fn head_gtid(&self) -> Result<String> {
        Ok(self.lag()?["head"]["gtid"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the head is at `primary`'s end of the binlog.
    pub fn wait_head(&self, primary: &MariaDb) -> Result<()> {
        let goal = primary.gtid_binlog_pos()?;
        wait_until(&format!("{}'s head to reach {goal}", self.name()), || self.head_gtid(), |gtid| *gtid == goal)
            .map(drop)
    }

    /// A session on its replication port, as `repl`.
    pub fn session(&self) -> Result<Sql> {
        Sql::connect(&Address::Tcp(self.address()), "repl", REPL_PASSWORD, Some(DEADLINE))
    }

    /// Paths of its log files (names that end in digits), oldest first; looked for in the data directory and one level below.
    pub fn log_files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut dirs = vec![self.0.data_dir.clone()];
        let subdirs = fs::read_dir(&self.0.data_dir).with_context(|| format!("no {}", self.0.data_dir.display()))?;
        dirs.extend(subdirs.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
        for dir in dirs {
            let names = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
            found.extend(names.filter(|path| path.is_file() && number_of(path).is_some()));
        }
        found.sort_by_key(|path| number_of(path));
        Ok(found)
    }

    /// The path of one log file.
    pub fn log_path(&self, file: &str) -> Result<PathBuf> {
        let found = self.log_files()?.into_iter().find(|path| path.file_name().is_some_and(|name| name == file));
        found.with_context(|| format!("{} has no log file {file}", self.name()))
    }

    /// Resident memory in KiB.
    pub fn rss_kb(&self) -> Result<u64> {
        self.proc()?.rss_kb()
    }

    /// Processor time used so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.proc()?.cpu_time()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port())
    }
}

impl Inner {
    fn proc(&self) -> MutexGuard<'_, Option<Proc>> {
        self.proc.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> Result<()> {
        let mut slot = self.proc();
        if slot.as_ref().is_some_and(Proc::is_running) {
            return Ok(());
        }
        let program = match &self.builder.binary {
            Some(path) => path.clone(),
            None => binary()?,
        };
        let mut cmd = Cmd::new(program).arg("--config").arg(&self.config);
        for (key, value) in &self.builder.env {
            cmd = cmd.env(key, value);
        }
        *slot = Some(cmd.spawn(&self.builder.bed.log(&self.builder.name), None)?);
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(proc) = self.proc().take() {
            proc.kill9();
        }
    }
}

/// The relay's binary; see [`crate::binaries`].
pub fn binary() -> Result<PathBuf> {
    crate::binaries::binary("baton-relay")
}

fn supervise(weak: &Weak<Inner>) {
    while let Some(inner) = weak.upgrade() {
        let proc = inner.proc().clone();
        let dead = proc.as_ref().is_some_and(|proc| !proc.is_running());
        if dead && inner.wanted.load(Ordering::Relaxed) && inner.spawn().is_ok() {
            inner.restarts.fetch_add(1, Ordering::Relaxed);
        }
        drop(inner);
        match proc.filter(Proc::is_running) {
            Some(proc) => drop(proc.wait_exit(Duration::from_millis(200))),
            None => thread::sleep(RESTART_PAUSE),
        }
    }
}

pub(crate) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().timeout_global(Some(HTTP)).http_status_as_error(false).proxy(None);
    config.build().new_agent()
}

pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("can't write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// Text as TOML: JSON's escapes are a subset of TOML's.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn lines(keys: &BTreeMap<String, String>) -> String {
    keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

fn number_of(path: &Path) -> Option<u64> {
    path.extension()?.to_str().filter(|text| text.len() >= 6)?.parse().ok()
}
