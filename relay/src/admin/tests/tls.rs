//! HTTP over TLS, and the client side of `crate::tls` against it.

use std::path::PathBuf;

use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{TlsError, TlsMode, client_config, server_config, server_name};

/// A directory with a self-signed certificate for `localhost` and its key.
fn certificate() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("relay.crt"), dir.path().join("relay.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (dir, cert, key)
}

#[tokio::test]
async fn with_a_certificate_http_speaks_tls_only() {
    let (_dir, cert, key) = certificate();
    let view = Scripted::new();
    let mut options = options();
    options.tls = Some(server_config(&cert, &key).unwrap());
    let server = start(&view, options.clone()).await;

    let request = b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";
    let connect = async |mode, name: &str| {
        let config = client_config(mode, Some(&cert)).unwrap().unwrap();
        let stream = TcpStream::connect(server.at).await.unwrap();
        TlsConnector::from(config).connect(server_name(name).unwrap(), stream).await
    };
    for (mode, name) in
        [(TlsMode::Verify, "localhost"), (TlsMode::Require, "elsewhere.example"), (TlsMode::Prefer, "127.0.0.1")]
    {
        let stream = connect(mode, name).await.unwrap();
        assert_eq!(exchange(stream, request).await.status, 200, "{mode:?}");
    }
    let error = connect(TlsMode::Verify, "elsewhere.example").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    let answer = exchange(TcpStream::connect(server.at).await.unwrap(), request).await;
    assert_eq!(answer.status, 400);
    assert!(answer.json()["hint"].as_str().unwrap().contains("https"));

    options.limits.header_timeout = Duration::from_millis(100);
    let impatient = start(&view, options).await;
    let mut silent = TcpStream::connect(impatient.at).await.unwrap();
    let mut raw = Vec::new();
    let _ = soon("the end of a handshake that never began", silent.read_to_end(&mut raw)).await;
    assert!(raw.is_empty());
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let (dir, cert, key) = certificate();
    let (_other, _, other_key) = certificate();
    let nowhere = dir.path().join("nowhere.pem");
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing here\n").unwrap();
    let cases = [
        (server_config(&nowhere, &key).unwrap_err(), "nowhere.pem"),
        (server_config(&cert, &nowhere).unwrap_err(), "nowhere.pem"),
        (server_config(&empty, &key).unwrap_err(), "empty.pem"),
        (server_config(&cert, &empty).unwrap_err(), "empty.pem"),
        (server_config(&cert, &other_key).unwrap_err(), "relay.crt"),
        (client_config(TlsMode::Verify, Some(&nowhere)).unwrap_err(), "nowhere.pem"),
        (client_config(TlsMode::Verify, Some(&key)).unwrap_err(), "relay.key"),
        (client_config(TlsMode::Verify, None).unwrap_err(), "ca_file"),
    ];
    for (error, part) in cases {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(client_config(TlsMode::Off, None).unwrap().is_none());
    assert!(matches!(server_name("not a name"), Err(TlsError::Name(_))));
}
