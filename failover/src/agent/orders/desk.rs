//! Where orders are taken: one at a time, and a later one ends an earlier one that still runs.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{MutexGuard, Notify};
use tokio_util::sync::CancellationToken;

use crate::model::OrderNumber;

/// See the module.
#[derive(Default)]
pub struct Desk {
    turn: tokio::sync::Mutex<()>,
    running: Mutex<Option<(OrderNumber, CancellationToken)>>,
    look: Notify,
}

/// Whose turn it is.
pub struct Turn<'a> {
    desk: &'a Desk,
    /// Cancelled when a later order comes.
    pub superseded: CancellationToken,
    _turn: MutexGuard<'a, ()>,
}

impl Desk {
    /// Ends whatever runs under a lower number.
    pub fn supersede(&self, number: OrderNumber) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cancel)) = running.as_ref().filter(|(earlier, _)| *earlier < number) {
            cancel.cancel();
        }
    }

    /// Waits until nothing else runs.
    pub async fn turn(&self, number: OrderNumber) -> Turn<'_> {
        self.supersede(number);
        let turn = self.turn.lock().await;
        let superseded = CancellationToken::new();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, superseded.clone()));
        Turn { desk: self, superseded, _turn: turn }
    }

    /// A turn if nothing runs now: for what the agent does by itself.
    pub fn own_turn(&self, number: OrderNumber) -> Option<Turn<'_>> {
        let turn = self.turn.try_lock().ok()?;
        let superseded = CancellationToken::new();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, superseded.clone()));
        Some(Turn { desk: self, superseded, _turn: turn })
    }

    /// Has the server asked at once how it does.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Returns when somebody wants the server to be asked.
    pub fn looked_for(&self) -> impl Future<Output = ()> + '_ {
        self.look.notified()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.desk.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.desk.look();
    }
}
