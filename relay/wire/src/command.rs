//! Commands of a client: those that a source of replication serves, and those that a replica sends.
//!
//! Owns their bytes (MySQL internals, "Command Phase" and "Replication Protocol"). Promises: a command that is not served is known by
//! its byte, so that it can be refused by name. Never reads SQL: a query is its text.

use std::fmt;

use crate::capabilities::{CLIENT_QUERY_ATTRIBUTES, has};
use crate::error::{Result, WireError};
use crate::put;
use crate::read::Reader;

/// Dump flag: end with an EOF packet at the end of the log instead of waiting.
pub const DUMP_NON_BLOCK: u16 = 0x0001;
/// Dump flag of MariaDB: send `ANNOTATE_ROWS` events.
pub const DUMP_SEND_ANNOTATE_ROWS: u16 = 0x0002;
/// Dump flag of MySQL, the same bit: heartbeats in version 2.
pub const DUMP_HEARTBEAT_V2: u16 = 0x0002;

const COM_QUIT: u8 = 0x01;
const COM_INIT_DB: u8 = 0x02;
const COM_QUERY: u8 = 0x03;
const COM_STATISTICS: u8 = 0x09;
const COM_PROCESS_KILL: u8 = 0x0c;
const COM_PING: u8 = 0x0e;
const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;
const COM_SET_OPTION: u8 = 0x1b;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;
const COM_RESET_CONNECTION: u8 = 0x1f;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The client leaves.
    Quit,
    /// `USE` of a database.
    InitDb(String),
    /// A statement; bytes that are not UTF-8 became replacement characters.
    Query(String),
    /// One line of statistics is asked for.
    Statistics,
    /// Kills the thread with this id.
    ProcessKill(u32),
    /// Are you there?
    Ping,
    /// Switches multi-statements on (0) or off (1).
    SetOption(u16),
    /// Forgets the session's state.
    ResetConnection,
    /// A replica introduces itself.
    RegisterSlave(RegisterSlave),
    /// A dump from a file and position (or, with MariaDB, from `@slave_connect_state`).
    BinlogDump(BinlogDump),
    /// A dump from a GTID set (MySQL).
    BinlogDumpGtid(BinlogDumpGtid),
    /// A command byte that is not served.
    Unknown(u8),
}

impl Command {
    /// Reads a payload; `capabilities` are those that both sides have.
    pub fn parse(payload: &[u8], capabilities: u32) -> Result<Self> {
        let mut r = Reader::new("command", payload);
        Ok(match r.u8()? {
            COM_QUIT => Self::Quit,
            COM_INIT_DB => Self::InitDb(put::text(r.take_rest())),
            COM_QUERY => {
                let mut r = Reader::new("COM_QUERY", r.rest());
                if has(capabilities, CLIENT_QUERY_ATTRIBUTES) {
                    skip_query_attributes(&mut r)?;
                }
                Self::Query(put::text(r.take_rest()))
            }
            COM_STATISTICS => Self::Statistics,
            COM_PROCESS_KILL => Self::ProcessKill(r.u32()?),
            COM_PING => Self::Ping,
            COM_SET_OPTION => Self::SetOption(r.u16()?),
            COM_RESET_CONNECTION => Self::ResetConnection,
            COM_REGISTER_SLAVE => Self::RegisterSlave(RegisterSlave::parse(payload)?),
            COM_BINLOG_DUMP => Self::BinlogDump(BinlogDump::parse(payload)?),
            COM_BINLOG_DUMP_GTID => Self::BinlogDumpGtid(BinlogDumpGtid::parse(payload)?),
            other => Self::Unknown(other),
        })
    }

    /// Payload; `capabilities` are those that both sides have.
    ///
    /// # Errors
    /// As [`RegisterSlave::encode`] and [`BinlogDumpGtid::encode`].
    pub fn encode(&self, capabilities: u32) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Quit => quit(),
            Self::InitDb(name) => with_text(&[COM_INIT_DB], name),
            // No parameters, one set of them.
            Self::Query(sql) if has(capabilities, CLIENT_QUERY_ATTRIBUTES) => with_text(&[COM_QUERY, 0, 1], sql),
            Self::Query(sql) => query(sql),
            Self::Statistics => vec![COM_STATISTICS],
            Self::ProcessKill(id) => [&[COM_PROCESS_KILL][..], &id.to_le_bytes()].concat(),
            Self::Ping => vec![COM_PING],
            Self::SetOption(option) => [&[COM_SET_OPTION][..], &option.to_le_bytes()].concat(),
            Self::ResetConnection => vec![COM_RESET_CONNECTION],
            Self::RegisterSlave(command) => command.encode()?,
            Self::BinlogDump(command) => command.encode(),
            Self::BinlogDumpGtid(command) => command.encode()?,
            Self::Unknown(byte) => vec![*byte],
        })
    }
}

/// `COM_QUERY` for a server that `CLIENT_QUERY_ATTRIBUTES` was not agreed on with.
pub fn query(sql: &str) -> Vec<u8> {
    with_text(&[COM_QUERY], sql)
}

/// `COM_QUIT`.
pub fn quit() -> Vec<u8> {
    vec![COM_QUIT]
}

fn with_text(head: &[u8], text: &str) -> Vec<u8> {
    [head, text.as_bytes()].concat()
}

/// Skips the parameters in front of a query's text (MySQL internals, "COM_QUERY", parameters).
fn skip_query_attributes(r: &mut Reader<'_>) -> Result<()> {
    const WHAT: &str = "COM_QUERY attributes";
    let count = r.lenenc()?.unwrap_or_default();
    let sets = r.lenenc()?.unwrap_or_default();
    if sets != 1 {
        return Err(WireError::invalid(WHAT, format!("{sets} parameter sets, only 1 is defined")));
    }
    if count == 0 {
        return Ok(());
    }
    // Each parameter takes three bytes or more, so a count beyond the packet's length is nonsense.
    let count = usize::try_from(count).ok().filter(|c| *c <= r.remaining());
    let count = count.ok_or_else(|| WireError::invalid(WHAT, "more parameters than the packet has bytes"))?;
    let nulls = r.bytes(count.div_ceil(8))?;
    if r.u8()? != 1 {
        return Err(WireError::invalid(WHAT, "the types of the parameters are missing"));
    }
    let mut types = Vec::with_capacity(count);
    for _ in 0..count {
        types.push(r.u16()? as u8);
        r.lenenc_bytes()?;
    }
    for (i, kind) in types.into_iter().enumerate() {
        if nulls.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1) {
            continue;
        }
        match kind {
            0x06 => {}                               // NULL
            0x01 => drop(r.bytes(1)?),               // TINY
            0x02 | 0x0d => drop(r.bytes(2)?),        // SHORT, YEAR
            0x03 | 0x04 | 0x09 => drop(r.bytes(4)?), // LONG, FLOAT, INT24
            0x05 | 0x08 => drop(r.bytes(8)?),        // DOUBLE, LONGLONG
            0x07 | 0x0a..=0x0c => {
                // dates and times
                let len = usize::from(r.u8()?);
                r.bytes(len)?;
            }
            _ => drop(r.lenenc_bytes()?),
        }
    }
    Ok(())
}

/// `COM_REGISTER_SLAVE`: what a replica tells of itself (`report_host` and so on). The password is not checked by anybody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegisterSlave {
    /// The replica's server id.
    pub server_id: u32,
    /// Its `report_host`, often empty.
    pub host: String,
    /// Its `report_user`, often empty.
    pub user: String,
    /// Its `report_password`, often empty.
    pub password: String,
    /// Its `report_port`.
    pub port: u16,
    /// Always 0.
    pub rank: u32,
    /// Always 0.
    pub master_id: u32,
}

impl fmt::Debug for RegisterSlave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterSlave")
            .field("server_id", &self.server_id)
            .field("host", &self.host)
            .field("user", &self.user)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl RegisterSlave {
    /// Payload, with its command byte.
    ///
    /// # Errors
    /// A host, user or password of more than 255 bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![COM_REGISTER_SLAVE];
        out.extend_from_slice(&self.server_id.to_le_bytes());
        for (name, text) in [("host", &self.host), ("user", &self.user), ("password", &self.password)] {
            let len = u8::try_from(text.len()).map_err(|_| {
                WireError::invalid(Self::WHAT, format!("the {name} has {} bytes, at most 255 fit", text.len()))
            })?;
            out.push(len);
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&self.port.to_le_bytes());
        out.extend_from_slice(&self.rank.to_le_bytes());
        out.extend_from_slice(&self.master_id.to_le_bytes());
        Ok(out)
    }

    const WHAT: &'static str = "COM_REGISTER_SLAVE";

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut r = after_command_byte(Self::WHAT, payload, COM_REGISTER_SLAVE)?;
        let server_id = r.u32()?;
        let mut text = || -> Result<String> {
            let len = usize::from(r.u8()?);
            Ok(put::text(r.bytes(len)?))
        };
        let (host, user, password) = (text()?, text()?, text()?);
        Ok(Self { server_id, host, user, password, port: r.u16()?, rank: r.u32()?, master_id: r.u32()? })
    }
}

/// `COM_BINLOG_DUMP`: a replica asks for the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BinlogDump {
    /// Where to begin in the file, in bytes; at least 4.
    pub position: u32,
    /// `DUMP_*` bits.
    pub flags: u16,
    /// The replica's server id; 0 or 1 from tools.
    pub server_id: u32,
    /// The file; empty for the first one, or where the session's GTID state decides.
    pub file: String,
}

impl BinlogDump {
    /// Payload, with its command byte.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![COM_BINLOG_DUMP];
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.server_id.to_le_bytes());
        out.extend_from_slice(self.file.as_bytes());
        out
    }

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut r = after_command_byte("COM_BINLOG_DUMP", payload, COM_BINLOG_DUMP)?;
        Ok(Self { position: r.u32()?, flags: r.u16()?, server_id: r.u32()?, file: put::text(r.take_rest()) })
    }
}

/// `COM_BINLOG_DUMP_GTID`: a MySQL replica asks for what its GTID set lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BinlogDumpGtid {
    /// `DUMP_*` bits.
    pub flags: u16,
    /// The replica's server id.
    pub server_id: u32,
    /// A file name, usually empty; the set decides.
    pub file: String,
    /// A position in bytes, usually 4; the set decides.
    pub position: u64,
    /// The encoded GTID set as it is on the wire (8 NUL bytes for an empty one).
    pub set: Vec<u8>,
}

impl BinlogDumpGtid {
    /// Payload, with its command byte.
    ///
    /// # Errors
    /// A file name or set of 4 GiB or more.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let len = |bytes: usize| {
            u32::try_from(bytes).map_err(|_| WireError::invalid(Self::WHAT, format!("{bytes} bytes in one field")))
        };
        let mut out = vec![COM_BINLOG_DUMP_GTID];
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.server_id.to_le_bytes());
        out.extend_from_slice(&len(self.file.len())?.to_le_bytes());
        out.extend_from_slice(self.file.as_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&len(self.set.len())?.to_le_bytes());
        out.extend_from_slice(&self.set);
        Ok(out)
    }

    const WHAT: &'static str = "COM_BINLOG_DUMP_GTID";

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut r = after_command_byte(Self::WHAT, payload, COM_BINLOG_DUMP_GTID)?;
        let (flags, server_id) = (r.u16()?, r.u32()?);
        let file = put::text(sized(&mut r)?);
        let position = r.u64()?;
        Ok(Self { flags, server_id, file, position, set: sized(&mut r)?.to_vec() })
    }
}

/// Bytes with a 4-byte length before them.
fn sized<'a>(r: &mut Reader<'a>) -> Result<&'a [u8]> {
    // Where memory is addressed by less than 32 bits, the cut length is longer than the packet all the same.
    let len = usize::try_from(r.u32()?).unwrap_or(usize::MAX);
    r.bytes(len)
}

fn after_command_byte<'a>(what: &'static str, payload: &'a [u8], command: u8) -> Result<Reader<'a>> {
    let mut r = Reader::new(what, payload);
    match r.u8()? {
        byte if byte == command => Ok(r),
        other => Err(WireError::invalid(what, format!("command byte {other:#04x}, expected {command:#04x}"))),
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
