//! A TCP proxy that injects faults: cuts, resets, stalls, flipped bits, slow links, refusal. Two threads a connection, at most [`MAX_CONNECTIONS`].
//!
//! Promises: a cut after n bytes lets exactly n bytes through; what is forwarded is what came in, but for the bit that was to be flipped; counts are
//! of forwarded bytes (the last may not have arrived). A frozen (stalled) proxy accepts connections and says nothing, as a host that hangs does.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::SendFlags;

use crate::ports::Port;

/// More connections than this at once are refused.
pub const MAX_CONNECTIONS: usize = 64;
/// Bytes forwarded at a time.
const CHUNK: usize = 16 << 10;
/// How often a slow link sends.
const TICK: Duration = Duration::from_millis(10);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What happens at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Both sides are closed; the byte and what follows do not pass.
    Cut,
    /// Both sides get a TCP reset.
    Reset,
    /// The lowest bit of the byte is inverted.
    Flip,
}

/// A fault that waits for its byte; strikes once.
#[derive(Debug, Clone, Copy)]
struct Trap {
    direction: Direction,
    effect: Effect,
    /// Bytes still to pass before it.
    left: u64,
    /// Counted on this connection only; `None`: on the next connection that is made, or, with `anywhere`, on all of them.
    connection: Option<u64>,
    anywhere: bool,
}

/// A proxy to one server; stops when dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    port: Port,
}

#[derive(Default)]
struct State {
    closed: bool,
    refusing: bool,
    stalled: [bool; 2],
    bytes_per_second: [Option<u64>; 2],
    traps: Vec<Trap>,
    live: Vec<(u64, Arc<Pair>)>,
    accepted: u64,
    struck: u64,
    forwarded: [u64; 2],
    /// The newest connection, its bytes to the client so far, and after how many of them the client spoke.
    turns: (u64, u64, Vec<u64>),
    target: Option<SocketAddr>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let port = Port::lease()?;
        let state = Mutex::new(State { target: Some(target), ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let listener = listen(port.number())?;
        let (accepting, number) = (Arc::clone(&shared), port.number());
        thread::Builder::new().name("proxy".into()).spawn(move || accept_loop(&accepting, listener, number))?;
        Ok(Self { shared, port })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// Where new connections go from now on.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.lock().target = Some(target);
    }

    /// Closes every connection now; returns how many there were.
    pub fn cut_now(&self) -> usize {
        self.end_all(Effect::Cut)
    }

    /// Resets every connection now; returns how many there were.
    pub fn reset_now(&self) -> usize {
        self.end_all(Effect::Reset)
    }

    /// Once: closes the connection on which the next `bytes` bytes in that direction have passed, counted over all connections from now on.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.arm(direction, Effect::Cut, bytes, true);
    }

    /// Once: closes the next new connection when `bytes` bytes have passed on it in that direction (0: before the first).
    pub fn cut_next_connection_at(&self, direction: Direction, bytes: u64) {
        self.arm(direction, Effect::Cut, bytes, false);
    }

    /// As [`Proxy::cut_after`], with a TCP reset.
    pub fn reset_after(&self, direction: Direction, bytes: u64) {
        self.arm(direction, Effect::Reset, bytes, true);
    }

    /// Once: inverts the lowest bit of the byte that follows the next `bytes` bytes in that direction, counted over all connections from now on.
    pub fn flip_bit_after(&self, direction: Direction, bytes: u64) {
        self.arm(direction, Effect::Flip, bytes, true);
    }

    /// Once: inverts the lowest bit of byte number `offset` (from 0) of the next new connection in that direction.
    pub fn flip_bit_in_next_connection_at(&self, direction: Direction, offset: u64) {
        self.arm(direction, Effect::Flip, offset, false);
    }

    /// Forwards nothing in either direction any more, and reads nothing; new connections are accepted and get no answer.
    pub fn stall(&self) {
        self.change(|state| state.stalled = [true; 2]);
    }

    /// Forwards nothing in one direction any more.
    pub fn stall_direction(&self, direction: Direction) {
        self.change(|state| state.stalled[direction as usize] = true);
    }

    /// Ends a stall and a slow-down.
    pub fn resume(&self) {
        self.change(|state| (state.stalled, state.bytes_per_second) = ([false; 2], [None; 2]));
    }

    /// Forwards at most so many bytes a second in one direction, on each connection.
    pub fn slow(&self, direction: Direction, bytes_per_second: u64) {
        self.change(|state| state.bytes_per_second[direction as usize] = Some(bytes_per_second.max(1)));
    }

    /// Refuses new connections (nothing listens any more), or listens again. Existing ones go on.
    pub fn refuse(&self, refuse: bool) {
        self.change(|state| state.refusing = refuse);
        if refuse {
            let _woken = TcpStream::connect(self.address());
        }
    }

    /// Bytes forwarded in one direction.
    pub fn forwarded(&self, direction: Direction) -> u64 {
        self.shared.lock().forwarded[direction as usize]
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// Connections open now.
    pub fn live(&self) -> usize {
        self.shared.lock().live.len()
    }

    /// Armed faults that have struck so far.
    pub fn struck(&self) -> u64 {
        self.shared.lock().struck
    }

    /// After how many bytes to the client it spoke, on the newest connection: where an answer ends.
    pub fn turns(&self) -> Vec<u64> {
        self.shared.lock().turns.2.clone()
    }

    /// Forgets faults that have not struck.
    pub fn disarm(&self) {
        self.change(|state| state.traps.clear());
    }

    fn arm(&self, direction: Direction, effect: Effect, left: u64, anywhere: bool) {
        self.change(|state| state.traps.push(Trap { direction, effect, left, connection: None, anywhere }));
    }

    fn end_all(&self, effect: Effect) -> usize {
        let live: Vec<_> = self.shared.lock().live.iter().map(|(_, pair)| Arc::clone(pair)).collect();
        for pair in &live {
            pair.end(effect);
        }
        self.shared.changed.notify_all();
        live.len()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|state| state.closed = true);
        self.end_all(Effect::Cut);
        let _woken = TcpStream::connect(self.address());
    }
}

impl State {
    fn note(&mut self, id: u64, direction: Direction, bytes: u64) {
        self.forwarded[direction as usize] += bytes;
        let (newest, to_client, turns) = &mut self.turns;
        match direction {
            _ if *newest != id => {}
            Direction::ToClient => *to_client += bytes,
            Direction::ToServer => turns.push(*to_client),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        // Bounded, so that a connection that ends during a stall is noticed.
        self.changed.wait_timeout(state, Duration::from_millis(200)).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Pair {
    fn end(&self, effect: Effect) {
        for stream in [&self.client, &self.server] {
            if effect == Effect::Reset {
                // With no linger time the close that follows sends a reset; shutting down only the reading side wakes the thread without a FIN.
                let _gone_already = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
                let _gone_already = stream.shutdown(Shutdown::Read);
            } else {
                let _gone_already = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn send_all(to: &TcpStream, mut bytes: &[u8], flags: SendFlags) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(to, bytes, flags))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("the proxy can't listen on port {port}"))
}

fn accept_loop(shared: &Arc<Shared>, listener: TcpListener, port: u16) {
    let mut listener = Some(listener);
    loop {
        let mut state = shared.lock();
        if state.closed {
            return;
        }
        if state.refusing {
            listener = None;
            drop(shared.wait(state));
            continue;
        }
        state.live.retain(|(_, pair)| Arc::strong_count(pair) > 1);
        drop(state);
        if listener.is_none() {
            listener = listen(port).ok();
        }
        let Some(accepted) = listener.as_ref().map(TcpListener::accept) else {
            thread::sleep(TICK);
            continue;
        };
        // Only now: it may have been changed while this waited.
        let target = shared.lock().target;
        if let (Ok((client, _)), Some(target)) = (accepted, target) {
            begin(shared, client, target);
        }
    }
}

fn begin(shared: &Arc<Shared>, client: TcpStream, target: SocketAddr) {
    let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { return };
    let _speed_only = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let mut state = shared.lock();
    if state.closed || state.refusing || state.live.len() >= MAX_CONNECTIONS {
        return;
    }
    state.accepted += 1;
    let id = state.accepted;
    for trap in state.traps.iter_mut().filter(|trap| !trap.anywhere && trap.connection.is_none()) {
        trap.connection = Some(id);
    }
    state.turns = (id, 0, Vec::new());
    let pair = Arc::new(Pair { client, server });
    state.live.push((id, Arc::clone(&pair)));
    drop(state);
    for direction in [Direction::ToServer, Direction::ToClient] {
        let (shared, pair) = (Arc::clone(shared), Arc::clone(&pair));
        thread::spawn(move || pump(&shared, id, &pair, direction));
    }
}

fn pump(shared: &Shared, id: u64, pair: &Pair, direction: Direction) {
    let (mut from, to) = match direction {
        Direction::ToServer => (&pair.client, &pair.server),
        Direction::ToClient => (&pair.server, &pair.client),
    };
    let way = direction as usize;
    let mut buffer = vec![0; CHUNK];
    let mut ended = None;
    while ended.is_none() {
        let mut limit = CHUNK;
        if !pass(shared, id, way) {
            break;
        }
        let speed = shared.lock().bytes_per_second[way];
        if let Some(speed) = speed {
            limit = usize::try_from(speed * TICK.as_millis() as u64 / 1000).unwrap_or(CHUNK).clamp(1, CHUNK);
        }
        let began = Instant::now();
        let Some(count) = from.read(&mut buffer[..limit]).ok().filter(|count| *count > 0) else { break };
        // What arrived while a stall began waits here.
        if !pass(shared, id, way) {
            break;
        }
        let bytes = &mut buffer[..count];
        let allowed = strike(shared, id, direction, bytes, &mut ended);
        // The last bytes before a cut travel with the end: who reads them sees both.
        let flags = if ended == Some(Effect::Cut) { SendFlags::MORE } else { SendFlags::empty() };
        // Counted before: the client may answer at once.
        shared.lock().note(id, direction, allowed as u64);
        if send_all(to, &bytes[..allowed], flags | SendFlags::NOSIGNAL).is_err() {
            break;
        }
        if speed.is_some() {
            thread::sleep(
                Duration::from_secs_f64(count as f64 / speed.unwrap_or(1) as f64).saturating_sub(began.elapsed()),
            );
        }
    }
    pair.end(ended.unwrap_or(Effect::Cut));
    let mut state = shared.lock();
    state.live.retain(|(other, _)| *other != id);
    drop(state);
    shared.changed.notify_all();
}

/// Waits while the direction is stalled; false once the connection or the proxy has ended.
fn pass(shared: &Shared, id: u64, way: usize) -> bool {
    let mut state = shared.lock();
    loop {
        if state.closed || !state.live.iter().any(|(other, _)| *other == id) {
            return false;
        }
        if !state.stalled[way] {
            return true;
        }
        state = shared.wait(state);
    }
}

/// Applies the traps to what is about to pass; returns how much of it passes.
fn strike(shared: &Shared, id: u64, direction: Direction, bytes: &mut [u8], ended: &mut Option<Effect>) -> usize {
    let mut state = shared.lock();
    let mut allowed = bytes.len();
    let mut struck = 0;
    state.traps.retain_mut(|trap| {
        let ours = trap.direction == direction && (trap.anywhere || trap.connection == Some(id));
        if !ours || ended.is_some() {
            return true;
        }
        // A cut strikes as soon as its bytes have passed; a flip needs the byte that follows them.
        let reach =
            if trap.effect == Effect::Flip { trap.left < bytes.len() as u64 } else { trap.left <= bytes.len() as u64 };
        if !reach {
            trap.left -= bytes.len() as u64;
            return true;
        }
        let at = trap.left as usize;
        struck += 1;
        match trap.effect {
            Effect::Flip => bytes[at] ^= 1,
            effect => {
                allowed = at;
                *ended = Some(effect);
            }
        }
        false
    });
    state.struck += struck;
    allowed
}
