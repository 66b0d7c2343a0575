//! A disk that is full, or fails: nothing is claimed, readers go on, and it goes on by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use baton_relay::log::{AppendError, Chunk, Log, LogConfig, LogPos};
use baton_wire::checksum::ChecksumAlg;

use crate::support::*;

fn history(alg: ChecksumAlg) -> Parsed {
    let mut primary = Primary::new(alg, &[]);
    for n in 1..=40 {
        primary.transaction(&format!("0-1-{n}"), 3000);
    }
    primary.rotate(1)
}

#[tokio::test]
async fn a_full_disk_stops_the_head_and_it_goes_on_when_there_is_room() {
    for alg in [ChecksumAlg::Crc32, ChecksumAlg::None] {
        let dir = tempfile::tempdir().unwrap();
        let (storage, faults) = Faulty::new(dir.path());
        let (log, mut appender) = Log::open(storage, config()).unwrap();
        let file = history(alg);
        appender.open_file(spec(1)).await.unwrap();
        let half = file.transactions[19].ends;
        appender.append(file.batch(4, half)).await.unwrap();
        let head = appender.settle().await.unwrap().unwrap();
        *faults.room.lock().unwrap() = Some(1000);
        let mut failures = log.subscribe_failure();
        appender.append(file.batch(half, file.len())).await.unwrap();
        failures.wait_for(Option::is_some).await.unwrap();

        let status = log.status();
        assert!(!status.writable);
        assert!(status.error.unwrap().contains("mysql-bin.000001"));
        assert!(status.hint.unwrap().contains("free space"));
        let error = appender.append(file.batch(file.len(), file.len())).await.unwrap_err();
        assert!(matches!(&error, AppendError::Storage(f) if f.file.starts_with("mysql-bin.000001")), "{error}");
        assert!(matches!(appender.settle().await, Err(AppendError::Storage(_))), "still full");
        assert_eq!(*log.head().unwrap(), head);
        assert_eq!(read_all(&log, 1).await, file.data[..half as usize], "readers go on");
        assert_eq!(on_disk(dir.path(), 1), file.data[..half as usize], "nothing untrusted is left");

        *faults.room.lock().unwrap() = None;
        let again = appender.settle().await.unwrap().unwrap();
        assert_eq!(again, head);
        assert!(log.status().writable);
        for batch in file.batches(half, file.len(), 3) {
            appender.append(batch).await.unwrap();
        }
        appender.settle().await.unwrap();
        assert_eq!(read_all(&log, 1).await, file.data);
        appender.close().await;
        drop(log);
        let (log, _appender) = open_dir(dir.path());
        assert_eq!((log.status().damaged, log.head().unwrap().transactions), (None, 40));
    }
}

#[tokio::test]
async fn after_a_failed_sync_the_range_is_dropped_and_fetched_again() {
    for alg in [ChecksumAlg::Crc32, ChecksumAlg::None] {
        let dir = tempfile::tempdir().unwrap();
        let (storage, faults) = Faulty::new(dir.path());
        let (log, mut appender) = Log::open(storage, config()).unwrap();
        let file = history(alg);
        appender.open_file(spec(1)).await.unwrap();
        let half = file.transactions[19].ends;
        appender.append(file.batch(4, half)).await.unwrap();
        appender.settle().await.unwrap();
        faults.fail_sync.store(true, Ordering::SeqCst);
        faults.fail_truncate.store(true, Ordering::SeqCst);
        let mut failures = log.subscribe_failure();
        appender.append(file.batch(half, file.len())).await.unwrap();
        failures.wait_for(Option::is_some).await.unwrap();
        assert_eq!(log.head().unwrap().pos.offset, half);
        faults.fail_sync.store(false, Ordering::SeqCst);
        assert!(appender.settle().await.is_err(), "what could not be synced must be cut off first");
        assert_eq!(log.head().unwrap().pos.offset, half, "a later sync proves nothing");
        faults.fail_truncate.store(false, Ordering::SeqCst);
        assert_eq!(appender.settle().await.unwrap().unwrap().pos.offset, half);
        assert_eq!(on_disk(dir.path(), 1).len() as u64, half);
        appender.append(file.batch(half, file.len())).await.unwrap();
        assert_eq!(appender.settle().await.unwrap().unwrap().pos.offset, file.len());
        assert!(log.status().storage_errors >= 2);
        assert_eq!(read_all(&log, 1).await, file.data);
    }
}

#[tokio::test]
async fn a_full_disk_while_a_file_is_begun_leaves_a_log_that_goes_on() {
    for room in [0, 2, 50, 300, 400, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let (storage, faults) = Faulty::new(dir.path());
        let (log, mut appender) = Log::open(storage, config()).unwrap();
        let file = history(ChecksumAlg::Crc32);
        feed(&mut appender, &file).await;
        let head = log.head().unwrap();
        *faults.room.lock().unwrap() = Some(room);
        let mut primary = Primary::new(ChecksumAlg::Crc32, &["0-1-40"]);
        let next = primary.transaction("0-1-41", 3000).take(2);
        if appender.open_file(spec(2)).await.is_ok() {
            let mut failures = log.subscribe_failure();
            appender.append(next.batch(4, next.len())).await.unwrap();
            failures.wait_for(Option::is_some).await.unwrap();
        }
        assert!(appender.settle().await.is_err());
        let killed = copy_dir(dir.path());
        *faults.room.lock().unwrap() = None;
        assert_eq!(appender.settle().await.unwrap().unwrap(), *head, "room {room}");
        appender.open_file(spec(2)).await.unwrap();
        appender.append(next.batch(4, next.len())).await.unwrap();
        assert_eq!(appender.settle().await.unwrap().unwrap().transactions, 41);
        assert_eq!(read_all(&log, 2).await, next.data);
        assert_eq!(read_all(&log, 1).await, file.data);

        // The same, had the relay been killed in between.
        let (log, mut appender) = open_dir(killed.path());
        assert_eq!(log.status().damaged, None, "room {room}");
        assert_eq!(log.head().unwrap().pos, LogPos { file: 1, offset: file.len() });
        appender.open_file(spec(2)).await.unwrap();
        appender.append(next.batch(4, next.len())).await.unwrap();
        assert_eq!(appender.settle().await.unwrap().unwrap().transactions, 41);
    }
}

#[tokio::test]
async fn one_sync_covers_all_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, faults) = Faulty::new(dir.path());
    let (_log, mut appender) = Log::open(storage, config()).unwrap();
    let file = history(ChecksumAlg::Crc32);
    appender.open_file(spec(1)).await.unwrap();
    let batches = file.batches(4, file.len(), 1);
    let n = batches.len() as u64;
    let before = faults.syncs.load(Ordering::SeqCst);
    for batch in batches {
        appender.append(batch).await.unwrap();
    }
    appender.settle().await.unwrap();
    let syncs = faults.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs < n, "{syncs} syncs for {n} batches");
}

#[tokio::test]
async fn dropping_the_appender_makes_everything_whole_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _faults) = Faulty::new(dir.path());
    let (log, mut appender) = Log::open(Arc::clone(&storage) as Arc<_>, config()).unwrap();
    let file = history(ChecksumAlg::Crc32);
    appender.open_file(spec(1)).await.unwrap();
    let cut = file.transactions[30].ends + 50;
    appender.append(file.batch(4, cut)).await.unwrap();
    drop(appender);
    let whole = file.transactions[30].ends;
    assert_eq!(log.head().unwrap().pos.offset, whole);
    assert_eq!(on_disk(dir.path(), 1), file.data[..whole as usize]);
}

#[tokio::test]
async fn a_read_does_not_end_early_because_the_page_cache_does() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, faults) = Faulty::new(dir.path());
    let memory = LogConfig { ring_bytes: 0, ..config() };
    let (log, mut appender) = Log::open(storage, memory).unwrap();
    let file = history(ChecksumAlg::Crc32);
    feed(&mut appender, &file).await;
    let mut buf = Vec::new();
    for cached in [0, 1, 10, 4096, usize::MAX] {
        faults.cached.store(cached, Ordering::SeqCst);
        let mut reader = log.reader(LogPos { file: 1, offset: 4 }).unwrap();
        assert_eq!(reader.read(5000, &mut buf).await.unwrap(), Chunk::Buffered(5000), "{cached} bytes cached");
        assert_eq!(buf, file.data[4..5004]);
    }
}
