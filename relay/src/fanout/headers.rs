//! The first events of a file, which a client is sent before events from the middle of it.

use baton_wire::event::{EventHeader, EventKind, FIRST_EVENT, FormatDescription};

use super::dump::{DumpEnd, read_end};
use crate::log::{Chunk, LogPos, LogReader};

/// A format description and a list of GTIDs are smaller than this; a larger list is left out, which clients take.
const HEADER_EVENTS_BYTES: usize = 64 * 1024;

/// The events at the beginning of a file that say how the rest is read.
pub(super) struct HeaderEvents {
    pub(super) format: FormatDescription,
    pub(super) format_event: Vec<u8>,
    pub(super) gtid_list_event: Option<Vec<u8>>,
}

/// Reads them; leaves the reader elsewhere than it was.
pub(super) async fn read_header_events(reader: &mut LogReader, file: u64) -> Result<HeaderEvents, DumpEnd> {
    let begin = LogPos { file, offset: FIRST_EVENT };
    reader.go_to(begin);
    let (mut bytes, mut buf) = (Vec::new(), Vec::new());
    // What is shared near the head comes in the pieces in which it arrived.
    while bytes.len() < HEADER_EVENTS_BYTES {
        match reader.read(HEADER_EVENTS_BYTES - bytes.len(), &mut buf).await.map_err(read_end)? {
            Chunk::Shared(chunk) => bytes.extend_from_slice(&chunk),
            Chunk::Buffered(n) => bytes.extend_from_slice(buf.get(..n).unwrap_or_default()),
            Chunk::AtEnd | Chunk::NextFile(_) => break,
        }
        reader.go_to(LogPos { file, offset: FIRST_EVENT + bytes.len() as u64 });
    }
    let mut next = 0;
    let mut event_at = |kind: EventKind| -> Option<Vec<u8>> {
        let header = EventHeader::parse(bytes.get(next..)?).ok()?;
        let event = bytes.get(next..next + header.size as usize)?;
        (header.kind == kind).then(|| {
            next += event.len();
            event.to_vec()
        })
    };
    let Some(format_event) = event_at(EventKind::FORMAT_DESCRIPTION) else {
        return Err(DumpEnd::Log(format!("file {file} does not begin with a format description")));
    };
    let gtid_list_event = event_at(EventKind::GTID_LIST);
    let format = FormatDescription::parse(&format_event)?;
    Ok(HeaderEvents { format, format_event, gtid_list_event })
}
