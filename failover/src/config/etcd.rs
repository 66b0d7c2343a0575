//! `[etcd]`: where the cluster's state is kept. The same in every program.

use std::path::PathBuf;
use std::time::Duration;

use baton_cluster::store::EtcdConfig;
use secrecy::SecretString;

use super::error::Problem;
use super::reader::{Reader, Section};
use super::value::duration;

/// How etcd is reached.
#[derive(Debug, Clone)]
pub struct EtcdSection {
    /// `http://host:port` or `https://host:port`; at least one.
    pub endpoints: Vec<String>,
    /// PEM file of the authorities that an `https` endpoint's certificate must be signed by.
    pub ca_file: Option<PathBuf>,
    /// PEM file of this client's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
    /// etcd's own account, where it asks for one.
    pub user: Option<String>,
    /// Its password, from `password_file` or `BATON_..._ETCD_PASSWORD`.
    pub password: Option<SecretString>,
    /// Lifetime of leases. Whole seconds from 2 s to 60 s, default 3 s.
    pub lease_ttl: Duration,
}

impl Default for EtcdSection {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            user: None,
            password: None,
            lease_ttl: Duration::from_secs(3),
        }
    }
}

impl EtcdSection {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let config = Self {
            endpoints: s
                .require(r, "endpoints", "endpoints = [\"http://10.0.0.1:2379\"]", |v| v.list::<Endpoint>())
                .into_iter()
                .map(|e| e.0)
                .collect(),
            ca_file: s.take(r, "ca_file", |v| v.text().map(PathBuf::from)),
            cert_file: s.take(r, "cert_file", |v| v.text().map(PathBuf::from)),
            key_file: s.take(r, "key_file", |v| v.text().map(PathBuf::from)),
            user: s.take(r, "user", |v| v.text().map(str::to_owned)),
            password: s.secret(r, "password_file"),
            lease_ttl: s.take(r, "lease_ttl", |v| duration(v.text()?)).unwrap_or(d.lease_ttl),
        };
        s.finish(r);
        config
    }

    /// What is wrong with the values.
    pub fn validate(&self) -> Vec<Problem> {
        let found = self.store().problems();
        found.into_iter().map(|(key, message)| Problem::new(format!("etcd.{key}"), message)).collect()
    }

    /// The same as the store takes it.
    pub fn store(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: self.endpoints.clone(),
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            lease_ttl: self.lease_ttl,
        }
    }
}

/// An endpoint as it is written.
struct Endpoint(String);

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "allowed: \"http://host:port\" or \"https://host:port\"";
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let rest = rest.ok_or_else(|| format!("{text:?}: {FORM}"))?;
        let address: super::Address =
            rest.trim_end_matches('/').parse().map_err(|e| format!("{text:?}: {e}; {FORM}"))?;
        if address.port == 0 {
            return Err(format!("{text:?}: port 0 can't be connected to; {FORM}"));
        }
        Ok(Self(text.to_owned()))
    }
}
