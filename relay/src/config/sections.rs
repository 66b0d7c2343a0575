//! The sections of the configuration: each a struct with its defaults, how it is read, and what it must satisfy.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::error::Problem;
use super::reader::{Reader, Section};
use super::start::Start;
use super::value::{Address, DurationRange, duration, size};
use crate::tls::TlsMode;

/// When the primary's commits are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// Once they are durable here.
    #[default]
    Durable,
    /// Once they have arrived.
    Received,
    /// Never.
    Off,
}

/// TLS towards replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenTls {
    /// Not offered.
    #[default]
    Off,
    /// Offered; replicas without it are served too.
    Prefer,
    /// Replicas without it are refused.
    Require,
}

/// `[upstream]`: the primary.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Network paths to the one server, in the order in which they are tried; at least one, or none where `[etcd]` names the primary.
    pub addresses: Vec<Address>,
    /// Account on the primary; with `[etcd]` on all servers and relays.
    pub user: String,
    /// Its password, from `password_file` or `BATON_RELAY_UPSTREAM_PASSWORD`.
    pub password: SecretString,
    /// Default `prefer`.
    pub tls: TlsMode,
    /// PEM file of the authorities that `verify` trusts.
    pub ca_file: Option<PathBuf>,
    /// Where an empty log begins. Default `earliest`.
    pub start: Start,
    /// What is acknowledged to a primary that runs semi-sync. Default `durable`: what is on disk here.
    pub ack: Ack,
    /// The primary sends a sign of life after this much silence, and is taken for lost when several are missing. 10 ms to 60 s,
    /// default 500 ms.
    pub heartbeat: Duration,
    /// Time for one path to connect and log in. 100 ms to 60 s, default 3 s.
    pub connect_timeout: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            user: String::new(),
            password: SecretString::default(),
            tls: TlsMode::Prefer,
            ca_file: None,
            start: Start::default(),
            ack: Ack::default(),
            heartbeat: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(3),
        }
    }
}

impl UpstreamConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>, clustered: bool) -> Self {
        let d = Self::default();
        let missing =
            "is required; write password_file = \"/etc/baton/repl.password\" or set BATON_RELAY_UPSTREAM_PASSWORD";
        let before = r.problems.len();
        let password = s.secret(r, "password_file", "BATON_RELAY_UPSTREAM_PASSWORD");
        if password.is_none() && r.problems.len() == before {
            r.problems.push(Problem::new(s.key("password_file"), missing));
        }
        let config = Self {
            addresses: if clustered {
                s.take(r, "addresses", |v| v.list()).unwrap_or_default()
            } else {
                s.require(r, "addresses", "addresses = [\"10.0.1.5:3306\"]", |v| v.list())
            },
            user: s.require(r, "user", "user = \"repl\"", |v| v.text().map(str::to_owned)),
            password: password.unwrap_or_default(),
            tls: s.take(r, "tls", |v| v.parse()).unwrap_or(d.tls),
            ca_file: s.take(r, "ca_file", |v| v.text().map(PathBuf::from)),
            start: s.take(r, "start", |v| v.parse()).unwrap_or(d.start),
            ack: s
                .take(r, "ack", |v| match v.text()? {
                    "off" => Ok(Ack::Off),
                    "durable" => Ok(Ack::Durable),
                    "received" => Ok(Ack::Received),
                    _ => Err("allowed: \"durable\", \"received\", \"off\"".to_owned()),
                })
                .unwrap_or(d.ack),
            heartbeat: s.take(r, "heartbeat", |v| duration(v.text()?)).unwrap_or(d.heartbeat),
            connect_timeout: s.take(r, "connect_timeout", |v| duration(v.text()?)).unwrap_or(d.connect_timeout),
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values; `clustered`: there is an `[etcd]`.
    pub fn validate(&self, clustered: bool) -> Vec<Problem> {
        let mut p = Vec::new();
        if self.addresses.is_empty() && !clustered {
            p.push(Problem::new("upstream.addresses", "at least one \"host:port\" is wanted"));
        }
        if !self.addresses.is_empty() && clustered {
            let message =
                "with [etcd] the cluster's state names the primary; leave addresses out (or [etcd], to stand alone)";
            p.push(Problem::new("upstream.addresses", message));
        }
        if clustered && self.ack != Ack::Durable {
            let message = "with [etcd] only \"durable\" is allowed: what is acknowledged must survive";
            p.push(Problem::new("upstream.ack", message));
        }
        for address in self.addresses.iter().filter(|a| a.port == 0) {
            p.push(Problem::new("upstream.addresses", "port 0 can't be connected to").with_value(address));
        }
        user_name(&mut p, "upstream.user", &self.user);
        if self.tls == TlsMode::Verify && self.ca_file.is_none() {
            p.push(Problem::new("upstream.ca_file", "is required with upstream.tls = \"verify\""));
        }
        if self.tls != TlsMode::Verify && self.ca_file.is_some() {
            let message = "is only used with upstream.tls = \"verify\"; set that, or leave ca_file out";
            p.push(Problem::new("upstream.ca_file", message));
        }
        between(&mut p, "upstream.heartbeat", self.heartbeat, "10ms", "60s");
        between(&mut p, "upstream.connect_timeout", self.connect_timeout, "100ms", "60s");
        p
    }
}

/// `[listen]`: what the relay serves, and its limits.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// For replicas. Default `0.0.0.0:3307`.
    pub replication: Address,
    /// For HTTP. Default `0.0.0.0:8090`.
    pub http: Address,
    /// PEM file of the certificate chain; with it HTTP speaks TLS only, unless `http_tls` is off.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub tls_key_file: Option<PathBuf>,
    /// TLS towards replicas. Default `prefer` with a certificate, else `off`.
    pub tls: ListenTls,
    /// Whether HTTP speaks TLS where there is a certificate. Default true. Controllers and agents ask without TLS.
    pub http_tls: bool,
    /// Bearer token for POST, from `token_file` or `BATON_RELAY_LISTEN_TOKEN`; without one every POST is refused.
    pub token: Option<SecretString>,
    /// Whether GET needs the token too (but for `/healthz` and `/readyz`). Default false.
    pub protect_reads: bool,
    /// Replication connections at a time. 1 to 100000, default 2000.
    pub max_connections: u32,
    /// Time for a client to log in. 100 ms to 10 min, default 10 s.
    pub login_timeout: Duration,
    /// Bytes in a packet from a client, at most. 4 KiB to 64 MiB, default 1 MiB.
    pub max_packet: u64,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            replication: Address { host: "0.0.0.0".to_owned(), port: 3307 },
            http: Address { host: "0.0.0.0".to_owned(), port: 8090 },
            tls_cert_file: None,
            tls_key_file: None,
            tls: ListenTls::Off,
            http_tls: true,
            token: None,
            protect_reads: false,
            max_connections: 2000,
            login_timeout: Duration::from_secs(10),
            max_packet: 1 << 20,
        }
    }
}

impl ListenConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let tls_cert_file: Option<PathBuf> = s.take(r, "tls_cert_file", |v| v.text().map(PathBuf::from));
        let offered = if tls_cert_file.is_some() { ListenTls::Prefer } else { d.tls };
        let config = Self {
            replication: s.take(r, "replication", |v| v.parse()).unwrap_or(d.replication),
            http: s.take(r, "http", |v| v.parse()).unwrap_or(d.http),
            tls_key_file: s.take(r, "tls_key_file", |v| v.text().map(PathBuf::from)),
            tls_cert_file,
            tls: s
                .take(r, "tls", |v| match v.text()? {
                    "off" => Ok(ListenTls::Off),
                    "prefer" => Ok(ListenTls::Prefer),
                    "require" => Ok(ListenTls::Require),
                    _ => Err("allowed: \"off\", \"prefer\", \"require\"".to_owned()),
                })
                .unwrap_or(offered),
            http_tls: s.take(r, "http_tls", |v| v.boolean()).unwrap_or(d.http_tls),
            token: s.secret(r, "token_file", "BATON_RELAY_LISTEN_TOKEN"),
            protect_reads: s.take(r, "protect_reads", |v| v.boolean()).unwrap_or(d.protect_reads),
            max_connections: s.take(r, "max_connections", |v| count(v.integer()?)).unwrap_or(d.max_connections),
            login_timeout: s.take(r, "login_timeout", |v| duration(v.text()?)).unwrap_or(d.login_timeout),
            max_packet: s.take(r, "max_packet", |v| bytes(&v)).unwrap_or(d.max_packet),
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values.
    pub fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(_), None) => p.push(Problem::new("listen.tls_key_file", "is required with listen.tls_cert_file")),
            (None, Some(_)) => p.push(Problem::new("listen.tls_cert_file", "is required with listen.tls_key_file")),
            (None, None) if self.tls != ListenTls::Off => {
                let message = "needs listen.tls_cert_file and listen.tls_key_file; without them allowed: \"off\"";
                p.push(Problem::new("listen.tls", message));
            }
            _ => {}
        }
        match &self.token {
            None if self.protect_reads => {
                let message = "needs listen.token_file (or BATON_RELAY_LISTEN_TOKEN): else nobody could read";
                p.push(Problem::new("listen.protect_reads", message).with_value("true"));
            }
            Some(token) if !good_token(token.expose_secret()) => {
                let message = "the token has to be one line of printable ASCII without spaces, 8 characters or more";
                p.push(Problem::new("listen.token_file", message));
            }
            _ => {}
        }
        if self.replication.port != 0 && self.replication == self.http {
            p.push(Problem::new("listen.http", "is the same as listen.replication").with_value(&self.http));
        }
        if !(1..=100_000).contains(&self.max_connections) {
            p.push(Problem::new("listen.max_connections", "allowed: 1 to 100000").with_value(self.max_connections));
        }
        between(&mut p, "listen.login_timeout", self.login_timeout, "100ms", "10m");
        if !(4096..=64 << 20).contains(&self.max_packet) {
            p.push(Problem::new("listen.max_packet", "allowed: 4KiB to 64MiB").with_value(self.max_packet));
        }
        p
    }
}

/// `[[users]]`: who may replicate from the relay.
#[derive(Debug, Clone, Default)]
pub struct UserConfig {
    /// Account name; 1 to 80 bytes.
    pub name: String,
    /// Its password, from `password_file` or `BATON_RELAY_USER_<NAME>_PASSWORD` (upper case, other characters as `_`).
    pub password: SecretString,
}

impl UserConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let name: String = s.require(r, "name", "name = \"repl\"", |v| v.text().map(str::to_owned));
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let variable = format!("BATON_RELAY_USER_{}_PASSWORD", name.chars().map(plain).collect::<String>());
        let before = r.problems.len();
        let password = s.secret(r, "password_file", &variable);
        match &password {
            None if r.problems.len() == before => {
                let message =
                    format!("is required; write password_file = \"/etc/baton/repl.password\" or set {variable}");
                r.problems.push(Problem::new(s.key("password_file"), message));
            }
            Some(p) if p.expose_secret().is_empty() => {
                let message = "the password is empty: anybody could read the log; put one into the file";
                r.problems.push(Problem::new(s.key("password_file"), message));
            }
            _ => {}
        }
        s.finish(r);
        Self { name, password: password.unwrap_or_default() }
    }

    /// What is wrong with the values; `index` is the user's place in the list.
    pub fn validate(&self, index: usize) -> Vec<Problem> {
        let mut p = Vec::new();
        user_name(&mut p, &format!("users[{index}].name"), &self.name);
        p
    }
}

/// `[log]`: how long the log is kept. A file goes as soon as one of the limits says so and no connected replica needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Age of a file's last transaction; `None` (written `"forever"`): any. 1 s or more, default 7 days.
    pub retain: Option<Duration>,
    /// Bytes of all files. 1 MiB or more, default without limit.
    pub retain_bytes: Option<u64>,
    /// Bytes of all files beyond which files go even if a connected replica needs them; not below `retain_bytes`. Default
    /// without limit.
    pub retain_hard_bytes: Option<u64>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { retain: Some(Duration::from_secs(7 * 86_400)), retain_bytes: None, retain_hard_bytes: None }
    }
}

impl LogConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let retain = |text: &str| match text {
            "forever" => Ok(None),
            _ => duration(text).map(Some).map_err(|e| format!("{e}, or \"forever\"")),
        };
        let config = Self {
            retain: s.take(r, "retain", |v| retain(v.text()?)).unwrap_or(Self::default().retain),
            retain_bytes: s.take(r, "retain_bytes", |v| bytes(&v)),
            retain_hard_bytes: s.take(r, "retain_hard_bytes", |v| bytes(&v)),
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values.
    pub fn validate(&self) -> Vec<Problem> {
        const LEAST: u64 = 1 << 20;
        let mut p = Vec::new();
        if self.retain.is_some_and(|d| d < Duration::from_secs(1)) {
            p.push(Problem::new("log.retain", "allowed: 1s or more, or \"forever\""));
        }
        for (key, value) in [("log.retain_bytes", self.retain_bytes), ("log.retain_hard_bytes", self.retain_hard_bytes)]
        {
            if let Some(value) = value.filter(|v| *v < LEAST) {
                p.push(Problem::new(key, "allowed: 1MiB or more").with_value(value));
            }
        }
        if let (Some(soft), Some(hard)) = (self.retain_bytes, self.retain_hard_bytes) {
            if hard < soft {
                let message = format!("is less than log.retain_bytes = {soft}; allowed: that or more");
                p.push(Problem::new("log.retain_hard_bytes", message).with_value(hard));
            }
        }
        p
    }
}

/// `[lag]`: how replicas are asked for what they have applied.
#[derive(Debug, Clone)]
pub struct LagConfig {
    /// Account on the replicas; without it they are not asked, and applied lag is not known.
    pub user: Option<String>,
    /// Its password, from `password_file` or `BATON_RELAY_LAG_PASSWORD`.
    pub password: SecretString,
    /// Shortest time between two questions (while a replica lags) and longest (while it idles). 10 ms to 1 h, default
    /// `100ms..5s`.
    pub poll: DurationRange,
    /// Sessions kept open. 1 to 10000, default 4.
    pub min_sessions: u32,
    /// Sessions while many replicas lag, not below `min_sessions`. Up to 10000, default 64.
    pub max_sessions: u32,
}

impl Default for LagConfig {
    fn default() -> Self {
        Self {
            user: None,
            password: SecretString::default(),
            poll: DurationRange { min: Duration::from_millis(100), max: Duration::from_secs(5) },
            min_sessions: 4,
            max_sessions: 64,
        }
    }
}

impl LagConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let user: Option<String> = s.take(r, "user", |v| v.text().map(str::to_owned));
        let before = r.problems.len();
        let password = s.secret(r, "password_file", "BATON_RELAY_LAG_PASSWORD");
        if password.is_none() && user.is_some() && r.problems.len() == before {
            let message = "is required with lag.user; or set BATON_RELAY_LAG_PASSWORD";
            r.problems.push(Problem::new(s.key("password_file"), message));
        }
        if password.is_some() && user.is_none() && r.problems.len() == before {
            r.problems.push(Problem::new(s.key("user"), "is required with a password for it"));
        }
        let config = Self {
            user,
            password: password.unwrap_or_default(),
            poll: s.take(r, "poll", |v| v.parse()).unwrap_or(d.poll),
            min_sessions: s.take(r, "min_sessions", |v| count(v.integer()?)).unwrap_or(d.min_sessions),
            max_sessions: s.take(r, "max_sessions", |v| count(v.integer()?)).unwrap_or(d.max_sessions),
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values.
    pub fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        if let Some(user) = &self.user {
            user_name(&mut p, "lag.user", user);
        }
        between(&mut p, "lag.poll", self.poll.min, "10ms", "1h");
        between(&mut p, "lag.poll", self.poll.max, "10ms", "1h");
        for (key, value) in [("lag.min_sessions", self.min_sessions), ("lag.max_sessions", self.max_sessions)] {
            if !(1..=10_000).contains(&value) {
                p.push(Problem::new(key, "allowed: 1 to 10000").with_value(value));
            }
        }
        if self.max_sessions < self.min_sessions {
            let message = format!("is less than lag.min_sessions = {}; allowed: that or more", self.min_sessions);
            p.push(Problem::new("lag.max_sessions", message).with_value(self.max_sessions));
        }
        p
    }
}

fn count(number: i64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("allowed: 0 to {}", u32::MAX))
}

fn bytes(value: &super::reader::Raw<'_>) -> Result<u64, String> {
    if let Ok(number) = value.integer() {
        return u64::try_from(number).map_err(|_| "a size can't be negative".to_owned());
    }
    size(value.text()?)
}

fn between(p: &mut Vec<Problem>, key: &str, value: Duration, least: &str, most: &str) {
    let bound = |text| duration(text).unwrap_or_default();
    if value < bound(least) || value > bound(most) {
        p.push(Problem::new(key, format!("allowed: {least} to {most}")).with_value(format!("{value:?}")));
    }
}

fn user_name(p: &mut Vec<Problem>, key: &str, name: &str) {
    if name.is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
        let message = "allowed: 1 to 80 bytes without control characters";
        p.push(Problem::new(key, message).with_value(format!("{name:?}")));
    }
}

fn good_token(token: &str) -> bool {
    token.len() >= 8 && token.bytes().all(|b| b.is_ascii_graphic())
}
