//! Prints events: one line of text or one JSON object each.

use std::io::{self, Write};

use baton_wire::event::{EventBody, Mark, OneLine, TransactionTracker};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::clock::Micros;
use crate::events::describe;
use crate::events::file::{Checksum, RawEvent, hex};
use crate::events::rows::{Change, Columns, Decoded, RowDecoder};

/// Prints the events of one log after the other.
pub(super) struct Printer<W> {
    out: W,
    json: bool,
    decoder: RowDecoder,
    tracker: TransactionTracker,
    gtid: Option<String>,
}

/// One line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    position: u64,
    end: u64,
    timestamp: u32,
    #[serde(rename = "type")]
    kind: String,
    server_id: u32,
    size: u32,
    flags: u16,
    checksum: &'static str,
    gtid: Option<&'a str>,
    #[serde(flatten)]
    body: Map<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<Row<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<RowMap<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<RowMap<'a>>,
}

/// A JSON object that keeps its order.
struct Map<V>(Vec<(&'static str, V)>);

impl<V: Serialize> Serialize for Map<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct RowMap<'a>(&'a Columns);

impl Serialize for RowMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<W: Write> Printer<W> {
    /// Prints to `out`.
    pub(super) fn new(out: W, json: bool) -> Self {
        Self { out, json, decoder: RowDecoder::default(), tracker: TransactionTracker::new(), gtid: None }
    }

    /// A new file begins.
    pub(super) fn begin(&mut self, file: &str) -> io::Result<()> {
        self.decoder.clear();
        self.tracker = TransactionTracker::new();
        self.gtid = None;
        if self.json { Ok(()) } else { writeln!(self.out, "# {}", OneLine(file.as_bytes())) }
    }

    /// Prints one event; what is wrong with it is returned as well, for the exit code.
    pub(super) fn event(&mut self, file: &str, event: &RawEvent) -> io::Result<Option<String>> {
        let decoded = EventBody::decode(&event.header, event.body(), event.flavor);
        let ends = self.follow(event);
        let rows = match &decoded {
            Ok(EventBody::TableMap(_)) => {
                self.decoder.table_map(event.body());
                None
            }
            Ok(EventBody::Rows(rows)) => Some(self.decoder.rows(event.header.kind, event.body(), rows)),
            _ => None,
        };
        let error = match (event.checksum, &decoded) {
            (Checksum::Bad, _) => Some("its checksum does not match: the event is damaged".to_owned()),
            (_, Err(error)) => Some(error.to_string()),
            _ => None,
        };
        if self.json {
            self.json_line(file, event, decoded.as_ref().ok(), rows.as_ref(), error.as_deref())?;
        } else {
            self.text_line(event, decoded.as_ref().ok(), rows.as_ref(), error.as_deref())?;
        }
        if ends {
            self.gtid = None;
        }
        Ok(error)
    }

    /// Everything so far is out.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Keeps the GTID of the present transaction; true if it ends with this event.
    fn follow(&mut self, event: &RawEvent) -> bool {
        match self.tracker.observe(&event.header, event.body()) {
            Ok(Mark::Begin(id, _)) => self.gtid = Some(id.to_string()),
            Ok(Mark::Inside) => {}
            Ok(Mark::Outside) => self.gtid = None,
            Ok(Mark::End) => return true,
            Err(_) => {
                // Printing goes on with what there is: events without their beginning belong to no transaction.
                self.tracker = TransactionTracker::new();
                self.gtid = None;
                if let Ok(Mark::Begin(id, _)) = self.tracker.observe(&event.header, event.body()) {
                    self.gtid = Some(id.to_string());
                }
            }
        }
        false
    }

    fn json_line(
        &mut self,
        file: &str,
        event: &RawEvent,
        body: Option<&EventBody<'_>>,
        rows: Option<&Decoded>,
        error: Option<&str>,
    ) -> io::Result<()> {
        let header = &event.header;
        let mut fields = body.map(describe::fields).unwrap_or_default();
        // A GTID event's own GTID is the line's.
        fields.retain(|(name, _)| *name != "gtid");
        if let Some((database, table)) = rows.and_then(|r| r.table.as_ref()) {
            fields.push(("database", database.as_str().into()));
            fields.push(("table", table.as_str().into()));
        }
        let rows_hex = match (rows, body) {
            (Some(Decoded { reason: Some(_), .. }), Some(EventBody::Rows(r))) => Some(hex(describe::row_bytes(r))),
            _ => None,
        };
        let line = Line {
            file,
            position: event.offset,
            end: event.end,
            timestamp: header.timestamp,
            kind: header.kind.to_string(),
            server_id: header.server_id,
            size: header.size,
            flags: header.flags,
            checksum: event.checksum.name(),
            gtid: self.gtid.as_deref(),
            body: Map(fields),
            rows: rows.and_then(|r| r.rows.as_ref()).map(|rows| rows.iter().map(row).collect()),
            rows_hex,
            reason: rows.and_then(|r| r.reason.clone()),
            error: error.map(str::to_owned),
        };
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")
    }

    fn text_line(
        &mut self,
        event: &RawEvent,
        body: Option<&EventBody<'_>>,
        rows: Option<&Decoded>,
        error: Option<&str>,
    ) -> io::Result<()> {
        let header = &event.header;
        let time = match header.timestamp {
            0 => "-".to_owned(),
            seconds => Micros(i64::from(seconds) * 1_000_000).rfc3339().replace(".000Z", "Z"),
        };
        write!(
            self.out,
            "{:>10}  {time:20}  {:>5}  {:20} {:>7}  ",
            event.offset,
            header.server_id,
            header.kind.to_string(),
            header.size
        )?;
        match (body, body.and_then(describe::uncompressed_statement)) {
            (_, Some(statement)) => write!(self.out, "{}", OneLine(&statement))?,
            (Some(body), None) => write!(self.out, "{body}")?,
            (None, None) => {}
        }
        if let Some((database, table)) = rows.and_then(|r| r.table.as_ref()) {
            write!(self.out, " `{}`.`{}`", OneLine(database.as_bytes()), OneLine(table.as_bytes()))?;
        }
        if let Some(error) = error {
            write!(self.out, " [{error}]")?;
        }
        writeln!(self.out)?;
        let Some(rows) = rows else { return Ok(()) };
        for change in rows.rows.iter().flatten() {
            self.text_row(change)?;
        }
        if let (Some(reason), Some(EventBody::Rows(r))) = (&rows.reason, body) {
            writeln!(self.out, "{:>14}({reason}) {}", "", hex(describe::row_bytes(r)))?;
        }
        Ok(())
    }

    fn text_row(&mut self, change: &Change) -> io::Result<()> {
        let object = |c: &Columns| serde_json::to_string(&RowMap(c)).map_err(io::Error::other);
        write!(self.out, "{:>14}", "")?;
        match (&change.before, &change.after) {
            (Some(before), Some(after)) => writeln!(self.out, "{} -> {}", object(before)?, object(after)?),
            (Some(only), None) => writeln!(self.out, "- {}", object(only)?),
            (None, Some(only)) => writeln!(self.out, "+ {}", object(only)?),
            (None, None) => writeln!(self.out),
        }
    }
}

fn row(change: &Change) -> Row<'_> {
    Row { before: change.before.as_ref().map(RowMap), after: change.after.as_ref().map(RowMap) }
}
