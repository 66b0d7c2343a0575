//! One host: its addresses, its cable, what runs on it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{NAMES, Net, inside, remove, run};
use crate::procs::{self, Cmd};
use crate::wait::wait_for;

/// A host: a network namespace with `lo` and `eth0`. Clones share it; when the last one goes, all its processes are killed.
#[derive(Clone)]
pub struct Host(pub(super) Arc<HostInner>);

pub(super) struct HostInner {
    pub(super) net: Net,
    pub(super) name: String,
    pub(super) number: u8,
}

impl Host {
    /// Its name; also that of its port at the bridge.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The network that it is part of.
    pub fn net(&self) -> &Net {
        &self.0.net
    }

    /// Its IPv4 address.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.0.number)
    }

    /// Its IPv6 address.
    pub fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.0.number.into())
    }

    /// `10.77.0.11:3306`.
    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.ip())
    }

    /// The file that names its namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new(NAMES).join(self.0.space())
    }

    /// A program to be started on it.
    pub fn cmd(&self, program: impl AsRef<OsStr>) -> Cmd {
        Cmd::new(program).netns(self.netns())
    }

    /// Moves the calling thread onto this host for good: for threads of one's own.
    pub fn enter(&self) -> Result<()> {
        enter(&self.netns())
    }

    /// Runs something on this host: sockets that it opens are the host's.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                act()
            });
            thread.join().map_err(|_| anyhow!("what ran on {} panicked", self.name()))?
        })
    }

    /// Cuts it off from everything, both ways; it sees no lost carrier.
    pub fn isolate(&self) -> Result<()> {
        self.0.net.elements("add", &self.links(&self.0.net.host_names()))
    }

    /// Ends [`Host::isolate`], and every other cut of this host.
    pub fn rejoin(&self) -> Result<()> {
        self.0.net.let_pass(&self.links(&self.0.net.host_names()))
    }

    fn links<'a>(&'a self, everyone: &'a [String]) -> Vec<(&'a str, &'a str)> {
        let others = everyone.iter().map(String::as_str).filter(|other| *other != self.name());
        others.flat_map(|other| [(self.name(), other), (other, self.name())]).collect()
    }

    /// Pulls the cable: the carrier is lost.
    pub fn unplug(&self) -> Result<()> {
        run("ip", ["-n", &self.0.net.0.bridge(), "link", "set", "dev", self.name(), "down"], "").map(drop)
    }

    /// Plugs the cable in again.
    pub fn plug(&self) -> Result<()> {
        run("ip", ["-n", &self.0.net.0.bridge(), "link", "set", "dev", self.name(), "up"], "").map(drop)
    }

    /// Gives it a second interface with a cable of its own, as a network for clients only. The kernel answers there for what is there, and not on `eth0`.
    pub fn add_cable(&self, interface: &str) -> Result<()> {
        let (bridge, space, port) = (self.0.net.0.bridge(), self.0.space(), self.port(interface));
        let wiring = format!(
            "link add name {port} type veth peer name {interface} netns {space}\nlink set dev {port} master br0\nlink set dev {port} up\n"
        );
        run("ip", ["-n", &bridge, "-batch", "-"], &wiring)?;
        run("ip", ["-n", &space, "link", "set", "dev", interface, "up"], "")?;
        let strict = "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore";
        run("ip", ["netns", "exec", &space, "sh", "-c", strict], "").map(drop)
    }

    /// Pulls the cable of an interface that was added.
    pub fn pull_cable(&self, interface: &str) -> Result<()> {
        run("ip", ["-n", &self.0.net.0.bridge(), "link", "set", "dev", &self.port(interface), "down"], "").map(drop)
    }

    /// Plugs it in again.
    pub fn plug_cable(&self, interface: &str) -> Result<()> {
        run("ip", ["-n", &self.0.net.0.bridge(), "link", "set", "dev", &self.port(interface), "up"], "").map(drop)
    }

    fn port(&self, interface: &str) -> String {
        format!("{}-{interface}", self.name())
    }

    /// The addresses that it has at present, without link-local ones.
    pub fn addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let text = run("ip", ["-n", &self.0.space(), "-o", "addr", "show", "scope", "global"], "")?;
        let words = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        let found = words.filter_map(|word| word.split('/').next()?.parse::<IpAddr>().ok());
        Ok(found.filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())).collect())
    }

    /// Whether it has that address.
    pub fn holds(&self, address: impl Into<IpAddr>) -> Result<bool> {
        Ok(self.addresses()?.contains(&address.into()))
    }

    /// Gives `eth0` an address by hand, as an administrator might.
    pub fn add_address(&self, address: impl Into<IpAddr>) -> Result<()> {
        let address = address.into();
        let text = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        run("ip", ["-n", &self.0.space(), "addr", "add", &text, "dev", "eth0"], "").map(drop)
    }

    /// Takes an address away by hand.
    pub fn remove_address(&self, address: impl Into<IpAddr>) -> Result<()> {
        let address = address.into();
        let text = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        run("ip", ["-n", &self.0.space(), "addr", "del", &text, "dev", "eth0"], "").map(drop)
    }

    /// Everything that runs on it, with its program's name.
    pub fn processes(&self) -> Vec<(u32, String)> {
        inside::processes(&self.netns())
    }

    /// The process ids of a program on it, such as `mariadbd`.
    pub fn pids_of(&self, program: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|(_, name)| name == program).map(|(pid, _)| pid).collect()
    }

    /// Sends a signal to every process of a program on it; gives how many there were.
    pub fn signal(&self, program: &str, signal: Signal) -> usize {
        let space = self.netns();
        self.pids_of(program).into_iter().filter(|pid| inside::signal(&space, *pid, signal)).count()
    }

    /// Sends a signal to one process on it; whether it was there.
    pub fn signal_pid(&self, pid: u32, signal: Signal) -> bool {
        inside::signal(&self.netns(), pid, signal)
    }

    /// SIGSTOP to these processes, and waits until all of their threads have stopped.
    pub fn freeze_pids(&self, pids: &[u32]) -> Result<()> {
        let space = self.netns();
        wait_for(&format!("{pids:?} on {} to stop", self.name()), inside::LIMIT, || {
            let awake: Vec<_> = pids.iter().filter(|pid| procs::exists(**pid) && !inside::is_stopped(**pid)).collect();
            for pid in &awake {
                inside::signal(&space, **pid, Signal::STOP);
            }
            Ok(awake.is_empty().then_some(()))
        })
    }

    /// SIGSTOP to everything on it, and waits until all of it has stopped. What the kernel does for it goes on: it answers to ARP, and acknowledges TCP.
    pub fn freeze(&self) -> Result<()> {
        wait_for(&format!("everything on {} to stop", self.name()), inside::LIMIT, || {
            let all: Vec<u32> = self.processes().into_iter().map(|(pid, _)| pid).collect();
            if all.iter().all(|pid| inside::is_stopped(*pid)) {
                return Ok(Some(()));
            }
            self.freeze_pids(&all).map(|()| None)
        })
    }

    /// SIGCONT to everything on it.
    pub fn thaw(&self) {
        let space = self.netns();
        for (pid, _) in self.processes() {
            inside::signal(&space, pid, Signal::CONT);
        }
    }

    /// The power fails: SIGKILL to everything on it, and its interface forgets every address but its own.
    pub fn crash(&self) -> Result<()> {
        inside::kill(&self.netns())?;
        let own = [IpAddr::V4(self.ip()), IpAddr::V6(self.ip6())];
        for address in self.addresses()?.into_iter().filter(|address| !own.contains(address)) {
            // Its lifetime may have ended meanwhile.
            let _gone_already = self.remove_address(address);
        }
        Ok(())
    }
}

/// Moves the calling thread into the namespace that a file names.
pub(crate) fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("can't enter {}", path.display()))
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl HostInner {
    pub(super) fn space(&self) -> String {
        format!("{}{}", self.net.0.stem, self.name)
    }
}

impl Drop for HostInner {
    fn drop(&mut self) {
        remove(&self.space());
    }
}
