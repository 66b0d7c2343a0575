//! Framing: the 4-byte packet header, splitting of large payloads, and their reassembly.
//!
//! Owns the packet layer of the protocol (MySQL internals, "MySQL Packets"): a payload is cut every [`MAX_PAYLOAD`] bytes, and its
//! last piece is shorter than that, possibly empty. Promises: a payload over the limit is refused from its header alone, before
//! anything of it is kept. Never checks sequence numbers between payloads: sessions differ in what they allow there.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Result, WireError};

/// Most bytes that one packet carries; a piece of exactly this length is followed by another one.
pub const MAX_PAYLOAD: usize = 0xff_ffff;

/// Bytes of a packet header: length (3, little endian) and sequence number (1).
pub const HEADER_LEN: usize = 4;

const WHAT: &str = "packet";

/// Payload length (bytes) and sequence number of a packet header.
pub fn header(bytes: [u8; HEADER_LEN]) -> (usize, u8) {
    let [a, b, c, seq] = bytes;
    (usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16, seq)
}

/// Appends `payload` as one or more packets; `seq` is the number of the first and is left at the one that follows the last.
pub fn write_packet(out: &mut Vec<u8>, seq: &mut u8, payload: &[u8]) {
    write_packet_parts(out, seq, &[], payload);
}

/// Like [`write_packet`] for the payload `prefix` + `body`, without joining the two first (an event behind its `00 ef flag`).
pub fn write_packet_parts(out: &mut Vec<u8>, seq: &mut u8, prefix: &[u8], body: &[u8]) {
    let total = prefix.len() + body.len();
    out.reserve(total + HEADER_LEN * (1 + total / MAX_PAYLOAD));
    let (mut prefix, mut body) = (prefix, body);
    loop {
        let len = (prefix.len() + body.len()).min(MAX_PAYLOAD);
        // `len` fits three bytes by its definition.
        let le = (len as u32).to_le_bytes();
        out.extend_from_slice(&[le[0], le[1], le[2], *seq]);
        *seq = seq.wrapping_add(1);
        let (from_prefix, prefix_rest) = prefix.split_at(len.min(prefix.len()));
        let (from_body, body_rest) = body.split_at(len - from_prefix.len());
        out.extend_from_slice(from_prefix);
        out.extend_from_slice(from_body);
        (prefix, body) = (prefix_rest, body_rest);
        if len < MAX_PAYLOAD {
            return;
        }
    }
}

/// One whole payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Sequence number of its last piece.
    pub seq: u8,
    /// All pieces joined.
    pub payload: Bytes,
}

/// Takes whole payloads from the front of a receive buffer.
#[derive(Debug)]
pub struct PacketDecoder {
    max_payload: usize,
    /// Earlier pieces of the payload that is being received, and the number that its next piece must have.
    partial: Option<(BytesMut, u8)>,
}

impl PacketDecoder {
    /// A decoder that refuses payloads of more than `max_payload` bytes.
    pub fn new(max_payload: usize) -> Self {
        Self { max_payload, partial: None }
    }

    /// Changes the limit (bytes): a peer that has not logged in gets a small one.
    pub fn set_max_payload(&mut self, max_payload: usize) {
        self.max_payload = max_payload;
    }

    /// Whether pieces of a payload have been taken whose end has not arrived: the peer left in the middle if it closes now.
    pub fn is_mid_payload(&self) -> bool {
        self.partial.is_some()
    }

    /// The next whole payload, or `None` if `buf` does not hold its end yet (then nothing is lost; call again with more bytes).
    ///
    /// # Errors
    /// A payload over the limit, or a gap in the sequence numbers of a split payload. The stream cannot be read on after either.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>> {
        while let Some(head) = buf.first_chunk::<HEADER_LEN>() {
            let (len, seq) = header(*head);
            let before = self.check(len, seq)?;
            if buf.len() - HEADER_LEN < len {
                return Ok(None);
            }
            buf.advance(HEADER_LEN);
            let piece = buf.split_to(len);
            if len == MAX_PAYLOAD {
                let next = seq.wrapping_add(1);
                match &mut self.partial {
                    Some((joined, expected)) => {
                        joined.unsplit(piece);
                        *expected = next;
                    }
                    None => self.partial = Some((piece, next)),
                }
                continue;
            }
            let payload = match self.partial.take() {
                Some((mut joined, _)) => {
                    debug_assert_eq!(joined.len(), before);
                    joined.unsplit(piece);
                    joined
                }
                None => piece,
            };
            return Ok(Some(Packet { seq, payload: payload.freeze() }));
        }
        Ok(None)
    }

    /// Judges a piece by its header; gives the length of the pieces before it.
    fn check(&self, len: usize, seq: u8) -> Result<usize> {
        let before = match &self.partial {
            Some((_, expected)) if *expected != seq => {
                let detail = format!("a piece of a split payload has sequence number {seq}, expected {expected}");
                return Err(WireError::invalid(WHAT, detail));
            }
            Some((joined, _)) => joined.len(),
            None => 0,
        };
        let total = before.saturating_add(len);
        if total > self.max_payload {
            let detail = format!("a payload of {total} bytes or more is over the limit of {} bytes", self.max_payload);
            return Err(WireError::invalid(WHAT, detail));
        }
        Ok(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_all(decoder: &mut PacketDecoder, buf: &mut BytesMut) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some(packet) = decoder.decode(buf).unwrap() {
            packets.push(packet);
        }
        packets
    }

    #[test]
    fn a_payload_of_exactly_the_piece_size_is_followed_by_an_empty_piece() {
        let payload = vec![7u8; MAX_PAYLOAD];
        let (mut out, mut seq) = (Vec::new(), 255);
        write_packet(&mut out, &mut seq, &payload);
        assert_eq!(seq, 1, "two pieces, and the number wraps");
        assert_eq!(header(*out.first_chunk().unwrap()), (MAX_PAYLOAD, 255));
        assert_eq!(out[HEADER_LEN + MAX_PAYLOAD..], [0, 0, 0, 0]);
        let mut buf = BytesMut::from(&out[..]);
        let packet = PacketDecoder::new(MAX_PAYLOAD).decode(&mut buf).unwrap().unwrap();
        assert_eq!((packet.seq, packet.payload.len()), (0, MAX_PAYLOAD));
        assert!(buf.is_empty());
    }

    #[test]
    fn a_prefix_takes_part_in_the_splitting() {
        let body: Vec<u8> = (0..MAX_PAYLOAD).map(|i| i as u8).collect();
        let (mut parts, mut joined) = (Vec::new(), Vec::new());
        write_packet_parts(&mut parts, &mut 3, &[0, 0xef, 1], &body);
        write_packet(&mut joined, &mut 3, &[&[0, 0xef, 1][..], &body].concat());
        assert_eq!(parts, joined);
        assert_eq!(parts.len(), 3 + MAX_PAYLOAD + 2 * HEADER_LEN);
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_before_it_arrives() {
        let mut buf = BytesMut::from(&[0xe9, 0x03, 0x00, 0x00][..]);
        let error = PacketDecoder::new(1000).decode(&mut buf).unwrap_err().to_string();
        assert_eq!(error, "packet: a payload of 1001 bytes or more is over the limit of 1000 bytes");
    }

    #[test]
    fn the_limit_counts_all_pieces_of_a_split_payload() {
        let mut buf = BytesMut::from(&[0xff, 0xff, 0xff, 0x00][..]);
        buf.extend_from_slice(&vec![0; MAX_PAYLOAD]);
        buf.extend_from_slice(&[0x0b, 0, 0, 1]);
        assert!(PacketDecoder::new(MAX_PAYLOAD + 10).decode(&mut buf.clone()).is_err());
        assert_eq!(PacketDecoder::new(MAX_PAYLOAD + 11).decode(&mut buf).unwrap(), None);
    }

    #[test]
    fn a_gap_inside_a_split_payload_is_an_error() {
        let mut buf = BytesMut::from(&[0xff, 0xff, 0xff, 0x04][..]);
        buf.extend_from_slice(&vec![0; MAX_PAYLOAD]);
        buf.extend_from_slice(&[0, 0, 0, 6]);
        let error = PacketDecoder::new(usize::MAX).decode(&mut buf).unwrap_err().to_string();
        assert!(error.contains("sequence number 6, expected 5"), "{error}");
    }

    proptest! {
        #[test]
        fn payloads_arrive_whole_however_the_bytes_are_sliced(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..12),
            first in any::<u8>(),
            cuts in prop::collection::vec(1usize..40, 1..30),
        ) {
            let (mut out, mut seq) = (Vec::new(), first);
            for payload in &payloads {
                write_packet(&mut out, &mut seq, payload);
            }
            let mut decoder = PacketDecoder::new(60);
            let (mut buf, mut got, mut rest) = (BytesMut::new(), Vec::new(), &out[..]);
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                buf.extend_from_slice(now);
                got.extend(decode_all(&mut decoder, &mut buf));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            let expected: Vec<Packet> = payloads
                .iter()
                .enumerate()
                .map(|(i, p)| Packet { seq: first.wrapping_add(i as u8), payload: Bytes::copy_from_slice(p) })
                .collect();
            prop_assert_eq!(got, expected);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buf = BytesMut::from(&bytes[..]);
            let mut decoder = PacketDecoder::new(100);
            while let Ok(Some(_)) = decoder.decode(&mut buf) {}
        }
    }
}
