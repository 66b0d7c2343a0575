//! Packets and the event stream: however the bytes arrive, the same comes out, and nothing is lost or made up.

use baton_wire::event::{EventHeader, EventKind, HEADER_LEN};
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer, EventFramer, framed_len};
use baton_wire::packet::{MAX_PAYLOAD, Packet, PacketDecoder, write_packet};
use baton_wire::semisync::{Ack, MAX_FILE_NAME, StreamItem, event_prefix, strip_header};
use bytes::{Bytes, BytesMut};

use super::input::{Input, cuts};

/// Input: limit, seed of the slices, stream. Slicing changes nothing, and what was taken is what the packets encode to.
pub fn packet_decoder(data: &[u8]) {
    let mut input = Input(data);
    let limit = [MAX_PAYLOAD, 1 << 30, 4096, 64][usize::from(input.byte() % 4)];
    let mut cut = cuts(input.byte());
    let stream = input.0;
    let whole = decode(stream, limit, || stream.len().max(1));
    assert_eq!(whole, decode(stream, limit, &mut cut), "slices matter");

    let (packets, consumed, _) = whole;
    let mut again = Vec::new();
    for packet in &packets {
        assert!(packet.payload.len() <= limit);
        write_packet(&mut again, &mut packet.seq.clone(), &packet.payload);
    }
    // An input of a fuzzer is too short for a split payload, so the encoding is the only one.
    assert_eq!(again, stream[..consumed]);
}

/// The packets in `stream`, how many of its bytes they took, and whether it ended in an error.
fn decode(stream: &[u8], limit: usize, mut cut: impl FnMut() -> usize) -> (Vec<Packet>, usize, Option<String>) {
    let mut decoder = PacketDecoder::new(limit);
    let (mut buf, mut fed, mut consumed) = (BytesMut::new(), 0, 0);
    let mut packets = Vec::new();
    loop {
        match decoder.decode(&mut buf) {
            Ok(Some(packet)) => {
                consumed += 4 + packet.payload.len();
                packets.push(packet);
            }
            Ok(None) if fed == stream.len() => return (packets, consumed, None),
            Ok(None) => {
                let next = stream.len().min(fed + cut().max(1));
                buf.extend_from_slice(&stream[fed..next]);
                fed = next;
            }
            Err(error) => return (packets, consumed, Some(error.to_string())),
        }
    }
}

/// Input: distance of an event's size from the border of a packet, options, seed of the slices, changes of single bytes. Events at
/// the border go through framer, deframer and packet decoder unchanged, and changed bytes are read or refused.
pub fn large_packets(data: &[u8]) {
    let mut input = Input(data);
    let distance = usize::from(input.byte() % 16);
    let options = input.byte();
    let semi_sync = options & 1 != 0;
    let size = if options & 2 != 0 { 2 * MAX_PAYLOAD } else { MAX_PAYLOAD } + 4 - distance;
    let mut numbers = cuts(input.byte());
    let mut cut = move || numbers() * 4000;

    let mut event = Vec::with_capacity(size);
    header(size).write(&mut event);
    event.resize(size, 0x5a);
    let mut stream = Vec::with_capacity(framed_len(size, semi_sync));
    let mut framer = EventFramer::new(input.byte(), semi_sync);
    let first_sequence = framer.sequence();
    framer.frame(&mut stream, &event).expect("frames");
    assert_eq!(stream.len(), framed_len(size, semi_sync));

    let settings = DeframerOptions { semi_sync, first_sequence, ..Default::default() };
    let read = deframe(&stream, &settings, &mut cut);
    assert_eq!(read.end, End::NeedMore);
    assert!(read.events == [(event, semi_sync.then_some(false), 0)], "the event has changed");

    let mut buf = BytesMut::from(&stream[..]);
    let packet = PacketDecoder::new(1 << 30).decode(&mut buf).expect("decodes").expect("is whole");
    assert!(buf.is_empty());
    assert_eq!(packet.payload.len(), size + if semi_sync { 3 } else { 1 });

    // Headers, prefixes and the borders of packets are where a change matters.
    while !input.0.is_empty() {
        let place = input.byte();
        let offset = usize::from(place & 0x3f);
        let at = match place >> 6 {
            0 => offset,
            1 => MAX_PAYLOAD + 4 + offset,
            2 => 2 * (MAX_PAYLOAD + 4) + offset,
            _ => stream.len().saturating_sub(1 + offset),
        };
        if let Some(byte) = stream.get_mut(at) {
            *byte = input.byte();
        }
    }
    deframe(&stream, &settings, cut);
    let _ = PacketDecoder::new(1 << 30).decode(&mut BytesMut::from(&stream[..]));
}

fn header(size: usize) -> EventHeader {
    EventHeader { timestamp: 1, kind: EventKind::WRITE_ROWS_V1, server_id: 1, size: size as u32, log_pos: 0, flags: 0 }
}

/// Input: options, largest event, first sequence number, seed of the slices, stream. Slicing changes nothing; an event has as many
/// bytes as its header says; events that are framed again are the bytes that they came from.
pub fn event_deframer(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let options = DeframerOptions {
        semi_sync: flags & 1 != 0,
        check_sequence: flags & 2 != 0,
        whole_up_to: [0, 30, 100, 256 * 1024][usize::from(flags >> 2 & 3)],
        max_event: [40, 1000, 1 << 20, (1 << 30) + (1 << 16)][usize::from(flags >> 4 & 3)],
        first_sequence: input.byte(),
    };
    let mut cut = cuts(input.byte());
    let stream = input.0;
    let whole = deframe(stream, &options, || stream.len().max(1));
    let sliced = deframe(stream, &options, &mut cut);
    assert_eq!(whole.events, sliced.events, "slices matter");
    assert_eq!((&whole.partial, &whole.end), (&sliced.partial, &sliced.end), "slices matter");

    let mut at = 0;
    for (event, semi_sync_flag, offset) in &whole.events {
        assert_eq!(*offset, at, "an event does not begin where the one before it ended");
        assert!(event.len() <= options.max_event as usize);
        let mut framed = Vec::new();
        let mut framer = EventFramer::new(stream[at + 3], options.semi_sync);
        let result = match semi_sync_flag {
            Some(true) => framer.frame_wanting_ack(&mut framed, event),
            _ => framer.frame(&mut framed, event),
        };
        assert_eq!(result, Ok(()));
        assert_eq!(framed, stream[at..at + framed.len()]);
        at += framed.len();
    }
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    NeedMore,
    Eof(usize),
    Error(Vec<u8>),
    Refused(String),
}

struct Deframings {
    /// Whole events, their semi-sync flags, and where in the stream they began.
    events: Vec<(Vec<u8>, Option<bool>, usize)>,
    /// What came of an event that is not complete.
    partial: Vec<u8>,
    end: End,
}

fn deframe(stream: &[u8], options: &DeframerOptions, mut cut: impl FnMut() -> usize) -> Deframings {
    let mut deframer = EventDeframer::new(options.clone());
    let (mut from, mut to, mut began) = (0, 0, 0);
    let mut out = Deframings { events: Vec::new(), partial: Vec::new(), end: End::NeedMore };
    loop {
        match deframer.next(&stream[from..to]) {
            Ok((consumed, Deframed::NeedMore(wanted))) => {
                assert_eq!(consumed, 0);
                assert!(wanted > to - from && wanted <= deframer.min_buffer(), "{wanted} bytes are wanted");
                if to == stream.len() {
                    assert_eq!(deframer.inside_event(), !out.partial.is_empty());
                    return out;
                }
                to = stream.len().min(to + cut().max(1));
            }
            Ok((consumed, Deframed::EventData { header, first, data, last, semi_sync_flag })) => {
                assert!(consumed >= data.len() && consumed <= to - from);
                assert_eq!(semi_sync_flag.is_some(), options.semi_sync);
                assert_eq!(first, out.partial.is_empty());
                if first {
                    began = from;
                    assert!(data.len() >= HEADER_LEN.max((header.size as usize).min(options.whole_up_to)));
                    assert_eq!(EventHeader::parse(data), Ok(header));
                }
                assert!(!data.is_empty() || last);
                from += consumed;
                out.partial.extend_from_slice(data);
                assert!(out.partial.len() <= header.size as usize, "more bytes than the event has");
                assert_eq!(deframer.inside_event(), !last);
                if last {
                    assert_eq!(out.partial.len(), header.size as usize);
                    out.events.push((std::mem::take(&mut out.partial), semi_sync_flag, began));
                }
            }
            Ok((consumed, Deframed::Eof)) => {
                out.end = End::Eof(from + consumed);
                return out;
            }
            Ok((consumed, Deframed::Error(payload))) => {
                assert_eq!(consumed, 4 + payload.len());
                out.end = End::Error(payload.to_vec());
                return out;
            }
            Err(error) => {
                assert_eq!(deframer.next(&stream[from..to]), Err(error.clone()), "an error does not last");
                out.end = End::Refused(error.to_string());
                return out;
            }
        }
    }
}

/// Input: whether semi-sync is on, payload. Acknowledgements and prefixes encode to what they were read from.
pub fn semi_sync(data: &[u8]) {
    let mut input = Input(data);
    let semi_sync = input.byte() & 1 != 0;
    let payload = input.0;
    if let Ok(ack) = Ack::parse(payload) {
        let fits = ack.file.len() <= MAX_FILE_NAME; // replacement characters may have made it longer
        assert!(!fits || Ack::parse(&ack.encode()) == Ok(ack));
    }
    if let Ok((_, event)) = strip_header(payload) {
        assert_eq!(event.len() + 2, payload.len());
    }
    if let Ok(StreamItem::Event { ack_wanted, event }) = StreamItem::parse(Bytes::copy_from_slice(payload), semi_sync) {
        let prefix = event_prefix(semi_sync.then_some(ack_wanted));
        assert_eq!([prefix, &event].concat(), payload);
    }
}
