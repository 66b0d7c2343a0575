//! `GET /v1/watch`: the cluster's report as newline-delimited JSON, at first, at each change, and at least every second.
//!
//! One line waits for a watcher at most: whoever reads slowly gets the newest state, not all of them.

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
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until};

use super::App;
use super::cluster::{ClusterReport, report};
use crate::http::ApiError;

/// Least time between two lines.
const GAP: Duration = Duration::from_millis(100);
/// A line comes at least so often.
const BEAT: Duration = Duration::from_secs(1);

/// One line.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line {
    /// As `GET /v1/cluster`.
    Cluster { cluster: Box<ClusterReport> },
    /// The last one.
    End { error: &'static str, hint: &'static str },
}

pub(super) async fn watch(State(app): State<App>) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.watchers).try_acquire_owned().map_err(|_| {
        let error = format!("{} watchers are attached already, which is the limit", super::MAX_WATCHERS);
        ApiError::unavailable(error, "close one, or poll GET /v1/cluster")
    })?;
    let (sender, lines) = mpsc::channel(1);
    tokio::spawn(feed(app, sender));
    // The end of the stream is the end of the connection: nobody has to tell it from a pause.
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
    ];
    Ok((headers, Body::new(Lines { lines, _permit: permit })).into_response())
}

/// The body of the answer.
struct Lines {
    lines: mpsc::Receiver<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.lines.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

fn encode(line: &Line) -> Bytes {
    // Strings and numbers only: this can't fail.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

async fn feed(app: App, sender: mpsc::Sender<Bytes>) {
    let mut pictures = app.pictures.clone();
    let mut told: Option<Bytes> = None;
    let mut told_at = Instant::now();
    loop {
        // Room first: what is told is what is so when it can be sent.
        let permit = tokio::select! {
            () = app.cancel.cancelled() => break,
            permit = sender.reserve() => match permit {
                Ok(permit) => permit,
                Err(_) => return,
            },
        };
        let picture = pictures.borrow_and_update().clone();
        if let Some(picture) = picture {
            let line = encode(&Line::Cluster { cluster: Box::new(report(&app, &picture)) });
            // Ages change all the time; they are told with the next beat.
            if told.as_ref().is_none_or(|t| t.len() != line.len() || without_ages(t) != without_ages(&line))
                || told_at.elapsed() >= BEAT
            {
                told = Some(line.clone());
                told_at = Instant::now();
                permit.send(line);
            }
        }
        let next = Instant::now() + GAP;
        tokio::select! {
            () = app.cancel.cancelled() => break,
            () = sender.closed() => return,
            changed = pictures.changed() => if changed.is_err() { break },
        }
        tokio::select! {
            () = app.cancel.cancelled() => break,
            () = sender.closed() => return,
            () = sleep_until(next) => {}
        }
    }
    let last = Line::End { error: "the controller is shutting down", hint: "connect again, or to another controller" };
    let _ = tokio::time::timeout(BEAT, sender.send(encode(&last))).await;
}

/// The line up to etcd's age, and from there on.
fn without_ages(line: &[u8]) -> (&[u8], &[u8]) {
    const AGE: &[u8] = b"\"age_ms\":";
    match line.windows(AGE.len()).position(|w| w == AGE) {
        Some(at) => {
            let (before, after) = line.split_at(at + AGE.len());
            let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
            (before, after.get(digits..).unwrap_or_default())
        }
        None => (line, &[]),
    }
}
