//! What the agent keeps over its own restarts: small JSON files in its data directory.
//!
//! Promises: what [`Kept::change`] has returned for is on disk; a crash leaves the last document or the one before it; a file that can't be read is
//! an error, never taken for an empty one: the last order would be forgotten.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::process::Identity;
use super::slots::Slots;
use crate::model::{OrderNumber, ServerRole};

/// Why something could not be kept or found again.
#[derive(Debug, Clone, Error)]
#[error("{}: {cause}", path.display())]
pub struct KeptError {
    /// The file.
    pub path: PathBuf,
    /// What the system or the parser said, and what to do.
    pub cause: String,
}

/// What this node is for, and what it was ordered to do: `role.json`. Changed before an order is obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Duty {
    /// Number of the last order obeyed.
    pub last_order: OrderNumber,
    /// What the server is for.
    pub role: ServerRole,
    /// The epoch in which it became that.
    pub role_epoch: u64,
    /// Term and epoch of the last order to be writable.
    pub opened: Option<(u64, u64)>,
    /// Set while writes are blocked for a switchover.
    pub blocked: Option<Blocked>,
    /// What `prepare` told.
    pub prepared: Option<Prepared>,
    /// Whom the server was told to follow.
    pub following: Option<Following>,
    /// Whether this agent has fenced its server because it was cut off; until the server starts again.
    pub self_fenced: bool,
    /// What the server was for when this node was given up, in the epoch `role_epoch`: nothing is done by itself before a later one, or an order.
    pub given_up: Option<ServerRole>,
    /// File with what the server has and the cluster's log lacks.
    pub surplus: Option<PathBuf>,
}

impl Default for Duty {
    fn default() -> Self {
        Self {
            last_order: OrderNumber::default(),
            role: ServerRole::Unassigned,
            role_epoch: 0,
            opened: None,
            blocked: None,
            prepared: None,
            following: None,
            self_fenced: false,
            given_up: None,
            surplus: None,
        }
    }
}

impl Duty {
    /// What the server is used for: its role, or the one that it had when it was given up.
    pub fn used_as(&self) -> ServerRole {
        self.given_up.unwrap_or(self.role)
    }
}

/// Writes are blocked for a switchover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The epoch that the switchover began.
    pub epoch: u64,
    /// Set until clients have been told: they hear of the end of their sessions only while the address is here. Not kept.
    #[serde(skip)]
    pub closing: bool,
}

/// The end of `prepare`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The binlog file with which the epoch begins.
    pub first_file: String,
    /// The GTID position at its beginning.
    pub gtid: String,
}

/// A source of replication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Following {
    /// `host:port` of the relay's replication.
    pub source: String,
    /// The relay's name.
    pub relay: String,
}

/// What is convenient to know while the server or etcd does not answer: `known.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The server's own words, when it answered last.
    pub server: Option<KnownServer>,
    /// `host:port` of the HTTP of every controller that was there.
    pub controllers: Vec<String>,
    /// `host:port` of the HTTP of every relay that was there.
    pub relays: Vec<String>,
    /// Whether the event scheduler ran while this server was the primary; none: it never was, as far as is known.
    pub scheduler: Option<bool>,
    /// The server that this agent started, or saw.
    pub child: Option<Identity>,
    /// Whether the last start has not come as far yet that the server answered.
    pub unfinished: bool,
}

/// Where a server keeps what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownServer {
    /// `@@datadir`.
    pub datadir: PathBuf,
    /// `@@log_bin_basename`: directory and base name of its binlog files.
    pub log_bin_basename: PathBuf,
    /// `@@server_id`.
    pub server_id: u32,
    /// `@@version`.
    pub version: String,
}

/// A document with its file. Clones share both.
pub struct Kept<T> {
    path: Arc<PathBuf>,
    value: Arc<Mutex<T>>,
    /// Held while the file is written, so that what is written follows one another as values do.
    writing: Arc<Mutex<Slots>>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { path: Arc::clone(&self.path), value: Arc::clone(&self.value), writing: Arc::clone(&self.writing) }
    }
}

/// What a file of [`Kept`] holds, for somebody who changes nothing; the default if there is none.
///
/// # Errors
/// It is there and can't be read.
pub fn look<T: Default + DeserializeOwned>(path: &Path) -> Result<T, KeptError> {
    let found = Slots::look(path).map_err(|cause| KeptError { path: path.to_owned(), cause })?;
    value_of(path, found)
}

fn value_of<T: Default + DeserializeOwned>(path: &Path, found: Option<String>) -> Result<T, KeptError> {
    let Some(text) = found else { return Ok(T::default()) };
    serde_json::from_str(&text).map_err(|e| KeptError {
        cause: format!("is not what an agent wrote: {e}; if it is damaged, remove it once the cluster is steady"),
        path: path.to_owned(),
    })
}

impl<T> Kept<T>
where
    T: Clone + PartialEq + Default + Serialize + DeserializeOwned + Send + 'static,
{
    /// Reads the file; one that is not there holds the default.
    ///
    /// # Errors
    /// It is there and can't be read.
    pub fn open(path: PathBuf) -> Result<Self, KeptError> {
        let opened = Slots::open(&path).map_err(|cause| KeptError { path: path.clone(), cause });
        let (slots, found) = opened?;
        let value = value_of(&path, found)?;
        Ok(Self { path: Arc::new(path), value: Arc::new(Mutex::new(value)), writing: Arc::new(Mutex::new(slots)) })
    }

    /// A copy of the present value.
    pub fn get(&self) -> T {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the value at once and the file before it returns. Without a difference nothing is written.
    ///
    /// # Errors
    /// The file could not be written; the value is changed all the same.
    pub async fn change(&self, change: impl FnOnce(&mut T) + Send + 'static) -> Result<(), KeptError> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || this.change_now(change)).await;
        done.unwrap_or_else(|e| Err(self.error(format!("the writer ended: {e}"))))
    }

    /// As [`change`](Self::change), blocking.
    ///
    /// # Errors
    /// As there.
    pub fn change_now(&self, change: impl FnOnce(&mut T)) -> Result<(), KeptError> {
        let changed = {
            let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
            let before = value.clone();
            change(&mut value);
            *value != before
        };
        if !changed {
            return Ok(());
        }
        let mut slots = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest value, whoever made it: writers may overtake each other.
        let text = serde_json::to_string(&self.get()).map_err(|e| self.error(e.to_string()))?;
        slots.write(&text).map_err(|e| self.error(format!("can't be written: {e}")))
    }

    fn error(&self, cause: String) -> KeptError {
        KeptError { path: self.path.to_path_buf(), cause }
    }
}

/// Replaces a file whole: written beside it, synced, renamed, and the directory synced.
///
/// # Errors
/// Those of the file system; then the old file is still there.
pub fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().ok_or_else(|| std::io::Error::from(ErrorKind::InvalidInput))?;
    // Another process, or another part of this one, may replace the same file.
    static WRITING: Mutex<()> = Mutex::new(());
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut beside = name.to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = dir.join(beside);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_data()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        let _half = fs::remove_file(&beside);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("role.json");
        let kept: Kept<Duty> = Kept::open(path.clone()).unwrap();
        assert_eq!(kept.get(), Duty::default());
        let number = OrderNumber { term: 12, epoch: 8, step: 3 };
        kept.change_now(|d| {
            d.last_order = number;
            d.role = ServerRole::Primary;
            d.opened = Some((12, 8));
        })
        .unwrap();
        let again: Kept<Duty> = Kept::open(path.clone()).unwrap();
        assert_eq!(again.get(), kept.get());
        assert_eq!(again.get().last_order, number);
        fs::write(&path, "{\"last_order\":").unwrap();
        let error = Kept::<Duty>::open(path).err().unwrap().to_string();
        assert!(error.contains("role.json: is not what an agent wrote"), "{error}");
    }

    #[test]
    fn a_file_that_several_replace_at_once_is_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("role.cnf");
        std::thread::scope(|scope| {
            for text in ["a".repeat(5000), "b".repeat(7000)] {
                let path = &path;
                scope.spawn(move || (0..50).for_each(|_| replace(path, text.as_bytes()).unwrap()));
            }
        });
        let found = fs::read_to_string(&path).unwrap();
        assert!(found == "a".repeat(5000) || found == "b".repeat(7000), "{} bytes", found.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_value_counts_even_where_its_file_could_not_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let kept: Kept<Duty> = Kept::open(dir.path().join("gone/role.json")).unwrap();
        kept.change_now(|d| d.role = ServerRole::Fenced).unwrap_err();
        assert_eq!(kept.get().role, ServerRole::Fenced);
    }
}
