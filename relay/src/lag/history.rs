//! What the lag figures need of the log. The log implements it; tests script it.

use std::io;
use std::sync::Arc;

use baton_wire::gtid::GtidPosition;
use tokio::sync::watch;

use crate::log::{Head, LogPos, Place};

/// The log, seen as a history with a head.
pub trait History: Send + Sync + 'static {
    /// The head; `None` while the log is empty.
    fn head(&self) -> Option<Arc<Head>>;

    /// Follows the head: changes at each committed batch.
    fn subscribe(&self) -> watch::Receiver<Option<Arc<Head>>>;

    /// What a replica that has applied `applied` still misses. May read the disk: it is called where blocking is allowed.
    ///
    /// # Errors
    /// The position can't be placed in this log (purged, of the other family), or the disk failed.
    fn place_of_gtid(&self, applied: &GtidPosition) -> io::Result<Place>;

    /// What a replica that has received everything before `pos` still misses. May read the disk, as above.
    ///
    /// # Errors
    /// There is no such position, or the disk failed.
    fn place_of(&self, pos: LogPos) -> io::Result<Place>;

    /// The name of a file of the log; `None` if it is not kept.
    fn file_name(&self, number: u64) -> Option<String>;
}
