//! The address provider `kubernetes`: the virtual IP is the ClusterIP of a Service without selector, whose EndpointSlice is written here.
//!
//! Promises: the primary's slice holds at most one address, and none while the primary is fenced; each slice bears the epoch and the term that it was written for,
//! and is replaced only as it was read (by resource version) and never by an older epoch or term, so that a late controller changes nothing; pods bear their
//! role, and each change is an Event of the Service. What is wanted is repeated until it holds, and looked at again every few seconds.
//! Decides nothing: who is primary is said by the state in etcd. That a fenced server can't commit is not this module's doing.

mod api;
pub mod secret;
mod slices;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::act::Picture;
use crate::config::ControllerConfig;
use crate::config::controller::AddressProvider;

pub use api::Publisher;
pub use slices::Rank;
pub use wanted::{Member, Role, Wanted};

/// How often what is published is compared with what is wanted, though nothing has changed.
const REPAIR: Duration = Duration::from_secs(5);
/// Pause after a failure, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is published, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// Namespace of both; none: that of the service account.
    pub namespace: Option<String>,
    /// Service whose EndpointSlice, of the same name, holds the primary.
    pub primary: Option<String>,
    /// Service whose EndpointSlice holds the replicas.
    pub replicas: Option<String>,
    /// Port of the servers.
    pub port: u16,
}

/// Why nothing could be published.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// There is no way to the API.
    #[error("the Kubernetes API can't be used: {0}; is this a pod with a service account's token?")]
    NoAccess(String),
    /// A request failed.
    #[error("{what}: {why}")]
    Request {
        /// What was asked.
        what: String,
        /// What was answered.
        why: String,
    },
    /// No answer in time.
    #[error("{what}: no answer within {limit:?}")]
    Timeout {
        /// What was asked.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Somebody published for a newer epoch or term.
    #[error(
        "EndpointSlice {slice} was written for {there}, which is newer than {ours}: left as it is. If the cluster was begun anew, delete the slice"
    )]
    Newer {
        /// Its name.
        slice: String,
        /// What it bears.
        there: Rank,
        /// What was to be written.
        ours: Rank,
    },
    /// Others change the slice again and again.
    #[error("EndpointSlice {slice} was changed by others between reading and writing, {tries} times")]
    Contended {
        /// Its name.
        slice: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A node can't be published.
    #[error("node {node} has no {family} address: {why}")]
    NoAddress {
        /// Its name.
        node: String,
        /// `IPv4` or `IPv6`, as the Service says.
        family: String,
        /// What was found instead.
        why: String,
    },
}

/// Publishes what the loop's pictures imply, while this controller leads; ends at once where another provider is configured.
pub async fn follow(
    config: Arc<ControllerConfig>,
    mut pictures: watch::Receiver<Option<Arc<Picture>>>,
    cancel: CancellationToken,
) {
    if config.address.provider != AddressProvider::Kubernetes {
        return;
    }
    let (sender, wanted) = watch::channel(None);
    let services = Services {
        namespace: config.kubernetes.namespace.clone(),
        primary: config.kubernetes.primary_service.clone(),
        replicas: config.kubernetes.replicas_service.clone(),
        port: config.kubernetes.port,
    };
    let publishing = tokio::spawn(run(services, wanted, cancel.clone()));
    loop {
        let now = pictures.borrow_and_update().clone().and_then(|picture| {
            let term = picture.leadership.term(Instant::now())?;
            Wanted::of(&picture.facts, term, config.kubernetes.replicas_max_lag).map(Arc::new)
        });
        sender.send_if_modified(|wanted| {
            let differs = *wanted != now;
            *wanted = now;
            differs
        });
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = pictures.changed() => if changed.is_err() { break },
        }
    }
    cancel.cancel();
    if let Err(error) = publishing.await {
        tracing::error!(%error, "what publishes the primary ended");
    }
}

/// Publishes whatever is wanted, until cancelled; with nothing wanted (another controller leads) it does nothing.
pub async fn run(services: Services, mut wanted: watch::Receiver<Option<Arc<Wanted>>>, cancel: CancellationToken) {
    let mut pause = PAUSE.0;
    let mut publisher: Option<Publisher> = None;
    let mut told = String::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        let done = match &now {
            None => Ok(()),
            Some(now) => tokio::select! {
                () = cancel.cancelled() => return,
                done = publish(&services, &mut publisher, now) => done,
            },
        };
        let wait = match done {
            Ok(()) => {
                pause = PAUSE.0;
                told.clear();
                REPAIR
            }
            Err(error) => {
                let text = error.to_string();
                // Once for each kind of failure, not once for each try.
                if text != told {
                    tracing::warn!(%error, "not published");
                    told = text;
                }
                pause = (pause * 2).min(PAUSE.1);
                pause
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn publish(
    services: &Services,
    publisher: &mut Option<Publisher>,
    wanted: &Wanted,
) -> Result<(), KubernetesError> {
    let publisher = match publisher {
        Some(publisher) => publisher,
        // A token or an address that was not there when the pod started may be there now.
        None => publisher.insert(Publisher::connect(services)?),
    };
    publisher.publish(wanted).await
}
