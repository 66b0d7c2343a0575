//! A log across primaries: epochs begin with files of other primaries, under numbers that only grow.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_relay::log::{AppendError, Appender, FileEpoch, Log, LogPos, OpenFile};
use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::GtidPosition;

use crate::disk::{Crash, Disk, Odds};
use crate::support::*;

/// The file of that number, of a primary whose numbers are lower by `shift`.
fn of_epoch(number: u64, epoch: u64, server_id: u32, shift: i64, base: &str) -> OpenFile {
    let epoch = FileEpoch { epoch, shift, base: base.into() };
    OpenFile { upstream_server_id: server_id, epoch: Some(epoch), ..spec(number) }
}

/// Three primaries' files: 1 and 2, then 3 (cut short where the second one died), then 4 and 5.
fn history() -> Vec<(OpenFile, Parsed)> {
    let mut one = Primary::new(ChecksumAlg::Crc32, &[]);
    let first = one.transaction("0-1-1", 300).rotate(1);
    let second = one.transaction("0-1-2", 300).take(2);
    let mut two = Primary::new(ChecksumAlg::Crc32, &["0-1-2"]);
    let third = two.transaction("0-2-3", 300).take(3);
    let mut three = Primary::new(ChecksumAlg::Crc32, &["0-1-2", "0-2-3"]);
    let fourth = three.transaction("0-3-4", 300).rotate(4);
    let fifth = three.transaction("0-3-5", 300).take(5);
    let begun = |number: u64| match number {
        1 | 2 => of_epoch(number, 1, 1, 0, BASE),
        3 => of_epoch(number, 2, 2, -6, "other"),
        _ => of_epoch(number, 4, 3, 3, BASE),
    };
    [first, second, third, fourth, fifth].into_iter().map(|file| (begun(file.number), file)).collect()
}

async fn feed_as(appender: &mut Appender, spec: &OpenFile, file: &Parsed) -> Result<(), AppendError> {
    appender.open_file(spec.clone()).await?;
    for batch in file.batches(4, file.len(), file.number) {
        appender.append(batch).await?;
    }
    appender.settle().await.map(drop)
}

fn check(log: &Arc<Log>) {
    let identity = log.identity();
    let epochs: Vec<_> = identity.epochs.iter().map(|e| (e.epoch, e.server_id, e.begin.file, e.shift)).collect();
    assert_eq!(epochs, [(1, 1, 1, 0), (2, 2, 3, -6), (4, 3, 4, 3)]);
    let gtids: Vec<_> = identity.epochs.iter().map(|e| e.gtid.as_deref()).collect();
    assert_eq!(gtids, [Some(""), Some("0-1-2"), Some("0-2-3")]);
    for (file, name) in [(1, "mysql-bin.000001"), (3, "other.000009"), (4, "mysql-bin.000001"), (5, "mysql-bin.000002")]
    {
        let epoch = identity.epoch_of(file).unwrap();
        assert_eq!(epoch.upstream_name(file).as_deref(), Some(name), "{file}");
    }
}

#[tokio::test]
async fn files_of_several_primaries_are_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appender) = open_dir(dir.path());
    let history = history();
    for (spec, file) in &history {
        feed_as(&mut appender, spec, file).await.unwrap();
    }
    check(&log);
    appender.close().await;
    drop(log);
    let (log, appender) = open_dir(dir.path());
    check(&log);
    for (_, file) in &history {
        assert!(read_all(&log, file.number).await == file.data, "file {}", file.number);
    }
    // Every position is found in the file of the primary that wrote what follows.
    for (position, number) in [("", 1), ("0-1-1", 2), ("0-1-2", 3), ("0-2-3", 4), ("0-3-4", 5)] {
        assert_eq!(log.find_start(&gtids(position)).unwrap().pos.file, number, "'{position}'");
    }
    for (file, position) in [(2, "0-1-1"), (3, "0-1-2"), (4, "0-2-3")] {
        let place = log.place_of(LogPos { file, offset: 4 }).unwrap();
        assert_eq!(place.gtid, GtidPosition::MariaDb(gtids(position)), "{file}");
    }
    drop(appender);
}

#[tokio::test]
async fn an_epoch_never_goes_back_and_keeps_its_server_and_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut appender) = open_dir(dir.path());
    let history = history();
    for (spec, file) in &history[..3] {
        feed_as(&mut appender, spec, file).await.unwrap();
    }
    for (wrong, words) in [
        (of_epoch(4, 1, 1, 0, BASE), "epoch 2"),
        (of_epoch(4, 2, 7, -6, "other"), "server_id 2"),
        (of_epoch(4, 2, 2, -5, "other"), "shift of file numbers -6"),
        (of_epoch(3, 4, 3, 2, BASE), "numbers only grow"),
        (of_epoch(4, 4, 3, 9, BASE), "can't be shifted by 9"),
    ] {
        let error = appender.open_file(wrong).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        appender.settle().await.unwrap();
    }
    feed_as(&mut appender, &history[3].0, &history[3].1).await.unwrap();
}

#[tokio::test]
async fn an_epoch_of_which_nothing_came_leaves_its_file_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let history = history();
    {
        let (_log, mut appender) = open_dir(dir.path());
        for (spec, file) in &history[..3] {
            feed_as(&mut appender, spec, file).await.unwrap();
        }
        // Epoch 3 is given up before anything of it was whole; then the relay is started anew.
        let given_up = of_epoch(4, 3, 9, 2, BASE);
        appender.open_file(given_up.clone()).await.unwrap();
        appender.append(history[3].1.batch(4, 60)).await.unwrap();
        appender.settle().await.unwrap();
        appender.open_file(given_up).await.unwrap();
    }
    let (log, mut appender) = open_dir(dir.path());
    for (spec, file) in &history[3..] {
        feed_as(&mut appender, spec, file).await.unwrap();
    }
    check(&log);
    assert!(read_all(&log, 4).await == history[3].1.data);
}

/// One history on a disk that dies after so many operations, again and again: what began of an epoch is taken up again.
#[tokio::test]
async fn a_kill_at_any_operation_of_a_change_of_primary_is_recovered_from() {
    let history = history();
    let mut crashes = 0;
    for after in 1..400 {
        let disk = Disk::new(after, BTreeMap::new());
        let mut log = Log::open(disk.mount(), config()).unwrap();
        for (spec, file) in &history[..2] {
            feed_as(&mut log.1, spec, file).await.unwrap();
        }
        disk.crash_in(Some(after));
        let mut fed = Ok(());
        for (spec, file) in &history[2..] {
            if fed.is_ok() {
                fed = feed_as(&mut log.1, spec, file).await;
            }
        }
        let crashed = disk.crashed();
        disk.crash_now();
        drop(log);
        crashes += u64::from(crashed);
        let mut random = Random(after);
        let crash = if random.one_in(2) { Crash::Power } else { Crash::Kill };
        disk.restart(crash, Odds::random(&mut random));
        let (log, mut appender) = Log::open(disk.mount(), config()).unwrap();
        assert_eq!(log.status().damaged, None, "after {after}");
        let mut head = log.head().unwrap().pos;
        for (spec, file) in &history[1..] {
            if file.number < head.file {
                continue;
            }
            let from = if file.number == head.file { head.offset } else { 4 };
            if from == 4 {
                appender.open_file(spec.clone()).await.unwrap();
            }
            for batch in file.batches(from, file.len(), after) {
                appender.append(batch).await.unwrap();
            }
            appender.settle().await.unwrap();
            head = log.head().unwrap().pos;
        }
        check(&log);
        for (_, file) in &history {
            assert!(read_all(&log, file.number).await == file.data, "file {} after {after}", file.number);
        }
        if !crashed {
            break;
        }
    }
    assert!(crashes > 20, "{crashes}");
}
