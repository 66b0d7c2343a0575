//! Keeps asking whether anybody is there, and fences the server if nobody was for too long.
//!
//! Checks before it asks: after a freeze the first thing that happens is the look at the clock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use hyper::Method;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::contact::{CutOff, boottime, must_fence};
use super::core::Core;
use super::orders::fence_now;
use crate::http::client::Call;

/// The longest time between two looks at the clock.
const LOOK: Duration = Duration::from_millis(100);

/// Looks at the clock until cancelled.
pub async fn guard(core: Arc<Core>, cancel: CancellationToken) {
    let fence_after = core.config.address.fence_after;
    loop {
        let (silence, lapsed) = core.contact.look();
        let cut_off = CutOff { silence, lapsed, fence_after, primary: core.may_be_primary() };
        if must_fence(cut_off) {
            tracing::error!(
                ?silence,
                ?fence_after,
                "nothing of the cluster was reached for too long: the server is fenced"
            );
            core.metrics.self_fence();
            fence_now(&core, None, true).await;
        }
        let left = fence_after.saturating_sub(core.contact.silence()).clamp(Duration::from_millis(5), LOOK);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep_until(Instant::now() + left) => {}
        }
    }
}

/// Asks etcd, every relay and every controller that is or was known, until cancelled. One that does not answer holds nobody else up.
pub async fn ask_around(core: Arc<Core>, cancel: CancellationToken) {
    let period = (core.config.address.fence_after / 4).clamp(Duration::from_millis(50), Duration::from_secs(5));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        remember_peers(&core).await;
        let known = core.known.get();
        let limit = core.config.address.fence_after.max(Duration::from_millis(200));
        tokio::spawn(ask_etcd(Arc::clone(&core), limit));
        for at in known.controllers.into_iter().chain(known.relays) {
            tokio::spawn(ask(Arc::clone(&core), at, limit));
        }
    }
}

async fn ask_etcd(core: Arc<Core>, limit: Duration) {
    let sent = boottime();
    if matches!(tokio::time::timeout(limit, core.store.ping()).await, Ok(Ok(()))) {
        core.contact.heard(sent);
    }
}

/// Any answer will do: it comes from a living process there.
async fn ask(core: Arc<Core>, at: String, limit: Duration) {
    let sent = boottime();
    let call = Call { at: &at, method: Method::GET, path: "/healthz", body: Bytes::new(), repeatable: true };
    if core.client.call(call, limit).await.is_ok() {
        core.contact.heard(sent);
    }
}

/// Whom to ask while etcd does not answer, also after a restart.
async fn remember_peers(core: &Core) {
    let snapshot = core.snapshot();
    if !snapshot.healthy {
        return;
    }
    let controllers: BTreeSet<String> = snapshot.controllers.values().map(|c| c.http.clone()).collect();
    let relays: BTreeSet<String> = snapshot.relays.values().map(|r| r.http.clone()).collect();
    let known = core.known.get();
    // Those that are gone just now are kept: that they are gone may be what is to be noticed.
    let merged = |old: &[String], new: BTreeSet<String>, most: usize| -> Vec<String> {
        let old = old.iter().filter(|o| !new.contains(*o)).cloned().collect::<Vec<_>>();
        new.into_iter().chain(old).take(most).collect()
    };
    let (controllers, relays) = (merged(&known.controllers, controllers, 16), merged(&known.relays, relays, 16));
    if controllers == known.controllers && relays == known.relays {
        return;
    }
    let changed = core.known.change(move |k| {
        k.controllers = controllers;
        k.relays = relays;
    });
    if let Err(error) = changed.await {
        tracing::warn!(%error, "who belongs to the cluster can't be kept");
    }
}
