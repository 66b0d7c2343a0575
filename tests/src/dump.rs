//! A replication client that says exactly what a test wants it to, and keeps every byte that it is sent.
//!
//! Like [`Sql`], on which it stands, it shares nothing with Baton's own protocol code. Sources:
//! <https://mariadb.com/kb/en/com_binlog_dump/>, <https://mariadb.com/kb/en/2-binlog-event-header/>.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};

use crate::sql::{Answer, Sql, SqlError, refuse_error};

/// Dump flag: end at the end of the log.
pub const NON_BLOCKING: u16 = 1;
/// Dump flag: send ANNOTATE_ROWS events.
pub const ANNOTATE: u16 = 2;
/// Bytes of an event's header.
const HEADER: usize = 19;
/// Event header flag of what is in no file.
const ARTIFICIAL: u16 = 0x20;
/// Event type of a heartbeat.
const HEARTBEAT: u8 = 27;

/// What COM_BINLOG_DUMP asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// Statements before it, in order.
    pub statements: Vec<String>,
    /// File; empty for the oldest.
    pub file: String,
    /// Offset in it.
    pub position: u32,
    /// [`NON_BLOCKING`], [`ANNOTATE`].
    pub flags: u16,
    /// The client's `server_id`.
    pub server_id: u32,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Events in order, whole.
    pub events: Vec<Vec<u8>>,
    /// How it ended.
    pub end: End,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// EOF packet: the end of the log.
    Eof,
    /// An error in place of an event.
    Refused(SqlError),
    /// The server closed the connection without a word.
    Closed,
}

impl Dump {
    /// By file and position, as `mariadb-binlog` asks: checksums as they are in the file, MariaDB's events, to the end of the log.
    pub fn file(file: &str, position: u32) -> Self {
        let statements = ["SET @master_binlog_checksum='NONE'", "SET @mariadb_slave_capability=4"];
        let statements = statements.map(str::to_owned).into();
        Self { statements, file: file.to_owned(), position, flags: NON_BLOCKING | ANNOTATE, server_id: 0 }
    }

    /// By GTID position, likewise.
    pub fn gtid(position: &str) -> Self {
        Self::file("", 4).saying(&format!("SET @slave_connect_state='{position}'"))
    }

    /// A further statement.
    pub fn saying(mut self, statement: &str) -> Self {
        self.statements.push(statement.to_owned());
        self
    }

    /// With exactly these statements.
    pub fn saying_only(mut self, statements: &[&str]) -> Self {
        self.statements = statements.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    /// Other flags.
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// Another `server_id`.
    pub fn server_id(mut self, id: u32) -> Self {
        self.server_id = id;
        self
    }

    /// Says the statements and sends the command; read on with [`Sql::next_event`].
    pub fn begin(&self, session: &mut Sql) -> Result<()> {
        for statement in &self.statements {
            session.query(statement)?;
        }
        let mut command = vec![0x12];
        command.extend_from_slice(&self.position.to_le_bytes());
        command.extend_from_slice(&self.flags.to_le_bytes());
        command.extend_from_slice(&self.server_id.to_le_bytes());
        command.extend_from_slice(self.file.as_bytes());
        session.send_command(&command)
    }

    /// Asks, and reads to the end. The session can't be used afterwards.
    pub fn run(&self, session: &mut Sql) -> Result<Stream> {
        self.begin(session)?;
        let mut events = Vec::new();
        loop {
            match session.next_event()? {
                Ok(event) => events.push(event),
                Err(end) => return Ok(Stream { events, end }),
            }
        }
    }
}

impl Stream {
    /// The events without what has to differ between two servers that stream the same log: the sender's id (and so the checksum) of artificial
    /// events, and heartbeats.
    pub fn comparable(&self) -> Vec<Vec<u8>> {
        let events = self.events.iter().filter(|event| event.get(4) != Some(&HEARTBEAT));
        let events = events.map(|event| {
            let mut event = event.clone();
            if flags(&event) & ARTIFICIAL != 0 {
                let body = event.len().saturating_sub(4).max(HEADER);
                if event.get(body..) == Some(crc32(&event[..body.min(event.len())]).to_le_bytes().as_slice()) {
                    event[body..].fill(0);
                }
                event[5..9].fill(0);
            }
            event
        });
        events.collect()
    }
}

/// An error that shows the first difference of two lists of events, if there is one.
pub fn difference(left: &[Vec<u8>], right: &[Vec<u8>]) -> Result<()> {
    let at = left.iter().zip(right).position(|(x, y)| x != y).unwrap_or(left.len().min(right.len()));
    let show = |events: &[Vec<u8>]| events.get(at).map_or("nothing".to_owned(), |event| format!("{event:02x?}"));
    ensure!(
        left == right,
        "event {at} of {} and {} differs:\n  {}\n  {}",
        left.len(),
        right.len(),
        show(left),
        show(right)
    );
    Ok(())
}

impl Sql {
    /// Sends a command as it is, code first.
    pub fn send_command(&mut self, command: &[u8]) -> Result<()> {
        self.sequence = 0;
        self.write_packet(command)
    }

    /// Sends bytes as they are, instead of packets.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// Reads a whole answer to [`Sql::send_command`], be it a refusal.
    pub fn read_answer(&mut self) -> Result<Result<Answer, SqlError>> {
        match self.read_result() {
            Ok((answer, _)) => Ok(Ok(answer)),
            Err(error) => error.downcast::<SqlError>().map(Err),
        }
    }

    /// Sends a command and gives the first packet of the answer; a refusal is a [`SqlError`].
    pub fn first_packet(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        self.send_command(command)?;
        let packet = self.read_packet()?;
        refuse_error(&packet).map(|()| packet)
    }

    /// The next packet as it is, header and all, whatever its number is.
    pub fn raw_packet(&mut self) -> Result<Vec<u8>> {
        let mut packet = vec![0; 4];
        self.stream.read_exact(&mut packet).context("the server is gone or silent")?;
        let size = usize::from(packet[0]) | usize::from(packet[1]) << 8 | usize::from(packet[2]) << 16;
        packet.resize(4 + size, 0);
        self.stream.read_exact(&mut packet[4..]).context("the server is gone or silent")?;
        Ok(packet)
    }

    /// The next event of a stream, or how it ended. A server that is silent for too long is an error.
    pub fn next_event(&mut self) -> Result<Result<Vec<u8>, End>> {
        let packet = match self.read_packet() {
            Ok(packet) => packet,
            Err(error) => {
                self.broken = true;
                let io = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
                return if matches!(io, Some(UnexpectedEof | ConnectionReset)) {
                    Ok(Err(End::Closed))
                } else {
                    Err(error)
                };
            }
        };
        match packet.split_first() {
            Some((0, event)) => Ok(Ok(event.to_vec())),
            Some((0xfe, _)) if packet.len() < 9 => {
                self.broken = true;
                Ok(Err(End::Eof))
            }
            _ => {
                self.broken = true;
                let Err(error) = refuse_error(&packet) else { anyhow::bail!("not an event: {packet:02x?}") };
                Ok(Err(End::Refused(error.downcast()?)))
            }
        }
    }
}

fn flags(event: &[u8]) -> u16 {
    event.get(17..19).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// The checksum of events (CRC-32 of zlib), the slow way.
pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (0..8).fold(crc, |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()));
    !bytes.iter().fold(!0, |crc, byte| step(crc ^ u32::from(*byte)))
}
