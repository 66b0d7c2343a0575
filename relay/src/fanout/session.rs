//! One client's connection: greeting, login, commands, and the stream it asks for.
//!
//! Owns the conversation. Promises: every command gets an answer within the limits on packet size and log-in time; what is not
//! replication gets a clear error. The stream itself is [`dump`](super::dump).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use baton_wire::auth::{NATIVE_PASSWORD, ServerAuth, ServerAuthStep};
use baton_wire::capabilities as cap;
use baton_wire::command::{BinlogDump, Command, RegisterSlave};
use baton_wire::handshake::{ClientFirst, Greeting, HandshakeResponse, NONCE_LEN};
use baton_wire::packet::write_packet;
use baton_wire::response::{EofPacket, ErrPacket, OkPacket, STATUS_AUTOCOMMIT, code};
use baton_wire::resultset::{ColumnDef, TextResult};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::dump::{Dump, DumpEnd, describe};
use super::registry::{ReplicaIdentity, ReplicaState};
use super::request::{DumpRequest, RELAY_VARIABLE};
use super::server::Shared;
use super::sql::{Reply, Session, Table};
use crate::config::ListenTls;
use crate::log::LogPos;
use crate::net::Stream;
use crate::packets::PacketIo;

/// Payloads of a client that has not logged in, at most.
const MAX_LOGIN_PACKET: usize = 64 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: Stream,
    peer: SocketAddr,
    connection: u32,
    cancel: CancellationToken,
) {
    let io = PacketIo::new(stream, MAX_LOGIN_PACKET);
    let login = timeout(shared.options.login_timeout, log_in(&shared, io, peer, connection));
    let logged_in = tokio::select! {
        () = cancel.cancelled() => return,
        result = login => result,
    };
    let (io, response) = match logged_in {
        Ok(Ok(Some(ready))) => ready,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            shared.metrics.fanout_login_failures.inc();
            tracing::info!(%peer, connection, %error, "connection ended before it was logged in");
            return;
        }
        Err(_) => {
            shared.metrics.fanout_login_failures.inc();
            let limit = shared.options.login_timeout;
            tracing::info!(%peer, connection, ?limit, "connection did not log in in time");
            return;
        }
    };
    let client = Client {
        capabilities: response.capabilities,
        user: response.user,
        shared,
        io,
        peer,
        connection,
        cancel,
        session: Session::default(),
        registered: None,
    };
    if let Err(error) = client.commands().await {
        tracing::debug!(%peer, connection, %error, "connection ended");
    }
}

/// Greets and verifies; `None` if the client was turned away with an answer.
async fn log_in(
    shared: &Shared,
    mut io: PacketIo,
    peer: SocketAddr,
    connection: u32,
) -> io::Result<Option<(PacketIo, HandshakeResponse)>> {
    let mut nonce: [u8; NONCE_LEN] = rand::random();
    // The nonce travels in front of a NUL: servers draw it from printable characters.
    nonce.iter_mut().for_each(|b| *b = b'!' + *b % 90);
    let mut capabilities = cap::CLIENT_LONG_PASSWORD
        | cap::CLIENT_FOUND_ROWS
        | cap::CLIENT_LONG_FLAG
        | cap::CLIENT_CONNECT_WITH_DB
        | cap::CLIENT_PROTOCOL_41
        | cap::CLIENT_TRANSACTIONS
        | cap::CLIENT_SECURE_CONNECTION
        | cap::CLIENT_MULTI_RESULTS
        | cap::CLIENT_PLUGIN_AUTH
        | cap::CLIENT_CONNECT_ATTRS
        | cap::CLIENT_PLUGIN_AUTH_LENENC
        | cap::CLIENT_DEPRECATE_EOF;
    if shared.options.tls.is_some() {
        capabilities |= cap::CLIENT_SSL;
    }
    let greeting = Greeting {
        version: shared.greeting_version(),
        connection_id: connection,
        scramble: nonce,
        capabilities,
        extended: 0,
        charset: 45,
        status: STATUS_AUTOCOMMIT,
        auth_plugin: NATIVE_PASSWORD.to_owned(),
    };
    io.send(&greeting.encode()).await?;
    let Some(packet) = io.read().await? else { return Ok(None) };
    let mut first = ClientFirst::parse(&packet.payload).map_err(invalid)?;
    if let (ClientFirst::Ssl(_), Some(config)) = (&first, &shared.options.tls) {
        if io.has_unread() {
            return Err(invalid("the client spoke before the TLS handshake"));
        }
        let seq = io.seq;
        let (mut stream, _) = io.into_parts();
        let tls = TlsAcceptor::from(Arc::clone(config)).accept(stream.take_plain()?).await?;
        io = PacketIo::new(Stream::Tls(Box::new(tls.into())), MAX_LOGIN_PACKET);
        io.seq = seq;
        let Some(packet) = io.read().await? else { return Ok(None) };
        first = ClientFirst::parse(&packet.payload).map_err(invalid)?;
    }
    let ClientFirst::Response(mut response) = first else {
        io.send(&ErrPacket::bad_handshake().encode()).await?;
        return Err(invalid("a TLS request where none was due"));
    };
    response.capabilities &= capabilities | cap::CLIENT_LONG_PASSWORD;
    let secure = io.stream.is_secure();
    if shared.options.tls_policy == ListenTls::Require && !secure {
        io.send(&ErrPacket::secure_transport_required().encode()).await?;
        return Err(invalid("TLS is required"));
    }

    let mut auth = ServerAuth::new(NATIVE_PASSWORD, nonce, secure);
    let mut step = auth.on_response(&response, shared.options.accounts.get(&response.user));
    loop {
        step = match step {
            ServerAuthStep::Send(bytes) => {
                io.send(&bytes).await?;
                let Some(packet) = io.read().await? else { return Ok(None) };
                auth.on_packet(&packet.payload)
            }
            ServerAuthStep::NeedKey => auth.on_key(&*shared.key().await?),
            ServerAuthStep::Accept { send } => {
                if let Some(bytes) = send {
                    io.send(&bytes).await?;
                }
                io.send(&ok(response.capabilities)).await?;
                return Ok(Some((io, response)));
            }
            ServerAuthStep::Deny => {
                let denied =
                    ErrPacket::access_denied(&response.user, &peer.ip().to_string(), !response.auth.is_empty());
                io.send(&denied.encode()).await?;
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, denied.message));
            }
        };
    }
}

fn invalid(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

fn ok(capabilities: u32) -> Vec<u8> {
    OkPacket::with_status(STATUS_AUTOCOMMIT).encode(capabilities)
}

/// A connection that is logged in.
struct Client {
    shared: Arc<Shared>,
    io: PacketIo,
    peer: SocketAddr,
    connection: u32,
    capabilities: u32,
    user: String,
    cancel: CancellationToken,
    session: Session,
    registered: Option<RegisterSlave>,
}

impl Client {
    async fn commands(mut self) -> io::Result<()> {
        self.io.set_max_payload(self.shared.options.max_packet);
        loop {
            let packet = tokio::select! {
                () = self.cancel.cancelled() => {
                    let _ = self.error(&ErrPacket::new(code::CONNECTION_KILLED, "Connection was killed")).await;
                    return Ok(());
                }
                packet = self.io.read() => match packet {
                    Ok(Some(packet)) => packet,
                    Ok(None) => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                        let _ = self.error(&ErrPacket::new(code::PACKET_TOO_LARGE, e.to_string())).await;
                        tokio::select! {
                            () = self.cancel.cancelled() => {}
                            () = self.io.discard() => {}
                        }
                        return Err(e);
                    }
                    Err(e) => return Err(e),
                },
            };
            match Command::parse(&packet.payload, self.capabilities) {
                Ok(Command::Quit) => return Ok(()),
                Ok(Command::BinlogDump(dump)) => return self.dump(dump).await,
                Ok(command) => {
                    let cancel = self.cancel.clone();
                    tokio::select! {
                        biased;
                        // The client may not be reading: its answer would wait for ever.
                        () = cancel.cancelled() => return Ok(()),
                        done = self.answer(command) => done?,
                    }
                }
                Err(e) => self.error(&ErrPacket::new(code::UNKNOWN, format!("malformed command: {e}"))).await?,
            }
        }
    }

    /// Answers a command that leaves the conversation where it is.
    async fn answer(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Query(sql) => self.query(&sql).await,
            Command::Ping | Command::InitDb(_) => self.ok().await,
            Command::SetOption(_) => self.io.send(&EofPacket { warnings: 0, status: STATUS_AUTOCOMMIT }.encode()).await,
            Command::ResetConnection => {
                self.session = Session::default();
                self.registered = None;
                self.ok().await
            }
            Command::Statistics => {
                let replicas = self.shared.registry.list().len();
                let line = format!("Baton relay {}  Replicas: {replicas}", env!("CARGO_PKG_VERSION"));
                self.io.send(line.as_bytes()).await
            }
            Command::ProcessKill(id) => self.kill(id).await,
            Command::RegisterSlave(register) => {
                self.registered = Some(register);
                self.ok().await
            }
            Command::BinlogDumpGtid(_) => {
                let text = "COM_BINLOG_DUMP_GTID asks for MySQL's GTIDs, this log holds MariaDB's: use MASTER_USE_GTID=slave_pos";
                self.error(&ErrPacket::fatal_reading_binlog(text)).await
            }
            Command::Quit | Command::BinlogDump(_) | Command::Unknown(_) => {
                self.error(&ErrPacket::unknown_command()).await
            }
        }
    }

    async fn ok(&mut self) -> io::Result<()> {
        let payload = ok(self.capabilities);
        self.io.send(&payload).await
    }

    async fn error(&mut self, error: &ErrPacket) -> io::Result<()> {
        self.io.send(&error.encode()).await
    }

    async fn query(&mut self, sql: &str) -> io::Result<()> {
        let facts = self.shared.facts(self.connection, &self.user, self.peer);
        match self.session.answer(sql, &facts) {
            Reply::Ok => self.ok().await,
            Reply::Rows(table) => self.rows(&table).await,
            Reply::Kill(id) => self.kill(id).await,
            Reply::StartOver => Err(self.start_over()),
            Reply::Error { code, state, message } => {
                self.shared.metrics.fanout_refused_queries.inc();
                let mut error = ErrPacket::new(code, message);
                error.sql_state.copy_from_slice(state.as_bytes().first_chunk().unwrap_or(b"HY000"));
                self.error(&error).await
            }
            Reply::GtidAt { column, file, position } => {
                let value = self.gtid_at(file, position).await;
                self.rows(&Table { columns: vec![column], rows: vec![vec![value]] }).await
            }
        }
    }

    fn start_over(&self) -> io::Error {
        let text = "closed: a replica's log-in broke, and its client library went on in the middle; it starts over";
        tracing::info!(peer = %self.peer, connection = self.connection, user = self.user, "{text}");
        io::Error::new(io::ErrorKind::ConnectionAborted, text)
    }

    /// The GTID position at a place; `None` if the log has no such place, as a server answers.
    async fn gtid_at(&self, file: String, position: u64) -> Option<String> {
        let log = Arc::clone(&self.shared.log);
        let place = tokio::task::spawn_blocking(move || {
            let files = log.files();
            let number = if file.is_empty() { files.first()?.number } else { log.parse_file_name(&file)? };
            if position <= 4 {
                return files.iter().find(|f| f.number == number).map(|f| f.start.clone());
            }
            log.place_of(LogPos { file: number, offset: position }).ok().map(|place| place.gtid)
        });
        place.await.ok().flatten().map(|gtid| gtid.to_string())
    }

    async fn rows(&mut self, table: &Table) -> io::Result<()> {
        let mut result = TextResult::new(table.columns.iter().map(|c| ColumnDef::text(c)).collect());
        for row in &table.rows {
            result.push(row.iter().map(|v| v.as_deref()));
        }
        let mut out = Vec::new();
        result.encode(&mut out, &mut self.io.seq, self.capabilities, STATUS_AUTOCOMMIT);
        self.io.send_raw(&out).await
    }

    async fn kill(&mut self, id: u32) -> io::Result<()> {
        if self.shared.kill(id) {
            tracing::info!(killed = id, by = self.connection, peer = %self.peer, "connection killed");
            return self.ok().await;
        }
        self.error(&ErrPacket::no_such_thread(u64::from(id))).await
    }

    /// Streams until the client leaves.
    async fn dump(mut self, dump: BinlogDump) -> io::Result<()> {
        if self.session.lacks_its_beginning() {
            // An error would stop the replica for good, and a stream could begin at the wrong place: it comes again at once, and says everything.
            return Err(self.start_over());
        }
        let request = match DumpRequest::mariadb(&self.session, &dump.file, dump.position, dump.flags) {
            Ok(request) => request,
            Err(message) => return self.error(&ErrPacket::fatal_reading_binlog(message)).await,
        };
        let register = self.registered.take();
        let identity = ReplicaIdentity {
            connection: self.connection,
            server_id: dump.server_id,
            uuid: self.session.variable("slave_uuid").map(str::to_owned),
            report_host: register.as_ref().map(|r| r.host.clone()).unwrap_or_default(),
            report_port: register.as_ref().map_or(0, |r| r.port),
            user: self.user.clone(),
            peer: self.peer,
            registered: register.is_some(),
            relay: self.session.variable(RELAY_VARIABLE).is_some(),
        };
        let (replica, older) = self.shared.registry.attach(identity, self.cancel.clone());
        for other in older {
            let ended = format!(
                "replaced: server_id {} attached again from {} (connection {}); before it came from {} (connection {})",
                dump.server_id, self.peer, self.connection, other.identity.peer, other.identity.connection
            );
            tracing::warn!(
                server_id = dump.server_id,
                "{ended}; two servers with one server_id would end each other's streams for ever"
            );
            other.set_replaced();
            other.cancel.cancel();
        }
        let start = describe(&request.start);
        tracing::info!(peer = %self.peer, connection = self.connection, server_id = dump.server_id, %start, "replica attached");
        let (mut stream, _) = self.io.into_parts();
        let (mut sequence, end) = Dump {
            log: &self.shared.log,
            upstream: &self.shared.upstream,
            stream: &mut stream,
            replica: &replica,
            request,
            server_id: self.shared.options.server_id,
            metrics: &self.shared.metrics,
            frames: &self.shared.frames,
            cancel: self.cancel.clone(),
            sequence: 1,
        }
        .run()
        .await;
        tracing::info!(peer = %self.peer, connection = self.connection, server_id = dump.server_id, %end, "replica detached");
        let last = match &end {
            DumpEnd::Left(_) | DumpEnd::Torn => None,
            DumpEnd::Eof => Some(EofPacket { warnings: 0, status: STATUS_AUTOCOMMIT }.encode()),
            DumpEnd::Refused(message) => {
                replica.set_error(message);
                replica.set_state(ReplicaState::Stopped);
                Some(ErrPacket::fatal_reading_binlog(message).encode())
            }
            DumpEnd::Ahead(message) | DumpEnd::Log(message) => {
                replica.set_error(message);
                Some(ErrPacket::new(code::UNKNOWN, message).encode())
            }
            DumpEnd::Cancelled if replica.replaced() => Some(ErrPacket::replica_with_same_id().encode()),
            DumpEnd::Cancelled => None,
        };
        self.shared.registry.detach(&replica);
        if let Some(payload) = last {
            let mut out = Vec::new();
            write_packet(&mut out, &mut sequence, &payload);
            // The client may be gone, or not be reading: the limit is that of a login.
            let _ = timeout(self.shared.options.login_timeout, stream.write_all(&out)).await;
        }
        let _ = timeout(self.shared.options.login_timeout, stream.shutdown()).await;
        Ok(())
    }
}
