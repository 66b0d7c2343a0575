//! What a semi-synchronous client has acknowledged: packets in, places in the log out. Pure.
//!
//! Promises: what is no acknowledgement, names a file that this log does not have, or a place beyond what was sent, changes nothing; memory
//! is one acknowledgement, however much is sent. A connection is never ended over it: servers ignore such packets too.

use baton_wire::packet::HEADER_LEN;
use baton_wire::semisync::{Ack, MAX_FILE_NAME};

use crate::log::LogPos;

/// Magic byte, position, file name.
const MAX_PAYLOAD: usize = 1 + 8 + MAX_FILE_NAME;

/// Takes a client's bytes apart.
#[derive(Debug, Default)]
pub(super) struct AckReader {
    /// A packet that is not complete yet.
    packet: Vec<u8>,
    /// Bytes of a packet that is too long, still to come.
    skip: usize,
}

impl AckReader {
    /// Takes the next bytes; `each` gets every acknowledgement that they complete, or why a packet is none.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Result<Ack, String>)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            if skipped > 0 {
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = match self.packet.first_chunk::<HEADER_LEN>() {
                Some([a, b, c, _]) => HEADER_LEN + u32::from_le_bytes([*a, *b, *c, 0]) as usize,
                None => HEADER_LEN,
            };
            let taken = (wanted - self.packet.len()).min(bytes.len());
            self.packet.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.complete(&mut each);
        }
    }

    fn complete(&mut self, each: &mut impl FnMut(Result<Ack, String>)) {
        let Some([a, b, c, _]) = self.packet.first_chunk::<HEADER_LEN>() else { return };
        let len = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        if len > MAX_PAYLOAD {
            self.skip = len;
            each(Err(format!("a packet of {len} bytes, {MAX_PAYLOAD} at most are expected")));
        } else if self.packet.len() == HEADER_LEN + len {
            each(Ack::parse(&self.packet[HEADER_LEN..]).map_err(|e| e.to_string()));
        } else {
            return;
        }
        self.packet.clear();
    }
}

/// How far a client's acknowledgements reach.
#[derive(Debug)]
pub(super) struct Acked {
    /// Everything before has arrived there.
    reached: LogPos,
    /// End of the last transaction that went out.
    owed: LogPos,
    /// Up to here everything was sent.
    sent: LogPos,
}

impl Acked {
    /// At the beginning of a stream: where it starts counts as acknowledged.
    pub(super) fn new(start: LogPos) -> Self {
        Self { reached: start, owed: start, sent: start }
    }

    /// Everything before has arrived there.
    pub(super) fn reached(&self) -> LogPos {
        self.reached
    }

    /// Notes that everything up to `pos` went out, and where the last transaction in it ends, if one does.
    pub(super) fn sent(&mut self, pos: LogPos, ends: Option<LogPos>) {
        self.sent = self.sent.max(pos);
        self.owed = self.owed.max(ends.unwrap_or_default());
        self.settle();
    }

    /// Takes an acknowledgement of `pos`; `false` if that was never sent.
    pub(super) fn acked(&mut self, pos: LogPos) -> bool {
        if pos > self.sent {
            return false;
        }
        self.reached = self.reached.max(pos);
        self.settle();
        true
    }

    /// What is no transaction, or is left out for this client, is never acknowledged: it counts with what was.
    fn settle(&mut self) {
        if self.reached >= self.owed {
            self.reached = self.sent;
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_wire::packet::write_packet;

    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_packet(&mut out, &mut 0, payload);
        out
    }

    fn ack(position: u64) -> Ack {
        Ack { position, file: "b.000001".into() }
    }

    /// What comes of the bytes, in pieces of `size`; `None` for what was ignored.
    fn read(bytes: &[u8], size: usize) -> Vec<Option<Ack>> {
        let (mut reader, mut got) = (AckReader::default(), Vec::new());
        for piece in bytes.chunks(size) {
            reader.feed(piece, |ack| got.push(ack.ok()));
            assert!(reader.packet.len() <= HEADER_LEN + MAX_PAYLOAD);
        }
        got
    }

    #[test]
    fn acknowledgements_are_read_however_they_are_cut_and_whatever_lies_between() {
        let good = |position| packet(&ack(position).encode());
        let mut wrong_magic = ack(7).encode();
        wrong_magic[0] = 0xee;
        let garbage: [&[u8]; 5] = [&wrong_magic, &[], b"\xef\x01\x02", &[0xef; 9], &vec![0xef; 70_000]];
        let mut bytes = good(100);
        let mut expected = vec![Some(ack(100))];
        for (n, other) in garbage.iter().enumerate() {
            bytes.extend(packet(other));
            bytes.extend(good(n as u64));
            expected.extend([None, Some(ack(n as u64))]);
        }
        for size in [1, 2, 3, 5, 64, bytes.len()] {
            assert_eq!(read(&bytes, size), expected, "in pieces of {size}");
        }
    }

    fn at(offset: u64) -> LogPos {
        LogPos { file: 1, offset }
    }

    #[test]
    fn nothing_is_acknowledged_beyond_what_was_sent_and_nothing_is_taken_back() {
        let mut acked = Acked::new(at(4));
        acked.sent(at(500), Some(at(500)));
        assert_eq!(acked.reached(), at(4));
        assert!(!acked.acked(at(501)) && !acked.acked(LogPos { file: 2, offset: 4 }));
        assert_eq!(acked.reached(), at(4));
        assert!(acked.acked(at(500)) && acked.acked(at(300)));
        assert_eq!(acked.reached(), at(500));
    }

    #[test]
    fn what_is_never_acknowledged_counts_with_the_transactions_before_it() {
        let mut acked = Acked::new(at(4));
        acked.sent(at(256), None);
        assert_eq!(acked.reached(), at(256));
        acked.sent(at(540), Some(at(500)));
        assert_eq!(acked.reached(), at(256));
        assert!(acked.acked(at(500)));
        assert_eq!(acked.reached(), at(540));
        acked.sent(at(700), Some(at(700)));
        assert_eq!(acked.reached(), at(540));
    }
}
