//! Loopback ports. Promises: a port is leased to one holder at a time among all test processes of this user, also while its server is down, and
//! the kernel does not give it to an outgoing connection (it lies below the ephemeral range). Never listens itself beyond the check that it is free.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rand::Rng;
use rustix::fs::{FlockOperation, flock};

/// First port that is leased.
const FIRST: u16 = 17_000;
/// First port that is not leased any more: Linux hands out 32768 and up to outgoing connections.
const END: u16 = 32_000;

/// A leased port of 127.0.0.1; returned when dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Leases a free port.
    pub fn lease() -> Result<Self> {
        let dir = lock_dir()?;
        let offset = rand::rng().random_range(0..END - FIRST);
        for step in 0..END - FIRST {
            let number = FIRST + (offset + step) % (END - FIRST);
            let path = dir.join(number.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let lock = lock.with_context(|| format!("can't open {}", path.display()))?;
            let ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if ours && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between {FIRST} and {END}")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn lock_dir() -> Result<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("baton-testbed-ports-{user}"));
    fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    Ok(dir)
}
