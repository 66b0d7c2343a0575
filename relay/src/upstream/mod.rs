//! The connection to the primary.
//!
//! Owns: which path is used, when it is tried again, and the stream itself. Promises: what reaches the log continues it without a gap
//! and was verified; contradicting histories are never merged but told, with what resolves them.

mod ack;
mod backoff;
mod behind;
mod client;
mod control;
mod doubt;
mod error;
mod ingest;
mod plan;
mod prefer;
mod settings;
mod status;
mod stream;
mod supervise;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

pub use control::{Control, Order, PromiseAnswer, PromiseError, Tail};
pub use error::StreamError;
pub use status::{SemiSync, UpstreamState, UpstreamStatus};

use self::client::Login;
use self::plan::LogEnd;
use self::supervise::{Ended, Supervision};
use crate::clock::Micros;
use crate::config::{Ack, Address, Start, UpstreamConfig};
use crate::log::{Appender, Grant, Head, Log, PromiseFile, Promised, may_promise};
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
    /// What is acknowledged, and when.
    pub ack: Ack,
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
    ack: Ack,
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
            } else {
                s.acking = false;
            }
        });
    }

    fn set_streaming(&self, acking: bool) {
        self.set_state(UpstreamState::Streaming);
        self.status.send_modify(|s| s.acking = acking);
    }

    /// Whether this relay acknowledges: it is set to, and holds the right to.
    fn acks(&self) -> bool {
        self.ack != Ack::Off && self.status.borrow().promised.held
    }

    /// What keeps this relay from taking anything more of the primary that it followed.
    fn set_promised(&self, promised: Promised) {
        self.status.send_modify(|s| s.promised = promised);
        if promised.held {
            return;
        }
        self.set_state(UpstreamState::Stopped);
        self.status.send_modify(|s| {
            s.error = Some(format!("grant {} was promised: nothing more is taken from the primary before it", promised.grant));
            s.hint = Some("where no controller gives a new grant: `baton-relay take-grant` once it is certain which server is the primary".into());
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

/// Logs in to the first path that answers, and tells which settings of the primary break what acknowledgements promise.
///
/// # Errors
/// Why the last path can't be asked.
pub async fn check(config: &UpstreamConfig, tls: Option<Arc<ClientConfig>>) -> Result<Vec<String>, StreamError> {
    let login = Login {
        user: config.user.clone(),
        password: config.password.clone(),
        tls_mode: config.tls,
        tls,
        timeout: config.connect_timeout,
    };
    let mut last = Ok(Vec::new());
    for address in &config.addresses {
        last = match client::Client::connect(address, &login).await {
            Ok(mut client) if config.ack != Ack::Off => {
                Ok(settings::warnings(&client.query(settings::VARIABLES).await?))
            }
            Ok(_) => Ok(Vec::new()),
            Err(e) => Err(e),
        };
        if last.is_ok() {
            break;
        }
    }
    last
}

/// What the upstream side works on.
pub struct Parts {
    /// The log.
    pub log: Arc<Log>,
    /// Its growing end.
    pub appender: Appender,
    /// What was promised.
    pub promise: PromiseFile,
    /// Where orders come from.
    pub orders: mpsc::Receiver<Order>,
    /// Where the state is told.
    pub status: channel::Sender<UpstreamStatus>,
    /// The relay's figures.
    pub metrics: Arc<Metrics>,
}

/// Keeps the log fed until cancelled; then everything whole is made durable and the log is closed.
pub async fn run(options: Options, parts: Parts, cancel: CancellationToken) {
    let Parts { log, mut appender, mut promise, mut orders, status, metrics } = parts;
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
        ack: options.ack,
        server_id: options.server_id,
        name: options.name,
        port: options.port,
        log,
        metrics,
        status,
    };
    context.set_promised(promise.current());
    loop {
        let held = promise.current().held;
        let order = tokio::select! {
            () = cancel.cancelled() => break,
            order = orders.recv() => order,
            // Dropped by an order: with it ends the connection, and so the acknowledging.
            () = supervise(&context, &mut appender, &addresses), if held => break,
            () = watch::run(&context, &addresses) => break,
        };
        match order {
            Some(Order::Promise(grant, answer)) => {
                let result = keep_promise(&context, &mut appender, &mut promise, grant).await;
                // Who asked may have gone: the promise holds all the same.
                let _ = answer.send(result);
            }
            None => break,
        }
    }
    appender.close().await;
}

/// Promises `grant`: the stream has ended already, so nothing is acknowledged any more. Settles what is in flight, then makes the promise
/// durable, then answers.
async fn keep_promise(
    context: &Context,
    appender: &mut Appender,
    promise: &mut PromiseFile,
    grant: Grant,
) -> Result<PromiseAnswer, PromiseError> {
    let promised =
        may_promise(promise.current(), grant).map_err(|promised| PromiseError::Lower { asked: grant, promised })?;
    // A disk that takes nothing more leaves the head as the tail: nothing beyond it was acknowledged.
    if let Err(error) = appender.settle().await {
        tracing::warn!(%error, "what was in flight is not kept");
    }
    promise.record(promised)?;
    context.set_promised(promised);
    let log = &context.log;
    let head = log.head();
    let tail = Tail::of(head.as_deref(), |number| log.file_name(number));
    tracing::info!(%grant, tail = %tail.gtid, "promised");
    Ok(PromiseAnswer { promised: grant, log_id: log.log_id(), complete: log.status().damaged.is_none(), tail })
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
        let preferred = addresses.first().unwrap_or(address);
        let followed = || context.status.borrow().server_id;
        let ended = tokio::select! {
            biased;
            ended = stream::run(context, appender, address, &mut first_event) => Some(ended),
            () = prefer::answers(&mut supervision, &context.login, preferred, followed) => None,
        };
        let error = match ended {
            Some(Ok(never)) => match never {},
            Some(Err(error)) => error,
            None => {
                // What came, and was not acknowledged yet, is: to the server the place at which the next stream begins counts as one.
                tracing::info!(%address, %preferred, "the preferred path answers again; going back to it");
                context.metrics.upstream_reconnects.inc();
                supervision.prefer();
                continue;
            }
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
