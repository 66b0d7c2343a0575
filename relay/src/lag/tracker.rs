//! Keeps a poller for each registered replica, and makes the report.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_wire::gtid::GtidPosition;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Micros;
use crate::fanout::{Registry, Replica};
use crate::lag::arithmetic::{self, View};
use crate::lag::config::LagConfig;
use crate::lag::history::History;
use crate::lag::poller::Poller;
use crate::lag::pool::Pool;
use crate::lag::report::{HeadReport, LagReport, ReplicaReport, UpstreamReport};
use crate::lag::sample::Sampler;
use crate::lag::server::{Observed, Server, ServerKey, address};
use crate::lag::sql::SqlSampler;
use crate::log::{Head, LogPos, Place};
use crate::upstream::UpstreamStatus;

/// Knows how far every replica lags.
pub struct LagTracker {
    history: Arc<dyn History>,
    registry: Arc<Registry>,
    upstream: watch::Receiver<UpstreamStatus>,
    cluster: String,
    relay: String,
    asks: bool,
    servers: Mutex<HashMap<ServerKey, Arc<Server>>>,
}

/// A replica on its way into the report.
struct Entry {
    name: String,
    replica: Arc<Replica>,
    server: Option<Arc<Server>>,
    observed: Observed,
    sent: Option<LogPos>,
    sent_place: Option<io::Result<Place>>,
    applied_place: Option<io::Result<Place>>,
}

impl LagTracker {
    /// Starts asking, by SQL, every replica that registers, until `cancel`. Without `config.user` nobody is asked: only what was sent is
    /// known then. Must be called within a tokio runtime.
    pub fn start(
        history: Arc<dyn History>,
        registry: Arc<Registry>,
        upstream: watch::Receiver<UpstreamStatus>,
        config: LagConfig,
        cluster: impl Into<String>,
        relay: impl Into<String>,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let sampler = config.user.clone().map(|user| SqlSampler::new(user, config.password.clone()));
        let names = (cluster.into(), relay.into());
        Self::start_with(history, registry, upstream, &config, names, sampler, cancel)
    }

    /// As [`start`](Self::start), with another way of asking.
    pub(super) fn start_with<S: Sampler>(
        history: Arc<dyn History>,
        registry: Arc<Registry>,
        upstream: watch::Receiver<UpstreamStatus>,
        config: &LagConfig,
        (cluster, relay): (String, String),
        sampler: Option<S>,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let asks = sampler.is_some();
        let tracker = Arc::new(Self { history, registry, upstream, cluster, relay, asks, servers: Mutex::default() });
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

    /// The answer of `GET /v1/lag`. Milliseconds are counted to the moment of the call. Reads the disk (where blocking is allowed) only for
    /// replicas that are behind and whose position or head has changed since the last call.
    pub async fn report(&self) -> LagReport {
        let entries = self.registry.named();
        let head = self.history.head();
        let (replicas, head) = self.replicas(entries, head).await;
        let now = Micros::now();
        let upstream = self.upstream.borrow();
        LagReport {
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
        }
    }

    /// The answer of `GET /v1/lag/{replica}`; `None` if nobody has that name.
    pub async fn report_one(&self, name: &str) -> Option<ReplicaReport> {
        let mut entries = self.registry.named();
        entries.retain(|(n, r)| n == name && r.identity.registered);
        // Of an old and a new connection of the same server, the newest.
        let newest = entries.pop()?;
        let (mut replicas, _) = self.replicas(vec![newest], self.history.head()).await;
        replicas.pop()
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

    async fn replicas(
        &self,
        named: Vec<(String, Arc<Replica>)>,
        head: Option<Arc<Head>>,
    ) -> (Vec<ReplicaReport>, Option<Arc<Head>>) {
        let mut entries: Vec<Entry> = {
            let servers = self.lock();
            named
                .into_iter()
                .filter(|(_, replica)| replica.identity.registered)
                .map(|(name, replica)| Entry::new(name, &servers, replica))
                .collect()
        };
        let mut open = false;
        for entry in &mut entries {
            open |= !entry.place_at_hand(head.as_deref());
        }
        if let (true, Some(head)) = (open, &head) {
            entries = self.place(entries, head).await;
        }
        let now = Micros::now();
        (entries.iter().map(|e| self.replica_report(e, now)).collect(), head)
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
        let sent = entry.sent_place.as_ref().and_then(|p| p.as_ref().ok());
        let placed = entry.applied_place.as_ref().and_then(|p| p.as_ref().ok());
        let sample = seen.sample.as_ref().zip(placed);
        let asking = self.asking_error(entry);
        let stream_error = replica.error();
        let (bottleneck, error) = arithmetic::bottleneck(&View {
            stream: replica.state(),
            stream_since: replica.state_since(),
            stream_error: stream_error.as_deref(),
            sent,
            sent_moved: seen.sent_moved,
            sample,
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
            received: sent.map(|place| arithmetic::received(place, now)),
            applied: sample.map(|(sample, place)| arithmetic::applied(sample, place, now)),
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
        let unplaced = |what: &str, place: &Option<io::Result<Place>>| match place {
            Some(Err(error)) => Some(format!("what it has {what} can't be placed in the log: {error}")),
            _ => None,
        };
        unplaced("applied", &entry.applied_place)
            .or_else(|| unplaced("received", &entry.sent_place))
            .or_else(|| seen.sample.is_none().then(|| "it has not been asked yet what it has applied".into()))
    }

    /// Why a replica is not asked at all.
    fn unaskable(&self, replica: &Replica) -> Option<String> {
        if !self.asks {
            return Some("what it has applied is not asked: set lag.user and lag.password_file".into());
        }
        let identity = &replica.identity;
        (identity.report_port == 0).then(|| {
            format!(
                "what it has applied can't be asked: server {} registered no port; set report_port in its configuration and \
                 restart its replication",
                identity.server_id
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerKey, Arc<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(name: String, servers: &HashMap<ServerKey, Arc<Server>>, replica: Arc<Replica>) -> Self {
        let server = servers.get(&ServerKey::of(&replica.identity)).cloned();
        let sent = replica.sent();
        let observed = server.as_ref().map(|s| {
            s.saw_sent(sent, Micros::now());
            s.observed()
        });
        let observed = observed.unwrap_or_default();
        Self { name, replica, server, observed, sent, sent_place: None, applied_place: None }
    }

    fn applied(&self) -> Option<&GtidPosition> {
        self.observed.sample.as_ref().map(|s| &s.gtid)
    }

    /// Places what needs no disk; true if nothing is left.
    fn place_at_hand(&mut self, head: Option<&Head>) -> bool {
        let Some(head) = head else {
            // An empty log: nobody can miss anything of it.
            let nothing = |gtid: &GtidPosition| arithmetic::place_missing_nothing(LogPos::default(), gtid);
            self.applied_place = self.applied().map(nothing).map(Ok);
            return true;
        };
        let at_head = || arithmetic::place_missing_nothing(head.pos, &head.gtid);
        if let Some(sent) = self.sent {
            // What was sent since the head was read misses nothing either.
            let place = if sent >= head.pos { Some(at_head()) } else { self.observed.known_sent(head.pos, sent) };
            self.sent_place = place.map(Ok);
        }
        if let Some(applied) = self.applied() {
            let at_head = (*applied == head.gtid).then(at_head);
            self.applied_place = at_head.or_else(|| self.observed.known_applied(head.pos, applied)).map(Ok);
        }
        self.sent_place.is_some() == self.sent.is_some() && self.applied_place.is_some() == self.applied().is_some()
    }

    /// Places the rest, from the disk, and remembers it for as long as the head stays.
    fn place(&mut self, history: &dyn History, head: &Head) {
        if let (None, Some(sent)) = (&self.sent_place, self.sent) {
            self.sent_place = Some(history.place_of(sent));
        }
        if let (None, Some(sample)) = (&self.applied_place, &self.observed.sample) {
            self.applied_place = Some(history.place_of_gtid(&sample.gtid));
        }
        let unmoved = history.head().is_some_and(|h| h.pos == head.pos);
        if let (true, Some(server)) = (unmoved, &self.server) {
            let sent = self.sent_place.as_ref().and_then(|p| p.as_ref().ok());
            let applied = self.applied_place.as_ref().and_then(|p| p.as_ref().ok());
            server.remember(head.pos, self.sent.zip(sent), self.applied().zip(applied));
        }
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
            let mut servers = self.tracker.lock();
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
        let Some(sampler) = self.sampler.clone().filter(|_| server.address.port() != 0) else { return };
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
            cancel,
        };
        self.tasks.spawn(async move {
            poller.run().await;
            key
        });
    }
}
