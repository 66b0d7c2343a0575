//! Network namespaces as hosts: a bridge in a namespace of its own, and one namespace with one interface (`eth0`) for each host.
//!
//! Promises: everything is inside these namespaces, nothing else on the machine is touched; they, and every process inside, go when the last handle
//! goes, on SIGINT and SIGTERM, and, after a SIGKILL of the program, at the next start of any (names carry the owner's process id).
//! Links are cut at the bridge, so that hosts see silence and no lost carrier, unless [`Host::unplug`] is wanted. Needs root; an ordinary user gets
//! that by [`as_root_of_namespaces`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::procs::{self, Cmd};
use crate::template::program;
use crate::wait::wait_for;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// What the names of all our namespaces begin with; the owner's process id follows.
const PREFIX: &str = "batonbed-";
/// Set in the environment of a program that was started anew as root of its own namespaces.
const INSIDE: &str = "BATON_TESTBED_INSIDE";
/// Address of the first host.
const FIRST: u8 = 11;
/// How long signals may take to stop or end all processes of a host.
const SIGNALS: Duration = Duration::from_secs(20);

/// A network of hosts; clones share it, and the last one removes it.
#[derive(Clone)]
pub struct Net(Arc<NetInner>);

struct NetInner {
    stem: String,
    next: AtomicU8,
}

/// A host: a network namespace with `lo` and `eth0`. Clones share it; when the last one goes, all its processes are killed.
#[derive(Clone)]
pub struct Host(Arc<HostInner>);

struct HostInner {
    net: Net,
    name: String,
    number: u8,
}

impl Net {
    /// A bridge without hosts. Sweeps away what dead programs have left.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run as root, or where user namespaces are allowed"
        );
        procs::spawner(); // before any thread of ours has moved into a namespace
        sweep();
        let stem = format!("{PREFIX}{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Self(Arc::new(NetInner { stem, next: AtomicU8::new(FIRST) }));
        let weak = Arc::downgrade(&net.0);
        procs::on_signal(move || {
            if let Some(inner) = weak.upgrade() {
                inner.remove_all();
            }
        });
        let bridge = net.0.bridge();
        run("ip", ["netns", "add", &bridge], "")?;
        let up = "link add name br0 type bridge forward_delay 0 stp_state 0\nlink set dev lo up\nlink set dev br0 up\n";
        run("ip", ["-n", &bridge, "-batch", "-"], up)?;
        let rules = "table bridge baton {\n  set cut { type ifname . ifname; }\n  chain pass { type filter hook forward priority 0; policy accept; \
                     iifname . oifname @cut drop; }\n}\n";
        run("ip", ["netns", "exec", &bridge, "nft", "-f", "-"], rules)?;
        Ok(net)
    }

    /// A new host `name` (at most 15 letters, digits and dashes) with the next address.
    pub fn host(&self, name: &str) -> Result<Host> {
        ensure!((1..=15).contains(&name.len()), "{name:?} can't name a network interface: at most 15 characters");
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let host = Host(Arc::new(HostInner { net: self.clone(), name: name.to_owned(), number }));
        let (space, bridge) = (host.0.space(), self.0.bridge());
        run("ip", ["netns", "add", &space], "")?;
        let port = format!(
            "link add name {name} type veth peer name eth0 netns {space}\nlink set dev {name} master br0\nlink set dev {name} up\n"
        );
        run("ip", ["-n", &bridge, "-batch", "-"], &port)?;
        let inside = format!(
            "link set dev lo up\nlink set dev eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n",
            host.ip(),
            host.ip6()
        );
        run("ip", ["-n", &space, "-batch", "-"], &inside)?;
        Ok(host)
    }

    /// Nothing passes from one to the other any more; the other direction stays as it is.
    pub fn cut_one_way(&self, from: &Host, to: &Host) -> Result<()> {
        self.elements("add", &[(from.name(), to.name())])
    }

    /// Nothing passes between the two any more.
    pub fn cut(&self, a: &Host, b: &Host) -> Result<()> {
        self.elements("add", &[(a.name(), b.name()), (b.name(), a.name())])
    }

    /// Nothing passes between any of `some` and any of `others` any more.
    pub fn part(&self, some: &[&Host], others: &[&Host]) -> Result<()> {
        let pairs: Vec<_> = some
            .iter()
            .flat_map(|a| others.iter().flat_map(|b| [(a.name(), b.name()), (b.name(), a.name())]))
            .filter(|(a, b)| a != b)
            .collect();
        self.elements("add", &pairs)
    }

    /// Everything passes between the two again.
    pub fn mend(&self, a: &Host, b: &Host) -> Result<()> {
        self.let_pass(&[(a.name(), b.name()), (b.name(), a.name())])
    }

    /// Everything passes everywhere again.
    pub fn mend_all(&self) -> Result<()> {
        self.nft("flush set bridge baton cut\n")
    }

    /// An IPv4 address of the network that no host has; the same for the same number (100 to 199).
    pub fn spare_ip(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, number.clamp(100, 199))
    }

    /// An IPv6 address of the network that no host has; the same for the same number (100 to 199).
    pub fn spare_ip6(&self, number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.clamp(100, 199).into())
    }

    fn let_pass(&self, pairs: &[(&str, &str)]) -> Result<()> {
        // Adding is fine twice, deleting is not: so everything is there to be deleted.
        self.elements("add", pairs)?;
        self.elements("delete", pairs)
    }

    fn elements(&self, verb: &str, pairs: &[(&str, &str)]) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = pairs.iter().map(|(from, to)| format!("\"{from}\" . \"{to}\"")).collect();
        self.nft(&format!("{verb} element bridge baton cut {{ {} }}\n", list.join(", ")))
    }

    fn nft(&self, rules: &str) -> Result<()> {
        run("ip", ["netns", "exec", &self.0.bridge(), "nft", "-f", "-"], rules).map(drop)
    }
}

impl NetInner {
    fn bridge(&self) -> String {
        format!("{}bridge", self.stem)
    }

    fn remove_all(&self) {
        for name in names().into_iter().filter(|name| name.starts_with(&self.stem)) {
            remove(&name);
        }
    }
}

impl Drop for NetInner {
    fn drop(&mut self) {
        self.remove_all();
    }
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
        let path = self.netns();
        let file = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("can't enter {}", path.display()))
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

    /// The addresses that `eth0` has at present, without link-local ones.
    pub fn addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let text = run("ip", ["-n", &self.0.space(), "-o", "addr", "show", "dev", "eth0"], "")?;
        let words = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        let found = words.filter_map(|word| word.split('/').next()?.parse::<IpAddr>().ok());
        Ok(found.filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())).collect())
    }

    /// Whether `eth0` has that address.
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
        processes(&self.netns())
    }

    /// The process ids of a program on it, such as `mariadbd`.
    pub fn pids_of(&self, program: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|(_, name)| name == program).map(|(pid, _)| pid).collect()
    }

    /// Sends a signal to every process of a program on it; gives how many there were.
    pub fn signal(&self, program: &str, signal: Signal) -> usize {
        let space = self.netns();
        self.pids_of(program).into_iter().filter(|pid| signal_inside(&space, *pid, signal)).count()
    }

    /// SIGSTOP to everything on it, and waits until all of it has stopped. What the kernel does for it goes on: it answers to ARP, and acknowledges TCP.
    pub fn freeze(&self) -> Result<()> {
        let space = self.netns();
        wait_for(&format!("everything on {} to stop", self.name()), SIGNALS, || {
            let awake: Vec<_> = self.processes().into_iter().filter(|(pid, _)| !is_stopped(*pid)).collect();
            for (pid, _) in &awake {
                signal_inside(&space, *pid, Signal::STOP);
            }
            Ok(awake.is_empty().then_some(()))
        })
    }

    /// SIGCONT to everything on it.
    pub fn thaw(&self) {
        let space = self.netns();
        for (pid, _) in self.processes() {
            signal_inside(&space, pid, Signal::CONT);
        }
    }

    /// The power fails: SIGKILL to everything on it.
    pub fn crash(&self) -> Result<()> {
        kill_inside(&self.netns())
    }
}

impl Net {
    fn host_names(&self) -> Vec<String> {
        let ours = names().into_iter().filter_map(|name| name.strip_prefix(&self.0.stem).map(str::to_owned));
        ours.filter(|name| name != "bridge").collect()
    }
}

impl HostInner {
    fn space(&self) -> String {
        format!("{}{}", self.net.0.stem, self.name)
    }
}

impl Drop for HostInner {
    fn drop(&mut self) {
        remove(&self.space());
    }
}

/// Where the program is not root: starts it anew as root of user, mount and network namespaces of its own, with nothing of the machine's to break, and
/// ends as it ends. Returns at once where it is root.
pub fn as_root_of_namespaces() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        if std::env::var_os(INSIDE).is_some() && !Path::new(NAMES).is_dir() {
            fs::create_dir_all(NAMES).with_context(|| format!("can't create {NAMES}"))?;
        }
        return Ok(());
    }
    ensure!(std::env::var_os(INSIDE).is_none(), "no root, although in a user namespace of its own");
    let exe = std::env::current_exe().context("can't find the running program")?;
    // `ip netns` keeps its names below /run, which belongs to the machine's root.
    let script = r#"mount -t tmpfs tmpfs /run && exec "$@""#;
    let mut command = Command::new(program("unshare")?);
    command.args(["--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", script, "sh"]);
    let error = command.arg(exe).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    Err(error).context("network namespaces need root, or unshare (util-linux) where user namespaces are allowed")
}

/// Removes the namespaces of programs that are gone.
fn sweep() {
    for name in names() {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !procs::exists(pid)) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    let file = Path::new(NAMES).join(name);
    if file.exists() {
        let _best_effort = kill_inside(&file);
        let _best_effort = run("ip", ["netns", "delete", name], "");
    }
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn kill_inside(space: &Path) -> Result<()> {
    wait_for(&format!("everything in {} to end", space.display()), SIGNALS, || {
        let left = processes(space);
        for (pid, _) in &left {
            signal_inside(space, *pid, Signal::KILL);
        }
        Ok(left.is_empty().then_some(()))
    })
}

/// Processes whose main thread is in the namespace, without zombies.
fn processes(space: &Path) -> Vec<(u32, String)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let here = pids.filter(|pid| is_inside(space, *pid) && procs::exists(*pid));
    here.filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())))
        .collect()
}

fn is_inside(space: &Path, pid: u32) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let of = id(Path::new(&format!("/proc/{pid}/ns/net")));
    of.is_some() && of == id(space)
}

/// Signals a process, if it is (still) in the namespace: the id may belong to somebody else by now.
fn signal_inside(space: &Path, pid: u32, signal: Signal) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(fd) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    is_inside(space, pid) && pidfd_send_signal(fd, signal).is_ok()
}

fn is_stopped(pid: u32) -> bool {
    let stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().all(|thread| fs::read_to_string(thread.path().join("stat")).map_or(true, |stat| stopped(&stat)))
}

/// Runs a short command with `input`; gives its output. Not under [`Cmd`]: it ends by itself, and is needed while everything is torn down.
fn run<'a>(command: &str, args: impl IntoIterator<Item = &'a str>, input: &str) -> Result<String> {
    let args: Vec<&str> = args.into_iter().collect();
    let mut child = Command::new(program(command)?)
        .args(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {command}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("{command} reads nothing"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("{command} got lost"))?;
    if !output.status.success() {
        bail!(
            "{command} {} ended with {}: {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
