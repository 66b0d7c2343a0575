//! A primary that says whatever a test wants it to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Result;
use baton_testbed::DEADLINE;

/// What is done with each connection; an error ends it.
pub(crate) type Script = dyn Fn(&mut Talk) -> Result<()> + Send + Sync;

/// A listening port that follows a script; ends when dropped.
pub(crate) struct Fake {
    port: u16,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
}

impl Fake {
    pub(crate) fn start(script: impl Fn(&mut Talk) -> Result<()> + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, script) =
            (Arc::clone(&stop), Arc::clone(&accepted), Arc::<Script>::from(Box::new(script) as Box<Script>));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    let _bounded =
                        stream.set_read_timeout(Some(DEADLINE)).and(stream.set_write_timeout(Some(DEADLINE)));
                    let _ended = script(&mut Talk { stream, sequence: 0 });
                });
            }
        });
        Ok(Self { port, stop, accepted })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// One connection, from the server's side.
pub(crate) struct Talk {
    pub(crate) stream: TcpStream,
    pub(crate) sequence: u8,
}

impl Talk {
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    pub(crate) fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut bytes = (payload.len() as u32).to_le_bytes();
        bytes[3] = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.raw(&[&bytes, payload].concat())
    }

    pub(crate) fn error(&mut self, code: u16, text: &str) -> Result<()> {
        self.send(&[&[0xff][..], &code.to_le_bytes(), b"#HY000", text.as_bytes()].concat())
    }

    pub(crate) fn read(&mut self) -> Result<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head)?;
        self.sequence = head[3].wrapping_add(1);
        let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(payload)
    }

    /// Says nothing until the other side leaves.
    pub(crate) fn wait(&mut self) -> Result<()> {
        while self.stream.read(&mut [0; 1024])? > 0 {}
        Ok(())
    }

    pub(crate) fn greet(&mut self, version: &str) -> Result<()> {
        let mut greeting = vec![10];
        greeting.extend_from_slice(version.as_bytes());
        greeting.extend_from_slice(&[0, 1, 0, 0, 0]);
        greeting.extend_from_slice(b"12345678\0\xfe\xf7\x08\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0");
        greeting.extend_from_slice(b"123456789012\0mysql_native_password\0");
        self.sequence = 0;
        self.send(&greeting)
    }

    /// Lets everybody in.
    pub(crate) fn log_in(&mut self) -> Result<()> {
        self.greet("5.5.5-10.11.19-MariaDB-log")?;
        self.read()?;
        self.ok()
    }

    pub(crate) fn ok(&mut self) -> Result<()> {
        self.send(&[0, 0, 0, 2, 0, 0, 0])
    }

    /// A result of one row.
    pub(crate) fn row(&mut self, values: &[&str]) -> Result<()> {
        let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
        self.send(&[values.len() as u8])?;
        for _ in values {
            let definition = [text("def"), text(""), text(""), text(""), text("c"), text("")].concat();
            self.send(&[&definition[..], b"\x0c\x08\0\0\x10\0\0\xfd\0\0\0\0\0"].concat())?;
        }
        self.send(&[0xfe, 0, 0, 2, 0])?;
        self.send(&values.iter().flat_map(|value| text(value)).collect::<Vec<_>>())?;
        self.send(&[0xfe, 0, 0, 2, 0])
    }

    /// Answers what a replica asks, as a server with id 1 and an empty history, until it asks for the stream.
    pub(crate) fn until_dump(&mut self) -> Result<()> {
        self.log_in()?;
        loop {
            let command = self.read()?;
            let statement = String::from_utf8_lossy(&command[1..]).to_lowercase();
            match command[0] {
                0x12 => return Ok(()),
                0x03 if statement.starts_with("select @@global.server_id") => self.row(&["1", ""])?,
                0x03 if statement.contains("select @master_binlog_checksum") => self.row(&["CRC32"])?,
                0x03 if statement.starts_with("select @@global.gtid") => self.row(&[""])?,
                0x03 if statement.starts_with("sel") || statement.starts_with("show") => {
                    self.error(1193, "Unknown system variable")?
                }
                _ => self.ok()?,
            }
        }
    }

    /// An event of the stream, with a right checksum.
    pub(crate) fn event(&mut self, bytes: &[u8]) -> Result<()> {
        self.send(&[&[0][..], bytes].concat())
    }
}

/// An event with header and checksum; `says` replaces the size in its header.
pub(crate) fn event(kind: u8, log_pos: u32, flags: u16, body: &[u8], says: Option<u32>) -> Vec<u8> {
    let size = says.unwrap_or(23 + body.len() as u32);
    let mut event = vec![0; 4];
    event.push(kind);
    event.extend_from_slice(&1_u32.to_le_bytes());
    event.extend_from_slice(&size.to_le_bytes());
    event.extend_from_slice(&log_pos.to_le_bytes());
    event.extend_from_slice(&flags.to_le_bytes());
    event.extend_from_slice(body);
    let sum = baton_testbed::dump::crc32(&event);
    event.extend_from_slice(&sum.to_le_bytes());
    event
}

/// The artificial ROTATE with which every stream begins.
pub(crate) fn rotate() -> Vec<u8> {
    event(4, 0, 0x20, b"\x04\0\0\0\0\0\0\0mysql-bin.000001", None)
}

/// A format description.
pub(crate) fn format() -> Vec<u8> {
    let mut body = vec![4, 0];
    body.extend_from_slice(b"10.11.19-MariaDB-log");
    body.resize(52, 0);
    body.extend_from_slice(&[0, 0, 0, 0, 19]);
    body.extend_from_slice(&[8; 171]);
    body.push(1);
    let end = 4 + 23 + body.len() as u32;
    event(15, end, 0, &body, None)
}
