//! Reads a binlog file of a host whose server may be dead, from the agent there. The short I/O around hyper.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::Address;

/// Bytes of an error's text that are shown.
const MAX_ERROR: usize = 4096;

/// The agent that is asked.
pub(super) struct Agent<'a> {
    pub(super) address: &'a Address,
    pub(super) token: Option<&'a SecretString>,
    /// For connecting, for the beginning of an answer, and for each part of it.
    pub(super) limit: Duration,
}

/// A file on its way.
pub(super) struct Fetch {
    body: Incoming,
    limit: Duration,
    /// Drives the connection; it ends with this.
    connection: JoinHandle<()>,
    _sender: SendRequest<Empty<Bytes>>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Agent<'_> {
    /// Asks for `file` from offset `from` on; `None` if the host has no such file.
    pub(super) async fn fetch(&self, file: &str, from: u64) -> Result<Option<Fetch>, String> {
        let failed = |what: String| format!("agent {}: {what}", self.address);
        match timeout(self.limit, self.ask(file, from)).await {
            Ok(result) => result.map_err(failed),
            Err(_) => Err(failed(format!("no answer within {:?}", self.limit))),
        }
    }

    async fn ask(&self, file: &str, from: u64) -> Result<Option<Fetch>, String> {
        let told = |e: &dyn std::error::Error| e.to_string();
        let address = (self.address.host.as_str(), self.address.port);
        let tcp = TcpStream::connect(address).await.map_err(|e| told(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(|e| told(&e))?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to an agent ended");
            }
        });
        let mut request = Request::get(format!("/v1/binlog/{file}?from={from}")).header(HOST, self.address.to_string());
        if let Some(token) = self.token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|e| told(&e))?;
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|e| told(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| told(&e))?;
        let (status, body) = (answer.status(), answer.into_body());
        match status {
            StatusCode::OK => Ok(Some(Fetch { body, limit: self.limit, connection, _sender: sender })),
            StatusCode::NOT_FOUND => Ok(None),
            _ => {
                let text = Limited::new(body, MAX_ERROR).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                Err(format!("{file} from {from}: {status}: {}", String::from_utf8_lossy(&text)))
            }
        }
    }
}

impl Fetch {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = timeout(self.limit, self.body.frame())
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut).to_string())?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(e.to_string()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => {}
                },
            }
        }
    }
}
