//! One relay: its status, asked for often over a kept connection, and its stream of events, which tells at once when the primary's stream ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_cluster::Grant;
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::board::Board;
use super::views::{RelayView, ReplicaView};
use crate::http::{Client, ClientError};

/// How often the status is asked for, at most.
const LOOK: Duration = Duration::from_millis(200);
/// The longest pause between attempts to watch.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The stream has a heartbeat each second.
const BEAT: Duration = Duration::from_millis(3500);

/// What is read of `GET /v1/status`; the rest is the relay's own business.
#[derive(Debug, Deserialize)]
struct Status {
    log: Log,
    upstream: Upstream,
    #[serde(default)]
    membership: Option<Membership>,
}

#[derive(Debug, Deserialize)]
struct Log {
    id: String,
    writable: bool,
    damaged: Option<String>,
    error: Option<String>,
    head: Option<Head>,
}

#[derive(Debug, Deserialize)]
struct Head {
    gtid: String,
}

#[derive(Debug, Deserialize)]
struct Upstream {
    state: String,
    address: Option<String>,
    error: Option<String>,
    promised: Grant,
    holds_grant: bool,
    #[serde(default)]
    heard_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Membership {
    #[serde(default)]
    follows: Option<String>,
    #[serde(default)]
    etcd: Option<Etcd>,
}

#[derive(Debug, Deserialize)]
struct Etcd {
    healthy: bool,
}

/// Lines of `GET /v1/watch` that are of use here.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line {
    Head {
        head: Option<Head>,
    },
    Upstream {
        upstream: Box<Upstream>,
    },
    Lag {
        lag: Lag,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Lag {
    replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
struct Replica {
    name: String,
    state: String,
    received: Option<Position>,
    applied: Option<Position>,
    bottleneck: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Position {
    gtid: String,
    lag_ms: u64,
}

/// Looks at the relay `name` at `at` until cancelled.
pub(super) async fn run(
    name: String,
    at: String,
    client: Client,
    limit: Duration,
    board: Arc<Board>,
    cancel: CancellationToken,
) {
    let again = tokio::sync::Notify::new();
    tokio::select! {
        () = cancel.cancelled() => {}
        () = poll(&name, &at, &client, limit, &board, &again) => {}
        () = watch(&name, &at, &client, limit, &board, &again) => {}
    }
}

async fn poll(name: &str, at: &str, client: &Client, limit: Duration, board: &Board, again: &tokio::sync::Notify) {
    loop {
        let begun = Instant::now();
        match client.get::<Status>(at, "/v1/status", limit).await {
            Ok(status) => board.saw_relay(name, |view| *view = view_of(status)),
            Err(error) => {
                tracing::debug!(relay = name, %error, "the relay does not tell its status");
                board.relay_silent(name);
            }
        }
        tokio::select! {
            () = sleep_until(begun + LOOK) => {}
            () = again.notified() => {}
        }
    }
}

fn view_of(status: Status) -> RelayView {
    let etcd_lost = status.membership.as_ref().and_then(|m| m.etcd.as_ref()).is_some_and(|etcd| !etcd.healthy);
    RelayView {
        upstream: status.upstream.state,
        upstream_address: status.upstream.address,
        upstream_heard: status.upstream.heard_ms.map(Duration::from_millis),
        follows: status.membership.and_then(|c| c.follows).unwrap_or_default(),
        head: status.log.head.map(|h| h.gtid).unwrap_or_default(),
        writable: status.log.writable,
        complete: status.log.damaged.is_none(),
        log_id: status.log.id,
        promised: status.upstream.promised,
        held: status.upstream.holds_grant,
        etcd_lost,
        error: status.log.damaged.or(status.log.error).or(status.upstream.error),
    }
}

async fn watch(name: &str, at: &str, client: &Client, limit: Duration, board: &Board, again: &tokio::sync::Notify) {
    let mut backoff = Backoff::new(LONGEST_PAUSE);
    loop {
        let begun = Instant::now();
        if let Err(error) = follow(name, at, client, limit, board, again).await {
            tracing::debug!(relay = name, %error, "the relay's stream of events is broken");
        }
        again.notify_one();
        if begun.elapsed() > LONGEST_PAUSE {
            backoff.reset();
        }
        sleep(backoff.pause()).await;
    }
}

async fn follow(
    name: &str,
    at: &str,
    client: &Client,
    limit: Duration,
    board: &Board,
    again: &tokio::sync::Notify,
) -> Result<(), ClientError> {
    let mut streaming = false;
    let mut lines = client.lines(at, "/v1/watch", limit).await?;
    while let Some(line) = lines.next(BEAT).await? {
        match serde_json::from_slice(&line) {
            Ok(Line::Head { head }) => board.relay_moved(name, head.map(|h| h.gtid).unwrap_or_default()),
            Ok(Line::Upstream { upstream }) => {
                let now = upstream.state == "streaming";
                if streaming && !now {
                    board.upstream_broke();
                }
                streaming = now;
                again.notify_one();
            }
            Ok(Line::Lag { lag }) => board.saw_replicas(name, replicas(lag)),
            Ok(Line::Other) => {}
            Err(error) => tracing::debug!(relay = name, %error, "a line of the relay is not understood"),
        }
    }
    Ok(())
}

/// Replicas that are attached, by name; of an old and a new connection of one, the newest.
fn replicas(lag: Lag) -> BTreeMap<String, ReplicaView> {
    let attached = lag.replicas.into_iter().filter(|r| r.state != "gone");
    attached
        .map(|r| {
            let view = ReplicaView {
                received: r.received.map(|p| p.gtid).unwrap_or_default(),
                lag_ms: r.applied.as_ref().map(|p| p.lag_ms),
                applied: r.applied.map(|p| p.gtid),
                bottleneck: r.bottleneck,
                error: r.error,
            };
            (r.name, view)
        })
        .collect()
}
