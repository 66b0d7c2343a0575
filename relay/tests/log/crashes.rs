//! The log as it ships, on a disk that fails, under a process that dies anywhere: what was ever visible stays, and the log goes on.
//!
//! Each round is one history of a primary and one disk over several lives of the relay. `BATON_ROUNDS` sets the number of rounds,
//! `BATON_SEED` the first one's seed; a failure prints its seed and what the disk was asked last.

use std::sync::Arc;

use baton_relay::clock::Micros;
use baton_relay::log::{AppendError, Appender, Batch, Chunk, Log, LogConfig, LogPos};
use baton_wire::gtid::GtidPosition;

use crate::disk::{Crash, Disk, Odds, Trouble};
use crate::history::{History, file_name};
use crate::support::*;

const ROUNDS: u64 = 250;
/// Seeds that failed once: arrival times of a file that was rebuilt before a sound one, one whose own record was torn,
/// and one whose newest transactions are in memory.
const FAILED_ONCE: [u64; 4] = [4744, 8399, 12713, 12983];
const LIVES: usize = 12;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

#[test]
fn whatever_the_disk_and_the_process_do_what_was_visible_stays_and_the_log_goes_on() {
    let first = from_environment("BATON_SEED");
    let rounds = from_environment("BATON_ROUNDS").unwrap_or(if first.is_some() { 1 } else { ROUNDS });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let first = first.unwrap_or(1);
    for seed in (first..first + rounds).chain(FAILED_ONCE) {
        let mut round = Round::new(seed);
        runtime.block_on(round.run());
    }
}

/// One relay's story.
struct Round {
    seed: u64,
    random: Random,
    history: History,
    disk: Disk,
    config: LogConfig,
    /// The furthest head that anybody could see.
    visible: Option<LogPos>,
}

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("BATON_SEED={} fails; the disk's last operations:\n{}", self.seed, self.disk.trace());
        }
    }
}

/// The process died, or the disk is known to have failed: this life is over.
struct Over;

impl Round {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let history = History::random(&mut random);
        let disk = Disk::new(random.next(), history.sources());
        let mut config = config();
        if random.one_in(5) {
            config.retain_bytes = Some(history.bytes() / 2);
        }
        if random.one_in(3) {
            config.ring_bytes = 10_000;
        }
        Self { seed, random, history, disk, config, visible: None }
    }

    async fn run(&mut self) {
        for _ in 0..LIVES {
            if self.life().await {
                break;
            }
        }
        self.last_life().await;
    }

    /// Until a crash or a clean end; whether everything is in the log.
    async fn life(&mut self) -> bool {
        if !self.random.one_in(6) {
            let after = self.random.size(9) as u64;
            self.disk.crash_in(Some(after));
        }
        if self.random.one_in(6) {
            let trouble = self.random_trouble();
            self.disk.trouble(trouble);
        }
        let opened = Log::open(self.disk.mount(), self.config.clone());
        let (log, mut appender) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                assert!(self.disk.crashed() || self.disk.take_struck(), "not opened: {error}");
                self.crash();
                return false;
            }
        };
        let result = self.live(&log, &mut appender).await;
        let done = result.is_ok_and(|done| done);
        let clean = !self.disk.crashed() && self.random.one_in(2);
        if clean {
            appender.close().await;
        } else {
            self.disk.crash_now();
            drop(appender);
        }
        if log.status().damaged.is_none() {
            self.note_head(&log);
        }
        drop(log);
        self.crash();
        done
    }

    /// Everything that is left arrives, the relay ends, and starts once more.
    async fn last_life(&mut self) {
        for again in [false, true] {
            let (log, mut appender) = Log::open(self.disk.mount(), self.config.clone()).unwrap();
            let _ = barrier(&mut appender).await;
            self.check(&log, &appender, 40).await;
            if again {
                assert_eq!(log.status().recovered_bytes_dropped, 0);
            }
            while self.step_on(&mut appender, 1 << 20).await.unwrap() {}
            appender.settle().await.unwrap();
            self.note_head(&log);
            assert_eq!(self.visible, Some(self.history.end()));
            self.check(&log, &appender, 40).await;
            appender.close().await;
            drop(log);
            self.crash();
        }
    }

    /// What comes after the process, or after the power.
    fn crash(&mut self) {
        let crash = if self.random.one_in(2) { Crash::Power } else { Crash::Kill };
        let odds = Odds::random(&mut self.random);
        self.disk.restart(crash, odds);
        assert_eq!(self.disk.violations(), Vec::<String>::new());
    }

    fn note_head(&mut self, log: &Log) {
        let head = log.head().map(|h| h.pos);
        assert!(head >= self.visible, "the head went back from {:?} to {head:?}", self.visible);
        self.visible = head;
    }

    async fn live(&mut self, log: &Arc<Log>, appender: &mut Appender) -> Result<bool, Over> {
        let troubled = self.disk.take_struck();
        self.disk.trouble(Trouble::default());
        let _ = barrier(appender).await;
        if self.disk.crashed() {
            return Err(Over);
        }
        if log.status().damaged.is_some() && troubled {
            // What can't be read can't be told from damage; nothing was touched, and the next start looks again.
            return Err(Over);
        }
        let crash_in = self.disk.pause_crash();
        self.check(log, appender, 8).await;
        self.disk.crash_in(crash_in);
        for _ in 0..self.random.size(6) {
            let result = self.step(log, appender).await;
            if self.disk.crashed() {
                return Err(Over);
            }
            match result {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(AppendError::Storage(failure)) => {
                    assert!(self.disk.take_struck(), "nothing had failed: {failure}");
                    self.recover(log, appender).await?;
                }
                Err(error) => panic!("{error}"),
            }
            let head = log.head().map(|h| h.pos);
            assert!(head >= self.visible, "the head went back from {:?} to {head:?}", self.visible);
            if let Some(head) = head {
                let durable = self.disk.durable(&file_name(head.file));
                assert!(durable >= head.offset, "the head is at {head}, on the platter are {durable}");
            }
            self.visible = head;
        }
        Ok(false)
    }

    /// As the upstream's side does: again and again, until the disk works.
    async fn recover(&mut self, log: &Log, appender: &mut Appender) -> Result<(), Over> {
        let before = log.head();
        for attempt in 0.. {
            match appender.settle().await {
                Ok(head) => {
                    assert_eq!(head, before.map(|h| (*h).clone()), "settling after a failure moves no head");
                    return Ok(());
                }
                Err(error) => assert!(self.disk.crashed() || self.disk.take_struck(), "{error}"),
            }
            if self.disk.crashed() || (attempt > 3 && self.random.one_in(6)) {
                return Err(Over);
            }
            if self.random.one_in(3) {
                self.disk.trouble(Trouble::default());
            }
        }
        Ok(())
    }

    fn random_trouble(&mut self) -> Trouble {
        let mut trouble = Trouble::default();
        match self.random.below(7) {
            0 => trouble.room = Some(self.random.size(17)),
            1 => trouble.read_only = true,
            2 => trouble.write = 1 + self.random.below(8) as u64,
            3 => trouble.sync = 1 + self.random.below(3) as u64,
            4 => trouble.sync_dir = 1 + self.random.below(3) as u64,
            5 => trouble.names = 1 + self.random.below(3) as u64,
            _ => {
                trouble = Trouble { write: 20, sync: 10, sync_dir: 10, names: 10, read: 30, ..trouble };
            }
        }
        trouble
    }

    /// One thing that an upstream, a replica or the disk may do; `false` if all is in the log.
    async fn step(&mut self, log: &Arc<Log>, appender: &mut Appender) -> Result<bool, AppendError> {
        if self.random.one_in(12) {
            let trouble = self.random_trouble();
            self.disk.trouble(trouble);
        } else if self.random.one_in(4) {
            self.disk.trouble(Trouble::default());
        }
        match self.random.below(14) {
            0 => appender.settle().await.map(|_| true),
            1 => appender.drop_partial().await.map(|()| true),
            2 => {
                self.read_somewhere(log).await;
                Ok(true)
            }
            3 => {
                // Of no consequence: what retention could not remove goes at the next start.
                let _ = log.apply_retention();
                self.disk.take_struck();
                Ok(true)
            }
            _ => {
                let max = self.random.size(17);
                self.step_on(appender, max).await
            }
        }
    }

    /// The next batches, of at most `max` bytes in all, or the next file; `false` if there is none.
    async fn step_on(&mut self, appender: &mut Appender, max: usize) -> Result<bool, AppendError> {
        let end = appender.end();
        let last = self.visible.map_or(0, |v| v.file);
        let file = match end {
            Some(end) if end.offset < self.history.file(end.file).len() => self.history.file(end.file).clone(),
            _ => {
                let Some(next) = self.history.next(end.map_or(last, |e| e.file)) else { return Ok(false) };
                return appender.open_file(spec(next.number)).await.map(|()| true);
            }
        };
        let pieces = 1 + self.random.below(5);
        let mut at = end.map_or(4, |e| e.offset);
        if pieces > 1 {
            self.disk.hold();
        }
        let mut result = Ok(());
        for n in 0..pieces {
            let to = (at + 1 + self.random.below(max.div_ceil(pieces)) as u64).min(file.len());
            if to == at {
                break;
            }
            let batch = arrive(file.batch(at, to));
            result = appender.append(batch).await;
            if result.is_err() {
                break;
            }
            if n == 0 && pieces > 1 {
                // What comes now is written as one group.
                self.disk.wait_held();
            }
            at = to;
        }
        self.disk.release();
        result?;
        barrier(appender).await.map(|()| true)
    }

    /// A replica that reads some of what is visible.
    async fn read_somewhere(&mut self, log: &Arc<Log>) {
        let files = log.files();
        let Some(file) = files.get(self.random.below(files.len().max(1))) else { return };
        let from = self.random.below(file.size as usize + 1) as u64;
        let Ok(mut reader) = log.reader(LogPos { file: file.number, offset: from }) else { return };
        let mut buf = Vec::new();
        let chunk = reader.read(self.random.size(14), &mut buf).await;
        let got = match &chunk {
            Ok(Chunk::Shared(bytes)) => &bytes[..],
            Ok(Chunk::Buffered(n)) => &buf[..*n],
            Ok(Chunk::AtEnd | Chunk::NextFile(_)) => &[],
            Err(error) => {
                assert!(self.disk.crashed() || self.disk.take_struck(), "{error}");
                return;
            }
        };
        assert_eq!(got, &self.history.file(file.number).data[from as usize..from as usize + got.len()]);
    }

    /// The log against what the primary wrote.
    async fn check(&self, log: &Arc<Log>, appender: &Appender, samples: usize) {
        let status = log.status();
        assert_eq!((status.damaged, status.error), (None, None));
        let head = log.head();
        assert!(
            head.as_ref().map(|h| h.pos) >= self.visible,
            "{:?} was visible, the head is {:?}",
            self.visible,
            head.map(|h| h.pos)
        );
        let files = log.files();
        let Some(head) = head else {
            assert!(files.is_empty());
            return;
        };
        let end = appender.end();
        assert!(self.history.file(head.pos.file).wholes.contains(&head.pos.offset), "the head is at {}", head.pos);
        assert!(end.is_none_or(|end| end == head.pos || (end.file > head.pos.file && end.offset == 4)), "{end:?}");
        let first = files[0].number;
        let account = self.history.up_to(head.pos, first);
        assert_eq!(head.transactions, account.transactions());
        let position = account.position(head.transactions as usize);
        assert_eq!(head.gtid, GtidPosition::MariaDb(position));
        if self.config.retain_bytes.is_none() {
            assert_eq!(first, self.history.files[0].number);
        }
        let expected = self.history.files.iter().filter(|f| f.number >= first && f.number <= head.pos.file);
        assert!(files.iter().map(|f| f.number).eq(expected.map(|f| f.number)));
        for file in &files {
            let source = self.history.file(file.number);
            let whole = if file.number == head.pos.file { head.pos.offset } else { source.last_whole() };
            assert_eq!(file.size, whole, "{}", file.name);
            assert!(read_all(log, file.number).await == source.data[..whole as usize], "{}", file.name);
        }
        account.check_places(log, samples, !self.disk.has_ghosts(".arr"));
    }
}

/// The batch as it arrives now.
fn arrive(mut batch: Batch) -> Batch {
    batch.received_at = Micros::now();
    for transaction in &mut batch.transactions {
        transaction.arrived = batch.received_at;
    }
    batch
}

/// Returns when the writer has done what it was asked before; changes nothing.
async fn barrier(appender: &mut Appender) -> Result<(), AppendError> {
    match appender.open_file(spec(0)).await {
        Err(AppendError::Invalid { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => panic!("no file has the number 0"),
    }
}
