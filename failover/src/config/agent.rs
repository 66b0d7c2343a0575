//! `agent.toml`: what an agent is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::error::Problem;
use super::etcd::EtcdSection;
use super::reader::{Reader, Section};
use super::rules::{account_name, between, cluster_name, member_name, reachable, token};
use super::value::{Address, duration};
use super::{ConfigError, Environment};

/// What environment variables begin with.
const PROGRAM: &str = "BATON_AGENT_";

/// Everything that an agent is told.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The cluster's name: 1 to 63 of `a-z`, `0-9`, `-`. Required.
    pub cluster: String,
    /// This node's name: 1 to 253 of letters, digits, `.`, `-`, `_`. Default: the host's name.
    pub node: String,
    /// Where HTTP is served. Default `0.0.0.0:8092`.
    pub http: Address,
    /// Where HAProxy's agent-check is answered; nowhere by default.
    pub agent_check: Option<Address>,
    /// Bearer token for all but the health checks, from `token_file` or `BATON_AGENT_TOKEN`. Required.
    pub token: SecretString,
    /// What the agent keeps: the last order, what it knew of the server, surplus of a diverged server. Default `/var/lib/baton/agent`.
    pub data_dir: PathBuf,
    /// With `--exec`: how long a server that died is left dead before it is asked whether it may start again, so that a failover can
    /// happen meanwhile; a change of the cluster's state ends the wait. 0 s to 10 min, default 2 s.
    pub restart_after: Duration,
    /// How others reach this node, and where it stands.
    pub advertise: AdvertiseConfig,
    /// Where the cluster's state is kept.
    pub etcd: EtcdSection,
    /// The server beside this agent.
    pub mysql: MysqlConfig,
    /// The virtual IP.
    pub address: AddressConfig,
    /// Option file that the server includes, written before each start. Required with `--exec` and `--may-start`.
    pub role_file: Option<PathBuf>,
}

/// `[advertise]`.
#[derive(Debug, Clone)]
pub struct AdvertiseConfig {
    /// The server's addresses for relays and controllers, the preferred path first; at least one.
    pub mysql: Vec<Address>,
    /// This agent's HTTP.
    pub http: Address,
    /// What shares a host dies together. Default: the host's name.
    pub host: String,
    /// Where it stands; empty by default.
    pub site: String,
    /// Preference among equally fresh candidates, 0 (never) to 1000000; default 100.
    pub priority: u32,
}

/// TLS of this server's replication connection to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicationTls {
    /// Not used.
    #[default]
    Off,
    /// Used, whatever the certificate says.
    Require,
    /// Used, and the certificate must be signed by an authority in `replication_ca_file`.
    Verify,
}

/// `[mysql]`: the server.
#[derive(Debug, Clone)]
pub struct MysqlConfig {
    /// Its unix socket. Default `/run/mysqld/mysqld.sock`.
    pub socket: PathBuf,
    /// Its pid file. Default `/run/mysqld/mysqld.pid`.
    pub pid_file: PathBuf,
    /// Account over the socket, with the rights that orders need. Required.
    pub user: String,
    /// Its password, from `password_file` or `BATON_AGENT_MYSQL_PASSWORD`; empty by default (for `unix_socket` authentication).
    pub password: SecretString,
    /// Time for one statement that should take none. 100 ms to 60 s, default 2 s.
    pub timeout: Duration,
    /// How often it is asked how it does. 50 ms to 10 s, default 250 ms.
    pub poll: Duration,
    /// Account on relays with which this server replicates; needed to follow one.
    pub replication_user: Option<String>,
    /// Its password, from `replication_password_file` or `BATON_AGENT_MYSQL_REPLICATION_PASSWORD`.
    pub replication_password: SecretString,
    /// Default `off`.
    pub replication_tls: ReplicationTls,
    /// PEM file of the authorities that `verify` trusts; the server reads it.
    pub replication_ca_file: Option<PathBuf>,
}

/// `[address]`: the virtual IP, and when the node lets go of everything.
#[derive(Debug, Clone)]
pub struct AddressConfig {
    /// Interface that holds it; without one this node never takes an address.
    pub interface: Option<String>,
    /// The address with its prefix, `10.0.0.100/24`; overrides what the controllers say.
    pub vip: Option<String>,
    /// Kernel lifetime of the address, renewed each second. 2 s to 1 h, default 5 s.
    pub valid_for: Duration,
    /// A primary whose agent has reached neither etcd nor any controller nor any relay for this long is fenced by its agent.
    /// 200 ms to 1 h, default 1 s.
    pub fence_after: Duration,
}

impl AgentConfig {
    /// Reads the file, if one is given, and the environment (`env` looks a variable up), and validates all of it.
    ///
    /// # Errors
    /// Every problem found. A file that can't be read or is not TOML is the only one then.
    pub fn load(path: Option<&Path>, env: Environment<'_>) -> Result<Self, ConfigError> {
        super::load(path, env, PROGRAM, Self::read, Self::validate)
    }

    /// The same for a text; `source` names it in errors.
    ///
    /// # Errors
    /// As [`AgentConfig::load`].
    pub fn parse(text: &str, source: &str, env: Environment<'_>) -> Result<Self, ConfigError> {
        super::parse(text, source, env, PROGRAM, Self::read, Self::validate)
    }

    /// Full names of all keys that there are: `node`, `mysql.user`.
    #[cfg(test)]
    pub(super) fn known_keys() -> std::collections::BTreeSet<String> {
        let mut reader = Reader::new(&|_| None, PROGRAM);
        let top = Section::top(toml::Table::new(), &reader);
        let _ = Self::read(top, &mut reader);
        reader.known_keys()
    }

    fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let config = Self {
            cluster: s.require(r, "cluster", "cluster = \"shop\"", |v| v.text().map(str::to_owned)),
            node: s.take(r, "node", |v| v.text().map(str::to_owned)).unwrap_or_else(super::host_name),
            http: s
                .take(r, "http", |v| v.parse())
                .unwrap_or_else(|| Address { host: "0.0.0.0".to_owned(), port: 8092 }),
            agent_check: s.take(r, "agent_check", |v| v.parse()),
            token: s.require_secret(r, "token_file", "/etc/baton/token"),
            data_dir: s
                .take(r, "data_dir", |v| v.text().map(PathBuf::from))
                .unwrap_or_else(|| PathBuf::from("/var/lib/baton/agent")),
            restart_after: s.take(r, "restart_after", |v| duration(v.text()?)).unwrap_or(Duration::from_secs(2)),
            advertise: AdvertiseConfig::read(s.section(r, "advertise"), r),
            etcd: EtcdSection::read(s.section(r, "etcd"), r),
            mysql: MysqlConfig::read(s.section(r, "mysql"), r),
            address: AddressConfig::read(s.section(r, "address"), r),
            role_file: {
                let mut section = s.section(r, "role_file");
                let path = section.take(r, "path", |v| v.text().map(PathBuf::from));
                section.finish(r);
                path
            },
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values.
    pub fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        cluster_name(&mut p, &self.cluster);
        member_name(&mut p, "node", &self.node);
        token(&mut p, "token_file", self.token.expose_secret());
        if self.agent_check.as_ref().is_some_and(|a| a.port != 0 && *a == self.http) {
            p.push(Problem::new("agent_check", "is the same as http").with_value(&self.http));
        }
        if self.data_dir.as_os_str().is_empty() {
            p.push(Problem::new("data_dir", "a directory is wanted, such as /var/lib/baton/agent").with_value("\"\""));
        }
        between(&mut p, "restart_after", self.restart_after, "0s", "10m");
        p.extend(self.advertise.validate());
        p.extend(self.etcd.validate());
        p.extend(self.mysql.validate());
        p.extend(self.address.validate());
        if self.role_file.as_ref().is_some_and(|f| f.file_name().is_none()) {
            p.push(Problem::new("role_file.path", "a file is wanted, such as /etc/mysql/mariadb.conf.d/zz-baton.cnf"));
        }
        p
    }
}

impl AdvertiseConfig {
    fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let http: Option<Address> = {
            let before = r.problems.len();
            let http = s.take(r, "http", |v| v.parse());
            if http.is_none() && r.problems.len() == before {
                let message = "is required; write http = \"10.0.1.5:8092\" or set BATON_AGENT_ADVERTISE_HTTP";
                r.problems.push(Problem::new(s.key("http"), message));
            }
            http
        };
        let config = Self {
            mysql: s.require(r, "mysql", "mysql = [\"10.0.1.5:3306\"]", |v| v.list()),
            http: http.unwrap_or_else(|| Address { host: String::new(), port: 0 }),
            host: s.take(r, "host", |v| v.text().map(str::to_owned)).unwrap_or_else(super::host_name),
            site: s.take(r, "site", |v| v.text().map(str::to_owned)).unwrap_or_default(),
            priority: s
                .take(r, "priority", |v| {
                    u32::try_from(v.integer()?)
                        .ok()
                        .filter(|n| *n <= 1_000_000)
                        .ok_or_else(|| "allowed: 0 (never promoted) to 1000000".to_owned())
                })
                .unwrap_or(100),
        };
        s.finish(r);
        config
    }

    fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        if self.mysql.is_empty() {
            p.push(Problem::new("advertise.mysql", "at least one \"host:port\" is wanted"));
        }
        for address in &self.mysql {
            reachable(&mut p, "advertise.mysql", address);
        }
        reachable(&mut p, "advertise.http", &self.http);
        p
    }
}

impl MysqlConfig {
    fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let config = Self {
            socket: s
                .take(r, "socket", |v| v.text().map(PathBuf::from))
                .unwrap_or_else(|| PathBuf::from("/run/mysqld/mysqld.sock")),
            pid_file: s
                .take(r, "pid_file", |v| v.text().map(PathBuf::from))
                .unwrap_or_else(|| PathBuf::from("/run/mysqld/mysqld.pid")),
            user: s.require(r, "user", "user = \"baton\"", |v| v.text().map(str::to_owned)),
            password: s.secret(r, "password_file").unwrap_or_default(),
            timeout: s.take(r, "timeout", |v| duration(v.text()?)).unwrap_or(Duration::from_secs(2)),
            poll: s.take(r, "poll", |v| duration(v.text()?)).unwrap_or(Duration::from_millis(250)),
            replication_user: s.take(r, "replication_user", |v| v.text().map(str::to_owned)),
            replication_password: s.secret(r, "replication_password_file").unwrap_or_default(),
            replication_tls: s
                .take(r, "replication_tls", |v| match v.text()? {
                    "off" => Ok(ReplicationTls::Off),
                    "require" => Ok(ReplicationTls::Require),
                    "verify" => Ok(ReplicationTls::Verify),
                    _ => Err("allowed: \"off\", \"require\", \"verify\"".to_owned()),
                })
                .unwrap_or_default(),
            replication_ca_file: s.take(r, "replication_ca_file", |v| v.text().map(PathBuf::from)),
        };
        s.finish(r);
        config
    }

    fn validate(&self) -> Vec<Problem> {
        const SOCKET_PATH: usize = 107;
        let mut p = Vec::new();
        let length = self.socket.as_os_str().len();
        if length == 0 || length > SOCKET_PATH {
            let message = format!("a path of 1 to {SOCKET_PATH} bytes is wanted");
            p.push(Problem::new("mysql.socket", message).with_value(self.socket.display()));
        }
        if self.pid_file.as_os_str().is_empty() {
            p.push(Problem::new("mysql.pid_file", "a path is wanted, as in the server's pid_file").with_value("\"\""));
        }
        account_name(&mut p, "mysql.user", &self.user);
        between(&mut p, "mysql.timeout", self.timeout, "100ms", "60s");
        between(&mut p, "mysql.poll", self.poll, "50ms", "10s");
        if let Some(user) = &self.replication_user {
            account_name(&mut p, "mysql.replication_user", user);
        } else if !self.replication_password.expose_secret().is_empty() {
            p.push(Problem::new("mysql.replication_user", "is required with a password for it"));
        }
        if self.replication_tls == ReplicationTls::Verify && self.replication_ca_file.is_none() {
            let message = "is required with mysql.replication_tls = \"verify\"";
            p.push(Problem::new("mysql.replication_ca_file", message));
        }
        p
    }
}

impl AddressConfig {
    fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let config = Self {
            interface: s.take(r, "interface", |v| v.text().map(str::to_owned)),
            vip: s.take(r, "vip", |v| v.text().map(str::to_owned)),
            valid_for: s.take(r, "valid_for", |v| duration(v.text()?)).unwrap_or(Duration::from_secs(5)),
            fence_after: s.take(r, "fence_after", |v| duration(v.text()?)).unwrap_or(Duration::from_secs(1)),
        };
        s.finish(r);
        config
    }

    fn validate(&self) -> Vec<Problem> {
        /// `IFNAMSIZ` less the final NUL.
        const INTERFACE: usize = 15;
        let mut p = Vec::new();
        if let Some(name) = &self.interface {
            let good = |c: char| c.is_ascii_graphic() && c != '/';
            if name.is_empty() || name.len() > INTERFACE || !name.chars().all(good) {
                let message =
                    format!("the name of a network interface is wanted, such as \"eth0\": 1 to {INTERFACE} characters");
                p.push(Problem::new("address.interface", message).with_value(format!("{name:?}")));
            }
        }
        if let Some(vip) = &self.vip {
            if let Err(message) = vip.parse::<crate::agent::address::Vip>() {
                p.push(Problem::new("address.vip", message).with_value(format!("{vip:?}")));
            }
            if self.interface.is_none() {
                p.push(Problem::new("address.interface", "is required with address.vip"));
            }
        }
        between(&mut p, "address.valid_for", self.valid_for, "2s", "1h");
        between(&mut p, "address.fence_after", self.fence_after, "200ms", "1h");
        p
    }
}
