//! Deaths and failures at chosen operations of log and acknowledgement, for tests. Only builds with debug assertions have them; elsewhere there is
//! nothing here but the names.
//!
//! `BATON_FAILPOINT` names a file that holds `POINT@N=ACTION`: what happens at the Nth operation of that kind since the process began. A point is an
//! operation and what it works on (`write-binlog`, `sync-mark`, `rename-meta.json`, `send-ack`). Actions: `kill` (SIGKILL before it), `half` (SIGKILL behind
//! half of a write), `eio` (it fails, once), `erofs` (from there on all that changes the disk fails, until the file is gone).
//! `BATON_FAILPOINT_TRACE` names a file to which each point is added when it is met for the first, second, fourth, eighth... time, with that number, and
//! `struck` when what was to happen happens.

use std::io;
use std::sync::Arc;

use crate::log::{DiskStorage, Storage};

#[cfg(not(debug_assertions))]
mod imp {
    use super::*;

    pub(crate) fn storage(disk: DiskStorage) -> Arc<dyn Storage> {
        Arc::new(disk)
    }

    #[inline(always)]
    pub(crate) fn reached(_point: &'static str) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(debug_assertions)]
mod imp {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;
    use crate::log::StorageFile;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Half,
        Fail,
        ReadOnly,
    }

    struct Plan {
        file: PathBuf,
        point: String,
        nth: u64,
        action: Action,
    }

    #[derive(Default)]
    struct Seen {
        counts: BTreeMap<String, u64>,
        read_only: bool,
    }

    struct Points {
        plan: Option<Plan>,
        trace: Option<PathBuf>,
        seen: Mutex<Seen>,
    }

    fn points() -> &'static Points {
        static POINTS: OnceLock<Points> = OnceLock::new();
        POINTS.get_or_init(|| Points {
            plan: std::env::var_os("BATON_FAILPOINT").and_then(|file| plan(file.into())),
            trace: std::env::var_os("BATON_FAILPOINT_TRACE").map(PathBuf::from),
            seen: Mutex::default(),
        })
    }

    fn plan(file: PathBuf) -> Option<Plan> {
        let text = std::fs::read_to_string(&file).ok()?;
        let (point, rest) = text.trim().split_once('@')?;
        let (nth, action) = rest.split_once('=')?;
        let action = match action {
            "kill" => Action::Kill,
            "half" => Action::Half,
            "eio" => Action::Fail,
            "erofs" => Action::ReadOnly,
            _ => return None,
        };
        Some(Plan { file, point: point.to_owned(), nth: nth.parse().ok()?, action })
    }

    fn die() -> ! {
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }

    /// What is to happen at a point; `true`: after half of a write.
    fn meet(point: &str, changes_disk: bool) -> io::Result<bool> {
        let points = points();
        if points.plan.is_none() && points.trace.is_none() {
            return Ok(false);
        }
        let mut seen = points.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.counts.entry(point.to_owned()).or_default();
        *count += 1;
        let nth = *count;
        let tell = |line: &str| {
            let open = |path| std::fs::OpenOptions::new().create(true).append(true).open(path);
            let _ = points.trace.as_ref().map(|path| open(path).and_then(|mut file| writeln!(file, "{line}")));
        };
        if nth.is_power_of_two() {
            tell(&format!("{point} {nth}"));
        }
        let Some(plan) = &points.plan else { return Ok(false) };
        let hit = plan.nth == nth && (plan.point == point || (plan.point == "any" && changes_disk));
        if hit {
            tell("struck");
        }
        match plan.action {
            Action::Kill if hit => die(),
            Action::Half if hit => return Ok(true),
            Action::Fail if hit => return Err(Errno::IO.into()),
            Action::ReadOnly => {
                seen.read_only = (seen.read_only || hit) && plan.file.exists();
                if seen.read_only && changes_disk {
                    return Err(Errno::ROFS.into());
                }
            }
            _ => {}
        }
        Ok(false)
    }

    pub(crate) fn storage(disk: DiskStorage) -> Arc<dyn Storage> {
        let points = points();
        if points.plan.is_none() && points.trace.is_none() { Arc::new(disk) } else { Arc::new(Struck(disk)) }
    }

    pub(crate) fn reached(point: &'static str) -> io::Result<()> {
        meet(point, false).map(drop)
    }

    /// What a file is, whatever its number.
    fn class(name: &str) -> String {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if stem.len() < name.len() {
            return "binlog".to_owned();
        }
        match name.rsplit_once('.') {
            Some((_, kind @ ("idx" | "arr" | "crc"))) => kind.to_owned(),
            _ => name.to_owned(),
        }
    }

    /// A disk at whose operations something may happen.
    struct Struck(DiskStorage);

    struct StruckFile(Arc<dyn StorageFile>, String);

    impl Struck {
        fn file(&self, file: io::Result<Arc<dyn StorageFile>>, name: &str) -> io::Result<Arc<dyn StorageFile>> {
            file.map(|file| Arc::new(StruckFile(file, class(name))) as Arc<dyn StorageFile>)
        }
    }

    impl Storage for Struck {
        fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
            self.file(self.0.open(name), name)
        }

        fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
            meet(&format!("create-{}", class(name)), true)?;
            self.file(self.0.create(name), name)
        }

        fn list(&self) -> io::Result<Vec<(String, u64)>> {
            self.0.list()
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            meet(&format!("remove-{}", class(name)), true)?;
            self.0.remove(name)
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            meet(&format!("rename-{}", class(to)), true)?;
            self.0.rename(from, to)
        }

        fn sync_dir(&self) -> io::Result<()> {
            meet("sync-directory", true)?;
            self.0.sync_dir()
        }

        fn describe(&self) -> String {
            self.0.describe()
        }
    }

    impl StorageFile for StruckFile {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buf, offset)
        }

        fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
            self.0.read_cached_at(buf, offset)
        }

        fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
            if meet(&format!("write-{}", self.1), true)? {
                let _ = self.0.write_all_at(&data[..data.len() / 2], offset);
                die();
            }
            self.0.write_all_at(data, offset)
        }

        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            meet(&format!("cut-{}", self.1), true)?;
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            meet(&format!("sync-{}", self.1), true)?;
            self.0.sync_data()
        }

        fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
            self.0.allocate(offset, len)
        }
    }
}

pub(crate) use imp::{reached, storage};
