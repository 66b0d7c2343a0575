//! The connection to the primary.
//!
//! Owns: which path is used, when it is tried again, and the stream itself. Promises: what reaches the log continues it without a gap
//! and was verified; contradicting histories are never merged but told, with what resolves them.

mod backoff;
mod behind;
mod client;
mod error;
mod ingest;
mod plan;
mod status;
mod stream;
mod supervise;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch as channel;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

pub use error::StreamError;
pub use status::{UpstreamState, UpstreamStatus};

use self::client::Login;
use self::plan::LogEnd;
use self::supervise::{Ended, Supervision};
use crate::clock::Micros;
use crate::config::{Address, Start};
use crate::log::{Appender, Head, Log};
use crate::metrics::Metrics;
use crate::tls::TlsMode;

/// What the upstream side is told.
pub struct Options {
    /// Paths to the one primary, the preferred one first.
    pub addresses: Vec<Address>,
    /// Account with REPLICATION SLAVE.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Whether and how TLS is used.
    pub tls_mode: TlsMode,
    /// Set unless TLS is off.
    pub tls: Option<Arc<ClientConfig>>,
    /// Where an empty log begins.
    pub start: Start,
    /// Period of the primary's heartbeats.
    pub heartbeat: Duration,
    /// For connecting, logging in, and each answer.
    pub connect_timeout: Duration,
    /// The relay's `server_id`.
    pub server_id: u32,
    /// The relay's name: the primary lists it under `SHOW SLAVE HOSTS`.
    pub name: String,
    /// The relay's replication port, for the same list.
    pub port: u16,
}

/// What every stream works with.
struct Context {
    login: Login,
    start: Start,
    heartbeat: Duration,
    silence: Duration,
    server_id: u32,
    name: String,
    port: u16,
    log: Arc<Log>,
    metrics: Arc<Metrics>,
    status: channel::Sender<UpstreamStatus>,
}

impl Context {
    fn set_state(&self, state: UpstreamState) {
        self.status.send_modify(|s| {
            if s.state != state {
                s.state = state;
                s.since = Micros::now();
            }
            if state == UpstreamState::Streaming {
                s.error = None;
                s.hint = None;
            }
        });
    }

    fn note_server(&self, address: &str, server_id: u32, version: &str) {
        self.status.send_modify(|s| {
            s.address = Some(address.to_owned());
            s.server_id = Some(server_id);
            s.server_version = Some(version.strip_prefix("5.5.5-").unwrap_or(version).to_owned());
            s.connects += 1;
        });
    }

    fn note_error(&self, address: &str, error: &StreamError) {
        self.set_state(error.state());
        self.status.send_modify(|s| {
            s.address = Some(address.to_owned());
            s.error = Some(error.to_string());
            s.hint = error.hint();
        });
    }

    /// The log's end in the upstream's words; `None` while the log is empty.
    fn log_end(&self, head: &Head) -> Option<LogEnd> {
        Some(LogEnd {
            pos: head.pos,
            upstream_file: self.log.file_name(head.pos.file)?,
            server_id: self.log.identity().epochs.last()?.server_id,
            gtid: head.gtid.mariadb()?.clone(),
        })
    }
}

/// Keeps the log fed until cancelled; then everything whole is made durable and the log is closed.
pub async fn run(
    options: Options,
    log: Arc<Log>,
    mut appender: Appender,
    status: channel::Sender<UpstreamStatus>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
) {
    let addresses = options.addresses;
    let context = Context {
        login: Login {
            user: options.user,
            password: options.password,
            tls_mode: options.tls_mode,
            tls: options.tls,
            timeout: options.connect_timeout,
        },
        start: options.start,
        heartbeat: options.heartbeat,
        silence: stream::silence_limit(options.heartbeat),
        server_id: options.server_id,
        name: options.name,
        port: options.port,
        log,
        metrics,
        status,
    };
    let watching = watch::run(&context, &addresses);
    tokio::select! {
        () = cancel.cancelled() => {}
        () = supervise(&context, &mut appender, &addresses) => {}
        () = watching => {}
    }
    appender.close().await;
}

/// Streams, over the next path when one fails, with back-off when all have failed.
async fn supervise(context: &Context, appender: &mut Appender, addresses: &[Address]) {
    let mut supervision = Supervision::new(addresses.len());
    // What was told last of each path: the same over again is not worth a line.
    let mut told: Vec<Option<String>> = vec![None; addresses.len()];
    loop {
        let path = supervision.path();
        let Some(address) = addresses.get(path) else { return };
        let before = context.log.head().map(|h| h.pos);
        let mut first_event = None;
        let error = match stream::run(context, appender, address, &mut first_event).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let lived = first_event.map(|at: Instant| at.elapsed());
        if matches!(error, StreamError::Checksum { .. }) {
            context.metrics.upstream_checksum_failures.inc();
        }
        context.metrics.upstream_reconnects.inc();
        context.note_error(&address.to_string(), &error);
        // What was whole of the stream becomes durable, and the head moves. That it fails is told by the next attempt.
        let _ = appender.settle().await;
        let advanced = context.log.head().map(|h| h.pos) != before;
        let ended = Ended { state: error.state(), lived, advanced };
        let text = Some(error.to_string());
        if Supervision::is_news(&ended) || told.get(path) != Some(&text) {
            tracing::warn!(%address, state = error.state().name(), hint = error.hint(), "{error}");
        }
        if let Some(slot) = told.get_mut(path) {
            *slot = text;
        }
        tokio::time::sleep(supervision.ended(&ended)).await;
    }
}
