//! HTTP of the controller: what the cluster is doing, what was done, and requests to do something.
//!
//! Any controller can be asked anything: what only the leader can do is handed on to it. Every answer but metrics and dashboard is JSON as
//! `/openapi.json` describes it; every error is `{"error":"one sentence","hint":"what to do"}`. Changes nothing but by requests in etcd and by
//! orders that the loop gives.

mod bootstrap;
mod cluster;
mod leave;
mod orders;
mod reads;
mod requests;
mod routes;
mod settings;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use baton_cluster::store::Store;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::act::{Answer, Command, Picture};
use crate::config::ControllerConfig;
use crate::http::{ApiError, Client};
use crate::metrics::Metrics;
use crate::probe::Board;

pub use routes::router;

/// Watchers at a time; further ones get 503.
const MAX_WATCHERS: usize = 64;

/// What the handlers work with.
pub struct Parts {
    /// The configuration.
    pub config: Arc<ControllerConfig>,
    /// `host:port` at which others reach this controller.
    pub address: String,
    /// etcd.
    pub store: Store,
    /// To the other controllers.
    pub client: Client,
    /// What is seen.
    pub board: Arc<Board>,
    /// The loop's last turn.
    pub pictures: tokio::sync::watch::Receiver<Option<Arc<Picture>>>,
    /// What becomes of requests.
    pub answers: broadcast::Sender<Answer>,
    /// To the loop.
    pub commands: mpsc::Sender<Command>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Ends event streams.
    pub cancel: CancellationToken,
}

/// Shared by the handlers. Cheap to clone.
#[derive(Clone)]
pub struct App {
    parts: Arc<Parts>,
    watchers: Arc<Semaphore>,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl App {
    /// Of these parts.
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), watchers: Arc::new(Semaphore::new(MAX_WATCHERS)) }
    }

    /// The loop's last turn.
    fn picture(&self) -> Result<Arc<Picture>, ApiError> {
        let picture = self.pictures.borrow().clone();
        picture.ok_or_else(|| ApiError::unavailable("this controller is starting", "ask again in a moment"))
    }

    /// Whether this controller leads now.
    fn leads(&self) -> bool {
        let now = tokio::time::Instant::now();
        self.pictures.borrow().as_ref().is_some_and(|p| p.leadership.term(now).is_some())
    }
}
