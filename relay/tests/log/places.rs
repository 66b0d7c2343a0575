//! Where a position stands, against a naive count over all transactions.

use std::sync::Arc;

use baton_relay::log::{GtidStartError, Log, LogError, LogPos, Place};
use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::mariadb::{Gtid, GtidList};
use baton_wire::gtid::{GtidPosition, TransactionId};

use crate::support::*;

/// Files with two domains and a change of server in one of them; large enough for several index entries.
fn history() -> Vec<Parsed> {
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let mut files = Vec::new();
    let (mut zero, mut seven) = (0, 0);
    for number in 1..=3_u64 {
        for i in 0..60_u64 {
            let size = [20, 3000, 90_000, 400][(i % 4) as usize] / if i % 8 < 4 { 1 } else { 10 };
            if i % 5 == 3 && number > 1 {
                seven += 2; // gaps are allowed
                primary.transaction(&format!("7-1-{seven}"), size);
            } else {
                zero += 1;
                let server = if zero > 100 { 2 } else { 1 };
                primary.transaction(&format!("0-{server}-{zero}"), size);
            }
        }
        files.push(if number < 3 { primary.rotate(number) } else { primary.take(number) });
    }
    files
}

struct Naive {
    /// Every transaction with the file that it is in.
    all: Vec<(u64, Gtid, u64, u64)>,
    sizes: Vec<u64>,
}

impl Naive {
    fn new(files: &[Parsed]) -> Self {
        let each = |f: &Parsed| {
            let number = f.number;
            f.transactions.iter().map(move |t| (number, mariadb(&t.id), t.begins, t.ends)).collect::<Vec<_>>()
        };
        Self { all: files.iter().flat_map(each).collect(), sizes: files.iter().map(Parsed::len).collect() }
    }

    fn bytes(&self, pos: LogPos) -> u64 {
        let after: u64 = self.sizes.iter().skip(pos.file as usize).map(|s| s - 4).sum();
        self.sizes[pos.file as usize - 1] - pos.offset + after
    }

    fn missing(&self, position: &GtidList) -> Vec<&(u64, Gtid, u64, u64)> {
        self.all.iter().filter(|(_, g, ..)| g.sequence > position.sequence(g.domain)).collect()
    }
}

/// The log of [`history`], as fed (all in memory) and after a restart (older files on disk only).
async fn both(dir: &std::path::Path, files: &[Parsed]) -> Arc<Log> {
    let (log, mut appender) = open_dir(dir);
    for file in files {
        feed(&mut appender, file).await;
    }
    appender.close().await;
    log
}

fn check_gtid(log: &Log, naive: &Naive, position: &GtidList) {
    let place = log.place_of_gtid(&GtidPosition::MariaDb(position.clone())).unwrap();
    let missing = naive.missing(position);
    assert_eq!(place.missing_transactions, missing.len() as u64, "at {position}");
    assert_eq!(place.gtid, GtidPosition::MariaDb(position.clone()));
    match missing.first() {
        Some((file, _, begins, _)) => {
            let pos = LogPos { file: *file, offset: *begins };
            assert_eq!(place.pos, pos, "at {position}");
            assert_eq!(place.missing_bytes, naive.bytes(pos), "at {position}");
            assert!(place.oldest_missing.is_some());
        }
        None => {
            assert_eq!(place.pos, log.head().unwrap().pos);
            assert_eq!((place.missing_bytes, place.oldest_missing), (0, None));
        }
    }
}

/// The position after each transaction, and some that no primary ever had (a replica applies domains in parallel).
fn positions(naive: &Naive) -> Vec<GtidList> {
    let mut out = vec![GtidList::default()];
    let mut position = GtidList::default();
    for (_, gtid, ..) in &naive.all {
        position.set(*gtid);
        out.push(position.clone());
    }
    let halves: Vec<GtidList> = out.iter().step_by(7).cloned().collect();
    for a in halves.iter().step_by(3) {
        for b in &halves {
            let mut mixed = a.clone();
            mixed.remove(0);
            if let Some(zero) = b.get(0) {
                mixed.set(zero);
            }
            out.push(mixed);
        }
    }
    out
}

#[tokio::test]
async fn places_of_gtids_equal_a_naive_count_in_memory_and_on_disk() {
    let (dir, files) = (tempfile::tempdir().unwrap(), history());
    let naive = Naive::new(&files);
    let log = both(dir.path(), &files).await;
    for position in positions(&naive) {
        check_gtid(&log, &naive, &position);
    }
    drop(log);
    let (log, _appender) = open_dir(dir.path());
    for position in positions(&naive) {
        check_gtid(&log, &naive, &position);
    }
    // Domains of others and what lies ahead change nothing.
    check_gtid(&log, &naive, &gtids("0-1-50,7-1-4,99-1-1"));
    check_gtid(&log, &naive, &gtids("0-2-999999,7-1-4"));
}

#[tokio::test]
async fn places_of_offsets_are_told_for_event_boundaries_only() {
    let (dir, files) = (tempfile::tempdir().unwrap(), history());
    let naive = Naive::new(&files);
    let log = both(dir.path(), &files).await;
    drop(log);
    let (log, _appender) = open_dir(dir.path());
    let head = log.head().unwrap();
    let mut position = GtidList::default();
    for file in &files {
        let mut done = file.transactions.iter().peekable();
        for (n, boundary) in file.boundaries.iter().enumerate() {
            if done.peek().is_some_and(|t| t.ends == *boundary) {
                position.set(mariadb(&done.next().unwrap().id));
            }
            if n % 7 != 0 && !file.wholes.contains(boundary) {
                continue;
            }
            let pos = LogPos { file: file.number, offset: *boundary };
            let missing = naive.all.iter().filter(|(f, _, _, ends)| (*f, *ends) > (file.number, *boundary)).count();
            for place in [log.place_of(pos).unwrap(), log.place_near(pos).unwrap()] {
                let Place { gtid, missing_transactions, missing_bytes, oldest_missing, .. } = place;
                assert_eq!(gtid, GtidPosition::MariaDb(position.clone()), "at {pos}");
                assert_eq!(missing_transactions, missing as u64, "at {pos}");
                assert_eq!(missing_bytes, naive.bytes(pos), "at {pos}");
                assert_eq!(oldest_missing.is_some(), missing > 0);
            }
            if *boundary + 1 < file.len() {
                let inside = LogPos { offset: boundary + 1, ..pos };
                assert!(matches!(log.place_of(inside), Err(LogError::NotABoundary { .. })), "at {inside}");
                let near = log.place_near(inside).unwrap();
                assert_eq!(near.missing_transactions, missing as u64, "at {inside}");
            }
        }
    }
    for (file, offset) in [(1, 3), (1, files[0].len() + 1), (3, head.pos.offset + 1)] {
        assert!(matches!(log.place_of(LogPos { file, offset }), Err(LogError::OutOfRange { .. })), "{file}:{offset}");
    }
    assert!(matches!(log.place_of(LogPos { file: 9, offset: 4 }), Err(LogError::NoFile { first: 1, last: 3, .. })));
}

#[tokio::test]
async fn a_replica_begins_at_the_first_transaction_that_it_lacks() {
    let (dir, files) = (tempfile::tempdir().unwrap(), history());
    let naive = Naive::new(&files);
    let log = both(dir.path(), &files).await;
    for position in positions(&naive) {
        let start = log.find_start(&position).unwrap();
        match naive.missing(&position).first() {
            Some((file, _, begins, _)) => assert_eq!(start.pos, LogPos { file: *file, offset: *begins }, "{position}"),
            None => assert_eq!(start.pos, log.head().unwrap().pos),
        }
        let before = naive.all.iter().filter(|(f, _, _, ends)| (*f, *ends) <= (start.pos.file, start.pos.offset));
        let expected: GtidList = before.map(|(_, g, ..)| *g).collect();
        assert_eq!(start.gtid, expected, "{position}");
        let file_start = log.file(start.pos.file).unwrap().start;
        assert_eq!(start.at_file_start, file_start == GtidPosition::MariaDb(expected));
    }
    let unknown = log.find_start(&gtids("0-1-5,42-1-1")).unwrap();
    assert_eq!(unknown, log.find_start(&gtids("0-1-5")).unwrap(), "domains that the log does not know are ignored");
}

#[tokio::test]
async fn a_replica_that_is_ahead_is_told_apart_from_one_that_diverged() {
    let (dir, files) = (tempfile::tempdir().unwrap(), history());
    let log = both(dir.path(), &files).await;
    let head = log.head().unwrap().gtid.clone();
    let last = |domain| head.mariadb().unwrap().get(domain).unwrap();
    let ahead = format!("0-2-{},7-1-2", last(0).sequence + 1);
    assert!(matches!(
        log.find_start(&gtids(&ahead)),
        Err(GtidStartError::Ahead { domain: 0, have: Some(have), .. }) if have == last(0)
    ));
    for (position, ours) in [
        ("0-3-50", "0-1-50"),      // another server's transaction of that number
        ("0-1-120", "0-2-120"),    // written on the old server after the change
        ("0-1-50,7-1-3", "7-1-2"), // a number that the log went past
        ("0-1-50,7-1-1", "7-1-2"), // before the first of the domain
    ] {
        let error = log.find_start(&gtids(position)).unwrap_err();
        assert!(
            matches!(&error, GtidStartError::Forked { ours: o, .. } if o.to_string() == ours),
            "{position}: {error}"
        );
    }
    let same_number = format!("0-9-{}", last(0).sequence);
    assert!(
        matches!(log.find_start(&gtids(&same_number)), Err(GtidStartError::Forked { ours, .. }) if ours == last(0))
    );
    // What is proven outweighs what may still come.
    let both = format!("0-2-{},7-1-3", last(0).sequence + 5);
    assert!(matches!(log.find_start(&gtids(&both)), Err(GtidStartError::Forked { .. })));
}

#[tokio::test]
async fn what_the_log_never_had_is_purged() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    assert!(matches!(log.find_start(&GtidList::default()), Err(GtidStartError::Log(LogError::Empty))));
    let mut primary = Primary::new(ChecksumAlg::Crc32, &["0-1-100", "7-1-4"]);
    let file = primary.transaction("0-1-101", 10).transaction("9-1-1", 10).take(1);
    feed(&mut appender, &file).await;
    for position in ["", "0-1-99,7-1-4", "0-1-100", "7-1-4"] {
        let error = log.find_start(&gtids(position)).unwrap_err();
        assert!(matches!(error, GtidStartError::Purged { .. }), "{position}: {error}");
    }
    let start = log.find_start(&gtids("0-1-100,7-1-4")).unwrap();
    assert_eq!((start.pos.offset, start.at_file_start), (file.transactions[0].begins, true));
    assert!(matches!(log.find_start(&gtids("0-5-100,7-1-4")), Err(GtidStartError::Forked { .. })));
    let start = log.find_start(&gtids("0-1-101,7-1-4")).unwrap();
    assert_eq!((start.pos.offset, start.at_file_start), (file.transactions[1].begins, false));
    let start = log.find_start(&gtids("0-1-101,7-1-4,9-1-1")).unwrap();
    assert_eq!(start.pos, log.head().unwrap().pos);
}

#[tokio::test]
async fn the_captured_file_with_its_second_domain_is_located_throughout() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let file = parse(1, fixture("mariadb-row-crc32.binlog"));
    feed(&mut appender, &file).await;
    let naive = Naive::new(std::slice::from_ref(&file));
    assert!(naive.all.iter().any(|(_, g, ..)| g.to_string() == "7-1-1"));
    for position in positions(&naive) {
        check_gtid(&log, &naive, &position);
        let start = log.find_start(&position).unwrap();
        let first = naive.missing(&position).first().map(|m| m.2);
        assert_eq!(start.pos.offset, first.unwrap_or(log.head().unwrap().pos.offset));
    }
}

#[tokio::test]
async fn positions_of_mysql_are_sets() {
    // A file of untagged GTIDs: the captured one up to where other events begin.
    let whole = fixture("mysql-gtid-crc32.binlog");
    let mut end = 4;
    let mut tracker = baton_wire::event::TransactionTracker::new();
    let mut at = 4;
    while at < whole.len() {
        let header = baton_wire::EventHeader::parse(&whole[at..]).unwrap();
        let body = &whole[at + 19..at + header.size as usize - 4];
        if header.kind == baton_wire::EventKind::GTID_TAGGED || tracker.observe(&header, body).is_err() {
            break;
        }
        at += header.size as usize;
        if !tracker.in_transaction() {
            end = at;
        }
    }
    let file = parse(1, whole[..end].to_vec());
    assert!(file.transactions.len() > 5);
    let dir = tempfile::tempdir().unwrap();
    {
        let (_log, mut appender) = open_dir(dir.path());
        let spec = baton_relay::log::OpenFile { flavor: baton_wire::Flavor::MySql, ..spec(1) };
        appender.open_file(spec).await.unwrap();
        appender.append(file.batch(4, file.len())).await.unwrap();
        appender.settle().await.unwrap();
        appender.close().await;
    }
    let (log, _appender) = open_dir(dir.path());
    let mut position = GtidPosition::empty(baton_wire::Flavor::MySql);
    let total = file.transactions.len() as u64;
    for (n, transaction) in file.transactions.iter().enumerate() {
        let place = log.place_of_gtid(&position).unwrap();
        assert_eq!((place.missing_transactions, place.pos.offset), (total - n as u64, transaction.begins));
        assert!(matches!(transaction.id, TransactionId::MySql(_)));
        position.advance(&transaction.id);
    }
    assert_eq!(log.place_of_gtid(&position).unwrap().missing_transactions, 0);
    // A hole in the middle.
    let mut holed = GtidPosition::empty(baton_wire::Flavor::MySql);
    file.transactions.iter().enumerate().filter(|(n, _)| *n != 3).for_each(|(_, t)| holed.advance(&t.id));
    let place = log.place_of_gtid(&holed).unwrap();
    assert_eq!((place.missing_transactions, place.pos.offset), (1, file.transactions[3].begins));
    let wrong = log.place_of_gtid(&GtidPosition::MariaDb(gtids("0-1-1"))).unwrap_err();
    assert!(matches!(wrong, LogError::WrongFlavor { log: "mysql", asked: "mariadb" }));
}
