//! The connection to the primary.
//!
//! Owns: which path is used, when it is tried again, and the stream itself. Promises: what reaches the log continues it without a gap
//! and was verified; contradicting histories are never merged but told, with what resolves them.

mod ack;
mod ahead;
mod backoff;
mod behind;
mod client;
mod cluster;
mod context;
mod control;
mod conversation;
mod cutter;
mod doubt;
mod error;
mod fetch;
mod follow;
mod ingest;
mod naming;
mod origin;
mod plan;
mod prefer;
mod rescue;
mod settings;
mod status;
mod stream;
mod supervise;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::store::Snapshot;
use secrecy::SecretString;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, sleep};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

pub use cluster::Announced;
pub use control::{Control, Order, PromiseAnswer, PromiseError, Tail};
pub use error::StreamError;
pub use status::{Followed, SemiSync, UpstreamState, UpstreamStatus};

use self::ahead::Ahead;
use self::client::Login;
use self::cluster::Cluster;
use self::context::Context;
use self::plan::Aim;
use self::stream::{Path, Target};
use self::supervise::{Ended, Supervision};
use crate::config::{Ack, Address, Start, UpstreamConfig};
use crate::log::{Appender, Grant, Log, PromiseFile, Promised, may_promise};
use crate::metrics::Metrics;
use crate::tls::TlsMode;

/// Time until a grant that could not be recorded is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Who says what to follow.
pub enum Source {
    /// The configuration: paths to the one primary, the preferred one first.
    Fixed(Vec<Address>),
    /// The cluster's state in etcd.
    Cluster(channel::Receiver<Arc<Snapshot>>),
}

/// What the upstream side is told.
pub struct Options {
    /// What the log is fed from.
    pub source: Source,
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
    /// Bearer token of the cluster, for agents that are asked for binlog files.
    pub token: Option<SecretString>,
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
    /// What the relay announces in etcd; `None` where it stands alone.
    pub announced: Option<Announced>,
}

/// Keeps the log fed until cancelled; then everything whole is made durable and the log is closed.
pub async fn run(options: Options, parts: Parts, cancel: CancellationToken) {
    let Parts { log, mut appender, mut promise, mut orders, status, metrics, announced } = parts;
    let mut source = match options.source {
        Source::Fixed(addresses) => Feed::Fixed(addresses),
        Source::Cluster(snapshots) => Feed::Cluster(Cluster::new(&options.name, snapshots)),
    };
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
        cluster: source.snapshots(),
        ahead: Ahead::default(),
        announced,
    };
    context.set_promised(promise.current());
    loop {
        let Next { target, retry } = source.next(&context, &mut promise);
        let follows = !target.paths.is_empty();
        let promised = promise.current();
        let order = tokio::select! {
            () = cancel.cancelled() => break,
            order = orders.recv() => order,
            // Dropped by an order, and by what etcd says: with it ends the connection, and so the acknowledging.
            () = source.changed(&context, promised) => continue,
            () = sleep(RETRY), if retry => continue,
            () = supervise(&context, &mut appender, &target), if follows => break,
            () = watch::run(&context, &target), if !target.paths.is_empty() => break,
            () = context.ahead.keep(&context.login, context.cluster.clone(), &context.name) => break,
        };
        match order {
            Some(Order::Promise(grant, answer)) => {
                let result = keep_promise(&context, &mut appender, &mut promise, grant).await;
                // Who asked may have gone: the promise holds all the same.
                let _ = answer.send(result);
            }
            Some(Order::Rescue { grant, agent, answer }) => {
                let promised = keep_promise(&context, &mut appender, &mut promise, grant).await;
                let result = match promised {
                    Ok(_) => tokio::select! {
                        () = cancel.cancelled() => break,
                        rescued = rescue::run(&context, &mut appender, &agent, options.token.as_ref(), grant) => {
                            // What was whole of it is kept, however it ended.
                            let settled = appender.settle().await.map_err(|e| PromiseError::Rescue(e.to_string()));
                            rescued.map_err(PromiseError::Rescue).and(settled).map(|_| answer_of(&context, grant))
                        }
                    },
                    Err(error) => Err(error),
                };
                if let Err(error) = &result {
                    tracing::warn!(%error, agent = %agent, "the end of the old primary's binlog is not here");
                }
                let _ = answer.send(result);
            }
            None => break,
        }
    }
    appender.close().await;
}

/// What the log is fed from.
enum Feed {
    Fixed(Vec<Address>),
    Cluster(Cluster),
}

/// What to do until something changes.
struct Next {
    target: Target,
    /// What was decided could not be recorded: it is tried again.
    retry: bool,
}

impl Feed {
    fn snapshots(&self) -> Option<channel::Receiver<Arc<Snapshot>>> {
        match self {
            Self::Fixed(_) => None,
            Self::Cluster(cluster) => Some(cluster.snapshots()),
        }
    }

    fn next(&mut self, context: &Context, promise: &mut PromiseFile) -> Next {
        match self {
            Self::Fixed(addresses) => {
                let Promised { grant, held } = promise.current();
                if !held {
                    context.set_idle(
                        UpstreamState::Stopped,
                        &format!("grant {grant} was promised: nothing more is taken from the primary before it"),
                        "where no controller gives a new grant: `baton-relay take-grant` once it is certain which server is the primary",
                    );
                }
                let path = |address: &Address| Path { address: address.clone(), aim: Aim::Fixed };
                let paths = addresses.iter().filter(|_| held).map(path).collect();
                let acks = held && context.ack != Ack::Off;
                Next { target: Target { paths, acks, after: None }, retry: false }
            }
            Self::Cluster(cluster) => {
                let recorded = cluster.decide(context, promise);
                if let Err(error) = &recorded {
                    tracing::error!(%error, hint = error.hint(), "a grant can't be recorded");
                }
                Next { target: cluster.target(), retry: recorded.is_err() }
            }
        }
    }

    async fn changed(&self, context: &Context, promised: Promised) {
        match self {
            Self::Fixed(_) => std::future::pending().await,
            Self::Cluster(cluster) => cluster.changed(context, promised).await,
        }
    }
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
    let answer = answer_of(context, grant);
    tracing::info!(%grant, tail = %answer.tail.gtid, "promised");
    Ok(answer)
}

/// What is told of the log behind a promise.
fn answer_of(context: &Context, grant: Grant) -> PromiseAnswer {
    let log = &context.log;
    let head = log.head();
    let tail = Tail::of(head.as_deref(), |number| log.file_name(number));
    PromiseAnswer { promised: grant, log_id: log.log_id(), complete: log.status().damaged.is_none(), tail }
}

/// Streams, over the next path when one fails, with back-off when all have failed.
async fn supervise(context: &Context, appender: &mut Appender, target: &Target) {
    let mut supervision = Supervision::new(target.paths.len());
    // What was told last of each path: the same over again is not worth a line.
    let mut told: Vec<Option<String>> = vec![None; target.paths.len()];
    loop {
        let path = supervision.path();
        let Some(chosen) = target.paths.get(path) else { return };
        let address = &chosen.address;
        let before = context.log.head().map(|h| h.pos);
        let mut first_event = None;
        let preferred = target.paths.first().map_or(address, |path| &path.address);
        let followed = || context.status.borrow().server_id;
        let ended = tokio::select! {
            biased;
            ended = stream::run(context, appender, target, chosen, &mut first_event) => Some(ended),
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
