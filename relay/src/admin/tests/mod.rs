//! The real server on a loopback port, in front of a scripted relay.

mod http;
mod schema;
mod stream;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::GtidPosition;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{AdminOptions, BoxFuture, Changes, View, serve};
use crate::clock::Micros;
use crate::fanout::{Registry, Replica, ReplicaIdentity};
use crate::lag::{AppliedReport, Bottleneck, HeadReport, LagReport, ReceivedReport, ReplicaReport, UpstreamReport};
use crate::log::{FileInfo, Grant, Head, LogPos, LogStatus};
use crate::metrics::Metrics;
use crate::upstream::{PromiseAnswer, PromiseError, Tail, UpstreamState, UpstreamStatus};

/// A relay that says what the test wants.
struct Scripted {
    head: watch::Sender<Option<Head>>,
    upstream: watch::Sender<UpstreamStatus>,
    log: Mutex<LogStatus>,
    listening: AtomicBool,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
}

fn gtid(text: &str) -> GtidPosition {
    GtidPosition::MariaDb(text.parse().unwrap())
}

fn head_at(offset: u64) -> Head {
    Head {
        pos: LogPos { file: 2, offset },
        gtid: gtid(&format!("0-1-{offset}")),
        transactions: offset,
        arrived: Micros::now(),
    }
}

impl Scripted {
    fn new() -> Arc<Self> {
        let upstream = UpstreamStatus {
            state: UpstreamState::Streaming,
            address: Some("10.0.1.5:3306".into()),
            server_id: Some(1),
            server_version: Some("11.4.2-MariaDB".into()),
            connects: 1,
            ..UpstreamStatus::default()
        };
        let log = LogStatus { log_id: "f00d".into(), writable: true, files: 1, bytes: 918, ..LogStatus::default() };
        Arc::new(Self {
            head: watch::Sender::new(Some(head_at(918))),
            upstream: watch::Sender::new(upstream),
            log: Mutex::new(log),
            listening: AtomicBool::new(true),
            registry: Registry::new(),
            metrics: Metrics::new(),
        })
    }

    fn attach(&self, connection: u32, host: &str) -> Arc<Replica> {
        let identity = ReplicaIdentity {
            connection,
            server_id: connection + 100,
            uuid: None,
            report_host: host.to_owned(),
            report_port: 3306,
            user: "repl".into(),
            peer: "10.0.1.6:40000".parse().unwrap(),
            registered: true,
            relay: false,
        };
        self.registry.attach(identity, CancellationToken::new()).0
    }
}

impl View for Scripted {
    fn etcd(&self) -> Option<crate::admin::EtcdHealth> {
        Some(crate::admin::EtcdHealth { healthy: true, age_ms: Some(12) })
    }

    fn rescue(
        &self,
        term: u64,
        asked: Grant,
        agent: crate::config::Address,
    ) -> BoxFuture<'_, Result<PromiseAnswer, PromiseError>> {
        if agent.port == 1 {
            return Box::pin(async { Err(PromiseError::Rescue("agent 127.0.0.1:1: connection refused".into())) });
        }
        self.promise(term, asked)
    }

    fn promise(&self, _term: u64, asked: Grant) -> BoxFuture<'_, Result<PromiseAnswer, PromiseError>> {
        let promised = Grant { epoch: 7, n: 1 };
        Box::pin(async move {
            if asked < promised {
                return Err(PromiseError::Lower { asked, promised });
            }
            Ok(PromiseAnswer { promised: asked, log_id: "id".into(), complete: true, tail: Tail::default() })
        })
    }

    fn head(&self) -> Option<Head> {
        self.head.borrow().clone()
    }

    fn subscribe_head(&self) -> Box<dyn Changes> {
        Box::new(self.head.subscribe())
    }

    fn upstream(&self) -> watch::Receiver<UpstreamStatus> {
        self.upstream.subscribe()
    }

    fn log_status(&self) -> LogStatus {
        self.log.lock().unwrap().clone()
    }

    fn files(&self) -> Vec<FileInfo> {
        vec![FileInfo {
            number: 2,
            name: "mysql-bin.000002".into(),
            size: 918,
            start: gtid("0-1-1"),
            checksum: ChecksumAlg::Crc32,
            server_version: "11.4.2-MariaDB".into(),
            closed: false,
        }]
    }

    fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    fn lag_report(&self) -> BoxFuture<'_, LagReport> {
        let replicas = self.registry.named().into_iter().map(|(name, r)| ReplicaReport {
            name,
            server_id: r.identity.server_id,
            address: "10.0.1.6:3306".into(),
            state: r.state().name(),
            state_ms: 5,
            received: Some(ReceivedReport { gtid: "0-1-9".into(), lag_transactions: 0, lag_bytes: 0, lag_ms: 0 }),
            applied: Some(AppliedReport {
                gtid: "0-1-8".into(),
                lag_transactions: 1,
                lag_bytes: 200,
                lag_ms: 37,
                age_ms: 12,
            }),
            bottleneck: Some(Bottleneck::Apply),
            error: None,
        });
        let report = LagReport {
            cluster: "shop".into(),
            relay: "relay-1".into(),
            head: Some(HeadReport {
                gtid: "0-1-9".into(),
                file: "mysql-bin.000002".into(),
                position: 918,
                arrived: Some(Micros::now().rfc3339()),
            }),
            upstream: UpstreamReport { state: "streaming", address: None, server_id: Some(1), lag_ms: 0 },
            replicas: replicas.collect(),
        };
        Box::pin(async move { report })
    }

    fn listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }
}

fn options() -> AdminOptions {
    AdminOptions::new("shop", "relay-1", "0.0.0.0:3307")
}

/// A running server; stops with the test.
struct Server {
    at: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn start(view: &Arc<Scripted>, options: AdminOptions) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(serve(listener, Arc::clone(view) as Arc<dyn View>, options, cancel.clone()));
    Server { at, cancel, task }
}

/// Fails the test rather than hang.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap_or_else(|_| panic!("{what}: too long"))
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Sends bytes as they are and reads until the server closes.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Answer {
    let mut stream = stream;
    stream.write_all(request).await.unwrap();
    let mut raw = Vec::new();
    // The server may reset a connection on which it had not read all.
    let _ = soon("the answer", stream.read_to_end(&mut raw)).await;
    let text = String::from_utf8_lossy(&raw).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn ask(at: SocketAddr, method: &str, path: &str, header: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{header}\r\n");
    exchange(TcpStream::connect(at).await.unwrap(), request.as_bytes()).await
}

async fn post(at: SocketAddr, path: &str, header: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\ncontent-length: {length}\r\n{header}\r\n{body}"
    );
    exchange(TcpStream::connect(at).await.unwrap(), request.as_bytes()).await
}

async fn get(at: SocketAddr, path: &str) -> Answer {
    ask(at, "GET", path, "").await
}

/// A watcher's lines.
struct Watcher {
    lines: BufReader<TcpStream>,
}

impl Watcher {
    async fn attach(at: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: relay\r\n\r\n").await.unwrap();
        Self { lines: BufReader::new(stream) }
    }

    /// The next line; `None` at the end. What frames the chunks is skipped.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if soon("a line", self.lines.read_line(&mut line)).await.unwrap_or(0) == 0 {
                return None;
            }
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }

    /// The next line of a kind.
    async fn of(&mut self, kind: &str) -> Value {
        loop {
            let line = self.next().await.unwrap_or_else(|| panic!("the stream ended before a line {kind}"));
            if line["type"] == kind {
                return line;
            }
        }
    }
}
