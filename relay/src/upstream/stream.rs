//! One stream from the primary: from the login to the connection's end.
//!
//! Owns the conversation before the dump and the reading loop. Promises: what it appends continues the log without a gap; on any error the
//! connection is dropped, and the next one begins at what the log holds durably.

use std::time::Duration;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::command::{BinlogDump, DUMP_SEND_ANNOTATE_ROWS, RegisterSlave};
use baton_wire::event::{self, EventKind, FIRST_EVENT, Flavor, HEADER_LEN, Rotate};
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer};
use baton_wire::gtid::mariadb::GtidList;
use baton_wire::packet::write_packet;
use baton_wire::response::{ErrPacket, code};
use baton_wire::semisync;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::ack::{AckGate, Due};
use super::client::{Client, Login};
use super::context::Context;
use super::doubt::Doubt;
use super::error::StreamError;
use super::ingest::{Effect, Ingest, Start};
use super::naming::Naming;
use super::plan::{Aim, LogEnd, Plan, ServerFacts, plan};
use super::status::SETTINGS;
use crate::clock::Micros;
use crate::config::{Ack, Address};
use crate::failpoint;
use crate::fanout::MIRROR_VARIABLE;
use crate::log::{Appender, Head, LogPos, OpenFile};
use crate::net::Stream;

/// For an answer that makes the primary read up to a whole binlog file.
const READ_FILE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes asked of the network at a time.
const READ_BYTES: usize = 512 * 1024;

/// What a stream is to bring, and how.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Ways to get it, the preferred one first.
    pub(super) paths: Vec<Path>,
    /// Whether this relay holds the right to acknowledge what comes.
    pub(super) acks: bool,
    /// Nothing is acknowledged before the log holds this.
    pub(super) after: Option<GtidList>,
}

/// One way.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) address: Address,
    pub(super) aim: Aim,
}

/// Runs one stream until it breaks. Sets `first_event` to when the primary began to send events.
pub(super) async fn run(
    context: &Context,
    appender: &mut Appender,
    target: &Target,
    path: &Path,
    first_event: &mut Option<Instant>,
) -> Result<std::convert::Infallible, StreamError> {
    let Path { address, aim } = path;
    // What is in flight from the stream before becomes durable or is forgotten: here the next one begins.
    let head = appender.settle().await?;
    let mut client = Client::connect(address, &context.login).await?;
    let end = head.as_ref().and_then(|h| context.log_end(h, aim));
    let facts = ask(context, &mut client, aim, end.as_ref()).await?;
    context.note_server(&client.address, facts.server.server_id, &client.greeting.version);

    let planned = plan(context.server_id, aim, &context.start, end.as_ref(), &facts.server)?;
    let (file, position, resumes) = match planned {
        Plan::Dump { file, position } => (file, position, true),
        Plan::BeginEpoch { file } => (file, FIRST_EVENT, false),
        Plan::LearnFile(gtid) => {
            let file = learn_file(context, client, &gtid).await?;
            client = Client::connect(address, &context.login).await?;
            ask(context, &mut client, aim, None).await?;
            (file, FIRST_EVENT, true)
        }
    };
    let server_id = facts.server.server_id;
    tracing::info!(address = %client.address, server_id, %file, position, "streaming from the primary");
    let naming = context.naming(aim);
    let start = Start {
        resume: head.as_ref().zip(end.as_ref()).map(|(h, _)| (h.pos, h.gtid.clone())),
        file: end.as_ref().filter(|_| resumes).map(|e| e.upstream_file.clone()),
        shift: naming.shift,
        base: context.log.base_name(),
        flavor: Flavor::MariaDb,
        checksum: facts.checksum,
    };
    let acks = target.acks && ask_for_acks(&mut client).await?;
    dump(context, &mut client, &file, position).await?;
    let address = client.address.clone();
    let (stream, early) = client.into_stream();
    let holds = |after: &GtidList| head.as_ref().and_then(|h| h.gtid.mariadb()).is_some_and(|gtid| gtid.covers(after));
    let reading = Reading {
        context,
        appender,
        aim,
        naming,
        address,
        stream,
        buf: early,
        server_id,
        gate: acks.then(AckGate::default),
        after: target.after.clone().filter(|after| !holds(after)),
        known_behind: end.as_ref().is_some_and(|e| !facts.server.gtid_binlog_pos.covers(&e.gtid)),
    };
    reading.read(Ingest::new(start), first_event).await
}

struct Asked {
    server: ServerFacts,
    checksum: ChecksumAlg,
}

/// The conversation of a replica before it asks for the stream.
async fn ask(context: &Context, client: &mut Client, aim: &Aim, end: Option<&LogEnd>) -> Result<Asked, StreamError> {
    let version = client.greeting.version.clone();
    if Flavor::of_version(&version) != Flavor::MariaDb {
        return Err(StreamError::Refused {
            cause: format!("the primary is MySQL {version}: not supported yet"),
            hint: "only MariaDB servers can be followed: correct the address".into(),
        });
    }
    // Few statements: commits wait for this where a server has just been promoted.
    let known = client.query("SELECT @@GLOBAL.server_id, @@GLOBAL.gtid_binlog_pos").await?;
    let [server_id, gtid_binlog_pos] = known.into_iter().next().and_then(|row| row.try_into().ok()).unwrap_or_default();
    let (server_id, gtid_binlog_pos) = (number(server_id, "server_id")?, position(gtid_binlog_pos)?);
    let mut server = ServerFacts { server_id, gtid_binlog_pos, ..ServerFacts::default() };
    let begins = match aim {
        Aim::Epoch(origin) if end.is_none_or(|e| e.epoch != origin.epoch) => origin.first_file.as_deref(),
        _ => None,
    };
    if let Some(first) = begins {
        server.gtid_at_first = gtid_at(client, first, FIRST_EVENT).await?;
    } else if let Some(end) = end {
        server.gtid_at_head = gtid_at(client, &end.upstream_file, end.pos.offset).await?;
        server.has_file =
            server.gtid_at_head.is_some() || gtid_at(client, &end.upstream_file, FIRST_EVENT).await?.is_some();
    }
    note_settings(context, client).await?;
    let mirror = if matches!(aim, Aim::Mirror { .. }) { format!(", @{MIRROR_VARIABLE}=1") } else { String::new() };
    let period = context.heartbeat.as_nanos();
    client
        .query(&format!(
            "SET @master_heartbeat_period= {period}, @master_binlog_checksum= @@global.binlog_checksum, \
             @mariadb_slave_capability=4{mirror}"
        ))
        .await?;
    let checksum = match client.value("SELECT @master_binlog_checksum").await?.as_deref() {
        Some("NONE") => ChecksumAlg::None,
        _ => ChecksumAlg::Crc32,
    };
    Ok(Asked { server, checksum })
}

/// What the server's settings are, for the status and its warnings.
async fn note_settings(context: &Context, client: &mut Client) -> Result<(), StreamError> {
    let all: Vec<String> = SETTINGS.iter().map(|name| format!("@@GLOBAL.{name}")).collect();
    match client.query(&format!("SELECT {}", all.join(", "))).await {
        Ok(rows) => {
            for (name, value) in SETTINGS.into_iter().zip(rows.into_iter().flatten()) {
                context.note_setting(name, value);
            }
            return Ok(());
        }
        Err(StreamError::Server { .. }) => {}
        Err(error) => return Err(error),
    }
    for name in SETTINGS {
        // Older servers lack some: then readers get what such a server does.
        match client.value(&format!("SELECT @@GLOBAL.{name}")).await {
            Ok(value) => context.note_setting(name, value),
            Err(StreamError::Server { .. }) => context.note_setting(name, None),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The server's GTID position at a place; `None` if it has no such place. It reads the file up to there: from a cold disk that takes longer
/// than other answers.
async fn gtid_at(client: &mut Client, file: &str, offset: u64) -> Result<Option<GtidList>, StreamError> {
    let file = file.replace(['\'', '\\'], "");
    let sql = format!("SELECT BINLOG_GTID_POS('{file}',{offset})");
    client.value_within(&sql, READ_FILE_LIMIT).await?.map(|text| position(Some(text))).transpose()
}

/// Says that this connection acknowledges, if the primary knows semi-sync (switched on or not: it may be later). Only the one that is streamed
/// over says so: to the server a start position counts as an acknowledgement too.
async fn ask_for_acks(client: &mut Client) -> Result<bool, StreamError> {
    let known = client.value("SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'").await?.is_some();
    if known {
        client.query("SET @rpl_semi_sync_slave= 1").await?;
    }
    Ok(known)
}

fn number(value: Option<String>, what: &'static str) -> Result<u32, StreamError> {
    value.as_deref().and_then(|v| v.parse().ok()).ok_or_else(|| StreamError::Garbled {
        file: "(login)".into(),
        offset: 0,
        detail: format!("{what} is {value:?}, a number was expected"),
    })
}

fn position(value: Option<String>) -> Result<GtidList, StreamError> {
    Ok(value.unwrap_or_default().parse::<GtidList>()?)
}

async fn dump(context: &Context, client: &mut Client, file: &str, position: u64) -> Result<(), StreamError> {
    let Ok(position) = u32::try_from(position) else {
        return Err(StreamError::Refused {
            cause: format!("{file}:{position} lies beyond 4 GiB, which the dump command can't name"),
            hint: "lower max_binlog_size on the primary (1 GiB at most is usual); FLUSH BINARY LOGS begins a new file"
                .into(),
        });
    };
    let register = RegisterSlave {
        server_id: context.server_id,
        host: context.name.clone(),
        user: String::new(),
        password: String::new(),
        port: context.port,
        rank: 0,
        master_id: 0,
    };
    if let Err(e) = client.command("COM_REGISTER_SLAVE", &register.encode()?).await {
        return Err(match e {
            StreamError::Server { code: code::ACCESS_DENIED | code::SPECIFIC_ACCESS_DENIED, message, .. } => {
                StreamError::Refused {
                    cause: format!("the primary refuses to be replicated: {message}"),
                    hint: format!("on the primary: GRANT REPLICATION SLAVE ON *.* TO '{}'@'%'", context.login.user),
                }
            }
            other => other,
        });
    }
    let request =
        BinlogDump { position, flags: DUMP_SEND_ANNOTATE_ROWS, server_id: context.server_id, file: file.to_owned() };
    client.send(&request.encode()).await
}

/// Asks for a GTID position, only to be told the name of the file that holds it.
async fn learn_file(context: &Context, mut client: Client, gtid: &GtidList) -> Result<String, StreamError> {
    client.query(&format!("SET @slave_connect_state='{gtid}'")).await?;
    client.query("SET @slave_gtid_strict_mode=0").await?;
    client.query("SET @slave_gtid_ignore_duplicates=0").await?;
    dump(context, &mut client, "", 4).await?;
    let address = client.address.clone();
    let (mut stream, mut buf) = client.into_stream();
    let mut deframer = EventDeframer::new(DeframerOptions::default());
    loop {
        let (used, found) = deframer.next(&buf)?;
        match found {
            Deframed::EventData { header, data, first: true, last: true, .. } if header.kind == EventKind::ROTATE => {
                // Whether this first event is summed depends on the session; the name's length does not.
                let body = data.get(HEADER_LEN..).unwrap_or_default();
                let summed = baton_wire::checksum::verify(data).is_ok();
                let body = if summed { event::body(data, ChecksumAlg::Crc32)? } else { body };
                return Ok(Rotate::parse(body)?.file);
            }
            Deframed::Error(payload) => return Err(stream_error(payload, &format!("GTID position '{gtid}'"))),
            Deframed::Eof => return Err(StreamError::Io { address, source: std::io::ErrorKind::UnexpectedEof.into() }),
            Deframed::EventData { .. } => buf.advance(used),
            Deframed::NeedMore(_) => {
                let read = timeout(context.silence, stream.read_buf(&mut buf)).await;
                match read {
                    Ok(Ok(0)) => {
                        return Err(StreamError::Io { address, source: std::io::ErrorKind::UnexpectedEof.into() });
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(source)) => return Err(StreamError::Io { address, source }),
                    Err(_) => {
                        return Err(StreamError::Timeout {
                            address,
                            what: "no event",
                            millis: context.silence.as_millis(),
                        });
                    }
                }
            }
        }
    }
}

/// An error packet in place of an event.
fn stream_error(payload: &[u8], what: &str) -> StreamError {
    let e = match ErrPacket::parse(payload) {
        Ok(e) => e,
        Err(e) => return e.into(),
    };
    if e.code == code::FATAL_READING_BINLOG {
        return StreamError::Purged {
            cause: format!("the primary can't stream from {what}: {}", e.message),
            hint: "it is asked again; if the place was purged there, restore it, or begin a new log with `baton-relay reset-log`".into(),
        };
    }
    StreamError::Server { what: format!("the dump of {what}"), code: e.code, message: e.message }
}

/// The reading loop's state.
struct Reading<'a> {
    context: &'a Context,
    appender: &'a mut Appender,
    aim: &'a Aim,
    naming: Naming,
    address: String,
    stream: Stream,
    buf: BytesMut,
    server_id: u32,
    /// Set if this connection acknowledges.
    gate: Option<AckGate>,
    /// Nothing is acknowledged before the log holds this.
    after: Option<GtidList>,
    /// The primary said already before the stream that it has less than the log, and yet the stream fits.
    known_behind: bool,
}

impl Reading<'_> {
    async fn read(
        mut self,
        mut ingest: Ingest,
        first_event: &mut Option<Instant>,
    ) -> Result<std::convert::Infallible, StreamError> {
        let semi_sync = self.gate.is_some();
        let mut deframer = EventDeframer::new(DeframerOptions { semi_sync, ..DeframerOptions::default() });
        let mut heads = self.context.log.subscribe();
        let mut doubt = Doubt::new(self.context, self.known_behind);
        loop {
            let now = Micros::now();
            let deadline = Instant::now() + self.context.silence;
            let parsed = self.take_all(&mut deframer, &mut ingest, now);
            // What was whole before an error is worth keeping.
            ingest.flush(now);
            perform(self.context, self.appender, self.aim, self.server_id, &mut ingest).await?;
            let begins = first_event.is_none() && ingest.counts.events > 0;
            if begins {
                *first_event = Some(Instant::now());
            }
            parsed?;
            // The disk may fail behind the last event that comes for long; heartbeats lead here.
            self.appender.check()?;
            if begins {
                self.context.set_streaming(semi_sync && self.after.is_none());
            }
            self.count(&mut ingest);
            if self.context.ack == Ack::Received {
                self.acknowledge(ingest.whole_position()).await?;
            }
            self.buf.reserve(READ_BYTES.max(deframer.min_buffer()));
            let read = loop {
                tokio::select! {
                    biased;
                    changed = heads.changed(), if semi_sync && self.context.ack == Ack::Durable => {
                        if changed.is_err() {
                            return Err(crate::log::AppendError::Closed.into());
                        }
                        let head = heads.borrow_and_update().clone();
                        if self.may_acknowledge(head.as_deref()) {
                            self.acknowledge(head.map(|h| h.pos)).await?;
                        }
                    }
                    read = self.stream.read_buf(&mut self.buf) => break read,
                    gtid = doubt.justified(self.context) => return Err(StreamError::Behind { gtid }),
                    () = sleep_until(deadline) => {
                        let millis = self.context.silence.as_millis();
                        return Err(StreamError::Timeout {
                            address: self.address.clone(),
                            what: "no event and no heartbeat",
                            millis,
                        });
                    }
                }
            };
            match read {
                Ok(0) => return Err(self.io(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => {
                    self.context.metrics.upstream_received_bytes.inc_by(n as u64);
                    self.context.note_heard();
                }
                Err(e) => return Err(self.io(e)),
            }
        }
    }

    /// Whether the log holds what it must before anything is acknowledged.
    fn may_acknowledge(&mut self, head: Option<&Head>) -> bool {
        let Some(after) = &self.after else { return true };
        let holds = head.and_then(|h| h.gtid.mariadb()).is_some_and(|gtid| gtid.covers(after));
        if holds {
            tracing::info!(%after, "the log holds what was acknowledged before: acknowledging from here on");
            self.after = None;
            self.context.set_streaming(true);
        }
        holds
    }

    /// Tells the primary that everything up to `reached` is kept, if it waits for any of it.
    async fn acknowledge(&mut self, reached: Option<LogPos>) -> Result<(), StreamError> {
        let (Some(gate), Some(reached)) = (&mut self.gate, reached) else { return Ok(()) };
        let now = Micros::now();
        let Some(Due { pos, since }) = gate.reached(reached, now) else { return Ok(()) };
        let Some(file) = self.naming.name(pos.file, self.context.log.base_name().as_deref()) else { return Ok(()) };
        let mut out = Vec::with_capacity(64);
        write_packet(&mut out, &mut 0, &semisync::Ack { position: pos.offset, file }.encode());
        let limit = self.context.silence;
        let sent = timeout(limit, async {
            failpoint::reached("send-ack")?;
            self.stream.write_all(&out).await?;
            self.stream.flush().await?;
            failpoint::reached("sent-ack")
        });
        match sent.await {
            Ok(Ok(())) => {
                self.context.metrics.upstream_acks.inc();
                self.context.metrics.upstream_ack_duration.observe(now.0.saturating_sub(since.0).max(0) as f64 / 1e6);
                Ok(())
            }
            Ok(Err(e)) => Err(self.io(e)),
            Err(_) => Err(StreamError::Timeout {
                address: self.address.clone(),
                what: "an acknowledgement was not taken",
                millis: limit.as_millis(),
            }),
        }
    }

    /// Takes every event, or piece of one, that the buffer holds.
    fn take_all(&mut self, deframer: &mut EventDeframer, ingest: &mut Ingest, now: Micros) -> Result<(), StreamError> {
        let mut at = 0;
        let result = loop {
            let (used, found) = match deframer.next(&self.buf[at..]) {
                Ok(next) => next,
                Err(e) => break Err(e.into()),
            };
            at += used;
            match found {
                Deframed::NeedMore(_) => break Ok(()),
                Deframed::EventData { first, data, last, semi_sync_flag, .. } => {
                    if let Err(e) = ingest.piece(first, data, last, now) {
                        break Err(e);
                    }
                    if let (true, Some(true), Some(gate), Some(pos)) =
                        (last, semi_sync_flag, &mut self.gate, ingest.position())
                    {
                        gate.wanted(pos, now);
                    }
                }
                Deframed::Error(payload) => break Err(stream_error(payload, "the log's position")),
                Deframed::Eof => break Err(self.io(std::io::ErrorKind::UnexpectedEof.into())),
            }
        };
        self.buf.advance(at);
        result
    }

    fn count(&self, ingest: &mut Ingest) {
        let counts = std::mem::take(&mut ingest.counts);
        let metrics = &self.context.metrics;
        metrics.upstream_received_events.inc_by(counts.events);
        metrics.upstream_received_transactions.inc_by(counts.transactions);
    }

    fn io(&self, source: std::io::Error) -> StreamError {
        StreamError::Io { address: self.address.clone(), source }
    }
}

/// Does what follows from the events that were taken; `server_id` is that of the server that they come from.
pub(super) async fn perform(
    context: &Context,
    appender: &mut Appender,
    aim: &Aim,
    server_id: u32,
    ingest: &mut Ingest,
) -> Result<(), StreamError> {
    while let Some(effect) = ingest.next_effect() {
        match effect {
            Effect::Append(batch) => appender.append(batch).await?,
            Effect::DropPartial => appender.drop_partial().await?,
            Effect::OpenFile { number, base, upstream_base } => {
                let (server_id, epoch) = context.file_epoch(aim, server_id, number, &base, upstream_base);
                let flavor = ingest.flavor();
                let file = OpenFile { number, base, upstream_server_id: server_id, flavor, epoch };
                appender.open_file(file).await?;
            }
        }
    }
    Ok(())
}

/// How long silence is taken for life: heartbeats come every `heartbeat`.
pub(super) fn silence_limit(heartbeat: Duration) -> Duration {
    (heartbeat * 3).max(Duration::from_millis(250))
}

/// Keeps the login out of `Debug`.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
