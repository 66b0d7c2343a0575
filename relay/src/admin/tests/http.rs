//! Answers, refusals and limits.

use super::*;
use crate::fanout::ReplicaState;

fn is_error(answer: &Answer) {
    let body = answer.json();
    assert!(body["error"].as_str().is_some_and(|e| !e.is_empty()), "{body}");
    assert!(body["hint"].as_str().is_some_and(|h| !h.is_empty()), "{body}");
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
}

#[tokio::test]
async fn status_tells_what_the_relay_knows() {
    let view = Scripted::new();
    let replica = view.attach(7, "db-2");
    replica.set_state(ReplicaState::Streaming);
    replica.note_sent(LogPos { file: 2, offset: 700 }, 650);
    let server = start(&view, options()).await;
    let status = get(server.at, "/v1/status").await.json();
    assert_eq!((&status["cluster"], &status["relay"]), (&"shop".into(), &"relay-1".into()));
    assert_eq!(status["listen"]["http"], server.at.to_string());
    assert_eq!(status["log"]["head"]["file"], "mysql-bin.000002");
    assert_eq!(status["log"]["files"][0]["start_gtid"], "0-1-1");
    assert_eq!(status["upstream"]["state"], "streaming");
    let attached = &status["replicas"][0];
    assert_eq!((&attached["name"], &attached["state"]), (&"db-2".into(), &"streaming".into()));
    assert_eq!(attached["sent"], serde_json::json!({"file": "mysql-bin.000002", "position": 700}));
    assert_eq!(attached["sent_bytes"], 650);
}

#[tokio::test]
async fn ready_means_listening_with_a_writable_log_whatever_the_upstream_does() {
    let view = Scripted::new();
    view.upstream.send_modify(|u| u.state = UpstreamState::Refused);
    let server = start(&view, options()).await;
    assert_eq!(get(server.at, "/readyz").await.status, 200);

    view.log.lock().unwrap().writable = false;
    view.log.lock().unwrap().error = Some("No space left on device".into());
    let answer = get(server.at, "/readyz").await;
    assert_eq!(answer.status, 503);
    is_error(&answer);
    assert!(answer.body.contains("No space left on device"));

    view.log.lock().unwrap().damaged = Some("mysql-bin.000001 at 4".into());
    assert!(get(server.at, "/readyz").await.body.contains("mysql-bin.000001 at 4"));

    *view.log.lock().unwrap() = LogStatus { writable: true, ..LogStatus::default() };
    view.listening.store(false, Ordering::Release);
    let answer = get(server.at, "/readyz").await;
    assert!(answer.status == 503 && answer.body.contains("0.0.0.0:3307"), "{}", answer.body);
    assert_eq!(get(server.at, "/healthz").await.status, 200);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_errors_of_the_one_form() {
    let view = Scripted::new();
    let server = start(&view, options()).await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/lags", 404),
        ("DELETE", "/nothing", 404),
        ("POST", "/v1/lag", 405),
        ("DELETE", "/v1/status", 405),
        ("GET", "/v1/promise", 405),
        ("GET", "/v1/lag/nobody", 404),
    ] {
        let answer = ask(server.at, method, path, "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        is_error(&answer);
        assert_eq!(status == 405, answer.head.contains("\r\nallow: "), "{}", answer.head);
    }
    assert_eq!(view.metrics.http_errors.get(), 7);
    assert_eq!(ask(server.at, "HEAD", "/v1/lag", "").await.status, 200);
}

#[tokio::test]
async fn posts_need_the_token_and_reads_only_where_protected() {
    let view = Scripted::new();
    let mut with_token = options();
    with_token.token = Some("0123456789abcdef".into());
    let good = "authorization: Bearer 0123456789abcdef\r\n";

    let open = start(&view, with_token.clone()).await;
    assert_eq!(get(open.at, "/v1/lag").await.status, 200);
    for bad in [
        "",
        "authorization: Bearer 0123456789abcdeF\r\n",
        "authorization: Bearer 0123456789abcde\r\n",
        "authorization: Bearer \r\n",
        "authorization: Basic 0123456789abcdef\r\n",
        "authorization: 0123456789abcdef\r\n",
    ] {
        let answer = ask(open.at, "POST", "/v1/promise", bad).await;
        assert_eq!(answer.status, 401, "{bad}");
        is_error(&answer);
        assert!(answer.head.contains("www-authenticate: bearer") && !answer.body.contains("0123456789abcdef"));
    }
    // With the token the order itself is looked at: there is none.
    let answer = ask(open.at, "POST", "/v1/promise", good).await;
    assert_eq!(answer.status, 400);
    is_error(&answer);

    with_token.protect_reads = true;
    let closed = start(&view, with_token).await;
    for path in ["/v1/lag", "/v1/lag/x", "/v1/status", "/v1/watch", "/metrics", "/openapi.json", "/nothing"] {
        assert_eq!(get(closed.at, path).await.status, 401, "{path}");
    }
    assert_eq!(ask(closed.at, "GET", "/v1/lag", good).await.status, 200);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(closed.at, path).await.status, 200, "{path}");
    }

    let none = start(&view, options()).await;
    let answer = ask(none.at, "POST", "/v1/promise", good).await;
    assert!(answer.status == 401 && answer.body.contains("listen.token_file"), "{}", answer.body);
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let view = Scripted::new();
    view.attach(7, "db-2");
    let server = start(&view, options()).await;
    let answer = get(server.at, "/metrics").await;
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    assert!(
        answer.body.contains("baton_relay_replica_applied_lag_seconds{replica=\"db-2\",server_id=\"107\"} 0.037\n")
    );
    assert!(answer.body.contains("baton_relay_http_connections 1\n"));
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let view = Scripted::new();
    let server = start(&view, options()).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let replica = b"\x0a\x00\x00\x01\x85\xa2\x3f\x00\x00\x00\x00\x01\x21\x00\x00\x00";
    let inputs: [&[u8]; 7] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        replica,
        b"\r\n\r\n\r\n\r\nhello\r\n\r\n",
        b"GET /\xff\xfe HTTP/9.9\r\n\r\n",
        b"POST /v1/promise HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ];
    for input in inputs {
        let mut stream = TcpStream::connect(server.at).await.unwrap();
        // A server that has refused may close before all is written.
        let _ = stream.write_all(input).await;
        let _ = stream.shutdown().await;
        let mut raw = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut raw)).await;
        let text = String::from_utf8_lossy(&raw);
        assert!(raw.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
        assert_eq!(get(server.at, "/healthz").await.status, 200);
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up() {
    let view = Scripted::new();
    let mut options = options();
    options.limits.header_timeout = Duration::from_millis(100);
    let server = start(&view, options).await;
    for begun in [&b""[..], b"G", b"GET /healthz HTTP/1.1\r\nhost: rel"] {
        let mut stream = TcpStream::connect(server.at).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut raw = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut raw)).await;
        assert!(!String::from_utf8_lossy(&raw).contains(" 200 "));
    }
    until("all are closed", || view.metrics.http_connections.get() == 0).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let view = Scripted::new();
    let mut options = options();
    options.limits.max_connections = 1;
    let server = start(&view, options).await;
    let mut watcher = Watcher::attach(server.at).await;
    watcher.of("hello").await;
    // Nothing is sent: the server refuses without reading.
    let answer = exchange(TcpStream::connect(server.at).await.unwrap(), b"").await;
    assert_eq!(answer.status, 503);
    is_error(&answer);
    drop(watcher);
    until("the place is free", || view.metrics.http_connections.get() == 0).await;
    assert_eq!(get(server.at, "/healthz").await.status, 200);
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_the_server() {
    let view = Scripted::new();
    let mut server = start(&view, options()).await;
    let mut idle = TcpStream::connect(server.at).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.cancel.cancel();
    soon("the server's end", &mut server.task).await.unwrap().unwrap();
    let mut rest = Vec::new();
    soon("the connection's end", idle.read_to_end(&mut rest)).await.unwrap();
    TcpStream::connect(server.at).await.unwrap_err();
}
