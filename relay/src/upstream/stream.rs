//! One stream from the primary: from the login to the connection's end.
//!
//! Owns the reading loop. Promises: what it appends continues the log without a gap; on any error the
//! connection is dropped, and the next one begins at what the log holds durably.

use std::time::Duration;

use baton_wire::event::{FIRST_EVENT, Flavor};
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
use super::conversation::{Asked, ask, dump, learn_file};
use super::doubt::Doubt;
use super::error::StreamError;
use super::ingest::{Effect, Ingest, Start};
use super::naming::Naming;
use super::plan::{Aim, LogEnd, Plan, plan};
use crate::clock::Micros;
use crate::config::{Ack, Address};
use crate::failpoint;
use crate::log::{Appender, Head, LogPos, OpenFile};
use crate::net::Stream;

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
    let end = head.as_ref().and_then(|h| context.log_end(h, aim));
    let asked = Instant::now().into_std();
    let (mut client, facts) = converse(context, address, aim, end.as_ref(), target.acks).await?;
    context.note_server(&client.address, facts.server.server_id, &client.greeting.version);
    context.note_primary(&facts.server.gtid_binlog_pos, asked);

    let planned = plan(context.server_id, aim, &context.start, end.as_ref(), &facts.server)?;
    let (file, position, resumes) = match planned {
        Plan::Dump { file, position } => (file, position, true),
        Plan::BeginEpoch { file } => (file, FIRST_EVENT, false),
        Plan::LearnFile(gtid) => {
            let file = learn_file(context, client, &gtid).await?;
            client = Client::connect(address, &context.login).await?;
            ask(context, &mut client, aim, None, false).await?;
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
    let acks = target.acks && facts.knows_semi_sync;
    dump(context, &mut client, &file, position, acks).await?;
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

/// Logs in, unless that was done before, and asks what has to be known before the stream.
async fn converse(
    context: &Context,
    address: &Address,
    aim: &Aim,
    end: Option<&LogEnd>,
    acks: bool,
) -> Result<(Client, Asked), StreamError> {
    if let Some(mut client) = context.ahead.take(address) {
        match ask(context, &mut client, aim, end, acks).await {
            Ok(facts) => return Ok((client, facts)),
            // It was idle, and may have been cut off.
            Err(error) => tracing::debug!(%address, %error, "the login made before is of no use"),
        }
    }
    let mut client = Client::connect(address, &context.login).await?;
    let facts = ask(context, &mut client, aim, end, acks).await?;
    Ok((client, facts))
}

/// An error packet in place of an event.
pub(super) fn stream_error(payload: &[u8], what: &str) -> StreamError {
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
            let received = self.context.ack == Ack::Received;
            if received && ingest.only_appends() {
                // Before the log has it: whatever comes first there competes with the primary's commits. Not where the log has failed, or may refuse a file.
                self.appender.check()?;
                self.acknowledge(ingest.whole_position()).await?;
            }
            perform(self.context, self.appender, self.aim, self.server_id, &mut ingest).await?;
            if received {
                self.acknowledge(ingest.whole_position()).await?;
            }
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
