//! Finding places: where a GTID position stands in the log, which position holds at a place, and where a replica has to begin.
//!
//! Near the head this is answered from memory. Elsewhere an index entry is looked up and at most what lies up to the next one (64 KiB
//! and a transaction) is read, by blocking calls.

use std::sync::{Arc, PoisonError};

use baton_wire::event::{EventHeader, HEADER_LEN, Mark};
use baton_wire::gtid::mariadb::GtidList;
use baton_wire::gtid::{GtidPosition, TransactionId};

use super::error::{GtidStartError, LogError};
use super::live::{Behind, Recent};
use super::scan::Walk;
use super::segment::{Segment, lock};
use super::storage::read_full;
use super::store::Log;
use super::tally::Tally;
use super::types::{GtidStart, Head, LogPos, Place};
use super::{arrivals, sets};
use crate::clock::Micros;

/// A transaction that was looked for, and what holds before it.
struct Found {
    id: TransactionId,
    pos: LogPos,
    gtid: GtidPosition,
    /// Transactions of the log before it.
    tally: Tally,
}

impl Log {
    /// Where somebody stands who has applied exactly `gtid`, and what it lacks. Domains (MySQL: sources) that the log does not know are ignored;
    /// what retention has removed is not counted. Equal to the head, or close to it: answered from memory; else blocks on disk I/O.
    ///
    /// With several domains the missing transactions need not be all that lie behind the place: their number is exact, the bytes are
    /// those from the first missing one to the head.
    pub fn place_of_gtid(&self, gtid: &GtidPosition) -> Result<Place, LogError> {
        let (head, tally) = {
            let live = lock(&self.live);
            let head = live.head.clone().ok_or(LogError::Empty)?;
            if *gtid == head.gtid {
                return Ok(at_head(&head, gtid));
            }
            if let Some(Behind { missing, first }) = live.behind_gtid(gtid) {
                drop(live);
                return Ok(self.place(
                    &head,
                    gtid,
                    missing,
                    first.map(|Recent { begins, arrived, .. }| (begins, Some(arrived))),
                ));
            }
            (head, live.tally.clone())
        };
        let (missing, first) = match (gtid, &head.gtid) {
            (GtidPosition::MariaDb(asked), GtidPosition::MariaDb(ours)) => self.missing_mariadb(asked, ours, &tally)?,
            (GtidPosition::MySql(asked), GtidPosition::MySql(ours)) => {
                let found = self.seek(|g| sets::covers(gtid, g), |id| !gtid.contains(id))?;
                let before = self.all_segments().first().map(|s| s.start());
                let purged = match before {
                    Some(GtidPosition::MySql(start)) => sets::count_without(&start, asked),
                    _ => 0,
                };
                (sets::count_without(ours, asked).saturating_sub(purged), found)
            }
            _ => {
                let (log, asked) = (head.gtid.flavor().name(), gtid.flavor().name());
                return Err(LogError::WrongFlavor { log, asked });
            }
        };
        Ok(self.place(&head, gtid, missing, first.map(|found| (found.pos, self.arrival_at(found.pos)))))
    }

    /// Which position holds at `pos`, and what lies behind it. A transaction around `pos` counts as missing. Blocks on disk I/O.
    ///
    /// Errors: `pos` is not between two events, or lies outside of what is visible.
    pub fn place_of(&self, pos: LogPos) -> Result<Place, LogError> {
        self.place_at(pos, true)
    }

    /// As [`Log::place_of`], for a place that is known to be one (something was sent up to there) and need not be the beginning of
    /// an event. Near the head it is answered from memory.
    pub fn place_near(&self, pos: LogPos) -> Result<Place, LogError> {
        let (behind, head) = {
            let live = lock(&self.live);
            (live.behind_pos(pos), live.head.clone().ok_or(LogError::Empty)?)
        };
        let Some((behind, gtid)) = behind.filter(|_| pos <= head.pos) else { return self.place_at(pos, false) };
        Ok(Place {
            pos,
            gtid,
            missing_transactions: behind.missing,
            missing_bytes: self.bytes_between(pos, head.pos),
            oldest_missing: behind.first.map(|first| first.arrived),
        })
    }

    /// Where a MariaDB replica that has `position` must begin, as near to the head as can be: everything that it lacks lies behind, and with one
    /// domain nothing else. Domains that the log does not know are ignored. Blocks on disk I/O.
    pub fn find_start(&self, position: &GtidList) -> Result<GtidStart, GtidStartError> {
        let head = self.head().ok_or(LogError::Empty)?;
        let GtidPosition::MariaDb(ours) = &head.gtid else {
            return Err(LogError::WrongFlavor { log: head.gtid.flavor().name(), asked: "mariadb" }.into());
        };
        let first = self.all_segments().first().map(|s| s.start());
        let start = first.as_ref().and_then(GtidPosition::mariadb).cloned().unwrap_or_default();
        let mut ahead = None;
        let mut begin: Option<Found> = None;
        for last in ours.iter() {
            let (domain, requested) = (last.domain, position.get(last.domain));
            let sequence = requested.map_or(0, |g| g.sequence);
            if let Some(first) = start.get(domain).filter(|first| sequence < first.sequence) {
                return Err(GtidStartError::Purged { domain, first });
            }
            match requested {
                Some(requested) if sequence > last.sequence => {
                    ahead = Some(GtidStartError::Ahead { domain, requested, have: Some(last) });
                    continue;
                }
                Some(requested) if sequence == last.sequence && requested != last => {
                    return Err(GtidStartError::Forked { requested, ours: last });
                }
                _ if sequence == last.sequence => continue,
                _ => {}
            }
            let Some(found) = self.seek_domain(domain, sequence)? else { continue };
            if let Some(requested) = requested {
                let before = found.gtid.mariadb().and_then(|list| list.get(domain));
                if before != Some(requested) {
                    let behind = if let TransactionId::MariaDb(gtid) = &found.id { *gtid } else { last };
                    return Err(GtidStartError::Forked { requested, ours: before.unwrap_or(behind) });
                }
            }
            if begin.as_ref().is_none_or(|b| found.pos < b.pos) {
                begin = Some(found);
            }
        }
        if let Some(ahead) = ahead {
            return Err(ahead);
        }
        let (pos, gtid) = match begin {
            Some(Found { pos, gtid: GtidPosition::MariaDb(list), .. }) => (pos, list),
            _ => (head.pos, ours.clone()),
        };
        let file_start = self.segment(pos.file).map(|s| s.start());
        let at_file_start = file_start.as_ref().and_then(GtidPosition::mariadb) == Some(&gtid);
        Ok(GtidStart { pos, gtid, at_file_start })
    }

    fn place(&self, head: &Head, gtid: &GtidPosition, missing: u64, first: Option<(LogPos, Option<Micros>)>) -> Place {
        match first {
            Some((pos, arrived)) if missing > 0 => Place {
                pos,
                gtid: gtid.clone(),
                missing_transactions: missing,
                missing_bytes: self.bytes_between(pos, head.pos),
                oldest_missing: arrived,
            },
            _ => at_head(head, gtid),
        }
    }

    /// Domain by domain: how many are missing in all, and the first of them.
    fn missing_mariadb(
        &self,
        asked: &GtidList,
        ours: &GtidList,
        tally: &Tally,
    ) -> Result<(u64, Option<Found>), LogError> {
        let mut missing = 0;
        let mut first: Option<Found> = None;
        for last in ours.iter() {
            let sequence = asked.sequence(last.domain);
            if sequence >= last.sequence {
                continue;
            }
            let Some(found) = self.seek_domain(last.domain, sequence)? else { continue };
            missing += tally.domain(last.domain).saturating_sub(found.tally.domain(last.domain));
            if first.as_ref().is_none_or(|f| found.pos < f.pos) {
                first = Some(found);
            }
        }
        Ok((missing, first))
    }

    /// The first transaction of a domain behind a sequence number.
    fn seek_domain(&self, domain: u32, sequence: u64) -> Result<Option<Found>, LogError> {
        let covered = |gtid: &GtidPosition| gtid.mariadb().is_some_and(|list| list.sequence(domain) <= sequence);
        let wanted =
            |id: &TransactionId| matches!(id, TransactionId::MariaDb(g) if g.domain == domain && g.sequence > sequence);
        self.seek(covered, wanted)
    }

    /// The first transaction that is `wanted`. A position is `covered` if no wanted one is in it; so are all before it.
    fn seek(
        &self,
        covered: impl Fn(&GtidPosition) -> bool,
        wanted: impl Fn(&TransactionId) -> bool,
    ) -> Result<Option<Found>, LogError> {
        let segments = self.all_segments();
        let from = segments.iter().rposition(|s| covered(&s.start())).unwrap_or(0);
        for (n, segment) in segments.iter().enumerate().skip(from) {
            // Later files are only looked at where the first one, against expectation, did not have it.
            let covers_file = n == from && covered(&segment.start());
            let found = self.seek_in(segment, |gtid| covers_file && covered(gtid), &wanted)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn seek_in(
        &self,
        segment: &Arc<Segment>,
        covered: impl Fn(&GtidPosition) -> bool,
        wanted: impl Fn(&TransactionId) -> bool,
    ) -> Result<Option<Found>, LogError> {
        let size = segment.size();
        let entry = self.entry_before(segment, |entry| covered(&entry.gtid))?.entry;
        if entry.offset >= size {
            return Ok(None);
        }
        let file = segment.open(&*self.storage)?;
        let range = entry.offset..size;
        let mut walk = Walk::new(&*file, &segment.name, segment.alg(), range, entry.gtid, entry.tally);
        while let Some(step) = walk.step().map_err(|e| e.into_log_error(&segment.name))? {
            let Mark::Begin(id, _) = step.mark else { continue };
            if wanted(&id) {
                let pos = LogPos { file: segment.number, offset: step.begins };
                return Ok(Some(Found { id, pos, gtid: walk.gtid, tally: segment.base.plus(&walk.tally) }));
            }
        }
        Ok(None)
    }

    fn place_at(&self, pos: LogPos, strict: bool) -> Result<Place, LogError> {
        let head = self.head().ok_or(LogError::Empty)?;
        if pos == head.pos {
            return Ok(at_head(&head, &head.gtid));
        }
        let segment = self.segment(pos.file).ok_or_else(|| self.no_file(pos.file))?;
        let end = if pos.file == head.pos.file { head.pos.offset } else { segment.size() };
        if pos.offset < baton_wire::event::FIRST_EVENT || pos.offset > end || pos.file > head.pos.file {
            return Err(LogError::OutOfRange { pos, end });
        }
        let found = self.entry_before(&segment, |entry| entry.offset <= pos.offset)?;
        let within = found.next.map(|(_, transactions)| transactions - found.entry.tally.total);
        let (file, entry) = (segment.open(&*self.storage)?, found.entry);
        let before = entry.tally.total;
        let range = entry.offset..pos.offset;
        let mut walk = Walk::new(&*file, &segment.name, segment.alg(), range, entry.gtid, entry.tally);
        let mut began = 0;
        loop {
            match walk.step() {
                Ok(Some(step)) => began += u64::from(matches!(step.mark, Mark::Begin(..))),
                Ok(None) => break,
                Err(error) if error.failure.is_some() => return Err(error.into_log_error(&segment.name)),
                Err(_) if strict => return Err(LogError::NotABoundary { pos }),
                Err(_) => break,
            }
            // Inside the last transaction before the next entry: what follows up to `pos` is more of it, however long.
            if !strict && within == Some(began) && walk.tally.total - before < began {
                break;
            }
        }
        let transactions = segment.base.total + walk.tally.total;
        let missing = head.transactions.saturating_sub(transactions);
        Ok(Place {
            pos,
            gtid: walk.gtid,
            missing_transactions: missing,
            missing_bytes: self.bytes_between(pos, head.pos),
            oldest_missing: if missing > 0 { self.arrival_behind(pos, head.pos) } else { None },
        })
    }

    /// When what lies at `pos` arrived, or when the primary wrote it if that was lost.
    fn arrival_at(&self, pos: LogPos) -> Option<Micros> {
        let segment = self.segment(pos.file)?;
        let [before, next] = match arrivals::lookup(&*self.storage, &segment.name, pos.offset) {
            // Recorded by a clock that was set back since, it may lie in the future.
            Ok(arrived) => return Some(arrived.min(segment.last_arrival())),
            Err(around) => around,
        };
        let file = segment.open(&*self.storage).ok()?;
        let mut header = [0; HEADER_LEN];
        read_full(&*file, &mut header, pos.offset).ok()?;
        let header = EventHeader::parse(&header).ok()?;
        let earlier = || {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            segments.range(..pos.file).next_back().map(|(_, s)| s.last_arrival())
        };
        let earliest = before.or_else(earlier).unwrap_or_default();
        let head = self.head().map(|head| head.arrived);
        let in_memory = lock(&self.live).arrived_behind(pos);
        let latest = [Some(segment.last_arrival()), next, head, in_memory]
            .into_iter()
            .flatten()
            .fold(Micros::now(), Micros::min);
        Some(arrivals::stand_in(header.timestamp, earliest, latest))
    }

    /// As [`Log::arrival_at`], in the next files if nothing lies behind `pos` in its own.
    fn arrival_behind(&self, pos: LogPos, head: LogPos) -> Option<Micros> {
        let files = self.all_segments();
        let mut behind = files.iter().filter(|s| s.number >= pos.file && s.number <= head.file);
        behind.find_map(|segment| {
            let first = baton_wire::event::FIRST_EVENT;
            let offset = if segment.number == pos.file { pos.offset } else { first };
            if offset >= segment.size() { None } else { self.arrival_at(LogPos { file: segment.number, offset }) }
        })
    }
}

fn at_head(head: &Head, gtid: &GtidPosition) -> Place {
    Place { pos: head.pos, gtid: gtid.clone(), missing_transactions: 0, missing_bytes: 0, oldest_missing: None }
}
