//! Why a stream from the primary ended, and what follows from it.

use std::io;

use baton_wire::{EventKind, WireError};
use thiserror::Error;

use super::UpstreamState;
use crate::log::AppendError;

/// Why there is no stream, or no longer.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The network failed, or the server closed the connection.
    #[error("{address}: {source}")]
    Io {
        /// `host:port`.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing came within the time limit.
    #[error("{address}: {what} within {millis} ms")]
    Timeout {
        /// `host:port`.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// The limit.
        millis: u128,
    },
    /// The primary answered with an error.
    #[error("the primary answered {what} with error {code}: {message}")]
    Server {
        /// The command or statement.
        what: String,
        /// The server's error number.
        code: u16,
        /// The server's text.
        message: String,
    },
    /// A server that the relay can't use as it is: wrong password, missing grant, equal server id, no TLS.
    #[error("{cause}")]
    Refused {
        /// One sentence.
        cause: String,
        /// What to do.
        hint: String,
    },
    /// The primary's history and the log's contradict each other.
    #[error("{cause}")]
    Diverged {
        /// One sentence.
        cause: String,
        /// What to do.
        hint: String,
    },
    /// The primary says that it is not as far as the log: the stream may hang at a place that is no more. It is asked again from the beginning.
    #[error("the primary is at GTID position '{gtid}' only, the log is further")]
    Behind {
        /// What the primary said.
        gtid: String,
    },
    /// The relay that is followed does not have what is wanted of it yet.
    #[error("{cause}")]
    Waiting {
        /// One sentence.
        cause: String,
    },
    /// The primary no longer has what comes next.
    #[error("{cause}")]
    Purged {
        /// One sentence.
        cause: String,
        /// What to do.
        hint: String,
    },
    /// An event's checksum does not hold: it is fetched again.
    #[error("{file}:{offset}: {kind}: {detail}: dropped, to be fetched again")]
    Checksum {
        /// The primary's file.
        file: String,
        /// Offset of the event in it.
        offset: u64,
        /// The event.
        kind: EventKind,
        /// Stored and computed sums.
        detail: String,
    },
    /// An event does not continue the file.
    #[error("{file}:{offset}: {detail}: something is missing in between")]
    Gap {
        /// The primary's file.
        file: String,
        /// Where the next event belongs.
        offset: u64,
        /// What came.
        detail: String,
    },
    /// What came is not understood.
    #[error("{file}:{offset}: {detail}")]
    Garbled {
        /// The primary's file.
        file: String,
        /// Offset in it.
        offset: u64,
        /// What came.
        detail: String,
    },
    /// Bytes that are not the protocol.
    #[error("from the primary: {0}")]
    Wire(#[from] WireError),
    /// The log does not take what came.
    #[error("{0}")]
    Log(#[from] AppendError),
}

impl StreamError {
    /// The state that the error leads to; `Connecting` is tried again with back-off.
    pub fn state(&self) -> UpstreamState {
        match self {
            Self::Refused { .. } => UpstreamState::Refused,
            Self::Diverged { .. } => UpstreamState::Diverged,
            Self::Purged { .. } => UpstreamState::Stopped,
            Self::Log(AppendError::Damaged { .. } | AppendError::Identity { .. } | AppendError::Closed) => {
                UpstreamState::Stopped
            }
            _ => UpstreamState::Connecting,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } | Self::Diverged { hint, .. } | Self::Purged { hint, .. } => Some(hint.clone()),
            Self::Io { .. } | Self::Timeout { .. } => {
                Some("it is tried again; check that the primary runs and is reachable from here".into())
            }
            Self::Gap { .. } => {
                Some("it is tried again; if it comes back, check that encrypt_binlog is OFF on the primary".into())
            }
            Self::Waiting { .. } => {
                Some("it is asked again; if this lasts, compare the relays' heads in GET /v1/status".into())
            }
            Self::Log(e) => e.hint().map(str::to_owned),
            _ => None,
        }
    }
}
