//! The configuration: a TOML file, overridden by environment variables.
//!
//! Owns how keys are named, what they default to and what they may hold. Promises to report every problem at once, each with
//! the key, the value and what is allowed, and to refuse what it does not know or what is not built yet. Never keeps a secret
//! where `Debug` or an error could print it.
//!
//! Every scalar key can come from the environment: `server_id` from `BATON_RELAY_SERVER_ID`, `[upstream] user` from
//! `BATON_RELAY_UPSTREAM_USER`, and so on; `[upstream] addresses` too, separated by commas. The environment wins over the file,
//! an empty variable counts as not set. Passwords come from files (`password_file`, less one trailing newline) or from
//! `BATON_RELAY_UPSTREAM_PASSWORD`, `BATON_RELAY_LAG_PASSWORD`, `BATON_RELAY_ETCD_PASSWORD`, `BATON_RELAY_USER_<NAME>_PASSWORD`, the token from `token_file` or
//! `BATON_RELAY_LISTEN_TOKEN`. Relative paths start at the process's working directory.

mod cluster;
#[cfg(test)]
mod documented;
mod error;
mod reader;
mod sections;
mod start;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};

use baton_cluster::store::EtcdConfig;
pub use cluster::AdvertiseConfig;
pub use error::{ConfigError, Problem};
pub use sections::{Ack, LagConfig, ListenConfig, ListenTls, LogConfig, UpstreamConfig, UserConfig};
pub use start::Start;
pub use value::{Address, DurationRange};

use reader::{Reader, Section};

/// Bytes in a configuration file, at most.
const MAX_FILE: u64 = 1 << 20;

/// Everything that the relay is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster's name: 1 to 63 of `a-z`, `0-9`, `-`. Required.
    pub cluster: String,
    /// This relay's name: 1 to 253 of letters, digits, `.`, `-`, `_`. Default: the host's name.
    pub name: String,
    /// Unlike that of any server or relay that replicates from the same primary; 1 to 4294967295. Required.
    pub server_id: u32,
    /// Where the log lies. Default `/var/lib/baton/relay`.
    pub data_dir: PathBuf,
    /// The primary.
    pub upstream: UpstreamConfig,
    /// What the relay serves.
    pub listen: ListenConfig,
    /// Who may replicate from it; nobody if empty.
    pub users: Vec<UserConfig>,
    /// How long the log is kept.
    pub log: LogConfig,
    /// How replicas are asked for what they have applied.
    pub lag: LagConfig,
    /// Where the cluster's state is kept, which names the primary; `None`: the relay stands alone.
    pub etcd: Option<EtcdConfig>,
    /// How others reach this relay.
    pub advertise: AdvertiseConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            name: host_name(),
            server_id: 0,
            data_dir: PathBuf::from("/var/lib/baton/relay"),
            upstream: UpstreamConfig::default(),
            listen: ListenConfig::default(),
            users: Vec::new(),
            log: LogConfig::default(),
            lag: LagConfig::default(),
            etcd: None,
            advertise: AdvertiseConfig::default(),
        }
    }
}

impl Config {
    /// Reads the file, if one is given, and the environment (`env` looks a variable up), and validates all of it.
    ///
    /// # Errors
    /// Every problem found. A file that can't be read or is not TOML is the only one then.
    pub fn load(path: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Self::parse("", "", env) };
        let source = path.display().to_string();
        let text = read_file(path).map_err(|message| one(Problem::new(&source, message)))?;
        Self::parse(&text, &source, env)
    }

    /// The same for a text; `source` names it in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, source: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        // Only the parser's own words are shown, not the line: that could hold a secret.
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            one(Problem::new(source, format!("line {line}: not TOML: {}", e.message())))
        })?;
        let mut r = Reader::new(env);
        let config = Self::read(table, &mut r);
        let mut problems = r.finish();
        // A value that could not be read was replaced by its default: what validation says of that is of no use.
        let read: Vec<String> = problems.iter().map(|p| p.key.clone()).collect();
        problems.extend(config.validate().into_iter().filter(|p| !read.contains(&p.key)));
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    fn read(table: toml::Table, r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let mut s = Section::top(table);
        let etcd = cluster::etcd(s.section(r, "etcd"), r);
        let config = Self {
            cluster: s.require(r, "cluster", "cluster = \"shop\"", |v| v.text().map(str::to_owned)),
            name: s.take(r, "name", |v| v.text().map(str::to_owned)).unwrap_or(d.name),
            server_id: s.require(r, "server_id", "server_id = 9001", |v| {
                u32::try_from(v.integer()?)
                    .ok()
                    .filter(|id| *id > 0)
                    .ok_or_else(|| "allowed: 1 to 4294967295".to_owned())
            }),
            data_dir: s.take(r, "data_dir", |v| v.text().map(PathBuf::from)).unwrap_or(d.data_dir),
            upstream: UpstreamConfig::read(s.section(r, "upstream"), r, etcd.is_some()),
            listen: ListenConfig::read(s.section(r, "listen"), r),
            users: s.sections(r, "users").into_iter().map(|s| UserConfig::read(s, r)).collect(),
            log: LogConfig::read(s.section(r, "log"), r),
            lag: LagConfig::read(s.section(r, "lag"), r),
            etcd,
            advertise: AdvertiseConfig::read(s.section(r, "advertise"), r),
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values.
    pub fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.cluster.is_empty() || self.cluster.len() > 63 || !self.cluster.chars().all(label) {
            let message = "allowed: 1 to 63 characters of a-z, 0-9 and -";
            p.push(Problem::new("cluster", message).with_value(format!("{:?}", self.cluster)));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if self.name.is_empty() || self.name.len() > 253 || !self.name.chars().all(plain) {
            let message = "allowed: 1 to 253 characters of letters, digits, '.', '-' and '_'";
            p.push(Problem::new("name", message).with_value(format!("{:?}", self.name)));
        }
        if self.server_id == 0 {
            p.push(Problem::new("server_id", "allowed: 1 to 4294967295").with_value(0));
        }
        if self.data_dir.as_os_str().is_empty() {
            p.push(Problem::new("data_dir", "a directory is wanted, such as /var/lib/baton/relay").with_value("\"\""));
        }
        p.extend(self.upstream.validate(self.etcd.is_some()));
        p.extend(self.listen.validate());
        for (i, user) in self.users.iter().enumerate() {
            p.extend(user.validate(i));
            if self.users.iter().take(i).any(|other| other.name == user.name) {
                let message = "is the name of another user too; names have to differ";
                p.push(Problem::new(format!("users[{i}].name"), message).with_value(format!("{:?}", user.name)));
            }
        }
        p.extend(self.log.validate());
        p.extend(self.lag.validate());
        if let Some(etcd) = &self.etcd {
            p.extend(cluster::problems(etcd));
            if self.listen.token.is_none() {
                let message =
                    "is required with [etcd]: controllers order promises with it; or set BATON_RELAY_LISTEN_TOKEN";
                p.push(Problem::new("listen.token_file", message));
            }
        }
        p.extend(self.advertise.validate(self.etcd.is_some()));
        p
    }
}

fn one(problem: Problem) -> ConfigError {
    ConfigError { problems: vec![problem] }
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| format!("the file can't be opened: {e}"))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| format!("the file can't be read: {e}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("the file is larger than {MAX_FILE} bytes: that is no configuration"));
    }
    Ok(text)
}

/// The host's name; empty if the system does not tell, which validation then refuses.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|n| n.trim().to_owned()).unwrap_or_default()
}
