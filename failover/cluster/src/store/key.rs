//! One key by itself: read, waited for, and changed only as it was read.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp, WatchOptions};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Store, StoreError};

/// Pause after a watch that broke: etcd may refuse the next one at once, too.
const PAUSE: Duration = Duration::from_millis(50);

impl Store {
    /// Reads a key; gives the revision that this holds at, too.
    pub(super) async fn read(&self, key: &str) -> Result<(Option<KeyValue>, i64), StoreError> {
        let answer = self.members.call(|mut c| async move { c.get(key, None).await }).await?;
        Ok((answer.kvs().first().cloned(), answer.header().map_or(0, ResponseHeader::revision)))
    }

    /// Waits for a change of `key` behind `revision`; for `limit` at most, and less on any trouble: look at it then.
    pub(super) async fn await_change(&self, key: &str, revision: i64, limit: Duration) {
        let end = Instant::now() + limit;
        let changed = timeout_at(end, self.changed(key, revision + 1)).await;
        if !matches!(changed, Ok(Ok(true))) {
            sleep_until(end.min(Instant::now() + PAUSE)).await;
        }
    }

    /// Whether `key` has changed since `revision`, once it has; no: the watch has ended.
    async fn changed(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        let options = Some(WatchOptions::new().with_start_revision(revision));
        let opened = self.members.call(|mut c| {
            let options = options.clone();
            async move { c.watch(key, options).await }
        });
        let mut stream = opened.await?;
        while let Ok(Some(response)) = stream.message().await {
            if response.canceled() || !response.events().is_empty() {
                return Ok(!response.canceled());
            }
        }
        Ok(false)
    }

    /// Creates a key under a lease, only if it is not there; gives the revision.
    pub(super) async fn create_leased(&self, key: &str, value: &[u8], lease: i64) -> Result<Option<i64>, StoreError> {
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        self.one_if(Compare::create_revision(key, CompareOp::Equal, 0), put).await
    }

    /// Writes a key under a lease, only if it was not changed since; gives whether it was written.
    pub(super) async fn put_if(&self, kv: &KeyValue, value: &[u8], lease: i64) -> Result<bool, StoreError> {
        let put = TxnOp::put(kv.key(), value, Some(PutOptions::new().with_lease(lease)));
        self.one_if(unchanged(kv), put).await.map(|revision| revision.is_some())
    }

    /// Removes a key, only if it was not changed since; gives whether it was removed.
    pub(super) async fn delete_if(&self, kv: &KeyValue) -> Result<bool, StoreError> {
        self.one_if(unchanged(kv), TxnOp::delete(kv.key(), None)).await.map(|revision| revision.is_some())
    }

    async fn one_if(&self, condition: Compare, operation: TxnOp) -> Result<Option<i64>, StoreError> {
        let txn = Txn::new().when([condition]).and_then([operation]);
        let answer = self
            .members
            .call(|mut c| {
                let txn = txn.clone();
                async move { c.txn(txn).await }
            })
            .await?;
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        Ok(answer.succeeded().then_some(revision))
    }
}

fn unchanged(kv: &KeyValue) -> Compare {
    Compare::mod_revision(kv.key(), CompareOp::Equal, kv.mod_revision())
}
