//! What the kubelet does for a container: starts it, asks its probes, starts it again.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::manifest::Probe;
use super::{RESTART, Running};
use crate::procs::Proc;

/// What the kubelet remembers of a container.
pub(super) struct Watcher {
    started: bool,
    ready: bool,
    failures: u64,
    misses: u64,
    next: Instant,
    next_ready: Instant,
    restart_at: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(_of: &Running) -> Self {
        let now = Instant::now();
        Self { started: false, ready: false, failures: 0, misses: 0, next: now, next_ready: now, restart_at: Some(now) }
    }

    /// Starts, probes, restarts; whether it is ready.
    pub(super) fn turn(&mut self, running: &Running, ip: IpAddr) -> bool {
        let now = Instant::now();
        let alive = running.lock().as_ref().is_some_and(Proc::is_running);
        if !alive {
            self.ready = false;
            match self.restart_at {
                None => self.restart_at = Some(now + RESTART),
                Some(at) if now >= at => self.start(running),
                Some(_) => {}
            }
            return false;
        }
        let container = &running.container;
        if now >= self.next {
            let probe = if self.started { &container.liveness } else { &container.startup };
            if let Some(probe) = probe {
                self.next = now + Duration::from_secs(probe.period);
                match ask(ip, probe) {
                    true => (self.started, self.failures) = (true, 0),
                    false => self.failures += 1,
                }
                if self.failures >= probe.failures {
                    if let Some(proc) = running.lock().clone() {
                        proc.kill9();
                    }
                }
            } else {
                self.started = true;
            }
        }
        match &container.readiness {
            None => self.ready = self.started,
            Some(probe) if self.started && now >= self.next_ready => {
                self.next_ready = now + Duration::from_secs(probe.period);
                let well = ask(ip, probe);
                self.misses = if well { 0 } else { self.misses + 1 };
                self.ready = well || (self.ready && self.misses < probe.failures);
            }
            Some(_) => {}
        }
        self.ready
    }

    fn start(&mut self, running: &Running) {
        let now = Instant::now();
        *self = Self { restart_at: None, ..Self::new(running) };
        let mut slot = running.lock();
        if slot.is_some() {
            running.restarts.fetch_add(1, Ordering::Relaxed);
        }
        match running.cmd.spawn(&running.log, None) {
            Ok(proc) => *slot = Some(proc),
            Err(error) => {
                let _told = fs::write(running.log.with_extension("spawn"), format!("{error:#}"));
                self.restart_at = Some(now + RESTART);
            }
        }
    }
}

/// `httpGet`: 200 to 399 is a success.
fn ask(ip: IpAddr, probe: &Probe) -> bool {
    let limit = Duration::from_secs(probe.timeout);
    let asked = || -> Result<bool> {
        let mut stream = TcpStream::connect_timeout(&(ip, probe.port).into(), limit)?;
        stream.set_read_timeout(Some(limit))?;
        write!(stream, "GET {} HTTP/1.1\r\nHost: {ip}:{}\r\nConnection: close\r\n\r\n", probe.path, probe.port)?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        let code: u16 = std::str::from_utf8(&head[9..])?.parse()?;
        Ok((200..400).contains(&code))
    };
    asked().unwrap_or(false)
}
