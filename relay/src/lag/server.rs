//! What is known of one replica's server: written by its poller and read for reports. Outlives the replica's connections.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_wire::gtid::GtidPosition;
use tokio::sync::watch;

use crate::clock::Micros;
use crate::fanout::{Replica, ReplicaIdentity, ReplicaState};
use crate::lag::sample::{Sample, Threads};
use crate::log::{LogPos, Place};

/// Which server a replica is, across its connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ServerKey {
    server_id: u32,
    uuid: Option<String>,
    address: SocketAddr,
}

impl ServerKey {
    pub(super) fn of(identity: &ReplicaIdentity) -> Self {
        Self { server_id: identity.server_id, uuid: identity.uuid.clone(), address: address(identity) }
    }
}

/// Where the replica's own server listens: the peer of its connection, and the port that it registered (0 if it did not).
pub(super) fn address(identity: &ReplicaIdentity) -> SocketAddr {
    let ip: IpAddr = identity.peer.ip().to_canonical();
    SocketAddr::new(ip, identity.report_port)
}

/// One server, while the registry lists it.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it is asked.
    pub(super) address: SocketAddr,
    replica: watch::Sender<(Arc<Replica>, ReplicaState)>,
    observed: Mutex<Observed>,
}

/// What was seen of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// What it had applied, when last asked.
    pub(super) sample: Option<Sample>,
    /// Its threads, when last asked.
    pub(super) threads: Option<Threads>,
    /// Why its position can't be asked.
    pub(super) position_error: Option<String>,
    /// Why its threads can't be asked.
    pub(super) threads_error: Option<String>,
    /// Since when it leaves a question unanswered.
    pub(super) silent_since: Option<Micros>,
    sent: Option<LogPos>,
    /// When `sent` was last seen to move.
    pub(super) sent_moved: Option<Micros>,
    places: Places,
}

/// Where positions stand while the head is at `head`.
#[derive(Debug, Clone, Default)]
struct Places {
    head: LogPos,
    positions: VecDeque<(LogPos, Place)>,
    gtid: Option<(GtidPosition, Place)>,
}

/// Positions remembered: what was sent, and where the log ended when the replica was asked.
const POSITIONS: usize = 2;

impl Server {
    pub(super) fn new(replica: Arc<Replica>) -> Arc<Self> {
        let address = address(&replica.identity);
        let state = replica.state();
        Arc::new(Self { address, replica: watch::Sender::new((replica, state)), observed: Mutex::default() })
    }

    /// Notes its present connection; wakes the poller if that is a new one or has ended.
    pub(super) fn attach(&self, replica: &Arc<Replica>) {
        let state = replica.state();
        self.replica.send_if_modified(|(known, known_state)| {
            if Arc::ptr_eq(known, replica) && *known_state == state {
                return false;
            }
            *known = Arc::clone(replica);
            *known_state = state;
            true
        });
    }

    /// Follows its connections.
    pub(super) fn connections(&self) -> watch::Receiver<(Arc<Replica>, ReplicaState)> {
        self.replica.subscribe()
    }

    /// Its present connection.
    pub(super) fn replica(&self) -> Arc<Replica> {
        Arc::clone(&self.replica.borrow().0)
    }

    /// A copy of what was seen.
    pub(super) fn observed(&self) -> Observed {
        self.lock().clone()
    }

    /// Notes that a question goes out.
    pub(super) fn asking(&self, now: Micros) {
        self.lock().silent_since.get_or_insert(now);
    }

    /// Notes a sample; returns whether the replica applied something since the one before.
    pub(super) fn sampled(&self, sample: Sample) -> bool {
        let mut observed = self.lock();
        observed.position_error = None;
        observed.silent_since = None;
        let moved = observed.sample.as_ref().is_none_or(|s| s.gtid != sample.gtid);
        observed.sample = Some(sample);
        moved
    }

    /// Notes why its position can't be asked; returns whether it could before.
    pub(super) fn position_failed(&self, why: String) -> bool {
        self.lock().position_error.replace(why).is_none()
    }

    /// Notes that it answered, be it with a refusal.
    pub(super) fn answered(&self) {
        self.lock().silent_since = None;
    }

    /// Notes its threads, or why they can't be asked.
    pub(super) fn threads(&self, answer: Result<Option<Threads>, String>) {
        let mut observed = self.lock();
        observed.silent_since = None;
        match answer {
            Ok(threads) => {
                observed.threads = threads;
                observed.threads_error = None;
            }
            Err(why) => {
                observed.threads = None;
                observed.threads_error = Some(why);
            }
        }
    }

    /// Notes up to where was sent.
    pub(super) fn saw_sent(&self, sent: Option<LogPos>, now: Micros) {
        let mut observed = self.lock();
        if observed.sent != sent || observed.sent_moved.is_none() {
            observed.sent = sent;
            observed.sent_moved = Some(now);
        }
    }

    /// Remembers where a position stands while the head is at `head`.
    pub(super) fn remember_position(&self, head: LogPos, pos: LogPos, place: &Place) {
        let mut observed = self.lock();
        let positions = &mut observed.places.at(head).positions;
        positions.retain(|(known, _)| *known != pos);
        positions.truncate(POSITIONS - 1);
        positions.push_front((pos, place.clone()));
    }

    /// Remembers where a GTID position stands while the head is at `head`.
    pub(super) fn remember_gtid(&self, head: LogPos, gtid: &GtidPosition, place: &Place) {
        self.lock().places.at(head).gtid = Some((gtid.clone(), place.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Forgets what belongs to another head.
    fn at(&mut self, head: LogPos) -> &mut Self {
        if self.head != head {
            *self = Self { head, ..Self::default() };
        }
        self
    }
}

impl Observed {
    /// Where `pos` stands while the head is at `head`, if that is remembered.
    pub(super) fn known_position(&self, head: LogPos, pos: LogPos) -> Option<Place> {
        let known = self.places.positions.iter().find(|(p, _)| self.places.head == head && *p == pos);
        known.map(|(_, place)| place.clone())
    }

    /// Where `gtid` stands while the head is at `head`, if that is remembered.
    pub(super) fn known_gtid(&self, head: LogPos, gtid: &GtidPosition) -> Option<Place> {
        let known = self.places.gtid.as_ref().filter(|(g, _)| self.places.head == head && g == gtid);
        known.map(|(_, place)| place.clone())
    }
}
