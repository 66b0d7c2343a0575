//! Bits that flip on the platter, and syncs that lie: told, and not trusted.

use std::sync::Arc;

use baton_relay::log::{AppendError, Log, LogPos};

use crate::disk::{Crash, Disk, Odds, Trouble};
use crate::history::{History, file_name};
use crate::support::*;

const KEEP: Odds = Odds { kept: 50, torn: 30 };

/// Feeds whole files, then `part` of the last one, cut where the log is whole; ends cleanly.
async fn fed(disk: &Disk, history: &History, random: &mut Random) -> LogPos {
    let (log, mut appender) = Log::open(disk.mount(), config()).unwrap();
    let last = history.files.len() - 1;
    for (n, file) in history.files.iter().enumerate() {
        appender.open_file(spec(file.number)).await.unwrap();
        let wholes: Vec<u64> = file.wholes.iter().copied().collect();
        let end =
            if n == last { wholes[wholes.len() / 2..][random.below(wholes.len().div_ceil(2))] } else { file.len() };
        let mut at = 4;
        while at < end {
            let to = (at + random.size(15) as u64).min(end);
            appender.append(file.batch(at, to)).await.unwrap();
            at = to;
        }
    }
    appender.settle().await.unwrap();
    let head = log.head().unwrap().pos;
    appender.close().await;
    head
}

#[tokio::test]
async fn bit_rot_before_the_mark_is_damage_and_nothing_is_cut() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let history = History::random(&mut random);
        let disk = Disk::new(seed, history.sources());
        let head = fed(&disk, &history, &mut random).await;
        disk.restart(Crash::Power, KEEP);
        let name = file_name(head.file);
        // The in-use bit is the server's to change, and in no checksum.
        let at = loop {
            let at = random.below(head.offset as usize);
            if at != 21 {
                break at;
            }
        };
        let bits = 1 << random.below(8);
        disk.rot(&name, at, bits);
        let rotten = disk.content(&name);
        let about = format!("seed {seed}, {name}, {bits:#x} at {at} of {head}");
        for _ in 0..2 {
            let (log, mut appender) = Log::open(disk.mount(), config()).unwrap();
            let damaged = log.status().damaged.unwrap_or_else(|| panic!("{about}: not noticed"));
            assert!(damaged.contains(&name), "{about}: {damaged}");
            assert!(matches!(appender.settle().await, Err(AppendError::Damaged { .. })), "{about}");
            if let Some(visible) = log.head().map(|h| h.pos).filter(|h| h.file == head.file) {
                assert!(visible.offset <= at as u64, "{about}: visible up to {visible}");
                let whole = read_all(&log, visible.file).await;
                assert!(whole == history.file(head.file).data[..visible.offset as usize], "{about}");
            }
            appender.close().await;
            drop(log);
            disk.restart(Crash::Kill, KEEP);
            assert_eq!(disk.content(&name), rotten, "{about}: not a byte was touched");
        }
    }
}

#[tokio::test]
async fn rot_in_a_closed_file_is_found_when_its_index_is_rebuilt() {
    for seed in 100..130 {
        let mut random = Random(seed);
        let history = History::random(&mut random);
        if history.files.len() < 2 {
            continue;
        }
        let disk = Disk::new(seed, history.sources());
        fed(&disk, &history, &mut random).await;
        disk.restart(Crash::Power, KEEP);
        let file = &history.files[random.below(history.files.len() - 1)];
        let name = file_name(file.number);
        let at = 200 + random.below(file.last_whole() as usize - 200);
        disk.rot(&name, at, 0x40);
        disk.delete(&format!("{name}.idx"));
        let rotten = disk.content(&name);
        let (log, appender) = Log::open(disk.mount(), config()).unwrap();
        let damaged = log.status().damaged.unwrap_or_else(|| panic!("seed {seed}: {name} at {at} not noticed"));
        assert!(damaged.contains(&name), "{damaged}");
        assert!(log.head().is_none_or(|h| h.pos < LogPos { file: file.number, offset: at as u64 + 1 }));
        drop((log, appender));
        disk.restart(Crash::Kill, KEEP);
        assert_eq!(disk.content(&name), rotten);
    }
}

#[tokio::test]
async fn killed_between_a_failed_sync_and_the_cut_nothing_unsynced_is_trusted() {
    let mut trusted = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let history = History::random(&mut random);
        let disk = Disk::new(seed, history.sources());
        let file = &history.files[0];
        let half = *file.wholes.iter().nth(file.wholes.len() / 2).unwrap();
        let before = {
            let (log, mut appender) = Log::open(disk.mount(), config()).unwrap();
            appender.open_file(spec(file.number)).await.unwrap();
            appender.append(file.batch(4, half)).await.unwrap();
            let head = appender.settle().await.unwrap().unwrap();
            disk.trouble(Trouble { sync: 1, ..Trouble::default() });
            disk.hold();
            appender.append(file.batch(half, file.len())).await.unwrap();
            disk.wait_held();
            disk.die_after_failed_sync();
            disk.release();
            drop(appender);
            assert_eq!(log.head().unwrap().pos, head.pos);
            head.pos
        };
        assert!(disk.crashed());
        disk.restart(Crash::Kill, KEEP);
        let after = {
            let (log, appender) = Log::open(disk.mount(), config()).unwrap();
            let head = log.head().unwrap().pos;
            assert!(head >= before);
            assert!(disk.durable(&file_name(head.file)) >= head.offset, "seed {seed}: {head} is not on the platter");
            disk.crash_now();
            drop(appender);
            head
        };
        trusted += u64::from(after > before);
        disk.restart(Crash::Power, KEEP);
        let (log, _appender) = Log::open(disk.mount(), config()).unwrap();
        assert!(log.head().unwrap().pos >= after, "seed {seed}: {after} was visible");
        assert!(Arc::strong_count(&log) > 0 && log.status().damaged.is_none());
    }
    assert!(trusted > 0, "the range was there to be trusted, once it was written anew");
}
