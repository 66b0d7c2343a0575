//! Puts the parts together and runs them until told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use baton_cluster::RelayRecord;
use baton_cluster::store::{EtcdConfig, Snapshot, Store};
use baton_wire::auth::StoredPassword;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminOptions, BoxFuture, Changes, EtcdHealth, View};
use crate::config::{Ack, Address, Config, ConfigError, Problem};
use crate::failpoint;
use crate::fanout::{self, Registry};
use crate::lag::{self, LagReport, LagTracker};
use crate::log::{self, DiskStorage, FileInfo, Grant, Head, Log, LogObserver, LogStatus, PromiseFile, Promised};
use crate::metrics::Metrics;
use crate::tls;
use crate::upstream::{self, Announced, Control, PromiseAnswer, PromiseError, UpstreamStatus};

/// Between two syncs of the log where what was received is acknowledged: what is durable, which is what replicas are sent, comes that much later.
const RECEIVED_PAUSE: Duration = Duration::from_millis(5);
/// How long the parts may take to end once told to.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Checks what [`Config::load`] can't see in the text alone: that the files it names can be used.
///
/// # Errors
/// The key, the file, and what is wrong with it.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    load_tls(config).map(drop)
}

/// Asks the primary for the settings that break what acknowledgements promise: one warning each, or one that says why it can't be asked. In a
/// cluster, whose primary is not the configuration's affair, etcd is asked instead.
pub async fn check_primary(config: &Config) -> Vec<String> {
    if let Some(etcd) = &config.etcd {
        return match Store::new(&config.cluster, etcd) {
            Ok(store) => store.ping().await.err().map(|e| e.to_string()).into_iter().collect(),
            Err(e) => vec![e.to_string()],
        };
    }
    let tls = match tls::client_config(config.upstream.tls, config.upstream.ca_file.as_deref()) {
        Ok(tls) => tls,
        Err(e) => return vec![e.to_string()],
    };
    upstream::check(&config.upstream, tls)
        .await
        .unwrap_or_else(|e| vec![format!("the primary's settings are not checked: {e}")])
}

/// What is shown to clients, and how the primary is connected to.
type BothTls = (Option<Arc<ServerConfig>>, Option<Arc<ClientConfig>>);

fn load_tls(config: &Config) -> Result<BothTls, ConfigError> {
    tls::install_provider();
    let unusable = |key: &str, error: tls::TlsError| {
        let problem = Problem { key: key.into(), value: None, message: error.to_string(), variable: None };
        ConfigError { problems: vec![problem] }
    };
    let server = match (&config.listen.tls_cert_file, &config.listen.tls_key_file) {
        (Some(cert), Some(key)) => Some(tls::server_config(cert, key).map_err(|e| {
            let of_key = match &e {
                tls::TlsError::Read { path, .. } | tls::TlsError::Content { path, .. } => path == key && path != cert,
                _ => false,
            };
            unusable(if of_key { "listen.tls_key_file" } else { "listen.tls_cert_file" }, e)
        })?),
        _ => None,
    };
    let client = tls::client_config(config.upstream.tls, config.upstream.ca_file.as_deref())
        .map_err(|e| unusable("upstream.ca_file", e))?;
    Ok((server, client))
}

/// Runs a relay until cancelled.
///
/// # Errors
/// What keeps it from starting: the data directory, the log, a port, a certificate.
pub async fn run(config: Config, cancel: CancellationToken) -> anyhow::Result<()> {
    let (server_tls, client_tls) = load_tls(&config)?;
    let metrics = Metrics::new();

    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("data_dir = {}: can't be made", dir.display()))?;
    let storage = failpoint::storage(DiskStorage::open(dir)?);
    let log_config = log::LogConfig {
        cluster: config.cluster.clone(),
        retain: config.log.retain,
        retain_bytes: config.log.retain_bytes,
        retain_hard_bytes: config.log.retain_hard_bytes,
        // Commits wait for nothing on the disk then: syncing for each would only slow down a primary that has its own log there.
        sync_pause: if config.upstream.ack == Ack::Received { RECEIVED_PAUSE } else { Duration::ZERO },
        ..log::LogConfig::default()
    };
    let promise = PromiseFile::open(&*storage)?;
    let (log, appender) = Log::open(storage, log_config)?;
    log.observe(Arc::new(LogFigures(Arc::clone(&metrics))));

    let replication = listen("listen.replication", &config.listen.replication.to_string()).await?;
    let http = listen("listen.http", &config.listen.http.to_string()).await?;
    let port = replication.local_addr()?.port();
    let registry = Registry::new();
    let (upstream_status, upstream) = watch::channel(UpstreamStatus::default());
    let tracker = LagTracker::start(
        lag::LagSources {
            history: Arc::new(LogHistory(Arc::clone(&log))),
            registry: Arc::clone(&registry),
            upstream: upstream.clone(),
            metrics: Arc::clone(&metrics),
        },
        lag::LagConfig {
            user: config.lag.user.clone(),
            password: Some(config.lag.password.clone()),
            poll_min: config.lag.poll.min,
            poll_max: config.lag.poll.max,
            min_sessions: config.lag.min_sessions as usize,
            max_sessions: config.lag.max_sessions as usize,
        },
        &config.cluster,
        &config.name,
        cancel.clone(),
    );
    let shared = fanout::Shared::new(
        fanout::Options {
            server_id: config.server_id,
            name: config.name.clone(),
            port,
            accounts: config
                .users
                .iter()
                .map(|u| (u.name.clone(), StoredPassword::new(u.password.expose_secret().as_bytes())))
                .collect(),
            tls: server_tls.clone(),
            tls_policy: config.listen.tls,
            max_connections: config.listen.max_connections as usize,
            login_timeout: config.listen.login_timeout,
            max_packet: usize::try_from(config.listen.max_packet).unwrap_or(usize::MAX),
            upstream_user: config.upstream.user.clone(),
        },
        Arc::clone(&log),
        Arc::clone(&registry),
        Arc::clone(&metrics),
        upstream.clone(),
    );
    let cluster = match &config.etcd {
        Some(etcd) => Some(join(&config, etcd, &log, promise.current(), &cancel)?),
        None => None,
    };
    let (control, orders) = Control::new(cluster.as_ref().map(|c| c.store.clone()));
    let view = Arc::new(RelayView {
        cluster: cluster.as_ref().map(|c| c.snapshots.clone()),
        log: Arc::clone(&log),
        upstream,
        registry,
        tracker,
        control,
        metrics: Arc::clone(&metrics),
    });
    let admin_options = AdminOptions {
        token: config.listen.token.clone(),
        protect_reads: config.listen.protect_reads,
        tls: server_tls.filter(|_| config.listen.http_tls),
        ..AdminOptions::new(&config.cluster, &config.name, replication.local_addr()?.to_string())
    };
    tracing::info!(
        cluster = %config.cluster, relay = %config.name, version = env!("CARGO_PKG_VERSION"),
        replication = %replication.local_addr()?, http = %http.local_addr()?, data_dir = %dir.display(),
        head = %log.head().map_or_else(|| "none".into(), |h| format!("{} '{}'", h.pos, h.gtid)),
        "relay started"
    );

    let (source, announced) = match cluster {
        Some(Cluster { snapshots, announced, .. }) => (upstream::Source::Cluster(snapshots), Some(announced)),
        None => (upstream::Source::Fixed(config.upstream.addresses), None),
    };
    let upstream_options = upstream::Options {
        source,
        user: config.upstream.user,
        password: config.upstream.password,
        tls_mode: config.upstream.tls,
        tls: client_tls,
        start: config.upstream.start,
        heartbeat: config.upstream.heartbeat,
        connect_timeout: config.upstream.connect_timeout,
        ack: config.upstream.ack,
        server_id: config.server_id,
        name: config.name,
        port,
        token: config.listen.token,
    };
    let parts = upstream::Parts { log, appender, promise, orders, status: upstream_status, metrics, announced };
    let fed = tokio::spawn(upstream::run(upstream_options, parts, cancel.clone()));
    let served = tokio::spawn(fanout::serve(replication, shared, cancel.clone()));
    let admin = tokio::spawn(admin::serve(http, view, admin_options, cancel.clone()));

    // A part that ends unasked takes the others with it: a supervisor restarts the whole.
    let mut fed = fed;
    let mut served = served;
    let mut admin = admin;
    tokio::select! {
        // First: parts that ended because they were told to did not end by themselves.
        biased;
        () = cancel.cancelled() => {}
        ended = &mut fed => tracing::error!(?ended, "the upstream side ended by itself"),
        ended = &mut served => tracing::error!(?ended, "the replication port ended by itself"),
        ended = &mut admin => tracing::error!(?ended, "the HTTP port ended by itself"),
    }
    let asked = cancel.is_cancelled();
    cancel.cancel();
    let all = async {
        for part in [fed, served] {
            if !part.is_finished() {
                let _ = part.await;
            }
        }
        if !admin.is_finished() {
            let _ = admin.await;
        }
    };
    if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
        tracing::warn!(limit = ?STOP_LIMIT, "some connections did not end in time");
    }
    anyhow::ensure!(asked, "a part of the relay ended by itself; see the log lines before");
    tracing::info!("relay stopped");
    Ok(())
}

/// The relay's part in a cluster.
struct Cluster {
    store: Store,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    announced: Announced,
}

/// Announces the relay in etcd, and begins to watch what is there. That etcd does not answer is no error: it is waited for.
fn join(
    config: &Config,
    etcd: &EtcdConfig,
    log: &Log,
    promised: Promised,
    cancel: &CancellationToken,
) -> anyhow::Result<Cluster> {
    let store = Store::new(&config.cluster, etcd)?;
    let address = |address: &Option<Address>| address.as_ref().map(ToString::to_string).unwrap_or_default();
    let record = RelayRecord {
        name: config.name.clone(),
        replication: address(&config.advertise.replication),
        http: address(&config.advertise.http),
        host: config.advertise.host.clone(),
        site: config.advertise.site.clone(),
        server_id: config.server_id,
        user: config.upstream.user.clone(),
        log_id: log.log_id(),
        promised: promised.grant,
        held: promised.held,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let announcement = store.announce(store.keys().relay(&config.name), &record, cancel)?;
    let snapshots = store.watch(cancel.clone());
    Ok(Cluster { store, snapshots, announced: Announced::new(announcement, record) })
}

async fn listen(key: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{key} = {address}: can't listen there; is the port taken by another process?"))
}

/// What the log tells of its writing, as figures.
struct LogFigures(Arc<Metrics>);

impl LogObserver for LogFigures {
    fn synced(&self, bytes: u64, took: Duration) {
        self.0.observe_sync(bytes, took);
    }

    fn failed(&self) {
        self.0.log_write_errors.inc();
    }

    fn readers_cut(&self, readers: u64) {
        self.0.fanout_retention_cuts.inc_by(readers);
    }
}

/// The log as the lag side sees it.
struct LogHistory(Arc<Log>);

impl lag::History for LogHistory {
    fn head(&self) -> Option<Arc<Head>> {
        self.0.head()
    }

    fn subscribe(&self) -> watch::Receiver<Option<Arc<Head>>> {
        self.0.subscribe()
    }

    fn place_of_gtid(&self, applied: &baton_wire::gtid::GtidPosition) -> std::io::Result<log::Place> {
        self.0.place_of_gtid(applied).map_err(std::io::Error::other)
    }

    fn place_of(&self, pos: log::LogPos) -> std::io::Result<log::Place> {
        self.0.place_near(pos).map_err(std::io::Error::other)
    }

    fn file_name(&self, number: u64) -> Option<String> {
        self.0.file_name(number)
    }
}

/// The running relay as the HTTP side sees it.
struct RelayView {
    cluster: Option<watch::Receiver<Arc<Snapshot>>>,
    log: Arc<Log>,
    upstream: watch::Receiver<UpstreamStatus>,
    registry: Arc<Registry>,
    tracker: Arc<LagTracker>,
    control: Control,
    metrics: Arc<Metrics>,
}

impl View for RelayView {
    fn head(&self) -> Option<Head> {
        self.log.head().map(|h| (*h).clone())
    }

    fn subscribe_head(&self) -> Box<dyn Changes> {
        Box::new(self.log.subscribe())
    }

    fn etcd(&self) -> Option<EtcdHealth> {
        let snapshot = self.cluster.as_ref()?.borrow();
        let known = snapshot.revision > 0;
        let age = snapshot.heard.elapsed().as_millis();
        Some(EtcdHealth { healthy: snapshot.healthy, age_ms: known.then(|| u64::try_from(age).unwrap_or(u64::MAX)) })
    }

    fn upstream(&self) -> watch::Receiver<UpstreamStatus> {
        self.upstream.clone()
    }

    fn log_status(&self) -> LogStatus {
        self.log.status()
    }

    fn files(&self) -> Vec<FileInfo> {
        self.log.files()
    }

    fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    fn lag_report(&self) -> BoxFuture<'_, LagReport> {
        Box::pin(self.tracker.report())
    }

    fn listening(&self) -> bool {
        // The port is opened before this is built, and closed only when the relay stops.
        true
    }

    fn promise(&self, term: u64, grant: Grant) -> BoxFuture<'_, Result<PromiseAnswer, PromiseError>> {
        Box::pin(self.control.promise(term, grant))
    }

    fn rescue(&self, term: u64, grant: Grant, agent: Address) -> BoxFuture<'_, Result<PromiseAnswer, PromiseError>> {
        Box::pin(self.control.rescue(term, grant, agent))
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }
}
