//! Begins the next file: checks who feeds the log, closes the file before, records it, creates the new one; in this order, so that a kill in
//! between leaves nothing that is not known.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use baton_wire::event::FIRST_EVENT;
use baton_wire::gtid::GtidPosition;

use super::appender::OpenFile;
use super::error::AppendError;
use super::index::Entry;
use super::meta::{Meta, MetaEpoch};
use super::segment::{Segment, lock};
use super::tail::Tail;
use super::types::LogPos;
use super::writer::Writer;
use super::{arrivals, crcs, index};
use crate::clock::Micros;

impl Writer {
    /// Begins the next file.
    pub(super) fn open(&mut self, spec: &OpenFile) -> Result<LogPos, AppendError> {
        let log = Arc::clone(&self.log);
        if let Some(error) = log.failure.borrow().clone() {
            return Err(error);
        }
        let start = LogPos { file: spec.number, offset: FIRST_EVENT };
        let last = log.segments.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
        let again = self.tail.as_ref().is_some_and(|t| t.segment.number == spec.number && t.written == FIRST_EVENT);
        let last = last.unwrap_or_else(|| lock(&log.meta).purged_through);
        if !again && spec.number <= last {
            return Err(AppendError::Invalid {
                detail: format!("file number {} can't follow number {last}: numbers only grow", spec.number),
            });
        }
        // Held until it is stored: retention changes it too.
        let mut stored = lock(&log.meta);
        let mut meta = stored.clone();
        identify(&mut meta, spec)?;
        if again {
            // Another primary may have got the file that the one before it never filled.
            if *stored != meta {
                meta.store(&*log.storage)?;
                *stored = meta;
            }
            return Ok(start);
        }
        if let Some(tail) = &mut self.tail {
            if tail.written > tail.whole {
                tracing::warn!(
                    file = tail.segment.name,
                    offset = tail.whole,
                    bytes = tail.written - tail.whole,
                    "the file ends inside a transaction, which is left out"
                );
                tail.cut()?;
                tail.sync()?;
            }
            if tail.whole > FIRST_EVENT {
                meta.closed.push((tail.segment.number, tail.whole));
            }
        }
        meta.store(&*log.storage)?;
        *stored = meta.clone();
        drop(stored);
        self.leave_tail();
        self.sync_mark();
        let name = meta.file_name(spec.number).unwrap_or_default();
        let base = lock(&log.live).tally.clone();
        let segment = Arc::new(Segment::new(spec.number, name, FIRST_EVENT, self.gtid_or_empty(spec), base));
        segment.set_last_arrival(Micros::now());
        self.tail = Some(Tail::create(&*log.storage, Arc::clone(&segment))?);
        log.segments.write().unwrap_or_else(PoisonError::into_inner).insert(spec.number, segment);
        tracing::info!(file = meta.file_name(spec.number), "began a file");
        self.retain();
        Ok(start)
    }

    /// The position carried into the next file; the first file decides the family.
    fn gtid_or_empty(&mut self, spec: &OpenFile) -> GtidPosition {
        if self.gtid.flavor() != spec.flavor {
            self.gtid = GtidPosition::empty(spec.flavor);
        }
        self.gtid.clone()
    }

    /// Leaves the file that was written: what closes it waits until nothing else does.
    fn leave_tail(&mut self) {
        self.do_later();
        let Some(tail) = self.tail.take() else { return };
        if tail.whole > FIRST_EVENT {
            let (offset, gtid, tally) = (tail.whole, self.gtid.clone(), tail.tally.clone());
            let arrived = tail.segment.last_arrival();
            self.later.close = Some((tail, Entry { offset, gtid, tally, arrived }));
            self.later.since = Some(Instant::now());
            return;
        }
        // Nothing was ever in it.
        let (log, name) = (&self.log, tail.segment.name.clone());
        log.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&tail.segment.number);
        for name in [index::name(&name), arrivals::name(&name), crcs::name(&name), name] {
            // What stays is removed by the next start.
            let _ = log.storage.remove(&name);
        }
    }
}

/// What follows from the beginning of a file and need not be durable before the next commit is: after a crash it is found out anew.
#[derive(Default)]
pub(super) struct Later {
    /// Closes the file before: its index and arrival times, and gives back what was allocated ahead.
    close: Option<(Tail, Entry)>,
    /// The description has changed: the position at which an epoch began is known.
    store: bool,
    since: Option<Instant>,
}

impl Later {
    /// The description is to be stored.
    pub(super) fn store(&mut self) {
        self.store = true;
        self.since.get_or_insert_with(Instant::now);
    }

    /// How long something waits already; `None` if nothing does.
    pub(super) fn waits(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }
}

impl Writer {
    /// Does what was put off.
    pub(super) fn do_later(&mut self) {
        let Later { close, store, .. } = std::mem::take(&mut self.later);
        if let Some((tail, end)) = close {
            tail.close(end);
        }
        if store {
            if let Err(error) = lock(&self.log.meta).store(&*self.log.storage) {
                tracing::warn!(%error, "the position at which the epoch began is not recorded");
            }
        }
    }
}

/// Checks who feeds the log against what is recorded, and records it in a new log and at the beginning of an epoch.
fn identify(meta: &mut Meta, spec: &OpenFile) -> Result<(), AppendError> {
    let differs = |what, ours: String, theirs: String| AppendError::Identity { what, ours, theirs };
    if spec.base.is_empty() || spec.base.contains(['/', '\0']) {
        return Err(AppendError::Invalid { detail: format!("{:?} is not a base name of files", spec.base) });
    }
    match (&meta.base, meta.flavor()) {
        (Some(base), _) if *base != spec.base => return Err(differs("base name", base.clone(), spec.base.clone())),
        (_, Some(flavor)) if flavor != spec.flavor => {
            return Err(differs("family", flavor.name().into(), spec.flavor.name().into()));
        }
        _ => {}
    }
    if let Some(last) = meta.epochs.last() {
        let next = spec.epoch.as_ref().map_or(last.epoch, |e| e.epoch);
        if next < last.epoch {
            return Err(differs("epoch", last.epoch.to_string(), next.to_string()));
        }
        if next == last.epoch {
            let (server_id, shift) = (spec.upstream_server_id, spec.epoch.as_ref().map_or(last.shift, |e| e.shift));
            if last.server_id != server_id {
                return Err(differs("server_id", last.server_id.to_string(), server_id.to_string()));
            }
            if last.shift != shift {
                return Err(differs("shift of file numbers", last.shift.to_string(), shift.to_string()));
            }
            return Ok(());
        }
    }
    // An epoch of which nothing has come leaves its place to the next one.
    meta.epochs.retain(|e| e.begin < (spec.number, FIRST_EVENT));
    let (epoch, shift) = spec.epoch.as_ref().map_or((1, 0), |e| (e.epoch, e.shift));
    let first_file = i64::try_from(spec.number).ok().and_then(|n| n.checked_sub(shift)).and_then(|n| n.try_into().ok());
    let Some(first_file) = first_file else {
        return Err(AppendError::Invalid {
            detail: format!("file number {} can't be shifted by {shift} in epoch {epoch}", spec.number),
        });
    };
    meta.base.get_or_insert_with(|| spec.base.clone());
    meta.set_flavor(spec.flavor);
    meta.upstream_server_id = Some(spec.upstream_server_id);
    meta.epochs.push(MetaEpoch {
        epoch,
        server_id: spec.upstream_server_id,
        first_file,
        shift,
        begin: (spec.number, FIRST_EVENT),
        gtid: None,
        base: spec.epoch.as_ref().map(|e| e.base.clone()).filter(|base| *base != spec.base),
    });
    Ok(())
}
