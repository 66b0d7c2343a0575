//! `history/<epoch>`: read once, then kept beside etcd and written with each commit.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::store::{Change, Store, StoreError};
use baton_cluster::{ClusterState, HistoryRecord, OperationKind};
use jiff::Timestamp;
use tokio::time::Instant;

use super::plan::HistoryChange;

/// The documents that this leader has read or written.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    known: BTreeMap<u64, HistoryRecord>,
    /// `started` of the operation under way, and when that was on this controller's own clock.
    began: Option<(String, Instant)>,
}

/// The present time, RFC 3339 with milliseconds.
pub(crate) fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

/// How long ago `time` was; zero if it can't be read or lies ahead.
pub(crate) fn age_of(time: &str) -> Duration {
    let then: Option<Timestamp> = time.parse().ok();
    let elapsed = then.map(|t| Timestamp::now().duration_since(t));
    elapsed.and_then(|d| Duration::try_from(d).ok()).unwrap_or_default()
}

impl History {
    /// The documents of `changes` as they will be after a commit of `state`, added to `change`; to be kept with [`keep`](Self::keep) once done.
    pub(crate) async fn extend(
        &self,
        store: &Store,
        state: &ClusterState,
        changes: &[HistoryChange],
        mut change: Change,
        begins: bool,
    ) -> Result<(Change, Vec<HistoryRecord>), StoreError> {
        let mut written = Vec::new();
        let at_ms = self.since_begin(state, begins);
        for part in changes {
            let before = match self.known.get(&part.epoch) {
                Some(known) => Some(known.clone()),
                None if begins && part.epoch == state.epoch => None,
                None => store.get::<HistoryRecord>(&store.keys().history(part.epoch)).await?.map(|v| v.value),
            };
            let record = part.apply(before, state, &now(), at_ms);
            change = change.put(store.keys().history(part.epoch), &record);
            written.push(record);
        }
        Ok((change, written))
    }

    /// Milliseconds since the operation of `state` began.
    fn since_begin(&self, state: &ClusterState, begins: bool) -> u64 {
        let elapsed = match &self.began {
            Some((started, at)) if *started == state.started => at.elapsed(),
            _ if begins => Duration::ZERO,
            _ => age_of(&state.started),
        };
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// Remembers what is in etcd now.
    pub(crate) fn keep(&mut self, state: &ClusterState, written: Vec<HistoryRecord>, began: Option<Instant>) {
        if let Some(at) = began {
            self.began = Some((state.started.clone(), at));
        }
        for record in written {
            self.known.insert(record.epoch, record);
        }
        // Only what may still be changed is of use.
        while self.known.len() > 8 {
            self.known.pop_first();
        }
    }

    /// Forgets all: another controller may have written since.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Ages of the automatic failovers within `window`, of what etcd has.
pub(crate) async fn recent_failovers(
    store: &Store,
    window: Duration,
    automatic: impl Fn(&HistoryRecord) -> bool,
) -> Result<Vec<Duration>, StoreError> {
    let prefix = format!("{}history/", store.keys().prefix());
    let records = store.list::<HistoryRecord>(&prefix).await?;
    let counted = records
        .iter()
        .map(|(_, v)| &v.value)
        .filter(|r| r.kind == OperationKind::Failover && r.outcome != "superseded" && automatic(r));
    Ok(counted.map(|r| age_of(&r.started)).filter(|age| *age < window).collect())
}
