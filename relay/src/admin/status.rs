//! The answer of `GET /v1/status`, field for field, and the parts of it that the event stream shares.

use serde::Serialize;

use super::routes::App;
use super::view::{EtcdHealth, View};
use crate::clock::Micros;
use crate::fanout::Replica;
use crate::lag::HeadReport;
use crate::log::{Grant, LogPos};
use crate::upstream::UpstreamStatus;

/// Everything about this relay.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    cluster: String,
    relay: String,
    version: &'static str,
    started: String,
    uptime_ms: u64,
    listen: Listen,
    log: Log,
    upstream: Upstream,
    /// Null where the relay stands alone.
    membership: Option<Membership>,
    replicas: Vec<Attached>,
}

/// The relay's part in a cluster.
#[derive(Debug, Serialize)]
struct Membership {
    follows: &'static str,
    of: Option<String>,
    grant: Grant,
    held: bool,
    epoch: Option<u64>,
    etcd: Etcd,
}

#[derive(Debug, Serialize)]
struct Etcd {
    healthy: bool,
    age_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Listen {
    replication: String,
    http: String,
    listening: bool,
}

#[derive(Debug, Serialize)]
struct Log {
    id: String,
    writable: bool,
    damaged: Option<String>,
    error: Option<String>,
    bytes: u64,
    recovered_bytes_dropped: u64,
    transactions: u64,
    head: Option<HeadReport>,
    files: Vec<File>,
}

#[derive(Debug, Serialize)]
struct File {
    name: String,
    size: u64,
    start_gtid: String,
    server_version: String,
    closed: bool,
}

/// The stream from the primary.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Upstream {
    state: &'static str,
    since: String,
    address: Option<String>,
    server_id: Option<u32>,
    server_version: Option<String>,
    error: Option<String>,
    hint: Option<String>,
    connects: u64,
    lag_ms: u64,
    heard_ms: Option<u64>,
    primary_gtid: Option<String>,
    acking: bool,
    promised: Grant,
    holds_grant: bool,
    semi_sync: Option<SemiSync>,
    warnings: Vec<String>,
}

/// Semi-sync as the primary tells it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct SemiSync {
    enabled: bool,
    clients: u64,
    waiting_commits: u64,
}

/// One attached replica or reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Attached {
    connection: u32,
    server_id: u32,
    name: String,
    state: &'static str,
    state_since: String,
    peer: String,
    user: String,
    sent: Option<Position>,
    sent_bytes: u64,
    semi_sync: bool,
    received: Option<Position>,
    since: String,
    error: Option<String>,
    replaces: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Position {
    file: String,
    position: u64,
}

impl Status {
    pub(super) fn new(app: &App) -> Self {
        let view = app.view.as_ref();
        let (log, now) = (view.log_status(), Micros::now());
        let files = view.files().into_iter().map(|f| File {
            name: f.name,
            size: f.size,
            start_gtid: f.start.to_string(),
            server_version: f.server_version,
            closed: f.closed,
        });
        let upstream = view.upstream().borrow().clone();
        Self {
            cluster: app.options.cluster.clone(),
            relay: app.options.relay.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started: app.options.started.rfc3339(),
            uptime_ms: now.millis_since(app.options.started),
            listen: Listen {
                replication: app.options.replication_address.clone(),
                http: app.http_address.clone(),
                listening: view.listening(),
            },
            log: Log {
                id: log.log_id,
                writable: log.writable,
                damaged: log.damaged,
                error: log.error,
                bytes: log.bytes,
                recovered_bytes_dropped: log.recovered_bytes_dropped,
                transactions: view.head().map_or(0, |h| h.transactions),
                head: head(view),
                files: files.collect(),
            },
            membership: view.etcd().map(|etcd| Membership::new(&upstream, etcd)),
            upstream: Upstream::new(upstream, now),
            replicas: attached(view),
        }
    }
}

impl Membership {
    fn new(upstream: &UpstreamStatus, etcd: EtcdHealth) -> Self {
        let followed = upstream.followed.as_ref();
        Self {
            follows: followed.map_or("none", |f| f.kind),
            of: followed.and_then(|f| f.of.clone()),
            grant: upstream.promised.grant,
            held: upstream.promised.held,
            epoch: followed.and_then(|f| f.epoch),
            etcd: Etcd { healthy: etcd.healthy, age_ms: etcd.age_ms },
        }
    }
}

impl Upstream {
    pub(super) fn new(status: UpstreamStatus, now: Micros) -> Self {
        Self {
            state: status.state.name(),
            since: status.since.rfc3339(),
            lag_ms: status.lag_ms(now),
            heard_ms: status.heard.map(|at| at.elapsed().as_millis() as u64),
            address: status.address,
            server_id: status.server_id,
            server_version: status.server_version,
            acking: status.acking,
            promised: status.promised.grant,
            holds_grant: status.promised.held,
            semi_sync: status.semi_sync.map(|s| SemiSync {
                enabled: s.enabled,
                clients: s.clients,
                waiting_commits: s.waiting,
            }),
            warnings: status.warnings,
            error: status.error,
            hint: status.hint,
            connects: status.connects,
            primary_gtid: status.primary_gtid,
        }
    }
}

/// The last complete transaction; `None` while the log is empty.
pub(super) fn head(view: &dyn View) -> Option<HeadReport> {
    let head = view.head()?;
    Some(HeadReport {
        gtid: head.gtid.to_string(),
        file: view.file_name(head.pos.file),
        position: head.pos.offset,
        arrived: (head.arrived != Micros::default()).then(|| head.arrived.rfc3339()),
    })
}

/// Everyone who is attached, and those that left.
pub(super) fn attached(view: &dyn View) -> Vec<Attached> {
    // Names have to be asked of the log once only: all files share one base.
    let base = view.file_name(0);
    let base = base.rsplit_once('.').map(|(b, _)| format!("{b}.")).unwrap_or_default();
    view.registry().named().into_iter().map(|(name, replica)| one(name, &replica, &base)).collect()
}

fn one(name: String, replica: &Replica, base: &str) -> Attached {
    let place = |pos: LogPos| Position { file: format!("{base}{:06}", pos.file), position: pos.offset };
    Attached {
        connection: replica.identity.connection,
        server_id: replica.identity.server_id,
        name,
        state: replica.state().name(),
        state_since: replica.state_since().rfc3339(),
        peer: replica.identity.peer.to_string(),
        user: replica.identity.user.clone(),
        sent: replica.sent().map(place),
        sent_bytes: replica.sent_bytes(),
        semi_sync: replica.semi_sync(),
        received: replica.received().map(place),
        since: replica.since.rfc3339(),
        error: replica.error(),
        replaces: replica.replaces().map(str::to_owned),
    }
}

impl Attached {
    /// The relay's number of its connection.
    pub(super) fn connection(&self) -> u32 {
        self.connection
    }
}
