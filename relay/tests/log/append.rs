//! What comes in goes out, byte for byte, and only when it is whole.

use std::sync::Arc;
use std::time::Duration;

use baton_relay::log::{AppendError, Chunk, DiskStorage, Log, LogConfig, LogError, LogPos, ReadError};
use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::GtidPosition;

use crate::support::*;

#[tokio::test]
async fn files_are_identical_to_the_primarys_however_they_arrive() {
    for seed in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let (log, mut appender) = open_dir(dir.path());
        let file = parse(1, fixture("mariadb-row-crc32.binlog"));
        appender.open_file(spec(1)).await.unwrap();
        for batch in file.batches(4, file.len(), seed) {
            appender.append(batch).await.unwrap();
        }
        let head = appender.settle().await.unwrap().unwrap();
        assert_eq!(head.pos, LogPos { file: 1, offset: file.len() });
        assert_eq!(head.transactions, file.transactions.len() as u64);
        assert_eq!(head.arrived, file.transactions.last().unwrap().arrived);
        assert_eq!(read_all(&log, 1).await, file.data, "seed {seed}");
        appender.close().await;
        assert_eq!(on_disk(dir.path(), 1), file.data, "seed {seed}");
    }
}

#[tokio::test]
async fn the_head_is_never_inside_a_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let file = parse(1, fixture("mariadb-row-crc32.binlog"));
    appender.open_file(spec(1)).await.unwrap();
    let mut position = GtidPosition::empty(baton_wire::Flavor::MariaDb);
    let mut seen = 0;
    for to in 5..=file.len() {
        // Byte by byte around each boundary, in larger steps elsewhere.
        let near = file.boundaries.iter().any(|b| to.abs_diff(*b) < 3);
        if !near && to % 997 != 0 {
            continue;
        }
        let from = appender.end().unwrap().offset;
        let batch = file.batch(from, to);
        let whole = batch.whole;
        for transaction in &batch.transactions {
            position.advance(&transaction.id);
        }
        let mut heads = log.subscribe();
        appender.append(batch).await.unwrap();
        if let Some(whole) = whole.filter(|whole| file.wholes.contains(whole)) {
            heads.wait_for(|head| head.as_ref().is_some_and(|h| h.pos.offset == whole)).await.unwrap();
            seen += 1;
        }
        let head = log.head();
        let end = head.as_ref().map_or(4, |h| h.pos.offset);
        assert!(end == 4 || file.wholes.contains(&end), "head at {end}");
        if let Some(head) = head {
            assert_eq!(head.gtid, position, "at {end}");
        }
    }
    assert_eq!(seen, file.wholes.len());
}

#[tokio::test]
async fn settle_drops_what_is_not_whole_and_the_stream_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let file = parse(1, fixture("mariadb-row-crc32.binlog"));
    appender.open_file(spec(1)).await.unwrap();
    let middle = &file.transactions[file.transactions.len() / 2];
    appender.append(file.batch(4, middle.ends - 1)).await.unwrap();
    let head = appender.settle().await.unwrap().unwrap();
    assert_eq!(head.pos.offset, *file.wholes.range(..middle.ends).next_back().unwrap());
    assert_eq!(on_disk(dir.path(), 1), file.data[..head.pos.offset as usize]);

    let wrong = appender.append(file.batch(middle.ends - 1, file.len())).await.unwrap_err();
    assert!(matches!(wrong, AppendError::OutOfPlace { expected, .. } if expected == head.pos), "{wrong}");
    appender.append(file.batch(head.pos.offset, file.len())).await.unwrap();
    appender.settle().await.unwrap();
    assert_eq!(read_all(&log, 1).await, file.data);
}

#[tokio::test]
async fn settle_before_the_first_whole_event_leaves_an_empty_file_that_can_be_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let file = parse(1, fixture("mariadb-row-crc32.binlog"));
    assert!(appender.settle().await.unwrap().is_none());
    appender.open_file(spec(1)).await.unwrap();
    appender.append(file.batch(4, 100)).await.unwrap();
    assert!(appender.settle().await.unwrap().is_none());
    assert!(log.files().is_empty());
    appender.open_file(spec(1)).await.unwrap();
    appender.append(file.batch(4, file.len())).await.unwrap();
    assert_eq!(appender.settle().await.unwrap().unwrap().pos.offset, file.len());
    assert_eq!(read_all(&log, 1).await, file.data);
}

#[tokio::test]
async fn readers_cross_files_and_see_only_what_is_visible() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let one = primary.transaction("0-1-1", 10).transaction("0-1-2", 20_000).rotate(1);
    let two = primary.transaction("0-1-3", 10).take(2);
    feed(&mut appender, &one).await;
    let mut buf = Vec::new();
    let mut reader = log.reader(LogPos { file: 1, offset: one.len() }).unwrap();
    assert_eq!(reader.read(100, &mut buf).await.unwrap(), Chunk::AtEnd);
    appender.open_file(spec(2)).await.unwrap();
    assert_eq!(reader.read(100, &mut buf).await.unwrap(), Chunk::AtEnd, "nothing of the next file is visible yet");
    feed(&mut appender, &two).await;
    assert_eq!(reader.read(100, &mut buf).await.unwrap(), Chunk::NextFile(2));
    reader.go_to(LogPos { file: 2, offset: 4 });
    // As much as the writer took at a time, which is up to it.
    assert!(
        matches!(reader.read(usize::MAX, &mut buf).await.unwrap(), Chunk::Shared(b) if two.data[4..].starts_with(&b))
    );
    assert_eq!(read_all(&log, 1).await, one.data);
    assert_eq!(read_all(&log, 2).await, two.data);

    let files = log.files();
    assert_eq!(files.len(), 2);
    assert_eq!((files[0].size, files[0].closed, files[0].name.as_str()), (one.len(), true, "mysql-bin.000001"));
    assert_eq!((files[1].size, files[1].closed), (two.len(), false));
    assert_eq!(files[1].start, GtidPosition::MariaDb(gtids("0-1-2")));
    assert_eq!(log.parse_file_name("mysql-bin.000002"), Some(2));
    assert_eq!(log.parse_file_name("mysql-bin.2"), None);
    assert_eq!(log.parse_file_name("mysql-bin.0000002"), None);
    assert_eq!(log.parse_file_name("mysql-bin.1234567"), Some(1_234_567));
    assert_eq!(log.file_name(7).as_deref(), Some("mysql-bin.000007"));

    reader.go_to(LogPos { file: 9, offset: 4 });
    assert!(matches!(reader.read(100, &mut buf).await, Err(ReadError::Gone { number: 9 })));
    let beyond = log.reader(LogPos { file: 2, offset: two.len() + 1 });
    assert!(matches!(beyond, Err(ReadError::Beyond { end, .. }) if end == two.len()));
}

#[tokio::test]
async fn a_transaction_larger_than_all_buffers_passes_and_is_read_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogConfig { ring_bytes: 64 << 10, queue_bytes: 64 << 10, ..config() };
    let (log, mut appender) = Log::open(Arc::new(DiskStorage::open(dir.path()).unwrap()), small).unwrap();
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 10).transaction("0-1-2", 12 << 20).transaction("0-1-3", 10).take(1);
    appender.open_file(spec(1)).await.unwrap();
    let mut at = 4;
    while at < file.len() {
        let to = (at + 30_000).min(file.len());
        appender.append(file.batch(at, to)).await.unwrap();
        at = to;
    }
    assert_eq!(appender.settle().await.unwrap().unwrap().transactions, 3);
    assert!(read_all(&log, 1).await == file.data);
    let last = file.transactions[2].begins;
    let mut reader = log.reader(LogPos { file: 1, offset: last }).unwrap();
    let near_head = reader.read(1000, &mut Vec::new()).await.unwrap();
    assert!(matches!(near_head, Chunk::Shared(bytes) if bytes == file.data[last as usize..]));
}

#[tokio::test]
async fn syncs_that_are_put_off_come_by_themselves_before_a_rotation_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for (pause, whole) in [(Duration::from_millis(5), 1), (Duration::from_secs(3600), 2)] {
        let config = LogConfig { sync_pause: pause, ..config() };
        let dir = dir.path().join(whole.to_string());
        let (log, mut appender) = Log::open(Arc::new(DiskStorage::open(&dir).unwrap()), config.clone()).unwrap();
        let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
        let one = primary.transaction("0-1-1", 10).transaction("0-1-2", 10).take(1);
        let two = primary.transaction("0-1-3", 10).take(2);
        appender.open_file(spec(1)).await.unwrap();
        let middle = one.transactions[0].ends;
        for (from, to) in [(4, middle), (middle, one.len())] {
            appender.append(one.batch(from, to)).await.unwrap();
        }
        if whole == 1 {
            let mut heads = log.subscribe();
            heads.wait_for(|head| head.as_ref().is_some_and(|h| h.transactions == 2)).await.unwrap();
        }
        appender.open_file(spec(2)).await.unwrap();
        assert_eq!(log.head().unwrap().transactions, 2, "all of a file before the next one");
        appender.append(two.batch(4, two.len())).await.unwrap();
        drop(appender);
        let mut heads = log.subscribe();
        heads.wait_for(|head| head.as_ref().is_some_and(|h| h.transactions == 3)).await.unwrap();
    }
}

#[tokio::test]
async fn what_lies_across_two_chunks_in_memory_can_be_read_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 400).transaction("0-1-2", 400).take(1);
    appender.open_file(spec(1)).await.unwrap();
    let middle = file.transactions[0].ends;
    for (from, to) in [(4, middle), (middle, file.len())] {
        appender.append(file.batch(from, to)).await.unwrap();
        appender.settle().await.unwrap();
    }
    let at = middle - 8;
    let mut reader = log.reader(LogPos { file: 1, offset: at }).unwrap();
    let mut buf = Vec::new();
    assert!(matches!(reader.read(100, &mut buf).await.unwrap(), Chunk::Shared(bytes) if bytes.len() == 8));
    assert_eq!(reader.read_at_least(19, 100, &mut buf).await.unwrap(), Chunk::Buffered(100));
    assert_eq!(buf, file.data[at as usize..][..100]);
    let left = (file.len() - at) as usize;
    let beyond = reader.read_at_least(usize::MAX, usize::MAX, &mut buf).await.unwrap();
    assert_eq!(beyond, Chunk::Buffered(left), "no more than there is");
}

#[tokio::test]
async fn what_can_not_belong_to_the_log_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut appender) = open_dir(dir.path());
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 10).take(5);
    let early = appender.append(file.batch(4, 50)).await.unwrap_err();
    assert!(matches!(early, AppendError::OutOfPlace { .. }), "{early}");
    feed(&mut appender, &file).await;
    for (spec, part) in [
        (baton_relay::log::OpenFile { number: 5, ..spec(5) }, "numbers only grow"),
        (baton_relay::log::OpenFile { base: "other".into(), ..spec(6) }, "base name mysql-bin"),
        (baton_relay::log::OpenFile { upstream_server_id: 2, ..spec(6) }, "server_id 1"),
        (baton_relay::log::OpenFile { flavor: baton_wire::Flavor::MySql, ..spec(6) }, "family mariadb"),
    ] {
        let refused = appender.open_file(spec).await.unwrap_err().to_string();
        assert!(refused.contains(part), "{refused}");
    }
    appender.open_file(spec(6)).await.unwrap();
    let mut batch = file.batch(4, 300);
    batch.file = 6;
    batch.whole = Some(301);
    let impossible = appender.append(batch).await.unwrap_err().to_string();
    assert!(impossible.contains("can't be whole at 301"), "{impossible}");
}

#[tokio::test]
async fn a_file_that_does_not_begin_as_one_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let file = parse(1, fixture("mariadb-row-crc32.binlog"));
    appender.open_file(spec(1)).await.unwrap();
    let mut failures = log.subscribe_failure();
    let mut batch = file.batch(4, 400);
    batch.data = file.data.slice(300..696);
    batch.transactions.clear();
    appender.append(batch).await.unwrap();
    failures.wait_for(Option::is_some).await.unwrap();
    let error = appender.append(file.batch(400, 500)).await.unwrap_err();
    assert!(error.to_string().contains("does not begin as a binlog file does"), "{error}");
    assert!(appender.settle().await.unwrap().is_none());
    appender.append(file.batch(4, file.len())).await.unwrap();
    assert_eq!(appender.settle().await.unwrap().unwrap().pos.offset, file.len());
}

#[test]
fn a_directory_belongs_to_one_relay_of_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let (log, appender) = open_dir(dir.path());
    assert!(matches!(DiskStorage::open(dir.path()), Err(LogError::Locked { .. })));
    let id = log.log_id();
    assert_eq!(id.len(), 36);
    drop((log, appender));
    let other = LogConfig { cluster: "bank".into(), ..LogConfig::default() };
    let refused = Log::open(Arc::new(DiskStorage::open(dir.path()).unwrap()), other).unwrap_err().to_string();
    assert!(refused.contains("\"shop\"") && refused.contains("\"bank\""), "{refused}");
    let (log, _appender) = open_dir(dir.path());
    assert_eq!(log.log_id(), id);
}

#[test]
fn a_directory_with_other_files_is_not_taken_for_a_new_log() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mysql-bin.000001"), b"x").unwrap();
    let error = Log::open(Arc::new(DiskStorage::open(dir.path()).unwrap()), config()).unwrap_err().to_string();
    assert!(error.contains("meta.json") && error.contains("mysql-bin.000001"), "{error}");
}

#[tokio::test]
async fn the_identity_records_the_first_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    assert_eq!(log.base_name(), None);
    let mut primary = Primary::new(ChecksumAlg::Crc32, &["0-1-40", "3-9-7"]);
    feed(&mut appender, &primary.transaction("0-1-41", 10).take(17)).await;
    let check = |log: &Log| {
        let identity = log.identity();
        assert_eq!(identity.base.as_deref(), Some(BASE));
        assert_eq!(identity.upstream_server_id, Some(1));
        let epoch = &identity.epochs[0];
        assert_eq!((epoch.epoch, epoch.server_id, epoch.first_upstream_file, epoch.shift), (1, 1, 17, 0));
        assert_eq!(epoch.begin, LogPos { file: 17, offset: 4 });
        assert_eq!(epoch.gtid.as_deref(), Some("0-1-40,3-9-7"));
    };
    check(&log);
    appender.close().await;
    drop(log);
    let (log, _appender) = open_dir(dir.path());
    check(&log);
}
