//! The stream that follows a dump command, and the semi-synchronous headers and acknowledgements in it.
//!
//! Owns: what stands around an event (`00`, and `ef <flag>` in a semi-sync session), the EOF or ERR that ends a stream, and the ACK
//! that a replica sends (MariaDB `sql/semisync.h`, MySQL `plugin/semisync/semisync.h`). Never decides what may be acknowledged.

use bytes::{Buf, Bytes};

use crate::error::{Result, WireError};
use crate::put;
use crate::read::Reader;
use crate::response::{EofPacket, ErrPacket};

/// First byte of a semi-sync header and of an ACK.
pub const MAGIC: u8 = 0xef;

/// Longest file name that an ACK may carry, in bytes (`FN_REFLEN` of the servers).
pub const MAX_FILE_NAME: usize = 512;

/// One payload of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamItem {
    /// An event, with its 19-byte header and its checksum if it has one.
    Event {
        /// Whether the primary waits for an ACK of it; always false without semi-sync.
        ack_wanted: bool,
        /// The event's bytes, shared with the payload.
        event: Bytes,
    },
    /// The log's end, in a dump that does not block.
    Eof(EofPacket),
    /// The stream ends with an error.
    Err(ErrPacket),
}

impl StreamItem {
    /// Takes a whole payload (its pieces joined) apart, without copying the event. `semi_sync`: the session has asked for semi-sync
    /// and the server has it, so every event carries the header.
    pub fn parse(mut payload: Bytes, semi_sync: bool) -> Result<Self> {
        const WHAT: &str = "event stream";
        match payload.first() {
            Some(0x00) => payload.advance(1),
            Some(0xff) => return ErrPacket::parse(&payload).map(Self::Err),
            Some(0xfe) => return EofPacket::parse(&payload).map(Self::Eof),
            Some(other) => return Err(WireError::invalid(WHAT, format!("a payload begins with {other:#04x}"))),
            None => return Err(WireError::invalid(WHAT, "an empty payload")),
        }
        if !semi_sync {
            return Ok(Self::Event { ack_wanted: false, event: payload });
        }
        let (ack_wanted, _) = strip_header(&payload)?;
        payload.advance(2);
        Ok(Self::Event { ack_wanted, event: payload })
    }
}

/// Takes the semi-sync header off what follows the leading `00` of a payload: whether an ACK is wanted, and the event.
pub fn strip_header(bytes: &[u8]) -> Result<(bool, &[u8])> {
    const WHAT: &str = "semi-sync header";
    match bytes {
        [MAGIC, flag @ (0 | 1), event @ ..] => Ok((*flag == 1, event)),
        [MAGIC, flag, ..] => Err(WireError::invalid(WHAT, format!("flag {flag:#04x} is neither 0 nor 1"))),
        [first, _, ..] => Err(WireError::invalid(WHAT, format!("it begins with {first:#04x}, not {MAGIC:#04x}"))),
        _ => Err(WireError::Truncated { what: WHAT, need: 2, have: bytes.len() }),
    }
}

/// What stands before an event in a payload: for [`crate::packet::write_packet_parts`].
pub fn event_prefix(ack_wanted: Option<bool>) -> &'static [u8] {
    match ack_wanted {
        None => &[0x00],
        Some(false) => &[0x00, MAGIC, 0],
        Some(true) => &[0x00, MAGIC, 1],
    }
}

/// A replica's acknowledgement: it has everything up to here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// End of the acknowledged event in its file, in bytes.
    pub position: u64,
    /// The file, as the stream's Rotate events named it.
    pub file: String,
}

impl Ack {
    /// Payload; it is sent with sequence number 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![MAGIC];
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(self.file.as_bytes());
        out
    }

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        const WHAT: &str = "semi-sync ACK";
        let mut r = Reader::new(WHAT, payload);
        match r.u8()? {
            MAGIC => {}
            other => return Err(WireError::invalid(WHAT, format!("it begins with {other:#04x}, not {MAGIC:#04x}"))),
        }
        let position = r.u64()?;
        let name = r.take_rest();
        if name.is_empty() || name.len() > MAX_FILE_NAME {
            let detail = format!("a file name of {} bytes, 1 to {MAX_FILE_NAME} are allowed", name.len());
            return Err(WireError::invalid(WHAT, detail));
        }
        Ok(Self { position, file: put::text(name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_event_that_wants_an_ack_says_so() {
        for ack_wanted in [false, true] {
            let payload = Bytes::from([event_prefix(Some(ack_wanted)), b"event"].concat());
            let item = StreamItem::parse(payload, true).unwrap();
            assert_eq!(item, StreamItem::Event { ack_wanted, event: Bytes::from_static(b"event") });
        }
        let plain = StreamItem::parse(Bytes::from([event_prefix(None), b"event"].concat()), false).unwrap();
        assert_eq!(plain, StreamItem::Event { ack_wanted: false, event: Bytes::from_static(b"event") });
    }

    #[test]
    fn a_missing_header_in_a_semi_sync_session_is_an_error() {
        let error = StreamItem::parse(Bytes::from_static(b"\x00\x01\x02\x03"), true).unwrap_err().to_string();
        assert_eq!(error, "semi-sync header: it begins with 0x01, not 0xef");
        assert!(StreamItem::parse(Bytes::from_static(b"\x00\xef"), true).is_err());
        assert!(StreamItem::parse(Bytes::from_static(b"\x00\xef\x02"), true).is_err());
    }

    #[test]
    fn a_stream_ends_with_eof_or_an_error_and_nothing_else() {
        let eof = StreamItem::parse(Bytes::from_static(&[0xfe, 0, 0, 2, 0]), true).unwrap();
        assert_eq!(eof, StreamItem::Eof(EofPacket { warnings: 0, status: 2 }));
        let error = StreamItem::parse(Bytes::from_static(b"\xff\xd4\x04#HY000gone"), true).unwrap();
        assert!(matches!(error, StreamItem::Err(e) if e.code == 1236 && e.message == "gone"));
        assert!(StreamItem::parse(Bytes::from_static(&[0x07]), false).is_err());
        assert!(StreamItem::parse(Bytes::new(), false).is_err());
    }

    proptest! {
        #[test]
        fn acks_read_back(position in any::<u64>(), file in "[a-z.0-9]{1,40}") {
            let ack = Ack { position, file };
            prop_assert_eq!(Ack::parse(&ack.encode()).unwrap(), ack);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), semi_sync in any::<bool>()) {
            let _ = Ack::parse(&bytes);
            let _ = strip_header(&bytes);
            let _ = StreamItem::parse(Bytes::from(bytes), semi_sync);
        }
    }
}
