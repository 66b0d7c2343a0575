//! The right to hold a session: bounded, kept, and handed on when others need it.
//!
//! A session stays with its replica for as long as nobody waits for one. When somebody does, a replica that has been at the head
//! for [`IDLE_FOR`] gives its session up, unless no more than the minimum are open; and any replica does after a [`TURN`], so that
//! with more lagging replicas than sessions each of them is still asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a replica has to be at the head before its session may go to another.
pub(super) const IDLE_FOR: Duration = Duration::from_secs(30);
/// How long a replica holds its session when others wait, lagging or not.
pub(super) const TURN: Duration = Duration::from_secs(60);

/// How busy the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Sessions held.
    pub(super) open: usize,
    /// Replicas that wait for one.
    pub(super) waiting: usize,
    /// Holders that have been told to give theirs up.
    pub(super) leaving: usize,
}

/// Whether a holder gives its session up. `idle_for`: how long its replica has been at the head.
pub(super) fn gives_up(load: Load, min: usize, idle_for: Option<Duration>, held_for: Duration) -> bool {
    if load.waiting <= load.leaving {
        return false;
    }
    let idle = idle_for.is_some_and(|d| d >= IDLE_FOR) && load.open.saturating_sub(load.leaving) > min;
    idle || held_for >= TURN
}

/// All sessions of the pollers.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Arc<Semaphore>,
    min: usize,
    load: Mutex<Load>,
}

/// The right to hold one session; handed on when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pool: Arc<Pool>,
    since: Instant,
    leaving: bool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// `max` is at least 1.
    pub(super) fn new(min: usize, max: usize) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { slots, min, load: Mutex::default() })
    }

    /// How busy it is.
    #[cfg(test)]
    fn load(&self) -> Load {
        *self.lock()
    }

    /// A slot at once, if one is free.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Slot> {
        Arc::clone(&self.slots).try_acquire_owned().ok().map(|permit| self.slot(permit))
    }

    /// A slot, first come first served. `None` never happens while the pool lives.
    pub(super) async fn acquire(self: &Arc<Self>) -> Option<Slot> {
        let waiting = Waiting::new(self);
        let permit = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        drop(waiting);
        Some(self.slot(permit))
    }

    fn slot(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Slot {
        self.lock().open += 1;
        Slot { pool: Arc::clone(self), since: Instant::now(), leaving: false, _permit: permit }
    }

    fn lock(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Whether to close the session and drop this slot now.
    pub(super) fn gives_up(&mut self, idle_for: Option<Duration>) -> bool {
        let mut load = self.pool.lock();
        if !self.leaving && gives_up(*load, self.pool.min, idle_for, self.since.elapsed()) {
            load.leaving += 1;
            self.leaving = true;
        }
        self.leaving
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut load = self.pool.lock();
        load.open = load.open.saturating_sub(1);
        load.leaving = load.leaving.saturating_sub(usize::from(self.leaving));
    }
}

/// Counts a waiting replica, also when its wait is cancelled.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.lock().waiting += 1;
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut load = self.0.lock();
        load.waiting = load.waiting.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_secs(5);

    #[test]
    fn a_session_is_given_up_only_for_others_and_only_in_time() {
        let load = |open, waiting, leaving| Load { open, waiting, leaving };
        // (load, idle for, held for) -> gives up; the minimum is 4
        let table = [
            (load(64, 0, 0), Some(LONG), LONG, false),   // nobody waits: kept for ever
            (load(64, 1, 0), Some(SHORT), SHORT, false), // only just caught up: hysteresis
            (load(64, 1, 0), Some(IDLE_FOR), SHORT, true),
            (load(64, 1, 1), Some(IDLE_FOR), SHORT, false), // another one leaves already
            (load(64, 2, 1), Some(IDLE_FOR), SHORT, true),
            (load(4, 1, 0), Some(IDLE_FOR), SHORT, false), // the minimum stays
            (load(64, 1, 0), None, SHORT, false),          // behind: keeps it for its turn
            (load(64, 1, 0), None, TURN, true),
            (load(4, 1, 0), Some(LONG), TURN, true), // even of the minimum, or others would never be asked
        ];
        for (load, idle, held, expected) in table {
            assert_eq!(gives_up(load, 4, idle, held), expected, "{load:?} {idle:?} {held:?}");
        }
    }

    #[tokio::test]
    async fn slots_are_bounded_and_the_one_who_waits_gets_the_next() {
        let pool = Pool::new(1, 2);
        let (mut a, b) = (pool.try_acquire().unwrap(), pool.try_acquire().unwrap());
        assert!(pool.try_acquire().is_none());
        assert!(!a.gives_up(Some(LONG)));
        let waiter = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.acquire().await }
        });
        while pool.load().waiting == 0 {
            tokio::task::yield_now().await;
        }
        assert!(a.gives_up(Some(LONG)));
        assert_eq!(pool.load(), Load { open: 2, waiting: 1, leaving: 1 });
        drop(a);
        let c = waiter.await.unwrap().unwrap();
        assert_eq!(pool.load(), Load { open: 2, waiting: 0, leaving: 0 });
        drop((b, c));
        assert_eq!(pool.load(), Load::default());
    }

    #[tokio::test]
    async fn a_cancelled_wait_is_no_longer_counted() {
        let pool = Pool::new(0, 1);
        let held = pool.try_acquire().unwrap();
        let waiter = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.acquire().await }
        });
        while pool.load().waiting == 0 {
            tokio::task::yield_now().await;
        }
        waiter.abort();
        assert!(waiter.await.is_err());
        assert_eq!(pool.load(), Load { open: 1, waiting: 0, leaving: 0 });
        drop(held);
    }
}
