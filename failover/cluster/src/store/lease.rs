//! A lease that is kept alive.
//!
//! Promises: it counts as valid only until *send time of the last keepalive that was answered + TTL - margin*: an answer may come late, and was
//! seen to come 16 seconds late.

use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use super::error::StoreError;

/// Taken off a lease's lifetime: clocks of two machines run apart, and etcd counts in its own steps.
pub(super) const MARGIN: Duration = Duration::from_millis(300);

pub(super) struct Lease {
    store: Store,
    pub(super) id: i64,
    ttl: Duration,
    pub(super) valid_until: Instant,
}

impl Lease {
    /// Asks for one.
    pub(super) async fn grant(store: &Store) -> Result<Self, StoreError> {
        let ttl = store.ttl;
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(3);
        let sent = Instant::now();
        let granted = store.members.call(|mut c| async move { c.lease_grant(seconds, None).await }).await?;
        Ok(Self { store: store.clone(), id: granted.id(), ttl, valid_until: sent + ttl.saturating_sub(MARGIN) })
    }

    /// How often it is to be kept alive.
    pub(super) fn period(&self) -> Duration {
        self.ttl / 4
    }

    /// Keeps it alive once.
    ///
    /// Errors: etcd does not answer; or the lease is gone ([`StoreError::Refused`]).
    pub(super) async fn keep_alive(&mut self) -> Result<(), StoreError> {
        let id = self.id;
        let sent = Instant::now();
        // A stream for each: an old one may be dead without telling.
        let ttl = self
            .store
            .members
            .call(|mut c| async move {
                let (mut keeper, mut answers) = c.lease_keep_alive(id).await?;
                keeper.keep_alive().await?;
                Ok(answers.message().await?.map_or(0, |a| a.ttl()))
            })
            .await?;
        if ttl <= 0 {
            return Err(StoreError::Refused {
                endpoint: self.store.members.names(),
                cause: "the lease has expired".into(),
            });
        }
        self.valid_until = sent + self.ttl.saturating_sub(MARGIN);
        Ok(())
    }

    /// Gives it back: its keys are gone at once.
    pub(super) async fn revoke(self) {
        let id = self.id;
        if let Err(error) = self.store.members.call(|mut c| async move { c.lease_revoke(id).await }).await {
            tracing::debug!(%error, "a lease was left to expire");
        }
    }
}
