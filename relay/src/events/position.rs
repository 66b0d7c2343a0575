//! Where the events of a stream stand in the server's files: streams carry names in rotations and positions modulo 2^32.

use baton_wire::event::{EventKind, FIRST_EVENT, Rotate};

use crate::events::file::RawEvent;

/// The place that a stream has reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct StreamPosition {
    /// The file's name; empty before the first rotation told it.
    pub(super) file: String,
    next: u64,
}

impl StreamPosition {
    /// Takes an event: sets where it begins and ends, and moves on. True if another file begins with it.
    pub(super) fn take(&mut self, event: &mut RawEvent) -> bool {
        let header = event.header;
        (event.offset, event.end) = (self.next, self.next);
        if header.kind == EventKind::ROTATE && header.is_artificial() {
            let Ok(rotate) = Rotate::parse(event.body()) else { return false };
            let new = rotate.file != self.file;
            (self.file, self.next) = (rotate.file, rotate.position);
            (event.offset, event.end) = (self.next, self.next);
            return new;
        }
        if header.kind == EventKind::FORMAT_DESCRIPTION {
            // Sent before every start in the middle, too; it always stands at the beginning.
            event.offset = FIRST_EVENT;
            event.end = FIRST_EVENT + u64::from(header.size);
            self.next = self.next.max(event.end);
            return false;
        }
        let is_heartbeat = matches!(header.kind, EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2);
        if header.is_artificial() || header.log_pos == 0 || is_heartbeat {
            return false;
        }
        let end = at_or_after(header.log_pos, self.next);
        event.offset = end.saturating_sub(u64::from(header.size));
        event.end = end;
        self.next = end;
        false
    }
}

/// The first position at or after `least` whose low 32 bits are `low`.
fn at_or_after(low: u32, least: u64) -> u64 {
    let position = (least & !u64::from(u32::MAX)) | u64::from(low);
    if position < least { position.saturating_add(1 << 32) } else { position }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_on_beyond_4_gib() {
        assert_eq!(at_or_after(900, 800), 900);
        assert_eq!(at_or_after(900, 900), 900);
        assert_eq!(at_or_after(10, u64::from(u32::MAX) - 5), (1 << 32) + 10);
        assert_eq!(at_or_after(50, (3 << 32) + 20), (3 << 32) + 50);
    }
}
