//! Who leads: the controller whose key stands in etcd.
//!
//! Promises: [`Leadership::Leader`] is told only while the lease is known to live, and is over at `valid_until` even if nothing more is told (a
//! frozen process must compare that with the clock before it acts). What the leader writes carries its term anyway. The lead is over, too, as soon
//! as etcd says that the leader's key is not as its leader wrote it; that etcd says nothing ends it no sooner than the lease.

use std::time::Duration;

use etcd_client::KeyValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::{Store, StoreError, encode, parse};
use crate::records::LeaderRecord;

/// Pause between looks at the leader's key, one's own or another's; a change of it is told by a watch, at once.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(200);
/// First and longest wait before a lead that somebody took away is tried for again.
const AGAIN: (Duration, Duration) = (RETRY, Duration::from_secs(2));

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

/// A lead that was won.
struct Lead {
    lease: Lease,
    term: u64,
    /// What was written on the leader's key.
    value: Vec<u8>,
}

/// How a lead ended.
enum End {
    /// Given back or run out.
    Over,
    /// Somebody changed the leader's key; who leads instead, as far as it is known.
    Lost(Option<LeaderRecord>),
}

async fn run(store: Store, record: LeaderRecord, told: watch::Sender<Leadership>, cancel: CancellationToken) {
    let mut again = AGAIN.0;
    while !cancel.is_cancelled() {
        let ended = tokio::select! {
            () = cancel.cancelled() => break,
            ended = candidate(&store, &record, &told) => ended,
        };
        let wait = match ended {
            Ok(mut lead) => {
                let (term, began) = (lead.term, Instant::now());
                tracing::info!(term, "leading");
                let end = hold(&store, &mut lead, &told, &cancel).await;
                let (leader, lost) = match end {
                    End::Over => (None, false),
                    End::Lost(leader) => (leader, true),
                };
                told.send_replace(Leadership::Follower { leader });
                tracing::info!(term, "not leading any more");
                // A key that stands under another lease is not touched by this.
                lead.lease.revoke().await;
                if !lost {
                    continue;
                }
                if began.elapsed() > AGAIN.1 * 2 {
                    again = AGAIN.0;
                }
                let wait = again;
                again = (again * 2).min(AGAIN.1);
                wait
            }
            Err(error) => {
                tracing::debug!(%error, "can't campaign");
                told.send_replace(Leadership::Unknown);
                RETRY
            }
        };
        tokio::select! {
            () = cancel.cancelled() => break,
            () = sleep(wait) => {}
        }
    }
    told.send_replace(Leadership::Follower { leader: None });
}

/// Waits until the key is free, and takes it.
async fn candidate(store: &Store, record: &LeaderRecord, told: &watch::Sender<Leadership>) -> Result<Lead, StoreError> {
    let key = store.keys().leader();
    let value = encode(&key, record)?;
    loop {
        let (there, revision) = store.read(&key).await?;
        let Some(there) = there else {
            let lease = Lease::grant(store).await?;
            match store.create_leased(&key, &value, lease.id).await {
                Ok(Some(revision)) => {
                    let term = u64::try_from(revision).unwrap_or_default();
                    told.send_replace(Leadership::Leader { term, valid_until: lease.valid_until });
                    return Ok(Lead { lease, term, value });
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
        if there.lease() == 0 {
            // No controller writes it like this, and it would stay for ever.
            if store.delete_if(&there).await? {
                tracing::warn!(key, "the leader's key stood in etcd without a lease, written by hand: it was removed");
            }
            continue;
        }
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
        store.await_change(&key, revision, LOOK).await;
    }
}

/// Leads for as long as it may.
async fn hold(store: &Store, lead: &mut Lead, told: &watch::Sender<Leadership>, cancel: &CancellationToken) -> End {
    let Lead { lease, term, value } = lead;
    let id = lease.id;
    tokio::select! {
        () = cancel.cancelled() => End::Over,
        leader = lost(store, *term, value, id) => End::Lost(leader),
        () = keep(lease, *term, told) => End::Over,
    }
}

/// Returns once etcd has said that the leader's key is not as this leader wrote it.
async fn lost(store: &Store, term: u64, value: &[u8], lease: i64) -> Option<LeaderRecord> {
    let key = store.keys().leader();
    let own =
        |kv: &KeyValue| u64::try_from(kv.create_revision()) == Ok(term) && kv.value() == value && kv.lease() == lease;
    loop {
        let Ok((there, revision)) = store.read(&key).await else {
            // No answer is none: the lease says for how long that may last.
            sleep(RETRY).await;
            continue;
        };
        match there {
            Some(there) if own(&there) => store.await_change(&key, revision, LOOK).await,
            Some(there) => {
                tracing::warn!(key, term, "the lead is lost: the leader's key was written by somebody else");
                let leader = parse(&there).ok().filter(|_| there.lease() != 0);
                return leader.map(|leader| leader.value);
            }
            None => {
                tracing::warn!(key, term, "the lead is lost: the leader's key was removed, or its lease has expired");
                return None;
            }
        }
    }
}

/// Keeps the lease alive for as long as it can be.
async fn keep(lease: &mut Lease, term: u64, told: &watch::Sender<Leadership>) {
    loop {
        sleep(lease.period()).await;
        loop {
            let kept = tokio::select! {
                // Not even an answer that is waited for may keep a lead alive beyond its time.
                () = tokio::time::sleep_until(lease.valid_until) => return,
                kept = lease.keep_alive() => kept,
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
