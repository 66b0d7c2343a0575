//! `GET /v1/watch`: newline-delimited JSON as things happen.
//!
//! One small task a watcher looks at the relay and queues lines; the connection takes them. The queue is bounded in lines and bytes:
//! a watcher that does not read is dropped with a final line, and nobody waits for it.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::error::ApiError;
use super::routes::App;
use super::status::{Attached, Upstream, attached, head};
use crate::clock::Micros;
use crate::fanout::ReplicaState;
use crate::lag::{HeadReport, LagReport};
use crate::metrics::Metrics;
use crate::upstream::UpstreamStatus;

/// Lines queued for a watcher, at most.
const QUEUED_LINES: usize = 256;
/// Bytes queued for a watcher beyond which it counts as slow.
const QUEUED_BYTES: usize = 1 << 20;
/// Least time between two head lines.
const HEAD_GAP: Duration = Duration::from_millis(50);
/// Replicas' states are compared this often (attaching and detaching is told at once).
const STATE_SCAN: Duration = Duration::from_millis(100);
/// Heartbeat and lag.
const BEAT: Duration = Duration::from_secs(1);

/// One line of the stream.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    /// The first one.
    Hello { cluster: &'a str, relay: &'a str, version: &'static str },
    /// The head moved, at most 20 times a second.
    Head { head: Option<HeadReport> },
    /// The upstream's state changed. How far the primary is comes with the lag.
    Upstream { upstream: Upstream },
    /// Replicas attached, changed their state, or left.
    Replicas { replicas: Vec<Change> },
    /// Each second.
    Lag { lag: LagReport },
    /// Each second.
    Heartbeat { time: String },
    /// The last one.
    End { error: &'a str, hint: &'a str },
}

#[derive(Serialize)]
struct Change {
    /// `attached | state | detached`.
    event: &'static str,
    connection: u32,
    /// As it is now; `None` if it is not listed any more.
    replica: Option<Attached>,
}

pub(super) async fn watch(State(app): State<App>) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.watchers).try_acquire_owned().map_err(|_| {
        let error = format!("{} watchers are attached already, which is the limit", app.options.limits.max_watchers);
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error, "close one, or poll GET /v1/lag")
    })?;
    let (sender, lines) = mpsc::channel(QUEUED_LINES);
    let shared = Arc::new(Shared::default());
    let attendance = Attendance::new(app.view.metrics(), permit);
    tokio::spawn(feed(app, Queue { sender, shared: Arc::clone(&shared) }));
    let body = Body::new(Lines { lines, shared, _attendance: attendance });
    // The end of the stream is the end of the connection: nobody has to tell it from a pause.
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
    ];
    Ok((headers, body).into_response())
}

/// Counts a watcher for as long as its connection lives.
struct Attendance {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Attendance {
    fn new(metrics: Arc<Metrics>, permit: OwnedSemaphorePermit) -> Self {
        metrics.http_watchers.inc();
        Self { metrics, _permit: permit }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.metrics.http_watchers.dec();
    }
}

/// Between the task and the connection, beside the queue.
#[derive(Default)]
struct Shared {
    queued_bytes: AtomicUsize,
    /// Sent behind everything that is queued, whether or not the queue has room.
    last: Mutex<Option<Bytes>>,
}

/// The watcher's end is gone, or it is too slow: the stream ends.
struct Ended;

struct Queue {
    sender: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
}

impl Queue {
    /// Queues a line, or ends the stream of a watcher that does not read.
    fn put(&self, line: &Line<'_>, metrics: &Metrics) -> Result<(), Ended> {
        let text = encode(line);
        let size = text.len();
        let slow = self.shared.queued_bytes.load(Ordering::Acquire) > QUEUED_BYTES;
        self.shared.queued_bytes.fetch_add(size, Ordering::AcqRel);
        if slow || matches!(self.sender.try_send(text), Err(mpsc::error::TrySendError::Full(_))) {
            metrics.http_dropped_watchers.inc();
            tracing::warn!("a watcher of the event stream is dropped: it does not read");
            self.end("this watcher reads too slowly: lines were lost", "connect again and read without pausing");
            return Err(Ended);
        }
        if self.sender.is_closed() { Err(Ended) } else { Ok(()) }
    }

    fn end(&self, error: &str, hint: &str) {
        *self.shared.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(encode(&Line::End { error, hint }));
    }
}

fn encode(line: &Line<'_>) -> Bytes {
    // Strings and numbers only: this can't fail.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

/// The body of the answer.
struct Lines {
    lines: mpsc::Receiver<Bytes>,
    shared: Arc<Shared>,
    _attendance: Attendance,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.lines.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(line)) => {
                self.shared.queued_bytes.fetch_sub(line.len(), Ordering::AcqRel);
                Poll::Ready(Some(Ok(Frame::data(line))))
            }
            Poll::Ready(None) => {
                let last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner).take();
                Poll::Ready(last.map(|line| Ok(Frame::data(line))))
            }
        }
    }
}

/// Looks and queues until the watcher leaves, is too slow, or the relay stops.
async fn feed(app: App, queue: Queue) {
    // An error only means that the stream has ended.
    let _ = run(&app, &queue).await;
}

async fn run(app: &App, queue: &Queue) -> Result<(), Ended> {
    let view = app.view.as_ref();
    let metrics = view.metrics();
    let registry = view.registry();
    let mut heads = view.subscribe_head();
    let mut upstream = view.upstream();
    let mut attendance = registry.changes();
    let (mut heads_live, mut upstream_live) = (true, true);
    let mut seen = BTreeMap::new();

    let (cluster, relay) = (app.options.cluster.as_str(), app.options.relay.as_str());
    queue.put(&Line::Hello { cluster, relay, version: env!("CARGO_PKG_VERSION") }, &metrics)?;
    queue.put(&Line::Head { head: head(view) }, &metrics)?;
    let mut told = upstream.borrow_and_update().clone();
    queue.put(&Line::Upstream { upstream: Upstream::new(told.clone(), Micros::now()) }, &metrics)?;
    queue.put(&Line::Replicas { replicas: changes(app, &mut seen) }, &metrics)?;

    let mut next_head = Instant::now() + HEAD_GAP;
    let mut moved = false;
    let (mut scan, mut beat) = (interval(STATE_SCAN), interval(BEAT));
    scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut look = false;
        tokio::select! {
            () = app.cancel.cancelled() => {
                queue.end("the relay is shutting down", "connect again, or to another relay");
                return Ok(());
            }
            () = queue.sender.closed() => return Ok(()),
            more = heads.changed(), if heads_live && !moved => (heads_live, moved) = (more, more),
            () = sleep_until(next_head), if moved => {
                moved = false;
                next_head = Instant::now() + HEAD_GAP;
                queue.put(&Line::Head { head: head(view) }, &metrics)?;
            }
            more = upstream.changed(), if upstream_live => {
                upstream_live = more.is_ok();
                let status = upstream.borrow_and_update().clone();
                if !same_stream(&status, &told) {
                    told = status;
                    queue.put(&Line::Upstream { upstream: Upstream::new(told.clone(), Micros::now()) }, &metrics)?;
                }
            }
            _ = attendance.changed() => look = true,
            _ = scan.tick() => look = true,
            _ = beat.tick() => {
                queue.put(&Line::Heartbeat { time: Micros::now().rfc3339() }, &metrics)?;
                queue.put(&Line::Lag { lag: view.lag_report().await }, &metrics)?;
            }
        }
        if look {
            let replicas = changes(app, &mut seen);
            if !replicas.is_empty() {
                queue.put(&Line::Replicas { replicas }, &metrics)?;
            }
        }
    }
}

/// Whether only what moves all the time is different: how far the primary is.
fn same_stream(a: &UpstreamStatus, b: &UpstreamStatus) -> bool {
    let moving = UpstreamStatus { behind_since: b.behind_since, primary_gtid: b.primary_gtid.clone(), ..a.clone() };
    moving == *b
}

/// What is different from `seen` (connection -> state), which is brought up to date.
fn changes(app: &App, seen: &mut BTreeMap<u32, ReplicaState>) -> Vec<Change> {
    let now: BTreeMap<u32, ReplicaState> =
        app.view.registry().list().iter().map(|r| (r.identity.connection, r.state())).collect();
    if now == *seen {
        return Vec::new();
    }
    let left = |state: Option<&ReplicaState>| matches!(state, None | Some(ReplicaState::Gone));
    let event = |id: &u32| match (seen.get(id), now.get(id)) {
        (old, new) if old == new => None,
        (None, _) => Some("attached"),
        (old, new) if left(new) => (!left(old)).then_some("detached"),
        _ => Some("state"),
    };
    let ids: HashSet<u32> = seen.keys().chain(now.keys()).copied().collect();
    let events: BTreeMap<u32, &'static str> = ids.iter().filter_map(|id| Some((*id, event(id)?))).collect();
    let mut known: BTreeMap<u32, Attached> =
        attached(app.view.as_ref()).into_iter().map(|a| (a.connection(), a)).collect();
    *seen = now;
    events
        .into_iter()
        .map(|(connection, event)| Change { event, connection, replica: known.remove(&connection) })
        .collect()
}
