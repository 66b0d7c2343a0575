//! HTTP: routes, status, metrics, event stream.
//!
//! Owns what is read over HTTP and who may read it. Looks at the relay through [`View`] only and changes nothing. Every answer but the
//! metrics is JSON as `/openapi.json` describes it; every error is `{"error":"one sentence","hint":"what to do"}`. Bounded in
//! connections, in the time a request may take to arrive, and in what is queued for a watcher.

mod auth;
mod error;
mod guard;
mod routes;
mod serve;
mod status;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::clock::Micros;

pub use serve::serve;
pub use view::{BoxFuture, Changes, EtcdHealth, View};

/// How HTTP is served.
#[derive(Debug, Clone)]
pub struct AdminOptions {
    /// The cluster's name.
    pub cluster: String,
    /// This relay's name.
    pub relay: String,
    /// Where replicas connect to, as `/v1/status` shows it: `host:port`.
    pub replication_address: String,
    /// When the relay was started.
    pub started: Micros,
    /// Bearer token for POST; without one every POST is refused.
    pub token: Option<SecretString>,
    /// Whether GET needs the token too (but for `/healthz` and `/readyz`).
    pub protect_reads: bool,
    /// With it only TLS is spoken.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Bounds.
    pub limits: Limits,
}

impl AdminOptions {
    /// Without token and TLS, started now, with the default limits.
    pub fn new(cluster: impl Into<String>, relay: impl Into<String>, replication_address: impl Into<String>) -> Self {
        Self {
            cluster: cluster.into(),
            relay: relay.into(),
            replication_address: replication_address.into(),
            started: Micros::now(),
            token: None,
            protect_reads: false,
            tls: None,
            limits: Limits::default(),
        }
    }
}

/// Bounds of the HTTP side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones get 503 and are closed.
    pub max_connections: usize,
    /// Watchers at a time; further ones get 503.
    pub max_watchers: usize,
    /// Time for a request's header (or a TLS handshake) to arrive, also on an idle kept connection.
    pub header_timeout: Duration,
    /// A connection whose peer takes nothing for so long is closed.
    pub stall_timeout: Duration,
    /// Requests under way are given this long at shutdown.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_watchers: 64,
            header_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}
