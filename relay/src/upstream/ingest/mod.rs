//! Turns the primary's event stream into batches for the log: pure, event in, effects out.
//!
//! Owns: the place in the upstream's file at which the next byte belongs, checksum verification, transaction boundaries, and the
//! GTID order. Promises: a byte leaves for the log only if it continues the file without a gap and its event's checksum holds (a huge
//! event's pieces leave early, but never count as whole before its checksum was verified). Never does I/O, never reads a clock.

mod file;
mod types;

use std::collections::VecDeque;

use baton_wire::checksum::{self, ChecksumAlg, EventChecksum};
use baton_wire::event::{
    self, EventHeader, EventKind, FIRST_EVENT, Flavor, FormatDescription, GtidListEvent, HEADER_LEN, Mark, Rotate,
    TransactionTracker,
};
use baton_wire::gtid::{GtidPosition, TransactionId};
use bytes::BytesMut;

pub(super) use self::file::split_file_name;
use self::file::{continues, diverged_state};
pub(super) use self::types::{Counts, Effect, Start};
use super::error::StreamError;
use super::origin::shifted;
use crate::clock::Micros;
use crate::log::{Batch, LogPos, Transaction};

/// Bytes after which a batch leaves even if more is at hand: bounds memory, keeps the writer busy.
const BATCH_BYTES: usize = 1 << 20;

/// A huge event whose pieces are passed on as they come.
struct Partial {
    header: EventHeader,
    at: u64,
    mark: Mark,
    seen: usize,
    sum: EventChecksum,
}

/// The state of one stream.
pub(super) struct Ingest {
    shift: i64,
    base: Option<String>,
    /// The current file in the log's numbering and as the upstream names it; `None` until the stream names one.
    file: Option<(u64, String)>,
    /// The last file of the log.
    last: Option<u64>,
    offset: u64,
    checksum: ChecksumAlg,
    flavor: Flavor,
    tracker: TransactionTracker,
    gtid: GtidPosition,
    fresh_log: bool,
    open: Option<(TransactionId, u64)>,
    partial: Option<Partial>,
    batch_at: u64,
    data: BytesMut,
    whole: Option<u64>,
    /// The last value of `whole`, also after the batch has left.
    whole_taken: u64,
    transactions: Vec<Transaction>,
    effects: VecDeque<Effect>,
    pub(super) counts: Counts,
    pub(super) server_version: Option<String>,
}

impl Ingest {
    pub(super) fn new(start: Start) -> Self {
        let fresh_log = start.resume.is_none();
        let (pos, gtid) = match start.resume {
            Some((pos, gtid)) => (Some(pos), gtid),
            None => (None, GtidPosition::empty(start.flavor)),
        };
        let file = pos.map(|p| p.file).zip(start.file);
        let offset = pos.filter(|_| file.is_some()).map_or(0, |p| p.offset);
        Self {
            shift: start.shift,
            base: start.base,
            file,
            last: pos.map(|p| p.file),
            offset,
            checksum: start.checksum,
            flavor: start.flavor,
            tracker: TransactionTracker::new(),
            gtid,
            fresh_log,
            open: None,
            partial: None,
            batch_at: offset,
            data: BytesMut::new(),
            whole: None,
            whole_taken: 0,
            transactions: Vec::new(),
            effects: VecDeque::new(),
            counts: Counts::default(),
            server_version: None,
        }
    }

    /// The place behind the last byte taken; `None` before the first file is known.
    pub(super) fn position(&self) -> Option<LogPos> {
        self.file.as_ref().map(|(number, _)| LogPos { file: *number, offset: self.offset })
    }

    /// The end of the last whole transaction (or event outside of one) that was taken, in the present file.
    pub(super) fn whole_position(&self) -> Option<LogPos> {
        let number = self.file.as_ref().map(|(number, _)| *number)?;
        (self.whole_taken > FIRST_EVENT).then_some(LogPos { file: number, offset: self.whole_taken })
    }

    /// Whether all there is to do is to append bytes to the present file.
    pub(super) fn only_appends(&self) -> bool {
        self.effects.iter().all(|effect| matches!(effect, Effect::Append(_)))
    }

    /// The next thing to do, if any.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes a piece of an event; `first` and `last` say which end of the event it holds. The first piece of an event that is cut holds
    /// at least its header and [`event::BODY_PREFIX`] bytes, or all there is. `now` is when the bytes arrived.
    pub(super) fn piece(&mut self, first: bool, data: &[u8], last: bool, now: Micros) -> Result<(), StreamError> {
        if first && last {
            self.whole_event(data, now)?;
        } else {
            if first {
                self.begin_partial(data, now)?;
            }
            self.continue_partial(data, last, now)?;
        }
        // Only here: a batch that ends at a boundary has to say so.
        if self.data.len() >= BATCH_BYTES {
            self.flush(now);
        }
        Ok(())
    }

    /// The upstream goes on in that file, at its beginning.
    pub(super) fn next_file(&mut self, file: &str, now: Micros) -> Result<(), StreamError> {
        self.artificial_rotate(&Rotate { position: FIRST_EVENT, file: file.to_owned() }, now)
    }

    /// Ends the batch: what was taken so far leaves for the log.
    pub(super) fn flush(&mut self, now: Micros) {
        let Some((number, _)) = &self.file else { return };
        if self.data.is_empty() {
            return;
        }
        let batch = Batch {
            file: *number,
            offset: self.batch_at,
            data: self.data.split().freeze(),
            whole: self.whole.take(),
            transactions: std::mem::take(&mut self.transactions),
            received_at: now,
        };
        self.batch_at = self.offset;
        self.effects.push_back(Effect::Append(batch));
    }

    fn whole_event(&mut self, bytes: &[u8], now: Micros) -> Result<(), StreamError> {
        let header = EventHeader::parse(bytes)?;
        if header.size as usize != bytes.len() {
            return Err(self.garbled(format!("{} says {} bytes, {} came", header.kind, header.size, bytes.len())));
        }
        self.counts.events += 1;
        match header.kind {
            EventKind::FORMAT_DESCRIPTION => return self.format_description(&header, bytes),
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 => {
                self.verify(&header, bytes)?;
                self.counts.heartbeats += 1;
                return Ok(());
            }
            _ => self.verify(&header, bytes)?,
        }
        let body = event::body(bytes, self.checksum)?;
        if header.is_artificial() || (header.kind == EventKind::ROTATE && header.log_pos == 0) {
            // Made up by the sender, in no file.
            return if header.kind == EventKind::ROTATE {
                self.artificial_rotate(&Rotate::parse(body)?, now)
            } else {
                Ok(())
            };
        }
        self.check_place(&header)?;
        if header.kind == EventKind::GTID_LIST {
            self.gtid_list(&GtidListEvent::parse(body)?)?;
        }
        let mark = self.tracker.observe(&header, body)?;
        let begins = self.offset;
        self.push(bytes);
        self.marked(mark, begins, now)
    }

    fn marked(&mut self, mark: Mark, begins: u64, now: Micros) -> Result<(), StreamError> {
        match mark {
            Mark::Begin(id, _) => {
                self.check_order(&id)?;
                self.open = Some((id, begins));
            }
            Mark::End => {
                if let Some((id, begins)) = self.open.take() {
                    self.gtid.advance(&id);
                    self.counts.transactions += 1;
                    self.transactions.push(Transaction { id, begins, ends: self.offset, arrived: now });
                }
            }
            Mark::Inside | Mark::Outside => {}
        }
        if !self.tracker.in_transaction() {
            self.whole = Some(self.offset);
            self.whole_taken = self.offset;
        }
        Ok(())
    }

    fn begin_partial(&mut self, data: &[u8], now: Micros) -> Result<(), StreamError> {
        let header = EventHeader::parse(data)?;
        self.counts.events += 1;
        self.check_place(&header)?;
        let mark = self.tracker.observe(&header, &data[HEADER_LEN..])?;
        if mark == Mark::Outside || matches!(mark, Mark::Begin(..)) {
            return Err(
                self.garbled(format!("a {} of {} bytes is larger than any server writes", header.kind, header.size))
            );
        }
        // What came before must not wait for the huge event.
        self.flush(now);
        self.partial = Some(Partial { header, at: self.offset, mark, seen: 0, sum: EventChecksum::new(header.size) });
        Ok(())
    }

    fn continue_partial(&mut self, data: &[u8], last: bool, now: Micros) -> Result<(), StreamError> {
        let Some(mut partial) = self.partial.take() else {
            return Err(self.garbled("the middle of an event came without its beginning".into()));
        };
        partial.sum.update(data);
        partial.seen += data.len();
        self.push(data);
        if !last {
            self.partial = Some(partial);
            return Ok(());
        }
        if partial.seen != partial.header.size as usize {
            return Err(self.garbled(format!(
                "{} says {} bytes, {} came",
                partial.header.kind, partial.header.size, partial.seen
            )));
        }
        if self.checksum == ChecksumAlg::Crc32 {
            partial.sum.finish().map_err(|e| self.checksum_error(&partial.header, partial.at, &e))?;
        }
        self.marked(partial.mark, partial.at, now)
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.data.is_empty() {
            self.batch_at = self.offset;
        }
        self.data.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
    }

    fn format_description(&mut self, header: &EventHeader, bytes: &[u8]) -> Result<(), StreamError> {
        let format = FormatDescription::parse(bytes)?;
        if format.checksum == ChecksumAlg::Crc32 {
            if let Err(error) = checksum::verify(bytes) {
                return Err(self.checksum_error(header, self.offset, &error));
            }
        }
        self.checksum = format.checksum;
        self.server_version = Some(format.server_version);
        if header.log_pos == 0 || header.is_artificial() || self.offset != FIRST_EVENT {
            return Ok(()); // how the events from the middle of a file are to be read
        }
        self.check_place(header)?;
        let mut own = bytes.to_vec();
        FormatDescription::clear_in_use(&mut own);
        // Not whole before the list of GTIDs behind it: a log that ended in between would not know at which position it stands.
        self.push(&own);
        Ok(())
    }

    fn artificial_rotate(&mut self, rotate: &Rotate, now: Micros) -> Result<(), StreamError> {
        if let Some((_, name)) = &self.file {
            if *name == rotate.file {
                if rotate.position != self.offset {
                    return Err(self.garbled(format!(
                        "the primary goes on at {}:{}, asked was {}",
                        rotate.file, rotate.position, self.offset
                    )));
                }
                return Ok(());
            }
        }
        let (base, number) = split_file_name(&rotate.file)?;
        if rotate.position != FIRST_EVENT {
            return Err(self.garbled(format!(
                "the primary goes on at {}:{}, in the middle of a file that is new here",
                rotate.file, rotate.position
            )));
        }
        if self.tracker.in_transaction() {
            self.flush(now);
            self.effects.push_back(Effect::DropPartial);
            self.tracker = TransactionTracker::new();
            self.open = None;
        }
        self.flush(now);
        let Some(number) = shifted(number, self.shift) else {
            return Err(
                self.garbled(format!("{} can't be moved by {} to a number of the log", rotate.file, self.shift))
            );
        };
        if let Some(last) = self.last {
            if number <= last {
                return Err(StreamError::Diverged {
                    cause: format!(
                        "the primary goes on in {}, which is not behind the file that the log ends in ({last})",
                        rotate.file
                    ),
                    hint: "the primary's binlog was reset: see `baton-relay reset-log --help`".into(),
                });
            }
        }
        let upstream_base = base.to_owned();
        let base = self.base.get_or_insert_with(|| base.to_owned()).clone();
        self.effects.push_back(Effect::OpenFile { number, base, upstream_base });
        self.last = Some(number);
        self.file = Some((number, rotate.file.clone()));
        self.offset = FIRST_EVENT;
        self.batch_at = FIRST_EVENT;
        self.whole = None;
        self.whole_taken = 0;
        Ok(())
    }

    fn gtid_list(&mut self, list: &GtidListEvent) -> Result<(), StreamError> {
        let position = list.position();
        if self.fresh_log {
            self.fresh_log = false;
            self.gtid = GtidPosition::MariaDb(position);
            return Ok(());
        }
        match &self.gtid {
            GtidPosition::MariaDb(ours) if !continues(ours, &position) => return Err(diverged_state(&position, ours)),
            _ => self.gtid = GtidPosition::MariaDb(position),
        }
        Ok(())
    }

    fn check_order(&self, id: &TransactionId) -> Result<(), StreamError> {
        let goes_back = match (&self.gtid, id) {
            (GtidPosition::MariaDb(list), TransactionId::MariaDb(gtid)) => list.sequence(gtid.domain) >= gtid.sequence,
            (own, id) => own.contains(id),
        };
        if !goes_back {
            return Ok(());
        }
        Err(StreamError::Diverged {
            cause: format!("GTID {id} comes after a position that holds it or a later one of its domain"),
            hint: "the primary's GTIDs went backwards (gtid_strict_mode=ON prevents that): see `baton-relay reset-log --help`".into(),
        })
    }

    /// An event that is in a file must continue it: its end is what its header says.
    fn check_place(&self, header: &EventHeader) -> Result<(), StreamError> {
        if self.file.is_none() {
            return Err(self.garbled(format!("a {} came before the name of any file", header.kind)));
        }
        let end = self.offset.wrapping_add(u64::from(header.size));
        if header.log_pos == end as u32 {
            return Ok(());
        }
        Err(StreamError::Gap {
            file: self.file_name(),
            offset: self.offset,
            detail: format!(
                "a {} of {} bytes that ends at {} does not continue it",
                header.kind, header.size, header.log_pos
            ),
        })
    }

    fn verify(&self, header: &EventHeader, bytes: &[u8]) -> Result<(), StreamError> {
        if self.checksum == ChecksumAlg::None {
            return Ok(());
        }
        checksum::verify(bytes).map_err(|error| self.checksum_error(header, self.offset, &error))
    }

    fn checksum_error(&self, header: &EventHeader, at: u64, error: &baton_wire::WireError) -> StreamError {
        StreamError::Checksum { file: self.file_name(), offset: at, kind: header.kind, detail: error.to_string() }
    }

    fn garbled(&self, detail: String) -> StreamError {
        StreamError::Garbled { file: self.file_name(), offset: self.offset, detail }
    }

    fn file_name(&self) -> String {
        self.file.as_ref().map_or_else(|| "(no file yet)".into(), |(_, name)| name.clone())
    }

    /// The upstream's family.
    pub(super) fn flavor(&self) -> Flavor {
        self.flavor
    }
}

#[cfg(test)]
mod tests;
