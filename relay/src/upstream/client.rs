//! One connection to the primary: login and statements. The short I/O around `baton_wire`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_wire::auth::{ClientAuth, ClientAuthStep};
use baton_wire::capabilities as cap;
use baton_wire::command;
use baton_wire::handshake::{Greeting, HandshakeResponse, ServerFirst, SslRequest};
use baton_wire::packet::write_packet;
use baton_wire::response::{ErrPacket, code};
use baton_wire::resultset::{ReadStep, ResultReader};
use bytes::BytesMut;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use super::error::StreamError;
use crate::config::Address;
use crate::net::Stream;
use crate::packets::PacketIo;
use crate::tls::{TlsMode, server_name};

/// Largest answer to a statement: positions of many domains are long, but not this long.
const MAX_ANSWER: usize = 16 << 20;
const MAX_PACKET: u32 = 1 << 30;
const CHARSET_UTF8MB4: u8 = 45;

/// Rows of an answer, as text.
pub(super) type Rows = Vec<Vec<Option<String>>>;

/// How to log in.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: SecretString,
    pub(super) tls_mode: TlsMode,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// For the connection, the login, and each answer.
    pub(super) timeout: Duration,
}

/// A connection that is logged in.
pub(super) struct Client {
    io: PacketIo,
    pub(super) greeting: Greeting,
    capabilities: u32,
    pub(super) address: String,
    timeout: Duration,
}

impl Client {
    /// Connects and logs in.
    pub(super) async fn connect(address: &Address, login: &Login) -> Result<Self, StreamError> {
        let name = address.to_string();
        match timeout(login.timeout, Self::log_in(address, &name, login)).await {
            Ok(result) => result,
            Err(_) => Err(StreamError::Timeout { address: name, what: "no login", millis: login.timeout.as_millis() }),
        }
    }

    async fn log_in(address: &Address, name: &str, login: &Login) -> Result<Self, StreamError> {
        let failed = |source: io::Error| StreamError::Io { address: name.to_owned(), source };
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let mut io = PacketIo::new(Stream::Plain(tcp), MAX_ANSWER);

        let first = io.expect().await.map_err(failed)?;
        let greeting = match ServerFirst::parse(&first.payload)? {
            ServerFirst::Greeting(greeting) => greeting,
            ServerFirst::Refused(e) => return Err(refusal("the connection", &login.user, &e)),
        };
        let wanted = cap::CLIENT_LONG_PASSWORD
            | cap::CLIENT_LONG_FLAG
            | cap::CLIENT_PROTOCOL_41
            | cap::CLIENT_TRANSACTIONS
            | cap::CLIENT_SECURE_CONNECTION
            | cap::CLIENT_PLUGIN_AUTH
            | cap::CLIENT_PLUGIN_AUTH_LENENC
            | cap::CLIENT_CONNECT_ATTRS;
        // MariaDB's greeting clears the first bit to tell itself apart; it takes it from a client all the same.
        let mut capabilities = wanted & (greeting.capabilities | cap::CLIENT_LONG_PASSWORD);
        if let Some(config) = &login.tls {
            if cap::has(greeting.capabilities, cap::CLIENT_SSL) {
                capabilities |= cap::CLIENT_SSL;
                let request =
                    SslRequest { capabilities, max_packet: MAX_PACKET, charset: CHARSET_UTF8MB4, extended: 0 };
                io.send(&request.encode()).await.map_err(failed)?;
                io = upgrade(io, config, address).await.map_err(failed)?;
            } else if login.tls_mode != TlsMode::Prefer {
                return Err(StreamError::Refused {
                    cause: format!("{name} offers no TLS, upstream.tls asks for it"),
                    hint: "set up TLS on the primary (ssl_cert, ssl_key), or set upstream.tls = \"prefer\"".into(),
                });
            }
        }

        let secure = io.stream.is_secure();
        let mut auth = ClientAuth::new(&login.user, login.password.expose_secret().as_bytes(), secure, true);
        let (plugin, answer) = auth.first_response(&greeting);
        let response = HandshakeResponse {
            capabilities,
            max_packet: MAX_PACKET,
            charset: CHARSET_UTF8MB4,
            user: login.user.clone(),
            auth: answer,
            database: None,
            auth_plugin: Some(plugin.to_owned()),
            attributes: vec![
                ("_client_name".into(), "baton-relay".into()),
                ("_client_version".into(), env!("CARGO_PKG_VERSION").into()),
                ("program_name".into(), "baton-relay".into()),
            ],
            extended: 0,
            zstd_level: None,
        };
        io.send(&response.encode()?).await.map_err(failed)?;
        loop {
            let packet = io.expect().await.map_err(failed)?;
            let step = auth.on_packet(&packet.payload).map_err(|e| match packet.payload.first() {
                // A method of authentication that is not spoken here: nothing that the next attempt changes.
                Some(0xfe) => StreamError::Refused {
                    cause: e.to_string(),
                    hint: format!("on the primary: ALTER USER '{}'@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('...')", login.user),
                },
                _ => e.into(),
            })?;
            match step {
                ClientAuthStep::Send(bytes) => io.send(&bytes).await.map_err(failed)?,
                ClientAuthStep::Wait => {}
                ClientAuthStep::Done => break,
                ClientAuthStep::Refused(e) => return Err(refusal("the login", &login.user, &e)),
            }
        }
        Ok(Self { io, greeting, capabilities, address: name.to_owned(), timeout: login.timeout })
    }

    /// Runs a statement and gives its rows, as text.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Rows, StreamError> {
        self.command(sql, &command::query(sql)).await
    }

    /// A statement that gives one value.
    pub(super) async fn value(&mut self, sql: &str) -> Result<Option<String>, StreamError> {
        Ok(last_value(self.query(sql).await?))
    }

    /// As [`value`](Self::value), for a statement that may take longer than others.
    pub(super) async fn value_within(&mut self, sql: &str, limit: Duration) -> Result<Option<String>, StreamError> {
        Ok(last_value(self.command_within(sql, &command::query(sql), limit).await?))
    }

    /// Sends a command and reads its answer; `what` is its name in errors.
    pub(super) async fn command(&mut self, what: &str, payload: &[u8]) -> Result<Rows, StreamError> {
        self.command_within(what, payload, self.timeout).await
    }

    async fn command_within(&mut self, what: &str, payload: &[u8], limit: Duration) -> Result<Rows, StreamError> {
        self.within(limit, async |client| {
            client.send(payload).await?;
            client.read_answer(what).await
        })
        .await
    }

    /// Sends commands one behind the other without waiting in between, as the protocol allows, and reads their answers, the last within
    /// `longest`: a conversation costs one round trip. What the server refuses is the answer of that one alone; what comes behind it is carried out all the same.
    /// `unanswered` goes behind them all: a command whose answer is a stream.
    ///
    /// Errors: the connection broke, or an answer is not to be understood or did not come.
    pub(super) async fn commands(
        &mut self,
        commands: &[(&str, Vec<u8>)],
        longest: Duration,
        unanswered: Option<&[u8]>,
    ) -> Result<Vec<Result<Rows, StreamError>>, StreamError> {
        let mut packets = Vec::new();
        for payload in commands.iter().map(|(_, payload)| payload.as_slice()).chain(unanswered) {
            write_packet(&mut packets, &mut 0, payload);
        }
        self.within(self.timeout, async |client| {
            let sent = client.io.send_raw(&packets).await;
            sent.map_err(|source| StreamError::Io { address: client.address.clone(), source })
        })
        .await?;
        let mut answers = Vec::with_capacity(commands.len());
        for (at, (what, _)) in commands.iter().enumerate() {
            let limit = if at + 1 == commands.len() { longest } else { self.timeout };
            answers.push(match self.within(limit, async |client| client.read_answer(what).await).await {
                Err(refused @ StreamError::Server { .. }) => Err(refused),
                other => Ok(other?),
            });
        }
        Ok(answers)
    }

    /// Does something with the connection within `limit`, or within the usual time if that is longer.
    async fn within<T>(
        &mut self,
        limit: Duration,
        act: impl AsyncFnOnce(&mut Self) -> Result<T, StreamError>,
    ) -> Result<T, StreamError> {
        let (limit, address) = (limit.max(self.timeout), self.address.clone());
        match timeout(limit, act(self)).await {
            Ok(result) => result,
            Err(_) => Err(StreamError::Timeout { address, what: "no answer", millis: limit.as_millis() }),
        }
    }

    async fn read_answer(&mut self, what: &str) -> Result<Rows, StreamError> {
        let mut reader = ResultReader::new(self.capabilities);
        loop {
            let packet =
                self.io.expect().await.map_err(|source| StreamError::Io { address: self.address.clone(), source })?;
            match reader.on_packet(&packet.payload)? {
                ReadStep::More => {}
                ReadStep::Ok(_) => return Ok(Vec::new()),
                ReadStep::Err(e) => {
                    return Err(StreamError::Server { what: what.to_owned(), code: e.code, message: e.message });
                }
                ReadStep::Rows(rows) => {
                    let text = |v: Vec<u8>| String::from_utf8_lossy(&v).into_owned();
                    return Ok(rows.rows.into_iter().map(|r| r.into_iter().map(|v| v.map(text)).collect()).collect());
                }
            }
        }
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        self.io.seq = 0;
        self.io.send(payload).await.map_err(|source| StreamError::Io { address: self.address.clone(), source })
    }

    /// The connection itself, and what came already of the stream.
    pub(super) fn into_stream(self) -> (Stream, BytesMut) {
        self.io.into_parts()
    }
}

/// The last value of the first row.
pub(super) fn last_value(mut rows: Rows) -> Option<String> {
    if rows.is_empty() { None } else { rows.swap_remove(0).into_iter().last().flatten() }
}

async fn upgrade(io: PacketIo, config: &Arc<ClientConfig>, address: &Address) -> io::Result<PacketIo> {
    let seq = io.seq;
    if io.has_unread() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the server spoke before the TLS handshake"));
    }
    let (mut stream, _) = io.into_parts();
    let tcp = stream.take_plain()?;
    let name = server_name(&address.host).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
    let mut io = PacketIo::new(Stream::Tls(Box::new(tls.into())), MAX_ANSWER);
    io.seq = seq;
    Ok(io)
}

/// What a refused login means: a wrong account is for the operator, a busy server for the next attempt.
fn refusal(what: &str, user: &str, e: &ErrPacket) -> StreamError {
    match e.code {
        code::ACCESS_DENIED | 1698 | 1044 | 1130 => StreamError::Refused {
            cause: format!("the primary refuses {what}: {} ({})", e.message, e.code),
            hint: format!(
                "check upstream.user and its password; on the primary: CREATE USER '{user}'@'%' IDENTIFIED BY '...'; \
                 GRANT REPLICATION SLAVE ON *.* TO '{user}'@'%'"
            ),
        },
        _ => StreamError::Server { what: what.to_owned(), code: e.code, message: e.message.clone() },
    }
}
