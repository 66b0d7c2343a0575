//! Answers: OK, ERR and EOF packets.
//!
//! Owns their bytes (MySQL internals, "Generic Response Packets") and the errors that a source of replication gives, under their
//! names. Never decides when an error is due.

use std::fmt;

use crate::capabilities::{CLIENT_SESSION_TRACK, has};
use crate::error::{Result, WireError};
use crate::put;
use crate::read::Reader;

/// Status: the session commits each statement by itself.
pub const STATUS_AUTOCOMMIT: u16 = 0x0002;
/// Status: another result set follows.
pub const STATUS_MORE_RESULTS: u16 = 0x0008;
/// Status: the OK packet ends with changes of the session ([`OkPacket::session_state`]).
pub const STATUS_SESSION_STATE_CHANGED: u16 = 0x4000;

/// Error numbers that a source of replication gives (MySQL and MariaDB error reference).
pub mod code {
    /// Too many connections.
    pub const TOO_MANY_CONNECTIONS: u16 = 1040;
    /// The handshake was malformed.
    pub const HANDSHAKE: u16 = 1043;
    /// Wrong user, password or address.
    pub const ACCESS_DENIED: u16 = 1045;
    /// A command byte that is not served.
    pub const UNKNOWN_COMMAND: u16 = 1047;
    /// The server is going down.
    pub const SHUTDOWN: u16 = 1053;
    /// A statement that cannot be parsed.
    pub const PARSE: u16 = 1064;
    /// `KILL` of a thread that does not exist.
    pub const NO_SUCH_THREAD: u16 = 1094;
    /// `KILL` of another user's thread.
    pub const KILL_DENIED: u16 = 1095;
    /// An error without a number of its own.
    pub const UNKNOWN: u16 = 1105;
    /// A packet over the limit.
    pub const PACKET_TOO_LARGE: u16 = 1153;
    /// Packets out of order.
    pub const PACKETS_OUT_OF_ORDER: u16 = 1156;
    /// An unknown system variable.
    pub const UNKNOWN_SYSTEM_VARIABLE: u16 = 1193;
    /// A privilege is missing.
    pub const SPECIFIC_ACCESS_DENIED: u16 = 1227;
    /// A variable cannot be set to this value.
    pub const WRONG_VALUE_FOR_VARIABLE: u16 = 1231;
    /// A feature that is not supported.
    pub const NOT_SUPPORTED: u16 = 1235;
    /// The dump cannot be served; replicas stop.
    pub const FATAL_READING_BINLOG: u16 = 1236;
    /// The client's authentication method is not supported.
    pub const NOT_SUPPORTED_AUTH: u16 = 1251;
    /// `COM_BINLOG_DUMP_GTID` with a GTID set that cannot be read.
    pub const MALFORMED_GTID_SET: u16 = 1773;
    /// The connection was killed.
    pub const CONNECTION_KILLED: u16 = 1927;
    /// The server insists on TLS.
    pub const SECURE_TRANSPORT_REQUIRED: u16 = 3159;
    /// Another replica connected with the same server id (MariaDB; replicas try again).
    pub const REPLICA_SAME_ID: u16 = 4052;
}

/// What a command achieved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OkPacket {
    /// Rows changed.
    pub affected_rows: u64,
    /// Last `AUTO_INCREMENT` value.
    pub last_insert_id: u64,
    /// `STATUS_*` bits.
    pub status: u16,
    /// Number of warnings.
    pub warnings: u16,
    /// Text for people, usually empty.
    pub info: String,
    /// Changes of the session, as they are on the wire; only with `CLIENT_SESSION_TRACK` and [`STATUS_SESSION_STATE_CHANGED`].
    pub session_state: Vec<u8>,
}

impl OkPacket {
    /// The plain OK: nothing changed, `status` as given.
    pub fn with_status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Payload with header `00`.
    pub fn encode(&self, capabilities: u32) -> Vec<u8> {
        self.encode_with(0x00, capabilities)
    }

    /// Payload with header `fe`: the end of a result set under `CLIENT_DEPRECATE_EOF`.
    pub fn encode_end_of_rows(&self, capabilities: u32) -> Vec<u8> {
        self.encode_with(0xfe, capabilities)
    }

    fn encode_with(&self, header: u8, capabilities: u32) -> Vec<u8> {
        let mut out = vec![header];
        put::lenenc(&mut out, self.affected_rows);
        put::lenenc(&mut out, self.last_insert_id);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&self.warnings.to_le_bytes());
        if !has(capabilities, CLIENT_SESSION_TRACK) {
            out.extend_from_slice(self.info.as_bytes());
            return out;
        }
        let changed = has(self.status.into(), STATUS_SESSION_STATE_CHANGED.into());
        if changed || !self.info.is_empty() {
            put::lenenc_bytes(&mut out, self.info.as_bytes());
        }
        if changed {
            put::lenenc_bytes(&mut out, &self.session_state);
        }
        out
    }

    /// Reads a payload with header `00` or `fe`.
    pub fn parse(payload: &[u8], capabilities: u32) -> Result<Self> {
        const WHAT: &str = "OK packet";
        let mut r = Reader::new(WHAT, payload);
        match r.u8()? {
            0x00 | 0xfe => {}
            other => return Err(WireError::invalid(WHAT, format!("header {other:#04x} is neither 0x00 nor 0xfe"))),
        }
        let null = || WireError::invalid(WHAT, "NULL in place of a number");
        let affected_rows = r.lenenc()?.ok_or_else(null)?;
        let last_insert_id = r.lenenc()?.ok_or_else(null)?;
        let (status, warnings) = (r.u16()?, r.u16()?);
        let (mut info, mut session_state) = (&[][..], &[][..]);
        if !has(capabilities, CLIENT_SESSION_TRACK) {
            info = r.take_rest();
        } else if !r.is_empty() {
            info = r.lenenc_bytes()?.unwrap_or_default();
            if status & STATUS_SESSION_STATE_CHANGED != 0 {
                session_state = r.lenenc_bytes()?.unwrap_or_default();
            }
        }
        let session_state = session_state.to_vec();
        Ok(Self { affected_rows, last_insert_id, status, warnings, info: put::text(info), session_state })
    }
}

/// The end of columns or rows in the classic format, and of a dump that does not block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EofPacket {
    /// Number of warnings.
    pub warnings: u16,
    /// `STATUS_*` bits.
    pub status: u16,
}

impl EofPacket {
    /// The 5 bytes of the payload.
    pub fn encode(&self) -> Vec<u8> {
        let [w0, w1] = self.warnings.to_le_bytes();
        let [s0, s1] = self.status.to_le_bytes();
        vec![0xfe, w0, w1, s0, s1]
    }

    /// Whether a payload is an EOF packet: a row may begin with `fe` too, but is longer than 8 bytes then.
    pub fn is(payload: &[u8]) -> bool {
        payload.first() == Some(&0xfe) && payload.len() < 9
    }

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        const WHAT: &str = "EOF packet";
        if !Self::is(payload) {
            let detail = format!("{} bytes beginning with {:02x?}", payload.len(), payload.first());
            return Err(WireError::invalid(WHAT, detail));
        }
        let mut r = Reader::new(WHAT, payload);
        r.u8()?;
        Ok(Self { warnings: r.u16()?, status: r.u16()? })
    }
}

/// Why a command failed.
#[derive(Clone, PartialEq, Eq)]
pub struct ErrPacket {
    /// Error number, see [`code`].
    pub code: u16,
    /// SQLSTATE, five ASCII characters.
    pub sql_state: [u8; 5],
    /// One sentence for people.
    pub message: String,
}

impl fmt::Debug for ErrPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrPacket({self})")
    }
}

/// As the command line clients print it: `1045 (28000): Access denied ...`.
impl fmt::Display for ErrPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, String::from_utf8_lossy(&self.sql_state), self.message)
    }
}

impl ErrPacket {
    /// An error with the SQLSTATE that servers give with this number.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, sql_state: *sql_state_of(code), message: message.into() }
    }

    /// Payload, with SQLSTATE.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.encode_head();
        out.push(b'#');
        out.extend_from_slice(&self.sql_state);
        out.extend_from_slice(self.message.as_bytes());
        out
    }

    /// Payload without SQLSTATE: as servers send it in place of a greeting, where nothing has been agreed on yet.
    pub fn encode_in_place_of_greeting(&self) -> Vec<u8> {
        let mut out = self.encode_head();
        out.extend_from_slice(self.message.as_bytes());
        out
    }

    fn encode_head(&self) -> Vec<u8> {
        let [c0, c1] = self.code.to_le_bytes();
        vec![0xff, c0, c1]
    }

    /// Whether a payload is an ERR packet.
    pub fn is(payload: &[u8]) -> bool {
        payload.first() == Some(&0xff)
    }

    /// Reads a payload; without SQLSTATE it is taken as `HY000`.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        const WHAT: &str = "ERR packet";
        let mut r = Reader::new(WHAT, payload);
        match r.u8()? {
            0xff => {}
            other => return Err(WireError::invalid(WHAT, format!("header {other:#04x} is not 0xff"))),
        }
        let code = r.u16()?;
        let mut sql_state = *b"HY000";
        if r.rest().first() == Some(&b'#') && r.remaining() >= 6 {
            r.u8()?;
            sql_state = r.array()?;
        }
        Ok(Self { code, sql_state, message: put::text(r.take_rest()) })
    }

    /// 1045, in the servers' own words; `host` is the peer's address.
    pub fn access_denied(user: &str, host: &str, password_used: bool) -> Self {
        let used = if password_used { "YES" } else { "NO" };
        Self::new(code::ACCESS_DENIED, format!("Access denied for user '{user}'@'{host}' (using password: {used})"))
    }

    /// 1040.
    pub fn too_many_connections() -> Self {
        Self::new(code::TOO_MANY_CONNECTIONS, "Too many connections")
    }

    /// 1043.
    pub fn bad_handshake() -> Self {
        Self::new(code::HANDSHAKE, "Bad handshake")
    }

    /// 1047.
    pub fn unknown_command() -> Self {
        Self::new(code::UNKNOWN_COMMAND, "Unknown command")
    }

    /// 1053.
    pub fn shutdown() -> Self {
        Self::new(code::SHUTDOWN, "Server shutdown in progress")
    }

    /// 1064; `detail` is the whole message.
    pub fn parse_error(detail: impl Into<String>) -> Self {
        Self::new(code::PARSE, detail)
    }

    /// 1094.
    pub fn no_such_thread(id: u64) -> Self {
        Self::new(code::NO_SUCH_THREAD, format!("Unknown thread id: {id}"))
    }

    /// 1193.
    pub fn unknown_system_variable(name: &str) -> Self {
        Self::new(code::UNKNOWN_SYSTEM_VARIABLE, format!("Unknown system variable '{name}'"))
    }

    /// 1227; `privilege` as in `REPLICATION SLAVE`.
    pub fn privilege_missing(privilege: &str) -> Self {
        let message =
            format!("Access denied; you need (at least one of) the {privilege} privilege(s) for this operation");
        Self::new(code::SPECIFIC_ACCESS_DENIED, message)
    }

    /// 1235; `detail` is the whole message.
    pub fn not_supported(detail: impl Into<String>) -> Self {
        Self::new(code::NOT_SUPPORTED, detail)
    }

    /// 1236: a replica stops for good. `detail` is the whole message.
    pub fn fatal_reading_binlog(detail: impl Into<String>) -> Self {
        Self::new(code::FATAL_READING_BINLOG, detail)
    }

    /// 1773.
    pub fn malformed_gtid_set() -> Self {
        Self::new(code::MALFORMED_GTID_SET, "Malformed GTID set encoding.")
    }

    /// 3159.
    pub fn secure_transport_required() -> Self {
        let message = "Connections using insecure transport are prohibited: connect with TLS";
        Self::new(code::SECURE_TRANSPORT_REQUIRED, message)
    }

    /// 4052: what MariaDB tells the older of two replicas with one server id, which then tries again.
    pub fn replica_with_same_id() -> Self {
        let message = "A slave with the same server_uuid/server_id is already connected";
        Self::new(code::REPLICA_SAME_ID, message)
    }
}

fn sql_state_of(number: u16) -> &'static [u8; 5] {
    match number {
        code::TOO_MANY_CONNECTIONS | code::NOT_SUPPORTED_AUTH => b"08004",
        code::HANDSHAKE
        | code::UNKNOWN_COMMAND
        | code::SHUTDOWN
        | code::PACKET_TOO_LARGE
        | code::PACKETS_OUT_OF_ORDER => b"08S01",
        code::ACCESS_DENIED => b"28000",
        code::PARSE | code::SPECIFIC_ACCESS_DENIED | code::WRONG_VALUE_FOR_VARIABLE | code::NOT_SUPPORTED => b"42000",
        code::CONNECTION_KILLED => b"70100",
        _ => b"HY000",
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
