//! TABLE_MAP as far as values need it: column types, signedness, names.
//!
//! Format: `Table_map_log_event` in MariaDB's `sql/log_event.h`; the optional fields: `Table_map_event::Optional_metadata_fields` in
//! MySQL's `libs/mysql/binlog/event/rows_event.h`.

use baton_wire::read::Reader;
use baton_wire::{Result, WireError};

const WHAT: &str = "table map event";
/// Columns of a table, at most (`MAX_FIELDS` of both families).
const MAX_COLUMNS: u64 = 4096;
const FIELD_SIGNEDNESS: u8 = 1;
const FIELD_COLUMN_NAME: u8 = 4;

/// A table, as its TABLE_MAP event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// The event's body up to the optional fields.
    pub(super) body: Vec<u8>,
    /// The database's name.
    pub(super) database: String,
    /// The table's name.
    pub(super) name: String,
    /// `enum_field_types` of each column.
    pub(super) types: Vec<u8>,
    /// Digits behind the second of the most exact time column.
    pub(super) time_digits: u8,
    /// For each column whether it is unsigned; `None` if the event does not tell (`binlog_row_metadata=NO_LOG`). False for columns that
    /// are no numbers.
    pub(super) unsigned: Option<Vec<bool>>,
    /// The columns' names; `None` if the event does not tell.
    pub(super) names: Option<Vec<String>>,
}

impl Table {
    /// Reads an event's body; the first value is the table's number.
    pub(super) fn parse(body: &[u8]) -> Result<(u64, Self)> {
        let mut r = Reader::new(WHAT, body);
        let id = r.u48()?;
        r.u16()?; // flags
        let database = text(name(&mut r)?);
        let table = text(name(&mut r)?);
        let columns = r.lenenc()?.unwrap_or(0);
        if !(1..=MAX_COLUMNS).contains(&columns) {
            return Err(invalid(format!("{columns} columns; 1 to {MAX_COLUMNS} are possible")));
        }
        let columns = columns as usize;
        let types = r.bytes(columns)?.to_vec();
        let metadata = r.lenenc_bytes()?.unwrap_or_default();
        let expected: usize = types.iter().map(|t| metadata_len(*t)).sum();
        if metadata.len() != expected {
            return Err(invalid(format!("{} bytes about its columns where {expected} are expected", metadata.len())));
        }
        r.bytes(columns.div_ceil(8))?;
        let fixed = body.len() - r.remaining();
        let mut table = Self {
            body: body.get(..fixed).unwrap_or_default().to_vec(),
            database,
            name: table,
            time_digits: time_digits(&types, metadata),
            types,
            unsigned: None,
            names: None,
        };
        while !r.is_empty() {
            let field = r.u8()?;
            let value = r.lenenc_bytes()?.unwrap_or_default();
            match field {
                FIELD_SIGNEDNESS => table.unsigned = Some(signedness(&table.types, value)),
                FIELD_COLUMN_NAME => table.names = Some(column_names(value, columns)?),
                _ => {}
            }
        }
        Ok((id, table))
    }

    /// What a column is called in the output: its name, or `@n`, counted from 1, as `mariadb-binlog` writes it.
    pub(super) fn column_name(&self, index: usize) -> String {
        let name = self.names.as_ref().and_then(|n| n.get(index)).cloned();
        name.unwrap_or_else(|| format!("@{}", index + 1))
    }

    /// Whether a column is unsigned, if that is told.
    pub(super) fn is_unsigned(&self, index: usize) -> Option<bool> {
        self.unsigned.as_ref().map(|u| u.get(index).copied().unwrap_or(false))
    }
}

fn invalid(detail: String) -> WireError {
    WireError::invalid(WHAT, detail)
}

fn name<'a>(r: &mut Reader<'a>) -> Result<&'a [u8]> {
    let len = usize::from(r.u8()?);
    let name = r.bytes(len)?;
    r.u8()?; // NUL
    Ok(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that a column has in the event's list of column metadata (`Field::save_field_metadata`).
fn metadata_len(column_type: u8) -> usize {
    match column_type {
        // FLOAT, DOUBLE, TIMESTAMP2, DATETIME2, TIME2, MariaDB's compressed BLOB, MySQL's VECTOR, JSON, BLOBs, GEOMETRY
        4 | 5 | 17..=19 | 140 | 242 | 245 | 249..=252 | 255 => 1,
        // VARCHAR, BIT, MariaDB's compressed VARCHAR, NEWDECIMAL, ENUM, SET, VAR_STRING, STRING
        15 | 16 | 141 | 246..=248 | 253 | 254 => 2,
        _ => 0,
    }
}

/// The metadata of TIMESTAMP2, DATETIME2 and TIME2 is their number of digits.
fn time_digits(types: &[u8], mut metadata: &[u8]) -> u8 {
    let mut most = 0;
    for column_type in types {
        let (own, rest) = metadata.split_at_checked(metadata_len(*column_type)).unwrap_or_default();
        if let (17..=19, [digits]) = (column_type, own) {
            most = most.max(*digits);
        }
        metadata = rest;
    }
    most
}

/// Numbers only have a bit, the most significant one of each byte first.
fn signedness(types: &[u8], bits: &[u8]) -> Vec<bool> {
    let mut nth = 0;
    let mut unsigned = Vec::with_capacity(types.len());
    for column_type in types {
        // TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24, NEWDECIMAL
        let is_number = matches!(column_type, 1..=5 | 8 | 9 | 246);
        unsigned.push(is_number && bits.get(nth / 8).is_some_and(|byte| byte & (0x80 >> (nth % 8)) != 0));
        nth += usize::from(is_number);
    }
    unsigned
}

fn column_names(value: &[u8], columns: usize) -> Result<Vec<String>> {
    let mut r = Reader::new(WHAT, value);
    let mut names = Vec::with_capacity(columns);
    while !r.is_empty() {
        names.push(text(r.lenenc_bytes()?.unwrap_or_default()));
    }
    if names.len() != columns {
        return Err(invalid(format!("{} names for {columns} columns", names.len())));
    }
    Ok(names)
}
