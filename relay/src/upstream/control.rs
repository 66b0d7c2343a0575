//! Orders to the upstream side: promises. They come from the HTTP interface, one at a time.

use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::log::{Grant, Head, StorageFailure};

/// Orders that may wait.
const QUEUE: usize = 16;

/// An order, and where its answer goes.
pub enum Order {
    /// Never again acknowledge anything below this grant.
    Promise(Grant, oneshot::Sender<Result<PromiseAnswer, PromiseError>>),
}

/// What a promise answers: from now on this log is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromiseAnswer {
    /// The grant that was promised.
    pub promised: Grant,
    /// The log's identity.
    pub log_id: String,
    /// Whether everything that this relay has ever acknowledged is in the log.
    pub complete: bool,
    /// The log's end: what was acknowledged ends here or before.
    pub tail: Tail,
}

/// The end of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Tail {
    /// Full GTID position.
    pub gtid: String,
    /// File name in the log; empty for an empty log.
    pub file: String,
    /// Offset in it.
    pub position: u64,
}

impl Tail {
    /// The tail at a head.
    pub(super) fn of(head: Option<&Head>, file: impl FnOnce(u64) -> Option<String>) -> Self {
        head.map_or_else(Self::default, |h| Self {
            gtid: h.gtid.to_string(),
            file: file(h.pos.file).unwrap_or_default(),
            position: h.pos.offset,
        })
    }
}

/// Why a promise was not given.
#[derive(Debug, Clone, Error)]
pub enum PromiseError {
    /// A higher one was given before: this one is refused for ever.
    #[error("grant {asked} is below {promised}, which this relay has promised")]
    Lower {
        /// What was asked for.
        asked: Grant,
        /// What was promised.
        promised: Grant,
    },
    /// It could not be made durable, so it was not given: the relay goes on under the grant that it has.
    #[error("the promise could not be made durable: {0}")]
    Storage(#[from] StorageFailure),
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
}

/// Hands orders to the upstream side.
#[derive(Clone)]
pub struct Control(mpsc::Sender<Order>);

impl Control {
    /// The handle, and what the upstream side takes the orders from.
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Promises; the answer is given once it is durable and the stream from the primary has ended.
    pub async fn promise(&self, grant: Grant) -> Result<PromiseAnswer, PromiseError> {
        let (answer, given) = oneshot::channel();
        self.0.send(Order::Promise(grant, answer)).await.map_err(|_| PromiseError::Stopping)?;
        given.await.map_err(|_| PromiseError::Stopping)?
    }
}
