//! The connection phase: greeting, SSLRequest and handshake response.
//!
//! Owns their bytes (MySQL internals, "Protocol::HandshakeV10", "Protocol::SSLRequest", "Protocol::HandshakeResponse41"; MariaDB,
//! "Connection phase", for the extended capabilities). Promises: parsed packets of real servers and clients encode to the same bytes;
//! authentication bytes never show in `Debug`. Never proves a password: that is [`crate::auth`].

use std::fmt;

use crate::auth::NATIVE_PASSWORD;
use crate::capabilities::{
    CLIENT_CONNECT_ATTRS, CLIENT_CONNECT_WITH_DB, CLIENT_LONG_PASSWORD, CLIENT_PLUGIN_AUTH, CLIENT_PLUGIN_AUTH_LENENC,
    CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, CLIENT_SSL, CLIENT_ZSTD_COMPRESSION, has,
};
use crate::error::{Result, WireError};
use crate::put;
use crate::read::Reader;
use crate::response::ErrPacket;

/// Bytes of the nonce against which passwords are proven.
pub const NONCE_LEN: usize = 20;

/// Bytes of the fixed part that an SSLRequest and a handshake response begin with.
const CLIENT_HEAD_LEN: usize = 32;

/// What a server says first.
#[derive(Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Version as on the wire (MariaDB up to 10.x puts `5.5.5-` before its own).
    pub version: String,
    /// The thread id, which `KILL` takes.
    pub connection_id: u32,
    /// The nonce.
    pub scramble: [u8; NONCE_LEN],
    /// `CLIENT_*` bits on offer.
    pub capabilities: u32,
    /// `MARIADB_CLIENT_*` bits on offer; on the wire only where `CLIENT_LONG_PASSWORD` (bit 0) is clear.
    pub extended: u32,
    /// Collation id, low byte.
    pub charset: u8,
    /// `STATUS_*` bits.
    pub status: u16,
    /// The authentication method that the nonce is meant for.
    pub auth_plugin: String,
}

/// The nonce is left out: with a recorded answer it would allow guessing at the password.
impl fmt::Debug for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeting")
            .field("version", &self.version)
            .field("connection_id", &self.connection_id)
            .field("capabilities", &format_args!("{:#010x}", self.capabilities))
            .field("extended", &format_args!("{:#x}", self.extended))
            .field("charset", &self.charset)
            .field("status", &self.status)
            .field("auth_plugin", &self.auth_plugin)
            .finish_non_exhaustive()
    }
}

impl Greeting {
    /// Payload of the greeting (protocol version 10).
    pub fn encode(&self) -> Vec<u8> {
        let (part1, part2) = self.scramble.split_at(8);
        let [c0, c1, c2, c3] = self.capabilities.to_le_bytes();
        let plugin_auth = has(self.capabilities, CLIENT_PLUGIN_AUTH);
        let mut out = vec![10];
        put::nul_terminated(&mut out, self.version.as_bytes());
        out.extend_from_slice(&self.connection_id.to_le_bytes());
        out.extend_from_slice(part1);
        out.extend_from_slice(&[0, c0, c1, self.charset]);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&[c2, c3]);
        out.push(if plugin_auth { NONCE_LEN as u8 + 1 } else { 0 });
        out.extend_from_slice(&[0; 6]);
        let extended = if has(self.capabilities, CLIENT_LONG_PASSWORD) { 0 } else { self.extended };
        out.extend_from_slice(&extended.to_le_bytes());
        out.extend_from_slice(part2);
        out.push(0);
        if plugin_auth {
            put::nul_terminated(&mut out, self.auth_plugin.as_bytes());
        }
        out
    }

    /// Reads the payload of a greeting. Servers without `CLIENT_PROTOCOL_41` or with a shorter nonce are refused.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        const WHAT: &str = "server greeting";
        let mut r = Reader::new(WHAT, payload);
        let protocol = r.u8()?;
        if protocol != 10 {
            return Err(WireError::invalid(WHAT, format!("protocol version {protocol}, only 10 is understood")));
        }
        let version = put::text(r.nul_terminated()?);
        let connection_id = r.u32()?;
        let part1: [u8; 8] = r.array()?;
        r.u8()?;
        let low = r.u16()?;
        let charset = r.u8()?;
        let status = r.u16()?;
        let capabilities = u32::from(low) | u32::from(r.u16()?) << 16;
        if !has(capabilities, CLIENT_PROTOCOL_41) {
            let detail = format!("capabilities {capabilities:#010x} lack the protocol of version 4.1");
            return Err(WireError::invalid(WHAT, detail));
        }
        let data_len = usize::from(r.u8()?);
        r.bytes(6)?;
        let tail = r.u32()?;
        let extended = if has(capabilities, CLIENT_LONG_PASSWORD) { 0 } else { tail };
        let mut part2 = Reader::new(WHAT, r.bytes(data_len.saturating_sub(8).max(13))?);
        let part2: [u8; NONCE_LEN - 8] = part2.array()?;
        let mut scramble = [0; NONCE_LEN];
        scramble[..8].copy_from_slice(&part1);
        scramble[8..].copy_from_slice(&part2);
        let auth_plugin =
            if has(capabilities, CLIENT_PLUGIN_AUTH) { until_nul_or_end(&mut r) } else { NATIVE_PASSWORD.to_owned() };
        Ok(Self { version, connection_id, scramble, capabilities, extended, charset, status, auth_plugin })
    }
}

/// What a server sends first: a greeting, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFirst {
    /// It can be logged in.
    Greeting(Greeting),
    /// It refuses the connection (too many of them, a blocked host).
    Refused(ErrPacket),
}

impl ServerFirst {
    /// Reads the first payload of a server.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        if ErrPacket::is(payload) {
            return ErrPacket::parse(payload).map(Self::Refused);
        }
        Greeting::parse(payload).map(Self::Greeting)
    }
}

/// What an SSLRequest and a handshake response have in common.
struct ClientHead {
    capabilities: u32,
    max_packet: u32,
    charset: u8,
    extended: u32,
}

impl ClientHead {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CLIENT_HEAD_LEN);
        out.extend_from_slice(&self.capabilities.to_le_bytes());
        out.extend_from_slice(&self.max_packet.to_le_bytes());
        out.push(self.charset);
        out.extend_from_slice(&[0; 19]);
        let extended = if has(self.capabilities, CLIENT_LONG_PASSWORD) { 0 } else { self.extended };
        out.extend_from_slice(&extended.to_le_bytes());
        out
    }

    fn read(what: &'static str, r: &mut Reader<'_>) -> Result<Self> {
        let capabilities = r.u32()?;
        if !has(capabilities, CLIENT_PROTOCOL_41) {
            let detail = format!("capabilities {capabilities:#010x} lack the protocol of version 4.1");
            return Err(WireError::invalid(what, detail));
        }
        let (max_packet, charset) = (r.u32()?, r.u8()?);
        r.bytes(19)?;
        let tail = r.u32()?;
        let extended = if has(capabilities, CLIENT_LONG_PASSWORD) { 0 } else { tail };
        Ok(Self { capabilities, max_packet, charset, extended })
    }
}

/// A client's wish to go on in TLS: 32 bytes, after which the TLS handshake follows and then the [`HandshakeResponse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SslRequest {
    /// `CLIENT_*` bits, `CLIENT_SSL` among them.
    pub capabilities: u32,
    /// Longest packet that the client takes, in bytes.
    pub max_packet: u32,
    /// Collation id, low byte.
    pub charset: u8,
    /// `MARIADB_CLIENT_*` bits; on the wire only where `CLIENT_LONG_PASSWORD` is clear.
    pub extended: u32,
}

impl SslRequest {
    /// Payload.
    pub fn encode(&self) -> Vec<u8> {
        let Self { capabilities, max_packet, charset, extended } = *self;
        ClientHead { capabilities, max_packet, charset, extended }.encode()
    }

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        const WHAT: &str = "SSL request";
        let mut r = Reader::new(WHAT, payload);
        let ClientHead { capabilities, max_packet, charset, extended } = ClientHead::read(WHAT, &mut r)?;
        if !has(capabilities, CLIENT_SSL) || !r.is_empty() {
            let detail = format!("{} bytes with capabilities {capabilities:#010x}", payload.len());
            return Err(WireError::invalid(WHAT, detail));
        }
        Ok(Self { capabilities, max_packet, charset, extended })
    }
}

/// A client's login.
#[derive(Clone, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// `CLIENT_*` bits that the client uses; they shape the fields of this packet. Both sides then use those that both have.
    pub capabilities: u32,
    /// Longest packet that the client takes, in bytes.
    pub max_packet: u32,
    /// Collation id, low byte.
    pub charset: u8,
    /// User name.
    pub user: String,
    /// The proof of the password, or nothing.
    pub auth: Vec<u8>,
    /// Database to use; on the wire only with `CLIENT_CONNECT_WITH_DB`.
    pub database: Option<String>,
    /// Authentication method that `auth` is of; on the wire only with `CLIENT_PLUGIN_AUTH`.
    pub auth_plugin: Option<String>,
    /// Attributes of the client in their order; on the wire only with `CLIENT_CONNECT_ATTRS`.
    pub attributes: Vec<(String, String)>,
    /// `MARIADB_CLIENT_*` bits; on the wire only where `CLIENT_LONG_PASSWORD` is clear.
    pub extended: u32,
    /// Compression level; on the wire only with `CLIENT_ZSTD_COMPRESSION`.
    pub zstd_level: Option<u8>,
}

impl fmt::Debug for HandshakeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeResponse")
            .field("capabilities", &format_args!("{:#010x}", self.capabilities))
            .field("max_packet", &self.max_packet)
            .field("charset", &self.charset)
            .field("user", &self.user)
            .field("auth", &format_args!("<{} bytes>", self.auth.len()))
            .field("database", &self.database)
            .field("auth_plugin", &self.auth_plugin)
            .field("attributes", &self.attributes)
            .field("extended", &format_args!("{:#x}", self.extended))
            .finish_non_exhaustive()
    }
}

impl HandshakeResponse {
    /// Payload.
    ///
    /// # Errors
    /// Authentication bytes that do not fit the field (255 bytes without `CLIENT_PLUGIN_AUTH_LENENC`).
    pub fn encode(&self) -> Result<Vec<u8>> {
        let Self { capabilities, max_packet, charset, extended, .. } = *self;
        let mut out = ClientHead { capabilities, max_packet, charset, extended }.encode();
        put::nul_terminated(&mut out, self.user.as_bytes());
        if has(capabilities, CLIENT_PLUGIN_AUTH_LENENC) {
            put::lenenc_bytes(&mut out, &self.auth);
        } else if has(capabilities, CLIENT_SECURE_CONNECTION) {
            let len = u8::try_from(self.auth.len()).map_err(|_| {
                let detail = format!("{} authentication bytes, at most 255 fit", self.auth.len());
                WireError::invalid(Self::WHAT, detail)
            })?;
            out.push(len);
            out.extend_from_slice(&self.auth);
        } else {
            put::nul_terminated(&mut out, &self.auth);
        }
        if has(capabilities, CLIENT_CONNECT_WITH_DB) {
            put::nul_terminated(&mut out, self.database.as_deref().unwrap_or_default().as_bytes());
        }
        if has(capabilities, CLIENT_PLUGIN_AUTH) {
            put::nul_terminated(&mut out, self.auth_plugin.as_deref().unwrap_or_default().as_bytes());
        }
        if has(capabilities, CLIENT_CONNECT_ATTRS) {
            let mut attributes = Vec::new();
            for (key, value) in &self.attributes {
                put::lenenc_bytes(&mut attributes, key.as_bytes());
                put::lenenc_bytes(&mut attributes, value.as_bytes());
            }
            put::lenenc_bytes(&mut out, &attributes);
        }
        if has(capabilities, CLIENT_ZSTD_COMPRESSION) {
            out.extend(self.zstd_level);
        }
        Ok(out)
    }

    const WHAT: &'static str = "handshake response";

    /// Reads a payload. A missing NUL after the last field and missing attributes are forgiven, as servers do.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut r = Reader::new(Self::WHAT, payload);
        let ClientHead { capabilities, max_packet, charset, extended } = ClientHead::read(Self::WHAT, &mut r)?;
        let user = put::text(r.nul_terminated()?);
        let auth = if has(capabilities, CLIENT_PLUGIN_AUTH_LENENC) {
            r.lenenc_bytes()?.unwrap_or_default()
        } else if has(capabilities, CLIENT_SECURE_CONNECTION) {
            let len = usize::from(r.u8()?);
            r.bytes(len)?
        } else {
            r.nul_terminated()?
        };
        let auth = auth.to_vec();
        let database = has(capabilities, CLIENT_CONNECT_WITH_DB).then(|| until_nul_or_end(&mut r));
        let auth_plugin = has(capabilities, CLIENT_PLUGIN_AUTH).then(|| until_nul_or_end(&mut r));
        let mut attributes = Vec::new();
        if has(capabilities, CLIENT_CONNECT_ATTRS) && !r.is_empty() {
            let mut pairs = Reader::new("connection attributes", r.lenenc_bytes()?.unwrap_or_default());
            while !pairs.is_empty() {
                let key = put::text(pairs.lenenc_bytes()?.unwrap_or_default());
                attributes.push((key, put::text(pairs.lenenc_bytes()?.unwrap_or_default())));
            }
        }
        let zstd_level = if has(capabilities, CLIENT_ZSTD_COMPRESSION) && !r.is_empty() { Some(r.u8()?) } else { None };
        Ok(Self {
            capabilities,
            max_packet,
            charset,
            user,
            auth,
            database,
            auth_plugin,
            attributes,
            extended,
            zstd_level,
        })
    }
}

/// What a client sends first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFirst {
    /// TLS is wanted before the login.
    Ssl(SslRequest),
    /// The login, in the clear.
    Response(HandshakeResponse),
}

impl ClientFirst {
    /// Reads the first payload of a client. A login is longer than 32 bytes, so an SSLRequest cannot be mistaken for one.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        if payload.len() == CLIENT_HEAD_LEN {
            return SslRequest::parse(payload).map(Self::Ssl);
        }
        HandshakeResponse::parse(payload).map(Self::Response)
    }
}

/// Text up to a NUL or to the end of the packet: some clients and servers leave the last NUL out.
fn until_nul_or_end(r: &mut Reader<'_>) -> String {
    match r.nul_terminated() {
        Ok(bytes) => put::text(bytes),
        Err(_) => put::text(r.take_rest()),
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
