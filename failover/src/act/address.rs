//! The address that clients use, where a program moves it (`[address] provider = "exec"`).
//!
//! Promises: the program is told to withdraw the address when an operation begins, and to publish it once the state names a primary again; one
//! call at a time, each ended by its time limit, a failed one tried again. Only the leader calls. A new leader tells what is so once more: the
//! program has to be idempotent. Where agents hold the address, or Kubernetes publishes it, nothing is done here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Picture;
use super::hooks::{self, HookFacts};
use crate::config::ControllerConfig;

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What the address should be at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    epoch: u64,
    primary: Option<String>,
    at: String,
    old: Option<String>,
    reason: String,
}

/// What `picture` asks for; none: nothing, since this controller does not lead or nothing is known.
fn wanted(picture: &Picture, now: Instant) -> Option<Wanted> {
    picture.leadership.term(now)?;
    let state = picture.facts.state.as_ref()?;
    let record = state.primary.as_ref().and_then(|p| picture.facts.nodes.get(p)).map(|n| &n.record);
    Some(Wanted {
        epoch: state.epoch,
        primary: state.primary.clone(),
        at: record.and_then(|r| r.mysql.first()).cloned().unwrap_or_default(),
        old: state.old_primary.clone(),
        reason: state.cause.reason.clone(),
    })
}

/// Keeps the address where the state says until cancelled.
pub async fn keep(
    config: Arc<ControllerConfig>,
    mut pictures: watch::Receiver<Option<Arc<Picture>>>,
    cancel: CancellationToken,
) {
    let mut done: Option<Wanted> = None;
    loop {
        let picture = pictures.borrow_and_update().clone();
        let next = picture.and_then(|p| wanted(&p, Instant::now()));
        if next.is_none() {
            // Whoever leads meanwhile may move it.
            done = None;
        }
        let due = next.filter(|n| done.as_ref().is_none_or(|d| (&d.primary, &d.at) != (&n.primary, &n.at)));
        if let Some(due) = due {
            let event = if due.primary.is_some() { "address_publish" } else { "address_withdraw" };
            let facts = HookFacts {
                event: event.to_owned(),
                cluster: config.cluster.clone(),
                old_primary: due.old.clone().unwrap_or_default(),
                new_primary: due.primary.clone().unwrap_or_default(),
                new_primary_address: due.at.clone(),
                epoch: due.epoch,
                reason: due.reason.clone(),
                vip: config.address.vip.clone().unwrap_or_default(),
                controller: config.name.clone(),
            };
            match hooks::run(&config.address.command, &facts, config.address.timeout).await {
                Ok(()) => {
                    tracing::info!(event, primary = due.primary, epoch = due.epoch, "the address is moved");
                    done = Some(due);
                }
                Err(why) => {
                    tracing::error!(event, primary = due.primary, why, "the address can't be moved");
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = sleep(PAUSE) => continue,
                    }
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = pictures.changed() => if changed.is_err() { return },
        }
    }
}
