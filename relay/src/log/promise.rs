//! What this relay has promised never to acknowledge again, in a file of its own beside the log.
//!
//! A promise closes the acknowledging of everything below a grant for ever, so it must be durable before it is answered, also on a full disk: two
//! sectors are allocated when the directory is first used, and rewritten in turn. The slot that holds the last promise is never overwritten.

use std::sync::Arc;

pub use baton_cluster::Grant;

use super::error::{LogError, StorageFailure};
use super::storage::{Storage, StorageFile, read_full};

/// The promise's file name in the data directory.
pub const PROMISE_FILE: &str = "promise";
const MAGIC: [u8; 8] = *b"BATONPR1";
/// Distance of the slots: more than any sector.
const SLOT: u64 = 4096;
/// Magic, serial, epoch, n, held, CRC32.
const RECORD: usize = 8 + 8 + 8 + 8 + 8 + 4;

/// The highest promise, and whether this relay has taken that grant itself since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promised {
    /// Everything below this, and this unless `held`, is given up. `[0,0]`: nothing was ever promised.
    pub grant: Grant,
    /// Whether this relay may acknowledge under `grant`.
    pub held: bool,
}

/// The open file.
pub struct PromiseFile {
    file: Arc<dyn StorageFile>,
    serial: u64,
    slot: u64,
    current: Promised,
}

impl PromiseFile {
    /// Opens it, or makes it in a new directory: there the relay holds grant `[0,0]` by itself.
    ///
    /// Errors: the disk fails, or both slots are unreadable: what was promised is not known, so nothing may be acknowledged.
    pub fn open(storage: &dyn Storage) -> Result<Self, LogError> {
        let wrap = |action: &'static str| move |e| LogError::storage(PROMISE_FILE, 0, action, e);
        let file = match storage.open(PROMISE_FILE) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Self::create(storage),
            Err(e) => return Err(wrap("open the promise")(e)),
        };
        let mut newest: Option<(u64, u64, Promised)> = None;
        for slot in 0..2 {
            let mut record = [0; RECORD];
            let n = read_full(&*file, &mut record, slot * SLOT).map_err(wrap("read the promise"))?;
            if let Some((serial, promised)) = (n == RECORD).then(|| decode(&record)).flatten() {
                if newest.is_none_or(|(s, ..)| s < serial) {
                    newest = Some((serial, slot, promised));
                }
            }
        }
        let Some((serial, slot, current)) = newest else {
            return Err(LogError::Meta {
                file: PROMISE_FILE.into(),
                detail: "neither copy can be read, so it is not known what this relay has promised; move the data directory away and let the relay fetch anew".into(),
            });
        };
        // What was read may be only in the page cache, and clean there after a failed sync: written again, the sync covers it. From here on it
        // is acted upon.
        file.write_all_at(&encode(serial, current), slot * SLOT).map_err(wrap("write the promise"))?;
        file.sync_data().map_err(wrap("sync the promise"))?;
        Ok(Self { file, serial, slot, current })
    }

    fn create(storage: &dyn Storage) -> Result<Self, LogError> {
        let wrap = |e| LogError::storage(PROMISE_FILE, 0, "create the promise", e);
        // A file that a crash left half made is no promise: it is made under another name first.
        let temporary = "promise.new";
        let file = storage.create(temporary).map_err(wrap)?;
        let current = Promised { grant: Grant::default(), held: true };
        let mut content = vec![0; 2 * SLOT as usize];
        content[..RECORD].copy_from_slice(&encode(1, current));
        file.write_all_at(&content, 0).map_err(wrap)?;
        file.sync_data().map_err(wrap)?;
        storage.rename(temporary, PROMISE_FILE).map_err(wrap)?;
        storage.sync_dir().map_err(wrap)?;
        Ok(Self { file, serial: 1, slot: 0, current })
    }

    /// What holds now.
    pub fn current(&self) -> Promised {
        self.current
    }

    /// Makes `promised` durable. On an error the promise before it still holds, and the new one may or may not after a restart.
    pub fn record(&mut self, promised: Promised) -> Result<(), StorageFailure> {
        let slot = 1 - self.slot;
        let wrap = |e| StorageFailure::new(PROMISE_FILE, slot * SLOT, "write the promise", e);
        self.file.write_all_at(&encode(self.serial + 1, promised), slot * SLOT).map_err(wrap)?;
        self.file.sync_data().map_err(wrap)?;
        self.serial += 1;
        self.slot = slot;
        self.current = promised;
        Ok(())
    }
}

fn encode(serial: u64, promised: Promised) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&MAGIC);
    record[8..16].copy_from_slice(&serial.to_le_bytes());
    record[16..24].copy_from_slice(&promised.grant.epoch.to_le_bytes());
    record[24..32].copy_from_slice(&promised.grant.n.to_le_bytes());
    record[32] = u8::from(promised.held);
    let crc = crc32fast::hash(&record[..RECORD - 4]);
    record[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8; RECORD]) -> Option<(u64, Promised)> {
    let word =
        |at: usize| record.get(at..at + 8).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b));
    let crc = record.last_chunk::<4>().map(|b| u32::from_le_bytes(*b))?;
    if record[..8] != MAGIC || crc != crc32fast::hash(&record[..RECORD - 4]) {
        return None;
    }
    Some((word(8), Promised { grant: Grant { epoch: word(16), n: word(24) }, held: record[32] == 1 }))
}

/// Whether a promise of `asked` may be given. Pure.
///
/// Errors: a lower grant than one that was promised before: refused for ever. The same again is given again, so that an answer that was
/// lost can be had anew.
pub fn may_promise(current: Promised, asked: Grant) -> Result<Promised, Grant> {
    if asked < current.grant || (asked == current.grant && current.held) {
        return Err(current.grant);
    }
    Ok(Promised { grant: asked, held: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::DiskStorage;

    fn grant(epoch: u64, n: u64) -> Grant {
        Grant { epoch, n }
    }

    fn promised(epoch: u64, n: u64) -> Promised {
        Promised { grant: grant(epoch, n), held: false }
    }

    #[test]
    fn a_promise_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("dir");
        let reopen = || {
            let storage = DiskStorage::open(dir.path()).expect("storage");
            PromiseFile::open(&storage).expect("promise")
        };
        assert_eq!(reopen().current(), Promised { grant: grant(0, 0), held: true });
        for n in 1..6 {
            let mut file = reopen();
            file.record(promised(7, n)).expect("record");
            assert_eq!(reopen().current(), promised(7, n));
        }
    }

    #[test]
    fn a_torn_write_leaves_the_promise_before_it() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(PROMISE_FILE);
        for torn in 0..RECORD {
            let _ = std::fs::remove_file(&path);
            let mut file = PromiseFile::open(&DiskStorage::open(dir.path()).expect("storage")).expect("promise");
            file.record(promised(1, 1)).expect("record");
            let before = std::fs::read(&path).expect("read");
            file.record(promised(2, 1)).expect("record");
            let after = std::fs::read(&path).expect("read");
            let mut content = before;
            content[..torn].copy_from_slice(&after[..torn]);
            std::fs::write(&path, content).expect("write");
            drop(file);
            let found = PromiseFile::open(&DiskStorage::open(dir.path()).expect("storage")).expect("promise").current();
            assert!(found == promised(1, 1) || found == promised(2, 1), "torn at {torn}: {found:?}");
        }
    }

    /// A disk whose promise fails where it is told to.
    struct Failing(DiskStorage, Arc<std::sync::Mutex<&'static str>>);

    struct FailingFile(Arc<dyn StorageFile>, Arc<std::sync::Mutex<&'static str>>);

    impl Storage for Failing {
        fn open(&self, name: &str) -> std::io::Result<Arc<dyn StorageFile>> {
            Ok(Arc::new(FailingFile(self.0.open(name)?, Arc::clone(&self.1))))
        }
        fn create(&self, name: &str) -> std::io::Result<Arc<dyn StorageFile>> {
            self.0.create(name)
        }
        fn list(&self) -> std::io::Result<Vec<(String, u64)>> {
            self.0.list()
        }
        fn remove(&self, name: &str) -> std::io::Result<()> {
            self.0.remove(name)
        }
        fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
            self.0.rename(from, to)
        }
        fn sync_dir(&self) -> std::io::Result<()> {
            self.0.sync_dir()
        }
        fn describe(&self) -> String {
            self.0.describe()
        }
    }

    impl StorageFile for FailingFile {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
            self.0.read_at(buf, offset)
        }
        fn write_all_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
            if *self.1.lock().expect("lock") == "write" {
                self.0.write_all_at(&data[..data.len() / 2], offset)?;
                return Err(std::io::ErrorKind::Other.into());
            }
            self.0.write_all_at(data, offset)
        }
        fn size(&self) -> std::io::Result<u64> {
            self.0.size()
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> std::io::Result<()> {
            if *self.1.lock().expect("lock") == "sync" {
                Err(std::io::ErrorKind::Other.into())
            } else {
                self.0.sync_data()
            }
        }
    }

    #[test]
    fn a_record_that_fails_leaves_the_promise_before_it_in_force_and_the_next_one_replaces_it() {
        for fault in ["write", "sync"] {
            let dir = tempfile::tempdir().expect("dir");
            drop(PromiseFile::open(&DiskStorage::open(dir.path()).expect("storage")).expect("promise"));
            let switch = Arc::new(std::sync::Mutex::new(""));
            let storage = Failing(DiskStorage::open(dir.path()).expect("storage"), Arc::clone(&switch));
            let mut file = PromiseFile::open(&storage).expect("promise");
            file.record(promised(1, 1)).expect("record");
            *switch.lock().expect("lock") = fault;
            for _ in 0..3 {
                file.record(promised(2, 1)).expect_err("the disk fails");
                assert_eq!(file.current(), promised(1, 1), "{fault}");
            }
            // A process that dies here finds one or the other; a torn record is never taken for one.
            let copy = tempfile::tempdir().expect("dir");
            std::fs::copy(dir.path().join(PROMISE_FILE), copy.path().join(PROMISE_FILE)).expect("copy");
            let found =
                PromiseFile::open(&DiskStorage::open(copy.path()).expect("storage")).expect("promise").current();
            assert!(found == promised(1, 1) || (fault == "sync" && found == promised(2, 1)), "{fault}: {found:?}");
            // A lower one that is asked for in between is still judged by what holds.
            assert_eq!(may_promise(file.current(), grant(1, 0)), Err(grant(1, 1)));
            *switch.lock().expect("lock") = "";
            file.record(promised(3, 1)).expect("record");
            drop((file, storage));
            let found = PromiseFile::open(&DiskStorage::open(dir.path()).expect("storage")).expect("promise").current();
            assert_eq!(found, promised(3, 1), "{fault}");
        }
    }

    #[test]
    fn two_unreadable_copies_are_an_error_and_not_a_new_beginning() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join(PROMISE_FILE), vec![7; 8192]).expect("write");
        let storage = DiskStorage::open(dir.path()).expect("storage");
        assert!(matches!(PromiseFile::open(&storage), Err(LogError::Meta { .. })));
    }

    #[test]
    fn a_lower_grant_is_refused_for_ever() {
        let now = promised(7, 2);
        assert_eq!(may_promise(now, grant(7, 1)), Err(grant(7, 2)));
        assert_eq!(may_promise(now, grant(6, 9)), Err(grant(7, 2)));
        assert_eq!(may_promise(now, grant(7, 2)), Ok(now));
        assert_eq!(may_promise(now, grant(8, 0)), Ok(promised(8, 0)));
        // Taken over since: whoever asks for the same again is late.
        assert_eq!(may_promise(Promised { held: true, ..now }, grant(7, 2)), Err(grant(7, 2)));
    }
}
