//! Keys that say who is there, each under a lease.
//!
//! Promises: what somebody else removes or overwrites is noticed within [`LOOK`] of etcd's answering, and put back; but never over what another
//! process keeps there under a lease of its own.

use std::time::Duration;

use etcd_client::KeyValue;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::{Store, StoreError, encode};

/// First and longest wait before an announcement is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Longest pause between two looks at the key.
const LOOK: Duration = Duration::from_secs(1);
/// Changes of the key between looking and writing, until its holder begins anew.
const TRIES: usize = 3;
/// Leases of ours that are remembered: as many as may have been written under without an answer.
const REMEMBERED: usize = 16;

/// An announcement; it ends when this is dropped or its token is cancelled.
pub struct Announcement {
    value: watch::Sender<Vec<u8>>,
    key: String,
    healthy: watch::Receiver<bool>,
    taken_by: watch::Receiver<Option<String>>,
    cancel: CancellationToken,
}

impl Announcement {
    /// Announces something else from now on.
    ///
    /// # Errors
    /// The value can't be written as JSON.
    pub fn update<T: Serialize>(&self, value: &T) -> Result<(), StoreError> {
        let bytes = encode(&self.key, value)?;
        self.value.send_if_modified(|old| {
            let changed = *old != bytes;
            *old = bytes;
            changed
        });
        Ok(())
    }

    /// Whether the key stands in etcd under a living lease.
    pub fn healthy(&self) -> watch::Receiver<bool> {
        self.healthy.clone()
    }

    /// The address of another process that holds the name under a lease of its own, as last seen; none: no other one does, as far as is known.
    /// It is waited for, and none again once the name is ours.
    pub fn taken_by(&self) -> watch::Receiver<Option<String>> {
        self.taken_by.clone()
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Store {
    /// Keeps `key` in etcd, with what is to be announced, for as long as the answer lives; begins anew after every outage. Another process
    /// that announces itself under the same name is told in the log and by [`Announcement::taken_by`], and waited for.
    ///
    /// # Errors
    /// The value can't be written as JSON.
    pub fn announce<T: Serialize>(
        &self,
        key: String,
        value: &T,
        cancel: &CancellationToken,
    ) -> Result<Announcement, StoreError> {
        let (value, values) = watch::channel(encode(&key, value)?);
        let (health, healthy) = watch::channel(false);
        let (taken, taken_by) = watch::channel(None);
        let cancel = cancel.child_token();
        let (store, written) = (self.clone(), Vec::new());
        let task = Task { store, key: key.clone(), values, health, taken, written, stood: None };
        tokio::spawn(task.run(cancel.clone()));
        Ok(Announcement { value, key, healthy, taken_by, cancel })
    }
}

struct Task {
    store: Store,
    key: String,
    values: watch::Receiver<Vec<u8>>,
    health: watch::Sender<bool>,
    taken: watch::Sender<Option<String>>,
    /// Leases of ours that the key may stand under.
    written: Vec<i64>,
    /// The last lease that it was seen to stand under.
    stood: Option<i64>,
}

impl Task {
    async fn run(mut self, cancel: CancellationToken) {
        let mut wait = RETRY.0;
        let mut told = String::new();
        while !cancel.is_cancelled() {
            let began = Instant::now();
            let error = match Lease::grant(&self.store).await {
                Ok(mut lease) => {
                    let ended = self.keep(&mut lease, &cancel).await;
                    self.tell_health(false);
                    if self.stood == Some(lease.id) {
                        told.clear();
                    }
                    lease.revoke().await;
                    match ended {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if began.elapsed() > RETRY.1 * 2 {
                wait = RETRY.0;
            }
            if told != error.to_string() {
                told = error.to_string();
                tracing::warn!(key = %self.key, %error, "not announced in etcd");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(wait) => wait = (wait * 2).min(RETRY.1),
            }
        }
    }

    /// Holds the key until cancelled.
    async fn keep(&mut self, lease: &mut Lease, cancel: &CancellationToken) -> Result<(), StoreError> {
        let id = lease.id;
        self.stand(id).await?;
        self.tell_health(true);
        let pause = lease.period().min(LOOK);
        let mut next = Instant::now() + pause;
        loop {
            let done = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = self.values.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.stand(id).await
                }
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + pause;
                    let (kept, stands) = tokio::join!(lease.keep_alive(), self.stand(id));
                    kept.and(stands)
                }
            };
            match done {
                Ok(()) => self.tell_health(true),
                // As long as the lease lives, etcd may come back in time.
                Err(error) if error.is_outage() && Instant::now() < lease.valid_until => {
                    self.tell_health(false);
                    next = Instant::now() + RETRY.0;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sees to it that the key stands as announced, under `lease`.
    async fn stand(&mut self, lease: i64) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let value = self.values.borrow_and_update().clone();
            let (there, _) = self.store.read(&self.key).await?;
            let ours = |kv: &KeyValue| kv.lease() == lease && kv.value() == value;
            if there.as_ref().is_some_and(ours) || self.write(there.as_ref(), &value, lease).await? {
                self.stood = Some(lease);
                self.written.retain(|written| *written == lease);
                self.tell_taken(None);
                return Ok(());
            }
        }
        Err(StoreError::Conflict { key: self.key.clone() })
    }

    /// Writes the key in place of what stands there, if that may be; gives whether it was still there.
    async fn write(&mut self, there: Option<&KeyValue>, value: &[u8], lease: i64) -> Result<bool, StoreError> {
        if let Some(cause) = there.and_then(|kv| self.refusal(kv, value, lease)) {
            return Err(StoreError::Refused { endpoint: self.key.clone(), cause });
        }
        if !self.written.contains(&lease) {
            self.written.push(lease);
            self.written.drain(..self.written.len().saturating_sub(REMEMBERED));
        }
        let Some(there) = there else {
            let written = self.store.create_leased(&self.key, value, lease).await?.is_some();
            if written && self.stood == Some(lease) {
                tracing::warn!(key = %self.key, "the key was removed by somebody else: announced anew");
            }
            return Ok(written);
        };
        let written = self.store.put_if(there, value, lease).await?;
        if written && there.lease() == 0 {
            tracing::warn!(key = %self.key, "the key stood in etcd without a lease, written by hand: it was replaced");
        }
        Ok(written)
    }

    /// Why what stands there may not be replaced, if it is another process's.
    fn refusal(&self, there: &KeyValue, value: &[u8], lease: i64) -> Option<String> {
        let holder = there.lease();
        // Without a lease it was written by hand.
        if holder == 0 || holder == lease || self.written.contains(&holder) {
            return None;
        }
        let other = address(there.value());
        // Our own, of before a restart: whoever listens at our address can't be another process. But if it comes while we are there, it is:
        // it takes the name over, lest each took it from the other for ever.
        if self.stood.is_none() && other == address(value) {
            return None;
        }
        let cause = format!("announced by another process at {other}; names must differ");
        self.tell_taken(Some(other));
        Some(cause)
    }

    fn tell_health(&self, health: bool) {
        self.health.send_if_modified(|old| std::mem::replace(old, health) != health);
    }

    fn tell_taken(&self, by: Option<String>) {
        self.taken.send_if_modified(|old| {
            let changed = *old != by;
            *old = by;
            changed
        });
    }
}

/// The field `http` of a record.
fn address(value: &[u8]) -> String {
    let record: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    record.get("http").and_then(|h| h.as_str()).unwrap_or("an unknown address").to_owned()
}
