//! Keys that say who is there, each under a lease.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::{Store, StoreError, encode};

/// First and longest wait before an announcement is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// An announcement; it ends when this is dropped or its token is cancelled.
pub struct Announcement {
    value: watch::Sender<Vec<u8>>,
    key: String,
    healthy: watch::Receiver<bool>,
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
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Store {
    /// Keeps `key` in etcd, with what is to be announced, for as long as the answer lives; begins anew after every outage. Another process
    /// that announces itself under the same name from another address is told in the log and waited for.
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
        let cancel = cancel.child_token();
        let task = Task { store: self.clone(), key: key.clone(), values, health };
        tokio::spawn(task.run(cancel.clone()));
        Ok(Announcement { value, key, healthy, cancel })
    }
}

struct Task {
    store: Store,
    key: String,
    values: watch::Receiver<Vec<u8>>,
    health: watch::Sender<bool>,
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
                    self.health.send_replace(false);
                    lease.revoke().await;
                    match ended {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if told != error.to_string() {
                told = error.to_string();
                tracing::warn!(key = %self.key, %error, "not announced in etcd");
            }
            if began.elapsed() > RETRY.1 * 2 {
                wait = RETRY.0;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(wait) => wait = (wait * 2).min(RETRY.1),
            }
        }
    }

    /// Holds the key until cancelled.
    async fn keep(&mut self, lease: &mut Lease, cancel: &CancellationToken) -> Result<(), StoreError> {
        self.take(lease).await?;
        self.health.send_replace(true);
        let mut next = Instant::now() + lease.period();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = self.values.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let value = self.values.borrow_and_update().clone();
                    self.store.put_leased(&self.key, &value, lease.id).await?;
                }
                () = tokio::time::sleep_until(next) => {
                    match lease.keep_alive().await {
                        Ok(()) => {}
                        // As long as the lease lives, etcd may come back in time.
                        Err(error) if error.is_outage() && Instant::now() < lease.valid_until => {
                            self.health.send_replace(false);
                            next = Instant::now() + RETRY.0;
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    self.health.send_replace(true);
                    next = Instant::now() + lease.period();
                }
            }
        }
    }

    async fn take(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let value = self.values.borrow_and_update().clone();
        if self.store.create_leased(&self.key, &value, lease.id).await?.is_some() {
            return Ok(());
        }
        let Some(there) = self.store.raw(&self.key).await? else {
            return Err(StoreError::Conflict { key: self.key.clone() });
        };
        // Our own, of before a restart: whoever listens at our address can't be another process.
        if address(there.value()) != address(&value) {
            let cause = format!("announced by another process at {}; names must differ", address(there.value()));
            return Err(StoreError::Refused { endpoint: self.key.clone(), cause });
        }
        self.store.put_leased(&self.key, &value, lease.id).await
    }
}

/// The field `http` of a record.
fn address(value: &[u8]) -> String {
    let record: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    record.get("http").and_then(|h| h.as_str()).unwrap_or("an unknown address").to_owned()
}
