//! The floor: a server that does nothing but `sendfile`. The same bytes to the same number of sockets can't be had cheaper with plain TCP.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use baton_testbed::{Bed, Cmd, Proc, wait_for};
use rustix::fs::sendfile;

use super::client::plain;

/// Bytes handed to one call.
const PIECE: usize = 1 << 20;

/// The running server.
pub(crate) struct Floor {
    pub(crate) proc: Proc,
    pub(crate) port: u16,
    /// Bytes that each connection gets.
    pub(crate) bytes: u64,
    _lease: baton_testbed::ports::Port,
}

impl Floor {
    /// Starts this program again as a server of `files`.
    pub(crate) fn start(bed: &Bed, files: &[PathBuf]) -> Result<Self> {
        let lease = bed.port()?;
        let port = lease.number();
        let exe = std::env::current_exe()?;
        let cmd = Cmd::new(exe).arg("--serve-files").arg(port.to_string()).args(files);
        let proc = cmd.spawn(&bed.log("sendfile"), None)?;
        wait_for("the sendfile server", Duration::from_secs(10), || Ok(plain(port).ok()))?;
        let bytes = files.iter().map(|f| Ok(f.metadata()?.len())).sum::<std::io::Result<u64>>()?;
        Ok(Self { proc, port, bytes, _lease: lease })
    }
}

/// Serves the files to each connection, one thread each, until killed.
pub(crate) fn serve(port: u16, files: &[PathBuf]) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"))?;
    for tcp in listener.incoming() {
        let (tcp, files) = (tcp?, files.to_vec());
        thread::spawn(move || {
            // A client that leaves early is none of our business.
            let _left = files.iter().try_for_each(|file| send(&tcp, file));
        });
    }
    Ok(())
}

fn send(tcp: &TcpStream, path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let mut left = file.metadata()?.len();
    while left > 0 {
        let sent = sendfile(tcp, &file, None, PIECE)?;
        anyhow::ensure!(sent > 0, "{} became shorter", path.display());
        left = left.saturating_sub(sent as u64);
    }
    Ok(())
}
