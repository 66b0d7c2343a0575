//! The one document that says who is primary, and what is under way.

use serde::{Deserialize, Serialize};

use crate::grant::Grant;

/// What the cluster is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// One primary serves.
    Steady,
    /// The old primary is being kept from completing commits.
    Fencing,
    /// The candidate applies everything up to the tail.
    CatchingUp,
    /// The candidate's epoch is recorded; it becomes writable.
    Promoting,
}

/// What kind of change is under way, or brought about the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// The first epoch.
    Bootstrap,
    /// The primary was lost.
    Failover,
    /// Somebody asked for another primary.
    Switchover,
}

/// Who or what ordered an operation, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// `controller-1`, or the user who asked.
    pub by: String,
    /// One sentence.
    pub reason: String,
}

/// The end of a log, as the relay that promised told it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Tail {
    /// Full GTID position.
    pub gtid: String,
    /// Name of the log's last file; empty for an empty log.
    pub file: String,
    /// Offset in it.
    pub position: u64,
}

/// How the servers know a relay.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayAccount {
    /// Its account.
    pub user: String,
    /// Its `server_id`: names its dump thread.
    pub server_id: u32,
    /// Where it stands: what shares a host dies together.
    #[serde(default)]
    pub host: String,
}

/// `/baton/<cluster>/state`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    /// Grows by one at each change of primary that is begun (each choice of a candidate takes a new one).
    pub epoch: u64,
    /// What is being done.
    pub phase: Phase,
    /// What kind of operation this is, or was.
    pub kind: OperationKind,
    /// The node that serves; null unless `phase` is `steady`.
    pub primary: Option<String>,
    /// The node that served before the operation; kept afterwards.
    pub old_primary: Option<String>,
    /// The node that is being promoted; null in `steady`.
    pub candidate: Option<String>,
    /// The grant in force: who holds it may acknowledge commits of the primary of `epochs/<grant.epoch>`.
    pub grant: Grant,
    /// The relay that holds `grant`.
    pub grant_holder: Option<String>,
    /// Identity of the holder's log, once known: a relay of that name with another log has lost what it acknowledged.
    pub grant_log_id: Option<String>,
    /// The holder's account on the servers, by which it is revoked there when it can't be asked any more.
    #[serde(default)]
    pub grant_account: Option<RelayAccount>,
    /// A new holder within the same epoch acknowledges only once its log holds this GTID position; null: at once.
    #[serde(default)]
    pub grant_after: Option<String>,
    /// The grant that the operation asks the relays to promise; null when nothing is being revoked.
    pub asked: Option<Grant>,
    /// The acker's tail, once it has promised.
    pub tail: Option<Tail>,
    /// Why.
    pub cause: Cause,
    /// When the operation began, RFC 3339.
    pub started: String,
}

impl ClusterState {
    /// Epoch 1, with `primary` serving. No relay holds the grant yet.
    pub fn bootstrap(primary: &str, by: &str, started: String) -> Self {
        Self {
            epoch: 1,
            phase: Phase::Steady,
            kind: OperationKind::Bootstrap,
            primary: Some(primary.to_owned()),
            old_primary: None,
            candidate: None,
            grant: Grant { epoch: 1, n: 0 },
            grant_holder: None,
            grant_log_id: None,
            grant_account: None,
            grant_after: None,
            asked: None,
            tail: None,
            cause: Cause { by: by.to_owned(), reason: "bootstrap".to_owned() },
            started,
        }
    }

    /// The same as the state of a later epoch: that of a cluster that was taken up again.
    pub fn in_epoch(self, epoch: u64) -> Self {
        Self { epoch, grant: Grant { epoch, n: 0 }, ..self }
    }

    /// The node that serves, or is to serve once the operation is finished forward.
    pub fn serving_or_next(&self) -> Option<&str> {
        self.primary.as_deref().or(self.candidate.as_deref())
    }
}
