//! Orders to agents: `POST /v1/order`.
//!
//! An order is refused if its number is lower than that of the last one obeyed, or if its term is below that of the present leader; the same
//! number again is obeyed again: every order is idempotent.

use serde::{Deserialize, Serialize};

/// What orders are compared by: first the leader's term, then the epoch of the operation, then its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderNumber {
    /// Create revision of the leader's key.
    pub term: u64,
    /// Epoch of the operation; in `steady` that of the state.
    pub epoch: u64,
    /// Grows within an operation.
    pub step: u64,
}

/// The body of `POST /v1/order`: `{"term":12,"epoch":8,"step":3,"do":"catch_up","gtid":"0-1-4711","timeout_ms":5000}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    /// Its number.
    #[serde(flatten)]
    pub number: OrderNumber,
    /// What is to be done.
    #[serde(flatten)]
    pub kind: OrderKind,
}

/// What an agent can be ordered to do with its server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum OrderKind {
    /// Give up being primary at once, without cooperation: remove the address, SIGKILL the server (a waiting commit blocks everything gentler),
    /// start it in the replica role from now on. Result: `killed`.
    Fence {},
    /// Switchover: remove the address, block writes (`read_only`, events and the scheduler off without binlogging that), let clients drain for
    /// `drain_ms`, then cut them. Taken back within `timeout_ms` if it can't be had (a long transaction, a global lock): then an error.
    /// Result: `gtid`, the end of what was written.
    Block {
        /// Milliseconds in which running transactions may end by themselves.
        drain_ms: u64,
        /// Milliseconds for all of it.
        timeout_ms: u64,
    },
    /// Take a `block` back: writable again, events on, address back.
    Unblock {},
    /// Apply everything up to `gtid`, with the SQL thread running throughout. Result: `reached`, `gtid`.
    CatchUp {
        /// GTID position to be reached; empty: what was received when the order came.
        gtid: String,
        /// Milliseconds to wait for it.
        timeout_ms: u64,
    },
    /// Become ready to be primary, not writable yet: replication off (`RESET SLAVE ALL`), `FLUSH BINARY LOGS`, semi-sync on. If replication is off
    /// already and nothing was written since, the same file is told again. Result: `first_file`, `gtid`, `server_id`.
    Prepare {},
    /// Become writable: wait for the acker for at most `acker_ms` (then go on: commits wait for it anyway), `read_only=0`, enable the events that
    /// replication had disabled, take the address and announce it. Result: nothing.
    Open {
        /// Milliseconds to wait for the acker's connection.
        acker_ms: u64,
    },
    /// Be a replica of the relay at `host:port`: semi-sync off, `read_only=1`, GTID replication from there. Result: nothing.
    Follow {
        /// The relay's replication address.
        source: String,
        /// The relay's name, for the log.
        relay: String,
    },
    /// On the primary, without binlogging it: lock the relay's account, kill its dump thread, read `@@gtid_binlog_pos`. Result: `gtid`.
    RevokeAcker {
        /// The relay's account name.
        user: String,
        /// The relay's `server_id`.
        server_id: u32,
    },
    /// On the primary, without binlogging it: unlock the relay's account.
    AllowAcker {
        /// The relay's account name.
        user: String,
    },
    /// Replace this server's data by a copy of a replica's, taken by `mariadb-backup` over its agent, then follow `source`. Runs for long: the
    /// answer comes at once, progress is in the agent's status.
    Clone {
        /// `host:port` of the donor's agent.
        donor: String,
        /// The relay's replication address.
        source: String,
    },
    /// Stop holding the server: leave it as it is, forget the role.
    Release {},
}

impl OrderKind {
    /// Its name in JSON, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fence {} => "fence",
            Self::Block { .. } => "block",
            Self::Unblock {} => "unblock",
            Self::CatchUp { .. } => "catch_up",
            Self::Prepare {} => "prepare",
            Self::Open { .. } => "open",
            Self::Follow { .. } => "follow",
            Self::RevokeAcker { .. } => "revoke_acker",
            Self::AllowAcker { .. } => "allow_acker",
            Self::Clone { .. } => "clone",
            Self::Release {} => "release",
        }
    }
}

/// The answer 200 to an order; what does not apply is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct OrderResult {
    /// `fence`: whether the server is known to be dead. False: it has its SIGKILL, can't commit or answer any more, and hangs in the kernel: what it had begun
    /// to write may still be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed: Option<bool>,
    /// `catch_up`: whether the position was reached in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<bool>,
    /// A GTID position: see the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
    /// `prepare`: name of the binlog file with which the epoch begins, at offset 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_file: Option<String>,
    /// `prepare`: the server's `server_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<u32>,
}

/// The answer 409 (refused for its number), 422 (can't be done on this server) or 503 (the server does not answer) to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderError {
    /// One sentence.
    pub error: String,
    /// What to do.
    pub hint: String,
    /// 409: the last number that was obeyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<OrderNumber>,
}
