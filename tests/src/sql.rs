//! A small blocking SQL client: text protocol, native passwords, unix socket or TCP, no TLS.
//!
//! One [`Sql`] is one session, so that a test can hold a lock or a transaction open. It is written against the manual's protocol pages and shares
//! nothing with Baton's own protocol code: it serves as an independent witness. Only for tests: it trusts the server not to lie about sizes.
//! Source: <https://mariadb.com/kb/en/clientserver-protocol/>.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha1::{Digest, Sha1};

use crate::Rows;

const CAPABILITIES: u32 = 0x1 // LONG_PASSWORD
    | 0x200 // PROTOCOL_41
    | 0x2000 // TRANSACTIONS
    | 0x8000 // SECURE_CONNECTION
    | 0x1_0000 // MULTI_STATEMENTS
    | 0x2_0000 // MULTI_RESULTS
    | 0x8_0000; // PLUGIN_AUTH
const MORE_RESULTS: u16 = 0x0008;
const MAX_PACKET: usize = 0xff_ffff;
const NATIVE: &str = "mysql_native_password";

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Socket(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

/// What the server refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// Error number, such as 1064.
    pub code: u16,
    /// SQLSTATE; empty before login.
    pub state: String,
    /// The server's words.
    pub message: String,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server error {} ({}): {}", self.code, self.state, self.message)
    }
}

impl std::error::Error for SqlError {}

/// What one statement gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Column names; empty for a statement without a result set.
    pub columns: Vec<String>,
    /// Rows of text.
    pub rows: Rows,
    /// Rows changed.
    pub affected: u64,
}

/// One session.
pub struct Sql {
    pub(crate) stream: BufReader<Stream>,
    pub(crate) sequence: u8,
    thread_id: u32,
    server_version: String,
    pub(crate) broken: bool,
}

/// Ends a session's connection from another thread.
pub struct Closer(Stream);

impl Closer {
    /// Ends it: whoever waits on the session gets an error.
    pub fn close(&self) {
        let _gone_already = match &self.0 {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Sql {
    /// Connects and logs in. `timeout` bounds the connect and, from then on, each wait for the server: `None` waits for ever.
    pub fn connect(address: &Address, user: &str, password: &str, timeout: Option<Duration>) -> Result<Self> {
        let stream = match address {
            Address::Socket(path) => Stream::Unix(unix(path)?),
            Address::Tcp(at) => Stream::Tcp(tcp(*at, timeout)?),
        };
        Self::begin(stream, address, user, password, timeout)
    }

    /// As [`Sql::connect`], with limits of their own for the TCP connect and for each answer.
    pub fn connect_within(
        at: &Address,
        user: &str,
        password: &str,
        connect: Duration,
        answer: Duration,
    ) -> Result<Self> {
        let stream = match at {
            Address::Socket(path) => Stream::Unix(unix(path)?),
            Address::Tcp(at) => Stream::Tcp(tcp(*at, Some(connect))?),
        };
        Self::begin(stream, at, user, password, Some(answer))
    }

    fn begin(stream: Stream, at: &Address, user: &str, password: &str, timeout: Option<Duration>) -> Result<Self> {
        stream.set_timeout(timeout)?;
        let stream = BufReader::with_capacity(64 << 10, stream);
        let mut sql = Self { stream, sequence: 0, thread_id: 0, server_version: String::new(), broken: false };
        sql.login(user, password).with_context(|| format!("can't log in as {user} at {at:?}"))?;
        Ok(sql)
    }

    /// The server's id of this session.
    pub fn thread_id(&self) -> u32 {
        self.thread_id
    }

    /// The version in the server's greeting.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Whether the connection can't be used any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// A handle with which another thread can end the connection while this one waits for an answer.
    pub fn closer(&self) -> Result<Closer> {
        Ok(Closer(match self.stream.get_ref() {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        }))
    }

    /// Changes how long to wait for the server.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        Ok(self.stream.get_ref().set_timeout(timeout)?)
    }

    /// Runs one or several statements; gives the rows of the last result set. A refusal is a [`SqlError`] (see [`code_of`]).
    pub fn query(&mut self, statement: &str) -> Result<Rows> {
        Ok(self.answer(statement)?.rows)
    }

    /// As [`Sql::query`], with column names and the number of changed rows.
    pub fn answer(&mut self, statement: &str) -> Result<Answer> {
        let answer = self.exchange(0x03, statement.as_bytes());
        if answer.as_ref().is_err_and(|error| error.downcast_ref::<SqlError>().is_none()) {
            self.broken = true;
        }
        answer.with_context(|| format!("in: {}", statement.chars().take(300).collect::<String>()))
    }

    /// Makes the session like new: COM_RESET_CONNECTION.
    pub fn reset(&mut self) -> Result<()> {
        let answer = self.exchange(0x1f, &[]);
        self.broken |= answer.is_err();
        answer.map(drop)
    }

    /// Sends any command and reads its answer: OK, or a result set.
    pub fn command(&mut self, command: u8, body: &[u8]) -> Result<Answer> {
        let answer = self.exchange(command, body);
        self.broken |= answer.is_err();
        answer.with_context(|| format!("in command {command:#04x}"))
    }

    /// Sends a command whose answer nobody reads, such as one that begins a stream. From then on the session is of no other use.
    pub fn send(&mut self, command: u8, body: &[u8]) -> Result<()> {
        self.sequence = 0;
        self.broken = true;
        self.write_packet(&[&[command], body].concat())
    }

    fn login(&mut self, user: &str, password: &str) -> Result<()> {
        let greeting = self.read_packet()?;
        refuse_error(&greeting)?;
        let mut cursor = Cursor(&greeting);
        ensure!(cursor.u8()? == 10, "not protocol version 10");
        self.server_version = String::from_utf8_lossy(cursor.until_nul()?).into_owned();
        self.thread_id = cursor.u32()?;
        let mut seed = cursor.take(8)?.to_vec();
        cursor.take(1 + 2 + 1 + 2 + 2 + 1 + 10)?;
        seed.extend_from_slice(cursor.take(12)?);
        let token = native_token(password, &seed);
        let mut reply = Vec::new();
        reply.extend_from_slice(&CAPABILITIES.to_le_bytes());
        reply.extend_from_slice(&(1u32 << 30).to_le_bytes());
        reply.push(45); // utf8mb4_general_ci
        reply.extend_from_slice(&[0; 23]);
        reply.extend_from_slice(user.as_bytes());
        reply.push(0);
        reply.push(token.len() as u8);
        reply.extend_from_slice(&token);
        reply.extend_from_slice(NATIVE.as_bytes());
        reply.push(0);
        self.write_packet(&reply)?;
        let mut packet = self.read_packet()?;
        if packet.first() == Some(&0xfe) {
            let mut cursor = Cursor(packet.get(1..).unwrap_or_default());
            let plugin = String::from_utf8_lossy(cursor.until_nul()?).into_owned();
            ensure!(plugin == NATIVE, "the server wants {plugin}, which this client does not speak");
            let seed = cursor.take(20)?.to_vec();
            self.write_packet(&native_token(password, &seed))?;
            packet = self.read_packet()?;
        }
        refuse_error(&packet)
    }

    fn exchange(&mut self, command: u8, body: &[u8]) -> Result<Answer> {
        ensure!(!self.broken, "this session is broken");
        self.sequence = 0;
        let mut packet = vec![command];
        packet.extend_from_slice(body);
        self.write_packet(&packet)?;
        loop {
            let (answer, status) = self.read_result()?;
            if status & MORE_RESULTS == 0 {
                return Ok(answer);
            }
        }
    }

    pub(crate) fn read_result(&mut self) -> Result<(Answer, u16)> {
        let head = self.read_packet()?;
        refuse_error(&head)?;
        let mut cursor = Cursor(&head);
        let count = cursor.length()?.context("the server asks for a local file")?;
        if count == 0 {
            let affected = cursor.length()?.unwrap_or(0);
            cursor.length()?;
            return Ok((Answer { affected, ..Answer::default() }, cursor.u16()?));
        }
        let mut answer = Answer::default();
        for _ in 0..count {
            let definition = self.read_packet()?;
            let mut cursor = Cursor(&definition);
            let mut name = None;
            for _ in 0..5 {
                name = cursor.text()?; // catalog, schema, table, original table, name
            }
            answer.columns.push(name.unwrap_or_default());
        }
        self.read_packet()?;
        loop {
            let packet = self.read_packet()?;
            refuse_error(&packet)?;
            if packet.first() == Some(&0xfe) && packet.len() < 9 {
                return Ok((answer, Cursor(packet.get(3..).unwrap_or_default()).u16()?));
            }
            let mut cursor = Cursor(&packet);
            answer.rows.push((0..count).map(|_| cursor.text()).collect::<Result<_>>()?);
        }
    }

    pub(crate) fn read_packet(&mut self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let mut head = [0; 4];
            self.stream.read_exact(&mut head).context("the server is gone or silent")?;
            let size = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
            ensure!(head[3] == self.sequence, "packet {} where {} was due", head[3], self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            let start = whole.len();
            whole.resize(start + size, 0);
            self.stream.read_exact(&mut whole[start..]).context("the server is gone or silent")?;
            if size < MAX_PACKET {
                return Ok(whole);
            }
        }
    }

    pub(crate) fn write_packet(&mut self, payload: &[u8]) -> Result<()> {
        let mut rest = payload;
        loop {
            let (part, after) = rest.split_at(rest.len().min(MAX_PACKET));
            let mut bytes = (part.len() as u32).to_le_bytes();
            bytes[3] = self.sequence;
            self.sequence = self.sequence.wrapping_add(1);
            let stream = self.stream.get_mut();
            stream.write_all(&[&bytes, part].concat()).context("the server is gone")?;
            if part.len() < MAX_PACKET {
                return Ok(());
            }
            rest = after;
        }
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        if !self.broken {
            let _gone_already = self.stream.get_mut().write_all(&[1, 0, 0, 0, 1]); // COM_QUIT
        }
    }
}

/// The server's error number, if `error` is or wraps a refusal by the server.
pub fn code_of(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<SqlError>().map(|error| error.code)
}

fn unix(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).with_context(|| format!("can't connect to {}", path.display()))
}

fn tcp(at: SocketAddr, timeout: Option<Duration>) -> Result<TcpStream> {
    let stream = match timeout {
        Some(limit) => TcpStream::connect_timeout(&at, limit),
        None => TcpStream::connect(at),
    };
    let stream = stream.with_context(|| format!("can't connect to {at}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) fn refuse_error(packet: &[u8]) -> Result<()> {
    if packet.first() != Some(&0xff) {
        return Ok(());
    }
    let mut cursor = Cursor(packet.get(1..).unwrap_or_default());
    let code = cursor.u16()?;
    let text = String::from_utf8_lossy(cursor.0).into_owned();
    let (state, message) = match text.strip_prefix('#').and_then(|rest| rest.split_at_checked(5)) {
        Some((state, message)) => (state.to_owned(), message.to_owned()),
        None => (String::new(), text),
    };
    Err(SqlError { code, state, message }.into())
}

fn native_token(password: &str, seed: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha1::digest(password.as_bytes());
    let mixed = Sha1::new().chain_update(seed).chain_update(Sha1::digest(once)).finalize();
    once.iter().zip(mixed.iter()).map(|(a, b)| a ^ b).collect()
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).context("the server's packet is too short")?;
        self.0 = rest;
        Ok(head)
    }

    fn until_nul(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0).context("the server's packet is too short")?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(self.number(2)? as u16)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.number(4)? as u32)
    }

    /// A length-encoded number; `None` for NULL (0xfb).
    fn length(&mut self) -> Result<Option<u64>> {
        Ok(match self.u8()? {
            0xfb => None,
            0xfc => Some(self.number(2)?),
            0xfd => Some(self.number(3)?),
            0xfe => Some(self.number(8)?),
            0xff => bail!("no length can begin with 0xff"),
            small => Some(u64::from(small)),
        })
    }

    fn text(&mut self) -> Result<Option<String>> {
        let Some(length) = self.length()? else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(self.take(usize::try_from(length)?)?).into_owned()))
    }
}

impl Stream {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
            Self::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
