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
    /// The middle between question and answer, at most 20 ms behind the question.
    pub(super) taken_at: Micros,
    /// Up to where the relay had sent when the question went out.
    pub(super) sent: Option<LogPos>,
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
    /// The session is lost, or could not be set up.
    #[error("{0}")]
    Broken(String),
    /// The session lives, the question was refused: asking again at once is of no use.
    #[error("{0}")]
    Refused(String),
}

/// Sets up sessions to replicas.
pub(super) trait Sampler: Send + Sync + 'static {
    /// A kept session.
    type Session: Session + 'static;

    /// Connects and logs in. The caller bounds the time.
    fn connect(&self, target: SocketAddr) -> impl Future<Output = Result<Self::Session, SampleError>> + Send;
}

/// A kept session to one replica. A session whose call did not return in time is closed and never used again.
pub(super) trait Session: Send {
    /// The applied position: one round trip.
    fn position(&mut self) -> impl Future<Output = Result<GtidPosition, SampleError>> + Send;

    /// The state of the threads; `None` if the server is nobody's replica. One round trip. `taken_at` is the caller's to set.
    fn threads(&mut self) -> impl Future<Output = Result<Option<Threads>, SampleError>> + Send;

    /// Ends the session, waiting for nobody.
    fn close(self) -> impl Future<Output = ()> + Send;
}
