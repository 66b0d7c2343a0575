//! Orders to the upstream side: promises. They come from the HTTP interface, one at a time.
//!
//! Promises: in a cluster an order counts only if etcd says, now, that it is the leader's and of the operation that is under way; while etcd can't
//! be asked, nothing is promised and nothing changes.

use baton_cluster::store::{Store, StoreError};
use baton_cluster::{ClusterState, LeaderRecord, Phase};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::config::Address;
use crate::log::{Grant, Head, StorageFailure};

/// Orders that may wait.
const QUEUE: usize = 16;

/// An order, and where its answer goes.
pub enum Order {
    /// Never again acknowledge anything below this grant.
    Promise(Grant, oneshot::Sender<Result<PromiseAnswer, PromiseError>>),
    /// The same, and complete the log from the binlog files of the old primary's host.
    Rescue {
        /// What is promised.
        grant: Grant,
        /// HTTP of the agent on that host.
        agent: Address,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<PromiseAnswer, PromiseError>>,
    },
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
    /// etcd can't be asked whether the order is to be obeyed.
    #[error("whether this order is to be obeyed can't be asked: {0}")]
    Unasked(#[from] StoreError),
    /// The order is not of the operation that is under way, or not of the controller that leads.
    #[error("{0}")]
    NotOrdered(String),
    /// It could not be made durable, so it was not given: the relay goes on under the grant that it has.
    #[error("the promise could not be made durable: {0}")]
    Storage(#[from] StorageFailure),
    /// The promise holds, but the log could not be completed.
    #[error("the end of the old primary's binlog is not here: {0}")]
    Rescue(String),
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
}

/// Hands orders to the upstream side.
#[derive(Clone)]
pub struct Control {
    orders: mpsc::Sender<Order>,
    /// Who is asked whether an order is to be obeyed; `None` where the relay stands alone.
    store: Option<Store>,
}

impl Control {
    /// The handle, and what the upstream side takes the orders from.
    pub fn new(store: Option<Store>) -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(QUEUE);
        (Self { orders, store }, receiver)
    }

    /// Promises; the answer is given once it is durable and the stream from the primary has ended.
    pub async fn promise(&self, term: u64, grant: Grant) -> Result<PromiseAnswer, PromiseError> {
        self.check(term, grant).await?;
        let (answer, given) = oneshot::channel();
        self.orders.send(Order::Promise(grant, answer)).await.map_err(|_| PromiseError::Stopping)?;
        given.await.map_err(|_| PromiseError::Stopping)?
    }

    /// Promises, and completes the log from the binlog files that the old primary has left; the answer is given once both are durable.
    pub async fn rescue(&self, term: u64, grant: Grant, agent: Address) -> Result<PromiseAnswer, PromiseError> {
        if self.store.is_none() {
            return Err(PromiseError::NotOrdered(
                "this relay stands alone: there is no cluster to be rescued".to_owned(),
            ));
        }
        let state = self.check(term, grant).await?;
        may_be_completed(state.as_ref(), grant).map_err(PromiseError::NotOrdered)?;
        let (answer, given) = oneshot::channel();
        self.orders.send(Order::Rescue { grant, agent, answer }).await.map_err(|_| PromiseError::Stopping)?;
        given.await.map_err(|_| PromiseError::Stopping)?
    }

    /// Whether an order is to be obeyed; gives the state that says so.
    async fn check(&self, term: u64, grant: Grant) -> Result<Option<ClusterState>, PromiseError> {
        let Some(store) = &self.store else { return Ok(None) };
        let key = store.keys().leader();
        let (leader, state) = tokio::try_join!(store.get::<LeaderRecord>(&key), store.state())?;
        let leads = leader.map(|l| (l.value.name, l.create_revision));
        let (leads, state) = (leads.as_ref().map(|(name, term)| (name.as_str(), *term)), state.map(|s| s.value));
        is_ordered(term, grant, leads, state.as_ref()).map_err(PromiseError::NotOrdered)?;
        Ok(state)
    }
}

/// Whether a log may still be completed from the old primary's binlog under `grant`, as far as `state` tells: only before the truth is known. Later it would have,
/// and its replicas with it, more than the end that was chosen. Pure.
pub(super) fn may_be_completed(state: Option<&ClusterState>, grant: Grant) -> Result<(), String> {
    let chosen = |state: &&ClusterState| state.asked == Some(grant) && state.phase != Phase::Fencing;
    match state.filter(|state| state.grant >= grant || chosen(state)) {
        Some(state) => Err(format!("epoch {} has chosen by now where the old primary's binlog ends", state.epoch)),
        None => Ok(()),
    }
}

/// Whether the order of `term` for `grant` is the leader's and of the operation that is under way. Pure.
fn is_ordered(
    term: u64,
    grant: Grant,
    leader: Option<(&str, i64)>,
    state: Option<&ClusterState>,
) -> Result<(), String> {
    match leader {
        None => return Err(format!("no controller leads now, the order is of term {term}")),
        Some((name, leads)) if u64::try_from(leads) != Ok(term) => {
            return Err(format!("{name} leads in term {leads}, the order is of term {term}"));
        }
        Some(_) => {}
    }
    match state.map(|s| s.asked) {
        None => Err("etcd has no state of this cluster".to_owned()),
        Some(None) => Err(format!("nothing is asked to be promised now, the order is for grant {grant}")),
        Some(Some(asked)) if asked != grant => {
            Err(format!("grant {asked} is asked to be promised now, the order is for {grant}"))
        }
        Some(Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_completed_only_before_the_truth_is_known() {
        let grant = |epoch| Grant { epoch, n: 1 };
        let first = ClusterState::bootstrap("db-1", "controller-1", "2026-01-01T00:00:00Z".into());
        let late = |state: ClusterState| may_be_completed(Some(&state), grant(7)).is_err();
        let asked = |phase, epoch| ClusterState { phase, asked: Some(grant(epoch)), ..first.clone() };
        assert!(!late(asked(Phase::Fencing, 7)));
        assert!(late(asked(Phase::CatchingUp, 7)));
        assert!(late(ClusterState { grant: grant(7), asked: None, ..asked(Phase::Promoting, 7) }));
        // What was heard of etcd last may be older than the order.
        assert!(!late(first.clone()) && !late(asked(Phase::CatchingUp, 6)));
        assert_eq!(may_be_completed(None, grant(7)), Ok(()));
    }

    #[test]
    fn only_the_leaders_order_of_the_present_operation_is_obeyed() {
        let grant = |epoch, n| Grant { epoch, n };
        let asked = |asked| ClusterState {
            asked,
            ..ClusterState::bootstrap("db-1", "controller-1", "2026-01-01T00:00:00Z".into())
        };
        let (now, leader) = (asked(Some(grant(7, 1))), Some(("controller-1", 12)));
        assert_eq!(is_ordered(12, grant(7, 1), leader, Some(&now)), Ok(()));
        for (case, term, wanted, leader, state, words) in [
            ("an old leader", 11, grant(7, 1), leader, Some(&now), "controller-1 leads in term 12"),
            ("one of the future", 13, grant(7, 1), leader, Some(&now), "term 13"),
            ("nobody leads", 12, grant(7, 1), None, Some(&now), "no controller leads"),
            ("another grant", 12, grant(7, 2), leader, Some(&now), "grant [7,1] is asked"),
            ("nothing is asked", 12, grant(7, 1), leader, Some(&asked(None)), "nothing is asked"),
            ("no state", 12, grant(7, 1), leader, None, "no state"),
        ] {
            let got = is_ordered(term, wanted, leader, state);
            assert!(got.as_ref().is_err_and(|e| e.contains(words)), "{case}: {got:?}");
        }
    }
}
