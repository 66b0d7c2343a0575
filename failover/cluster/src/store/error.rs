//! What can go wrong with etcd, in words.

use std::path::PathBuf;

use thiserror::Error;

/// Why etcd was not read or changed.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// No endpoint answered in time: etcd is down, frozen, cut off or without a quorum.
    #[error("etcd does not answer ({tried}): {cause}")]
    Unavailable {
        /// The endpoints that were tried.
        tried: String,
        /// What the last one said.
        cause: String,
    },
    /// etcd answered, and refused: wrong user or password, missing role, a request that it does not take.
    #[error("etcd at {endpoint} refuses: {cause}")]
    Refused {
        /// The endpoint.
        endpoint: String,
        /// Its words.
        cause: String,
    },
    /// Whoever wrote this does not lead any more: nothing was changed.
    #[error("this controller does not lead any more (term {term}): nothing was changed")]
    Deposed {
        /// The term that it led in.
        term: u64,
    },
    /// A key is not as it was when it was read: nothing was changed.
    #[error("{key} was changed by somebody else: nothing was changed")]
    Conflict {
        /// The key.
        key: String,
    },
    /// A document can't be read.
    #[error("{key} in etcd can't be read: {cause}; a newer version of Baton may have written it")]
    Document {
        /// The key.
        key: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The way to etcd is set up wrongly.
    #[error("etcd.{key}: {cause}")]
    Config {
        /// The configuration's key.
        key: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// A file of the configuration can't be read.
    #[error("etcd.{key} = {}: {cause}", path.display())]
    File {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl StoreError {
    /// Whether trying again later may help without anybody's doing.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
