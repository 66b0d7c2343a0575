//! Text result sets: writing them as a server, reading them as a client.
//!
//! Owns column definitions and rows (MySQL internals, "Text Resultset"), in the classic format with EOF packets and in the one of
//! `CLIENT_DEPRECATE_EOF`. Promises: a reader keeps no more rows and bytes than it was told. Never knows SQL types: values are text.

use crate::capabilities::{
    CLIENT_DEPRECATE_EOF, CLIENT_OPTIONAL_RESULTSET_METADATA, MARIADB_CLIENT_CACHE_METADATA,
    MARIADB_CLIENT_EXTENDED_METADATA, has,
};
use crate::error::{Result, WireError};
use crate::packet::{MAX_PAYLOAD, write_packet};
use crate::put;
use crate::read::Reader;
use crate::response::{EofPacket, ErrPacket, OkPacket};

/// Column type: 64-bit integer.
pub const TYPE_LONGLONG: u8 = 0x08;
/// Column type: string.
pub const TYPE_VAR_STRING: u8 = 0xfd;
/// Collation id of bytes and numbers.
pub const CHARSET_BINARY: u16 = 63;
/// Collation id `utf8mb3_general_ci`, which every client knows.
pub const CHARSET_UTF8: u16 = 33;

/// Most columns that a server allows a table; more in a result is nonsense.
const MAX_COLUMNS: u64 = 4096;

const WHAT: &str = "result set";

/// The definition of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDef {
    /// Database, may be empty.
    pub schema: String,
    /// Table or its alias, may be empty.
    pub table: String,
    /// Table, may be empty.
    pub org_table: String,
    /// Name or alias of the column.
    pub name: String,
    /// Column, may be empty.
    pub org_name: String,
    /// Collation id.
    pub charset: u16,
    /// Longest value, in bytes.
    pub length: u32,
    /// `MYSQL_TYPE_*`.
    pub column_type: u8,
    /// Column flags (`NOT_NULL` and so on).
    pub flags: u16,
    /// Digits behind the point; 31 or 39 for what has none.
    pub decimals: u8,
}

impl ColumnDef {
    /// A column of text.
    pub fn text(name: &str) -> Self {
        Self::with_type(name, TYPE_VAR_STRING, CHARSET_UTF8, 1024)
    }

    /// A column of integers.
    pub fn integer(name: &str) -> Self {
        Self::with_type(name, TYPE_LONGLONG, CHARSET_BINARY, 21)
    }

    fn with_type(name: &str, column_type: u8, charset: u16, length: u32) -> Self {
        Self {
            schema: String::new(),
            table: String::new(),
            org_table: String::new(),
            name: name.to_owned(),
            org_name: String::new(),
            charset,
            length,
            column_type,
            flags: 0,
            decimals: 0,
        }
    }

    /// Payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for text in ["def", &self.schema, &self.table, &self.org_table, &self.name, &self.org_name] {
            put::lenenc_bytes(&mut out, text.as_bytes());
        }
        out.push(0x0c);
        out.extend_from_slice(&self.charset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.push(self.column_type);
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&[self.decimals, 0, 0]);
        out
    }

    /// Reads a payload; `extended` are the `MARIADB_CLIENT_*` bits that both sides have.
    pub fn parse(payload: &[u8], extended: u32) -> Result<Self> {
        let mut r = Reader::new("column definition", payload);
        let mut text = || -> Result<String> { Ok(put::text(r.lenenc_bytes()?.unwrap_or_default())) };
        text()?;
        let (schema, table, org_table, name, org_name) = (text()?, text()?, text()?, text()?, text()?);
        if has(extended, MARIADB_CLIENT_EXTENDED_METADATA) {
            text()?;
        }
        r.lenenc()?;
        let (charset, length, column_type, flags, decimals) = (r.u16()?, r.u32()?, r.u8()?, r.u16()?, r.u8()?);
        Ok(Self { schema, table, org_table, name, org_name, charset, length, column_type, flags, decimals })
    }
}

/// A result set to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextResult {
    /// The columns; at least one.
    pub columns: Vec<ColumnDef>,
    /// The rows, each with as many values as there are columns; `None` is NULL.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

impl TextResult {
    /// A result without rows yet.
    pub fn new(columns: Vec<ColumnDef>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// One row with one value; `None` is NULL.
    pub fn single(column: ColumnDef, value: Option<&str>) -> Self {
        let mut result = Self::new(vec![column]);
        result.push([value]);
        result
    }

    /// Adds a row.
    pub fn push<'a>(&mut self, row: impl IntoIterator<Item = Option<&'a str>>) {
        self.rows.push(row.into_iter().map(|value| value.map(|text| text.as_bytes().to_vec())).collect());
    }

    /// Appends all packets; `seq` is the number of the first (1 in answer to a command) and is left at the next one. `capabilities` are
    /// those that both sides have; MariaDB's extended ones must not have been offered. `status`: `STATUS_*` bits.
    pub fn encode(&self, out: &mut Vec<u8>, seq: &mut u8, capabilities: u32, status: u16) {
        let mut payload = Vec::new();
        put::lenenc(&mut payload, self.columns.len() as u64);
        write_packet(out, seq, &payload);
        for column in &self.columns {
            write_packet(out, seq, &column.encode());
        }
        let deprecate_eof = has(capabilities, CLIENT_DEPRECATE_EOF);
        let eof = EofPacket { warnings: 0, status }.encode();
        if !deprecate_eof {
            write_packet(out, seq, &eof);
        }
        for row in &self.rows {
            payload.clear();
            for value in row {
                match value {
                    Some(bytes) => put::lenenc_bytes(&mut payload, bytes),
                    None => payload.push(0xfb),
                }
            }
            write_packet(out, seq, &payload);
        }
        if deprecate_eof {
            write_packet(out, seq, &OkPacket::with_status(status).encode_end_of_rows(capabilities));
        } else {
            write_packet(out, seq, &eof);
        }
    }
}

/// A result set that was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextRows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with as many values as there are columns; `None` is NULL.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

impl TextRows {
    /// The value in row `row` (from 0) under the column `name`, in whatever case; `None` if there is none, if it is NULL or not UTF-8.
    pub fn get(&self, row: usize, name: &str) -> Option<&str> {
        let column = self.columns.iter().position(|column| column.eq_ignore_ascii_case(name))?;
        self.at(row, column)
    }

    /// The value at (`row`, `column`), both from 0; `None` if there is none, if it is NULL or not UTF-8.
    pub fn at(&self, row: usize, column: usize) -> Option<&str> {
        std::str::from_utf8(self.rows.get(row)?.get(column)?.as_deref()?).ok()
    }
}

/// What a payload brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadStep {
    /// The answer goes on.
    More,
    /// The answer is this result set.
    Rows(TextRows),
    /// The answer is OK, without rows.
    Ok(OkPacket),
    /// The answer is an error, perhaps after some rows.
    Err(ErrPacket),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Columns(u64),
    EndOfColumns,
    Rows,
    Done,
}

/// Reads the answer to one `COM_QUERY` (or to a command that is answered with OK or ERR), payload by payload.
#[derive(Debug)]
pub struct ResultReader {
    capabilities: u32,
    extended: u32,
    max_rows: usize,
    max_bytes: usize,
    bytes: usize,
    state: State,
    result: TextRows,
}

impl ResultReader {
    /// Rows that a reader takes if nothing else is said.
    pub const MAX_ROWS: usize = 100_000;
    /// Bytes of definitions and rows that a reader takes if nothing else is said.
    pub const MAX_BYTES: usize = 64 << 20;

    /// A reader for one answer; `capabilities` are those that both sides have.
    pub fn new(capabilities: u32) -> Self {
        Self {
            capabilities,
            extended: 0,
            max_rows: Self::MAX_ROWS,
            max_bytes: Self::MAX_BYTES,
            bytes: 0,
            state: State::First,
            result: TextRows::default(),
        }
    }

    /// For a connection on which MariaDB's extended capabilities were agreed on.
    pub fn with_extended(mut self, extended: u32) -> Self {
        self.extended = extended;
        self
    }

    /// Other limits: `rows`, and `bytes` of definitions and rows.
    pub fn with_limits(mut self, rows: usize, bytes: usize) -> Self {
        (self.max_rows, self.max_bytes) = (rows, bytes);
        self
    }

    /// Takes the next payload. After anything but [`ReadStep::More`] the answer is complete, and further payloads are an error.
    ///
    /// # Errors
    /// Malformed payloads, a request for a local file, and more rows or bytes than allowed. The connection cannot be used after one.
    pub fn on_packet(&mut self, payload: &[u8]) -> Result<ReadStep> {
        self.bytes = self.bytes.saturating_add(payload.len());
        if self.bytes > self.max_bytes {
            return Err(WireError::invalid(WHAT, format!("more than {} bytes", self.max_bytes)));
        }
        if self.state != State::Done && ErrPacket::is(payload) {
            self.state = State::Done;
            return ErrPacket::parse(payload).map(ReadStep::Err);
        }
        match self.state {
            State::First => self.on_first(payload),
            State::Columns(left) => {
                self.result.columns.push(ColumnDef::parse(payload, self.extended)?.name);
                self.state = match left {
                    0 | 1 if has(self.capabilities, CLIENT_DEPRECATE_EOF) => State::Rows,
                    0 | 1 => State::EndOfColumns,
                    _ => State::Columns(left - 1),
                };
                Ok(ReadStep::More)
            }
            State::EndOfColumns => {
                EofPacket::parse(payload)?;
                self.state = State::Rows;
                Ok(ReadStep::More)
            }
            State::Rows if self.is_end_of_rows(payload) => {
                self.state = State::Done;
                Ok(ReadStep::Rows(std::mem::take(&mut self.result)))
            }
            State::Rows => self.on_row(payload),
            State::Done => Err(WireError::invalid(WHAT, "a packet after the end of the answer")),
        }
    }

    fn on_first(&mut self, payload: &[u8]) -> Result<ReadStep> {
        match payload.first() {
            Some(0x00) => {
                self.state = State::Done;
                return OkPacket::parse(payload, self.capabilities).map(ReadStep::Ok);
            }
            Some(0xfb) => return Err(WireError::invalid(WHAT, "the server asks for a local file, which is refused")),
            _ => {}
        }
        let mut r = Reader::new(WHAT, payload);
        let count = r.lenenc()?.unwrap_or_default();
        if count == 0 || count > MAX_COLUMNS {
            return Err(WireError::invalid(WHAT, format!("{count} columns, 1 to {MAX_COLUMNS} are allowed")));
        }
        let flag_follows = has(self.extended, MARIADB_CLIENT_CACHE_METADATA)
            || has(self.capabilities, CLIENT_OPTIONAL_RESULTSET_METADATA);
        if flag_follows && r.u8()? != 1 {
            return Err(WireError::invalid(WHAT, "the server leaves the column definitions out"));
        }
        if !r.is_empty() {
            return Err(WireError::invalid(WHAT, format!("{} bytes after the column count", r.remaining())));
        }
        self.state = State::Columns(count);
        Ok(ReadStep::More)
    }

    /// A row may begin with `fe` too, but then holds a value of 16 MiB or more.
    fn is_end_of_rows(&self, payload: &[u8]) -> bool {
        let longest = if has(self.capabilities, CLIENT_DEPRECATE_EOF) { MAX_PAYLOAD } else { 9 };
        payload.first() == Some(&0xfe) && payload.len() < longest
    }

    fn on_row(&mut self, payload: &[u8]) -> Result<ReadStep> {
        if self.result.rows.len() >= self.max_rows {
            return Err(WireError::invalid(WHAT, format!("more than {} rows", self.max_rows)));
        }
        let mut r = Reader::new("row", payload);
        let mut row = Vec::with_capacity(self.result.columns.len());
        for _ in &self.result.columns {
            row.push(r.lenenc_bytes()?.map(<[u8]>::to_vec));
        }
        if !r.is_empty() {
            return Err(WireError::invalid("row", format!("{} bytes after the last value", r.remaining())));
        }
        self.result.rows.push(row);
        Ok(ReadStep::More)
    }
}

#[cfg(test)]
#[path = "resultset_tests.rs"]
mod tests;
