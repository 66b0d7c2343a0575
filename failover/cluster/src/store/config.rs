//! How etcd is reached.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use secrecy::{ExposeSecret, SecretString};

use super::error::StoreError;

/// For connecting to one endpoint.
const CONNECT: Duration = Duration::from_millis(700);
/// HTTP/2 pings on a connection, and how long an answer to one may take: without them a frozen server is never noticed.
const PING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(700));

/// Where etcd is, and who we are to it.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, one a member.
    pub endpoints: Vec<String>,
    /// Certificates that members' certificates must be signed by; the system's otherwise.
    pub ca_file: Option<PathBuf>,
    /// Our certificate; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Our user; together with `password`.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// Lifetime of leases: whole seconds, 2 or more.
    pub lease_ttl: Duration,
}

impl Default for EtcdConfig {
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

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// What is wrong with it, each with the key; files are not looked at.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.endpoints.is_empty() {
            found.push(("endpoints", "at least one is needed, such as \"http://10.0.0.1:2379\"".to_owned()));
        }
        for endpoint in &self.endpoints {
            let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
            let port = rest
                .and_then(|r| r.trim_end_matches('/').rsplit_once(':'))
                .map(|(host, port)| (host, port.parse::<u16>()));
            if !matches!(port, Some((host, Ok(1..))) if !host.is_empty() && !host.contains('/')) {
                found.push((
                    "endpoints",
                    format!("{endpoint:?} is no endpoint; allowed: \"http://host:port\" or \"https://host:port\""),
                ));
            }
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            found.push(("cert_file", "cert_file and key_file belong together: give both or none".to_owned()));
        }
        if self.user.is_some() != self.password.is_some() {
            found.push(("user", "user and password_file belong together: give both or none".to_owned()));
        }
        let tls = self.endpoints.iter().any(|e| e.starts_with("https://"));
        if !tls && (self.ca_file.is_some() || self.cert_file.is_some()) {
            found.push(("ca_file", "certificates are of use with https:// endpoints only".to_owned()));
        }
        if self.lease_ttl < Duration::from_secs(2)
            || self.lease_ttl > Duration::from_secs(60)
            || self.lease_ttl.subsec_nanos() != 0
        {
            found.push((
                "lease_ttl",
                format!("{:?} is not allowed; allowed: whole seconds from \"2s\" to \"60s\"", self.lease_ttl),
            ));
        }
        found
    }

    /// The client's options. Reads the files.
    pub(super) fn options(&self) -> Result<ConnectOptions, StoreError> {
        if let Some((key, cause)) = self.problems().into_iter().next() {
            return Err(StoreError::Config { key, cause });
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING.0, PING.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            options = options.with_user(user, password.expose_secret());
        }
        if self.endpoints.iter().any(|e| e.starts_with("https://")) {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &self.ca_file {
                tls = tls.ca_certificate(Certificate::from_pem(read("ca_file", ca)?));
            }
            if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
                tls = tls.identity(Identity::from_pem(read("cert_file", cert)?, read("key_file", key)?));
            }
            options = options.with_tls(tls);
        }
        Ok(options)
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|e| StoreError::File { key, path: path.to_owned(), cause: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(endpoints: &[&str]) -> EtcdConfig {
        EtcdConfig { endpoints: endpoints.iter().map(|e| (*e).to_owned()).collect(), ..EtcdConfig::default() }
    }

    #[test]
    fn what_can_be_used_has_no_problems() {
        for good in ["http://10.0.0.1:2379", "http://[::1]:2379", "https://etcd.example:2379/"] {
            assert_eq!(with(&[good]).problems(), [], "{good}");
        }
    }

    #[test]
    fn each_problem_names_its_key() {
        for (key, config) in [
            ("endpoints", with(&[])),
            ("endpoints", with(&["10.0.0.1:2379"])),
            ("endpoints", with(&["http://10.0.0.1"])),
            ("endpoints", with(&["http://:2379"])),
            ("endpoints", with(&["http://a:0"])),
            ("cert_file", EtcdConfig { cert_file: Some("a".into()), ..with(&["https://a:1"]) }),
            ("ca_file", EtcdConfig { ca_file: Some("a".into()), ..with(&["http://a:1"]) }),
            ("user", EtcdConfig { user: Some("a".into()), ..with(&["http://a:1"]) }),
            ("lease_ttl", EtcdConfig { lease_ttl: Duration::from_millis(2500), ..with(&["http://a:1"]) }),
            ("lease_ttl", EtcdConfig { lease_ttl: Duration::from_secs(1), ..with(&["http://a:1"]) }),
        ] {
            let keys: Vec<_> = config.problems().into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, [key], "{config:?}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let config =
            EtcdConfig { user: Some("u".into()), password: Some("hidden".to_owned().into()), ..with(&["http://a:1"]) };
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
