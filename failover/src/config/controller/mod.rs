//! `controller.toml`: what a controller is told.

mod members;
pub mod policy;
mod sections;
#[cfg(test)]
mod tests;

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

pub use members::{NodeAgent, NodeEntry, RelayEntry};
pub use policy::{Overrides, PolicyConfig};
pub use sections::{AddressProvider, HooksConfig, KubernetesConfig, ProbeConfig, ProviderAddress, ServersConfig};

use super::error::Problem;
use super::etcd::EtcdSection;
use super::reader::{Reader, Section};
use super::rules::{cluster_name, member_name, reachable, token};
use super::value::Address;
use super::{ConfigError, Environment};

/// What environment variables begin with.
const PROGRAM: &str = "BATON_CONTROLLER_";

/// Everything that a controller is told.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// The cluster's name: 1 to 63 of `a-z`, `0-9`, `-`. Required.
    pub cluster: String,
    /// This controller's name. Default: the host's name.
    pub name: String,
    /// Where HTTP is served. Default `0.0.0.0:8091`.
    pub http: Address,
    /// Bearer token: for what is asked of this controller, and for what it asks of agents, relays and other controllers. From `token_file` or
    /// `BATON_CONTROLLER_TOKEN`. Required.
    pub token: SecretString,
    /// Whether reading needs the token too. Default false.
    pub protect_reads: bool,
    /// `host:port` at which others reach this controller. Default: the host's name and the port of `http`.
    pub advertise_http: Address,
    /// Where the cluster's state is kept.
    pub etcd: EtcdSection,
    /// The account for probes, and for orders to servers without an agent.
    pub mysql: ServersConfig,
    /// The virtual IP.
    pub address: ProviderAddress,
    /// How often and how patiently is looked.
    pub probe: ProbeConfig,
    /// When is acted.
    pub policy: PolicyConfig,
    /// What is run beside failovers and switchovers.
    pub hooks: HooksConfig,
    /// For `provider = "kubernetes"`.
    pub kubernetes: KubernetesConfig,
    /// Nodes, by name, beside those that announce themselves.
    pub nodes: Vec<NodeEntry>,
    /// Relays, by name, beside those that announce themselves.
    pub relays: Vec<RelayEntry>,
}

impl ControllerConfig {
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
    /// As [`ControllerConfig::load`].
    pub fn parse(text: &str, source: &str, env: Environment<'_>) -> Result<Self, ConfigError> {
        super::parse(text, source, env, PROGRAM, Self::read, Self::validate)
    }

    fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let http = s.take(r, "http", |v| v.parse()).unwrap_or_else(|| Address { host: "0.0.0.0".into(), port: 8091 });
        let config = Self {
            cluster: s.require(r, "cluster", "cluster = \"shop\"", |v| v.text().map(str::to_owned)),
            name: s.take(r, "name", |v| v.text().map(str::to_owned)).unwrap_or_else(super::host_name),
            token: s.require_secret(r, "token_file", "/etc/baton/token"),
            protect_reads: s.take(r, "protect_reads", |v| v.boolean()).unwrap_or(false),
            advertise_http: {
                let mut section = s.section(r, "advertise");
                let given: Option<Address> = section.take(r, "http", |v| v.parse());
                section.finish(r);
                given.unwrap_or_else(|| default_advertised(&http))
            },
            etcd: EtcdSection::read(s.section(r, "etcd"), r),
            mysql: ServersConfig::read(s.section(r, "mysql"), r),
            address: ProviderAddress::read(s.section(r, "address"), r),
            probe: ProbeConfig::read(s.section(r, "probe"), r),
            policy: PolicyConfig::read(s.section(r, "policy"), s.section(r, "guard"), r),
            hooks: HooksConfig::read(s.section(r, "hooks"), r),
            kubernetes: KubernetesConfig::read(s.section(r, "kubernetes"), r),
            nodes: s.sections(r, "nodes").into_iter().map(|s| NodeEntry::read(s, r)).collect(),
            relays: s.sections(r, "relays").into_iter().map(|s| RelayEntry::read(s, r)).collect(),
            http,
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values.
    pub fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        cluster_name(&mut p, &self.cluster);
        member_name(&mut p, "name", &self.name);
        token(&mut p, "token_file", self.token.expose_secret());
        // Port 0 lets the system choose one when listening; what is told then is the port in use.
        if self.http.port != 0 || self.advertise_http.port != 0 {
            reachable(&mut p, "advertise.http", &self.advertise_http);
        }
        p.extend(self.etcd.validate());
        p.extend(self.mysql.validate());
        p.extend(self.address.validate());
        p.extend(self.probe.validate());
        p.extend(self.policy.validate());
        p.extend(self.hooks.validate());
        p.extend(self.kubernetes.validate(self.address.provider));
        p.extend(members::validate(&self.nodes, &self.relays));
        p
    }

    /// A short digest of what all controllers of a cluster must agree on: everything that decisions depend on, no secrets, no names of its own.
    pub fn digest(&self) -> String {
        let agreed = format!(
            "{}|{:?}|{:?}|{:?}|{:?}|{:?}|{:?}|{:?}|{:?}",
            self.cluster,
            self.address,
            self.probe,
            self.policy,
            self.hooks,
            self.kubernetes,
            self.nodes,
            self.relays,
            self.mysql.user
        );
        // FNV-1a (64 bit): equal texts give equal digests in every build, which std's hasher does not promise.
        let hash =
            agreed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        format!("{hash:016x}")
    }
}

/// What `http` is reached at if nothing else is said.
fn default_advertised(http: &Address) -> Address {
    let wildcard = matches!(http.host.as_str(), "0.0.0.0" | "::");
    Address { host: if wildcard { super::host_name() } else { http.host.clone() }, port: http.port }
}
