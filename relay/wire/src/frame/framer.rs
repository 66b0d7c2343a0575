//! From events to the packets of a binlog stream.

use super::{EVENT_MARKER, MAX_PACKET, PACKET_HEADER_LEN, SEMI_SYNC_MAGIC, prefix_len};
use crate::error::{Result, WireError};
use crate::event::HEADER_LEN;

const WHAT: &str = "event framing";
const SIZE_OFFSET: usize = 9;

/// Bytes on the wire of an event of `event_size` bytes: with packet headers, prefix and, if need be, an empty last packet.
pub fn framed_len(event_size: usize, semi_sync: bool) -> usize {
    let payload = event_size + prefix_len(semi_sync);
    payload + PACKET_HEADER_LEN * (payload / MAX_PACKET + 1)
}

/// What [`EventFramer::frame_front`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Events that were framed.
    pub events: usize,
    /// Bytes of the input that they take.
    pub bytes: usize,
}

/// The size that the event at the front says it has; `None` if so much of its header is not there.
fn event_size(bytes: &[u8]) -> Option<usize> {
    let size = bytes.get(SIZE_OFFSET..)?.first_chunk()?;
    Some(u32::from_le_bytes(*size) as usize)
}

/// Writes events as packets. Keeps the sequence number, which wraps at 255.
///
/// Bytes are appended to the caller's vector and never touched again.
#[derive(Debug, Clone)]
pub struct EventFramer {
    sequence: u8,
    semi_sync: bool,
    /// Bytes that the present event still lacks.
    event_left: usize,
    /// Bytes that the present packet still takes.
    packet_left: usize,
    /// Whether the present packet is a full one, so that another one follows it.
    continues: bool,
    /// Whether the present event asks for an acknowledgement.
    wants_ack: bool,
}

impl EventFramer {
    /// A framer whose first packet has the number `first_sequence` (1 right behind a dump command). With `semi_sync`, each event
    /// is preceded by `ef` and a flag.
    pub fn new(first_sequence: u8, semi_sync: bool) -> Self {
        Self { sequence: first_sequence, semi_sync, event_left: 0, packet_left: 0, continues: false, wants_ack: false }
    }

    /// Number of the next packet: what an error or end-of-stream packet must carry.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// Sets the number of the next packet.
    pub fn set_sequence(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// Whether events carry the semi-sync header.
    pub fn semi_sync(&self) -> bool {
        self.semi_sync
    }

    /// Whether an event was begun and lacks pieces.
    pub fn inside_event(&self) -> bool {
        self.event_left > 0
    }

    /// Begins an event of `event_size` bytes, which [`push`](Self::push) then brings in pieces.
    ///
    /// Errors: the event before it lacks pieces; `event_size` is no event's size.
    pub fn start(&mut self, out: &mut Vec<u8>, event_size: usize) -> Result<()> {
        self.start_flagged(out, event_size, false)
    }

    /// Like [`start`](Self::start), for an event that the replica shall acknowledge. Behind it the sequence restarts at 1, as
    /// servers do. Without semi-sync there is no such flag, and this is the same as [`start`](Self::start).
    pub fn start_wanting_ack(&mut self, out: &mut Vec<u8>, event_size: usize) -> Result<()> {
        self.start_flagged(out, event_size, self.semi_sync)
    }

    fn start_flagged(&mut self, out: &mut Vec<u8>, event_size: usize, wants_ack: bool) -> Result<()> {
        if self.event_left > 0 {
            return Err(WireError::invalid(
                WHAT,
                format!("an event begins while the one before it lacks {} bytes", self.event_left),
            ));
        }
        if event_size < HEADER_LEN || u32::try_from(event_size).is_err() {
            return Err(WireError::invalid(WHAT, format!("{event_size} is not the size of an event")));
        }
        let prefix = prefix_len(self.semi_sync);
        let len = MAX_PACKET.min(event_size + prefix);
        self.packet_header(out, len);
        out.push(EVENT_MARKER);
        if self.semi_sync {
            out.extend_from_slice(&[SEMI_SYNC_MAGIC, u8::from(wants_ack)]);
        }
        self.wants_ack = wants_ack;
        self.event_left = event_size;
        self.packet_left = len - prefix;
        self.continues = len == MAX_PACKET;
        Ok(())
    }

    /// Appends the next piece of the event that was begun. Error: it has more bytes than the event lacks; then nothing is appended.
    pub fn push(&mut self, out: &mut Vec<u8>, mut piece: &[u8]) -> Result<()> {
        if piece.len() > self.event_left {
            return Err(WireError::invalid(
                WHAT,
                format!("a piece of {} bytes for an event that lacks {}", piece.len(), self.event_left),
            ));
        }
        if piece.is_empty() {
            return Ok(());
        }
        loop {
            let (now, later) = piece.split_at(piece.len().min(self.packet_left));
            out.extend_from_slice(now);
            self.packet_left -= now.len();
            self.event_left -= now.len();
            piece = later;
            if self.packet_left > 0 {
                return Ok(());
            }
            if !self.continues {
                break;
            }
            // A full packet is always followed by another one, if only by an empty one.
            let len = MAX_PACKET.min(self.event_left);
            self.packet_header(out, len);
            self.packet_left = len;
            self.continues = len == MAX_PACKET;
        }
        if self.wants_ack {
            self.sequence = 1;
        }
        Ok(())
    }

    /// Appends one whole event.
    pub fn frame(&mut self, out: &mut Vec<u8>, event: &[u8]) -> Result<()> {
        self.start(out, event.len())?;
        self.push(out, event)
    }

    /// Appends one whole event that the replica shall acknowledge.
    pub fn frame_wanting_ack(&mut self, out: &mut Vec<u8>, event: &[u8]) -> Result<()> {
        self.start_wanting_ack(out, event.len())?;
        self.push(out, event)
    }

    /// Appends a run of whole events that stand one behind the other, as in a file; gives how many there were.
    ///
    /// Error: an event's size does not fit what is there, or an event was begun before. Then nothing is appended.
    pub fn frame_all(&mut self, out: &mut Vec<u8>, events: &[u8]) -> Result<usize> {
        let (before, sequence) = (out.len(), self.sequence);
        let run = self.frame_front(out, events)?;
        if run.bytes < events.len() {
            out.truncate(before);
            self.sequence = sequence;
            let rest = &events[run.bytes..];
            return Err(WireError::invalid(
                WHAT,
                format!(
                    "event {} of a run, at byte {}, has size {}; {} bytes are there",
                    run.events,
                    run.bytes,
                    event_size(rest).unwrap_or_default(),
                    rest.len()
                ),
            ));
        }
        Ok(run.events)
    }

    /// Appends the whole events at the front of `bytes`, of which the last one may be cut off anywhere: one walk over them.
    ///
    /// Error: an event's size is below its header's, or an event was begun before. Then nothing is appended.
    pub fn frame_front(&mut self, out: &mut Vec<u8>, bytes: &[u8]) -> Result<Run> {
        if self.event_left > 0 {
            return Err(WireError::invalid(WHAT, format!("a run of events while one lacks {} bytes", self.event_left)));
        }
        let (before, sequence) = (out.len(), self.sequence);
        // Events are rarely below 40 bytes; if they are, the vector grows by itself.
        out.reserve(bytes.len() + bytes.len() / 8 + 64);
        let framed = self.frame_run(out, bytes);
        if framed.is_err() {
            out.truncate(before);
            self.sequence = sequence;
        }
        framed
    }

    fn frame_run(&mut self, out: &mut Vec<u8>, bytes: &[u8]) -> Result<Run> {
        let prefix = prefix_len(self.semi_sync);
        let mut rest = bytes;
        let mut events = 0;
        while let Some(size) = event_size(rest) {
            if size < HEADER_LEN {
                let at = bytes.len() - rest.len();
                return Err(WireError::invalid(
                    WHAT,
                    format!("event {events} of a run, at byte {at}, has size {size}; {} bytes are there", rest.len()),
                ));
            }
            let Some((event, later)) = rest.split_at_checked(size) else { break };
            let len = size + prefix;
            if len < MAX_PACKET {
                let [a, b, c, _] = (len as u32).to_le_bytes();
                if self.semi_sync {
                    out.extend_from_slice(&[a, b, c, self.sequence, EVENT_MARKER, SEMI_SYNC_MAGIC, 0]);
                } else {
                    out.extend_from_slice(&[a, b, c, self.sequence, EVENT_MARKER]);
                }
                out.extend_from_slice(event);
                self.sequence = self.sequence.wrapping_add(1);
            } else {
                self.frame(out, event)?;
            }
            rest = later;
            events += 1;
        }
        Ok(Run { events, bytes: bytes.len() - rest.len() })
    }

    /// Turns the whole event at the front of `framed`, packets that this framer wrote, into one that the replica shall acknowledge, and numbers the
    /// packets behind it anew, from 1 on; gives the number of the next packet.
    ///
    /// Error: this is no semi-sync stream, or `framed` is not made of whole packets.
    pub fn want_ack(&self, framed: &mut [u8]) -> Result<u8> {
        let cut = || {
            WireError::invalid(WHAT, "an acknowledgement is asked for in what is no whole packet of a semi-sync stream")
        };
        match framed.get_mut(PACKET_HEADER_LEN..PACKET_HEADER_LEN + 3) {
            Some([EVENT_MARKER, SEMI_SYNC_MAGIC, flag]) if self.semi_sync => *flag = 1,
            _ => return Err(cut()),
        }
        let (mut rest, mut number, mut in_event) = (framed, None, true);
        while let [a, b, c, sequence, ..] = rest {
            let len = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
            match &mut number {
                // The event's own packets keep their numbers.
                None if in_event => in_event = len == MAX_PACKET,
                number => {
                    let next = number.unwrap_or(1);
                    *sequence = next;
                    *number = Some(next.wrapping_add(1));
                }
            }
            rest = rest.get_mut(PACKET_HEADER_LEN + len..).ok_or_else(cut)?;
        }
        if rest.is_empty() { Ok(number.unwrap_or(1)) } else { Err(cut()) }
    }

    fn packet_header(&mut self, out: &mut Vec<u8>, len: usize) {
        let [a, b, c, _] = (len as u32).to_le_bytes();
        out.extend_from_slice(&[a, b, c, self.sequence]);
        self.sequence = self.sequence.wrapping_add(1);
    }
}
