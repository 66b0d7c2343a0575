//! Streams as a primary sends them, whole and broken.

use std::path::Path;

use baton_wire::checksum;
use baton_wire::event::{EventHeader, EventKind, FLAG_ARTIFICIAL, FormatDescription, GtidListEvent, HEADER_LEN, build};

use baton_wire::gtid::mariadb::GtidList;

use super::*;
use crate::log::LogPos;

const NAME: &str = "mbin.000005";
const NOW: Micros = Micros(1_000_000);

fn fixture() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire/tests/captures/mariadb-row-crc32.binlog");
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn events(file: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    let mut rest = &file[4..];
    while !rest.is_empty() {
        let size = EventHeader::parse(rest).map(|h| h.size as usize).unwrap_or_else(|e| panic!("{e}"));
        let (event, later) = rest.split_at(size);
        out.push(event);
        rest = later;
    }
    out
}

fn new_log() -> Ingest {
    Ingest::new(Start {
        resume: None,
        file: None,
        shift: 0,
        base: None,
        flavor: Flavor::MariaDb,
        checksum: ChecksumAlg::Crc32,
    })
}

fn resumed(offset: u64, gtid: &str) -> Ingest {
    Ingest::new(Start {
        resume: Some((LogPos { file: 5, offset }, GtidPosition::MariaDb(gtid.parse().unwrap_or_default()))),
        file: Some(NAME.into()),
        shift: 0,
        base: Some("mbin".into()),
        flavor: Flavor::MariaDb,
        checksum: ChecksumAlg::Crc32,
    })
}

fn rotate(position: u64, file: &str) -> Vec<u8> {
    Rotate { position, file: file.into() }.artificial(1, ChecksumAlg::Crc32)
}

fn feed(ingest: &mut Ingest, event: &[u8]) -> Result<(), StreamError> {
    ingest.piece(true, event, true, NOW)
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    wholes: Vec<u64>,
    transactions: Vec<Transaction>,
    opened: Vec<u64>,
    dropped: usize,
}

fn collect(ingest: &mut Ingest) -> Collected {
    ingest.flush(NOW);
    let mut out = Collected::default();
    while let Some(effect) = ingest.next_effect() {
        match effect {
            Effect::OpenFile { number, .. } => out.opened.push(number),
            Effect::DropPartial => out.dropped += 1,
            Effect::Append(batch) => {
                out.bytes.extend_from_slice(&batch.data);
                out.wholes.extend(batch.whole);
                out.transactions.extend(batch.transactions);
            }
        }
    }
    out
}

#[test]
fn a_stream_becomes_the_primarys_file_byte_for_byte() {
    let file = fixture();
    let mut ingest = new_log();
    feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
    for event in events(&file) {
        feed(&mut ingest, event).expect("event");
    }
    let got = collect(&mut ingest);
    assert_eq!(got.opened, [5]);
    assert_eq!(got.bytes, file[4..]);
    assert_eq!(got.wholes.last(), Some(&(file.len() as u64)));
    assert!(got.transactions.len() > 5);
    assert!(got.transactions.windows(2).all(|w| w[0].ends <= w[1].begins));
}

#[test]
fn a_batch_is_never_whole_inside_a_transaction() {
    let file = fixture();
    let mut ingest = new_log();
    feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
    let mut all = Vec::new();
    for event in events(&file) {
        feed(&mut ingest, event).expect("event");
        all.push(collect(&mut ingest));
    }
    let transactions: Vec<_> = all.iter().flat_map(|c| c.transactions.clone()).collect();
    for whole in all.iter().flat_map(|c| &c.wholes) {
        assert!(
            !transactions.iter().any(|t| t.begins < *whole && *whole < t.ends),
            "{whole} lies inside a transaction"
        );
    }
}

#[test]
fn resuming_in_the_middle_stores_only_what_follows() {
    let file = fixture();
    let all = events(&file);
    let mut ingest = new_log();
    feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
    let mut cut = 0;
    for (i, event) in all.iter().enumerate() {
        feed(&mut ingest, event).expect("event");
        if ingest.counts.transactions == 4 {
            cut = i + 1;
            break;
        }
    }
    let before = collect(&mut ingest);
    let gtid = ingest.gtid.mariadb().map(ToString::to_string).unwrap_or_default();
    let offset = 4 + before.bytes.len() as u64;

    let mut ingest = resumed(offset, &gtid);
    feed(&mut ingest, &rotate(offset, NAME)).expect("rotate");
    let mut format = all[0].to_vec();
    FormatDescription::as_sent_mid_file(&mut format, true);
    feed(&mut ingest, &format).expect("format");
    for event in &all[cut..] {
        feed(&mut ingest, event).expect("event");
    }
    let after = collect(&mut ingest);
    assert!(after.opened.is_empty());
    assert_eq!([before.bytes, after.bytes].concat(), file[4..]);
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_nothing_of_the_event_is_kept() {
    let file = fixture();
    let all = events(&file);
    for (i, event) in all.iter().enumerate().skip(1) {
        let mut ingest = new_log();
        feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
        for good in &all[..i] {
            feed(&mut ingest, good).expect("event");
        }
        let mut bad = event.to_vec();
        let at = HEADER_LEN + (i * 7) % (bad.len() - HEADER_LEN);
        bad[at] ^= 0x10;
        let result = feed(&mut ingest, &bad);
        assert!(matches!(result, Err(StreamError::Checksum { .. })), "event {i}: {result:?}");
        let kept = collect(&mut ingest).bytes;
        assert!(file[4..].starts_with(&kept));
        assert_eq!(kept.len(), all[..i].iter().map(|e| e.len()).sum::<usize>());
    }
}

#[test]
fn an_event_that_was_lost_on_the_way_is_a_gap() {
    let file = fixture();
    let all = events(&file);
    let mut ingest = new_log();
    feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
    for event in &all[..6] {
        feed(&mut ingest, event).expect("event");
    }
    let result = feed(&mut ingest, all[7]);
    assert!(matches!(&result, Err(StreamError::Gap { file, .. }) if file == NAME), "{result:?}");
}

#[test]
fn a_huge_event_in_pieces_is_verified_before_it_counts() {
    let file = fixture();
    let all = events(&file);
    let (i, large) = all.iter().enumerate().max_by_key(|(_, e)| e.len()).expect("events");
    for corrupt in [false, true] {
        let mut ingest = new_log();
        feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
        for event in &all[..i] {
            feed(&mut ingest, event).expect("event");
        }
        let mut large = large.to_vec();
        if corrupt {
            large[100] ^= 1;
        }
        let pieces: Vec<&[u8]> = large.chunks(1000).collect();
        let last = pieces.len() - 1;
        let results: Vec<_> =
            pieces.iter().enumerate().map(|(n, piece)| ingest.piece(n == 0, piece, n == last, NOW)).collect();
        assert!(results[..last].iter().all(Result::is_ok));
        if corrupt {
            assert!(matches!(results[last], Err(StreamError::Checksum { .. })), "{:?}", results[last]);
            let got = collect(&mut ingest);
            assert!(got.wholes.iter().all(|w| *w <= 4 + all[..i].iter().map(|e| e.len() as u64).sum::<u64>()));
            continue;
        }
        for event in &all[i + 1..] {
            feed(&mut ingest, event).expect("event");
        }
        assert_eq!(collect(&mut ingest).bytes, file[4..]);
    }
}

#[test]
fn a_primary_that_crashed_inside_a_transaction_leaves_nothing_of_it() {
    let file = fixture();
    let all = events(&file);
    let mut ingest = new_log();
    feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
    let mut inside = 0;
    for event in &all {
        feed(&mut ingest, event).expect("event");
        inside += usize::from(ingest.tracker.in_transaction());
        if inside == 12 && ingest.tracker.in_transaction() {
            break;
        }
    }
    assert!(ingest.tracker.in_transaction());
    feed(&mut ingest, &rotate(4, "mbin.000006")).expect("the next file");
    let got = collect(&mut ingest);
    assert_eq!((got.dropped, got.opened), (1, vec![5, 6]));
    assert_eq!(ingest.offset, 4);
}

#[test]
fn gtids_that_go_backwards_are_told_and_not_merged() {
    let file = fixture();
    let all = events(&file);
    let mut ingest = new_log();
    feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
    let mut offset = 4_u32;
    for event in &all {
        feed(&mut ingest, event).expect("event");
        offset += event.len() as u32;
        if ingest.counts.transactions == 3 {
            break;
        }
    }
    let old = all.iter().find(|e| e[4] == EventKind::MARIADB_GTID.0).expect("a GTID");
    let mut again = old.to_vec();
    again[13..17].copy_from_slice(&(offset + old.len() as u32).to_le_bytes());
    checksum::sign(&mut again);
    let result = feed(&mut ingest, &again);
    assert!(matches!(result, Err(StreamError::Diverged { .. })), "{result:?}");
}

#[test]
fn another_history_at_the_beginning_of_a_file_is_told() {
    let file = fixture();
    let all = events(&file);
    let mut ingest = resumed(1000, "0-1-77");
    feed(&mut ingest, &rotate(4, "mbin.000006")).expect("rotate");
    feed(&mut ingest, all[0]).expect("format");
    let header = EventHeader { timestamp: 1, kind: EventKind::GTID_LIST, server_id: 1, size: 0, log_pos: 0, flags: 0 };
    let list = GtidListEvent { gtids: vec!["0-2-77".parse().expect("gtid")], flags: 0 };
    let size = HEADER_LEN + list.body().len() + 4;
    let header = EventHeader { log_pos: (4 + all[0].len() + size) as u32, ..header };
    let result = feed(&mut ingest, &build(header, &list.body(), ChecksumAlg::Crc32));
    assert!(matches!(&result, Err(StreamError::Diverged { cause, .. }) if cause.contains("0-2-77")), "{result:?}");
}

/// The list of GTIDs that stands behind `before`, the file's first event.
fn gtid_list(before: &[u8], gtids: &str) -> Vec<u8> {
    let list: GtidList = gtids.parse().expect("gtids");
    let body = GtidListEvent { gtids: list.iter().collect(), flags: 0 }.body();
    let log_pos = (4 + before.len() + HEADER_LEN + body.len() + 4) as u32;
    let header = EventHeader { timestamp: 1, kind: EventKind::GTID_LIST, server_id: 1, size: 0, log_pos, flags: 0 };
    build(header, &body, ChecksumAlg::Crc32)
}

#[test]
fn the_next_file_begins_where_the_log_stands_but_for_domains_that_the_primary_was_told_to_forget() {
    let file = fixture();
    let format = events(&file)[0];
    for (ours, theirs, fits) in [
        ("0-1-77", "0-1-77", true),
        ("0-1-77,5-1-9", "0-1-77,5-1-9", true),
        ("0-1-77,5-1-9", "0-1-77", true),
        ("", "", true),
        ("0-1-77", "0-1-76", false),
        ("0-1-77", "0-2-77", false),
        ("0-1-77", "0-1-77,5-1-9", false),
        ("0-1-77,5-1-9", "0-1-77,5-1-8", false),
        ("0-1-77", "", false),
        ("", "0-1-77", false),
    ] {
        let mut ingest = resumed(1000, ours);
        feed(&mut ingest, &rotate(4, "mbin.000006")).expect("rotate");
        feed(&mut ingest, format).expect("format");
        let result = feed(&mut ingest, &gtid_list(format, theirs));
        assert_eq!(result.is_ok(), fits, "'{ours}' then '{theirs}': {result:?}");
        if fits {
            assert_eq!(ingest.gtid.to_string(), theirs);
        }
    }
}

#[test]
fn a_file_is_not_whole_before_the_list_of_gtids_says_where_it_stands() {
    let file = fixture();
    let all = events(&file);
    let mut ingest = new_log();
    feed(&mut ingest, &rotate(4, NAME)).expect("rotate");
    feed(&mut ingest, all[0]).expect("format");
    assert!(collect(&mut ingest).wholes.is_empty());
    feed(&mut ingest, all[1]).expect("list of GTIDs");
    assert_eq!(collect(&mut ingest).wholes, [(4 + all[0].len() + all[1].len()) as u64]);
}

#[test]
fn a_reset_primary_does_not_overwrite_the_log() {
    let mut ingest = resumed(1000, "0-1-77");
    let result = feed(&mut ingest, &rotate(4, "mbin.000001"));
    assert!(matches!(result, Err(StreamError::Diverged { .. })), "{result:?}");
}

#[test]
fn heartbeats_and_made_up_events_leave_no_trace() {
    let mut ingest = resumed(1000, "0-1-77");
    feed(&mut ingest, &rotate(1000, NAME)).expect("rotate");
    for (kind, flags) in [(EventKind::HEARTBEAT, 0), (EventKind::GTID_LIST, FLAG_ARTIFICIAL)] {
        let header = EventHeader { timestamp: 0, kind, server_id: 1, size: 0, log_pos: 1000, flags };
        feed(&mut ingest, &build(header, NAME.as_bytes(), ChecksumAlg::Crc32)).expect("event");
    }
    assert!(collect(&mut ingest).bytes.is_empty());
    assert_eq!(ingest.counts.heartbeats, 1);
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    for name in ["", "noNumber", "x.", ".000001", "a.00x1", "../etc/passwd.000001", "a.99999999999999999999999"] {
        assert!(split_file_name(name).is_err(), "{name}");
    }
    assert_eq!(split_file_name("my.bin.000012").ok(), Some(("my.bin", 12)));
}
