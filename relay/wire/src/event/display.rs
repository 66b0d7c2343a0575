//! Events as one line of text, for people who read a log.

use std::fmt;

use crate::event::{
    Compressed, EventBody, GtidEvent, GtidFlags, GtidListEvent, MysqlGtidEvent, Query, Rows, RowsAction,
    TransactionPayload, UserVar,
};

/// Bytes as text on one line: what is not UTF-8 is replaced, control characters are escaped.
#[derive(Debug, Clone, Copy)]
pub struct OneLine<'a>(pub &'a [u8]);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    f.write_char(c)?;
                }
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for EventBody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FormatDescription(d) => {
                write!(f, "server {} checksum {}", OneLine(d.server_version.as_bytes()), d.checksum.name())?;
                if d.created != 0 { write!(f, " started at {}", d.created) } else { Ok(()) }
            }
            Self::Rotate(r) => write!(f, "to {}:{}", OneLine(r.file.as_bytes()), r.position),
            Self::Stop => f.write_str("server stopped"),
            Self::MariaDbGtid(g) => mariadb_gtid(f, g),
            Self::GtidList(l) => gtid_list(f, l),
            Self::BinlogCheckpoint(c) => write!(f, "{}", OneLine(c.file.as_bytes())),
            Self::StartEncryption => f.write_str("the file's events are encrypted"),
            Self::MySqlGtid(g) => mysql_gtid(f, g),
            Self::PreviousGtids(p) if p.set.is_empty() => f.write_str("(empty)"),
            Self::PreviousGtids(p) => p.set.fmt(f),
            Self::TransactionPayload(p) => payload(f, p),
            Self::Heartbeat(h) => write!(f, "{}:{}", OneLine(h.file.as_bytes()), h.position),
            Self::Query(q) => {
                query_head(f, q)?;
                write!(f, "{}", OneLine(q.statement))
            }
            Self::QueryCompressed(q) => {
                query_head(f, q)?;
                compressed(f, Compressed::parse(q.statement).ok(), q.statement.len())
            }
            Self::RowsStatement(text) => write!(f, "{}", OneLine(text)),
            Self::Intvar(v) => match v.name() {
                Some(name) => write!(f, "{name}={}", v.value),
                None => write!(f, "variable {}={}", v.variable, v.value),
            },
            Self::Rand(r) => write!(f, "seeds {} {}", r.seed1, r.seed2),
            Self::UserVar(v) => user_var(f, v),
            Self::LoadBlock(b) => write!(f, "file {} {} bytes", b.file_id, b.data.len()),
            Self::TableMap(t) => {
                let (database, table) = (OneLine(t.database), OneLine(t.table));
                write!(f, "table {} is `{database}`.`{table}` ({} columns)", t.table_id, t.columns)
            }
            Self::Rows(r) => rows(f, r),
            Self::Xid(number) => write!(f, "COMMIT xid {number}"),
            Self::XaPrepare(p) => {
                write!(f, "XA {} {}", if p.one_phase { "COMMIT ONE PHASE" } else { "PREPARE" }, p.xid)
            }
            Self::Incident(i) => write!(f, "incident {}: {}", i.number, OneLine(i.message)),
            Self::Ignorable(body) | Self::Unknown(body) => write!(f, "{} bytes", body.len()),
        }
    }
}

fn mariadb_gtid(f: &mut fmt::Formatter<'_>, event: &GtidEvent) -> fmt::Result {
    const NAMES: [(u8, &str); 8] = [
        (GtidFlags::STANDALONE, "standalone"),
        (GtidFlags::GROUP_COMMIT_ID, "group-commit"),
        (GtidFlags::TRANSACTIONAL, "transactional"),
        (GtidFlags::ALLOW_PARALLEL, "parallel"),
        (GtidFlags::WAITED, "waited"),
        (GtidFlags::DDL, "ddl"),
        (GtidFlags::PREPARED_XA, "xa-prepare"),
        (GtidFlags::COMPLETED_XA, "xa-complete"),
    ];
    write!(f, "{}", event.gtid)?;
    for (_, name) in NAMES.iter().filter(|(flag, _)| event.flags.has(*flag)) {
        write!(f, " {name}")?;
    }
    if let Some(id) = event.commit_id {
        write!(f, " cid={id}")?;
    }
    if let Some(xid) = &event.xid {
        write!(f, " xid={xid}")?;
    }
    if let Some(sequence) = event.extra.start_alter {
        write!(f, " start-alter={sequence}")?;
    }
    Ok(())
}

fn gtid_list(f: &mut fmt::Formatter<'_>, list: &GtidListEvent) -> fmt::Result {
    if list.gtids.is_empty() {
        return f.write_str("(empty)");
    }
    for (i, gtid) in list.gtids.iter().enumerate() {
        write!(f, "{}{gtid}", if i > 0 { "," } else { "" })?;
    }
    Ok(())
}

fn mysql_gtid(f: &mut fmt::Formatter<'_>, event: &MysqlGtidEvent) -> fmt::Result {
    if event.gtid.number == 0 {
        f.write_str("ANONYMOUS")?;
    } else {
        write!(f, "{}", event.gtid)?;
    }
    if let (Some(last), Some(own)) = (event.last_committed, event.sequence_number) {
        write!(f, " last_committed={last} sequence_number={own}")?;
    }
    if let Some(length) = event.transaction_length {
        write!(f, " transaction_length={length}")?;
    }
    if let Some(micros) = event.original_commit_timestamp {
        write!(f, " original_commit={}.{:06}", micros / 1_000_000, micros % 1_000_000)?;
    }
    Ok(())
}

fn payload(f: &mut fmt::Formatter<'_>, event: &TransactionPayload<'_>) -> fmt::Result {
    match event.compression_name() {
        Some(name) => write!(f, "{name} {} bytes", event.payload.len())?,
        None => write!(f, "compression {} {} bytes", event.compression, event.payload.len())?,
    }
    match event.uncompressed_size {
        Some(size) => write!(f, ", {size} uncompressed"),
        None => Ok(()),
    }
}

fn query_head(f: &mut fmt::Formatter<'_>, query: &Query<'_>) -> fmt::Result {
    write!(f, "thread {}", query.thread_id)?;
    if !query.database.is_empty() {
        write!(f, " database {}", OneLine(query.database))?;
    }
    if query.error_code != 0 {
        write!(f, " error {}", query.error_code)?;
    }
    f.write_str(": ")
}

fn compressed(f: &mut fmt::Formatter<'_>, head: Option<Compressed>, len: usize) -> fmt::Result {
    match head {
        Some(Compressed { algorithm: 0, uncompressed_size }) => {
            write!(f, "zlib {len} bytes, {uncompressed_size} uncompressed")
        }
        Some(Compressed { algorithm, uncompressed_size }) => {
            write!(f, "compression {algorithm} {len} bytes, {uncompressed_size} uncompressed")
        }
        None => write!(f, "{len} bytes that are no compressed record"),
    }
}

fn user_var(f: &mut fmt::Formatter<'_>, var: &UserVar<'_>) -> fmt::Result {
    write!(f, "@{}", OneLine(var.name))?;
    match &var.value {
        None => f.write_str(" NULL"),
        Some(value) => match value.kind_name() {
            Some(kind) => write!(f, " {kind} {} bytes", value.bytes.len()),
            None => write!(f, " type {} {} bytes", value.kind, value.bytes.len()),
        },
    }
}

fn rows(f: &mut fmt::Formatter<'_>, rows: &Rows<'_>) -> fmt::Result {
    let action = match rows.action {
        RowsAction::Write => "insert into",
        RowsAction::Update => "update",
        RowsAction::PartialUpdate => "partially update",
        RowsAction::Delete => "delete from",
    };
    write!(f, "{action} table {} ({} columns): ", rows.table_id, rows.columns)?;
    match rows.compressed() {
        Some(head) => compressed(f, head.ok(), rows.data.len())?,
        None => write!(f, "{} bytes", rows.data.len())?,
    }
    if rows.ends_statement() { f.write_str(", statement ends") } else { Ok(()) }
}
