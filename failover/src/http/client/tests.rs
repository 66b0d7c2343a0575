use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http::{ApiError, Limits, auth, serve};

const LIMIT: Duration = Duration::from_secs(10);

async fn server(router: Router) -> (String, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let cancel = CancellationToken::new();
    tokio::spawn(serve(listener, router, Limits::default(), cancel.clone()));
    (at, cancel)
}

#[tokio::test]
async fn calls_carry_the_token_and_errors_carry_what_was_said() {
    let token = SecretString::from("a-secret".to_owned());
    let expected = token.clone();
    let ask = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        auth::require_token(Some(&expected), &headers)?;
        match body["n"].as_u64() {
            Some(n) => Ok(Json(json!({"n": n + 1}))),
            None => Err(ApiError::conflict("n is missing", "send n").with("last", [1, 2])),
        }
    };
    let (at, _cancel) = server(Router::new().route("/ask", post(ask))).await;
    let client = Client::new(Some(&token));
    let answer: Value = client.post(&at, "/ask", &json!({"n": 1}), LIMIT).await.unwrap();
    assert_eq!(answer, json!({"n": 2}));
    match client.post::<Value>(&at, "/ask", &json!({}), LIMIT).await {
        Err(ClientError::Status(r)) if r.status == 409 => {
            assert_eq!((r.error.as_str(), r.hint.as_str()), ("n is missing", "send n"));
            assert_eq!(serde_json::from_slice::<Value>(&r.body).unwrap()["last"], json!([1, 2]));
        }
        other => panic!("{other:?}"),
    }
    let stranger = Client::new(None).post::<Value>(&at, "/ask", &json!({}), LIMIT).await;
    assert!(matches!(&stranger, Err(ClientError::Status(r)) if r.status == 401), "{stranger:?}");
    assert!(!format!("{client:?}").contains("a-secret"));
}

#[tokio::test]
async fn a_connection_is_kept_and_replaced_when_its_peer_has_closed_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let connections = tokio::spawn(async move {
        let mut connections = 0;
        // Two answers on the first connection, one on the second.
        for answers in [2, 1] {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections += 1;
            for _ in 0..answers {
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7").await.unwrap();
            }
        }
        connections
    });
    let client = Client::new(None);
    for _ in 0..3 {
        assert_eq!(client.get::<u32>(&at, "/", LIMIT).await, Ok(7));
    }
    assert_eq!(connections.await.unwrap(), 2);
    assert_eq!(client.get::<u32>(&at, "/", LIMIT).await, Err(ClientError::Refused { at }));
}

#[tokio::test]
async fn a_peer_that_does_not_answer_costs_no_more_than_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let client = Client::new(None);
    let answer = client.get::<u32>(&at, "/", Duration::from_millis(20)).await;
    assert!(matches!(answer, Err(ClientError::Timeout { .. })), "{answer:?}");
}

#[tokio::test]
async fn lines_arrive_whole_however_they_were_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"a\"").await.unwrap();
        stream.write_all(b":1}\n\n{\"b\":2}\n{\"cut").await.unwrap();
    });
    let mut lines = Client::new(None).lines(&at, "/", LIMIT).await.unwrap();
    assert_eq!(lines.next(LIMIT).await.unwrap().unwrap(), "{\"a\":1}");
    assert_eq!(lines.next(LIMIT).await.unwrap().unwrap(), "{\"b\":2}");
    assert_eq!(lines.next(LIMIT).await, Ok(None));
}

#[tokio::test]
async fn a_refused_stream_says_why() {
    let refuse = || async { ApiError::unavailable("full", "try again") };
    let (at, _cancel) = server(Router::new().route("/watch", get(refuse))).await;
    match Client::new(None).lines(&at, "/watch", LIMIT).await.map(|_| ()) {
        Err(ClientError::Status(r)) => assert_eq!((r.status, r.error.as_str()), (503, "full")),
        other => panic!("{other:?}"),
    }
}
