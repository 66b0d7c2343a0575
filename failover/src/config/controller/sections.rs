//! The smaller sections of `controller.toml`.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::super::error::Problem;
use super::super::reader::{Raw, Reader, Section};
use super::super::rules::{account_name, between};
use super::super::value::duration;

/// `[mysql]`: how the controller logs in to servers.
#[derive(Debug, Clone)]
pub struct ServersConfig {
    /// Account for probes; and for orders to servers without an agent. Required.
    pub user: String,
    /// Its password, from `password_file` or `BATON_CONTROLLER_MYSQL_PASSWORD`.
    pub password: SecretString,
    /// Account on relays, with which servers without an agent are told to replicate.
    pub replication_user: Option<String>,
    /// Its password, from `replication_password_file` or `BATON_CONTROLLER_MYSQL_REPLICATION_PASSWORD`.
    pub replication_password: SecretString,
}

impl ServersConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let config = Self {
            user: s.require(r, "user", "user = \"baton\"", |v| v.text().map(str::to_owned)),
            password: s.secret(r, "password_file").unwrap_or_default(),
            replication_user: s.take(r, "replication_user", |v| v.text().map(str::to_owned)),
            replication_password: s.secret(r, "replication_password_file").unwrap_or_default(),
        };
        s.finish(r);
        config
    }

    pub(super) fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        account_name(&mut p, "mysql.user", &self.user);
        if let Some(user) = &self.replication_user {
            account_name(&mut p, "mysql.replication_user", user);
        } else if !self.replication_password.expose_secret().is_empty() {
            p.push(Problem::new("mysql.replication_user", "is required with a password for it"));
        }
        p
    }
}

/// Who moves the address that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressProvider {
    /// The nodes' agents hold a virtual IP.
    Agent,
    /// An EndpointSlice names the primary.
    Kubernetes,
    /// A command is run.
    Exec,
    /// Nobody: clients find the primary by the agents' health checks.
    #[default]
    None,
}

impl AddressProvider {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Kubernetes => "kubernetes",
            Self::Exec => "exec",
            Self::None => "none",
        }
    }
}

/// `[address]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProviderAddress {
    /// Default `none`.
    pub provider: AddressProvider,
    /// The virtual IP with its prefix length; required for `agent`, told to the command of `exec`.
    pub vip: Option<String>,
    /// Program and arguments for `exec`; the facts are in its environment.
    pub command: Vec<String>,
    /// For the command. 100 ms to 10 min, default 10 s.
    pub timeout: Duration,
}

impl ProviderAddress {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let provider = s.take(r, "provider", |v| match v.text()? {
            "agent" => Ok(AddressProvider::Agent),
            "kubernetes" => Ok(AddressProvider::Kubernetes),
            "exec" => Ok(AddressProvider::Exec),
            "none" => Ok(AddressProvider::None),
            _ => Err("allowed: \"agent\", \"kubernetes\", \"exec\", \"none\"".to_owned()),
        });
        let config = Self {
            provider: provider.unwrap_or_default(),
            vip: s.take(r, "vip", |v| v.text().map(str::to_owned)),
            command: s.take(r, "command", words).unwrap_or_default(),
            timeout: s.take(r, "timeout", |v| duration(v.text()?)).unwrap_or(Duration::from_secs(10)),
        };
        s.finish(r);
        config
    }

    pub(super) fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        match (&self.vip, self.provider) {
            (None, AddressProvider::Agent) => {
                p.push(Problem::new("address.vip", "is required with provider = \"agent\", such as \"10.0.0.100/24\""));
            }
            (Some(vip), _) => {
                if let Err(message) = vip.parse::<crate::agent::address::Vip>() {
                    p.push(Problem::new("address.vip", message).with_value(format!("{vip:?}")));
                }
            }
            _ => {}
        }
        match (self.command.first(), self.provider) {
            (None, AddressProvider::Exec) => {
                let message = "is required with provider = \"exec\", such as [\"/usr/local/bin/move-address\"]";
                p.push(Problem::new("address.command", message));
            }
            (Some(program), _) => absolute(&mut p, "address.command", program),
            _ => {}
        }
        between(&mut p, "address.timeout", self.timeout, "100ms", "10m");
        if cfg!(not(feature = "kubernetes")) && self.provider == AddressProvider::Kubernetes {
            let message = "this build has no kubernetes: take the image that has, or build with --features kubernetes";
            p.push(Problem::new("address.provider", message).with_value("\"kubernetes\""));
        }
        p
    }
}

/// `[kubernetes]`: where the primary is published.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubernetesConfig {
    /// Default: that of the service account.
    pub namespace: Option<String>,
    /// Service whose EndpointSlice holds the primary; required with the provider.
    pub primary_service: Option<String>,
    /// Service whose EndpointSlice holds the replicas.
    pub replicas_service: Option<String>,
    /// Port of the servers. Default 3306.
    pub port: u16,
    /// Replicas that lag more are left out. Default 5 s.
    pub replicas_max_lag: Duration,
}

impl KubernetesConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let text = |v: Raw<'_>| v.text().map(str::to_owned);
        let config = Self {
            namespace: s.take(r, "namespace", text),
            primary_service: s.take(r, "primary_service", text),
            replicas_service: s.take(r, "replicas_service", text),
            port: s
                .take(r, "port", |v| {
                    let port = u16::try_from(v.integer()?).ok().filter(|p| *p > 0);
                    port.ok_or_else(|| "allowed: 1 to 65535".to_owned())
                })
                .unwrap_or(3306),
            replicas_max_lag: s.take(r, "replicas_max_lag", |v| duration(v.text()?)).unwrap_or(Duration::from_secs(5)),
        };
        s.finish(r);
        config
    }

    pub(super) fn validate(&self, provider: AddressProvider) -> Vec<Problem> {
        let mut p = Vec::new();
        if provider == AddressProvider::Kubernetes && self.primary_service.is_none() {
            p.push(Problem::new("kubernetes.primary_service", "is required with provider = \"kubernetes\""));
        }
        between(&mut p, "kubernetes.replicas_max_lag", self.replicas_max_lag, "0s", "1h");
        p
    }
}

/// `[probe]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeConfig {
    /// How often is asked. 10 ms to 10 s, default 100 ms.
    pub interval: Duration,
    /// Silence on all paths that counts as death. 200 ms to 1 min, default 1 s; at least twice `interval`.
    pub timeout: Duration,
}

impl ProbeConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let config = Self {
            interval: s.take(r, "interval", |v| duration(v.text()?)).unwrap_or(Duration::from_millis(100)),
            timeout: s.take(r, "timeout", |v| duration(v.text()?)).unwrap_or(Duration::from_secs(1)),
        };
        s.finish(r);
        config
    }

    pub(super) fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        between(&mut p, "probe.interval", self.interval, "10ms", "10s");
        between(&mut p, "probe.timeout", self.timeout, "200ms", "1m");
        if self.timeout < self.interval * 2 {
            let message = format!("has to be at least twice probe.interval = {:?}", self.interval);
            p.push(Problem::new("probe.timeout", message).with_value(format!("{:?}", self.timeout)));
        }
        p
    }
}

/// `[hooks]`: programs with their arguments, run with the facts in their environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksConfig {
    /// Before a failover; delays it. Vetoes it only with `veto`.
    pub before_failover: Vec<String>,
    /// After a failover.
    pub after_failover: Vec<String>,
    /// Before a switchover; a failing one vetoes it.
    pub before_switchover: Vec<String>,
    /// After a switchover.
    pub after_switchover: Vec<String>,
    /// For each of them; then it is killed and counts as failed. 10 ms to 10 min, default 10 s.
    pub timeout: Duration,
    /// Whether a failing `before_failover` vetoes an automatic failover. Default false.
    pub veto: bool,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self {
            before_failover: Vec::new(),
            after_failover: Vec::new(),
            before_switchover: Vec::new(),
            after_switchover: Vec::new(),
            timeout: Duration::from_secs(10),
            veto: false,
        }
    }
}

impl HooksConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let config = Self {
            before_failover: s.take(r, "before_failover", words).unwrap_or_default(),
            after_failover: s.take(r, "after_failover", words).unwrap_or_default(),
            before_switchover: s.take(r, "before_switchover", words).unwrap_or_default(),
            after_switchover: s.take(r, "after_switchover", words).unwrap_or_default(),
            timeout: s.take(r, "timeout", |v| duration(v.text()?)).unwrap_or(d.timeout),
            veto: s.take(r, "veto", |v| v.boolean()).unwrap_or(d.veto),
        };
        s.finish(r);
        config
    }

    pub(super) fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        for (key, command) in [
            ("hooks.before_failover", &self.before_failover),
            ("hooks.after_failover", &self.after_failover),
            ("hooks.before_switchover", &self.before_switchover),
            ("hooks.after_switchover", &self.after_switchover),
        ] {
            if let Some(program) = command.first() {
                absolute(&mut p, key, program);
            }
        }
        between(&mut p, "hooks.timeout", self.timeout, "10ms", "10m");
        if self.veto && self.before_failover.is_empty() {
            p.push(Problem::new("hooks.veto", "needs hooks.before_failover").with_value(true));
        }
        p
    }
}

/// A program and its arguments.
fn words(value: Raw<'_>) -> Result<Vec<String>, String> {
    struct Word(String);
    impl std::str::FromStr for Word {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            if text.contains('\0') {
                Err("a NUL can't stand in an argument".to_owned())
            } else {
                Ok(Self(text.to_owned()))
            }
        }
    }
    Ok(value.list::<Word>()?.into_iter().map(|w| w.0).collect())
}

/// A program that is found whatever the working directory and the search path are.
fn absolute(p: &mut Vec<Problem>, key: &str, program: &str) {
    if !program.starts_with('/') {
        let message = "the program has to be an absolute path, such as [\"/usr/local/bin/program\", \"argument\"]";
        p.push(Problem::new(key, message).with_value(format!("{program:?}")));
    }
}
