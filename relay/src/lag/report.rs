//! The answer of `GET /v1/lag`, field for field.

use serde::Serialize;

/// Head, upstream, and every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LagReport {
    /// The cluster's name.
    pub cluster: String,
    /// This relay's name.
    pub relay: String,
    /// The last complete transaction; `None` while the log is empty.
    pub head: Option<HeadReport>,
    /// The stream from the primary.
    pub upstream: UpstreamReport,
    /// Every replica, those that left among them.
    pub replicas: Vec<ReplicaReport>,
}

impl LagReport {
    /// The same, told so many milliseconds later.
    pub(super) fn later_by(&self, ms: u64) -> Self {
        let mut report = self.clone();
        let lag = |transactions: u64, lag_ms: &mut u64| *lag_ms += if transactions > 0 { ms } else { 0 };
        report.upstream.lag_ms += if report.upstream.lag_ms > 0 { ms } else { 0 };
        for replica in &mut report.replicas {
            replica.state_ms += ms;
            if let Some(received) = &mut replica.received {
                lag(received.lag_transactions, &mut received.lag_ms);
            }
            if let Some(applied) = &mut replica.applied {
                applied.age_ms += ms;
                lag(applied.lag_transactions, &mut applied.lag_ms);
            }
        }
        report
    }
}

/// The last complete transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeadReport {
    /// Full GTID position.
    pub gtid: String,
    /// File name in the log.
    pub file: String,
    /// Offset in it, in bytes.
    pub position: u64,
    /// When the last transaction arrived, RFC 3339; `None` if none has.
    pub arrived: Option<String>,
}

/// The stream from the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpstreamReport {
    /// `connecting | streaming | stopped | diverged | refused`.
    pub state: &'static str,
    /// Path in use: `host:port`.
    pub address: Option<String>,
    /// The primary's `server_id`.
    pub server_id: Option<u32>,
    /// Age of the oldest transaction that the primary is known to have and the relay has not, in milliseconds.
    pub lag_ms: u64,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaReport {
    /// Its name: `report_host`, else `server-<id>`, with `:port` where two share one.
    pub name: String,
    /// Its `server_id`.
    pub server_id: u32,
    /// Where its own server is reached: peer address of the replication connection and its `report_port`.
    pub address: String,
    /// `connecting | streaming | held | stopped | gone`.
    pub state: &'static str,
    /// Milliseconds in that state.
    pub state_ms: u64,
    /// What was sent to it.
    pub received: Option<ReceivedReport>,
    /// What it has applied; `None` where it can't be asked.
    pub applied: Option<AppliedReport>,
    /// What holds it back; `None` if it neither lags nor is stopped.
    pub bottleneck: Option<Bottleneck>,
    /// Why it is stopped, or can't be asked.
    pub error: Option<String>,
}

/// Head against what was sent. What arrived in the last milliseconds and is just being sent is no lag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceivedReport {
    /// Full GTID position.
    pub gtid: String,
    /// Transactions not sent.
    pub lag_transactions: u64,
    /// Bytes of log from the first of them to the head.
    pub lag_bytes: u64,
    /// Age of the oldest transaction not yet sent, in milliseconds.
    pub lag_ms: u64,
}

/// What was applied against what the log held when the replica was asked; against the head, once the next sample is overdue (the
/// replica hangs or can't be asked any more). What arrived in the 20 ms before the sample and is just being applied is no lag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppliedReport {
    /// Full GTID position.
    pub gtid: String,
    /// Transactions not applied.
    pub lag_transactions: u64,
    /// Bytes of log from the first of them to the end.
    pub lag_bytes: u64,
    /// Age, now, of the oldest transaction not applied, in milliseconds.
    pub lag_ms: u64,
    /// Age of the sample, in milliseconds: the error of the figures is at most this plus 20 ms.
    pub age_ms: u64,
}

/// What holds a replica back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bottleneck {
    /// It does not take what is sent.
    Network,
    /// It has not been sent what the relay has.
    Receive,
    /// It has received what it has not applied.
    Apply,
    /// Its replication threads are stopped.
    Stopped,
    /// They stopped with an error.
    Error,
}
