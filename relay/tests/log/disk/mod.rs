//! A simulated disk that tears, loses, reorders and fails, below the log as it ships.
//!
//! Only what [`Storage`] promises holds: bytes are kept from the sync of their file on, names from the sync of the directory on. All
//! chances come from one seed. A crash is set up by the number of operations until it; whatever the log does afterwards fails, until
//! [`Disk::restart`] tells what the crash left. Operations of the writer's thread can be held back, so that a test decides what is written as one group.

mod content;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use baton_relay::log::{Storage, StorageFile};
use bytes::Bytes;

use crate::support::{BASE, Random};
use content::Content;
pub(crate) use content::Odds;

/// What ends a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// What was not synced is kept, lost or torn, piece by piece.
    Power,
    /// The process dies; the system keeps what was written.
    Kill,
}

/// What goes wrong without a crash. Chances are "one in"; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trouble {
    /// Bytes by which files can still grow.
    pub(crate) room: Option<usize>,
    pub(crate) read_only: bool,
    pub(crate) write: u64,
    pub(crate) sync: u64,
    pub(crate) sync_dir: u64,
    pub(crate) names: u64,
    pub(crate) read: u64,
}

enum Change {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String, usize),
}

struct State {
    random: Random,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    /// Handles of an earlier life are dead.
    life: u64,
    operations: u64,
    crash_in: Option<u64>,
    crashed: bool,
    die_after_failed_sync: bool,
    trouble: Trouble,
    /// Whether trouble struck since it was last asked.
    struck: bool,
    hold: bool,
    held: bool,
    /// The files as the primary has them: a mark must never be ahead of what of them is on the platter.
    source: BTreeMap<String, Bytes>,
    violations: Vec<String>,
    trace: VecDeque<String>,
}

/// The disk; clones are the same one.
#[derive(Clone)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

impl Disk {
    pub(crate) fn new(seed: u64, source: BTreeMap<String, Bytes>) -> Self {
        let state = State {
            random: Random(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            life: 0,
            operations: 0,
            crash_in: None,
            crashed: false,
            die_after_failed_sync: false,
            trouble: Trouble::default(),
            struck: false,
            hold: false,
            held: false,
            source,
            violations: Vec::new(),
            trace: VecDeque::new(),
        };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// The disk as a process sees it that lives until the next crash.
    pub(crate) fn mount(&self) -> Arc<dyn Storage> {
        Arc::new(Mounted { disk: self.clone(), life: self.state().life })
    }

    /// The `n`th operation from now on crashes.
    pub(crate) fn crash_in(&self, n: Option<u64>) {
        self.state().crash_in = n;
    }

    /// Takes back the crash that is set up, and tells it.
    pub(crate) fn pause_crash(&self) -> Option<u64> {
        self.state().crash_in.take()
    }

    /// The next sync that fails is the last thing that happens.
    pub(crate) fn die_after_failed_sync(&self) {
        self.state().die_after_failed_sync = true;
    }

    pub(crate) fn crash_now(&self) {
        self.state().crashed = true;
    }

    pub(crate) fn crashed(&self) -> bool {
        self.state().crashed
    }

    pub(crate) fn trouble(&self, trouble: Trouble) {
        self.state().trouble = trouble;
    }

    /// Whether an operation failed since this was last asked, other than by a crash.
    pub(crate) fn take_struck(&self) -> bool {
        std::mem::take(&mut self.state().struck)
    }

    /// What a crash leaves; the next [`Disk::mount`] finds it.
    pub(crate) fn restart(&self, crash: Crash, odds: Odds) {
        let mut guard = self.state();
        let State { random, files, names, durable_names, changes, .. } = &mut *guard;
        match crash {
            Crash::Kill => files.iter_mut().for_each(|file| file.forget_some(random)),
            Crash::Power => {
                for change in changes.drain(..).filter(|_| odds.keeps(random)) {
                    match change {
                        Change::Link(name, file) => drop(durable_names.insert(name, file)),
                        Change::Rename(from, to, file) => {
                            if durable_names.get(&from) == Some(&file) {
                                durable_names.remove(&from);
                            }
                            durable_names.insert(to, file);
                        }
                        Change::Unlink(name, file) => {
                            if durable_names.get(&name) == Some(&file) {
                                durable_names.remove(&name);
                            }
                        }
                    }
                }
                names.clone_from(durable_names);
                files.iter_mut().for_each(|file| file.lose_power(odds, random));
            }
        }
        guard.life += 1;
        guard.crashed = false;
        guard.crash_in = None;
        guard.hold = false;
        guard.trouble = Trouble::default();
        guard.struck = false;
        let life = guard.life;
        guard.note(|| format!("--- {crash:?} {odds:?}; life {life}"));
    }

    /// Holds the log's writer at its next operation until [`Disk::release`].
    pub(crate) fn hold(&self) {
        self.state().hold = true;
    }

    /// Waits until the writer is held.
    pub(crate) fn wait_held(&self) {
        let (state, changed) = &*self.0;
        let deadline = std::time::Duration::from_secs(30);
        let wait = changed.wait_timeout_while(state.lock().unwrap(), deadline, |s| !s.held && !s.crashed);
        assert!(!wait.unwrap().1.timed_out(), "the writer does nothing");
    }

    pub(crate) fn release(&self) {
        self.state().hold = false;
        self.0.1.notify_all();
    }

    /// What broke the rules so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        std::mem::take(&mut self.state().violations)
    }

    /// The last operations, for the report of a failure.
    pub(crate) fn trace(&self) -> String {
        self.state().trace.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// How far a file's platter equals the primary's file.
    pub(crate) fn durable(&self, name: &str) -> u64 {
        self.state().durable_of(name)
    }

    /// What a file holds at present.
    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|n| state.files[*n].cache.clone())
    }

    /// Whether pages of such a file may change under a reader, for a sync of them failed.
    pub(crate) fn has_ghosts(&self, suffix: &str) -> bool {
        let state = self.state();
        state.names.iter().any(|(name, n)| name.ends_with(suffix) && state.files[*n].has_ghosts())
    }

    pub(crate) fn rot(&self, name: &str, at: usize, bits: u8) {
        let mut state = self.state();
        let n = state.names[name];
        state.files[n].rot(at, bits);
    }

    /// Takes a file away, as an operator might.
    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }
}

impl State {
    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.len() >= 60 {
            self.trace.pop_front();
        }
        let line = format!("{:5} {}", self.operations, line());
        self.trace.push_back(line);
    }

    fn durable_of(&self, name: &str) -> u64 {
        let Some(file) = self.durable_names.get(name).map(|n| &self.files[*n]) else { return 0 };
        let Some(source) = self.source.get(name) else { return 0 };
        let len = file.durable.len().min(source.len());
        if file.durable[..len] == source[..len] {
            return len as u64;
        }
        file.durable.iter().zip(source.iter()).take_while(|(a, b)| a == b).count() as u64
    }

    fn strikes(&mut self, one_in: u64, what: &str) -> io::Result<()> {
        if one_in > 0 && self.random.one_in(one_in) {
            self.struck = true;
            self.note(|| format!("      {what} fails"));
            return Err(io::Error::other(format!("input/output error ({what})")));
        }
        Ok(())
    }

    fn writable(&mut self) -> io::Result<()> {
        if self.trouble.read_only {
            self.struck = true;
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    /// A mark is true: what it covers is on the platter.
    fn check_mark(&mut self, record: &[u8]) {
        if record.len() != 36 {
            return;
        }
        let u64_at = |at: usize| u64::from_le_bytes(*record[at..].first_chunk::<8>().unwrap());
        let (file, offset) = (u64_at(16), u64_at(24));
        if file == 0 {
            return;
        }
        let name = format!("{BASE}.{file:06}");
        if !self.names.contains_key(&name) {
            // An old mark, found again after retention has removed its file.
            return;
        }
        let durable = self.durable_of(&name);
        if offset > durable {
            self.violations.push(format!("the mark says {name}:{offset}, on the platter are {durable}"));
        }
    }
}

/// The disk in one life of the process.
struct Mounted {
    disk: Disk,
    life: u64,
}

struct Handle {
    disk: Disk,
    life: u64,
    file: usize,
    name: String,
}

fn lost() -> io::Error {
    io::Error::other("crashed")
}

/// Lets an operation begin: `Err` if the process is dead; `true` if it dies in the middle of this one.
fn enter<'a>(disk: &'a Disk, life: u64, what: impl FnOnce() -> String) -> io::Result<(MutexGuard<'a, State>, bool)> {
    let (state, changed) = &*disk.0;
    let mut state = state.lock().unwrap();
    let dead = |s: &State| s.life != life || s.crashed;
    if std::thread::current().name() == Some("log-writer") {
        while state.hold && !dead(&state) {
            state.held = true;
            changed.notify_all();
            state = changed.wait(state).unwrap();
        }
        state.held = false;
    }
    if dead(&state) {
        return Err(lost());
    }
    state.operations += 1;
    state.note(what);
    let dies = match &mut state.crash_in {
        Some(0 | 1) => true,
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    };
    if dies {
        state.crashed = true;
        state.note(|| "      crash".into());
        changed.notify_all();
    }
    Ok((state, dies))
}

impl Mounted {
    fn handle(&self, file: usize, name: &str) -> Arc<dyn StorageFile> {
        Arc::new(Handle { disk: self.disk.clone(), life: self.life, file, name: name.to_owned() })
    }
}

impl Storage for Mounted {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let (state, dies) = enter(&self.disk, self.life, || format!("open {name}"))?;
        if dies {
            return Err(lost());
        }
        let file = state.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        Ok(self.handle(file, name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let (mut state, dies) = enter(&self.disk, self.life, || format!("create {name}"))?;
        state.writable()?;
        let rate = state.trouble.names;
        state.strikes(rate, "create")?;
        if dies && state.random.one_in(2) {
            return Err(lost());
        }
        let file = match state.names.get(name).copied() {
            Some(file) => {
                let len = state.files[file].cache.len();
                state.files[file].set_len(0);
                if let Some(room) = &mut state.trouble.room {
                    *room += len;
                }
                file
            }
            None => {
                state.files.push(Content::default());
                let file = state.files.len() - 1;
                state.names.insert(name.to_owned(), file);
                state.changes.push(Change::Link(name.to_owned(), file));
                file
            }
        };
        drop(state);
        if dies { Err(lost()) } else { Ok(self.handle(file, name)) }
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let (state, dies) = enter(&self.disk, self.life, || "list".into())?;
        if dies {
            return Err(lost());
        }
        Ok(state.names.iter().map(|(name, n)| (name.clone(), state.files[*n].cache.len() as u64)).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, dies) = enter(&self.disk, self.life, || format!("remove {name}"))?;
        state.writable()?;
        let file = state.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        let rate = state.trouble.names;
        state.strikes(rate, "remove")?;
        if dies && state.random.one_in(2) {
            return Err(lost());
        }
        state.names.remove(name);
        state.changes.push(Change::Unlink(name.to_owned(), file));
        if dies { Err(lost()) } else { Ok(()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, dies) = enter(&self.disk, self.life, || format!("rename {from} {to}"))?;
        state.writable()?;
        let rate = state.trouble.names;
        state.strikes(rate, "rename")?;
        if dies && state.random.one_in(2) {
            return Err(lost());
        }
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.changes.push(Change::Rename(from.to_owned(), to.to_owned(), file));
        if dies { Err(lost()) } else { Ok(()) }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let (mut state, dies) = enter(&self.disk, self.life, || "sync the directory".into())?;
        // Names are in the file system's journal: it keeps them for the next attempt, or takes nothing more at all.
        let rate = state.trouble.sync_dir;
        state.strikes(rate, "sync of the directory")?;
        if dies && state.random.one_in(2) {
            return Err(lost());
        }
        state.durable_names = state.names.clone();
        state.changes.clear();
        if dies { Err(lost()) } else { Ok(()) }
    }

    fn describe(&self) -> String {
        "the simulated disk".into()
    }
}

impl StorageFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = buf.len();
        let (mut state, dies) = enter(&self.disk, self.life, || format!("read {} {len} at {offset}", self.name))?;
        if dies {
            return Err(lost());
        }
        let rate = state.trouble.read;
        state.strikes(rate, "read")?;
        let State { files, random, .. } = &mut *state;
        Ok(files[self.file].read(buf, offset as usize, random))
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, dies) =
            enter(&self.disk, self.life, || format!("write {} {} at {offset}", self.name, data.len()))?;
        state.writable()?;
        if self.name == "mark" {
            state.check_mark(data);
        }
        let State { files, random, trouble, .. } = &mut *state;
        let file = &mut files[self.file];
        if dies {
            file.write(&data[..random.below(data.len() + 1)], offset as usize);
            return Err(lost());
        }
        if trouble.write > 0 && random.one_in(trouble.write) {
            file.write(&data[..random.below(data.len() + 1)], offset as usize);
            return state.strikes(1, "write");
        }
        let grows = (offset as usize + data.len()).saturating_sub(file.cache.len());
        if let Some(room) = trouble.room.as_mut() {
            if grows > *room {
                // A full disk takes what fits, as a real one does.
                let fits = data.len() - (grows - *room).min(data.len());
                *room = 0;
                file.write(&data[..fits], offset as usize);
                state.struck = true;
                state.note(|| "      no room".into());
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= grows;
        }
        file.write(data, offset as usize);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let (state, dies) = enter(&self.disk, self.life, || format!("size of {}", self.name))?;
        if dies { Err(lost()) } else { Ok(state.files[self.file].cache.len() as u64) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, dies) = enter(&self.disk, self.life, || format!("set_len {} {len}", self.name))?;
        state.writable()?;
        let rate = state.trouble.write;
        state.strikes(rate, "truncate")?;
        if dies && state.random.one_in(2) {
            return Err(lost());
        }
        let before = state.files[self.file].cache.len();
        state.files[self.file].set_len(len as usize);
        if let Some(room) = &mut state.trouble.room {
            *room += before.saturating_sub(len as usize);
        }
        if dies { Err(lost()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, dies) = enter(&self.disk, self.life, || format!("sync {}", self.name))?;
        if dies {
            if state.random.one_in(2) {
                state.files[self.file].sync();
            }
            return Err(lost());
        }
        let rate = state.trouble.sync;
        if let Err(error) = state.strikes(rate, "sync") {
            let State { files, random, .. } = &mut *state;
            files[self.file].fail_sync(random);
            if std::mem::take(&mut state.die_after_failed_sync) {
                state.crashed = true;
            }
            return Err(error);
        }
        state.files[self.file].sync();
        Ok(())
    }
}
