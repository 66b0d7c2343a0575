//! From the raw bytes of a binlog stream to events, or pieces of them.

use super::{EOF_MARKER, ERROR_MARKER, EVENT_MARKER, MAX_PACKET, PACKET_HEADER_LEN, SEMI_SYNC_MAGIC, prefix_len};
use crate::error::{Result, WireError};
use crate::event::{EventHeader, HEADER_LEN};

const WHAT: &str = "binlog stream";
/// An end-of-stream packet is shorter than this.
const EOF_LIMIT: usize = 9;
/// An error packet is one code and one sentence; what is longer is something else.
const ERROR_LIMIT: usize = 64 * 1024;

/// How a stream is read.
#[derive(Debug, Clone)]
pub struct DeframerOptions {
    /// Whether semi-sync was negotiated, so that every event packet begins with `00 ef flag`.
    pub semi_sync: bool,
    /// Sequence number of the first packet: 1 right behind a dump command.
    pub first_sequence: u8,
    /// Whether a wrong sequence number is an error. Off inside the compressed protocol, whose inner numbers are no running count.
    pub check_sequence: bool,
    /// Largest event that is accepted, in bytes.
    pub max_event: u32,
    /// Events of at most this many bytes come out only whole; the first piece of a longer one has at least this many.
    /// Taken as at least 19 (the event header) and at most 0xffffff - 3 (one packet).
    pub whole_up_to: usize,
}

impl Default for DeframerOptions {
    /// No semi-sync, sequence checked from 1, whole events up to 256 KiB; none above 1 GiB (the largest `slave_max_allowed_packet`)
    /// and the 64 KiB that leave room for what servers add to it.
    fn default() -> Self {
        Self {
            semi_sync: false,
            first_sequence: 1,
            check_sequence: true,
            max_event: (1 << 30) + (1 << 16),
            whole_up_to: 256 * 1024,
        }
    }
}

/// What [`EventDeframer::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Deframed<'a> {
    /// The input, counted from its first unconsumed byte, must hold at least this many bytes before there is progress.
    NeedMore(usize),
    /// An event, or the next piece of one.
    EventData {
        /// The event's header, the same for all its pieces.
        header: EventHeader,
        /// Whether the piece begins the event. Such a piece begins with the whole header.
        first: bool,
        /// The bytes. Empty only in a last piece, which then merely says that the event is complete.
        data: &'a [u8],
        /// Whether the event is complete with this piece.
        last: bool,
        /// `None` without semi-sync; else whether the sender waits for an acknowledgement of this event.
        semi_sync_flag: Option<bool>,
    },
    /// An error packet: its payload, which begins with `ff`. The stream ends with it.
    Error(&'a [u8]),
    /// The end of a non-blocking dump.
    Eof,
}

/// The event that is being taken in.
#[derive(Debug, Clone, Copy)]
struct Current {
    header: EventHeader,
    semi_sync_flag: Option<bool>,
    /// Bytes of it that are still to come, over all packets.
    event_left: usize,
    /// Bytes of it that are still to come in the present packet.
    packet_left: usize,
    /// Whether the present packet is full, so that another one follows even if nothing is left of the event.
    continues: bool,
}

/// Turns a binlog stream into events. Holds no bytes itself: what [`next`](Self::next) does not consume, the caller keeps.
///
/// An event that lies whole in the input and in one packet comes out as one slice of the input. After an error the
/// stream is of no use any more; asking again gives the same error.
#[derive(Debug, Clone)]
pub struct EventDeframer {
    options: DeframerOptions,
    sequence: u8,
    /// The sender starts again at 1 behind an event that it wants acknowledged.
    may_restart: bool,
    current: Option<Current>,
}

impl EventDeframer {
    /// A deframer at the beginning of a stream, right behind the dump command.
    pub fn new(mut options: DeframerOptions) -> Self {
        options.whole_up_to = options.whole_up_to.clamp(HEADER_LEN, MAX_PACKET - prefix_len(true));
        Self { sequence: options.first_sequence, options, may_restart: false, current: None }
    }

    /// Bytes that the input must be able to hold for this deframer never to starve.
    pub fn min_buffer(&self) -> usize {
        (PACKET_HEADER_LEN + prefix_len(true) + self.options.whole_up_to).max(PACKET_HEADER_LEN + ERROR_LIMIT)
    }

    /// Whether an event has begun and not ended.
    pub fn inside_event(&self) -> bool {
        self.current.is_some()
    }

    /// Takes the next thing from the front of `input`; the first value is how many bytes of it are done with.
    ///
    /// Errors: a wrong packet sequence, a packet that begins nothing known, a missing semi-sync header, an event whose
    /// header names another size than its packets have, or one above the limit.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Deframed<'a>)> {
        match self.current {
            None => self.begin(input),
            Some(current) => self.go_on(current, input),
        }
    }

    fn begin<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Deframed<'a>)> {
        let Some((len, sequence)) = packet_header(input) else {
            return Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN + 1)));
        };
        if len == 0 {
            return Err(WireError::invalid(WHAT, "an empty packet where an event should begin"));
        }
        let payload = &input[PACKET_HEADER_LEN..];
        let Some(marker) = payload.first() else { return Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN + 1))) };
        match *marker {
            EVENT_MARKER => self.begin_event(len, sequence, payload),
            // What the server has to say matters more than the number of its packet.
            ERROR_MARKER if len <= ERROR_LIMIT => match payload.get(..len) {
                Some(error) => Ok((PACKET_HEADER_LEN + len, Deframed::Error(error))),
                None => Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN + len))),
            },
            EOF_MARKER if len < EOF_LIMIT => {
                if payload.len() < len {
                    return Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN + len)));
                }
                Ok((PACKET_HEADER_LEN + len, Deframed::Eof))
            }
            other => Err(WireError::invalid(
                WHAT,
                format!(
                    "a packet of {len} bytes begins with {other:#04x}; 00 (event), fe (end) and ff (error) are known"
                ),
            )),
        }
    }

    fn begin_event<'a>(&mut self, len: usize, sequence: u8, payload: &'a [u8]) -> Result<(usize, Deframed<'a>)> {
        let next_sequence = self.check_sequence(sequence)?;
        let prefix = prefix_len(self.options.semi_sync);
        if len < prefix + HEADER_LEN {
            return Err(WireError::invalid(
                WHAT,
                format!("a packet of {len} bytes is too short for an event and its {prefix} bytes of prefix"),
            ));
        }
        if payload.len() < prefix + HEADER_LEN {
            return Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN + prefix + HEADER_LEN)));
        }
        let semi_sync_flag = if self.options.semi_sync { Some(semi_sync_flag(payload[1], payload[2])?) } else { None };
        let header = EventHeader::parse(&payload[prefix..])?;
        let size = header.size as usize;
        self.check_size(&header, len - prefix, len == MAX_PACKET)?;

        let in_packet = len - prefix;
        let have = payload.len() - prefix;
        let want = size.min(self.options.whole_up_to);
        if have < want {
            return Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN + prefix + want)));
        }
        let take = have.min(in_packet);
        self.sequence = next_sequence;
        self.may_restart = false;
        let data = &payload[prefix..prefix + take];
        let current = Current {
            header,
            semi_sync_flag,
            event_left: size - take,
            packet_left: in_packet - take,
            continues: len == MAX_PACKET,
        };
        Ok((PACKET_HEADER_LEN + prefix + take, self.hand_out(current, true, data)))
    }

    fn go_on<'a>(&mut self, mut current: Current, input: &'a [u8]) -> Result<(usize, Deframed<'a>)> {
        let mut consumed = 0;
        if current.packet_left == 0 {
            let Some((len, sequence)) = packet_header(input) else {
                return Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN)));
            };
            let next_sequence = self.check_sequence(sequence)?;
            let lies = if len == MAX_PACKET { len > current.event_left } else { len != current.event_left };
            if lies {
                return Err(WireError::invalid(
                    WHAT,
                    format!(
                        "{} of {} bytes lacks {} bytes, its next packet has {len}",
                        current.header.kind, current.header.size, current.event_left
                    ),
                ));
            }
            if len > 0 && input.len() == PACKET_HEADER_LEN {
                return Ok((0, Deframed::NeedMore(PACKET_HEADER_LEN + 1)));
            }
            self.sequence = next_sequence;
            current.packet_left = len;
            current.continues = len == MAX_PACKET;
            consumed = PACKET_HEADER_LEN;
        } else if input.is_empty() {
            return Ok((0, Deframed::NeedMore(1)));
        }
        let rest = &input[consumed..];
        let take = rest.len().min(current.packet_left);
        current.packet_left -= take;
        current.event_left -= take;
        Ok((consumed + take, self.hand_out(current, false, &rest[..take])))
    }

    /// Remembers what is left of the event and describes the piece.
    fn hand_out<'a>(&mut self, current: Current, first: bool, data: &'a [u8]) -> Deframed<'a> {
        let last = current.packet_left == 0 && !current.continues;
        if last {
            self.may_restart = current.semi_sync_flag == Some(true);
        }
        self.current = (!last).then_some(current);
        let Current { header, semi_sync_flag, .. } = current;
        Deframed::EventData { header, first, data, last, semi_sync_flag }
    }

    /// The number that the packet behind this one has.
    fn check_sequence(&self, found: u8) -> Result<u8> {
        let fits = found == self.sequence || (self.may_restart && found == 1);
        if self.options.check_sequence && !fits {
            return Err(WireError::invalid(
                WHAT,
                format!("packet number {found} where {} is due: a packet was lost or repeated", self.sequence),
            ));
        }
        Ok(found.wrapping_add(1))
    }

    /// `in_packet` is how much of the event the first packet has, `full` whether others follow it.
    fn check_size(&self, header: &EventHeader, in_packet: usize, full: bool) -> Result<()> {
        let size = header.size as usize;
        if header.size > self.options.max_event {
            return Err(WireError::invalid(
                WHAT,
                format!("{} of {size} bytes exceeds the limit of {} bytes", header.kind, self.options.max_event),
            ));
        }
        let lies = if full { size < in_packet } else { size != in_packet };
        if lies {
            return Err(WireError::invalid(
                WHAT,
                format!("{} says it has {size} bytes, its packet has {in_packet}", header.kind),
            ));
        }
        Ok(())
    }
}

/// Length and sequence number of the packet at the front of `input`, if its header is there.
fn packet_header(input: &[u8]) -> Option<(usize, u8)> {
    let [a, b, c, sequence] = *input.first_chunk::<PACKET_HEADER_LEN>()?;
    Some((u32::from_le_bytes([a, b, c, 0]) as usize, sequence))
}

fn semi_sync_flag(magic: u8, flag: u8) -> Result<bool> {
    match (magic, flag) {
        (SEMI_SYNC_MAGIC, 0) => Ok(false),
        (SEMI_SYNC_MAGIC, 1) => Ok(true),
        _ => Err(WireError::invalid(
            WHAT,
            format!(
                "semi-sync was negotiated, but the event's packet has {magic:#04x} {flag:#04x} instead of 0xef and 0 or 1"
            ),
        )),
    }
}
