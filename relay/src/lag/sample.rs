//! What is asked of a replica, and the seam between asking and deciding when to ask.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use baton_wire::gtid::GtidPosition;
use thiserror::Error;

use crate::clock::Micros;
use crate::log::LogPos;

/// What a replica had applied at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    /// Its applied position.
    pub(super) gtid: GtidPosition,
    /// When the question went out: the answer is no older than that.
    pub(super) taken_at: Micros,
    /// The log's end at that moment; `None` if it was empty.
    pub(super) head: Option<LogPos>,
}

/// A replication thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThreadState {
    /// At work.
    Running,
    /// The receiving thread tries to connect.
    Connecting,
    /// Not running.
    Stopped,
}

/// The replica's threads, as `SHOW SLAVE STATUS` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Threads {
    /// When they were asked.
    pub(super) taken_at: Micros,
    /// Up to where the relay had sent at that moment.
    pub(super) sent: Option<LogPos>,
    /// The thread that receives.
    pub(super) io: ThreadState,
    /// The thread that applies.
    pub(super) sql: ThreadState,
    /// Error number and text of the receiving thread.
    pub(super) io_error: Option<String>,
    /// Error number and text of the applying thread.
    pub(super) sql_error: Option<String>,
    /// The delay that is configured on purpose.
    pub(super) delay: Duration,
    /// Up to where it has received, in the log's files.
    pub(super) received: Option<LogPos>,
    /// Up to where it has applied, in the log's files.
    pub(super) applied: Option<LogPos>,
}

/// Why a replica could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum SampleError {
    /// The server can't be reached, or the session is lost.
    #[error("{0}")]
    Broken(String),
    /// The server refuses the login or the question: asking again at once is of no use.
    #[error("{0}")]
    Refused(String),
}

/// Sets up sessions to replicas.
pub(super) trait Sampler: Send + Sync + 'static {
    /// A kept session.
    type Session: Session + 'static;

    /// Connects and logs in. The caller bounds the time. A server that says no is [`SampleError::Refused`], one that can't be reached
    /// [`SampleError::Broken`].
    fn connect(&self, target: SocketAddr) -> impl Future<Output = Result<Self::Session, SampleError>> + Send;
}

/// A kept session to one replica. A session whose call did not return in time is closed and never used again.
pub(super) trait Session: Send {
    /// The applied position: one round trip.
    fn position(&mut self) -> impl Future<Output = Result<GtidPosition, SampleError>> + Send;

    /// The state of the threads; `None` if the server is nobody's replica. One round trip. `taken_at` and
    /// `sent` are the caller's to set.
    fn threads(&mut self) -> impl Future<Output = Result<Option<Threads>, SampleError>> + Send;

    /// Ends the session, waiting for nobody.
    fn close(self) -> impl Future<Output = ()> + Send;
}
