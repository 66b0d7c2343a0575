//! `meta.json`: whose log this is, its epochs, and which files are closed.
//!
//! Replaced as a whole (temporary file, sync, rename, sync of the directory) when the log is created, when a file is begun
//! and before files are removed: so a file that is missing, or shorter than it was when it was closed, is noticed.

use baton_wire::Flavor;
use serde::{Deserialize, Serialize};

use super::error::{LogError, StorageFailure};
use super::storage::{self, Storage};
use super::types::{Epoch, LogIdentity, LogPos};

/// The file's name.
pub(super) const NAME: &str = "meta.json";
const VERSION: u32 = 1;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    version: u32,
    pub(super) log_id: String,
    pub(super) cluster: String,
    pub(super) base: Option<String>,
    flavor: Option<String>,
    pub(super) upstream_server_id: Option<u32>,
    pub(super) epochs: Vec<MetaEpoch>,
    /// Closed files in ascending order: number and size in bytes.
    pub(super) closed: Vec<(u64, u64)>,
    /// Transactions in files that retention has removed.
    pub(super) purged_transactions: u64,
    /// Numbers up to this one were used: files grow beyond it.
    pub(super) purged_through: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetaEpoch {
    pub(super) epoch: u64,
    pub(super) server_id: u32,
    pub(super) first_file: u64,
    pub(super) shift: i64,
    pub(super) begin: (u64, u64),
    pub(super) gtid: Option<String>,
    /// Base name of the primary's files, where it is not the log's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<String>,
}

impl Meta {
    /// A new log's.
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            version: VERSION,
            log_id: uuid_v4(rand::random()),
            cluster: cluster.to_owned(),
            base: None,
            flavor: None,
            upstream_server_id: None,
            epochs: Vec::new(),
            closed: Vec::new(),
            purged_transactions: 0,
            purged_through: 0,
        }
    }

    /// Reads it; `None` if there is none.
    pub(super) fn load(storage: &dyn Storage) -> Result<Option<Self>, LogError> {
        let wrap = |e| LogError::storage(NAME, 0, "read it", e);
        let bytes = match storage.open(NAME) {
            Ok(file) => storage::read_whole(&*file).map_err(wrap)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(wrap(e)),
        };
        let bad = |detail| LogError::Meta { file: format!("{}/{NAME}", storage.describe()), detail };
        let meta: Self = serde_json::from_slice(&bytes).map_err(|e| {
            bad(format!(
                "not a log's description ({e}); restore it, or move the directory away and let the relay begin anew"
            ))
        })?;
        if meta.version != VERSION {
            return Err(bad(format!("version {}; this relay reads version {VERSION}", meta.version)));
        }
        if meta.flavor.is_some() && meta.flavor().is_none() {
            return Err(bad(format!("flavor {:?}; mariadb and mysql are known", meta.flavor)));
        }
        if meta.closed.windows(2).any(|w| w[0].0 >= w[1].0) {
            return Err(bad("the closed files are not in ascending order".into()));
        }
        if meta.base.as_deref().is_some_and(|b| b.is_empty() || b.contains(['/', '\0'])) {
            return Err(bad(format!("base {:?} is not a file name", meta.base)));
        }
        Ok(Some(meta))
    }

    /// Writes it; durable once this returned.
    pub(super) fn store(&self, storage: &dyn Storage) -> Result<(), StorageFailure> {
        let wrap = |e| StorageFailure::new(NAME, 0, "write it", e);
        let text = serde_json::to_vec(self).map_err(|e| wrap(e.into()))?;
        storage::replace(storage, NAME, &text).map_err(wrap)
    }

    pub(super) fn flavor(&self) -> Option<Flavor> {
        [Flavor::MariaDb, Flavor::MySql].into_iter().find(|f| self.flavor.as_deref() == Some(f.name()))
    }

    pub(super) fn set_flavor(&mut self, flavor: Flavor) {
        self.flavor = Some(flavor.name().to_owned());
    }

    /// A file's name.
    pub(super) fn file_name(&self, number: u64) -> Option<String> {
        self.base.as_ref().map(|base| format!("{base}.{number:06}"))
    }

    /// As others see it.
    pub(super) fn identity(&self) -> LogIdentity {
        let epochs = self.epochs.iter().map(|e| Epoch {
            epoch: e.epoch,
            server_id: e.server_id,
            first_upstream_file: e.first_file,
            shift: e.shift,
            begin: LogPos { file: e.begin.0, offset: e.begin.1 },
            gtid: e.gtid.clone(),
            base: e.base.clone().or_else(|| self.base.clone()).unwrap_or_default(),
        });
        LogIdentity {
            log_id: self.log_id.clone(),
            cluster: self.cluster.clone(),
            base: self.base.clone(),
            flavor: self.flavor(),
            upstream_server_id: self.upstream_server_id,
            epochs: epochs.collect(),
        }
    }
}

/// RFC 9562, version 4.
fn uuid_v4(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    baton_wire::gtid::mysql::Uuid(bytes).to_string()
}
