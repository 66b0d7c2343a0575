//! `[etcd]`: where the cluster's state is kept. The same in every program.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::error::Problem;
use super::reader::{Reader, Section};
use super::rules::between;
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
    /// Lifetime of leases. 1 s to 60 s, default 3 s.
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
        let mut p = Vec::new();
        if self.endpoints.is_empty() {
            p.push(Problem::new("etcd.endpoints", "at least one \"http://host:port\" is wanted"));
        }
        let encrypted = self.endpoints.iter().any(|e| e.starts_with("https:"));
        for (key, file) in
            [("etcd.ca_file", &self.ca_file), ("etcd.cert_file", &self.cert_file), ("etcd.key_file", &self.key_file)]
        {
            if let Some(file) = file.as_ref().filter(|_| !encrypted) {
                let message = "is only used with https:// endpoints; write those, or leave it out";
                p.push(Problem::new(key, message).with_value(file.display()));
            }
        }
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => p.push(Problem::new("etcd.key_file", "is required with etcd.cert_file")),
            (None, Some(_)) => p.push(Problem::new("etcd.cert_file", "is required with etcd.key_file")),
            _ => {}
        }
        match (&self.user, &self.password) {
            (Some(_), None) => p.push(Problem::new("etcd.password_file", "is required with etcd.user")),
            (None, Some(_)) => p.push(Problem::new("etcd.user", "is required with a password for it")),
            _ => {}
        }
        between(&mut p, "etcd.lease_ttl", self.lease_ttl, "1s", "60s");
        p
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
