//! Who leads: the controller whose key stands in etcd.
//!
//! Promises: [`Leadership::Leader`] is told only while the lease is known to live, and is over at `valid_until` even if nothing more is told (a
//! frozen process must compare that with the clock before it acts). What the leader writes carries its term anyway.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::{Store, StoreError, encode, parse};
use crate::records::LeaderRecord;

/// Pause between looks at a key that another one holds; its end is told by a watch, at once.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(200);

/// What a controller is at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// It leads.
    Leader {
        /// Create revision of the leader's key.
        term: u64,
        /// It does not lead any longer than this.
        valid_until: Instant,
    },
    /// Another one leads.
    Follower {
        /// Who; none while the key is free.
        leader: Option<LeaderRecord>,
    },
    /// etcd does not answer.
    Unknown,
}

impl Leadership {
    /// The term, if it leads at `now`.
    pub fn term(&self, now: Instant) -> Option<u64> {
        match self {
            Self::Leader { term, valid_until } if now < *valid_until => Some(*term),
            _ => None,
        }
    }
}

impl Store {
    /// Tries to lead until cancelled; then the lead is given up at once.
    ///
    /// The answer's other half: a handle to wait for until the lead has been given back.
    pub fn campaign(
        &self,
        record: LeaderRecord,
        cancel: CancellationToken,
    ) -> (watch::Receiver<Leadership>, tokio::task::JoinHandle<()>) {
        let (told, leadership) = watch::channel(Leadership::Unknown);
        let task = tokio::spawn(run(self.clone(), record, told, cancel));
        (leadership, task)
    }
}

async fn run(store: Store, record: LeaderRecord, told: watch::Sender<Leadership>, cancel: CancellationToken) {
    while !cancel.is_cancelled() {
        let ended = tokio::select! {
            () = cancel.cancelled() => break,
            ended = candidate(&store, &record, &told) => ended,
        };
        match ended {
            Ok((mut lease, term)) => {
                tracing::info!(term, "leading");
                lead(&mut lease, term, &told, &cancel).await;
                told.send_replace(Leadership::Follower { leader: None });
                tracing::info!(term, "not leading any more");
                lease.revoke().await;
            }
            Err(error) => {
                tracing::debug!(%error, "can't campaign");
                told.send_replace(Leadership::Unknown);
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = sleep(RETRY) => {}
                }
            }
        }
    }
    told.send_replace(Leadership::Follower { leader: None });
}

/// Waits until the key is free, and takes it.
async fn candidate(
    store: &Store,
    record: &LeaderRecord,
    told: &watch::Sender<Leadership>,
) -> Result<(Lease, u64), StoreError> {
    let key = store.keys().leader();
    loop {
        let Some(there) = store.raw(&key).await? else {
            let lease = Lease::grant(store).await?;
            match store.create_leased(&key, &encode(&key, record)?, lease.id).await {
                Ok(Some(revision)) => {
                    let term = u64::try_from(revision).unwrap_or_default();
                    told.send_replace(Leadership::Leader { term, valid_until: lease.valid_until });
                    return Ok((lease, term));
                }
                Ok(None) => lease.revoke().await,
                Err(error) => {
                    // It may have been written: with its lease it goes.
                    lease.revoke().await;
                    return Err(error);
                }
            }
            continue;
        };
        let leader = parse::<LeaderRecord>(&there)?.value;
        if leader == *record {
            // Our own, of before a restart: we listen at that address now.
            store.delete_if(&there).await?;
            continue;
        }
        told.send_if_modified(|old| {
            let new = Leadership::Follower { leader: Some(leader) };
            let changed = *old != new;
            *old = new;
            changed
        });
        let _looked_at_anyway = timeout(LOOK, store.changed(&key, there.mod_revision() + 1)).await;
    }
}

async fn lead(lease: &mut Lease, term: u64, told: &watch::Sender<Leadership>, cancel: &CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(lease.period()) => {}
        }
        loop {
            let kept = tokio::select! {
                // Not even an answer that is waited for may keep a lead alive beyond its time.
                () = tokio::time::sleep_until(lease.valid_until) => return,
                () = cancel.cancelled() => return,
                kept = { let lease = &mut *lease; keep(lease) } => kept,
            };
            match kept {
                Ok(()) => break,
                Err(error) if error.is_outage() => {
                    if Instant::now() >= lease.valid_until {
                        return;
                    }
                    sleep(RETRY.min(lease.valid_until.saturating_duration_since(Instant::now()))).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the lead is lost");
                    return;
                }
            }
        }
        told.send_replace(Leadership::Leader { term, valid_until: lease.valid_until });
    }
}

async fn keep(lease: &mut Lease) -> Result<(), StoreError> {
    lease.keep_alive().await
}
