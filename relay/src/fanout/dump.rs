//! One client's stream: from its start position to the head, and on as the head moves.
//!
//! Owns the order of what goes out: artificial rotation, format description, position marker, events, heartbeats. Promises: nothing
//! beyond the head goes out; memory stays within two buffers of [`READ_BYTES`] (three times as much where a chunk is framed for others too)
//! however far behind or slow the client is, and they are given back while it waits at the head.

use std::sync::Arc;
use std::time::Duration;

use baton_wire::WireError;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{
    self, EventHeader, EventKind, FIRST_EVENT, Flavor, FormatDescription, GtidListEvent, Heartbeat, Rotate,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acks::{AckReader, Acked};
use super::emit::{EmitError, Emitter, Filter};
use super::frames::{Counted, Frames};
use super::headers::read_header_events;
use super::names::Names;
use super::pieces::{Pieces, Taken};
use super::registry::{Replica, ReplicaState};
use super::request::{DumpRequest, StartFrom};
use super::start::{Begin, not_in_the_log};
use crate::clock::Micros;
use crate::log::{Chunk, Head, Log, LogPos, LogReader, ReadError};
use crate::metrics::Metrics;
use crate::net::Stream;
use crate::upstream::UpstreamStatus;

/// Bytes of log that are read, framed and written at a time.
const READ_BYTES: usize = 256 * 1024;
/// Framed bytes that are not kept back for more.
const WRITE_BYTES: usize = 128 * 1024;
/// Buffers above this size are given back while a client waits.
const KEEP_BYTES: usize = 4 * 1024;
/// `GtidListEvent` flag that ends `START SLAVE UNTIL`.
const UNTIL_REACHED: u8 = 1;

/// Why a stream ended.
#[derive(Debug, Error)]
pub(super) enum DumpEnd {
    /// The client closed the connection, or the network did.
    #[error("the client left: {0}")]
    Left(#[from] std::io::Error),
    /// A non-blocking dump reached the end.
    #[error("end of the log reached")]
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
    /// The client turned out to be ahead of this relay: it comes again, and is held.
    #[error("{0}")]
    Ahead(String),
    /// The log can't be read: the replica tries again.
    #[error("{0}")]
    Log(String),
}

impl From<WireError> for DumpEnd {
    fn from(e: WireError) -> Self {
        Self::Log(format!("the log holds something that is no event: {e}"))
    }
}

impl From<EmitError> for DumpEnd {
    fn from(e: EmitError) -> Self {
        match e {
            EmitError::Wire(e) => e.into(),
            EmitError::Forked { requested, .. } => Self::Refused(not_in_the_log(requested)),
        }
    }
}

/// What a stream works with.
pub(super) struct Dump<'a> {
    pub(super) log: &'a Arc<Log>,
    pub(super) upstream: &'a watch::Receiver<UpstreamStatus>,
    pub(super) stream: &'a mut Stream,
    pub(super) replica: &'a Replica,
    pub(super) request: DumpRequest,
    pub(super) server_id: u32,
    pub(super) metrics: &'a Metrics,
    pub(super) frames: &'a Arc<Frames>,
    pub(super) cancel: CancellationToken,
    /// Number of the next packet, behind what was written.
    pub(super) sequence: u8,
}

/// The state of a stream that has begun.
pub(super) struct Flow {
    pub(super) reader: LogReader,
    pub(super) emitter: Emitter,
    file: u64,
    pub(super) file_name: String,
    pub(super) out: Vec<u8>,
    pub(super) buf: Vec<u8>,
    pub(super) pieces: Pieces,
    last_sent: Instant,
    /// Events that the metrics know of.
    counted: u64,
    /// Up to here the client has had everything when it was last looked at how fast it got it.
    delivered: LogPos,
    /// Of a client that acknowledges.
    acks: Option<Acks>,
    _stream: Counted,
    /// Held while the client is behind.
    pub(super) behind: Option<Counted>,
    /// Place at which its packets' numbers were made those of others.
    pub(super) aligned: Option<LogPos>,
}

/// What a client acknowledges.
struct Acks {
    reader: AckReader,
    acked: Acked,
    /// Where the last transaction ends in what waits to be written.
    ends: Option<LogPos>,
    /// What it sent that was no acknowledgement of anything.
    ignored: u64,
}

impl Flow {
    /// Notes where the last transaction ends in what was taken from the reader's position on.
    fn note_ends(&mut self) {
        if let (Some(acks), Some(n)) = (&mut self.acks, self.emitter.take_ends()) {
            let LogPos { file, offset } = self.reader.position();
            acks.ends = Some(LogPos { file, offset: offset + n });
        }
    }
}

impl Dump<'_> {
    /// Serves the stream until it ends. On return, the sequence number for a closing packet (error, EOF).
    pub(super) async fn run(mut self) -> (u8, DumpEnd) {
        let end = match self.stream().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        (self.sequence, end)
    }

    async fn stream(&mut self) -> Result<std::convert::Infallible, DumpEnd> {
        let mut heads = self.log.subscribe();
        let begin = self.begin(&mut heads).await?;
        let mut flow = self.open(begin).await?;
        self.replica.set_state(ReplicaState::Streaming);
        let Err(end) = self.flow(&mut flow, &mut heads).await;
        if flow.emitter.inside_event() {
            // A packet here would be taken for the rest of the event.
            return Err(DumpEnd::Torn);
        }
        if matches!(end, DumpEnd::Refused(_) | DumpEnd::Ahead(_) | DumpEnd::Log(_)) && !flow.out.is_empty() {
            // What was good before goes out before the error does, whose number counts on it.
            self.write(&flow.out, flow.emitter.sequence()).await?;
        }
        Err(end)
    }

    /// Sends what stands before the first event.
    async fn open(&mut self, begin: Begin) -> Result<Flow, DumpEnd> {
        let pos = begin.pos;
        let mut reader = self.log.reader(pos).map_err(read_end)?;
        let headers = read_header_events(&mut reader, pos.file).await?;
        let file_name =
            self.log.file_name(pos.file).ok_or_else(|| DumpEnd::Log(format!("file {} is gone", pos.file)))?;
        let checksum = headers.format.checksum;
        let first_checksum = self.request.checksum.unwrap_or(ChecksumAlg::None);

        let by_gtid = begin.gtid.is_some();
        let gtid = begin.gtid.unwrap_or_default();
        let filter = Filter {
            drop_annotate: !self.request.annotate,
            stand_ins: !self.request.understands_gtid,
            // What lies behind the place where the stream begins and the client has already.
            known: gtid.known.subtract(&gtid.at),
            foreign: gtid.foreign,
            until: self.request.until.clone(),
        };
        let mut flow = Flow {
            reader,
            emitter: Emitter::new(filter, checksum, gtid.at.clone(), self.sequence, self.request.semi_sync),
            file: pos.file,
            file_name,
            out: Vec::with_capacity(KEEP_BYTES),
            buf: Vec::new(),
            pieces: Pieces::new(READ_BYTES),
            last_sent: Instant::now(),
            counted: 0,
            delivered: pos,
            acks: self.request.semi_sync.then(|| Acks {
                reader: AckReader::default(),
                acked: Acked::new(pos),
                ends: None,
                ignored: 0,
            }),
            _stream: self.frames.stream(),
            behind: None,
            aligned: None,
        };
        if self.request.semi_sync {
            self.replica.note_acked(pos);
        }
        flow.pieces.set_names(self.names(pos.file, checksum));
        // A GTID client is told the beginning of the file and then where it goes on; it never needs to know the offset. The format
        // description goes out as it stands where no transaction of the file is skipped: it tells of a primary that started anew.
        // Nor does it where the client has transactions behind the place already: it has seen that start.
        let from_start = if by_gtid {
            gtid.at_file_start && gtid.known.subtract(&gtid.at).is_empty()
        } else {
            pos.offset == FIRST_EVENT
        };
        let told = if by_gtid { FIRST_EVENT } else { pos.offset };
        let rotate = Rotate { position: told, file: flow.file_name.clone() }.artificial(self.server_id, first_checksum);
        flow.emitter.own(&mut flow.out, &rotate)?;
        if self.request.checksum.is_none() && checksum == ChecksumAlg::Crc32 {
            self.write(&flow.out, flow.emitter.sequence()).await?;
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
            FormatDescription::as_sent_mid_file(&mut format, !by_gtid);
            flow.emitter.own(&mut flow.out, &format)?;
            if by_gtid && self.request.understands_gtid {
                if let Some(list) = headers.gtid_list_event {
                    flow.emitter.own(&mut flow.out, &list)?;
                }
                let marker = GtidListEvent::artificial(&gtid.at, self.server_id, pos.offset as u32, checksum);
                flow.emitter.own(&mut flow.out, &marker)?;
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
        // What the next event needs: chunks end anywhere.
        let mut least = 1;
        loop {
            if self.cancel.is_cancelled() {
                return Err(DumpEnd::Cancelled);
            }
            if flow.emitter.until_reached() && !flow.pieces.inside_event() {
                self.end_until(flow).await?;
            }
            // Nothing goes out where everything is known to the client already: it hears of us all the same.
            if !flow.pieces.inside_event() && self.request.heartbeat.is_some_and(|p| flow.last_sent.elapsed() >= p) {
                self.beat(flow).await?;
            }
            heads.mark_unchanged();
            if least == 1 && self.send_shared(flow).await? {
                continue;
            }
            let chunk = flow.reader.read_at_least(least, READ_BYTES, &mut flow.buf).await.map_err(read_end)?;
            let bytes = match &chunk {
                Chunk::Shared(bytes) => &bytes[..],
                Chunk::Buffered(n) => flow.buf.get(..*n).unwrap_or_default(),
                Chunk::AtEnd | Chunk::NextFile(_) => &[],
            };
            match chunk {
                Chunk::Shared(_) | Chunk::Buffered(_) => {
                    let taken = flow.pieces.take(&mut flow.emitter, &mut flow.out, bytes);
                    match taken.map_err(|e| self.judged(e))? {
                        Taken::Bytes(n) => {
                            least = 1;
                            flow.note_ends();
                            flow.reader.advance(n as u64);
                            // Small chunks gather, as long as there are more.
                            if flow.out.len() >= WRITE_BYTES {
                                self.flush(flow).await?;
                            }
                        }
                        Taken::Needs(n) if n > least => least = n,
                        Taken::Needs(n) => {
                            let (at, have) = (flow.reader.position(), bytes.len());
                            return Err(DumpEnd::Log(format!(
                                "the event at {at} has {n} bytes, the log ends after {have}"
                            )));
                        }
                    }
                }
                Chunk::NextFile(number) => self.next_file(flow, number).await?,
                Chunk::AtEnd => {
                    self.flush(flow).await?;
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
        if let Some(info) = self.log.file(number) {
            flow.emitter.set_checksum(info.checksum);
        }
        flow.pieces.set_names(self.names(number, flow.emitter.checksum()));
        flow.file = number;
        flow.file_name = name;
        self.flush(flow).await
    }

    /// How events of a file are to name files: as the log does, to all but those that keep the files themselves.
    fn names(&self, number: u64, checksum: ChecksumAlg) -> Option<Names> {
        if self.request.mirror { None } else { Names::of(self.log, number, checksum) }
    }

    /// Waits for the head to move, with heartbeats.
    async fn wait(&mut self, flow: &mut Flow, heads: &mut watch::Receiver<Option<Arc<Head>>>) -> Result<(), DumpEnd> {
        flow.behind = None;
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
                self.pace(flow).await
            }
            () = self.cancel.cancelled() => Err(DumpEnd::Cancelled),
            read = self.stream.read(&mut probe) => self.heard(flow, read, &probe),
            // Sent by the loop, if one is due.
            () = tokio::time::sleep_until(beat) => {
                if self.request.heartbeat.is_none() {
                    flow.last_sent = Instant::now();
                }
                Ok(())
            }
        }
    }

    /// Lets more gather where there are very many clients.
    async fn pace(&self, flow: &Flow) -> Result<(), DumpEnd> {
        let due = flow.last_sent + self.frames.pace();
        if due > Instant::now() {
            tokio::select! {
                () = self.cancel.cancelled() => return Err(DumpEnd::Cancelled),
                () = tokio::time::sleep_until(due) => {}
            }
        }
        Ok(())
    }

    /// Sends a heartbeat, unless the client takes none here.
    async fn beat(&mut self, flow: &mut Flow) -> Result<(), DumpEnd> {
        if self.between_files(flow).await? {
            flow.last_sent = Instant::now();
            return Ok(());
        }
        let position = flow.reader.position().offset;
        let event = self.heartbeat_event(&flow.file_name, position, flow.emitter.checksum());
        flow.emitter.own(&mut flow.out, &event)?;
        self.flush(flow).await
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

    pub(super) fn heartbeat_event(&self, file: &str, position: u64, alg: ChecksumAlg) -> Vec<u8> {
        Heartbeat { file: file.to_owned(), position }.v1(Flavor::MariaDb, self.server_id, alg)
    }

    pub(super) async fn flush(&mut self, flow: &mut Flow) -> Result<(), DumpEnd> {
        if flow.out.is_empty() {
            return Ok(());
        }
        self.write(&flow.out, flow.emitter.sequence()).await?;
        let bytes = flow.out.len();
        flow.out.clear();
        self.note_sent(flow, bytes).await
    }

    /// Notes that everything up to the reader's position went out, in so many bytes.
    pub(super) async fn note_sent(&mut self, flow: &mut Flow, bytes: usize) -> Result<(), DumpEnd> {
        let pos = flow.reader.position();
        self.replica.note_sent(pos, bytes as u64);
        self.metrics.fanout_sent_bytes.inc_by(bytes as u64);
        self.metrics.fanout_sent_events.inc_by(flow.emitter.events() - flow.counted);
        flow.counted = flow.emitter.events();
        self.take_acks(flow).await?;
        // Heartbeats and the events before the first one deliver nothing.
        if let Some(head) = self.log.head().filter(|head| head.pos == pos && pos > flow.delivered) {
            flow.delivered = pos;
            if head.arrived != Micros::default() {
                let micros = Micros::now().0.saturating_sub(head.arrived.0).max(0);
                self.metrics.fanout_delivery_duration.observe(micros as f64 / 1e6);
            }
        }
        flow.last_sent = Instant::now();
        Ok(())
    }

    /// Notes what was sent, and takes what the client has acknowledged: between two writes, so that it is never kept from reading by what it
    /// has to say itself.
    async fn take_acks(&mut self, flow: &mut Flow) -> Result<(), DumpEnd> {
        let Some(acks) = &mut flow.acks else { return Ok(()) };
        acks.acked.sent(flow.reader.position(), acks.ends.take());
        self.replica.note_acked(acks.acked.reached());
        let mut said = [0_u8; 1024];
        loop {
            let read = tokio::select! {
                biased;
                read = self.stream.read(&mut said) => read,
                () = std::future::ready(()) => return Ok(()),
            };
            self.heard(flow, read, &said)?;
        }
    }

    /// What a client says while it is streamed to: acknowledgements, of which those that are none, or of what was never sent, are ignored.
    fn heard(&self, flow: &mut Flow, read: std::io::Result<usize>, bytes: &[u8]) -> Result<(), DumpEnd> {
        let Some(Acks { reader, acked, ignored, .. }) = &mut flow.acks else { return client_said(read, bytes) };
        let n = match read? {
            0 => return Err(DumpEnd::Left(std::io::ErrorKind::UnexpectedEof.into())),
            n => n,
        };
        let mut ignore = |why: String| {
            self.metrics.fanout_ignored_acks.inc();
            *ignored += 1;
            // One line is a hint, and one for each of a flood of them another flood.
            if ignored.is_power_of_two() {
                let identity = &self.replica.identity;
                tracing::warn!(peer = %identity.peer, connection = identity.connection, server_id = identity.server_id, ignored, why, "ignored what is no acknowledgement of what was sent");
            }
        };
        reader.feed(&bytes[..n], |ack| match ack {
            Ok(ack) => match self.log.parse_file_name(&ack.file).map(|file| LogPos { file, offset: ack.position }) {
                Some(pos) if acked.acked(pos) => self.metrics.fanout_acks.inc(),
                _ => ignore(format!("{}:{} was not sent", ack.file, ack.position)),
            },
            Err(why) => ignore(why),
        });
        self.replica.note_acked(acked.reached());
        Ok(())
    }

    /// Writes packets, behind which comes the one of number `next`.
    pub(super) async fn write(&mut self, bytes: &[u8], next: u8) -> Result<(), DumpEnd> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(DumpEnd::Torn),
            // TLS keeps a part back until it is flushed; for TCP that is nothing.
            written = async { self.stream.write_all(bytes).await?; self.stream.flush().await } => written?,
        }
        self.sequence = next;
        Ok(())
    }
}

/// A streaming client says nothing but goodbye.
pub(super) fn client_said(read: std::io::Result<usize>, bytes: &[u8]) -> Result<(), DumpEnd> {
    match read? {
        0 => Err(DumpEnd::Left(std::io::ErrorKind::UnexpectedEof.into())),
        n => {
            tracing::debug!(bytes = n, first = bytes.first(), "ignored what a streaming client sent");
            Ok(())
        }
    }
}

pub(super) fn read_end(e: ReadError) -> DumpEnd {
    match e {
        ReadError::Gone { .. } | ReadError::Cut { .. } => {
            DumpEnd::Refused(format!("Could not find first log file name in binary log index file: {e}"))
        }
        other => DumpEnd::Log(other.to_string()),
    }
}

/// Whether a start is by GTID, for the log line of an attach.
pub(super) fn describe(start: &StartFrom) -> String {
    match start {
        StartFrom::Gtid(list) => format!("GTID '{list}'"),
        StartFrom::File { name, position } => format!("{name}:{position}"),
    }
}
