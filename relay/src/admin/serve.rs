//! The HTTP server: accepts, speaks TLS if told to, bounds connections and times, and drains at the end.

use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::guard::StallGuard;
use super::routes::{App, router};
use super::view::View;
use super::{AdminOptions, Limits};

/// Bytes of a request's header, at most.
const MAX_HEADER: usize = 16 * 1024;
/// Fields of a request's header, at most.
const MAX_FIELDS: usize = 64;
/// First byte of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves HTTP until `cancel`, then lets requests under way finish for [`Limits::drain`].
///
/// # Errors
/// Only if the listener can't tell its own address. A failing accept is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    view: Arc<dyn View>,
    options: AdminOptions,
    cancel: CancellationToken,
) -> io::Result<()> {
    let limits = options.limits;
    let app = App {
        http_address: listener.local_addr()?.to_string(),
        watchers: Arc::new(Semaphore::new(limits.max_watchers)),
        cancel: cancel.clone(),
        view: Arc::clone(&view),
        options: Arc::new(options),
    };
    let tls = app.options.tls.clone().map(TlsAcceptor::from);
    let router = router(app);
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let open = view.metrics().http_connections.clone();
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
            refuse(stream, tls.is_some());
            continue;
        };
        full = false;
        let (router, tls, cancel, open) = (router.clone(), tls.clone(), cancel.clone(), open.clone());
        let counted = Counted::new(open);
        connections.spawn(async move {
            // What ends a connection is the client's business: nothing of it is worth a line above debug.
            if let Err(error) = connection(stream, router, tls, limits, cancel).await {
                tracing::debug!(error, "HTTP: a connection ended");
            }
            drop((counted, permit));
        });
    }
    drop(listener);
    let drained = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(left = connections.len(), "HTTP: connections are cut: they did not end in time");
        connections.shutdown().await;
    }
    Ok(())
}

/// Counts a connection for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Tells a client beyond the limit so, if that can be done without waiting.
fn refuse(stream: TcpStream, tls: bool) {
    if tls {
        return;
    }
    let body = r#"{"error":"too many HTTP connections","hint":"close some, or try again"}"#;
    // The plain socket does not block, and unlike tokio's it need not be polled before it is written to.
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(plain("503 Service Unavailable", body).as_bytes());
    }
}

fn plain(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

async fn connection(
    stream: TcpStream,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    cancel: CancellationToken,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let Some(acceptor) = tls else {
        return speak(StallGuard::new(stream, limits.stall_timeout), router, limits, cancel).await;
    };
    let opened = async {
        let mut first = [0_u8];
        let count = stream.peek(&mut first).await?;
        if count == 1 && first[0] != TLS_HANDSHAKE {
            return spoke_plainly(stream).await.map(|()| None);
        }
        acceptor.accept(StallGuard::new(stream, limits.stall_timeout)).await.map(Some)
    };
    let opened = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        opened = timeout(limits.header_timeout, opened) => opened,
    };
    match opened {
        Err(_) => Err("the TLS handshake took too long".to_owned()),
        Ok(Err(error)) => Err(format!("the TLS handshake failed: {error}")),
        Ok(Ok(None)) => Err("the client does not speak TLS".to_owned()),
        Ok(Ok(Some(stream))) => speak(stream, router, limits, cancel).await,
    }
}

/// Answers a client that speaks plain HTTP where TLS is wanted.
async fn spoke_plainly(mut stream: TcpStream) -> io::Result<()> {
    // What was sent has to be taken, or closing would reset the connection before the answer is read.
    let mut request = vec![0; MAX_HEADER];
    let _ = stream.read(&mut request).await?;
    let body = r#"{"error":"this port speaks TLS only","hint":"use https://"}"#;
    stream.write_all(plain("400 Bad Request", body).as_bytes()).await?;
    stream.shutdown().await
}

async fn speak<S>(stream: S, router: Router, limits: Limits, cancel: CancellationToken) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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
