//! Keeps a poller for each registered replica, and makes the report.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Micros;
use crate::fanout::{Registry, Replica};
use crate::lag::arithmetic::{self, View};
use crate::lag::config::LagConfig;
use crate::lag::entry::Entry;
use crate::lag::history::History;
use crate::lag::poller::Poller;
use crate::lag::pool::Pool;
use crate::lag::report::{HeadReport, LagReport, ReplicaReport, UpstreamReport};
use crate::lag::sample::Sampler;
use crate::lag::schedule::overdue_after;
use crate::lag::server::{Server, ServerKey, address};
use crate::lag::sql::SqlSampler;
use crate::log::Head;
use crate::metrics::Metrics;
use crate::upstream::UpstreamStatus;

/// A report is shared by all who ask within this time.
const SHARED: Duration = Duration::from_millis(10);

/// What the figures are made of.
pub struct LagSources {
    /// The log.
    pub history: Arc<dyn History>,
    /// Who is attached.
    pub registry: Arc<Registry>,
    /// The stream from the primary.
    pub upstream: watch::Receiver<UpstreamStatus>,
    /// Counts questions and sessions.
    pub metrics: Arc<Metrics>,
}

/// Knows how far every replica lags.
pub struct LagTracker {
    history: Arc<dyn History>,
    registry: Arc<Registry>,
    upstream: watch::Receiver<UpstreamStatus>,
    metrics: Arc<Metrics>,
    cluster: String,
    relay: String,
    asks: bool,
    /// How soon after something new a replica's next sample is due.
    due: Duration,
    servers: Mutex<HashMap<ServerKey, Arc<Server>>>,
    last: Mutex<Option<(Micros, Arc<LagReport>)>>,
}

impl LagTracker {
    /// Starts asking, by SQL, every replica that registers, until `cancel`. Without `config.user` nobody is asked: only what was sent is
    /// known then. Must be called within a tokio runtime.
    pub fn start(
        sources: LagSources,
        config: LagConfig,
        cluster: impl Into<String>,
        relay: impl Into<String>,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let sampler = config.user.clone().map(|user| SqlSampler::new(user, config.password.clone()));
        Self::start_with(sources, &config, (cluster.into(), relay.into()), sampler, cancel)
    }

    /// As [`start`](Self::start), with another way of asking.
    pub(super) fn start_with<S: Sampler>(
        sources: LagSources,
        config: &LagConfig,
        (cluster, relay): (String, String),
        sampler: Option<S>,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let LagSources { history, registry, upstream, metrics } = sources;
        let tracker = Arc::new(Self {
            history,
            registry,
            upstream,
            metrics,
            cluster,
            relay,
            asks: sampler.is_some(),
            due: overdue_after(config.poll_min),
            servers: Mutex::default(),
            last: Mutex::default(),
        });
        let supervisor = Supervisor {
            tracker: Arc::clone(&tracker),
            sampler: sampler.map(Arc::new),
            pool: Pool::new(config.min_sessions, config.max_sessions),
            config: config.clone(),
            cancel,
            pollers: HashMap::new(),
            tasks: JoinSet::new(),
        };
        tokio::spawn(supervisor.run());
        tracker
    }

    /// The answer of `GET /v1/lag`. Milliseconds are counted to the moment of the call; what is known is at most [`SHARED`] old. Reads the
    /// disk (where blocking is allowed) only for replicas that are far behind.
    pub async fn report(&self) -> LagReport {
        let known = lock(&self.last).clone();
        let now = Micros::now();
        if let Some((made, report)) = known {
            let age = now.millis_since(made);
            if u128::from(age) < SHARED.as_millis() {
                return report.later_by(age);
            }
        }
        let (made, report) = self.make_report().await;
        *lock(&self.last) = Some((made, Arc::new(report.clone())));
        report
    }

    /// The answer of `GET /v1/lag/{replica}`; `None` if nobody has that name.
    #[cfg(test)]
    pub(super) async fn report_one(&self, name: &str) -> Option<ReplicaReport> {
        self.make_report().await.1.replicas.into_iter().rfind(|r| r.name == name)
    }

    /// With the moment to which its milliseconds are counted.
    pub(super) async fn make_report(&self) -> (Micros, LagReport) {
        // The head first: what was sent since misses nothing of it.
        let head = self.history.head();
        let (now, replicas) = self.replicas(head.as_ref()).await;
        let upstream = self.upstream.borrow();
        let report = LagReport {
            cluster: self.cluster.clone(),
            relay: self.relay.clone(),
            head: head.map(|h| self.head_report(&h)),
            upstream: UpstreamReport {
                state: upstream.state.name(),
                address: upstream.address.clone(),
                server_id: upstream.server_id,
                lag_ms: upstream.lag_ms(now),
            },
            replicas,
        };
        (now, report)
    }

    fn head_report(&self, head: &Head) -> HeadReport {
        let number = head.pos.file;
        HeadReport {
            gtid: head.gtid.to_string(),
            file: self.history.file_name(number).unwrap_or_else(|| format!("{number:06}")),
            position: head.pos.offset,
            arrived: (head.arrived != Micros::default()).then(|| head.arrived.rfc3339()),
        }
    }

    async fn replicas(&self, head: Option<&Arc<Head>>) -> (Micros, Vec<ReplicaReport>) {
        let named = self.registry.named();
        let mut entries: Vec<Entry> = {
            let servers = lock(&self.servers);
            let listed = named.into_iter().filter(|(_, replica)| replica.identity.registered && !replica.replaced());
            listed
                .map(|(name, replica)| {
                    let server = servers.get(&ServerKey::of(&replica.identity)).cloned();
                    Entry::new(name, server, replica, Micros::now())
                })
                .collect()
        };
        let mut open = false;
        for entry in &mut entries {
            open |= !entry.place_at_hand(head.map(Arc::as_ref));
        }
        if let (true, Some(head)) = (open, head) {
            entries = self.place(entries, head).await;
        }
        let now = Micros::now();
        (now, entries.iter().map(|e| self.replica_report(e, now)).collect())
    }

    /// Places what is not at hand, where blocking is allowed.
    async fn place(&self, entries: Vec<Entry>, head: &Arc<Head>) -> Vec<Entry> {
        let (history, head) = (Arc::clone(&self.history), Arc::clone(head));
        let placing = tokio::task::spawn_blocking(move || {
            let mut entries = entries;
            for entry in &mut entries {
                entry.place(history.as_ref(), &head);
            }
            entries
        });
        match placing.await {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, "replicas' positions could not be placed in the log");
                Vec::new()
            }
        }
    }

    fn replica_report(&self, entry: &Entry, now: Micros) -> ReplicaReport {
        let replica = &entry.replica;
        let seen = &entry.observed;
        let sent = entry.sent_place().map(|place| (place, arithmetic::unsent(place, entry.seen_at)));
        let applied = entry
            .applied_place()
            .map(|(sample, place)| (sample, arithmetic::unapplied(sample, place, entry.since_place(), self.due, now)));
        let asking = self.asking_error(entry);
        let stream_error = replica.error();
        let (bottleneck, error) = arithmetic::bottleneck(&View {
            stream: replica.state(),
            stream_since: replica.state_since(),
            stream_error: stream_error.as_deref(),
            unsent: sent.map(|(_, missing)| missing),
            sent_moved: seen.sent_moved,
            unapplied: applied.map(|(_, missing)| missing),
            silent_since: seen.silent_since,
            threads: seen.threads.as_ref(),
            asking: asking.as_deref(),
            now,
        });
        ReplicaReport {
            name: entry.name.clone(),
            server_id: replica.identity.server_id,
            address: address(&replica.identity).to_string(),
            state: replica.state().name(),
            state_ms: now.millis_since(replica.state_since()),
            received: sent.map(|(place, missing)| arithmetic::received(place, missing, now)),
            applied: applied.map(|(sample, missing)| arithmetic::applied(sample, missing, now)),
            bottleneck,
            error,
        }
    }

    /// Why what it has applied is not known, or not any more.
    fn asking_error(&self, entry: &Entry) -> Option<String> {
        if let Some(why) = self.unaskable(&entry.replica) {
            return Some(why);
        }
        let seen = &entry.observed;
        if let Some(why) = seen.position_error.as_ref().or(seen.threads_error.as_ref()) {
            return Some(why.clone());
        }
        entry
            .unplaced()
            .or_else(|| seen.sample.is_none().then(|| "it has not been asked yet what it has applied".into()))
    }

    /// Why a replica is not asked at all.
    fn unaskable(&self, replica: &Replica) -> Option<String> {
        if !self.asks {
            return Some("what it has applied is not asked: set lag.user and lag.password_file".into());
        }
        let identity = &replica.identity;
        if identity.relay {
            return Some("it is a relay: it applies nothing".into());
        }
        (identity.report_port == 0).then(|| {
            format!(
                "what it has applied can't be asked: server {} registered no port; set report_port in its configuration and \
                 restart its replication",
                identity.server_id
            )
        })
    }
}

/// Starts and ends pollers as replicas come and go.
struct Supervisor<S> {
    tracker: Arc<LagTracker>,
    sampler: Option<Arc<S>>,
    pool: Arc<Pool>,
    config: LagConfig,
    cancel: CancellationToken,
    pollers: HashMap<ServerKey, CancellationToken>,
    tasks: JoinSet<ServerKey>,
}

impl<S: Sampler> Supervisor<S> {
    async fn run(mut self) {
        let mut changes = self.tracker.registry.changes();
        loop {
            changes.borrow_and_update();
            self.reconcile();
            tokio::select! {
                () = self.cancel.cancelled() => break,
                changed = changes.changed() => if changed.is_err() { break },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(key) => self.forget(&key),
                    Err(error) => tracing::error!(%error, "a lag poller ended unexpectedly"),
                },
            }
        }
        for cancel in self.pollers.values() {
            cancel.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Forgets an ended poller, unless another one of the same server has been started since.
    fn forget(&mut self, key: &ServerKey) {
        if self.pollers.get(key).is_some_and(CancellationToken::is_cancelled) {
            self.pollers.remove(key);
        }
    }

    fn reconcile(&mut self) {
        let mut wanted: HashMap<ServerKey, Arc<Replica>> = HashMap::new();
        for replica in self.tracker.registry.list().into_iter().filter(|r| r.identity.registered) {
            wanted.insert(ServerKey::of(&replica.identity), replica); // the newest connection is the last
        }
        let mut new = Vec::new();
        {
            let mut servers = lock(&self.tracker.servers);
            servers.retain(|key, _| wanted.contains_key(key));
            for (key, replica) in &wanted {
                match servers.get(key) {
                    Some(server) => server.attach(replica),
                    None => {
                        let server = Server::new(Arc::clone(replica));
                        servers.insert(key.clone(), Arc::clone(&server));
                        new.push((key.clone(), server));
                    }
                }
            }
        }
        for (key, cancel) in &self.pollers {
            if !wanted.contains_key(key) {
                cancel.cancel();
            }
        }
        for (key, server) in new {
            self.poll(key, server);
        }
    }

    fn poll(&mut self, key: ServerKey, server: Arc<Server>) {
        let askable = server.address.port() != 0 && !server.replica().identity.relay;
        let Some(sampler) = self.sampler.clone().filter(|_| askable) else { return };
        let cancel = self.cancel.child_token();
        if let Some(older) = self.pollers.insert(key.clone(), cancel.clone()) {
            older.cancel();
        }
        let poller = Poller {
            sampler,
            history: Arc::clone(&self.tracker.history),
            pool: Arc::clone(&self.pool),
            server,
            poll_min: self.config.poll_min,
            poll_max: self.config.poll_max,
            metrics: Arc::clone(&self.tracker.metrics),
            cancel,
        };
        self.tasks.spawn(async move {
            poller.run().await;
            key
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
