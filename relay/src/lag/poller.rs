//! Asks one replica what it has applied, for as long as the registry lists it.
//!
//! Keeps its session from question to question. Never holds a lock over an await; every wait ends at once when cancelled, and every
//! question is bounded in time.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Micros;
use crate::fanout::{Replica, ReplicaState};
use crate::lag::history::History;
use crate::lag::pool::{Pool, Slot};
use crate::lag::sample::{Sample, SampleError, Sampler, Session, ThreadState, Threads};
use crate::lag::schedule::{Backoff, Pace, ThreadsDue, threads_due};
use crate::lag::server::Server;
use crate::log::Head;
use crate::metrics::Metrics;

/// Time to connect and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// `SHOW SLAVE STATUS` can hang behind a `STOP SLAVE`: after that it is left alone for this long.
const THREADS_PAUSE: Duration = Duration::from_secs(10);
/// Pause before a replica that came back is tried again.
const CAME_BACK_PAUSE: Duration = Duration::from_millis(100);
/// A replica that left is asked for this much longer: that tells why it left, and what it still applies.
const ASK_GONE_FOR: Duration = Duration::from_secs(60);

/// All that one poller needs.
pub(super) struct Poller<S> {
    /// Sets up sessions.
    pub(super) sampler: Arc<S>,
    /// Tells the head.
    pub(super) history: Arc<dyn History>,
    /// Grants sessions.
    pub(super) pool: Arc<Pool>,
    /// The replica's server.
    pub(super) server: Arc<Server>,
    /// Time between two questions while it is behind.
    pub(super) poll_min: Duration,
    /// Time between two questions while it idles, at most.
    pub(super) poll_max: Duration,
    /// Counts questions and sessions.
    pub(super) metrics: Arc<Metrics>,
    /// Ends the poller.
    pub(super) cancel: CancellationToken,
}

/// Counts a session for as long as it is open.
struct OpenSession(IntGauge);

impl OpenSession {
    fn new(sessions: &IntGauge) -> Self {
        sessions.inc();
        Self(sessions.clone())
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why a session ended.
enum Left {
    /// It is not needed any more, or others need it more.
    Done,
    Failed(SampleError),
}

/// What outlives a session.
struct Memory {
    heads: watch::Receiver<Option<Arc<Head>>>,
    connections: watch::Receiver<(Arc<Replica>, ReplicaState)>,
    backoff: Backoff,
    threads_asked: Option<Instant>,
    threads_not_before: Option<Instant>,
}

impl<S: Sampler> Poller<S> {
    /// Runs until cancelled.
    pub(super) async fn run(self) {
        let mut memory = Memory {
            heads: self.history.subscribe(),
            connections: self.server.connections(),
            backoff: Backoff::default(),
            threads_asked: None,
            threads_not_before: None,
        };
        while !self.cancel.is_cancelled() {
            self.next_session(&mut memory).await;
        }
    }

    /// Waits until there is something to ask and a session may be had, uses it to its end, and waits again if it failed.
    async fn next_session(&self, memory: &mut Memory) {
        memory.connections.borrow_and_update();
        if is_retired(&self.server.replica()) {
            self.unless_cancelled(memory.connections.changed()).await;
            memory.threads_asked = None;
            return;
        }
        let Some(Some(slot)) = self.unless_cancelled(self.slot()).await else { return };
        let Left::Failed(why) = self.session(slot, memory).await else { return };
        self.failed(&why);
        let wait = memory.backoff.failed(rand::random());
        let pause = async {
            tokio::select! {
                () = sleep(wait) => {}
                // It came back (or left): no need to wait for long.
                _ = memory.connections.changed() => sleep(wait.min(CAME_BACK_PAUSE)).await,
            }
        };
        self.unless_cancelled(pause).await;
    }

    async fn unless_cancelled<T>(&self, waited_for: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.cancel.cancelled() => None,
            value = waited_for => Some(value),
        }
    }

    async fn slot(&self) -> Option<Slot> {
        if let Some(slot) = self.pool.try_acquire() {
            return Some(slot);
        }
        if self.server.observed().sample.is_none() {
            self.server.position_failed("it waits for a session: all of lag.max_sessions are in use".into());
        }
        self.pool.acquire().await
    }

    /// One session, from connecting to closing. The slot is free again when this returns.
    async fn session(&self, mut slot: Slot, memory: &mut Memory) -> Left {
        let target = self.server.address;
        self.server.asking(Micros::now());
        let connecting = bounded(CONNECT_TIMEOUT, self.sampler.connect(target));
        let mut session = match self.unless_cancelled(connecting).await {
            Some(Ok(session)) => session,
            Some(Err(error)) => {
                self.metrics.lag_polls.inc();
                return Left::Failed(error);
            }
            None => return Left::Done,
        };
        let _counted = OpenSession::new(&self.metrics.lag_sessions);
        let left = self.unless_cancelled(self.questions(&mut session, &mut slot, memory)).await;
        session.close().await;
        left.unwrap_or(Left::Done)
    }

    async fn questions(&self, session: &mut S::Session, slot: &mut Slot, memory: &mut Memory) -> Left {
        let mut pace = Pace::new(self.poll_min, self.poll_max);
        let mut at_head_since: Option<Instant> = None;
        loop {
            let replica = self.server.replica();
            if is_retired(&replica) {
                return Left::Done;
            }
            let head = memory.heads.borrow_and_update().clone();
            let (behind, moved) = match self.position(session, &replica, head.as_deref()).await {
                Ok(answer) => answer,
                Err(why) => return Left::Failed(why),
            };
            let asked_at = Instant::now();
            memory.backoff.reset();
            if let Err(why) = self.threads(session, memory, behind, !moved).await {
                return Left::Failed(why);
            }
            at_head_since = if behind { None } else { at_head_since.or(Some(asked_at)) };
            if slot.gives_up(at_head_since.map(|since| since.elapsed())) {
                return Left::Done;
            }
            let wake = asked_at + pace.answered(behind);
            if !wait(memory, &mut pace, asked_at, wake, behind).await {
                return Left::Done;
            }
        }
    }

    /// Asks for the applied position: whether it is behind the head that was known before, and whether it moved.
    async fn position(
        &self,
        session: &mut S::Session,
        replica: &Replica,
        head: Option<&Head>,
    ) -> Result<(bool, bool), SampleError> {
        let taken_at = Micros::now();
        self.server.saw_sent(replica.received(), taken_at);
        self.server.asking(taken_at);
        self.metrics.lag_polls.inc();
        match bounded(ANSWER_TIMEOUT, session.position()).await {
            Ok(gtid) => {
                let behind = head.is_some_and(|h| !gtid.covers(&h.gtid));
                if self.server.observed().position_error.is_some() {
                    tracing::info!(replica = %self.server.address, "the replica answers what it has applied");
                }
                let head = head.map(|h| h.pos);
                Ok((behind, self.server.sampled(Sample { gtid, taken_at, head })))
            }
            Err(why @ SampleError::Refused(_)) => {
                self.failed(&why);
                Ok((false, true))
            }
            Err(why) => Err(why),
        }
    }

    /// Asks for the threads' state, if it is time to.
    async fn threads(
        &self,
        session: &mut S::Session,
        memory: &mut Memory,
        behind: bool,
        unmoved: bool,
    ) -> Result<(), SampleError> {
        let known = self.server.observed().threads;
        let unwell = known.is_some_and(|t| t.io != ThreadState::Running || t.sql != ThreadState::Running);
        let due = ThreadsDue {
            since_last: memory.threads_asked.map(|at| at.elapsed()),
            behind,
            stuck: behind && unmoved,
            unwell,
        };
        let now = Instant::now();
        if !threads_due(due, self.poll_max) || memory.threads_not_before.is_some_and(|at| now < at) {
            return Ok(());
        }
        memory.threads_asked = Some(now);
        let (taken_at, sent) = (Micros::now(), self.server.replica().sent());
        self.server.asking(taken_at);
        match bounded(ANSWER_TIMEOUT, session.threads()).await {
            Ok(threads) => {
                self.server.threads(Ok(threads.map(|t| Threads { taken_at, sent, ..t })));
                Ok(())
            }
            Err(SampleError::Refused(why)) => {
                self.server.threads(Err(format!("its replication threads can't be asked: {why}")));
                Ok(())
            }
            Err(why) => {
                memory.threads_not_before = Some(now + THREADS_PAUSE);
                Err(why)
            }
        }
    }

    fn failed(&self, why: &SampleError) {
        self.metrics.lag_poll_errors.inc();
        if matches!(why, SampleError::Refused(_)) {
            self.server.answered();
        }
        let target: SocketAddr = self.server.address;
        let text = format!("{target} can't be asked what it has applied: {why}");
        if self.server.position_failed(text) {
            tracing::warn!(replica = %target, error = %why, "the replica can't be asked what it has applied");
        }
    }
}

/// Waits for the next question: until `wake`, sooner if the head moves while the replica is at it, at once if it came or left.
/// False if nobody needs the answer any more.
async fn wait(memory: &mut Memory, pace: &mut Pace, asked_at: Instant, mut wake: Instant, behind: bool) -> bool {
    let mut follow_head = !behind;
    loop {
        tokio::select! {
            changed = memory.connections.changed() => {
                memory.threads_asked = None;
                return changed.is_ok();
            }
            () = sleep_until(wake) => return true,
            changed = memory.heads.changed(), if follow_head => {
                follow_head = false;
                if changed.is_ok() {
                    wake = wake.min(Instant::now() + pace.new_head(asked_at.elapsed()));
                }
            }
        }
    }
}

fn is_retired(replica: &Replica) -> bool {
    let left = matches!(replica.state(), ReplicaState::Gone | ReplicaState::Stopped);
    left && u128::from(Micros::now().millis_since(replica.state_since())) >= ASK_GONE_FOR.as_millis()
}

async fn bounded<T>(limit: Duration, answer: impl Future<Output = Result<T, SampleError>>) -> Result<T, SampleError> {
    match timeout(limit, answer).await {
        Ok(result) => result,
        Err(_) => Err(SampleError::Broken(format!("no answer within {} s", limit.as_secs()))),
    }
}
