//! What may go, and what must stay.

use std::sync::Arc;
use std::time::Duration;

use baton_relay::log::{Appender, Chunk, DiskStorage, GtidStartError, Log, LogConfig, LogPos, ReadError};
use baton_wire::checksum::ChecksumAlg;

use crate::support::*;

async fn four_files(dir: &std::path::Path, config: LogConfig) -> (Arc<Log>, Appender, Vec<Parsed>) {
    let (log, mut appender) = Log::open(Arc::new(DiskStorage::open(dir).unwrap()), config).unwrap();
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let mut files = Vec::new();
    for number in 1..=4 {
        let file = primary.transaction(&format!("0-1-{}", 2 * number - 1), 50_000);
        let file = file.transaction(&format!("0-1-{}", 2 * number), 50_000).rotate(number);
        feed(&mut appender, &file).await;
        files.push(file);
    }
    (log, appender, files)
}

fn numbers(log: &Log) -> Vec<u64> {
    log.files().iter().map(|f| f.number).collect()
}

#[tokio::test]
async fn old_bytes_go_when_a_file_is_begun_and_a_restart_does_not_miss_them() {
    let dir = tempfile::tempdir().unwrap();
    let limit = LogConfig { retain_bytes: Some(250_000), ..config() };
    let (log, appender, files) = four_files(dir.path(), limit.clone()).await;
    log.apply_retention().unwrap();
    assert_eq!(numbers(&log), [3, 4]);
    assert_eq!(log.status().files_removed, 2);
    assert!(!std::fs::read_dir(dir.path()).unwrap().any(|e| {
        let name = e.unwrap().file_name().into_string().unwrap();
        name.contains("000001") || name.contains("000002")
    }));
    assert_eq!(log.head().unwrap().transactions, 8);
    assert!(matches!(log.find_start(&gtids("0-1-3")), Err(GtidStartError::Purged { domain: 0, .. })));
    assert_eq!(log.find_start(&gtids("0-1-4")).unwrap().pos.file, 3);
    appender.close().await;
    drop(log);
    let (log, _appender) = Log::open(Arc::new(DiskStorage::open(dir.path()).unwrap()), limit).unwrap();
    assert_eq!(log.status().damaged, None);
    assert_eq!(numbers(&log), [3, 4]);
    assert_eq!(log.head().unwrap().transactions, 8, "counted from the beginning of the log");
    assert_eq!(read_all(&log, 3).await, files[2].data);
}

#[tokio::test]
async fn what_a_killed_removal_has_left_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (log, appender, files) = four_files(dir.path(), config()).await;
    appender.close().await;
    drop(log);
    let before = copy_dir(dir.path());
    let limit = LogConfig { retain_bytes: Some(250_000), ..config() };
    drop(Log::open(Arc::new(DiskStorage::open(dir.path()).unwrap()), limit).unwrap());
    // Recorded as gone, but still there.
    std::fs::copy(before.path().join("mysql-bin.000002"), dir.path().join("mysql-bin.000002")).unwrap();
    let (log, _appender) = open_dir(dir.path());
    assert_eq!(log.status().damaged, None);
    assert_eq!(numbers(&log), [3, 4]);
    assert!(!dir.path().join("mysql-bin.000002").exists());
    assert_eq!(read_all(&log, 4).await, files[3].data);
}

#[tokio::test]
async fn the_last_file_stays_however_old() {
    let dir = tempfile::tempdir().unwrap();
    let (log, appender, files) = four_files(dir.path(), config()).await;
    appender.close().await;
    drop(log);
    // The transactions of these tests arrived long ago.
    let limit = LogConfig { retain: Some(Duration::from_secs(3600)), ..config() };
    let (log, _appender) = Log::open(Arc::new(DiskStorage::open(dir.path()).unwrap()), limit).unwrap();
    log.apply_retention().unwrap();
    assert_eq!(numbers(&log), [4]);
    assert_eq!(read_all(&log, 4).await, files[3].data);
}

#[tokio::test]
async fn pins_hold_until_the_reader_moves_on_or_leaves() {
    let dir = tempfile::tempdir().unwrap();
    // Generous while the files are made; what is tested is what happens beyond the limit.
    let limit = LogConfig { retain_bytes: Some(450_000), ..config() };
    let (log, mut appender, files) = four_files(dir.path(), limit).await;
    let mut reader = log.reader(LogPos { file: 1, offset: 4 }).unwrap();
    let mut primary = Primary::new(ChecksumAlg::Crc32, &["0-1-8"]);
    feed(&mut appender, &primary.transaction("0-1-9", 300_000).rotate(5)).await;
    log.apply_retention().unwrap();
    assert_eq!(numbers(&log), [1, 2, 3, 4, 5], "held by the reader");
    reader.go_to(LogPos { file: 3, offset: 4 });
    log.apply_retention().unwrap();
    assert_eq!(numbers(&log), [3, 4, 5]);
    let mut buf = Vec::new();
    let chunk = reader.read(usize::MAX, &mut buf).await.unwrap();
    let got = if let Chunk::Shared(bytes) = chunk { bytes.to_vec() } else { buf };
    assert!(files[2].data[4..].starts_with(&got) && !got.is_empty());
    drop(reader);
    log.apply_retention().unwrap();
    assert_eq!(numbers(&log), [4, 5]);
}

#[tokio::test]
async fn the_hard_limit_cuts_readers_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let limit = LogConfig { retain_hard_bytes: Some(450_000), ..config() };
    let (log, mut appender, _files) = four_files(dir.path(), limit).await;
    let mut readers: Vec<_> = (0..2).map(|_| log.reader(LogPos { file: 1, offset: 4 }).unwrap()).collect();
    let mut primary = Primary::new(ChecksumAlg::Crc32, &["0-1-8"]);
    feed(&mut appender, &primary.transaction("0-1-9", 100_000).rotate(5)).await;
    log.apply_retention().unwrap();
    assert_eq!(numbers(&log), [2, 3, 4, 5]);
    for reader in &mut readers {
        assert!(matches!(reader.read(10, &mut Vec::new()).await, Err(ReadError::Cut { number: 1 })));
    }
    assert_eq!(log.status().readers_cut, 2);
    assert!(matches!(log.reader(LogPos { file: 1, offset: 4 }), Err(ReadError::Gone { number: 1 })));
}
