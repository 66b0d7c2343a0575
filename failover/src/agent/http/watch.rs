//! `GET /v1/watch`: what happens, as it happens.
//!
//! The queue between the task that looks and the connection that sends is bounded: a watcher that does not read is dropped, and nobody waits for
//! it. An open stream is no contact by itself: bytes that were sent may never arrive.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::routes::App;
use crate::http::ApiError;
use crate::model::{AgentEvent, AgentStatus, ServerRole};

/// Lines queued for a watcher.
const QUEUED: usize = 64;
/// A sign of life of the primary's agent, and of others.
const BEAT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// The status is compared this often; deaths and orders are told at once.
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn watch(State(app): State<App>) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.watchers).try_acquire_owned().map_err(|_| {
        ApiError::unavailable("there are as many watchers as can be", "close one, or poll GET /v1/status")
    })?;
    let (sender, lines) = mpsc::channel(QUEUED);
    tokio::spawn(feed(app, sender));
    let body = Body::new(Lines { lines, _permit: permit });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
    ];
    Ok((headers, body).into_response())
}

struct Lines {
    lines: mpsc::Receiver<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.lines.poll_recv(cx).map(|line| line.map(|l| Ok(Frame::data(l))))
    }
}

fn encode(event: &AgentEvent) -> Bytes {
    // Strings and numbers only: this can't fail.
    let mut text = serde_json::to_vec(event).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

/// The same but for what grows all the time.
fn settled(status: &AgentStatus) -> AgentStatus {
    AgentStatus { mysqld_ms: 0, server_age_ms: None, ..status.clone() }
}

/// Looks and queues until the watcher leaves, is too slow, or the agent stops.
async fn feed(app: App, sender: mpsc::Sender<Bytes>) {
    let core = &app.core;
    let mut deaths = core.host.deaths();
    let mut processes = core.host.subscribe();
    let mut observed = core.observed.changes();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut last) = (None, Instant::now());
    loop {
        let event = tokio::select! {
            biased;
            () = app.cancel.cancelled() => return,
            () = sender.closed() => return,
            death = deaths.recv() => match death {
                Ok(death) => Some(death),
                Err(broadcast::error::RecvError::Lagged(_)) => None,
                Err(broadcast::error::RecvError::Closed) => return,
            },
            Ok(()) = processes.changed() => None,
            () = observed.next() => None,
            _ = looks.tick() => None,
        };
        let status = core.status();
        let beat = if status.role == ServerRole::Primary { BEAT.0 } else { BEAT.1 };
        let (now, server_age_ms) = (settled(&status), status.server_age_ms);
        let mut lines: Vec<AgentEvent> = event.into_iter().collect();
        if told.as_ref() != Some(&now) {
            told = Some(now);
            lines.push(AgentEvent::Status(Box::new(status)));
        } else if last.elapsed() >= beat.saturating_sub(LOOK / 2) {
            lines.push(AgentEvent::Alive { server_age_ms });
        }
        for line in lines {
            if sender.try_send(encode(&line)).is_err() {
                tracing::warn!("a watcher of events is dropped: it does not read");
                return;
            }
            last = Instant::now();
        }
    }
}
