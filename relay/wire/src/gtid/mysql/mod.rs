//! MySQL's GTIDs: `uuid[:tag]:number`, and sets of them.
//!
//! Source: "GTID Format and Storage" in MySQL's manual, `libs/mysql/gtid/` and `sql/rpl_gtid_set.cc`.

mod codec;
mod set;
mod text;

pub use set::GtidSet;

use std::fmt;

use crate::error::{Result, WireError};

/// The largest number of a transaction (`GNO_END - 1`).
pub const MAX_NUMBER: u64 = i64::MAX as u64 - 1;
/// Longest tag, in characters.
pub const MAX_TAG_LEN: usize = 32;

/// A server's `@@server_uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Who numbers the transactions: a server, and since 8.3 optionally a tag (empty: none).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Source {
    /// The server.
    pub uuid: Uuid,
    /// Up to 32 characters, lower case; empty for none.
    pub tag: String,
}

impl Source {
    /// A source; the tag is taken in any case and may be empty. Error: it is not a tag (a letter or `_`, then at most 31 letters,
    /// digits or `_`).
    pub fn new(uuid: Uuid, tag: &str) -> Result<Self> {
        if !tag.is_empty() && !is_tag(tag) {
            return Err(WireError::invalid(
                "gtid tag",
                format!("{tag:?} is none: a letter or _, then up to 31 letters, digits or _"),
            ));
        }
        Ok(Self { uuid, tag: tag.to_ascii_lowercase() })
    }
}

/// One transaction's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gtid {
    /// Who numbered it.
    pub source: Source,
    /// 1 to [`MAX_NUMBER`].
    pub number: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source.uuid)?;
        if !self.source.tag.is_empty() {
            write!(f, ":{}", self.source.tag)?;
        }
        write!(f, ":{}", self.number)
    }
}

/// Whether `text` is a tag, in any case.
fn is_tag(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && text.len() <= MAX_TAG_LEN && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
