//! The thread that holds the address, and the handle to it.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::Vip;
use super::frames::{self, Mac, shown};
use super::link::{self, Link};
use super::netlink::{Lifetime, Netlink};

/// Commands that may wait for the thread.
const QUEUE: usize = 32;
/// When the address is announced again after it was taken; then every [`REPEAT`].
const ANNOUNCE: [Duration; 9] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
    Duration::from_secs(4),
    Duration::from_secs(6),
];
const REPEAT: Duration = Duration::from_secs(30);
/// A lifetime is renewed when this much of it has passed.
const RENEW: Duration = Duration::from_millis(900);
/// Between two attempts to take an address that could not be taken.
const RETRY: Duration = Duration::from_millis(500);
/// How long it counts that nobody had answered for the address.
const ASKED: Duration = Duration::from_secs(2);
/// Between two looks at the interface's carrier.
const LOOK: Duration = Duration::from_millis(500);
/// For the thread to obey; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressStatus {
    /// While the interface holds it.
    pub held: Option<Vip>,
    /// Why it could not be taken, or that it was lost.
    pub error: Option<String>,
    /// Whether the interface has a carrier; none: not known.
    pub carrier: Option<bool>,
}

/// Other nodes of the cluster, by hardware address.
type Peers = Arc<Mutex<BTreeMap<Mac, String>>>;

/// More than a cluster has nodes: what is learned stays bounded.
const MAX_PEERS: usize = 256;

enum Command {
    Hold(Vip, Option<oneshot::Sender<()>>),
    /// The address that may be there although this process has not taken it.
    Drop(Option<Vip>, Option<oneshot::Sender<()>>),
    Ask(Vip),
    /// It is to stay without being renewed.
    Leave(Vip, oneshot::Sender<Result<(), String>>),
}

/// The handle. See the parent module.
pub struct Keeper {
    /// None without an interface.
    commands: Option<SyncSender<Command>>,
    status: watch::Receiver<AddressStatus>,
    interface: Option<String>,
    peers: Peers,
}

impl Keeper {
    /// Starts the thread; without an interface there is none, and nothing is ever held.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(interface: Option<String>, valid_for: Duration) -> std::io::Result<Self> {
        let (status, told) = watch::channel(AddressStatus::default());
        let peers = Peers::default();
        let Some(interface) = interface else {
            return Ok(Self { commands: None, status: told, interface: None, peers });
        };
        let (commands, received) = sync_channel(QUEUE);
        let holder = Holder {
            interface: interface.clone(),
            valid_for,
            status,
            held: None,
            asked: None,
            tried: None,
            netlink: None,
            looked: None,
            peers: Arc::clone(&peers),
        };
        std::thread::Builder::new().name("address".to_owned()).spawn(move || holder.run(&received))?;
        Ok(Self { commands: Some(commands), status: told, interface: Some(interface), peers })
    }

    /// The interface's hardware address, in text; none without one.
    pub fn hardware(&self) -> Option<String> {
        self.interface.as_deref().and_then(link::mac_of).map(shown)
    }

    /// Remembers a peer by its hardware address, if `hardware` is one. A peer that still answers for the address does not keep this node from taking it:
    /// only a node that was deposed can, and the kernel of one that is frozen does until the address' lifetime is over.
    pub fn know(&self, peer: &str, hardware: &str) {
        let Some(mac) = frames::read(hardware).filter(|mac| *mac != Mac::default()) else { return };
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() < MAX_PEERS || peers.contains_key(&mac) {
            peers.insert(mac, peer.to_owned());
        }
    }

    /// Whether this node can hold an address at all.
    pub fn has_interface(&self) -> bool {
        self.commands.is_some()
    }

    /// What is known of the address.
    pub fn status(&self) -> watch::Receiver<AddressStatus> {
        self.status.clone()
    }

    /// Takes the address, or keeps it for another `valid_for`. Returns at once.
    pub fn hold(&self, vip: Vip) {
        self.send(Command::Hold(vip, None));
    }

    /// As [`hold`](Self::hold), and returns when it was tried.
    pub async fn hold_now(&self, vip: Vip) {
        let (done, wait) = oneshot::channel();
        if self.send(Command::Hold(vip, Some(done))) {
            let _tried = timeout(PATIENCE, wait).await;
        }
    }

    /// Asks whether anybody has the address, so that taking it soon after need not ask. Returns at once.
    pub fn ask(&self, vip: Vip) {
        self.send(Command::Ask(vip));
    }

    /// Lets go of it, and of `also` even if this process has not taken it. Returns at once.
    pub fn let_go(&self, also: Option<Vip>) {
        self.send(Command::Drop(also, None));
    }

    /// Lets go of it, and returns when it is gone.
    pub async fn drop_now(&self) {
        let (done, wait) = oneshot::channel();
        if self.send(Command::Drop(None, Some(done))) && timeout(PATIENCE, wait).await.is_err() {
            tracing::error!(
                "the virtual IP could not be removed in time; the kernel removes it when its lifetime is over"
            );
        }
    }

    /// Has the address stay for good, taking it if it is not here, and cares for it no more.
    ///
    /// # Errors
    /// Why it is not here to stay.
    pub async fn leave(&self, vip: Vip) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        if !self.send(Command::Leave(vip, done)) {
            return Err(format!("{vip} can't be left: there is no interface for it, or its thread is behind"));
        }
        let answer = timeout(PATIENCE, wait).await;
        answer.ok().and_then(Result::ok).unwrap_or_else(|| Err(format!("{vip} was not left within {PATIENCE:?}")))
    }

    fn send(&self, command: Command) -> bool {
        let Some(commands) = &self.commands else { return false };
        match commands.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                tracing::warn!("the thread that holds the virtual IP is behind");
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

struct Held {
    vip: Vip,
    index: u32,
    renewed: Instant,
    taken: Instant,
    /// How often it was announced.
    announced: usize,
    next: Instant,
    link: Option<Link>,
}

/// An address that nobody answered for, and when that was.
struct Asked {
    vip: Vip,
    at: Instant,
    /// What it was asked over, to announce it by: to open another one takes the kernel 10 ms.
    link: Option<Link>,
}

/// What the thread owns.
struct Holder {
    interface: String,
    valid_for: Duration,
    status: watch::Sender<AddressStatus>,
    held: Option<Held>,
    /// An address that nobody answered for.
    asked: Option<Asked>,
    /// When taking it last failed.
    tried: Option<Instant>,
    netlink: Option<Netlink>,
    /// When the carrier was looked at.
    looked: Option<Instant>,
    peers: Peers,
}

impl Holder {
    /// Until the handle is gone. What is held then stays for its lifetime: a restarted agent takes it over.
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            self.look();
            let wait = self.held.as_ref().map_or(REPEAT, |h| h.next.saturating_duration_since(Instant::now()));
            match commands.recv_timeout(wait.min(LOOK)) {
                Ok(Command::Hold(vip, done)) => {
                    self.hold(vip);
                    answer(done);
                }
                Ok(Command::Drop(also, done)) => {
                    self.release(also);
                    answer(done);
                }
                Ok(Command::Ask(vip)) if self.asked_lately(vip) || self.held.is_some() => {}
                Ok(Command::Ask(vip)) => {
                    if let Err(error) = self.ask(vip) {
                        self.fail(error);
                    }
                }
                Ok(Command::Leave(vip, done)) => {
                    // Whoever asked may have given up.
                    let _ = done.send(self.leave(vip));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.announce();
            self.expire();
        }
    }

    /// Looks at the carrier, also while the address is elsewhere: whoever takes it next should have one.
    fn look(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let carrier = link::carries(&self.interface).ok();
        self.status.send_if_modified(|s| std::mem::replace(&mut s.carrier, carrier) != carrier);
    }

    fn hold(&mut self, vip: Vip) {
        if self.held.as_ref().is_some_and(|h| h.vip != vip) {
            self.release(None);
        }
        let result = match &self.held {
            Some(held) if held.renewed.elapsed() < RENEW => return,
            Some(_) => self.renew(),
            None if self.tried.is_some_and(|t| t.elapsed() < RETRY) => return,
            None => self.take(vip),
        };
        match result {
            Ok(()) => self.tried = None,
            Err(error) => {
                self.tried = Some(Instant::now());
                self.fail(error);
            }
        }
    }

    /// Whether nobody answered for the address a short while ago.
    fn asked_lately(&self, vip: Vip) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.vip == vip && asked.at.elapsed() < ASKED)
    }

    fn take(&mut self, vip: Vip) -> Result<(), String> {
        if !self.asked_lately(vip) {
            self.ask(vip)?;
        }
        let link = self.asked.take().and_then(|asked| asked.link);
        let (index, now) = (self.add(vip, Lifetime::For(self.valid_for))?, Instant::now());
        self.held = Some(Held { vip, index, renewed: now, taken: now, announced: 0, next: now, link });
        self.status.send_modify(|s| (s.held, s.error) = (Some(vip), None));
        tracing::info!(%vip, interface = self.interface, "the virtual IP is held");
        Ok(())
    }

    fn renew(&mut self) -> Result<(), String> {
        let Some(vip) = self.held.as_ref().map(|h| h.vip) else { return Ok(()) };
        let index = self.add(vip, Lifetime::For(self.valid_for))?;
        if let Some(held) = &mut self.held {
            (held.index, held.renewed) = (index, Instant::now());
        }
        if !link::carries(&self.interface).unwrap_or(true) {
            return Err(format!("{} has lost its carrier: nobody reaches {} over it", self.interface, vip.ip));
        }
        self.status.send_if_modified(|s| s.error.take().is_some());
        Ok(())
    }

    fn leave(&mut self, vip: Vip) -> Result<(), String> {
        if self.held.as_ref().is_none_or(|h| h.vip != vip) {
            self.take(vip)?;
            self.announce();
        }
        self.add(vip, Lifetime::Ever)?;
        self.held = None;
        self.status.send_replace(AddressStatus::default());
        tracing::info!(%vip, interface = self.interface, "the virtual IP is left here for good");
        Ok(())
    }

    fn add(&mut self, vip: Vip, lifetime: Lifetime) -> Result<u32, String> {
        let interface = self.interface.clone();
        self.with_netlink(|netlink| {
            let index = netlink.index(&interface)?;
            netlink.add(index, vip, lifetime)?;
            Ok(index)
        })
        .map_err(|e| format!("{vip} can't be added to {}: {e}{}", self.interface, advice(&e)))
    }

    /// An error if somebody answers for the address.
    fn ask(&mut self, vip: Vip) -> Result<(), String> {
        let link = Link::open(&self.interface, vip.ip)
            .map_err(|e| format!("{} can't be asked on {}: {e}{}", vip.ip, self.interface, advice(&e)))?;
        let owner = match &link {
            Some(link) => link
                .ask(vip.ip, |mac| self.passes(vip, mac))
                .map_err(|e| format!("{} can't be asked for: {e}", vip.ip))?,
            None => None,
        };
        match owner {
            Some(mac) => Err(format!("{} is taken by another host with the hardware address {}", vip.ip, shown(mac))),
            None => {
                self.asked = Some(Asked { vip, at: Instant::now(), link });
                Ok(())
            }
        }
    }

    /// Whether it is a peer that answers for the address.
    fn passes(&self, vip: Vip, mac: Mac) -> bool {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.get(&mac);
        if let Some(peer) = peer {
            tracing::info!(%vip, peer, mac = shown(mac), "a deposed server's host still answers for the virtual IP: it is taken all the same");
        }
        peer.is_some()
    }

    fn release(&mut self, also: Option<Vip>) {
        self.asked = None;
        self.tried = None;
        let held = self.held.take();
        let interface = self.interface.clone();
        for vip in held.iter().map(|h| h.vip).chain(also.filter(|a| held.as_ref().is_none_or(|h| h.vip != *a))) {
            let removed = self.with_netlink(|netlink| {
                let index = netlink.index(&interface)?;
                netlink.remove(index, vip)
            });
            match removed {
                Ok(true) => tracing::info!(%vip, interface, "the virtual IP was removed"),
                Ok(false) => {}
                Err(error) => {
                    let left = self.valid_for;
                    tracing::error!(%vip, %error, "the virtual IP can't be removed; the kernel removes it within {left:?}");
                }
            }
        }
        self.status.send_if_modified(|s| s.held.take().is_some() | s.error.take().is_some());
    }

    fn announce(&mut self) {
        let Some(held) = self.held.as_mut().filter(|h| Instant::now() >= h.next) else { return };
        let told = held.link.as_ref().map_or(Ok(()), |link| link.announce(held.vip.ip));
        if let Err(error) = told {
            tracing::debug!(%error, "the virtual IP could not be announced");
        }
        held.next = match ANNOUNCE.get(held.announced) {
            Some(after) => held.taken + *after,
            None => Instant::now() + REPEAT,
        };
        held.announced += 1;
    }

    /// Notes that the kernel has taken the address away: nobody has renewed it.
    fn expire(&mut self) {
        if self.held.as_ref().is_some_and(|h| h.renewed.elapsed() > self.valid_for) {
            self.held = None;
            let error = Some(format!("it was lost: it could not be renewed for {:?}", self.valid_for));
            self.status.send_modify(|s| (s.held, s.error) = (None, error));
        }
    }

    fn fail(&self, error: String) {
        self.status.send_if_modified(|s| {
            if s.error.as_ref() == Some(&error) {
                return false;
            }
            tracing::error!(error, "the virtual IP");
            s.error = Some(error);
            true
        });
    }

    fn with_netlink<T>(&mut self, work: impl FnOnce(&mut Netlink) -> std::io::Result<T>) -> std::io::Result<T> {
        let mut netlink = match self.netlink.take() {
            Some(netlink) => netlink,
            None => Netlink::open()?,
        };
        let done = work(&mut netlink);
        // One that timed out may still get an old answer.
        if !matches!(&done, Err(e) if e.kind() == std::io::ErrorKind::TimedOut) {
            self.netlink = Some(netlink);
        }
        done
    }
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "; run the agent as root or with CAP_NET_ADMIN and CAP_NET_RAW",
        std::io::ErrorKind::NotFound => "; correct address.interface",
        _ => "",
    }
}

fn answer(done: Option<oneshot::Sender<()>>) {
    if let Some(done) = done {
        // Whoever asked may have given up.
        let _ = done.send(());
    }
}
