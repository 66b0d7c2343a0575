//! Statements and what prepares them: QUERY, QUERY_COMPRESSED, INTVAR, RAND, USER_VAR, and LOAD DATA's events.
//!
//! Format: `Query_log_event` and following in MariaDB's `sql/log_event.h`, `statement_events.h` in MySQL's
//! `libs/mysql/binlog/event/`.

use crate::error::{Result, WireError};
use crate::event::EventKind;
use crate::read::Reader;

/// A statement, with what it needs to run alike on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// Connection on the primary; temporary tables belong to it.
    pub thread_id: u32,
    /// Seconds that it took on the primary.
    pub exec_time: u32,
    /// Error with which it ended on the primary, 0 for none.
    pub error_code: u16,
    /// Status variables (SQL mode, character sets, ...), as they stand.
    pub status: &'a [u8],
    /// The default database; empty for none.
    pub database: &'a [u8],
    /// The statement; in a QUERY_COMPRESSED event a [`Compressed`] record.
    pub statement: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads the body of a QUERY, QUERY_COMPRESSED or EXECUTE_LOAD_QUERY event (whose file fields are skipped).
    pub fn parse(kind: EventKind, body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new("query event", body);
        let thread_id = r.u32()?;
        let exec_time = r.u32()?;
        let database = usize::from(r.u8()?);
        let error_code = r.u16()?;
        let status = usize::from(r.u16()?);
        if kind == EventKind::EXECUTE_LOAD_QUERY {
            r.bytes(LOAD_FIELDS_LEN)?;
        }
        let status = r.bytes(status)?;
        let database = r.bytes(database)?;
        if r.u8()? != 0 {
            return Err(WireError::invalid("query event", "the database's name does not end where its length says"));
        }
        Ok(Self { thread_id, exec_time, error_code, status, database, statement: r.take_rest() })
    }
}

/// File id, first and last offset of the file's name in the statement, handling of duplicates.
const LOAD_FIELDS_LEN: usize = 4 + 4 + 4 + 1;

/// The statement of a QUERY event's body.
pub fn query_text(body: &[u8]) -> Result<&[u8]> {
    Ok(Query::parse(EventKind::QUERY, body)?.statement)
}

/// The head of a compressed record (MariaDB's `log_bin_compress`), which stands in place of a statement or of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// 0 is zlib; no other is in use.
    pub algorithm: u8,
    /// Bytes of what is compressed.
    pub uncompressed_size: u32,
}

impl Compressed {
    /// Reads a record's head: a byte of mark, algorithm and width, then the size, most significant byte first.
    pub fn parse(record: &[u8]) -> Result<Self> {
        let mut r = Reader::new("compressed record", record);
        let head = r.u8()?;
        let width = usize::from(head & 0x07);
        if head & 0xe0 != 0x80 || !(1..=4).contains(&width) {
            return Err(WireError::invalid("compressed record", format!("begins with {head:#04x}, not 0x81 to 0x84")));
        }
        let size = r.bytes(width)?.iter().fold(0, |size: u32, byte| size << 8 | u32::from(*byte));
        Ok(Self { algorithm: (head & 0x18) >> 3, uncompressed_size: size })
    }
}

/// A value of AUTO_INCREMENT or LAST_INSERT_ID() for the statement that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intvar {
    /// 1: LAST_INSERT_ID; 2: INSERT_ID.
    pub variable: u8,
    /// Its value.
    pub value: u64,
}

impl Intvar {
    /// Reads an event's body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("intvar event", body);
        Ok(Self { variable: r.u8()?, value: r.u64()? })
    }

    /// Name of the variable, if it is known.
    pub fn name(&self) -> Option<&'static str> {
        match self.variable {
            1 => Some("LAST_INSERT_ID"),
            2 => Some("INSERT_ID"),
            _ => None,
        }
    }
}

/// Seeds of RAND() for the statement that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rand {
    /// First seed.
    pub seed1: u64,
    /// Second seed.
    pub seed2: u64,
}

impl Rand {
    /// Reads an event's body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("rand event", body);
        Ok(Self { seed1: r.u64()?, seed2: r.u64()? })
    }
}

/// A user variable for the statement that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserVar<'a> {
    /// Its name, without `@`.
    pub name: &'a [u8],
    /// Type and value; `None` for NULL.
    pub value: Option<UserValue<'a>>,
}

/// Type and value of a user variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserValue<'a> {
    /// `Item_result`: 0 string, 1 real, 2 int, 3 row, 4 decimal.
    pub kind: u8,
    /// Number of the collation.
    pub collation: u32,
    /// The value, encoded by type.
    pub bytes: &'a [u8],
}

impl<'a> UserVar<'a> {
    /// Reads an event's body.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new("user variable event", body);
        let len = r.u32()? as usize;
        let name = r.bytes(len)?;
        if r.u8()? != 0 {
            return Ok(Self { name, value: None });
        }
        let (kind, collation, len) = (r.u8()?, r.u32()?, r.u32()? as usize);
        Ok(Self { name, value: Some(UserValue { kind, collation, bytes: r.bytes(len)? }) })
    }
}

impl UserValue<'_> {
    /// Name of the type, if it is known.
    pub fn kind_name(&self) -> Option<&'static str> {
        ["string", "real", "int", "row", "decimal"].get(usize::from(self.kind)).copied()
    }
}

/// A block of the file of a LOAD DATA statement (BEGIN_LOAD_QUERY, APPEND_BLOCK), or its removal (DELETE_FILE, no data).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadBlock<'a> {
    /// Tells the files of a server apart.
    pub file_id: u32,
    /// The block.
    pub data: &'a [u8],
}

impl<'a> LoadBlock<'a> {
    /// Reads an event's body.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new("load data event", body);
        Ok(Self { file_id: r.u32()?, data: r.take_rest() })
    }
}
