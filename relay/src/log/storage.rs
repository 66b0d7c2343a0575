//! Where the log's bytes lie: one flat directory of files behind two small traits, so that tests can run on a disk that
//! tears, loses and fails.
//!
//! Everything durable goes through here, and durability is explicit: bytes survive a crash once [`StorageFile::sync_data`] returned
//! for their file, names (created, renamed, removed) once [`Storage::sync_dir`] did. Nothing else promises anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::{Errno, ReadWriteFlags};

use super::error::LogError;

/// One directory. Names are plain file names, without a path.
pub trait Storage: Send + Sync + 'static {
    /// Opens an existing file for reading and writing; `NotFound` if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Creates an empty file, or empties the one of that name. The name is durable only after [`Storage::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Names and sizes in bytes of all regular files, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Removes a file; `NotFound` if there is none. Open handles go on working.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file and replaces the target atomically: after a crash the target is the old or the new file, never a mix; which one is
    /// certain only after [`Storage::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes all creations, renames and removals so far durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// The directory, for messages.
    fn describe(&self) -> String;
}

/// An open file. Methods take `&self`: positions are explicit, and readers share a handle with the writer.
pub trait StorageFile: Send + Sync + 'static {
    /// Reads at `offset`; 0 at or beyond the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// As [`StorageFile::read_at`], but only if it needs no wait for a device; `None` if it would.
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let _ = (buf, offset);
        Ok(None)
    }

    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes everything written so far durable, with the size. After an error nothing is known about what was written since the
    /// last success, and a later success proves nothing about it.
    fn sync_data(&self) -> io::Result<()>;

    /// A hint that `len` bytes from `offset` on will be written soon. The size stays as it is.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }
}

/// A real directory, held exclusively: a second relay on it is refused.
#[derive(Debug)]
pub struct DiskStorage {
    dir: PathBuf,
    /// Carries the lock, and is what [`Storage::sync_dir`] syncs.
    handle: File,
}

impl DiskStorage {
    /// Opens `dir`, creating it (with its parents) if needed, and locks it until the value is dropped.
    ///
    /// Errors: [`LogError::Locked`] if another process has it, [`LogError::Storage`] if it can't be used.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, LogError> {
        let dir = dir.as_ref().to_path_buf();
        let name = dir.display().to_string();
        std::fs::create_dir_all(&dir).map_err(|e| LogError::storage(&name, 0, "create the data directory", e))?;
        let handle = File::open(&dir).map_err(|e| LogError::storage(&name, 0, "open the data directory", e))?;
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir, handle }),
            Err(Errno::WOULDBLOCK) => Err(LogError::Locked { dir: name }),
            Err(e) => Err(LogError::storage(&name, 0, "lock the data directory", e.into())),
        }
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a plain file name")));
        }
        Ok(self.dir.join(name))
    }
}

impl Storage for DiskStorage {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(DiskFile(OpenOptions::new().read(true).write(true).open(self.path(name)?)?)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path(name)?)?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                out.push((name, meta.len()));
            }
        }
        Ok(out)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from)?, self.path(to)?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn describe(&self) -> String {
        self.dir.display().to_string()
    }
}

/// A file of [`DiskStorage`]; closed on exec, as all files that the standard library opens.
struct DiskFile(File);

impl StorageFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let mut slices = [io::IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.0, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(Some(n)),
            // Not in the page cache; or a file system that can't tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, len)?)
    }
}

/// Reads until `buf` is full or the file ends; the number of bytes read.
pub(super) fn read_full(file: &dyn StorageFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// A whole (small) file.
pub(super) fn read_whole(file: &dyn StorageFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut buf = vec![0; len];
    let n = read_full(file, &mut buf, 0)?;
    buf.truncate(n);
    Ok(buf)
}

/// What ended [`rewrite`] early.
#[derive(Debug)]
pub(super) enum Rewrite {
    /// The bytes could not be read.
    Read(io::Error),
    /// Or not be written.
    Write(io::Error),
}

impl From<Rewrite> for io::Error {
    fn from(error: Rewrite) -> Self {
        match error {
            Rewrite::Read(e) | Rewrite::Write(e) => e,
        }
    }
}

/// Writes `range` of a file again, byte for byte, so that the next [`StorageFile::sync_data`] covers it: what is read may be pages that an
/// earlier process failed to sync, which are clean since, and on no disk. A crash in between changes nothing, for the content is the same.
/// The end of what was rewritten, and the failure that ended it early.
pub(super) fn rewrite(file: &dyn StorageFile, range: std::ops::Range<u64>) -> (u64, Result<(), Rewrite>) {
    let mut buf = vec![0; 256 * 1024];
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buf.len());
        match file.read_at(&mut buf[..want], at) {
            Ok(0) => break,
            Ok(n) => match file.write_all_at(&buf[..n], at) {
                Ok(()) => at += n as u64,
                Err(e) => return (at, Err(Rewrite::Write(e))),
            },
            Err(e) => return (at, Err(Rewrite::Read(e))),
        }
    }
    (at, Ok(()))
}

/// Writes a file so that after a crash it is the old or the new one, and is the new one once this returned.
pub(super) fn replace(storage: &dyn Storage, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let file = storage.create(&temporary)?;
    file.write_all_at(content, 0)?;
    file.sync_data()?;
    storage.rename(&temporary, name)?;
    storage.sync_dir()
}
