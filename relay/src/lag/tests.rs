//! The tracker as a whole, over a scripted log and scripted replicas.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use baton_wire::gtid::GtidPosition;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::History;
use super::report::{Bottleneck, LagReport, ReplicaReport};
use super::sample::{SampleError, Sampler, Session, ThreadState, Threads};
use super::{LagConfig, LagSources, LagTracker};
use crate::clock::Micros;
use crate::fanout::{Registry, Replica, ReplicaIdentity, ReplicaState};
use crate::log::{Head, LogPos, Place};
use crate::metrics::Metrics;
use crate::upstream::UpstreamStatus;

/// Every transaction of the scripted log has this many bytes.
const BYTES: u64 = 100;

fn gtid(sequence: u64) -> GtidPosition {
    let text = if sequence == 0 { String::new() } else { format!("0-1-{sequence}") };
    GtidPosition::MariaDb(text.parse().unwrap())
}

/// A log of one file whose transactions are 0-1-1, 0-1-2, ...
struct Log {
    arrivals: Mutex<Vec<Micros>>,
    head: watch::Sender<Option<Arc<Head>>>,
}

impl Log {
    fn new() -> Arc<Self> {
        Arc::new(Self { arrivals: Mutex::default(), head: watch::Sender::new(None) })
    }

    /// One more transaction, which arrived `ms` ago.
    fn add(&self, ms: i64) -> LogPos {
        let arrived = Micros(Micros::now().0 - ms * 1000);
        let mut arrivals = self.arrivals.lock().unwrap();
        arrivals.push(arrived);
        let transactions = arrivals.len() as u64;
        let pos = LogPos { file: 1, offset: 4 + transactions * BYTES };
        self.head.send_replace(Some(Arc::new(Head { pos, gtid: gtid(transactions), transactions, arrived })));
        pos
    }

    fn place(&self, done: u64) -> Place {
        let arrivals = self.arrivals.lock().unwrap();
        let missing = (arrivals.len() as u64).saturating_sub(done);
        Place {
            pos: LogPos { file: 1, offset: 4 + done * BYTES },
            gtid: gtid(done),
            missing_transactions: missing,
            missing_bytes: missing * BYTES,
            oldest_missing: arrivals.get(done as usize).copied(),
        }
    }
}

impl History for Log {
    fn head(&self) -> Option<Arc<Head>> {
        self.head.borrow().clone()
    }

    fn subscribe(&self) -> watch::Receiver<Option<Arc<Head>>> {
        self.head.subscribe()
    }

    fn place_of_gtid(&self, applied: &GtidPosition) -> io::Result<Place> {
        let list = applied.mariadb().ok_or_else(|| io::Error::other("the log is MariaDB's"))?;
        Ok(self.place(list.sequence(0)))
    }

    fn place_of(&self, pos: LogPos) -> io::Result<Place> {
        Ok(self.place((pos.offset - 4) / BYTES))
    }

    fn file_name(&self, number: u64) -> Option<String> {
        Some(format!("mysql-bin.{number:06}"))
    }
}

/// Scripted replicas: what each answers, and what was done to all.
#[derive(Clone, Default)]
struct Servers(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    applied: HashMap<SocketAddr, u64>,
    threads: HashMap<SocketAddr, Threads>,
    refuses: bool,
    hangs: bool,
    connects: usize,
    open: usize,
    most_open: usize,
    questions: usize,
}

impl Servers {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    fn apply(&self, at: SocketAddr, sequence: u64) {
        self.lock().applied.insert(at, sequence);
    }
}

struct ScriptedSession(Servers, SocketAddr);

impl Sampler for Servers {
    type Session = ScriptedSession;

    async fn connect(&self, target: SocketAddr) -> Result<ScriptedSession, SampleError> {
        let mut script = self.lock();
        if script.refuses {
            return Err(SampleError::Broken("Connection refused".into()));
        }
        script.connects += 1;
        script.open += 1;
        script.most_open = script.most_open.max(script.open);
        Ok(ScriptedSession(self.clone(), target))
    }
}

impl Session for ScriptedSession {
    async fn position(&mut self) -> Result<GtidPosition, SampleError> {
        while self.0.lock().hangs {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut script = self.0.lock();
        script.questions += 1;
        if script.refuses {
            return Err(SampleError::Broken("Broken pipe".into()));
        }
        Ok(gtid(script.applied.get(&self.1).copied().unwrap_or(0)))
    }

    async fn threads(&mut self) -> Result<Option<Threads>, SampleError> {
        Ok(self.0.lock().threads.get(&self.1).cloned())
    }

    async fn close(self) {
        self.0.lock().open -= 1;
    }
}

struct Rig {
    log: Arc<Log>,
    registry: Arc<Registry>,
    servers: Servers,
    tracker: Arc<LagTracker>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
}

impl Rig {
    fn new(asks: bool, max_sessions: usize) -> Self {
        let (log, registry, servers, cancel) =
            (Log::new(), Registry::new(), Servers::default(), CancellationToken::new());
        let metrics = Metrics::new();
        let config = LagConfig {
            poll_min: Duration::from_millis(1),
            poll_max: Duration::from_millis(20),
            min_sessions: 1,
            max_sessions,
            ..LagConfig::default()
        };
        let tracker = LagTracker::start_with(
            LagSources {
                history: Arc::clone(&log) as Arc<dyn History>,
                registry: Arc::clone(&registry),
                upstream: watch::Sender::new(UpstreamStatus::default()).subscribe(),
                metrics: Arc::clone(&metrics),
            },
            &config,
            ("shop".into(), "relay-1".into()),
            asks.then(|| servers.clone()),
            cancel.clone(),
        );
        Self { log, registry, servers, tracker, metrics, cancel }
    }

    fn attach(&self, server_id: u32, report_port: u16) -> Arc<Replica> {
        let identity = ReplicaIdentity {
            connection: server_id * 10,
            server_id,
            uuid: None,
            report_host: format!("db-{server_id}"),
            report_port,
            user: "repl".into(),
            peer: SocketAddr::from(([10, 0, 0, 1], 50_000)),
            registered: true,
            relay: false,
        };
        let (replica, _) = self.registry.attach(identity, CancellationToken::new());
        replica.set_state(ReplicaState::Streaming);
        replica
    }

    /// Waits until what cancelling does is done.
    async fn cancelled(&self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    }

    /// The report of `name` once it is as wanted.
    async fn until(&self, name: &str, wanted: impl Fn(&ReplicaReport) -> bool) -> ReplicaReport {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let report = self.tracker.report_one(name).await.expect("it is listed");
            if wanted(&report) {
                return report;
            }
            assert!(Instant::now() < deadline, "still {report:?}");
            tokio::task::yield_now().await;
        }
    }
}

fn at(report_port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], report_port))
}

fn running() -> Threads {
    Threads {
        taken_at: Micros::default(),
        sent: None,
        io: ThreadState::Running,
        sql: ThreadState::Running,
        io_error: None,
        sql_error: None,
        delay: Duration::ZERO,
        received: None,
        applied: None,
    }
}

fn applied_transactions(report: &ReplicaReport) -> Option<u64> {
    report.applied.as_ref().map(|a| a.lag_transactions)
}

#[tokio::test]
async fn a_replica_falls_behind_and_catches_up_over_one_kept_session() {
    let rig = Rig::new(true, 8);
    let replica = rig.attach(2, 3306);
    let pos = rig.log.add(0);
    replica.note_sent(pos, BYTES);
    rig.servers.apply(at(3306), 1);
    let report = rig.until("db-2", |r| applied_transactions(r) == Some(0)).await;
    assert_eq!((report.bottleneck, report.error), (None, None));
    assert_eq!(report.applied.unwrap().lag_ms, 0);

    // Two transactions that arrived long ago are sent and not applied.
    rig.log.add(500_000);
    let pos = rig.log.add(4000);
    replica.note_sent(pos, 2 * BYTES);
    let report = rig.until("db-2", |r| applied_transactions(r) == Some(2)).await;
    let (received, applied) = (report.received.unwrap(), report.applied.unwrap());
    assert_eq!((received.lag_transactions, received.lag_bytes, received.lag_ms), (0, 0, 0));
    assert_eq!((applied.gtid.as_str(), applied.lag_bytes), ("0-1-1", 2 * BYTES));
    assert!(applied.lag_ms >= 500_000, "the age of the oldest one: {applied:?}");
    assert_eq!(report.bottleneck, Some(Bottleneck::Apply));

    rig.servers.apply(at(3306), 2);
    let report = rig.until("db-2", |r| applied_transactions(r) == Some(1)).await;
    assert!((4000..500_000).contains(&report.applied.as_ref().unwrap().lag_ms), "the age of the next one: {report:?}");
    rig.servers.apply(at(3306), 3);
    rig.until("db-2", |r| applied_transactions(r) == Some(0) && r.bottleneck.is_none()).await;
    assert_eq!(rig.servers.lock().connects, 1);
}

#[tokio::test]
async fn a_replica_that_does_not_answer_lags_by_all_that_arrives() {
    let rig = Rig::new(true, 8);
    let replica = rig.attach(2, 3306);
    replica.note_sent(rig.log.add(0), BYTES);
    rig.servers.apply(at(3306), 1);
    rig.until("db-2", |r| applied_transactions(r) == Some(0)).await;
    rig.servers.lock().hangs = true;
    for missing in 1..5 {
        let pos = rig.log.add(1000);
        replica.note_sent(pos, BYTES);
        let report = rig.until("db-2", |r| applied_transactions(r) == Some(missing)).await;
        let applied = report.applied.unwrap();
        assert!(applied.lag_ms >= 1000 && applied.lag_bytes == missing * BYTES, "{applied:?}");
    }
    rig.until("db-2", |r| r.bottleneck == Some(Bottleneck::Network)).await;
    rig.servers.lock().hangs = false;
    rig.servers.apply(at(3306), 5);
    rig.until("db-2", |r| applied_transactions(r) == Some(0) && r.bottleneck.is_none() && r.error.is_none()).await;
}

#[tokio::test]
async fn what_arrives_between_two_samples_is_no_lag_and_no_bottleneck() {
    let rig = Rig::new(true, 8);
    let replica = rig.attach(2, 3306);
    for n in 1..200 {
        // It has applied everything whenever it is asked.
        rig.servers.apply(at(3306), n);
        replica.note_sent(rig.log.add(0), BYTES);
        if let Some(report) = rig.tracker.report_one("db-2").await.filter(|r| r.applied.is_some()) {
            assert_eq!((applied_transactions(&report), report.bottleneck), (Some(0), None), "{report:?}");
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn questions_their_failures_and_open_sessions_are_counted() {
    let rig = Rig::new(true, 8);
    rig.servers.lock().refuses = true;
    rig.attach(2, 3306).note_sent(rig.log.add(0), BYTES);
    rig.until("db-2", |r| r.error.as_deref().is_some_and(|e| e.contains("refused"))).await;
    assert!(rig.metrics.lag_poll_errors.get() > 0 && rig.metrics.lag_sessions.get() == 0);
    assert_eq!(rig.metrics.lag_polls.get(), rig.metrics.lag_poll_errors.get());
    rig.servers.lock().refuses = false;
    rig.until("db-2", |r| r.applied.is_some()).await;
    assert!(rig.metrics.lag_polls.get() > rig.metrics.lag_poll_errors.get() && rig.metrics.lag_sessions.get() == 1);
    rig.cancel.cancel();
    rig.cancelled(|rig| rig.metrics.lag_sessions.get() == 0).await;
}

#[tokio::test]
async fn a_shared_report_tells_later_times() {
    let rig = Rig::new(true, 8);
    rig.attach(2, 3306).note_sent(rig.log.add(500), BYTES);
    rig.log.add(400);
    rig.servers.apply(at(3306), 1);
    rig.until("db-2", |r| applied_transactions(r) == Some(1)).await;
    let report = rig.tracker.report().await;
    let (now, later) = (&report.replicas[0], &report.later_by(7).replicas[0]);
    let ms = |r: &ReplicaReport| {
        let (received, applied) = (r.received.as_ref().unwrap(), r.applied.as_ref().unwrap());
        [received.lag_ms, applied.lag_ms, applied.age_ms, r.state_ms]
    };
    assert_eq!(ms(now).map(|ms| ms + 7), ms(later));
    rig.servers.apply(at(3306), 2);
    rig.until("db-2", |r| applied_transactions(r) == Some(0)).await;
    let (_, report) = rig.tracker.make_report().await;
    assert_eq!(report.later_by(7).replicas[0].applied.as_ref().unwrap().lag_ms, 0);
}

#[tokio::test]
async fn a_replica_that_left_stays_listed_with_its_last_sample_and_ever_more_lag() {
    let rig = Rig::new(true, 8);
    let replica = rig.attach(2, 3306);
    replica.note_sent(rig.log.add(0), BYTES);
    rig.servers.apply(at(3306), 1);
    rig.until("db-2", |r| applied_transactions(r) == Some(0)).await;
    rig.registry.detach(&replica);
    rig.servers.lock().refuses = true;
    rig.log.add(0);
    let report = rig.until("db-2", |r| r.error.is_some() && applied_transactions(r) == Some(1)).await;
    assert_eq!((report.state, report.bottleneck), ("gone", Some(Bottleneck::Stopped)));
    assert_eq!(report.applied.as_ref().unwrap().gtid, "0-1-1");
    assert_eq!(report.received.unwrap().lag_transactions, 1);
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_says_why_and_is_asked_again_when_it_can() {
    let rig = Rig::new(true, 8);
    rig.servers.lock().refuses = true;
    let replica = rig.attach(2, 3306);
    replica.note_sent(rig.log.add(0), BYTES);
    let report = rig.until("db-2", |r| r.error.as_deref().is_some_and(|e| e.contains("refused"))).await;
    assert_eq!(report.applied, None);
    assert!(report.error.unwrap().starts_with("10.0.0.1:3306 can't be asked"));
    assert_eq!(report.received.unwrap().lag_transactions, 0);
    rig.servers.lock().refuses = false;
    rig.until("db-2", |r| r.applied.is_some() && r.error.is_none()).await;
}

#[tokio::test]
async fn a_stopped_thread_is_told_with_its_error() {
    let rig = Rig::new(true, 8);
    let error = Some("error 1062: Duplicate entry".to_owned());
    let failed = Threads { sql: ThreadState::Stopped, sql_error: error, ..running() };
    rig.servers.lock().threads.insert(at(3306), failed);
    rig.attach(2, 3306).note_sent(rig.log.add(0), BYTES);
    let report = rig.until("db-2", |r| r.bottleneck == Some(Bottleneck::Error)).await;
    assert_eq!(report.error.as_deref(), Some("its applying thread stopped: error 1062: Duplicate entry"));
    rig.servers.lock().threads.insert(at(3306), running());
    rig.until("db-2", |r| r.bottleneck == Some(Bottleneck::Apply) && r.error.is_none()).await;
}

#[tokio::test]
async fn without_a_port_or_an_account_applied_is_null_and_the_error_says_what_to_set() {
    let rig = Rig::new(true, 8);
    rig.attach(2, 0).note_sent(rig.log.add(0), BYTES);
    let report = rig.tracker.report_one("db-2").await.unwrap();
    assert_eq!((report.applied, report.bottleneck), (None, None));
    assert!(report.error.unwrap().contains("set report_port"));

    let rig = Rig::new(false, 8);
    rig.attach(2, 3306);
    let report = rig.tracker.report_one("db-2").await.unwrap();
    assert_eq!(report.applied, None);
    assert!(report.error.unwrap().contains("lag.user"));
}

#[tokio::test]
async fn a_relay_is_listed_with_what_it_has_received_and_never_asked_what_it_has_applied() {
    let rig = Rig::new(true, 8);
    let relay = ReplicaIdentity { report_host: "relay-2".into(), relay: true, ..rig.attach(2, 3306).identity.clone() };
    let relay = ReplicaIdentity { connection: 77, server_id: 9002, report_port: 3307, ..relay };
    let (replica, _) = rig.registry.attach(relay, CancellationToken::new());
    replica.set_state(ReplicaState::Streaming);
    replica.note_sent(rig.log.add(0), BYTES);
    rig.until("db-2", |r| r.applied.is_some()).await;
    let report = rig.tracker.report_one("relay-2").await.unwrap();
    assert!(report.received.is_some() && report.applied.is_none(), "{report:?}");
    assert!(report.error.unwrap().contains("is a relay"));
    assert_eq!(rig.servers.lock().connects, 1, "the replica is asked, and nobody else");
}

#[tokio::test]
async fn more_replicas_than_sessions_never_open_more_than_the_limit() {
    let rig = Rig::new(true, 2);
    rig.log.add(0);
    for n in 2..8 {
        rig.attach(n, 3300 + u16::try_from(n).unwrap());
    }
    let sampled = |r: &LagReport| r.replicas.iter().filter(|r| r.applied.is_some()).count();
    let deadline = Instant::now() + Duration::from_secs(20);
    let report = loop {
        let report = rig.tracker.report().await;
        let waiting = report.replicas.iter().filter(|r| r.error.as_deref().is_some_and(|e| e.contains("max_sessions")));
        if sampled(&report) == 2 && waiting.count() == 4 {
            break report;
        }
        assert!(Instant::now() < deadline, "still {report:?}");
        tokio::task::yield_now().await;
    };
    assert_eq!(report.replicas.len(), 6);
    let script = rig.servers.lock();
    assert_eq!((script.connects, script.most_open), (2, 2));
}

#[tokio::test]
async fn cancelling_closes_every_session() {
    let rig = Rig::new(true, 8);
    rig.log.add(0);
    rig.attach(2, 3306);
    rig.attach(3, 3307);
    rig.until("db-2", |r| r.applied.is_some()).await;
    rig.until("db-3", |r| r.applied.is_some()).await;
    assert_eq!(rig.servers.lock().open, 2);
    rig.cancel.cancel();
    rig.cancelled(|rig| rig.servers.lock().open == 0).await;
}

#[tokio::test]
async fn the_report_names_head_and_upstream_and_leaves_out_mere_readers() {
    let rig = Rig::new(true, 8);
    let report = rig.tracker.report().await;
    assert_eq!((report.head, report.replicas.len()), (None, 0));
    rig.log.add(0);
    let reader = ReplicaIdentity { registered: false, ..rig.attach(2, 3306).identity.clone() };
    let reader = ReplicaIdentity { connection: 77, server_id: 0, ..reader };
    rig.registry.attach(reader, CancellationToken::new());
    let (_, report) = rig.tracker.make_report().await;
    let head = report.head.unwrap();
    assert_eq!((head.gtid.as_str(), head.file.as_str(), head.position), ("0-1-1", "mysql-bin.000001", 4 + BYTES));
    assert!(head.arrived.unwrap().ends_with('Z'));
    assert_eq!(
        (report.cluster.as_str(), report.relay.as_str(), report.upstream.state),
        ("shop", "relay-1", "connecting")
    );
    assert_eq!(report.replicas.len(), 1);
    assert!(rig.tracker.report_one("nobody").await.is_none());
}
