//! A small HTTP/1.1 client with kept connections.
//!
//! Promises: no call lasts longer than its limit; a connection goes back into the pool only after its answer was read whole; a request is
//! sent a second time only if the first was never sent, or if whoever asks says that it may be. Never follows redirects, never logs.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of an answer, at most.
const MAX_ANSWER: usize = 16 << 20;
/// Bytes of one line of a stream, at most.
const MAX_LINE: usize = 4 << 20;
/// Idle connections kept to one address.
const KEPT: usize = 4;

/// The sending half of a connection.
type Connection = SendRequest<Full<Bytes>>;

/// What went wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// Nothing listens there; the host itself lives.
    #[error("{at} refuses connections")]
    Refused {
        /// `host:port`.
        at: String,
    },
    /// No connection could be made.
    #[error("{at} can't be reached: {why}")]
    Unreachable {
        /// `host:port`.
        at: String,
        /// What the system said.
        why: String,
    },
    /// No (whole) answer in time.
    #[error("{at} has not answered {path} within {limit:?}")]
    Timeout {
        /// `host:port`.
        at: String,
        /// What was asked for.
        path: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection ended in the middle.
    #[error("the connection to {at} broke at {path}: {why}")]
    Broken {
        /// `host:port`.
        at: String,
        /// What was asked for.
        path: String,
        /// What the connection said.
        why: String,
    },
    /// An answer that is an error.
    #[error("{0}")]
    Status(Box<Refusal>),
    /// An answer that is not what it should be.
    #[error("{at} answered {path} with something else than expected: {why}")]
    Unreadable {
        /// `host:port`.
        at: String,
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{at} answered {path} with {status}: {error}")]
pub struct Refusal {
    /// `host:port`.
    pub at: String,
    /// What was asked for.
    pub path: String,
    /// The status code.
    pub status: u16,
    /// The body's `error`, or what there was instead.
    pub error: String,
    /// The body's `hint`.
    pub hint: String,
    /// The whole body.
    pub body: Bytes,
}

impl ClientError {
    /// Whether it is certain that nothing of the request was carried out: it was never sent, or refused.
    pub fn not_done(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unreachable { .. } | Self::Status(_))
    }
}

/// An answer with its status, whatever that is.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// `host:port`.
    pub at: &'a str,
    /// `GET`, `POST`, ...
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// JSON.
    pub body: Bytes,
    /// Whether it may be sent again over a new connection if a kept one breaks before an answer came.
    pub repeatable: bool,
}

/// See the module. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    token: Option<Arc<HeaderValue>>,
    kept: Arc<Mutex<HashMap<String, Vec<Connection>>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("token", &self.token.is_some()).finish_non_exhaustive()
    }
}

impl Client {
    /// Sends `token` with each request; one with characters that a header can't hold is not sent, and then refused by who is asked.
    pub fn new(token: Option<&SecretString>) -> Self {
        let token = token.and_then(|t| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", t.expose_secret())).ok()?;
            value.set_sensitive(true);
            Some(Arc::new(value))
        });
        Self { token, kept: Arc::default() }
    }

    /// GET, and reads the answer's JSON.
    ///
    /// # Errors
    /// [`ClientError`]; a status other than 2xx too.
    pub async fn get<T: DeserializeOwned>(&self, at: &str, path: &str, limit: Duration) -> Result<T, ClientError> {
        let call = Call { at, method: Method::GET, path, body: Bytes::new(), repeatable: true };
        read(at, path, self.call(call, limit).await?)
    }

    /// POST of something that may be asked for twice without harm, as orders and promises may.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post<T: DeserializeOwned>(
        &self,
        at: &str,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| unreadable(at, path, &format!("the request: {e}")))?;
        let call = Call { at, method: Method::POST, path, body: Bytes::from(body), repeatable: true };
        read(at, path, self.call(call, limit).await?)
    }

    /// Any request, any status.
    ///
    /// # Errors
    /// [`ClientError`] but for `Status`.
    pub async fn call(&self, call: Call<'_>, limit: Duration) -> Result<Answer, ClientError> {
        let (at, path) = (call.at, call.path);
        let asked = async {
            let (response, connection) = self.send(&call).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| broken(at, path, &e))?.to_bytes();
            self.keep(at, connection);
            Ok(Answer { status, body })
        };
        timeout(limit, asked).await.unwrap_or_else(|_| Err(slow(at, path, limit)))
    }

    /// GET of a stream of lines; `limit` is for the beginning of the answer.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn lines(&self, at: &str, path: &str, limit: Duration) -> Result<Lines, ClientError> {
        let call = Call { at, method: Method::GET, path, body: Bytes::new(), repeatable: true };
        let asked = async {
            let (response, connection) = self.send(&call).await?;
            let status = response.status();
            if status.is_success() {
                let lines = Lines {
                    at: at.to_owned(),
                    path: path.to_owned(),
                    body: response.into_body(),
                    read: BytesMut::new(),
                    _connection: connection,
                };
                return Ok(lines);
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| broken(at, path, &e))?.to_bytes();
            Err(refusal(at, path, &Answer { status, body }))
        };
        timeout(limit, asked).await.unwrap_or_else(|_| Err(slow(at, path, limit)))
    }

    /// GET of bytes of any number; `limit` is for the beginning of the answer.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn stream(&self, at: &str, path: &str, limit: Duration) -> Result<Pieces, ClientError> {
        let Lines { at, path, body, _connection, .. } = self.lines(at, path, limit).await?;
        Ok(Pieces { at, path, body, _connection })
    }

    async fn send(&self, call: &Call<'_>) -> Result<(Response<Incoming>, Connection), ClientError> {
        while let Some(mut connection) = self.take(call.at) {
            match connection.try_send_request(self.request(call)?).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => {
                    // Closed by its peer while it was idle, most likely.
                    let unsent = error.take_message().is_some();
                    if !unsent && !call.repeatable {
                        return Err(broken(call.at, call.path, error.error()));
                    }
                }
            }
        }
        let mut connection = connect(call.at).await?;
        match connection.send_request(self.request(call)?).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(broken(call.at, call.path, &error)),
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder().method(call.method.clone()).uri(call.path).header(HOST, call.at);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.as_ref());
        }
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(call.body.clone()));
        request.map_err(|e| unreadable(call.at, call.path, &format!("no such request can be made: {e}")))
    }

    fn take(&self, at: &str) -> Option<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = kept.get_mut(at)?;
        while let Some(connection) = idle.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, at: &str, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = kept.entry(at.to_owned()).or_default();
        if idle.len() < KEPT {
            idle.push(connection);
        }
    }
}

/// A stream of newline-delimited lines.
pub struct Lines {
    at: String,
    path: String,
    body: Incoming,
    read: BytesMut,
    _connection: Connection,
}

impl Lines {
    /// The next line without its end; none at the stream's end. Not safe to cancel in the middle of a line only in that the time begins anew.
    ///
    /// # Errors
    /// No line within `silence`, a broken connection, or a line without end.
    pub async fn next(&mut self, silence: Duration) -> Result<Option<Bytes>, ClientError> {
        let (at, path) = (self.at.clone(), self.path.clone());
        let read = async {
            loop {
                if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                    let mut line = self.read.split_to(end + 1);
                    line.truncate(end);
                    if line.is_empty() {
                        continue;
                    }
                    return Ok(Some(line.freeze()));
                }
                if self.read.len() > MAX_LINE {
                    return Err(unreadable(&self.at, &self.path, "a line without end"));
                }
                match self.body.frame().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(broken(&self.at, &self.path, &error)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            self.read.extend_from_slice(&data);
                        }
                    }
                }
            }
        };
        timeout(silence, read).await.unwrap_or_else(|_| Err(slow(&at, &path, silence)))
    }
}

/// A stream of bytes.
pub struct Pieces {
    at: String,
    path: String,
    body: Incoming,
    _connection: Connection,
}

impl Pieces {
    /// The next bytes; none at the stream's proper end.
    ///
    /// # Errors
    /// Nothing within `silence`, or the connection broke before the end.
    pub async fn next(&mut self, silence: Duration) -> Result<Option<Bytes>, ClientError> {
        let read = async {
            loop {
                match self.body.frame().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(broken(&self.at, &self.path, &error)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(Some(data));
                        }
                    }
                }
            }
        };
        timeout(silence, read).await.unwrap_or_else(|_| Err(slow(&self.at, &self.path, silence)))
    }
}

async fn connect(at: &str) -> Result<Connection, ClientError> {
    let stream = TcpStream::connect(at).await.map_err(|e| match e.kind() {
        io::ErrorKind::ConnectionRefused => ClientError::Refused { at: at.to_owned() },
        _ => ClientError::Unreachable { at: at.to_owned(), why: e.to_string() },
    })?;
    let unreachable = |why: String| ClientError::Unreachable { at: at.to_owned(), why };
    stream.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(e.to_string()))?;
    // Ends with the sender, and tells the sender when the peer is gone.
    tokio::spawn(connection);
    Ok(sender)
}

fn read<T: DeserializeOwned>(at: &str, path: &str, answer: Answer) -> Result<T, ClientError> {
    if !answer.status.is_success() {
        return Err(refusal(at, path, &answer));
    }
    serde_json::from_slice(&answer.body).map_err(|e| unreadable(at, path, &e.to_string()))
}

/// An answer that is no success, as an error.
pub fn refusal(at: &str, path: &str, answer: &Answer) -> ClientError {
    #[derive(serde::Deserialize)]
    struct Told {
        error: String,
        #[serde(default)]
        hint: String,
    }
    let told = serde_json::from_slice(&answer.body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&answer.body);
        Told { error: text.chars().take(200).collect(), hint: String::new() }
    });
    ClientError::Status(Box::new(Refusal {
        at: at.to_owned(),
        path: path.to_owned(),
        status: answer.status.as_u16(),
        error: told.error,
        hint: told.hint,
        body: answer.body.clone(),
    }))
}

fn slow(at: &str, path: &str, limit: Duration) -> ClientError {
    ClientError::Timeout { at: at.to_owned(), path: path.to_owned(), limit }
}

fn broken(at: &str, path: &str, why: &impl ToString) -> ClientError {
    ClientError::Broken { at: at.to_owned(), path: path.to_owned(), why: why.to_string() }
}

fn unreadable(at: &str, path: &str, why: &str) -> ClientError {
    ClientError::Unreadable { at: at.to_owned(), path: path.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests;
