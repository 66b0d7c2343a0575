//! Names of the keys in etcd, all under `/baton/<cluster>/`.

/// The keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Those of `cluster`.
    pub fn new(cluster: &str) -> Self {
        Self { prefix: format!("/baton/{cluster}/") }
    }

    /// What all keys of the cluster begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// [`ClusterState`](crate::ClusterState).
    pub fn state(&self) -> String {
        format!("{}state", self.prefix)
    }

    /// [`LeaderRecord`](crate::LeaderRecord), under the leader's lease; its create revision is the term.
    pub fn leader(&self) -> String {
        format!("{}leader", self.prefix)
    }

    /// [`NodeRecord`](crate::NodeRecord), under the agent's lease.
    pub fn node(&self, name: &str) -> String {
        format!("{}nodes/{name}", self.prefix)
    }

    /// [`RelayRecord`](crate::RelayRecord), under the relay's lease.
    pub fn relay(&self, name: &str) -> String {
        format!("{}relays/{name}", self.prefix)
    }

    /// [`ControllerRecord`](crate::ControllerRecord), under the controller's lease.
    pub fn controller(&self, name: &str) -> String {
        format!("{}controllers/{name}", self.prefix)
    }

    /// [`EpochRecord`](crate::EpochRecord); kept for ever.
    pub fn epoch(&self, epoch: u64) -> String {
        format!("{}epochs/{epoch:010}", self.prefix)
    }

    /// [`HistoryRecord`](crate::HistoryRecord).
    pub fn history(&self, epoch: u64) -> String {
        format!("{}history/{epoch:010}", self.prefix)
    }

    /// [`SwitchoverRequest`](crate::SwitchoverRequest).
    pub fn request(&self) -> String {
        format!("{}request", self.prefix)
    }

    /// [`PausedRecord`](crate::PausedRecord); the key is there while automatic failover is paused.
    pub fn paused(&self) -> String {
        format!("{}paused", self.prefix)
    }

    /// [`LeftRecord`](crate::LeftRecord); the key is there once the cluster was given up, until it is taken up again.
    pub fn left(&self) -> String {
        format!("{}left", self.prefix)
    }

    /// Settings that all controllers share, as JSON.
    pub fn config(&self) -> String {
        format!("{}config", self.prefix)
    }
}
