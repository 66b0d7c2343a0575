//! One client's stream: from its start position to the head, and on as the head moves.
//!
//! Owns the order of what goes out: artificial rotation, format description, position marker, events, heartbeats. Promises: nothing
//! beyond the head goes out; memory stays within two buffers of [`READ_BYTES`] however far behind or slow the client is, and they are
//! given back while it waits at the head.

use std::sync::Arc;
use std::time::Duration;

use baton_wire::WireError;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{
    self, EventHeader, EventKind, FIRST_EVENT, FormatDescription, GtidListEvent, HEADER_LEN, Rotate,
};
use baton_wire::gtid::mariadb::GtidList;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::emit::{Emitter, Filter, whole_events};
use super::registry::{Replica, ReplicaState};
use super::request::{DumpRequest, StartFrom};
use super::start::{Begin, Resolution, resolve};
use crate::clock::Micros;
use crate::log::{Chunk, Head, Log, LogPos, LogReader, ReadError};
use crate::metrics::Metrics;
use crate::net::Stream;

/// Bytes of log that are read, framed and written at a time.
const READ_BYTES: usize = 256 * 1024;
/// Buffers above this size are given back while a client waits.
const KEEP_BYTES: usize = 4 * 1024;
/// A format description is smaller than this.
const HEADER_EVENTS_BYTES: usize = 64 * 1024;
/// `GtidListEvent` flag that ends `START SLAVE UNTIL`.
const UNTIL_REACHED: u8 = 1;

/// Why a stream ended.
#[derive(Debug, Error)]
pub(super) enum DumpEnd {
    /// The client closed the connection, or the network did.
    #[error("the client left: {0}")]
    Left(#[from] std::io::Error),
    /// A non-blocking dump reached the end, or `UNTIL` its position.
    #[error("everything that was asked for is sent")]
    Eof,
    /// Killed, replaced or stopped while a packet was half written.
    #[error("ended by the relay in the middle of a packet")]
    Torn,
    /// Killed, replaced, or the relay stops.
    #[error("ended by the relay")]
    Cancelled,
    /// Error 1236: the replica stops.
    #[error("{0}")]
    Refused(String),
    /// The log can't be read: the replica tries again.
    #[error("{0}")]
    Log(String),
}

impl From<WireError> for DumpEnd {
    fn from(e: WireError) -> Self {
        Self::Log(format!("the log holds something that is no event: {e}"))
    }
}

/// What a stream works with.
pub(super) struct Dump<'a> {
    pub(super) log: &'a Arc<Log>,
    pub(super) stream: &'a mut Stream,
    pub(super) replica: &'a Replica,
    pub(super) request: DumpRequest,
    pub(super) server_id: u32,
    pub(super) metrics: &'a Metrics,
    pub(super) cancel: CancellationToken,
}

/// The state of a stream that has begun.
struct Flow {
    reader: LogReader,
    emitter: Emitter,
    file: u64,
    file_name: String,
    out: Vec<u8>,
    buf: Vec<u8>,
    /// Bytes of a large event that are still to come, and whether they go out.
    large: Option<(usize, bool)>,
    last_sent: Instant,
    /// Events that the metrics know of.
    counted: u64,
}

impl Dump<'_> {
    /// Serves the stream until it ends. On return, the sequence number for a closing packet (error, EOF).
    pub(super) async fn run(mut self) -> (u8, DumpEnd) {
        let mut heads = self.log.subscribe();
        heads.mark_changed();
        let begin = match self.begin(&mut heads).await {
            Ok(begin) => begin,
            Err((sequence, end)) => return (sequence, end),
        };
        let mut sequence = 1;
        let mut flow = match self.open(begin, &mut sequence).await {
            Ok(flow) => flow,
            Err(end) => return (sequence, end),
        };
        self.replica.set_state(ReplicaState::Streaming);
        let end = match self.flow(&mut flow, &mut heads).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        (flow.emitter.sequence(), end)
    }

    /// Waits until the client's position is in the log.
    async fn begin(&mut self, heads: &mut watch::Receiver<Option<Arc<Head>>>) -> Result<Begin, (u8, DumpEnd)> {
        let mut emitter =
            Emitter::new(Filter::default(), self.request.checksum.unwrap_or(ChecksumAlg::None), GtidList::default());
        let mut told = false;
        loop {
            heads.mark_unchanged();
            let log = Arc::clone(self.log);
            let start = self.request.start.clone();
            let resolution = tokio::task::spawn_blocking(move || resolve(&log, &start)).await;
            let why = match resolution {
                Ok(Resolution::Begin(begin)) => return Ok(begin),
                Ok(Resolution::Refuse(message)) => return Err((emitter.sequence(), DumpEnd::Refused(message))),
                Ok(Resolution::Hold(why)) => why,
                Err(e) => return Err((emitter.sequence(), DumpEnd::Log(e.to_string()))),
            };
            if self.request.non_blocking {
                return Err((emitter.sequence(), DumpEnd::Eof));
            }
            if !told {
                told = true;
                tracing::info!(connection = self.replica.identity.connection, server_id = self.replica.identity.server_id, %why, "client held");
            }
            self.replica.set_state(ReplicaState::Held);
            let name = self.log.files().last().map_or_else(|| "-".to_owned(), |f| f.name.clone());
            let mut sent = Instant::now();
            // Held: no more than ten looks a second, however fast the head moves.
            let look_again = sent + Duration::from_millis(100);
            loop {
                let next_beat = self.request.heartbeat.map_or(sent + Duration::from_secs(3600), |p| sent + p);
                let mut probe = [0_u8; 64];
                tokio::select! {
                    changed = heads.changed() => {
                        if changed.is_err() {
                            return Err((emitter.sequence(), DumpEnd::Cancelled));
                        }
                        tokio::time::sleep_until(look_again).await;
                        break;
                    }
                    () = self.cancel.cancelled() => return Err((emitter.sequence(), DumpEnd::Cancelled)),
                    read = self.stream.read(&mut probe) => {
                        if let Err(end) = client_said(read, &probe) {
                            return Err((emitter.sequence(), end));
                        }
                    }
                    () = tokio::time::sleep_until(next_beat) => {
                        // Position 0: a client that has no position yet must not be told a lower one.
                        let beat = self.heartbeat_event(&name, 0, emitter.checksum());
                        let mut out = Vec::with_capacity(128);
                        let framed = emitter.own(&mut out, &beat);
                        if let Err(end) = match framed { Ok(()) => self.write(&out).await, Err(e) => Err(e.into()) } {
                            return Err((emitter.sequence(), end));
                        }
                        sent = Instant::now();
                    }
                }
            }
        }
    }

    /// Sends what stands before the first event. `sequence` is the number of the packet that follows if there is no flow.
    async fn open(&mut self, begin: Begin, sequence: &mut u8) -> Result<Flow, DumpEnd> {
        let pos = begin.pos;
        let mut reader = self.log.reader(pos).map_err(read_end)?;
        let headers = read_header_events(&mut reader, pos.file).await?;
        let file_name =
            self.log.file_name(pos.file).ok_or_else(|| DumpEnd::Log(format!("file {} is gone", pos.file)))?;
        let checksum = headers.format.checksum;
        let first_checksum = self.request.checksum.unwrap_or(ChecksumAlg::None);

        let (at, known) = match &begin.gtid {
            Some(g) => (g.at.clone(), missing_filter(&g.at, &g.known)),
            None => (GtidList::default(), None),
        };
        // A GTID client is told the beginning of the file and then where it goes on; it never needs to know the offset.
        let from_start = match &begin.gtid {
            Some(gtid) => known.is_none() && (gtid.at_file_start || pos.offset <= headers.end),
            None => pos.offset == FIRST_EVENT,
        };
        let filter = Filter {
            drop_annotate: !self.request.annotate,
            stand_ins: !self.request.understands_gtid,
            known,
            until: self.request.until.clone(),
        };
        let mut flow = Flow {
            reader,
            emitter: Emitter::new(filter, checksum, at.clone()),
            file: pos.file,
            file_name,
            out: Vec::with_capacity(KEEP_BYTES),
            buf: Vec::new(),
            large: None,
            last_sent: Instant::now(),
            counted: 0,
        };
        let told = if begin.gtid.is_some() { FIRST_EVENT } else { pos.offset };
        let rotate = Rotate { position: told, file: flow.file_name.clone() }.artificial(self.server_id, first_checksum);
        flow.emitter.own(&mut flow.out, &rotate)?;
        if self.request.checksum.is_none() && checksum == ChecksumAlg::Crc32 {
            self.write(&flow.out).await?;
            *sequence = flow.emitter.sequence();
            return Err(DumpEnd::Refused(
                "Slave can not handle replication events with the checksum that master is configured to log; set \
                 @master_binlog_checksum before the dump command"
                    .into(),
            ));
        }
        if from_start {
            flow.reader.go_to(LogPos { file: pos.file, offset: FIRST_EVENT });
        } else {
            let mut format = headers.format_event;
            FormatDescription::as_sent_mid_file(&mut format, begin.gtid.is_none());
            flow.emitter.own(&mut flow.out, &format)?;
            if begin.gtid.is_some() {
                if let Some(list) = headers.gtid_list_event.filter(|_| self.request.understands_gtid) {
                    flow.emitter.own(&mut flow.out, &list)?;
                }
                if self.request.understands_gtid {
                    let marker = GtidListEvent::artificial(&at, self.server_id, pos.offset as u32, checksum);
                    flow.emitter.own(&mut flow.out, &marker)?;
                }
            }
            flow.reader.go_to(pos);
        }
        self.flush(&mut flow).await?;
        Ok(flow)
    }

    async fn flow(
        &mut self,
        flow: &mut Flow,
        heads: &mut watch::Receiver<Option<Arc<Head>>>,
    ) -> Result<std::convert::Infallible, DumpEnd> {
        loop {
            if flow.emitter.until_reached() {
                self.end_until(flow).await?;
            }
            heads.mark_unchanged();
            let chunk = flow.reader.read(READ_BYTES, &mut flow.buf).await.map_err(read_end)?;
            match chunk {
                Chunk::Shared(bytes) => {
                    let taken = take(&mut flow.emitter, &mut flow.out, &mut flow.large, &bytes)?;
                    flow.reader.advance(taken as u64);
                    self.flush(flow).await?;
                }
                Chunk::Buffered(n) => {
                    let bytes = flow.buf.get(..n).unwrap_or_default();
                    let taken = take(&mut flow.emitter, &mut flow.out, &mut flow.large, bytes)?;
                    flow.reader.advance(taken as u64);
                    self.flush(flow).await?;
                }
                Chunk::NextFile(number) => self.next_file(flow, number).await?,
                Chunk::AtEnd => {
                    if self.request.non_blocking {
                        return Err(DumpEnd::Eof);
                    }
                    self.wait(flow, heads).await?;
                }
            }
        }
    }

    async fn next_file(&mut self, flow: &mut Flow, number: u64) -> Result<(), DumpEnd> {
        let name = self.log.file_name(number).ok_or_else(|| DumpEnd::Log(format!("file {number} is gone")))?;
        flow.reader.go_to(LogPos { file: number, offset: FIRST_EVENT });
        // As a server does: summed as the file before it was.
        let rotate =
            Rotate { position: FIRST_EVENT, file: name.clone() }.artificial(self.server_id, flow.emitter.checksum());
        flow.emitter.own(&mut flow.out, &rotate)?;
        if let Some(info) = self.log.files().into_iter().find(|f| f.number == number) {
            flow.emitter.set_checksum(info.checksum);
        }
        flow.file = number;
        flow.file_name = name;
        self.flush(flow).await
    }

    /// Waits for the head to move, with heartbeats.
    async fn wait(&mut self, flow: &mut Flow, heads: &mut watch::Receiver<Option<Arc<Head>>>) -> Result<(), DumpEnd> {
        for buffer in [&mut flow.out, &mut flow.buf] {
            if buffer.capacity() > KEEP_BYTES {
                *buffer = Vec::new();
            }
        }
        let beat =
            self.request.heartbeat.map_or_else(|| flow.last_sent + Duration::from_secs(3600), |p| flow.last_sent + p);
        let mut probe = [0_u8; 64];
        tokio::select! {
            changed = heads.changed() => {
                changed.map_err(|_| DumpEnd::Cancelled)?;
                self.metrics.fanout_wakeups.inc();
                Ok(())
            }
            () = self.cancel.cancelled() => Err(DumpEnd::Cancelled),
            read = self.stream.read(&mut probe) => client_said(read, &probe),
            () = tokio::time::sleep_until(beat) => {
                if self.request.heartbeat.is_some() {
                    let position = u32::try_from(flow.reader.position().offset).unwrap_or(0);
                    let event = self.heartbeat_event(&flow.file_name, position, flow.emitter.checksum());
                    flow.emitter.own(&mut flow.out, &event)?;
                    self.flush(flow).await?;
                } else {
                    flow.last_sent = Instant::now();
                }
                Ok(())
            }
        }
    }

    /// Everything that `UNTIL` asked for was sent: says so, and ends the stream, as a server does.
    async fn end_until(&mut self, flow: &mut Flow) -> Result<(), DumpEnd> {
        let header = EventHeader {
            timestamp: 0,
            kind: EventKind::GTID_LIST,
            server_id: self.server_id,
            size: 0,
            log_pos: flow.reader.position().offset as u32,
            flags: event::FLAG_ARTIFICIAL,
        };
        let list = GtidListEvent { gtids: flow.emitter.reached().iter().collect(), flags: UNTIL_REACHED };
        let event = event::build(header, &list.body(), flow.emitter.checksum());
        flow.emitter.own(&mut flow.out, &event)?;
        self.flush(flow).await?;
        Err(DumpEnd::Eof)
    }

    fn heartbeat_event(&self, file: &str, position: u32, alg: ChecksumAlg) -> Vec<u8> {
        let header = EventHeader {
            timestamp: 0,
            kind: EventKind::HEARTBEAT,
            server_id: self.server_id,
            size: 0,
            log_pos: position,
            flags: 0,
        };
        event::build(header, file.as_bytes(), alg)
    }

    async fn flush(&mut self, flow: &mut Flow) -> Result<(), DumpEnd> {
        if flow.out.is_empty() {
            return Ok(());
        }
        self.write(&flow.out).await?;
        let pos = flow.reader.position();
        self.replica.note_sent(pos, flow.out.len() as u64);
        self.metrics.fanout_sent_bytes.inc_by(flow.out.len() as u64);
        self.metrics.fanout_sent_events.inc_by(flow.emitter.events() - flow.counted);
        flow.counted = flow.emitter.events();
        if let Some(head) = self.log.head() {
            if head.pos == pos && head.arrived != Micros::default() {
                let micros = Micros::now().0.saturating_sub(head.arrived.0).max(0);
                self.metrics.fanout_delivery_duration.observe(micros as f64 / 1e6);
            }
        }
        flow.out.clear();
        flow.last_sent = Instant::now();
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), DumpEnd> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(DumpEnd::Torn),
            // TLS keeps a part back until it is flushed; for TCP that is nothing.
            written = async { self.stream.write_all(bytes).await?; self.stream.flush().await } => Ok(written?),
        }
    }
}

/// Frames what is whole at the front of `bytes`, or the next piece of an event that is larger than a read; gives how much is done with.
fn take(
    emitter: &mut Emitter,
    out: &mut Vec<u8>,
    large: &mut Option<(usize, bool)>,
    bytes: &[u8],
) -> Result<usize, DumpEnd> {
    if let Some((left, sent)) = large.take() {
        let n = left.min(bytes.len());
        if sent {
            emitter.push_large(out, &bytes[..n])?;
        }
        if left > n {
            *large = Some((left - n, sent));
        }
        return Ok(n);
    }
    let whole = whole_events(bytes)?;
    if whole > 0 {
        return Ok(emitter.run(out, &bytes[..whole])?);
    }
    // Not even one: the read ends inside an event that is larger than it.
    let header = EventHeader::parse(bytes)?;
    let sent = emitter.begin_large(out, &header, &bytes[HEADER_LEN..])?;
    if sent {
        emitter.push_large(out, bytes)?;
    }
    *large = Some(((header.size as usize).saturating_sub(bytes.len()), sent));
    Ok(bytes.len())
}

/// The part of what a client has that lies beyond the place where its stream begins: to be left out.
fn missing_filter(at: &GtidList, known: &GtidList) -> Option<GtidList> {
    let beyond = known.subtract(at);
    (!beyond.is_empty()).then_some(beyond)
}

/// A streaming client says nothing but goodbye.
fn client_said(read: std::io::Result<usize>, bytes: &[u8]) -> Result<(), DumpEnd> {
    match read? {
        0 => Err(DumpEnd::Left(std::io::ErrorKind::UnexpectedEof.into())),
        n => {
            tracing::debug!(bytes = n, first = bytes.first(), "ignored what a streaming client sent");
            Ok(())
        }
    }
}

fn read_end(e: ReadError) -> DumpEnd {
    match e {
        ReadError::Gone { .. } | ReadError::Cut { .. } => {
            DumpEnd::Refused(format!("Could not find first log file name in binary log index file: {e}"))
        }
        other => DumpEnd::Log(other.to_string()),
    }
}

/// The events at the beginning of a file that say how the rest is read.
struct HeaderEvents {
    format: FormatDescription,
    format_event: Vec<u8>,
    gtid_list_event: Option<Vec<u8>>,
    /// Offset behind them.
    end: u64,
}

async fn read_header_events(reader: &mut LogReader, file: u64) -> Result<HeaderEvents, DumpEnd> {
    let begin = LogPos { file, offset: FIRST_EVENT };
    reader.go_to(begin);
    let mut buf = Vec::new();
    let bytes = match reader.read(HEADER_EVENTS_BYTES, &mut buf).await.map_err(read_end)? {
        Chunk::Shared(bytes) => bytes.to_vec(),
        Chunk::Buffered(n) => {
            buf.truncate(n);
            buf
        }
        Chunk::AtEnd | Chunk::NextFile(_) => return Err(DumpEnd::Log(format!("file {file} has no events yet"))),
    };
    let mut next = 0;
    let mut event_at = |kind: EventKind| -> Option<Vec<u8>> {
        let header = EventHeader::parse(bytes.get(next..)?).ok()?;
        let event = bytes.get(next..next + header.size as usize)?;
        (header.kind == kind).then(|| {
            next += event.len();
            event.to_vec()
        })
    };
    let Some(format_event) = event_at(EventKind::FORMAT_DESCRIPTION) else {
        return Err(DumpEnd::Log(format!("file {file} does not begin with a format description")));
    };
    let gtid_list_event = event_at(EventKind::GTID_LIST);
    let format = FormatDescription::parse(&format_event)?;
    Ok(HeaderEvents { format, format_event, gtid_list_event, end: FIRST_EVENT + next as u64 })
}

/// Whether a start is by GTID, for the log line of an attach.
pub(super) fn describe(start: &StartFrom) -> String {
    match start {
        StartFrom::Gtid(list) => format!("GTID '{list}'"),
        StartFrom::File { name, position } => format!("{name}:{position}"),
    }
}
