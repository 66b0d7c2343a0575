//! A replication client that hides nothing: each packet with its number.

use std::net::SocketAddr;
use std::time::Duration;

use baton_wire::auth::{ClientAuth, ClientAuthStep};
use baton_wire::capabilities as cap;
use baton_wire::checksum::CHECKSUM_LEN;
use baton_wire::command::{self, BinlogDump};
use baton_wire::event::{EventHeader, HEADER_LEN};
use baton_wire::handshake::{Greeting, HandshakeResponse};
use baton_wire::packet::{Packet, PacketDecoder, write_packet};
use baton_wire::response::ErrPacket;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const USER: &str = "repl";
pub(crate) const PASSWORD: &str = "a password";
const DEADLINE: Duration = Duration::from_secs(30);

/// A logged-in connection.
pub(crate) struct Client {
    stream: TcpStream,
    buf: BytesMut,
    decoder: PacketDecoder,
    /// Number that the next packet has to have.
    expected: u8,
    /// Whether events come with the semi-sync header; and whether the one before asked for an acknowledgement.
    semi_sync: bool,
    asked: bool,
}

/// A packet of a stream.
pub(crate) struct Got {
    pub(crate) sequence: u8,
    /// The event; for an error packet all of it.
    pub(crate) bytes: Vec<u8>,
    /// Whether an acknowledgement is asked for.
    pub(crate) asks: bool,
    is_error: bool,
}

impl Got {
    pub(crate) fn event(&self) -> EventHeader {
        assert!(!self.is_error, "an error: {}", self.error());
        EventHeader::parse(&self.bytes).unwrap()
    }

    /// The event's body, of a file with checksums.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..self.bytes.len() - CHECKSUM_LEN]
    }

    pub(crate) fn is_error(&self) -> bool {
        self.is_error
    }

    pub(crate) fn error(&self) -> ErrPacket {
        ErrPacket::parse(&self.bytes).unwrap_or_else(|e| panic!("no error packet: {e}"))
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut client = Self {
            stream,
            buf: BytesMut::new(),
            decoder: PacketDecoder::new(1 << 24),
            expected: 0,
            semi_sync: false,
            asked: false,
        };
        let greeting = Greeting::parse(&client.packet().await.payload).unwrap();
        let mut auth = ClientAuth::new(USER, PASSWORD.as_bytes(), false, true);
        let (plugin, answer) = auth.first_response(&greeting);
        let response = HandshakeResponse {
            capabilities: cap::CLIENT_PROTOCOL_41 | cap::CLIENT_SECURE_CONNECTION | cap::CLIENT_PLUGIN_AUTH,
            max_packet: 1 << 24,
            charset: 45,
            user: USER.into(),
            auth: answer,
            database: None,
            auth_plugin: Some(plugin.to_owned()),
            attributes: Vec::new(),
            extended: 0,
            zstd_level: None,
        };
        client.send(1, &response.encode().unwrap()).await;
        let packet = client.packet().await;
        let step = auth.on_packet(&packet.payload).unwrap();
        assert_eq!(step, ClientAuthStep::Done);
        client
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    async fn send(&mut self, mut sequence: u8, payload: &[u8]) {
        let mut out = Vec::new();
        write_packet(&mut out, &mut sequence, payload);
        self.stream.write_all(&out).await.unwrap();
        self.expected = sequence;
    }

    /// The next packet, which has the next number.
    async fn packet(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buf).unwrap() {
                assert_eq!(packet.seq, self.expected, "the packet's number");
                self.expected = packet.seq.wrapping_add(1);
                return packet;
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buf)).await.expect("something to read");
            assert_ne!(read.unwrap(), 0, "the relay closed the connection");
        }
    }

    /// A statement whose answer is OK.
    pub(crate) async fn ok(&mut self, sql: &str) {
        self.send(0, &command::query(sql)).await;
        let answer = self.packet().await;
        assert_eq!(answer.payload.first(), Some(&0), "{sql}: {answer:?}");
    }

    /// Says that it acknowledges, as a replica does.
    pub(crate) async fn semi_sync(&mut self) {
        self.ok("SET @rpl_semi_sync_slave= 1").await;
        self.semi_sync = true;
    }

    /// Sends a payload beside the stream.
    pub(crate) async fn say(&mut self, payload: &[u8]) {
        let mut out = Vec::new();
        write_packet(&mut out, &mut 0, payload);
        self.stream.write_all(&out).await.unwrap();
    }

    /// Asks for the stream.
    pub(crate) async fn dump(&mut self, file: &str, position: u32, flags: u16) {
        let dump = BinlogDump { position, flags, server_id: 77, file: file.into() };
        self.send(0, &dump.encode()).await;
    }

    /// The next packet of the stream.
    pub(crate) async fn next(&mut self) -> Got {
        let packet = self.packet().await;
        let is_error = ErrPacket::is(&packet.payload);
        let skip = match (is_error, self.semi_sync) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => {
                assert!(
                    matches!(packet.payload[..3], [0, 0xef, 0 | 1]),
                    "no semi-sync header: {:02x?}",
                    &packet.payload[..3]
                );
                self.asked = packet.payload[2] == 1;
                if self.asked {
                    self.expected = 1;
                }
                3
            }
        };
        Got { sequence: packet.seq, bytes: packet.payload[skip..].to_vec(), asks: self.asked && !is_error, is_error }
    }
}
