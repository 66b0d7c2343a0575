//! Cuts a file's bytes, which come in pieces of any size, into events: pure.

use baton_wire::event::{BODY_PREFIX, EventHeader, HEADER_LEN};
use bytes::{Buf, Bytes, BytesMut};

/// Events above this size are passed on in pieces.
const WHOLE: usize = 1 << 20;

/// Bytes that have come, and what is known of the event at their front.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    bytes: BytesMut,
    /// Bytes that the event that was begun still lacks.
    left: usize,
}

/// A piece of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) first: bool,
    pub(super) last: bool,
    pub(super) data: Bytes,
}

impl Cutter {
    /// More bytes have come.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// The next event, or a piece of it; `None` if more bytes are needed. Errors: what is at the front is no event.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, String> {
        if self.left > 0 {
            let n = self.left.min(self.bytes.len());
            self.left -= n;
            return Ok((n > 0).then(|| self.take(n, false, self.left == 0)));
        }
        if self.bytes.len() < HEADER_LEN {
            return Ok(None);
        }
        let header = EventHeader::parse(&self.bytes).map_err(|e| e.to_string())?;
        let size = header.size as usize;
        if size < HEADER_LEN {
            return Err(format!("a size of {size} bytes is no event's"));
        }
        let least = if size <= WHOLE { size } else { HEADER_LEN + BODY_PREFIX };
        if self.bytes.len() < least {
            return Ok(None);
        }
        let n = size.min(self.bytes.len());
        self.left = size - n;
        Ok(Some(self.take(n, true, self.left == 0)))
    }

    fn take(&mut self, n: usize, first: bool, last: bool) -> Piece {
        Piece { first, last, data: self.bytes.split_to(n).freeze() }
    }

    /// Leaves out bytes at the front; gives them.
    pub(super) fn skip(&mut self, n: usize) -> Bytes {
        let n = n.min(self.bytes.len());
        self.bytes.split_to(n).freeze()
    }

    /// Bytes that have come and were not taken yet.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.chunk()
    }

    /// Whether an event was begun that lacks bytes.
    pub(super) fn inside_event(&self) -> bool {
        self.left > 0
    }
}

/// Whether what stands at a file's end is the torn end of a crash: an event that lacks bytes, or nothing but zeros.
pub(super) fn is_torn(rest: &[u8]) -> bool {
    if rest.iter().all(|b| *b == 0) {
        return true;
    }
    match rest.get(..HEADER_LEN).map(EventHeader::parse) {
        None => true,
        Some(Ok(header)) => header.size as usize >= rest.len(),
        Some(Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use baton_wire::checksum::ChecksumAlg;
    use baton_wire::event::{self, EventKind};

    use super::*;

    fn event(size: usize) -> Vec<u8> {
        let header = EventHeader { timestamp: 0, kind: EventKind::XID, server_id: 1, size: 0, log_pos: 0, flags: 0 };
        event::build(header, &vec![7; size - HEADER_LEN - 4], ChecksumAlg::Crc32)
    }

    #[test]
    fn events_come_whole_or_in_pieces_whatever_the_network_does() {
        let events = [event(23), event(60), event(WHOLE + 5), event(30)];
        let log = events.concat();
        for step in [1000, 100_000, log.len()] {
            let mut cutter = Cutter::default();
            let (mut out, mut firsts, mut lasts) = (Vec::new(), 0, 0);
            for chunk in log.chunks(step) {
                cutter.push(chunk);
                while let Some(piece) = cutter.next().unwrap_or_else(|e| panic!("{e}")) {
                    assert!(!piece.first || piece.last || piece.data.len() >= HEADER_LEN + BODY_PREFIX);
                    firsts += usize::from(piece.first);
                    lasts += usize::from(piece.last);
                    out.extend_from_slice(&piece.data);
                }
            }
            assert!(out == log && firsts == 4 && lasts == 4 && !cutter.inside_event(), "{step}");
        }
    }

    #[test]
    fn a_torn_end_is_told_from_damage() {
        let whole = event(60);
        for (case, rest, torn) in [
            ("nothing", &[][..], true),
            ("a part of a header", &whole[..10], true),
            ("a part of an event", &whole[..40], true),
            ("zeros", &[0; 500][..], true),
            ("an event whose sum does not hold, the last", &whole, true),
            ("the same, with more behind it", &[&whole[..], &whole].concat(), false),
        ] {
            assert_eq!(is_torn(rest), torn, "{case}");
        }
        let mut cutter = Cutter::default();
        cutter.push(&[0; 100]);
        assert!(cutter.next().is_err());
        assert_eq!((cutter.skip(10).len(), cutter.rest().len()), (10, 90));
    }
}
