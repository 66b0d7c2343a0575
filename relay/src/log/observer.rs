//! Who looks on while the log is written: figures for metrics, told as they arise.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Is told by the log's threads what they did; has to return at once.
pub trait LogObserver: Send + Sync + 'static {
    /// A sync succeeded: `bytes` of events are durable, the sync itself took `took`.
    fn synced(&self, bytes: u64, took: Duration);

    /// A write or a sync failed.
    fn failed(&self);

    /// Retention took a file from that many readers.
    fn readers_cut(&self, readers: u64);
}

/// The place for one observer.
#[derive(Default)]
pub(super) struct Observed(OnceLock<Arc<dyn LogObserver>>);

impl Observed {
    /// The first one stays.
    pub(super) fn by(&self, observer: Arc<dyn LogObserver>) {
        let _ = self.0.set(observer);
    }

    pub(super) fn tell(&self, what: impl FnOnce(&dyn LogObserver)) {
        if let Some(observer) = self.0.get() {
            what(&**observer);
        }
    }
}
