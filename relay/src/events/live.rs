//! Reads events from a living relay or server, as a replica would, without registering as one.
//!
//! Only reads: nothing is acknowledged. The connection is not encrypted.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use baton_wire::auth::{ClientAuth, ClientAuthStep};
use baton_wire::capabilities::{
    CLIENT_LONG_FLAG, CLIENT_LONG_PASSWORD, CLIENT_PLUGIN_AUTH, CLIENT_PLUGIN_AUTH_LENENC, CLIENT_PROTOCOL_41,
    CLIENT_SECURE_CONNECTION, CLIENT_TRANSACTIONS,
};
use baton_wire::command::{self, BinlogDump, BinlogDumpGtid, DUMP_NON_BLOCK, DUMP_SEND_ANNOTATE_ROWS};
use baton_wire::event::FIRST_EVENT;
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer};
use baton_wire::gtid::GtidPosition;
use baton_wire::handshake::{Greeting, HandshakeResponse, ServerFirst};
use baton_wire::packet::{PacketDecoder, write_packet};
use baton_wire::response::ErrPacket;
use baton_wire::{EventHeader, Flavor};
use bytes::{Buf, BytesMut};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may be silent. When following, it sends heartbeats more often than that.
const SILENCE: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(10);
const READ_SIZE: usize = 1 << 16;
const MAX_ANSWER: usize = 1 << 20;
const CAPABILITIES: u32 = CLIENT_LONG_PASSWORD
    | CLIENT_LONG_FLAG
    | CLIENT_PROTOCOL_41
    | CLIENT_TRANSACTIONS
    | CLIENT_SECURE_CONNECTION
    | CLIENT_PLUGIN_AUTH
    | CLIENT_PLUGIN_AUTH_LENENC;

/// Whom to ask, and for what.
pub(super) struct Source<'a> {
    /// `host:port`.
    pub(super) address: &'a str,
    /// The account.
    pub(super) user: &'a str,
    /// Its password.
    pub(super) password: &'a [u8],
    /// Whether a public key that the server sends may be used to send it the password.
    pub(super) take_public_key: bool,
    /// `FILE`, `FILE:POSITION` or a GTID position; the server's first event if `None`.
    pub(super) start: Option<&'a str>,
    /// Wait for more at the end.
    pub(super) follow: bool,
}

/// Where a stream begins.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    File { name: String, position: u32 },
    Gtid(GtidPosition),
}

/// A stream of events.
pub(super) struct Live {
    stream: TcpStream,
    input: BytesMut,
    deframer: EventDeframer,
    event: Vec<u8>,
    flavor: Flavor,
}

impl Live {
    /// Connects, logs in, and asks for the stream.
    pub(super) fn open(source: &Source<'_>) -> anyhow::Result<Self> {
        let address = source.address;
        let mut session = Session::connect(address).with_context(|| format!("connecting to {address}"))?;
        let greeting = session.log_in(source).with_context(|| format!("logging in at {address} as {}", source.user))?;
        let flavor = Flavor::of_version(&greeting.version);
        session.ask(source, flavor).with_context(|| format!("asking {address} for its events"))?;
        let deframer = EventDeframer::new(DeframerOptions::default());
        Ok(Self { stream: session.stream, input: session.input, deframer, event: Vec::new(), flavor })
    }

    /// The family of the server.
    pub(super) fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Whether the next event may have to be waited for.
    pub(super) fn is_drained(&self) -> bool {
        self.input.is_empty()
    }

    /// The next event; `None` at the end of the log.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<(EventHeader, Vec<u8>)>> {
        loop {
            let (used, found) = self.deframer.next(&self.input)?;
            let done = match found {
                Deframed::NeedMore(_) => None,
                Deframed::EventData { header, data, last, .. } => {
                    self.event.extend_from_slice(data);
                    last.then_some(header)
                }
                Deframed::Error(payload) => bail!("the server ended the stream: {}", ErrPacket::parse(payload)?),
                Deframed::Eof => return Ok(None),
            };
            let progress = used > 0;
            self.input.advance(used);
            if let Some(header) = done {
                return Ok(Some((header, std::mem::take(&mut self.event))));
            }
            if !progress {
                receive(&mut self.stream, &mut self.input)?;
            }
        }
    }
}

/// A connection before the stream.
struct Session {
    stream: TcpStream,
    input: BytesMut,
    packets: PacketDecoder,
    sequence: u8,
}

impl Session {
    fn connect(address: &str) -> anyhow::Result<Self> {
        let mut last = anyhow!("{address} is not of the form host:port, or the host has no address");
        for resolved in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(SILENCE))?;
                    stream.set_write_timeout(Some(SILENCE))?;
                    let packets = PacketDecoder::new(MAX_ANSWER);
                    return Ok(Self { stream, input: BytesMut::new(), packets, sequence: 0 });
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    fn log_in(&mut self, source: &Source<'_>) -> anyhow::Result<Greeting> {
        let greeting = match ServerFirst::parse(&self.receive()?)? {
            ServerFirst::Greeting(greeting) => greeting,
            ServerFirst::Refused(error) => bail!("{error}"),
        };
        let mut auth = ClientAuth::new(source.user, source.password, false, source.take_public_key);
        let (plugin, proof) = auth.first_response(&greeting);
        let response = HandshakeResponse {
            capabilities: CAPABILITIES,
            max_packet: 1 << 30,
            charset: 45, // utf8mb4_general_ci
            user: source.user.to_owned(),
            auth: proof,
            database: None,
            auth_plugin: Some(plugin.to_owned()),
            attributes: Vec::new(),
            extended: 0,
            zstd_level: None,
        };
        self.send(&response.encode()?)?;
        loop {
            let payload = self.receive()?;
            match auth.on_packet(&payload)? {
                ClientAuthStep::Send(payload) => self.send(&payload)?,
                ClientAuthStep::Wait => {}
                ClientAuthStep::Done => return Ok(greeting),
                ClientAuthStep::Refused(error) => bail!("{error}"),
            }
        }
    }

    fn ask(&mut self, source: &Source<'_>, flavor: Flavor) -> anyhow::Result<()> {
        let start = source.start.map(|text| parse_start(text, flavor)).transpose()?;
        // Without a checksum the first event, which comes before the format description, is sure to have none.
        for sql in settings(flavor, start.as_ref()) {
            self.execute(&sql)?;
        }
        // Two clients with one server id would end each other's streams.
        let server_id = if source.follow { rand::random_range(1 << 31..=u32::MAX) } else { 0 };
        let flags = if source.follow { 0 } else { DUMP_NON_BLOCK };
        let dump = dump_command(flavor, start, flags, server_id)?;
        self.sequence = 0;
        self.send(&dump)
    }

    fn execute(&mut self, sql: &str) -> anyhow::Result<()> {
        self.sequence = 0;
        self.send(&command::query(sql))?;
        let answer = self.receive()?;
        match answer.as_slice() {
            [0x00, ..] => Ok(()),
            [0xff, ..] => bail!("{sql}: {}", ErrPacket::parse(&answer)?),
            _ => bail!("{sql}: unexpected answer of {} bytes", answer.len()),
        }
    }

    fn send(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let mut out = Vec::new();
        write_packet(&mut out, &mut self.sequence, payload);
        self.stream.write_all(&out)?;
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(packet) = self.packets.decode(&mut self.input)? {
                self.sequence = packet.seq.wrapping_add(1);
                return Ok(packet.payload.to_vec());
            }
            receive(&mut self.stream, &mut self.input)?;
        }
    }
}

fn receive(stream: &mut TcpStream, input: &mut BytesMut) -> anyhow::Result<()> {
    let old = input.len();
    input.resize(old + READ_SIZE, 0);
    let read = stream.read(input.get_mut(old..).unwrap_or_default());
    input.truncate(old + *read.as_ref().unwrap_or(&0));
    match read {
        Ok(0) => bail!("the server closed the connection"),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            bail!("the server was silent for {} s", SILENCE.as_secs())
        }
        Err(e) => Err(e.into()),
    }
}

fn parse_start(text: &str, flavor: Flavor) -> anyhow::Result<Start> {
    if let Ok(gtid) = GtidPosition::parse(flavor, text) {
        return Ok(Start::Gtid(gtid));
    }
    let (name, position) = text.rsplit_once(':').unwrap_or((text, "4"));
    let what = || format!("--start {text:?}: FILE, FILE:POSITION or a GTID position of a {} server", flavor.name());
    let position: u32 = position.parse().with_context(what)?;
    ensure!(u64::from(position) >= FIRST_EVENT && name.contains('.'), "{}", what());
    Ok(Start::File { name: name.to_owned(), position })
}

fn settings(flavor: Flavor, start: Option<&Start>) -> Vec<String> {
    let heartbeat = HEARTBEAT.as_nanos();
    match flavor {
        Flavor::MariaDb => {
            let mut settings = vec![
                "SET @master_binlog_checksum='NONE'".to_owned(),
                format!("SET @master_heartbeat_period={heartbeat}"),
                "SET @mariadb_slave_capability=4".to_owned(),
            ];
            if let Some(Start::Gtid(gtid)) = start {
                settings.push(format!("SET @slave_connect_state='{gtid}'"));
            }
            settings
        }
        Flavor::MySql => vec![
            "SET @master_binlog_checksum='NONE', @source_binlog_checksum='NONE'".to_owned(),
            format!("SET @master_heartbeat_period={heartbeat}, @source_heartbeat_period={heartbeat}"),
        ],
    }
}

fn dump_command(flavor: Flavor, start: Option<Start>, flags: u16, server_id: u32) -> anyhow::Result<Vec<u8>> {
    let (position, file) = match (flavor, start) {
        (Flavor::MySql, Some(Start::Gtid(GtidPosition::MySql(executed)))) => {
            let mut set = Vec::new();
            executed.encode(&mut set);
            return Ok(BinlogDumpGtid { flags, server_id, file: String::new(), position: 4, set }.encode()?);
        }
        (_, Some(Start::File { name, position })) => (position, name),
        _ => (4, String::new()),
    };
    // To MySQL the second bit means something else.
    let annotate = if flavor == Flavor::MariaDb { DUMP_SEND_ANNOTATE_ROWS } else { 0 };
    Ok(BinlogDump { position, flags: flags | annotate, server_id, file }.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_file_a_place_in_it_or_a_gtid_position_of_the_servers_family() {
        const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let file = |name: &str, position| Start::File { name: name.into(), position };
        let gtid = |flavor, text: &str| Start::Gtid(GtidPosition::parse(flavor, text).unwrap());
        for (text, flavor, expected) in [
            ("mbin.000002", Flavor::MariaDb, file("mbin.000002", 4)),
            ("mbin.000002:918", Flavor::MySql, file("mbin.000002", 918)),
            ("0-1-5,7-1-1", Flavor::MariaDb, gtid(Flavor::MariaDb, "0-1-5,7-1-1")),
            (&format!("{UUID}:5"), Flavor::MySql, gtid(Flavor::MySql, &format!("{UUID}:5"))),
        ] {
            assert_eq!(parse_start(text, flavor).unwrap(), expected);
        }
        for bad in ["mbin.000002:3", "mbin.000002:99999999999", "0-1", "mbin"] {
            assert!(parse_start(bad, Flavor::MariaDb).unwrap_err().to_string().contains("--start"), "{bad}");
        }
    }
}
