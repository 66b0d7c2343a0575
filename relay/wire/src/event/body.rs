//! Any event's body, read as far as its kind is known.

use crate::error::Result;
use crate::event::{
    BinlogCheckpoint, EventHeader, EventKind, Flavor, FormatDescription, GtidEvent, GtidListEvent, Heartbeat, Intvar,
    LoadBlock, MysqlGtidEvent, PreviousGtids, Query, Rand, Rotate, Rows, TableMap, TransactionPayload, UserVar,
    XaPrepare,
};
use crate::read::Reader;

/// What an event says. Texts and values are slices of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventBody<'a> {
    /// FORMAT_DESCRIPTION.
    FormatDescription(FormatDescription),
    /// ROTATE.
    Rotate(Rotate),
    /// STOP.
    Stop,
    /// MariaDB's GTID.
    MariaDbGtid(GtidEvent),
    /// GTID_LIST.
    GtidList(GtidListEvent),
    /// BINLOG_CHECKPOINT.
    BinlogCheckpoint(BinlogCheckpoint),
    /// START_ENCRYPTION. Its key version, and nothing secret, is in the body; it is passed over.
    StartEncryption,
    /// GTID, GTID_TAGGED, ANONYMOUS_GTID.
    MySqlGtid(MysqlGtidEvent),
    /// PREVIOUS_GTIDS.
    PreviousGtids(PreviousGtids),
    /// TRANSACTION_PAYLOAD.
    TransactionPayload(TransactionPayload<'a>),
    /// HEARTBEAT, HEARTBEAT_V2.
    Heartbeat(Heartbeat),
    /// QUERY, EXECUTE_LOAD_QUERY.
    Query(Query<'a>),
    /// QUERY_COMPRESSED.
    QueryCompressed(Query<'a>),
    /// ANNOTATE_ROWS, ROWS_QUERY: the statement of the row events that follow.
    RowsStatement(&'a [u8]),
    /// INTVAR.
    Intvar(Intvar),
    /// RAND.
    Rand(Rand),
    /// USER_VAR.
    UserVar(UserVar<'a>),
    /// BEGIN_LOAD_QUERY, APPEND_BLOCK, DELETE_FILE.
    LoadBlock(LoadBlock<'a>),
    /// TABLE_MAP.
    TableMap(TableMap<'a>),
    /// Row events of all versions.
    Rows(Rows<'a>),
    /// XID: the number of the transaction in the primary's engines.
    Xid(u64),
    /// XA_PREPARE.
    XaPrepare(XaPrepare),
    /// INCIDENT.
    Incident(Incident<'a>),
    /// IGNORABLE.
    Ignorable(&'a [u8]),
    /// A kind that is not read.
    Unknown(&'a [u8]),
}

/// Something that replication cannot express: replicas stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident<'a> {
    /// 1: events were lost.
    pub number: u16,
    /// What the primary has to say about it.
    pub message: &'a [u8],
}

impl<'a> Incident<'a> {
    /// Reads an event's body.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new("incident event", body);
        let number = r.u16()?;
        let len = usize::from(r.u8()?);
        Ok(Self { number, message: r.bytes(len)? })
    }
}

impl<'a> EventBody<'a> {
    /// Reads the body (without header and checksum, see [`body`](crate::event::body)) of any event from a server of `flavor`.
    pub fn decode(header: &EventHeader, body: &'a [u8], flavor: Flavor) -> Result<Self> {
        let kind = header.kind;
        Ok(match kind {
            EventKind::FORMAT_DESCRIPTION => Self::FormatDescription(FormatDescription::parse_body(body)?),
            EventKind::ROTATE => Self::Rotate(Rotate::parse(body)?),
            EventKind::STOP => Self::Stop,
            EventKind::MARIADB_GTID => Self::MariaDbGtid(GtidEvent::parse(header.server_id, body)?),
            EventKind::GTID_LIST => Self::GtidList(GtidListEvent::parse(body)?),
            EventKind::BINLOG_CHECKPOINT => Self::BinlogCheckpoint(BinlogCheckpoint::parse(body)?),
            EventKind::START_ENCRYPTION => Self::StartEncryption,
            EventKind::GTID | EventKind::GTID_TAGGED | EventKind::ANONYMOUS_GTID => {
                Self::MySqlGtid(MysqlGtidEvent::parse(kind, body)?)
            }
            EventKind::PREVIOUS_GTIDS => Self::PreviousGtids(PreviousGtids::parse(body)?),
            EventKind::TRANSACTION_PAYLOAD => Self::TransactionPayload(TransactionPayload::parse(body)?),
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 => Self::Heartbeat(Heartbeat::parse(header, body, flavor)?),
            EventKind::QUERY | EventKind::EXECUTE_LOAD_QUERY => Self::Query(Query::parse(kind, body)?),
            EventKind::QUERY_COMPRESSED => Self::QueryCompressed(Query::parse(kind, body)?),
            EventKind::ANNOTATE_ROWS => Self::RowsStatement(body),
            // One byte of length, which is of no use for longer statements, stands before the text.
            EventKind::ROWS_QUERY => Self::RowsStatement(body.get(1..).unwrap_or_default()),
            EventKind::INTVAR => Self::Intvar(Intvar::parse(body)?),
            EventKind::RAND => Self::Rand(Rand::parse(body)?),
            EventKind::USER_VAR => Self::UserVar(UserVar::parse(body)?),
            EventKind::BEGIN_LOAD_QUERY | EventKind::APPEND_BLOCK | EventKind::DELETE_FILE => {
                Self::LoadBlock(LoadBlock::parse(body)?)
            }
            EventKind::TABLE_MAP => Self::TableMap(TableMap::parse(body)?),
            _ if Rows::shape(kind).is_some() => Self::Rows(Rows::parse(kind, body)?),
            EventKind::XID => Self::Xid(Reader::new("xid event", body).u64()?),
            EventKind::XA_PREPARE => Self::XaPrepare(XaPrepare::parse(body)?),
            EventKind::INCIDENT => Self::Incident(Incident::parse(body)?),
            EventKind::IGNORABLE => Self::Ignorable(body),
            _ => Self::Unknown(body),
        })
    }
}
