//! The one error type of this crate: what was being read, and what was wrong with it.

use thiserror::Error;

/// Why bytes could not be understood (or values not be encoded).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// The input ends before the thing does.
    #[error("{what}: {need} bytes are needed, {have} are there")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes needed.
        need: usize,
        /// Bytes available.
        have: usize,
    },
    /// A value that the protocol does not allow.
    #[error("{what}: {detail}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// The offending value and what is allowed.
        detail: String,
    },
    /// An event whose stored CRC32 differs from the one of its bytes.
    #[error("event checksum: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The CRC32 at the end of the event.
        stored: u32,
        /// The CRC32 of the bytes before it.
        computed: u32,
    },
}

impl WireError {
    /// An [`WireError::Invalid`] in one call.
    pub fn invalid(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { what, detail: detail.into() }
    }
}

/// `Result` with [`WireError`].
pub type Result<T> = std::result::Result<T, WireError>;
