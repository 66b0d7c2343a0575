//! The replication port: accepts connections within their limit, and knows all sessions.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_wire::auth::{ServerKey, StoredPassword};
use baton_wire::event::Flavor;
use baton_wire::packet::write_packet;
use baton_wire::response::ErrPacket;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frames::Frames;
use super::registry::{Registry, Replica};
use super::session;
use super::sql::{Facts, ReplicaRow, UpstreamRow};
use crate::clock::Micros;
use crate::config::ListenTls;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::net::Stream;
use crate::upstream::{UpstreamState, UpstreamStatus};

/// What a log that holds nothing yet is greeted as: MariaDB's oldest supported version.
const DEFAULT_VERSION: &str = "10.6.0-MariaDB-baton";

/// How the replication port behaves.
pub struct Options {
    /// The relay's `server_id`.
    pub server_id: u32,
    /// The relay's name, told as `@@hostname`.
    pub name: String,
    /// Port it listens on, told as `@@port`.
    pub port: u16,
    /// Accounts by name.
    pub accounts: HashMap<String, StoredPassword>,
    /// Set if TLS is offered.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether TLS is offered, or asked for.
    pub tls_policy: ListenTls,
    /// Connections at the same time.
    pub max_connections: usize,
    /// From connecting to being logged in.
    pub login_timeout: Duration,
    /// Largest command, in bytes.
    pub max_packet: usize,
    /// The account used upstream, for `SHOW SLAVE STATUS`.
    pub upstream_user: String,
}

/// What all sessions share.
pub struct Shared {
    pub(super) options: Options,
    pub(super) log: Arc<Log>,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) frames: Arc<Frames>,
    pub(super) upstream: watch::Receiver<UpstreamStatus>,
    key: OnceCell<Arc<ServerKey>>,
    sessions: Mutex<BTreeMap<u32, CancellationToken>>,
    next_connection: AtomicU32,
}

impl Shared {
    /// Puts the parts together.
    pub fn new(
        options: Options,
        log: Arc<Log>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        upstream: watch::Receiver<UpstreamStatus>,
    ) -> Arc<Self> {
        Arc::new(Self {
            options,
            log,
            registry,
            metrics,
            frames: Arc::default(),
            upstream,
            key: OnceCell::new(),
            sessions: Mutex::default(),
            next_connection: AtomicU32::new(1),
        })
    }

    /// The version that replicas are greeted with: the one that wrote the log, with the prefix that MariaDB's replicas expect.
    pub(super) fn greeting_version(&self) -> String {
        let version = self.version();
        if Flavor::of_version(&version) == Flavor::MariaDb { format!("5.5.5-{version}") } else { version }
    }

    fn version(&self) -> String {
        self.log
            .files()
            .last()
            .map(|f| f.server_version.clone())
            .filter(|v| !v.is_empty())
            .unwrap_or_else(|| DEFAULT_VERSION.to_owned())
    }

    /// The RSA key for logins without TLS, made when first needed: it takes a while.
    pub(super) async fn key(&self) -> io::Result<Arc<ServerKey>> {
        let make = || async {
            let made = tokio::task::spawn_blocking(ServerKey::generate).await.map_err(io::Error::other)?;
            made.map(Arc::new).map_err(io::Error::other)
        };
        self.key.get_or_try_init(make).await.cloned()
    }

    /// Ends a session; false if there is none of that number.
    pub(super) fn kill(&self, connection: u32) -> bool {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&connection).inspect(|cancel| cancel.cancel()).is_some()
    }

    /// What a session may be asked.
    pub(super) fn facts(&self, connection: u32, user: &str, peer: SocketAddr) -> Facts {
        let now = Micros::now();
        let files = self.log.files();
        let version = self.version();
        let upstream = self.upstream.borrow();
        let (host, port) = upstream.address.as_deref().and_then(|a| a.rsplit_once(':')).unwrap_or_default();
        Facts {
            server_id: self.options.server_id,
            server_uuid: self.log.log_id(),
            hostname: self.options.name.clone(),
            port: self.options.port,
            mysql: Flavor::of_version(&version) == Flavor::MySql,
            version,
            checksum: files.last().map(|f| f.checksum).unwrap_or_default(),
            max_packet: self.options.max_packet as u64,
            gtid_position: self.log.head().map(|h| h.gtid.to_string()).unwrap_or_default(),
            unix_time: now.0 / 1_000_000,
            connection,
            user: user.to_owned(),
            peer: peer.to_string(),
            files,
            replicas: self
                .registry
                .named()
                .iter()
                .filter(|(_, r)| !r.has_ended())
                .map(|(_, r)| replica_row(r, now))
                .collect(),
            upstream: UpstreamRow {
                host: host.to_owned(),
                port: port.to_owned(),
                user: self.options.upstream_user.clone(),
                server_id: upstream.server_id.unwrap_or(0),
                streaming: upstream.state == UpstreamState::Streaming,
                connecting: upstream.state == UpstreamState::Connecting,
                lag_seconds: upstream.lag_ms(now) / 1000,
                error: upstream.error.clone().unwrap_or_default(),
                settings: upstream.settings.clone(),
            },
        }
    }
}

fn replica_row(replica: &Replica, now: Micros) -> ReplicaRow {
    let identity = &replica.identity;
    ReplicaRow {
        connection: identity.connection,
        server_id: identity.server_id,
        host: identity.report_host.clone(),
        port: identity.report_port,
        user: identity.user.clone(),
        peer: identity.peer.to_string(),
        uuid: identity.uuid.clone().unwrap_or_default(),
        seconds: now.millis_since(replica.since) / 1000,
        state: replica.state().name(),
        semi_sync: replica.semi_sync(),
    }
}

/// Accepts connections until cancelled, then ends all sessions and waits for them.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(shared.options.max_connections));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(pair) => pair,
            Err(error) => {
                // Out of file descriptors, most likely: others end and free some.
                tracing::warn!(%error, "can't accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.metrics.fanout_refused_connections.inc();
            tasks.spawn(turn_away(tcp));
            continue;
        };
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection ended at once");
            continue;
        }
        let connection = shared.next_connection.fetch_add(1, Ordering::Relaxed);
        let session_cancel = cancel.child_token();
        shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(connection, session_cancel.clone());
        shared.metrics.fanout_connections.inc();
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            session::serve(Arc::clone(&shared), Stream::Plain(tcp), peer, connection, session_cancel).await;
            shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection);
            shared.metrics.fanout_connections.dec();
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Error 1040, in place of a greeting.
async fn turn_away(mut tcp: TcpStream) {
    let mut out = Vec::new();
    write_packet(&mut out, &mut 0, &ErrPacket::too_many_connections().encode_in_place_of_greeting());
    let _ = tokio::time::timeout(Duration::from_secs(1), tcp.write_all(&out)).await;
}
