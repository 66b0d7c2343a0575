//! Cuts what was read of the log into events, and passes on the pieces of those that are larger than a read.
//!
//! Relies on how the log is fed: an event that is not larger than a read is never cut in two.

use baton_wire::WireError;
use baton_wire::event::{EventHeader, HEADER_LEN};

use super::emit::{EmitError, Emitter};

/// Frames what is whole at the front of `bytes`, or the next piece of an event that is larger than a read; gives how much is done with.
pub(super) fn take(
    emitter: &mut Emitter,
    out: &mut Vec<u8>,
    large: &mut Option<(usize, bool)>,
    bytes: &[u8],
) -> Result<usize, EmitError> {
    if let Some((left, sent)) = large.take() {
        let n = left.min(bytes.len());
        if sent {
            emitter.push_large(out, &bytes[..n])?;
        }
        if left > n {
            *large = Some((left - n, sent));
        }
        return Ok(n);
    }
    let whole = whole_events(bytes)?;
    if whole > 0 {
        return emitter.run(out, &bytes[..whole]);
    }
    // Not even one: the read ends inside an event that is larger than it.
    let header = EventHeader::parse(bytes)?;
    let sent = emitter.begin_large(out, &header, &bytes[HEADER_LEN..])?;
    if sent {
        emitter.push_large(out, bytes)?;
    }
    *large = Some(((header.size as usize).saturating_sub(bytes.len()), sent));
    Ok(bytes.len())
}

/// Bytes at the front of `data` that are whole events.
fn whole_events(data: &[u8]) -> Result<usize, WireError> {
    let mut at = 0;
    while data.len() - at >= HEADER_LEN {
        let size = EventHeader::parse(&data[at..])?.size as usize;
        if size > data.len() - at {
            break;
        }
        at += size;
    }
    Ok(at)
}
