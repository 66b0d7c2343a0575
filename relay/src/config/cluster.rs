//! `[etcd]` and `[advertise]`: membership of a cluster, whose state names the primary.

use std::path::PathBuf;

use baton_cluster::store::EtcdConfig;

use super::error::Problem;
use super::reader::{Reader, Section};
use super::value::{Address, duration};

/// `[etcd]`: `None` if the file and the environment have nothing of it: then the relay stands alone.
pub(super) fn etcd(mut s: Section, r: &mut Reader<'_>) -> Option<EtcdConfig> {
    let d = EtcdConfig::default();
    let text = |v: super::reader::Raw<'_>| v.text().map(str::to_owned);
    let path = |v: super::reader::Raw<'_>| v.text().map(PathBuf::from);
    let config = EtcdConfig {
        endpoints: s.take(r, "endpoints", |v| v.texts()).unwrap_or_default(),
        ca_file: s.take(r, "ca_file", path),
        cert_file: s.take(r, "cert_file", path),
        key_file: s.take(r, "key_file", path),
        user: s.take(r, "user", text),
        password: s.secret(r, "password_file", "BATON_RELAY_ETCD_PASSWORD"),
        lease_ttl: s.take(r, "lease_ttl", |v| duration(v.text()?)).unwrap_or(d.lease_ttl),
    };
    let there = s.is_there();
    s.finish(r);
    there.then_some(config)
}

/// What is wrong with `[etcd]`.
pub(super) fn problems(etcd: &EtcdConfig) -> Vec<Problem> {
    etcd.problems().into_iter().map(|(key, message)| Problem::new(format!("etcd.{key}"), message)).collect()
}

/// `[advertise]`: how others reach this relay, and where it stands. Used with `[etcd]` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertiseConfig {
    /// Where replicas and further relays connect. Required with `[etcd]`.
    pub replication: Option<Address>,
    /// Where HTTP is to be had. Required with `[etcd]`.
    pub http: Option<Address>,
    /// What shares a host dies together: 1 to 253 bytes. Default: the host's name.
    pub host: String,
    /// Where it stands, at most 253 bytes. Default: nowhere in particular.
    pub site: String,
    /// Whether anything of the section was given.
    there: bool,
}

impl Default for AdvertiseConfig {
    fn default() -> Self {
        Self { replication: None, http: None, host: super::host_name(), site: String::new(), there: false }
    }
}

impl AdvertiseConfig {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let config = Self {
            replication: s.take(r, "replication", |v| v.parse()),
            http: s.take(r, "http", |v| v.parse()),
            host: s.take(r, "host", |v| v.text().map(str::to_owned)).unwrap_or(d.host),
            site: s.take(r, "site", |v| v.text().map(str::to_owned)).unwrap_or(d.site),
            there: s.is_there(),
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values; `clustered`: there is an `[etcd]`.
    pub fn validate(&self, clustered: bool) -> Vec<Problem> {
        let mut p = Vec::new();
        if !clustered {
            if self.there {
                p.push(Problem::new("[advertise]", "is only used with [etcd]; add that, or leave this section out"));
            }
            return p;
        }
        let addresses = [("replication", &self.replication, "10.0.1.9:3307"), ("http", &self.http, "10.0.1.9:8090")];
        for (key, address, example) in addresses {
            let name = format!("advertise.{key}");
            match address {
                None => {
                    let message =
                        format!("is required with [etcd]: others reach the relay there; write {key} = \"{example}\"");
                    p.push(Problem::new(name, message));
                }
                Some(address) if address.port == 0 || is_unspecified(&address.host) => {
                    let message =
                        format!("others can't connect to that; write an address of this host, such as \"{example}\"");
                    p.push(Problem::new(name, message).with_value(address));
                }
                Some(_) => {}
            }
        }
        for (key, text, least) in [("host", &self.host, 1), ("site", &self.site, 0)] {
            if text.len() < least || text.len() > 253 || text.chars().any(char::is_control) {
                let message = format!("allowed: {least} to 253 bytes without control characters");
                p.push(Problem::new(format!("advertise.{key}"), message).with_value(format!("{text:?}")));
            }
        }
        p
    }
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}
