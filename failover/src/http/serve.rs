//! The HTTP server: accepts, bounds connections and times, and drains at the end.

use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::guard::StallGuard;

/// Bytes of a request's header, at most.
const MAX_HEADER: usize = 16 * 1024;
/// Fields of a request's header, at most.
const MAX_FIELDS: usize = 64;

/// Bounds of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones get 503 and are closed.
    pub max_connections: usize,
    /// Time for a request's header to arrive, also on an idle kept connection.
    pub header_timeout: Duration,
    /// A connection whose peer takes nothing for so long is closed.
    pub stall_timeout: Duration,
    /// Requests under way are given this long at shutdown.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            // Peers keep their connections for orders, which may be far apart.
            header_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(2),
        }
    }
}

/// Serves `router` until `cancel`, then lets requests under way finish for [`Limits::drain`]. A failing accept is logged and tried again.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, cancel: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let mut connections = JoinSet::new();
    // Whether the last one was refused: said once, not once a connection.
    let mut full = false;
    loop {
        let stream = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, say: that passes, and trying at once would only burn the processor.
                    tracing::warn!(%error, "HTTP: a connection can't be accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            if !full {
                tracing::warn!(limit = limits.max_connections, "HTTP: connections are refused: the limit is reached");
            }
            full = true;
            refuse(stream);
            continue;
        };
        full = false;
        let (router, cancel) = (router.clone(), cancel.clone());
        connections.spawn(async move {
            // What ends a connection is the client's business: nothing of it is worth a line above debug.
            if let Err(error) = connection(stream, router, limits, cancel).await {
                tracing::debug!(error, "HTTP: a connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    let drained = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        connections.shutdown().await;
    }
}

/// Tells a client beyond the limit so, if that can be done without waiting.
fn refuse(stream: TcpStream) {
    let body = r#"{"error":"too many HTTP connections","hint":"close some, or try again"}"#;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    // The plain socket does not block, and unlike tokio's it need not be polled before it is written to.
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(answer.as_bytes());
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    cancel: CancellationToken,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let stream = StallGuard::new(stream, limits.stall_timeout);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEADER)
        .max_headers(MAX_FIELDS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let mut stopping = pin!(cancel.cancelled());
    let mut told = false;
    poll_fn(|cx| {
        if !told && stopping.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
    .map_err(|e| e.to_string())
}
