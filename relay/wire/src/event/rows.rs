//! TABLE_MAP and the heads of row events: which table, which statement. Values are not read here.
//!
//! Format: `Table_map_log_event` and `Rows_log_event` in MariaDB's `sql/log_event.h`, `rows_event.h` in MySQL's
//! `libs/mysql/binlog/event/`.

use crate::error::{Result, WireError};
use crate::event::EventKind;
use crate::event::query::Compressed;
use crate::read::Reader;

/// Gives a table a number for the row events that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableMap<'a> {
    /// The number, 48 bits.
    pub table_id: u64,
    /// The database's name.
    pub database: &'a [u8],
    /// The table's name.
    pub table: &'a [u8],
    /// Number of columns.
    pub columns: u64,
}

impl<'a> TableMap<'a> {
    /// Reads an event's body up to the number of columns.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new("table map event", body);
        let table_id = r.u48()?;
        r.u16()?; // flags
        let database = name(&mut r)?;
        let table = name(&mut r)?;
        let columns = r.lenenc()?.ok_or_else(|| WireError::invalid("table map event", "number of columns is NULL"))?;
        Ok(Self { table_id, database, table, columns })
    }
}

fn name<'a>(r: &mut Reader<'a>) -> Result<&'a [u8]> {
    let len = usize::from(r.u8()?);
    let name = r.bytes(len)?;
    if r.u8()? != 0 {
        return Err(WireError::invalid("table map event", "a name does not end where its length says"));
    }
    Ok(name)
}

/// What a row event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsAction {
    /// Rows are inserted.
    Write,
    /// Rows are changed.
    Update,
    /// Rows are changed, JSON columns by differences.
    PartialUpdate,
    /// Rows are deleted.
    Delete,
}

/// Layout of a row event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsLayout {
    /// MariaDB's.
    V1,
    /// MariaDB's, with compressed rows.
    V1Compressed,
    /// MySQL's, with extra data behind the flags.
    V2,
}

/// The head of a row event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows<'a> {
    /// What is done.
    pub action: RowsAction,
    /// Layout of the event.
    pub layout: RowsLayout,
    /// The table, as the TABLE_MAP before gave it; `0xffffff` in an event without rows that only ends a statement.
    pub table_id: u64,
    /// Bits: [`Rows::STATEMENT_END`] and others.
    pub flags: u16,
    /// Number of columns.
    pub columns: u64,
    /// Bit maps of columns, then rows; with [`RowsLayout::V1Compressed`] the rows are a [`Compressed`] record.
    pub data: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Last row event of a statement.
    pub const STATEMENT_END: u16 = 0x0001;

    /// Action and layout of an event kind, if it is one of rows.
    pub fn shape(kind: EventKind) -> Option<(RowsAction, RowsLayout)> {
        Some(match kind {
            EventKind::WRITE_ROWS_V1 => (RowsAction::Write, RowsLayout::V1),
            EventKind::UPDATE_ROWS_V1 => (RowsAction::Update, RowsLayout::V1),
            EventKind::DELETE_ROWS_V1 => (RowsAction::Delete, RowsLayout::V1),
            EventKind::WRITE_ROWS_COMPRESSED_V1 => (RowsAction::Write, RowsLayout::V1Compressed),
            EventKind::UPDATE_ROWS_COMPRESSED_V1 => (RowsAction::Update, RowsLayout::V1Compressed),
            EventKind::DELETE_ROWS_COMPRESSED_V1 => (RowsAction::Delete, RowsLayout::V1Compressed),
            EventKind::WRITE_ROWS => (RowsAction::Write, RowsLayout::V2),
            EventKind::UPDATE_ROWS => (RowsAction::Update, RowsLayout::V2),
            EventKind::DELETE_ROWS => (RowsAction::Delete, RowsLayout::V2),
            EventKind::PARTIAL_UPDATE_ROWS => (RowsAction::PartialUpdate, RowsLayout::V2),
            _ => return None,
        })
    }

    /// Reads the head of an event's body.
    pub fn parse(kind: EventKind, body: &'a [u8]) -> Result<Self> {
        const WHAT: &str = "rows event";
        let Some((action, layout)) = Self::shape(kind) else {
            return Err(WireError::invalid(WHAT, format!("{kind} is not a rows event")));
        };
        let mut r = Reader::new(WHAT, body);
        let table_id = r.u48()?;
        let flags = r.u16()?;
        if layout == RowsLayout::V2 {
            // The length counts itself.
            let extra = usize::from(r.u16()?);
            r.bytes(extra.checked_sub(2).ok_or_else(|| {
                WireError::invalid(WHAT, format!("extra data of {extra} bytes, its length alone takes 2"))
            })?)?;
        }
        let columns = r.lenenc()?.ok_or_else(|| WireError::invalid(WHAT, "number of columns is NULL"))?;
        Ok(Self { action, layout, table_id, flags, columns, data: r.take_rest() })
    }

    /// Whether the statement ends with this event.
    pub fn ends_statement(&self) -> bool {
        self.flags & Self::STATEMENT_END != 0
    }

    /// The head of the compressed rows; `None` if they are not compressed.
    pub fn compressed(&self) -> Option<Result<Compressed>> {
        if self.layout != RowsLayout::V1Compressed {
            return None;
        }
        // An update has two bit maps: columns before and after.
        let maps = if self.action == RowsAction::Update { 2 } else { 1 };
        let mut r = Reader::new("compressed rows", self.data);
        let skip = usize::try_from(self.columns.div_ceil(8).saturating_mul(maps)).unwrap_or(usize::MAX);
        Some(r.bytes(skip).and_then(|_| Compressed::parse(r.rest())))
    }
}
