//! Everything of a cluster that is in etcd, as last told.

use std::collections::BTreeMap;

use etcd_client::KeyValue;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Versioned, parse};
use crate::keys::Keys;
use crate::records::{
    ControllerRecord, EpochRecord, LeaderRecord, LeftRecord, NodeRecord, PausedRecord, RelayRecord, SwitchoverRequest,
};
use crate::state::ClusterState;

/// All documents but the history. What can't be read is left out and named in `errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// etcd's revision that this holds at; 0: nothing was read yet.
    pub revision: i64,
    /// When etcd last gave a sign that this is what it has; sent by a majority's leader.
    pub heard: Instant,
    /// Whether etcd answers at present.
    pub healthy: bool,
    /// Why not, as far as it is known.
    pub trouble: Option<String>,
    /// Who leads; the create revision is the term.
    pub leader: Option<Versioned<LeaderRecord>>,
    /// The state; none: not bootstrapped.
    pub state: Option<Versioned<ClusterState>>,
    /// Nodes, by name.
    pub nodes: BTreeMap<String, NodeRecord>,
    /// Relays, by name.
    pub relays: BTreeMap<String, RelayRecord>,
    /// Controllers, by name.
    pub controllers: BTreeMap<String, ControllerRecord>,
    /// Epochs, by number.
    pub epochs: BTreeMap<u64, EpochRecord>,
    /// What was asked for.
    pub request: Option<Versioned<SwitchoverRequest>>,
    /// Set while automatic failover rests.
    pub paused: Option<Versioned<PausedRecord>>,
    /// Set once the cluster was given up.
    pub left: Option<Versioned<LeftRecord>>,
    /// Settings that all share.
    pub config: Option<Versioned<serde_json::Value>>,
    /// Keys that can't be read, and why.
    pub errors: BTreeMap<String, String>,
}

impl Snapshot {
    pub(super) fn empty() -> Self {
        Self {
            revision: 0,
            heard: Instant::now(),
            healthy: false,
            trouble: None,
            leader: None,
            state: None,
            nodes: BTreeMap::new(),
            relays: BTreeMap::new(),
            controllers: BTreeMap::new(),
            epochs: BTreeMap::new(),
            request: None,
            paused: None,
            left: None,
            config: None,
            errors: BTreeMap::new(),
        }
    }

    /// The leader's term.
    pub fn term(&self) -> Option<u64> {
        self.leader.as_ref().and_then(|l| u64::try_from(l.create_revision).ok())
    }

    /// What relays go by: the state, or the last one of a cluster that was given up. Replication goes on there, and so does acknowledging, for as
    /// long as the primary waits for it.
    pub fn last_state(&self) -> Option<&ClusterState> {
        let left = self.left.as_ref().map(|l| &l.value.state);
        self.state.as_ref().map(|s| &s.value).or(left)
    }

    /// The node that the state names primary.
    pub fn primary(&self) -> Option<&str> {
        self.state.as_ref().and_then(|s| s.value.primary.as_deref())
    }

    /// Takes a key as it is now.
    pub(super) fn set(&mut self, keys: &Keys, kv: &KeyValue) {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        let Some(rest) = key.strip_prefix(keys.prefix()) else { return };
        self.errors.remove(rest);
        let problem = match rest.split_once('/') {
            Some(("nodes", name)) => insert(&mut self.nodes, name.to_owned(), kv),
            Some(("relays", name)) => insert(&mut self.relays, name.to_owned(), kv),
            Some(("controllers", name)) => insert(&mut self.controllers, name.to_owned(), kv),
            Some(("epochs", number)) => match number.parse() {
                Ok(number) => insert(&mut self.epochs, number, kv),
                Err(_) => Some("the name is no number".to_owned()),
            },
            None => match rest {
                "state" => take(&mut self.state, kv),
                "leader" => take(&mut self.leader, kv),
                "request" => take(&mut self.request, kv),
                "paused" => take(&mut self.paused, kv),
                "left" => take(&mut self.left, kv),
                "config" => take(&mut self.config, kv),
                _ => None,
            },
            Some(_) => None,
        };
        if let Some(problem) = problem {
            self.errors.insert(rest.to_owned(), problem);
        }
    }

    /// Takes that a key is gone.
    pub(super) fn unset(&mut self, keys: &Keys, kv: &KeyValue) {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        let Some(rest) = key.strip_prefix(keys.prefix()) else { return };
        self.errors.remove(rest);
        match rest.split_once('/') {
            Some(("nodes", name)) => drop(self.nodes.remove(name)),
            Some(("relays", name)) => drop(self.relays.remove(name)),
            Some(("controllers", name)) => drop(self.controllers.remove(name)),
            Some(("epochs", number)) => drop(number.parse().ok().and_then(|n: u64| self.epochs.remove(&n))),
            Some(_) => {}
            None => match rest {
                "state" => self.state = None,
                "leader" => self.leader = None,
                "request" => self.request = None,
                "paused" => self.paused = None,
                "left" => self.left = None,
                "config" => self.config = None,
                _ => {}
            },
        }
    }
}

/// Puts a document into a map; gives what is wrong with it. A document that can't be read takes the place of the one before: it is gone.
fn insert<K: Ord, T: DeserializeOwned>(map: &mut BTreeMap<K, T>, key: K, kv: &KeyValue) -> Option<String> {
    match parse(kv) {
        Ok(Versioned { value, .. }) => {
            map.insert(key, value);
            None
        }
        Err(error) => {
            map.remove(&key);
            Some(error.to_string())
        }
    }
}

fn take<T: DeserializeOwned>(slot: &mut Option<Versioned<T>>, kv: &KeyValue) -> Option<String> {
    match parse(kv) {
        Ok(versioned) => {
            *slot = Some(versioned);
            None
        }
        Err(error) => {
            *slot = None;
            Some(error.to_string())
        }
    }
}
