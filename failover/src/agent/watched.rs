//! A value that many look at and some change.
//!
//! Promises: nobody holds it while somebody else waits to change it. `tokio::sync::watch` lends its value under a lock that a waiting writer closes
//! to further readers: who asks for it again while it is lent to him waits for that writer, which waits for him, and both hang for ever.

use tokio::sync::watch;

/// See the module.
#[derive(Debug, Default)]
pub struct Watched<T>(watch::Sender<T>);

impl<T: Clone> Watched<T> {
    /// A copy of the present value.
    pub fn get(&self) -> T {
        self.0.borrow().clone()
    }

    /// Replaces it.
    pub fn set(&self, value: T) {
        self.0.send_replace(value);
    }

    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut T)) {
        self.0.send_modify(change);
    }

    /// Changes it; whoever watches is woken only if `change` says so, which is returned.
    pub fn change_if(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        self.0.send_if_modified(change)
    }

    /// For waiting until it changes.
    pub fn changes(&self) -> Changes<T> {
        Changes(self.0.subscribe())
    }
}

/// Tells of changes.
#[derive(Debug)]
pub struct Changes<T>(watch::Receiver<T>);

impl<T> Changes<T> {
    /// Returns at the next change. Never, once the value is gone.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_was_got_can_be_kept_while_it_is_asked_for_again_and_changed() {
        let (watched, done) = (Arc::new(Watched::<u64>::default()), Arc::new(AtomicBool::new(false)));
        let writer = std::thread::spawn({
            let (watched, done) = (Arc::clone(&watched), Arc::clone(&done));
            move || {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    n += 1;
                    watched.set(n);
                }
            }
        });
        for _ in 0..200_000 {
            let first = watched.get();
            assert!(first <= watched.get());
        }
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }
}
