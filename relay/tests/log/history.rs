//! What a primary may have written, at random; and a naive account of it to compare the log with.

use std::collections::BTreeMap;

use baton_relay::clock::Micros;
use baton_relay::log::{Log, LogPos};
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::EventKind;
use baton_wire::gtid::GtidPosition;
use baton_wire::gtid::mariadb::{Gtid, GtidList};
use bytes::Bytes;

use crate::support::*;

/// Files of a primary, the last one still being written.
pub(crate) struct History {
    pub(crate) files: Vec<Parsed>,
    /// All transactions: file, GTID, begin, end.
    all: Vec<(u64, Gtid, u64, u64)>,
    start: GtidList,
}

impl History {
    /// Several files with several domains, small and large transactions, DDL, events outside of transactions, and files that a crash of the
    /// primary ended inside a transaction; with checksums or without.
    pub(crate) fn random(random: &mut Random) -> Self {
        let alg = if random.one_in(3) { ChecksumAlg::None } else { ChecksumAlg::Crc32 };
        let start: &[&str] = if random.one_in(3) { &["0-1-100", "7-2-9"] } else { &[] };
        let mut primary = Primary::new(alg, start);
        primary.timestamp = if random.one_in(3) { ahead_of_now() } else { 1_700_000_000 };
        let mut sequences = BTreeMap::from([(0_u32, 100_u64), (7, 9), (9, 0)]);
        let mut number = 1 + random.below(3) as u64;
        let (mut files, count) = (Vec::new(), 1 + random.below(4));
        for n in 0..count {
            for _ in 0..3 + random.below(25) {
                let domain = [0, 0, 0, 7, 9][random.below(5)];
                let sequence = sequences.get_mut(&domain).unwrap();
                *sequence += 1 + u64::from(random.one_in(9));
                // A change of server on the way.
                let gtid = format!("{domain}-{}-{sequence}", 1 + u64::from(*sequence > 115));
                match random.below(12) {
                    0 => primary.ddl(&gtid),
                    1 => primary.transaction(&gtid, 20_000 + random.below(60_000)),
                    _ => primary.transaction(&gtid, random.size(11)),
                };
                if random.one_in(8) {
                    let mut body = 15_u32.to_le_bytes().to_vec();
                    body.extend_from_slice(b"checkpoint.0001");
                    primary.event(EventKind::BINLOG_CHECKPOINT, 1, &body);
                }
            }
            let crashed = random.one_in(5);
            if crashed {
                primary.unfinished("0-1-999999", random.size(12));
            }
            files.push(if n + 1 == count || crashed { primary.take(number) } else { primary.rotate(number) });
            number += 1 + u64::from(random.one_in(5));
        }
        Self::of(files, start.iter().map(|g| g.parse().unwrap()).collect())
    }

    fn of(files: Vec<Parsed>, start: GtidList) -> Self {
        let each = |f: &Parsed| {
            let number = f.number;
            f.transactions.iter().map(move |t| (number, mariadb(&t.id), t.begins, t.ends)).collect::<Vec<_>>()
        };
        Self { all: files.iter().flat_map(each).collect(), files, start }
    }

    pub(crate) fn file(&self, number: u64) -> &Parsed {
        self.files.iter().find(|f| f.number == number).unwrap()
    }

    pub(crate) fn next(&self, number: u64) -> Option<&Parsed> {
        self.files.iter().find(|f| f.number > number)
    }

    pub(crate) fn sources(&self) -> BTreeMap<String, Bytes> {
        self.files.iter().map(|f| (file_name(f.number), f.data.clone())).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(Parsed::len).sum()
    }

    /// Where the log ends when all has arrived.
    pub(crate) fn end(&self) -> LogPos {
        let last = self.files.last().unwrap();
        LogPos { file: last.number, offset: last.last_whole() }
    }

    /// What is expected where the head lies at `head`; the log begins with file `first`.
    pub(crate) fn up_to(&self, head: LogPos, first: u64) -> Account<'_> {
        let all: Vec<_> = self.all.iter().filter(|(f, _, _, ends)| (*f, *ends) <= (head.file, head.offset)).collect();
        let before = all.iter().filter(|t| t.0 < first).count();
        Account { history: self, all, before, head }
    }
}

pub(crate) fn file_name(number: u64) -> String {
    format!("{BASE}.{number:06}")
}

/// Seconds by a primary whose clock is a day ahead.
fn ahead_of_now() -> u32 {
    u32::try_from(Micros::now().0 / 1_000_000 + 86_400).unwrap()
}

/// Everything up to some head, counted one by one.
pub(crate) struct Account<'a> {
    history: &'a History,
    all: Vec<&'a (u64, Gtid, u64, u64)>,
    /// Transactions in files that retention has removed.
    before: usize,
    head: LogPos,
}

impl Account<'_> {
    pub(crate) fn transactions(&self) -> u64 {
        self.all.len() as u64
    }

    /// The position behind the first `n` transactions.
    pub(crate) fn position(&self, n: usize) -> GtidList {
        let mut position = self.history.start.clone();
        self.all[..n].iter().for_each(|(_, gtid, ..)| position.set(*gtid));
        position
    }

    fn bytes(&self, pos: LogPos) -> u64 {
        if pos.file == self.head.file {
            return self.head.offset - pos.offset;
        }
        let between = self.history.files.iter().filter(|f| f.number > pos.file && f.number < self.head.file);
        let between: u64 = between.map(|f| f.last_whole() - 4).sum();
        self.history.file(pos.file).last_whole() - pos.offset + between + self.head.offset - 4
    }

    /// Compares what the log says of about `samples` positions; `in_order`: and that arrival times do not run backwards.
    pub(crate) fn check_places(&self, log: &Log, samples: usize, in_order: bool) {
        let step = (self.all.len() - self.before).div_ceil(samples.max(1)).max(1);
        let (mut before, now) = (Micros::default(), Micros::now());
        for n in (self.before..self.all.len()).step_by(step) {
            let (file, _, begins, _) = *self.all[n];
            let position = self.position(n);
            let place = log.place_of_gtid(&GtidPosition::MariaDb(position.clone())).unwrap();
            let pos = LogPos { file, offset: begins };
            assert_eq!(place.pos, pos, "at {position}");
            assert_eq!(place.missing_transactions, (self.all.len() - n) as u64, "at {position}");
            assert_eq!(place.missing_bytes, self.bytes(pos), "at {position}");
            let arrived = place.oldest_missing.unwrap();
            assert!(arrived <= now, "{} has arrived in the future, {}", position, arrived.rfc3339());
            assert!(
                !in_order || arrived >= before,
                "{position}: arrived {}, before {}",
                arrived.rfc3339(),
                before.rfc3339()
            );
            before = arrived;
            let start = log.find_start(&position).unwrap();
            assert_eq!((start.pos, start.gtid), (pos, position.clone()));
            for by_offset in [log.place_of(pos).unwrap(), log.place_near(pos).unwrap()] {
                assert_eq!(by_offset.gtid, GtidPosition::MariaDb(position.clone()), "at {pos}");
                assert_eq!(by_offset.missing_transactions, place.missing_transactions, "at {pos}");
                assert_eq!(by_offset.missing_bytes, place.missing_bytes, "at {pos}");
            }
        }
        if let Some(head) = log.head().filter(|h| h.transactions > self.before as u64) {
            assert!(
                (!in_order || head.arrived >= before) && head.arrived <= now,
                "the head arrived {}, what lies before it {}",
                head.arrived.rfc3339(),
                before.rfc3339()
            );
        }
    }
}

impl Parsed {
    /// Its end, but for an unfinished transaction.
    pub(crate) fn last_whole(&self) -> u64 {
        self.wholes.iter().next_back().copied().unwrap_or(4)
    }
}

impl Primary {
    /// A statement that stands alone.
    fn ddl(&mut self, gtid: &str) -> &mut Self {
        let body = b"\0\0\0\0\0\0\0\0\x01\0\0\0\0d\0CREATE TABLE t (a INT)";
        self.group(gtid, 0x01, |primary, server_id| {
            primary.event(EventKind::QUERY, server_id, body);
        })
    }

    /// A transaction that a crash of the primary cut short.
    fn unfinished(&mut self, gtid: &str, bytes: usize) -> &mut Self {
        let gtid: Gtid = gtid.parse().unwrap();
        self.gtid_event(&gtid, 0x0c);
        self.event(EventKind::WRITE_ROWS_V1, gtid.server_id, &vec![7; bytes])
    }
}
