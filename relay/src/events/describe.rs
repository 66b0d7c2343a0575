//! What an event says, as named fields for JSON.

use baton_wire::event::{Compressed, EventBody, GtidFlags, Query, Rows, RowsAction, UserValue, UserVar};
use serde_json::{Value, json};

use crate::events::file::hex;
use crate::events::rows::decompress;

/// Fields in the order in which they are printed.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// The fields of a body, but for the rows of rows events.
pub(super) fn fields(body: &EventBody<'_>) -> Fields {
    match body {
        EventBody::FormatDescription(d) => vec![
            ("server_version", d.server_version.as_str().into()),
            ("created", d.created.into()),
            ("checksum_algorithm", d.checksum.name().into()),
        ],
        EventBody::Rotate(r) => vec![("next_file", r.file.as_str().into()), ("next_position", r.position.into())],
        EventBody::Stop | EventBody::StartEncryption => Vec::new(),
        EventBody::MariaDbGtid(g) => vec![
            ("gtid", g.gtid.to_string().into()),
            ("gtid_flags", flag_names(g.flags).into()),
            ("commit_id", g.commit_id.into()),
        ],
        EventBody::GtidList(l) => {
            vec![("gtids", l.gtids.iter().map(ToString::to_string).collect::<Vec<_>>().into())]
        }
        EventBody::BinlogCheckpoint(c) => vec![("oldest_needed_file", c.file.as_str().into())],
        EventBody::MySqlGtid(g) => vec![
            ("gtid", if g.gtid.number == 0 { "ANONYMOUS".into() } else { g.gtid.to_string().into() }),
            ("last_committed", g.last_committed.into()),
            ("sequence_number", g.sequence_number.into()),
            ("original_commit_us", g.original_commit_timestamp.into()),
            ("immediate_commit_us", g.immediate_commit_timestamp.into()),
            ("transaction_length", g.transaction_length.into()),
        ],
        EventBody::PreviousGtids(p) => vec![("gtids", p.set.to_string().into())],
        EventBody::TransactionPayload(p) => vec![
            ("compression", if p.compression == 0 { "zstd".into() } else { p.compression.into() }),
            ("reason", "the events inside are not unpacked".into()),
        ],
        EventBody::Heartbeat(h) => vec![("at_file", h.file.as_str().into()), ("at_position", h.position.into())],
        EventBody::Query(q) => {
            let mut fields = query(q);
            fields.push(("statement", text(q.statement)));
            fields
        }
        EventBody::QueryCompressed(q) => {
            let mut fields = query(q);
            match decompress(q.statement) {
                Ok(statement) => fields.push(("statement", text(&statement))),
                Err(why) => fields.extend([("statement_hex", hex(q.statement).into()), ("reason", why.into())]),
            }
            fields
        }
        EventBody::RowsStatement(statement) => vec![("statement", text(statement))],
        EventBody::Intvar(v) => {
            vec![("variable", v.name().map_or_else(|| v.variable.into(), Value::from)), ("value", v.value.into())]
        }
        EventBody::Rand(r) => vec![("seed1", r.seed1.into()), ("seed2", r.seed2.into())],
        EventBody::UserVar(v) => user_var(v),
        EventBody::LoadBlock(b) => vec![("file_id", b.file_id.into()), ("bytes", b.data.len().into())],
        EventBody::TableMap(t) => vec![
            ("table_id", t.table_id.into()),
            ("database", text(t.database)),
            ("table", text(t.table)),
            ("columns", t.columns.into()),
        ],
        EventBody::Rows(r) => vec![
            ("action", action(r.action).into()),
            ("table_id", r.table_id.into()),
            ("columns", r.columns.into()),
            ("ends_statement", r.ends_statement().into()),
        ],
        EventBody::Xid(number) => vec![("xid", (*number).into())],
        EventBody::XaPrepare(p) => vec![("xid", p.xid.to_string().into()), ("one_phase", p.one_phase.into())],
        EventBody::Incident(i) => vec![("incident", i.number.into()), ("message", text(i.message))],
        EventBody::Ignorable(body) | EventBody::Unknown(body) => vec![("hex", hex(body).into())],
    }
}

/// What a rows event does.
pub(super) fn action(action: RowsAction) -> &'static str {
    match action {
        RowsAction::Write => "insert",
        RowsAction::Update | RowsAction::PartialUpdate => "update",
        RowsAction::Delete => "delete",
    }
}

/// The rows of a rows event as they stand in it, behind its bit maps.
pub(super) fn row_bytes<'a>(rows: &Rows<'a>) -> &'a [u8] {
    let maps = if matches!(rows.action, RowsAction::Update | RowsAction::PartialUpdate) { 2 } else { 1 };
    let skip = usize::try_from(rows.columns.div_ceil(8).saturating_mul(maps)).unwrap_or(usize::MAX);
    rows.data.get(skip..).unwrap_or_default()
}

/// The statement of a compressed QUERY, for the text output.
pub(super) fn uncompressed_statement(body: &EventBody<'_>) -> Option<Vec<u8>> {
    match body {
        EventBody::QueryCompressed(q) if Compressed::parse(q.statement).is_ok() => decompress(q.statement).ok(),
        _ => None,
    }
}

fn query(q: &Query<'_>) -> Fields {
    vec![
        ("database", text(q.database)),
        ("thread_id", q.thread_id.into()),
        ("exec_time_s", q.exec_time.into()),
        ("error_code", q.error_code.into()),
    ]
}

fn user_var(v: &UserVar<'_>) -> Fields {
    let mut fields = vec![("variable", text(v.name))];
    match &v.value {
        None => fields.push(("value", Value::Null)),
        Some(value) => {
            fields.push(("value_type", value.kind_name().map_or_else(|| value.kind.into(), Value::from)));
            fields.push(("value", user_value(value)));
        }
    }
    fields
}

fn user_value(value: &UserValue<'_>) -> Value {
    let eight = value.bytes.first_chunk::<8>().copied();
    match (value.kind_name(), eight) {
        (Some("string"), _) => text(value.bytes),
        (Some("real"), Some(bytes)) => f64::from_le_bytes(bytes).into(),
        // Whether it is unsigned stands behind the value, and not in older logs: both readings agree where it matters little.
        (Some("int"), Some(bytes)) => i64::from_le_bytes(bytes).into(),
        _ => json!({ "hex": hex(value.bytes) }),
    }
}

fn flag_names(flags: GtidFlags) -> Vec<&'static str> {
    [
        (GtidFlags::STANDALONE, "standalone"),
        (GtidFlags::GROUP_COMMIT_ID, "group_commit_id"),
        (GtidFlags::TRANSACTIONAL, "transactional"),
        (GtidFlags::ALLOW_PARALLEL, "allow_parallel"),
        (GtidFlags::WAITED, "waited"),
        (GtidFlags::DDL, "ddl"),
        (GtidFlags::PREPARED_XA, "prepared_xa"),
        (GtidFlags::COMPLETED_XA, "completed_xa"),
    ]
    .into_iter()
    .filter_map(|(flag, name)| flags.has(flag).then_some(name))
    .collect()
}

/// Bytes as a string; what is not UTF-8 as `{"hex":"..."}`.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}
