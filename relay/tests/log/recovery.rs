//! Kills, torn tails, and damage.

use std::path::Path;
use std::sync::Arc;

use baton_relay::log::{AppendError, DiskStorage, Head, Log, LogPos};
use baton_wire::checksum::ChecksumAlg;

use crate::support::*;

fn name(number: u64) -> String {
    format!("{BASE}.{number:06}")
}

fn append_to(dir: &Path, file: &str, bytes: &[u8]) {
    let path = dir.join(file);
    let mut content = std::fs::read(&path).unwrap();
    content.extend_from_slice(bytes);
    std::fs::write(path, content).unwrap();
}

fn flip(dir: &Path, file: &str, at: usize) {
    let path = dir.join(file);
    let mut content = std::fs::read(&path).unwrap();
    content[at] ^= 0x10;
    std::fs::write(path, content).unwrap();
}

/// Two closed files and a third one; closed cleanly.
async fn three_files(dir: &Path, alg: ChecksumAlg) -> Vec<Parsed> {
    let (_log, mut appender) = open_dir(dir);
    let mut primary = Primary::new(alg, &[]);
    let mut files = Vec::new();
    let mut sequence = 0;
    for number in 1..=3 {
        for size in [10, 70_000, 500, 100_000, 30] {
            sequence += 1;
            primary.transaction(&format!("0-1-{sequence}"), size);
        }
        let file = if number < 3 { primary.rotate(number) } else { primary.take(number) };
        feed(&mut appender, &file).await;
        files.push(file);
    }
    appender.close().await;
    files
}

#[tokio::test]
async fn a_killed_relay_has_everything_that_was_at_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let file = parse(1, fixture("mariadb-row-crc32.binlog"));
    appender.open_file(spec(1)).await.unwrap();
    let cut = file.transactions[10].ends - 3;
    for batch in file.batches(4, cut, 7) {
        appender.append(batch).await.unwrap();
    }
    let whole = *file.wholes.range(..cut).next_back().unwrap();
    log.subscribe().wait_for(|h| h.as_ref().is_some_and(|h| h.pos.offset == whole)).await.unwrap();
    let head = log.head().unwrap();
    let copy = copy_dir(dir.path());

    let (log, mut appender) = open_dir(copy.path());
    let again = log.head().unwrap();
    // The kill may have come before the last arrival time was noted.
    assert_eq!(Head { arrived: head.arrived, ..(*again).clone() }, *head);
    assert!(log.status().recovered_bytes_dropped <= cut - whole);
    assert_eq!(log.status().damaged, None);
    for batch in file.batches(whole, file.len(), 8) {
        appender.append(batch).await.unwrap();
    }
    appender.settle().await.unwrap();
    assert_eq!(read_all(&log, 1).await, file.data);
    assert_eq!(log.head().unwrap().transactions, file.transactions.len() as u64);
}

#[tokio::test]
async fn a_file_without_its_list_of_gtids_is_begun_again_for_nobody_knows_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut appender) = open_dir(dir.path());
    let file = parse(1, fixture("mariadb-row-crc32.binlog"));
    appender.open_file(spec(1)).await.unwrap();
    let behind_format = file.boundaries[1] as usize;
    for torn in [behind_format, behind_format + 10] {
        let copy = copy_dir(dir.path());
        append_to(copy.path(), &name(1), &file.data[4..torn]);
        let (log, mut appender) = open_dir(copy.path());
        assert_eq!((log.head(), log.status().damaged), (None, None));
        assert_eq!(appender.settle().await.unwrap(), None);
        feed(&mut appender, &file).await;
        assert_eq!(read_all(&log, 1).await, file.data);
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_to_the_last_whole_transaction_and_counted() {
    for alg in [ChecksumAlg::Crc32, ChecksumAlg::None] {
        let dir = tempfile::tempdir().unwrap();
        let files = three_files(dir.path(), alg).await;
        let last = &files[2];
        let more = Primary::new(alg, &[]).transaction("0-1-16", 5000).take(3);
        let tail = &more.data[more.transactions[0].begins as usize..];
        // Half an event; garbage; an event whose bytes are not the ones that were summed; a whole event of half a transaction.
        let mut torn = tail.to_vec();
        torn[100] ^= 1;
        for junk in [&tail[..30], b"\0\0\0\0\0\0\0\0", &torn, &tail[..tail.len() - 1]] {
            let copy = copy_dir(dir.path());
            append_to(copy.path(), &name(3), junk);
            let (log, _appender) = open_dir(copy.path());
            let status = log.status();
            assert_eq!(status.damaged, None);
            assert_eq!(status.recovered_bytes_dropped, junk.len() as u64, "{alg:?}");
            assert_eq!(log.head().unwrap().pos, LogPos { file: 3, offset: last.len() });
            assert_eq!(on_disk(copy.path(), 3), last.data);
        }
    }
}

#[tokio::test]
async fn whole_transactions_behind_the_mark_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let files = three_files(dir.path(), ChecksumAlg::Crc32).await;
    let more = Primary::new(ChecksumAlg::Crc32, &[]).transaction("0-1-16", 5000).take(3);
    let tail = &more.data[more.transactions[0].begins as usize..];
    append_to(dir.path(), &name(3), tail);
    let (log, _appender) = open_dir(dir.path());
    let head = log.head().unwrap();
    assert_eq!(head.pos.offset, files[2].len() + tail.len() as u64);
    assert_eq!((head.transactions, head.gtid.to_string_for_test()), (16, "0-1-16".into()));
}

trait Text {
    fn to_string_for_test(&self) -> String;
}

impl Text for baton_wire::gtid::GtidPosition {
    fn to_string_for_test(&self) -> String {
        self.mariadb().unwrap().to_string()
    }
}

#[tokio::test]
async fn damage_before_the_mark_is_told_and_never_cut() {
    for alg in [ChecksumAlg::Crc32, ChecksumAlg::None] {
        let dir = tempfile::tempdir().unwrap();
        let files = three_files(dir.path(), alg).await;
        let last = &files[2];
        let at = last.transactions[3].begins + 1000;
        flip(dir.path(), &name(3), at as usize);
        let before = on_disk(dir.path(), 3);
        let (log, mut appender) = open_dir(dir.path());
        let status = log.status();
        let damaged = status.damaged.unwrap();
        assert!(damaged.contains("mysql-bin.000003, offset "), "{damaged}");
        assert!(!status.writable);
        let head = log.head().unwrap();
        // Our own checksums cover runs of events, and what comes before the damaged run is served.
        let visible = if head.pos.file == 3 { head.pos.offset } else { 4 };
        assert!(visible <= last.transactions[3].begins);
        assert!(alg == ChecksumAlg::None || visible == last.transactions[2].ends);
        assert!(matches!(appender.settle().await, Err(AppendError::Damaged { .. })));
        assert!(matches!(appender.open_file(spec(4)).await, Err(AppendError::Damaged { .. })));
        if head.pos.file == 3 {
            assert_eq!(read_all(&log, 3).await, last.data[..visible as usize], "what is whole before is served");
        }
        assert_eq!(read_all(&log, 1).await, files[0].data);
        appender.close().await;
        assert_eq!(on_disk(dir.path(), 3), before, "not a byte was cut");
    }
}

#[tokio::test]
async fn missing_and_short_files_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let files = three_files(dir.path(), ChecksumAlg::Crc32).await;
    let cases: [(u64, Option<u64>, &str, LogPos); 4] = [
        (2, None, "missing", LogPos { file: 1, offset: files[0].len() }),
        (2, Some(100_000), "mysql-bin.000002, offset ", LogPos { file: 2, offset: files[1].transactions[2].ends }),
        (3, None, "durable up to 000003", LogPos { file: 2, offset: files[1].len() }),
        (3, Some(100_000), "mysql-bin.000003, offset ", LogPos { file: 3, offset: files[2].transactions[2].ends }),
    ];
    for (number, len, cause, head) in cases {
        let copy = copy_dir(dir.path());
        let path = copy.path().join(name(number));
        match len {
            None => std::fs::remove_file(path).unwrap(),
            Some(len) => std::fs::write(&path, &std::fs::read(&path).unwrap()[..len as usize]).unwrap(),
        }
        let (log, _appender) = open_dir(copy.path());
        let damaged = log.status().damaged.unwrap();
        assert!(damaged.contains(cause), "{damaged}");
        assert_eq!(log.head().unwrap().pos, head, "{damaged}");
    }
}

#[tokio::test]
async fn a_lost_mark_is_damage_but_one_torn_record_is_not() {
    let dir = tempfile::tempdir().unwrap();
    three_files(dir.path(), ChecksumAlg::Crc32).await;
    for (records, sound) in [(vec![0], true), (vec![4096], true), (vec![0, 4096], false)] {
        let copy = copy_dir(dir.path());
        for at in records {
            flip(copy.path(), "mark", at + 20);
        }
        let (log, _appender) = open_dir(copy.path());
        assert_eq!(log.status().damaged.is_none(), sound);
        assert_eq!(log.head().unwrap().transactions, 15);
    }
}

#[tokio::test]
async fn indexes_and_arrival_times_are_rebuilt_when_lost_or_unsound() {
    let dir = tempfile::tempdir().unwrap();
    let files = three_files(dir.path(), ChecksumAlg::Crc32).await;
    let places = |log: &Arc<Log>| {
        let all = files.iter().flat_map(|f| &f.transactions);
        all.map(|t| {
            let mut p = log.place_of_gtid(&gtid_position(&t.id)).unwrap();
            p.oldest_missing = None;
            p
        })
        .collect::<Vec<_>>()
    };
    let expected = {
        let (log, _appender) = open_dir(dir.path());
        places(&log)
    };
    for harm in ["removed", "cut", "flipped", "foreign"] {
        let copy = copy_dir(dir.path());
        for number in 1..=3 {
            for suffix in [".idx", ".arr"] {
                let file = format!("{}{suffix}", name(number));
                let path = copy.path().join(&file);
                let content = std::fs::read(&path).unwrap();
                match harm {
                    "removed" => std::fs::remove_file(&path).unwrap(),
                    "cut" => std::fs::write(&path, &content[..content.len() / 2]).unwrap(),
                    "flipped" => (0..content.len()).step_by(16).for_each(|at| flip(copy.path(), &file, at)),
                    _ => drop(std::fs::write(&path, vec![0xff; content.len()])),
                }
            }
        }
        let (log, appender) = open_dir(copy.path());
        assert_eq!(log.status().damaged, None, "{harm}");
        assert_eq!(places(&log), expected, "{harm}");
        let first = gtid_position(&files[0].transactions[0].id);
        assert!(log.place_of_gtid(&first).unwrap().oldest_missing.is_some(), "{harm}");
        drop((log, appender));
        // The second start finds what the first one has rebuilt.
        let (log, _appender) = open_dir(copy.path());
        assert_eq!(places(&log), expected, "{harm}, again");
    }
}

fn gtid_position(id: &baton_wire::gtid::TransactionId) -> baton_wire::gtid::GtidPosition {
    let mut position = baton_wire::gtid::GtidPosition::empty(baton_wire::Flavor::MariaDb);
    position.advance(id);
    position
}

#[tokio::test]
async fn arrival_times_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 100).transaction("0-1-2", 200).transaction("0-1-3", 300).take(1);
    appender.open_file(spec(1)).await.unwrap();
    let mut at = 4;
    for transaction in &file.transactions {
        // One group each.
        appender.append(file.batch(at, transaction.ends)).await.unwrap();
        appender.settle().await.unwrap();
        at = transaction.ends;
    }
    let head = log.head().unwrap();
    drop(appender);
    drop(log);
    let (log, _appender) = open_dir(dir.path());
    assert_eq!(log.head().unwrap(), head);
    for pair in file.transactions.windows(2) {
        let place = log.place_of_gtid(&gtid_position(&pair[0].id)).unwrap();
        assert_eq!(place.oldest_missing, Some(pair[1].arrived));
    }
}

#[tokio::test]
async fn a_file_that_was_just_created_is_taken_back() {
    for content in [&b""[..], b"\xfe", b"\xfebin", b"\xfebin\0\0\0"] {
        let dir = tempfile::tempdir().unwrap();
        let files = three_files(dir.path(), ChecksumAlg::Crc32).await;
        {
            let (_log, mut appender) = open_dir(dir.path());
            appender.open_file(spec(4)).await.unwrap();
        }
        std::fs::write(dir.path().join(name(4)), content).unwrap();
        let (log, mut appender) = open_dir(dir.path());
        assert_eq!(log.status().damaged, None);
        assert_eq!(log.head().unwrap().pos, LogPos { file: 3, offset: files[2].len() });
        let mut primary = Primary::new(ChecksumAlg::Crc32, &["0-1-15"]);
        let next = primary.transaction("0-1-16", 10).take(4);
        feed(&mut appender, &next).await;
        assert_eq!(read_all(&log, 4).await, next.data);
        assert_eq!(log.head().unwrap().transactions, 16);
    }
}

#[tokio::test]
async fn every_kill_point_of_a_file_leaves_a_log_that_goes_on() {
    // The file as a kill may leave it, at each length; the mark as old as can be.
    let mut primary = Primary::new(ChecksumAlg::Crc32, &["0-1-7"]);
    let file = primary.transaction("0-1-8", 40).transaction("0-1-9", 100).take(1);
    let dir = tempfile::tempdir().unwrap();
    {
        let (_log, mut appender) = open_dir(dir.path());
        appender.open_file(spec(1)).await.unwrap();
    }
    for len in 0..=file.len() {
        let copy = copy_dir(dir.path());
        std::fs::write(copy.path().join(name(1)), &file.data[..len as usize]).unwrap();
        let (log, mut appender) = open_dir(copy.path());
        let whole = file.wholes.range(..=len).next_back().copied();
        assert_eq!(log.head().map(|h| h.pos.offset), whole, "{len}");
        assert_eq!(log.status().damaged, None);
        if whole.is_none() {
            appender.open_file(spec(1)).await.unwrap();
        }
        appender.append(file.batch(whole.unwrap_or(4), file.len())).await.unwrap();
        let head = appender.settle().await.unwrap().unwrap();
        assert_eq!((head.transactions, head.gtid.to_string_for_test()), (2, "0-1-9".into()));
        assert_eq!(read_all(&log, 1).await, file.data);
        assert_eq!(log.files()[0].start.to_string_for_test(), "0-1-7", "{len}");
    }
}

#[test]
fn a_description_that_can_not_be_read_is_an_error_that_names_it() {
    for content in ["", "{}", "{\"version\":1", "[1,2,3]"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("meta.json"), content).unwrap();
        let error = Log::open(Arc::new(DiskStorage::open(dir.path()).unwrap()), config()).unwrap_err();
        assert!(error.to_string().contains("meta.json"), "{error}");
    }
}
