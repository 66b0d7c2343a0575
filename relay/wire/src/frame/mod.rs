//! Events in and out of the packets of a binlog stream, without a copy and without ever holding a whole large event.
//!
//! Owns: packet headers, their sequence numbers, the `00` (and semi-sync `ef flag`) prefix of event packets, and how events of
//! 16 MiB and more go on in further packets. Promises: lying lengths and lost packets are errors before their bytes are handed
//! on. Never looks into an event beyond its 19-byte header, and never verifies checksums.
//!
//! Format: "MySQL Packets" and "COM_BINLOG_DUMP" in the client/server protocol manual; the semi-sync header is
//! `Repl_semi_sync_master::reserve_sync_header` in MariaDB's `sql/semisync_master.cc`.

mod deframer;
mod framer;

pub use deframer::{Deframed, DeframerOptions, EventDeframer};
pub use framer::{EventFramer, Run, framed_len};

/// Bytes that one packet carries at most; a packet this long is continued by the next one, which may be empty.
pub const MAX_PACKET: usize = 0xff_ffff;
/// Bytes of a packet's header: length (three bytes) and sequence number.
pub const PACKET_HEADER_LEN: usize = 4;

/// First byte of a packet that begins an event.
const EVENT_MARKER: u8 = 0x00;
/// First byte of an end-of-stream packet.
const EOF_MARKER: u8 = 0xfe;
/// First byte of an error packet.
const ERROR_MARKER: u8 = 0xff;
/// Second byte of an event packet in a semi-sync session, followed by the flag.
const SEMI_SYNC_MAGIC: u8 = 0xef;

/// Bytes before the event in its first packet.
const fn prefix_len(semi_sync: bool) -> usize {
    if semi_sync { 3 } else { 1 }
}
