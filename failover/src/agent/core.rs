//! What all parts of the agent share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use baton_cluster::store::{Snapshot, Store};
use tokio::sync::watch;

use super::address::{Keeper, Vip};
use super::contact::Contact;
use super::host::Host;
use super::kept::{Duty, Kept, Known};
use super::metrics::Metrics;
use super::orders::Desk;
use super::poll::Observed;
use super::sql::Db;
use super::watched::Watched;
use crate::config::AgentConfig;
use crate::http::Client;
use crate::model::{AgentStatus, ServerRole};

/// What is known besides of the server's answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra {
    /// Progress of a clone; none if none runs.
    pub clone: Option<String>,
    /// Whether writes to the data directory's file system succeed in time.
    pub disk_ok: Option<bool>,
    /// Milliseconds that this server's replication is behind its relay, as the relay says, and when that was.
    pub lag: Option<(u64, Instant)>,
}

/// A process that was made writable.
#[derive(Debug, Clone, Copy)]
struct Opened {
    pid: i32,
    epoch: u64,
    at: Instant,
}

/// See the module.
pub struct Core {
    /// What this agent was told.
    pub config: AgentConfig,
    /// etcd.
    pub store: Store,
    /// The cluster, as etcd has it.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What this node is for.
    pub duty: Kept<Duty>,
    /// What is convenient to know.
    pub known: Kept<Known>,
    /// The server's process.
    pub host: Host,
    /// The way into the server.
    pub db: Db,
    /// The server's answers.
    pub observed: Watched<Observed>,
    /// The virtual IP.
    pub address: Keeper,
    /// When somebody was last in touch.
    pub contact: Contact,
    /// Orders, one at a time.
    pub desk: Desk,
    /// To relays, controllers and other agents, with the cluster's token.
    pub client: Client,
    /// Further facts.
    pub extra: Watched<Extra>,
    /// The address of another process that is announced under this node's name.
    pub taken: Watched<Option<String>>,
    /// What is counted.
    pub metrics: Metrics,
    /// The epoch under whose state the process with this id was made writable.
    opened: Mutex<Option<Opened>>,
    /// The virtual IP that the controllers said last.
    told_vip: Mutex<Option<Vip>>,
}

impl Core {
    /// All parts, of which the store follows etcd already.
    pub fn new(
        config: AgentConfig,
        store: Store,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        supervised: bool,
    ) -> anyhow::Result<Self> {
        let address = Keeper::start(config.address.interface.clone(), config.address.valid_for)?;
        Ok(Self {
            duty: Kept::open(config.data_dir.join("role.json"))?,
            known: Kept::open(config.data_dir.join("known.json"))?,
            host: Host::new(supervised),
            db: Db::new(&config.mysql),
            observed: Watched::default(),
            address,
            contact: Contact::new(config.address.fence_after),
            desk: Desk::default(),
            client: Client::new(Some(&config.token)),
            extra: Watched::default(),
            taken: Watched::default(),
            metrics: Metrics::new(),
            opened: Mutex::new(None),
            told_vip: Mutex::new(None),
            store,
            snapshots,
            config,
        })
    }

    /// The cluster at present.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// The virtual IP: this node's own setting, else what the controllers say.
    ///
    /// # Errors
    /// What they say is no address.
    pub fn vip(&self) -> Result<Option<Vip>, String> {
        if let Some(own) = &self.config.address.vip {
            return own.parse().map(Some);
        }
        let snapshot = self.snapshot();
        let mut told = self.told_vip.lock().unwrap_or_else(PoisonError::into_inner);
        // What can't be read, or is gone, takes no address away.
        let Some(config) = &snapshot.config else { return Ok(*told) };
        let get = |key: &str| config.value.get(key).and_then(|v| v.as_str());
        if get("provider").is_some_and(|p| p != "agent") {
            *told = None;
            return Ok(None);
        }
        if config.value.get("vip").is_none() {
            return Ok(*told);
        }
        let vip = get("vip").filter(|v| !v.is_empty());
        *told = vip.map(|v| v.parse().map_err(|e| format!("the cluster's vip {v:?}: {e}"))).transpose()?;
        Ok(*told)
    }

    /// Notes that the running process was made writable, or found so, under the state of `epoch`; none: that it is not any more.
    pub fn note_opened(&self, epoch: Option<u64>) {
        let pid = self.host.alive().map(|p| p.identity().pid);
        let opened = pid.zip(epoch).map(|(pid, epoch)| Opened { pid, epoch, at: Instant::now() });
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = opened;
    }

    fn opened(&self) -> Option<Opened> {
        let process = self.host.alive()?.identity().pid;
        let opened = *self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.filter(|o| o.pid == process)
    }

    /// The epoch under whose state the running process was made writable.
    pub fn opened_epoch(&self) -> Option<u64> {
        self.opened().map(|o| o.epoch)
    }

    /// `read_only` of the running process: as it was made, if the server was not asked since, else as it said; none: it was never asked.
    pub fn read_only(&self) -> Option<bool> {
        let observed = self.observed.get();
        match self.opened() {
            Some(opened) if observed.at.is_none_or(|asked| asked < opened.at) => Some(false),
            _ => observed.answer.map(|a| a.status.read_only).filter(|_| self.host.alive().is_some()),
        }
    }

    /// Milliseconds that this replica is behind: as its relay says, else as the server itself says; none if it is not known.
    pub fn lag_ms(&self) -> Option<u64> {
        if let Some((lag, at)) = self.extra.get().lag {
            // Old news of a replica that lagged: it may lag since.
            let age = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            return Some(if age < 2000 && lag == 0 { 0 } else { lag.saturating_add(age) });
        }
        let seconds = self.observed.get().answer.and_then(|a| a.seconds_behind);
        seconds.map(|s| s.saturating_mul(1000))
    }

    /// Everything that is told of this node.
    pub fn status(&self) -> AgentStatus {
        let (state, observed, duty) = (self.host.state(), self.observed.get(), self.duty.get());
        let (extra, address) = (self.extra.get(), self.address.status().borrow().clone());
        let fresh = observed.is_fresh(&self.config.mysql);
        let millis = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let order = duty.last_order;
        let no_interface = || match self.vip() {
            Ok(Some(vip)) if !self.address.has_interface() => {
                Some(format!("{vip} is never held here: address.interface is not configured"))
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        AgentStatus {
            cluster: self.config.cluster.clone(),
            node: self.config.node.clone(),
            mysqld: state.told(fresh),
            mysqld_ms: millis(state.since),
            role: duty.role,
            server: observed.answer.as_ref().filter(|_| fresh).map(|a| a.status.clone()),
            server_age_ms: observed.at.map(millis),
            error: observed.error.filter(|_| state.alive().is_some()).or(match &state.process {
                super::host::ServerProcess::Dead(how) => Some(format!("the server is dead: {how}")),
                super::host::ServerProcess::Waiting(why) => Some(why.clone()),
                super::host::ServerProcess::Alive(_) => None,
            }),
            disk_ok: extra.disk_ok,
            address: address.held.map(|vip| vip.to_string()),
            address_error: address.error.or_else(no_interface),
            carrier: address.carrier,
            etcd_ok: Some(self.snapshot().healthy),
            self_fenced: duty.self_fenced,
            given_up: duty.given_up,
            last_order: [order.term, order.epoch, order.step],
            clone: extra.clone,
            surplus: duty.surplus.map(|path| path.display().to_string()),
        }
    }

    /// Whether the server is, or was, what clients write to: then it must not live while this node is cut off.
    pub fn may_be_primary(&self) -> bool {
        let duty = self.duty.get();
        let primary = duty.role == ServerRole::Primary && self.host.alive().is_some();
        primary || self.address.status().borrow().held.is_some()
    }
}
