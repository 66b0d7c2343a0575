//! Who is attached: one entry a replica, shared by its session, the lag pollers and the HTTP interface.
//!
//! Owns the list and its bounds. A replica that left stays listed as `gone`, so that its silence is visible; the oldest such entries are
//! dropped beyond [`MAX_GONE`].

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Micros;
use crate::log::LogPos;

/// Entries of replicas that left, at most.
pub const MAX_GONE: usize = 1024;

/// What a replica said of itself before it asked for the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaIdentity {
    /// The relay's number of its connection: what `KILL` takes.
    pub connection: u32,
    /// `server_id`; 0 for a client that does not register (a one-shot `mariadb-binlog`).
    pub server_id: u32,
    /// `@slave_uuid`, of those that have one.
    pub uuid: Option<String>,
    /// `report_host`, empty if not set.
    pub report_host: String,
    /// `report_port`: where the replica's own server listens; 0 if not told.
    pub report_port: u16,
    /// The account it logged in with.
    pub user: String,
    /// Peer address of the replication connection.
    pub peer: SocketAddr,
    /// Whether it is a registered replica (which the lag pollers ask) and not just a reader of the log.
    pub registered: bool,
    /// Whether it is a relay: it applies nothing, and is not asked.
    pub relay: bool,
}

/// What a replica's stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ReplicaState {
    /// Logged in, not streaming yet.
    Connecting = 0,
    /// Receiving the log.
    Streaming = 1,
    /// Ahead of this relay: kept with heartbeats until the relay has caught up.
    Held = 2,
    /// Ended with an error that stops it.
    Stopped = 3,
    /// It left.
    Gone = 4,
}

impl ReplicaState {
    /// As the lag endpoint spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Streaming => "streaming",
            Self::Held => "held",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Connecting,
            1 => Self::Streaming,
            2 => Self::Held,
            3 => Self::Stopped,
            _ => Self::Gone,
        }
    }
}

/// One attached replica. Its session writes the progress; everybody may read it.
#[derive(Debug)]
pub struct Replica {
    /// What it said of itself.
    pub identity: ReplicaIdentity,
    /// When it attached.
    pub since: Micros,
    /// Ends its session when cancelled.
    pub cancel: CancellationToken,
    state: AtomicU8,
    changed: AtomicU64,
    sent: Place,
    sent_bytes: AtomicU64,
    semi_sync: AtomicBool,
    acked: Place,
    error: Mutex<Option<String>>,
    replaced: AtomicBool,
    replaces: OnceLock<String>,
}

impl Replica {
    fn new(identity: ReplicaIdentity, cancel: CancellationToken) -> Self {
        let now = Micros::now();
        Self {
            identity,
            since: now,
            cancel,
            state: AtomicU8::new(ReplicaState::Connecting as u8),
            changed: AtomicU64::new(now.0.unsigned_abs()),
            sent: Place::default(),
            sent_bytes: AtomicU64::new(0),
            semi_sync: AtomicBool::new(false),
            acked: Place::default(),
            error: Mutex::new(None),
            replaced: AtomicBool::new(false),
            replaces: OnceLock::new(),
        }
    }

    /// Which live stream of the same server it ended: its address and connection. That is a replica that came back before its
    /// old connection was noticed to be dead, or two servers with one server id.
    pub fn replaces(&self) -> Option<&str> {
        self.replaces.get().map(String::as_str)
    }

    /// What its stream is doing.
    pub fn state(&self) -> ReplicaState {
        ReplicaState::from_u8(self.state.load(Ordering::Acquire))
    }

    /// When its state last changed.
    pub fn state_since(&self) -> Micros {
        Micros(i64::try_from(self.changed.load(Ordering::Acquire)).unwrap_or(i64::MAX))
    }

    /// Sets what its stream is doing.
    pub fn set_state(&self, state: ReplicaState) {
        if self.state.swap(state as u8, Ordering::AcqRel) != state as u8 {
            self.changed.store(Micros::now().0.unsigned_abs(), Ordering::Release);
        }
    }

    /// Sets the error that its stream ended with.
    pub fn set_error(&self, text: impl Into<String>) {
        *lock(&self.error) = Some(text.into());
    }

    /// The error that its stream ended with.
    pub fn error(&self) -> Option<String> {
        lock(&self.error).clone()
    }

    /// Notes that the same server has attached anew, so that this stream has to end.
    pub fn set_replaced(&self) {
        self.replaced.store(true, Ordering::Release);
    }

    /// Whether the same server has attached anew.
    pub fn replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// Whether its stream has ended, for whatever reason.
    pub fn has_ended(&self) -> bool {
        matches!(self.state(), ReplicaState::Gone | ReplicaState::Stopped)
    }

    /// Notes that everything up to `pos` was handed to the network; `bytes` more went out.
    pub fn note_sent(&self, pos: LogPos, bytes: u64) {
        self.sent.set(pos);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Up to where everything was handed to the network; `None` before the stream began.
    pub fn sent(&self) -> Option<LogPos> {
        self.sent.get()
    }

    /// Notes that it acknowledges, and that everything up to `pos` has arrived there.
    pub fn note_acked(&self, pos: LogPos) {
        self.semi_sync.store(true, Ordering::Release);
        self.acked.set(pos);
    }

    /// Whether it acknowledges what it receives (semi-sync).
    pub fn semi_sync(&self) -> bool {
        self.semi_sync.load(Ordering::Acquire)
    }

    /// Up to where everything has arrived there: what it has acknowledged; of one that does not acknowledge, what was handed to
    /// the network. `None` before the stream began.
    pub fn received(&self) -> Option<LogPos> {
        if self.semi_sync() { self.acked.get() } else { self.sent() }
    }

    /// Bytes sent to it in all.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }
}

/// A place in the log that one task moves and everybody reads; nowhere at first.
#[derive(Debug, Default)]
struct Place {
    file: AtomicU64,
    offset: AtomicU64,
}

impl Place {
    /// Stands in for the file while it changes.
    const MOVING: u64 = u64::MAX;

    fn set(&self, pos: LogPos) {
        let moves = self.file.load(Ordering::Relaxed) != pos.file;
        if moves {
            self.file.store(Self::MOVING, Ordering::Release);
        }
        self.offset.store(pos.offset, Ordering::Release);
        if moves {
            self.file.store(pos.file, Ordering::Release);
        }
    }

    fn get(&self) -> Option<LogPos> {
        loop {
            let file = self.file.load(Ordering::Acquire);
            let offset = self.offset.load(Ordering::Acquire);
            if file != Self::MOVING && self.file.load(Ordering::Acquire) == file {
                return (file != 0).then_some(LogPos { file, offset });
            }
            std::hint::spin_loop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All replicas, by connection number.
#[derive(Debug)]
pub struct Registry {
    entries: Mutex<BTreeMap<u32, Arc<Replica>>>,
    changes: watch::Sender<u64>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { entries: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Registry {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Adds a replica. Live ones with the same non-zero server id (or the same uuid) are returned: the caller ends their
    /// streams. Entries of the same server that are gone are replaced.
    pub fn attach(&self, identity: ReplicaIdentity, cancel: CancellationToken) -> (Arc<Replica>, Vec<Arc<Replica>>) {
        let replica = Arc::new(Replica::new(identity, cancel));
        let mut entries = lock(&self.entries);
        let mut older = Vec::new();
        entries.retain(|_, other| {
            if !same_server(&other.identity, &replica.identity) {
                return true;
            }
            if other.has_ended() {
                return false;
            }
            older.push(Arc::clone(other));
            true
        });
        entries.insert(replica.identity.connection, Arc::clone(&replica));
        drop(entries);
        if let Some(last) = older.last() {
            let text = format!("{} (connection {})", last.identity.peer, last.identity.connection);
            // Nobody else has it yet: it is unset.
            let _ = replica.replaces.set(text);
        }
        self.notify();
        (replica, older)
    }

    /// Notes that a replica's session ended. A mere reader of the log is forgotten, a registered one stays as `gone`
    /// unless the same server is attached again.
    pub fn detach(&self, replica: &Arc<Replica>) {
        if replica.state() != ReplicaState::Stopped {
            replica.set_state(ReplicaState::Gone);
        }
        let mut entries = lock(&self.entries);
        let replaced = entries.values().any(|o| {
            o.identity.connection != replica.identity.connection && same_server(&o.identity, &replica.identity)
        });
        if replaced || !replica.identity.registered {
            entries.remove(&replica.identity.connection);
        }
        let ended: Vec<u32> = entries.iter().filter(|(_, r)| r.has_ended()).map(|(id, _)| *id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(MAX_GONE)) {
            entries.remove(id);
        }
        drop(entries);
        self.notify();
    }

    /// Everyone, in the order in which they attached.
    pub fn list(&self) -> Vec<Arc<Replica>> {
        lock(&self.entries).values().cloned().collect()
    }

    /// The replica on a connection.
    pub fn get(&self, connection: u32) -> Option<Arc<Replica>> {
        lock(&self.entries).get(&connection).cloned()
    }

    /// Wakes at each attach and detach.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Everyone with the name by which the lag endpoint knows it: its `report_host`, else `server-<id>`; where two servers share
    /// one, `:port` is appended.
    pub fn named(&self) -> Vec<(String, Arc<Replica>)> {
        let all = self.list();
        // A server that attaches anew shares its name with its older connection, not with another server.
        let mut owners: HashMap<String, Option<u32>> = HashMap::new();
        for replica in &all {
            let id = replica.identity.server_id;
            let owner = owners.entry(base_name(&replica.identity)).or_insert(Some(id));
            *owner = owner.filter(|known| *known == id);
        }
        let name = |identity: &ReplicaIdentity| {
            let base = base_name(identity);
            let shared = owners.get(&base).is_some_and(Option::is_none);
            if shared { format!("{base}:{}", identity.report_port) } else { base }
        };
        all.iter().map(|replica| (name(&replica.identity), Arc::clone(replica))).collect()
    }

    fn notify(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

fn base_name(identity: &ReplicaIdentity) -> String {
    if identity.report_host.is_empty() {
        format!("server-{}", identity.server_id)
    } else {
        identity.report_host.clone()
    }
}

fn same_server(a: &ReplicaIdentity, b: &ReplicaIdentity) -> bool {
    (a.server_id != 0 && a.server_id == b.server_id) || (a.uuid.is_some() && a.uuid == b.uuid)
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
