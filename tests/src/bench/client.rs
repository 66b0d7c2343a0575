//! The light client of all measurements: logs in as a MariaDB replica does, asks for the log, and reads it as cheaply as a socket can be read.
//!
//! The same client reads from every server, so what differs between two figures is the server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use baton_testbed::template::REPL_PASSWORD;
use baton_wire::auth::{ClientAuth, ClientAuthStep};
use baton_wire::capabilities as cap;
use baton_wire::command::{self, BinlogDump};
use baton_wire::event::EventKind;
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer};
use baton_wire::handshake::{HandshakeResponse, ServerFirst};
use baton_wire::response::ErrPacket;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes asked for with one read.
const READ: usize = 1 << 20;
/// The end of a non-blocking dump: packet header and payload.
const EOF_PACKET: u64 = 9;
/// What a replica says before it asks for the stream.
const STATEMENTS: [&str; 2] =
    ["SET @master_binlog_checksum= @@global.binlog_checksum", "SET @mariadb_slave_capability=4"];

/// A place in a log where a reading begins.
#[derive(Debug, Clone)]
pub(crate) struct From {
    /// The file's name.
    pub(crate) file: String,
    /// Offset of an event in it.
    pub(crate) position: u32,
}

/// What a server sends for a whole log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Bytes on the wire, without the end-of-stream packet.
    pub(crate) bytes: u64,
    /// Events.
    pub(crate) events: u64,
}

/// One connection, logged in.
pub(crate) struct Reader {
    tcp: TcpStream,
    server_id: u32,
    sequence: u8,
}

impl Reader {
    /// Connects and says what a replica says, with a server id of its own.
    pub(crate) fn connect(port: u16) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(100_000);
        let tcp = plain(port)?;
        let server_id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut reader = Self { tcp, server_id, sequence: 0 };
        reader.log_in().with_context(|| format!("login at port {port}"))?;
        for statement in STATEMENTS {
            reader.sequence = 0;
            reader.send(&command::query(statement))?;
            let answer = reader.packet()?;
            ensure!(answer.first() == Some(&0), "port {port} refuses {statement}: {answer:02x?}");
        }
        Ok(reader)
    }

    fn log_in(&mut self) -> Result<()> {
        let greeting = match ServerFirst::parse(&self.packet()?)? {
            ServerFirst::Greeting(greeting) => greeting,
            ServerFirst::Refused(error) => bail!("refused: {error}"),
        };
        let wanted = cap::CLIENT_LONG_PASSWORD
            | cap::CLIENT_LONG_FLAG
            | cap::CLIENT_PROTOCOL_41
            | cap::CLIENT_TRANSACTIONS
            | cap::CLIENT_SECURE_CONNECTION
            | cap::CLIENT_PLUGIN_AUTH;
        let mut auth = ClientAuth::new("repl", REPL_PASSWORD.as_bytes(), false, true);
        let (plugin, answer) = auth.first_response(&greeting);
        let response = HandshakeResponse {
            capabilities: wanted & (greeting.capabilities | cap::CLIENT_LONG_PASSWORD),
            max_packet: 1 << 30,
            charset: 8,
            user: "repl".into(),
            auth: answer,
            database: None,
            auth_plugin: Some(plugin.to_owned()),
            attributes: Vec::new(),
            extended: 0,
            zstd_level: None,
        };
        self.send(&response.encode()?)?;
        loop {
            match auth.on_packet(&self.packet()?)? {
                ClientAuthStep::Send(bytes) => self.send(&bytes)?,
                ClientAuthStep::Wait => {}
                ClientAuthStep::Done => return Ok(()),
                ClientAuthStep::Refused(error) => bail!("refused: {error}"),
            }
        }
    }

    /// Asks for the log; with `to_end`, for what is there now, else for what comes later too.
    pub(crate) fn dump(&mut self, from: &From, to_end: bool) -> Result<()> {
        self.sequence = 0;
        // 2: annotations too, as every replica asks.
        let flags = 2 | u16::from(to_end);
        let dump = BinlogDump { position: from.position, flags, server_id: self.server_id, file: from.file.clone() };
        self.send(&dump.encode())
    }

    /// Reads the stream of a dump to the end, event by event: says what is in it.
    pub(crate) fn survey(&mut self) -> Result<Stream> {
        let mut events = 0;
        let mut bytes = 0;
        self.events(|_, _, n| {
            events += 1;
            bytes += n;
            Ok(true)
        })?;
        Ok(Stream { bytes, events })
    }

    /// Calls `each` with the arrival, the bytes (of the first piece) and the bytes on the wire of each event, until it says no or the log ends.
    pub(crate) fn events(&mut self, mut each: impl FnMut(Instant, &[u8], u64) -> Result<bool>) -> Result<()> {
        let mut deframer = EventDeframer::new(DeframerOptions::default());
        let mut buffer = vec![0; READ + deframer.min_buffer()];
        let (mut start, mut end, mut wire) = (0, 0, 0);
        loop {
            let n = self.tcp.read(&mut buffer[end..]).context("the server is silent")?;
            let now = Instant::now();
            ensure!(n > 0, "the server closed the stream");
            end += n;
            loop {
                let (used, found) = deframer.next(&buffer[start..end])?;
                start += used;
                wire += used as u64;
                match found {
                    Deframed::NeedMore(_) => break,
                    Deframed::EventData { data, last, .. } => {
                        if last && !each(now, data, std::mem::take(&mut wire))? {
                            return Ok(());
                        }
                    }
                    Deframed::Error(payload) => bail!("the server ends the stream: {}", ErrPacket::parse(payload)?),
                    Deframed::Eof => return Ok(()),
                }
            }
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
    }

    /// The connection itself.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.tcp
    }

    /// Takes that many bytes off the socket without looking at them.
    pub(crate) fn skim(&mut self, bytes: u64) -> Result<()> {
        skim(&self.tcp, bytes)
    }

    /// Takes off the socket what is there.
    pub(crate) fn drain(&mut self) -> Result<()> {
        let mut room = vec![0; READ];
        loop {
            match recv(&self.tcp, &mut room[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Ok((_, 0)) => bail!("the server closed the stream"),
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Reader::skim`], with the end-of-stream packet behind them.
    pub(crate) fn skim_to_end(&mut self, stream: Stream) -> Result<()> {
        skim(&self.tcp, stream.bytes + EOF_PACKET)
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut out = Vec::new();
        baton_wire::packet::write_packet(&mut out, &mut self.sequence, payload);
        Ok(self.tcp.write_all(&out)?)
    }

    fn packet(&mut self) -> Result<Vec<u8>> {
        let mut head = [0; 4];
        self.tcp.read_exact(&mut head).context("the server is gone or silent")?;
        let (size, sequence) = baton_wire::packet::header(head);
        self.sequence = sequence.wrapping_add(1);
        let mut payload = vec![0; size];
        self.tcp.read_exact(&mut payload)?;
        Ok(payload)
    }
}

/// A connection to a local port.
pub(crate) fn plain(port: u16) -> Result<TcpStream> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("connect to port {port}"))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(SILENCE))?;
    Ok(tcp)
}

/// Takes `bytes` bytes off a socket: with `MSG_TRUNC` the kernel drops them without a copy (tcp(7)), so that the client leaves the machine to
/// the server.
pub(crate) fn skim(tcp: &TcpStream, bytes: u64) -> Result<()> {
    let mut room = vec![0; READ];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(READ).min(READ);
        let (_, n) = recv(tcp, &mut room[..most], RecvFlags::TRUNC).context("the server is silent")?;
        ensure!(n > 0, "the server closed the stream {left} bytes before its end");
        left -= n as u64;
    }
    Ok(())
}

/// The GTID sequence number in an event, if it begins a transaction.
pub(crate) fn gtid_sequence(event: &[u8]) -> Option<u64> {
    (event.get(4)? == &EventKind::MARIADB_GTID.0).then_some(())?;
    Some(u64::from_le_bytes(*event.get(19..)?.first_chunk()?))
}

/// Whether an event ends a transaction on rows.
pub(crate) fn is_commit(event: &[u8]) -> bool {
    event.get(4) == Some(&EventKind::XID.0)
}
