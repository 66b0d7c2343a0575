//! The connection to the primary.
//!
//! Owns: which path is used, when it is tried again, and the stream itself. Promises: what reaches the log continues it without a gap
//! and was verified; contradicting histories are never merged but told, with what resolves them.

mod backoff;
mod client;
mod error;
mod ingest;
mod plan;
mod status;
mod stream;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch as channel;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

pub use error::StreamError;
pub use status::{UpstreamState, UpstreamStatus};

use self::backoff::Backoff;
use self::client::Login;
use self::plan::LogEnd;
use crate::clock::Micros;
use crate::config::{Address, Start};
use crate::log::{Appender, Head, Log};
use crate::metrics::Metrics;
use crate::tls::TlsMode;

/// First and longest wait before a broken connection is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(3));
/// The same where an operator has to act first.
const RETRY_SLOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

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

    fn note_setting(&self, name: &'static str, value: Option<String>) {
        self.status.send_if_modified(|s| {
            let changed = s.settings.get(name) != value.as_ref();
            match value {
                Some(value) => s.settings.insert(name, value),
                None => s.settings.remove(name),
            };
            changed
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
    let mut quick = Backoff::new(RETRY.0, RETRY.1);
    let mut slow = Backoff::new(RETRY_SLOW.0, RETRY_SLOW.1);
    let mut failures = 0;
    loop {
        let Some(address) = addresses.get(failures % addresses.len().max(1)) else { return };
        let mut progressed = false;
        let error = match stream::run(context, appender, address, &mut progressed).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if matches!(error, StreamError::Checksum { .. }) {
            context.metrics.upstream_checksum_failures.inc();
        }
        context.metrics.upstream_reconnects.inc();
        let before = context.status.borrow().error.clone();
        context.note_error(&address.to_string(), &error);
        if before.as_deref() != Some(error.to_string().as_str()) {
            tracing::warn!(%address, state = error.state().name(), hint = error.hint(), "{error}");
        }
        if progressed {
            quick.reset();
            slow.reset();
            failures = 0;
        }
        failures += 1;
        let other_path_left = failures % addresses.len() != 0;
        let wait = match error.state() {
            UpstreamState::Connecting if other_path_left => continue,
            // The first attempt after a break is made at once: a server that restarts is back in an instant.
            UpstreamState::Connecting if progressed => continue,
            UpstreamState::Connecting => quick.next_wait(),
            _ => slow.next_wait(),
        };
        tokio::time::sleep(wait).await;
    }
}
