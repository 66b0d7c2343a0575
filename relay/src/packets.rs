//! MySQL packets over a connection: the short I/O around `baton_wire::packet`.

use std::io;
use std::time::Duration;

use baton_wire::packet::{Packet, PacketDecoder, write_packet};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::net::Stream;

/// What is read and thrown away of a peer that was told off, and how long it may pause meanwhile.
const DISCARD: usize = 16 << 20;
const PAUSE: Duration = Duration::from_millis(200);

/// Packets in both directions, with the running sequence number.
pub(crate) struct PacketIo {
    pub(crate) stream: Stream,
    buf: BytesMut,
    decoder: PacketDecoder,
    /// Number of the next packet that is sent.
    pub(crate) seq: u8,
}

impl PacketIo {
    /// Payloads of more than `max_payload` bytes are refused.
    pub(crate) fn new(stream: Stream, max_payload: usize) -> Self {
        Self { stream, buf: BytesMut::with_capacity(1024), decoder: PacketDecoder::new(max_payload), seq: 0 }
    }

    /// Changes the limit of payloads.
    pub(crate) fn set_max_payload(&mut self, max_payload: usize) {
        self.decoder.set_max_payload(max_payload);
    }

    /// The next payload; `None` if the peer closed between two. What is not the protocol is `InvalidData`.
    pub(crate) async fn read(&mut self) -> io::Result<Option<Packet>> {
        loop {
            let number = self.buf.get(3).copied();
            let decoded = self.decoder.decode(&mut self.buf).map_err(|e| {
                // An answer to it has the number behind it, as any other.
                self.seq = number.map_or(self.seq, |n| n.wrapping_add(1));
                io::Error::new(io::ErrorKind::InvalidData, e)
            });
            match decoded? {
                Some(packet) => {
                    self.seq = packet.seq.wrapping_add(1);
                    return Ok(Some(packet));
                }
                None => {
                    if self.stream.read_buf(&mut self.buf).await? == 0 {
                        let inside = !self.buf.is_empty() || self.decoder.is_mid_payload();
                        return if inside { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
                    }
                }
            }
        }
    }

    /// Like [`read`](Self::read), where the peer owes an answer.
    pub(crate) async fn expect(&mut self) -> io::Result<Packet> {
        self.read().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends one payload.
    pub(crate) async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(payload.len() + 8);
        write_packet(&mut out, &mut self.seq, payload);
        self.send_raw(&out).await
    }

    /// Sends bytes that are packets already.
    pub(crate) async fn send_raw(&mut self, packets: &[u8]) -> io::Result<()> {
        self.stream.write_all(packets).await?;
        self.stream.flush().await
    }

    /// Whether bytes have come that nobody has asked for yet.
    pub(crate) fn has_unread(&self) -> bool {
        !self.buf.is_empty()
    }

    /// Reads on for a while and throws away: a connection closed with unread bytes is reset, and the peer would never see the last answer.
    pub(crate) async fn discard(&mut self) {
        let mut left = DISCARD;
        while left > 0 {
            self.buf.clear();
            match timeout(PAUSE, self.stream.read_buf(&mut self.buf)).await {
                Ok(Ok(n)) if n > 0 => left = left.saturating_sub(n),
                _ => return,
            }
        }
    }

    /// The connection, and what was read from it too early.
    pub(crate) fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.buf)
    }
}
