//! Row events as rows: the one place where `mysql_cdc` reads bytes.
//!
//! `mysql_cdc` trusts its input: lengths size its vectors, and it indexes freely. So everything that sizes something is checked here
//! first, it gets copies of single events only, and a panic in it ends at this boundary as an error. Nothing here promises that an event
//! can be decoded: the caller prints bytes and the reason where it can't.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use baton_wire::event::{Compressed, EventKind, Rows, RowsAction, RowsLayout};
use mysql_cdc::errors::Error;
use mysql_cdc::events::binlog_event::BinlogEvent;
use mysql_cdc::events::event_header::EventHeader as CdcHeader;
use mysql_cdc::events::event_parser::EventParser;
use mysql_cdc::events::row_events::row_data::RowData;
use serde_json::Value;

use crate::events::table::Table;
use crate::events::values;

/// Rows events up to this size are decoded, in bytes (uncompressed).
const MAX_BYTES: usize = 16 << 20;
/// Values that the bytes of one event could be, at most: each takes 32 bytes of memory.
const MAX_CELLS: usize = 32 << 20;
/// Tables remembered, at most: a server numbers them anew when it opens them, and a statement needs few.
const MAX_TABLES: usize = 4096;
/// The `table_id` of a rows event without rows, which only ends a statement.
const DUMMY_TABLE: u64 = 0x00ff_ffff;

/// The columns of a row: name and value, in the table's order. Columns that the event leaves out are left out.
pub(super) type Columns = Vec<(String, Value)>;

/// One changed row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// The row before: of an update or delete.
    pub(super) before: Option<Columns>,
    /// The row after: of an insert or update.
    pub(super) after: Option<Columns>,
}

/// What became of a rows event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    /// `database.table`, if its TABLE_MAP was seen.
    pub(super) table: Option<(String, String)>,
    /// The rows, if they could be decoded.
    pub(super) rows: Option<Vec<Change>>,
    /// Why they could not, or not exactly.
    pub(super) reason: Option<String>,
}

/// Remembers tables and decodes the rows that refer to them.
#[derive(Debug, Default)]
pub(super) struct RowDecoder {
    tables: HashMap<u64, Result<Table, String>>,
}

impl RowDecoder {
    /// Forgets all tables: their numbers mean something else in another file.
    pub(super) fn clear(&mut self) {
        self.tables.clear();
    }

    /// Remembers the table of a TABLE_MAP event.
    pub(super) fn table_map(&mut self, body: &[u8]) {
        let (id, table) = match Table::parse(body) {
            Ok((id, table)) => (id, Ok(table)),
            Err(error) => match baton_wire::event::TableMap::parse(body) {
                Ok(map) => (map.table_id, Err(error.to_string())),
                Err(_) => return,
            },
        };
        if self.tables.len() >= MAX_TABLES && !self.tables.contains_key(&id) {
            self.tables.clear();
        }
        self.tables.insert(id, table);
    }

    /// Decodes a rows event.
    pub(super) fn rows(&self, kind: EventKind, body: &[u8], rows: &Rows<'_>) -> Decoded {
        if rows.table_id == DUMMY_TABLE {
            return Decoded { table: None, rows: Some(Vec::new()), reason: None };
        }
        let failed = |table, reason| Decoded { table, rows: None, reason: Some(reason) };
        let table = match self.tables.get(&rows.table_id) {
            None => return failed(None, format!("no TABLE_MAP event of table {} came before", rows.table_id)),
            Some(Err(why)) => return failed(None, why.clone()),
            Some(Ok(table)) => table,
        };
        let name = Some((table.database.clone(), table.name.clone()));
        match decode(table, kind, body, rows) {
            Ok(changes) => Decoded { table: name, rows: Some(changes), reason: inexact(table) },
            Err(reason) => failed(name, reason),
        }
    }
}

/// `mysql_cdc` keeps milliseconds of a time, not the microseconds that the log has.
fn inexact(table: &Table) -> Option<String> {
    (table.time_digits > 3).then(|| "digits of times beyond milliseconds are cut off".to_owned())
}

fn decode(table: &Table, kind: EventKind, body: &[u8], rows: &Rows<'_>) -> Result<Vec<Change>, String> {
    if rows.action == RowsAction::PartialUpdate {
        return Err("partial updates of JSON are not decoded".into());
    }
    let columns = table.types.len();
    if rows.columns != columns as u64 {
        return Err(format!("the event has {} columns, its table {columns}", rows.columns));
    }
    let maps = if rows.action == RowsAction::Update { 2 } else { 1 };
    let maps_len = maps * columns.div_ceil(8);
    let Some((present, _)) = rows.data.split_at_checked(maps_len) else {
        return Err("the event ends within its bit maps of columns".into());
    };
    let head_len = body.len() - rows.data.len() + maps_len;
    let (head, packed) = body.split_at_checked(head_len).ok_or("the event is shorter than its head")?;
    let (kind, data) = match rows.layout {
        RowsLayout::V1Compressed => (plain_kind(rows.action), decompress(packed)?),
        RowsLayout::V1 | RowsLayout::V2 => (kind, packed.to_vec()),
    };
    check_bounds(columns, present, &data)?;
    let event = [head, &data].concat();
    let parsed = guarded(|| parse(&table.body, kind, &event))??;
    changes(table, parsed)
}

/// The kind of the event once its rows are uncompressed.
fn plain_kind(action: RowsAction) -> EventKind {
    match action {
        RowsAction::Write => EventKind::WRITE_ROWS_V1,
        RowsAction::Update | RowsAction::PartialUpdate => EventKind::UPDATE_ROWS_V1,
        RowsAction::Delete => EventKind::DELETE_ROWS_V1,
    }
}

/// Refuses what would make `mysql_cdc` take memory without bound: too many values, or rows that take no bytes.
fn check_bounds(columns: usize, present: &[u8], data: &[u8]) -> Result<(), String> {
    if data.len() > MAX_BYTES {
        return Err(format!("{} bytes of rows; up to {MAX_BYTES} are decoded", data.len()));
    }
    let cells: usize = present.iter().map(|byte| byte.count_ones() as usize).sum();
    if cells == 0 && !data.is_empty() {
        return Err("rows of no columns".into());
    }
    // Each row has at least its NULL bits.
    let rows = data.len() / cells.div_ceil(8).max(1);
    if rows.saturating_mul(columns) > MAX_CELLS {
        return Err(format!("{} bytes could be {rows} rows of {columns} columns: too many to decode", data.len()));
    }
    Ok(())
}

/// Uncompresses MariaDB's compressed record.
pub(super) fn decompress(record: &[u8]) -> Result<Vec<u8>, String> {
    let head = Compressed::parse(record).map_err(|e| e.to_string())?;
    let size = head.uncompressed_size as usize;
    if head.algorithm != 0 {
        return Err(format!("compressed by algorithm {}; only zlib (0) is known", head.algorithm));
    }
    if size > MAX_BYTES {
        return Err(format!("{size} bytes, compressed; up to {MAX_BYTES} are decoded"));
    }
    let width = usize::from(record.first().copied().unwrap_or(0) & 0x07);
    let packed = record.get(1 + width..).unwrap_or_default();
    let mut plain = Vec::new();
    let read = flate2::read::ZlibDecoder::new(packed).take(size as u64 + 1).read_to_end(&mut plain);
    match read {
        Ok(n) if n == size => Ok(plain),
        Ok(n) => Err(format!("compressed: {n} bytes come out where {size} are announced")),
        Err(error) => Err(format!("compressed: {error}")),
    }
}

fn parse(table_map: &[u8], kind: EventKind, rows: &[u8]) -> Result<BinlogEvent, String> {
    let mut parser = EventParser::new();
    let text = |e: Error| match e {
        Error::IoError(e) => e.to_string(),
        Error::String(text) => text,
        Error::Utf8Error(_) | Error::FromUtf8Error(_) => "a string is not UTF-8".to_owned(),
        other => format!("{other:?}"),
    };
    parser.parse_event(&header(EventKind::TABLE_MAP), table_map).map_err(text)?;
    parser.parse_event(&header(kind), rows).map_err(text)
}

fn header(kind: EventKind) -> CdcHeader {
    CdcHeader {
        timestamp: 0,
        event_type: kind.0,
        server_id: 0,
        event_length: 0,
        next_event_position: 0,
        event_flags: 0,
    }
}

fn changes(table: &Table, event: BinlogEvent) -> Result<Vec<Change>, String> {
    let row = |row: &RowData, present: &[bool]| columns(table, row, present);
    Ok(match event {
        BinlogEvent::WriteRowsEvent(e) => {
            e.rows.iter().map(|r| Change { before: None, after: Some(row(r, &e.columns_present)) }).collect()
        }
        BinlogEvent::DeleteRowsEvent(e) => {
            e.rows.iter().map(|r| Change { before: Some(row(r, &e.columns_present)), after: None }).collect()
        }
        BinlogEvent::UpdateRowsEvent(e) => e
            .rows
            .iter()
            .map(|r| Change {
                before: Some(row(&r.before_update, &e.columns_before_update)),
                after: Some(row(&r.after_update, &e.columns_after_update)),
            })
            .collect(),
        _ => return Err("mysql_cdc does not know this event".into()),
    })
}

fn columns(table: &Table, row: &RowData, present: &[bool]) -> Columns {
    let cells = row.cells.iter().zip(&table.types).zip(present).enumerate().filter(|(_, (_, present))| **present);
    cells
        .map(|(i, ((cell, column_type), _))| {
            let value = cell.as_ref().map_or(Value::Null, |v| values::json(v, *column_type, table.is_unsigned(i)));
            (table.column_name(i), value)
        })
        .collect()
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; a panic becomes an error and is not printed.
fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        format!("mysql_cdc failed: {}", text.unwrap_or_default())
    })
}
