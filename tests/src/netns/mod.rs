//! Network namespaces as hosts: a bridge in a namespace of its own, and one namespace with one interface (`eth0`) for each host.
//!
//! Promises: everything is inside these namespaces, nothing else on the machine is touched; they, and every process inside, go when the last handle
//! goes, on SIGINT and SIGTERM, and, after a SIGKILL of the program, at the next start of any (names carry the owner's process id).
//! Links are cut at the bridge, so that hosts see silence and no lost carrier, unless [`Host::unplug`] is wanted. Needs root; an ordinary user gets
//! that by [`as_root_of_namespaces`].

mod host;
mod inside;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

pub use self::host::Host;
use self::host::HostInner;
pub(crate) use self::host::enter;
use crate::procs;
use crate::template::program;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// What the names of all our namespaces begin with; the owner's process id follows.
const PREFIX: &str = "batonbed-";
/// Set in the environment of a program that was started anew as root of its own namespaces.
const INSIDE: &str = "BATON_TESTBED_INSIDE";
/// Address of the first host.
const FIRST: u8 = 11;
/// A network of hosts; clones share it, and the last one removes it.
#[derive(Clone)]
pub struct Net(Arc<NetInner>);

struct NetInner {
    stem: String,
    next: AtomicU8,
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

impl Net {
    fn host_names(&self) -> Vec<String> {
        let ours = names().into_iter().filter_map(|name| name.strip_prefix(&self.0.stem).map(str::to_owned));
        ours.filter(|name| name != "bridge").collect()
    }
}

/// Where the program is not root: starts it anew as root of a user and a mount namespace of its own, with nothing of the machine's to break, and
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
    command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", script, "sh"]);
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
        let _best_effort = inside::kill(&file);
        let _best_effort = run("ip", ["netns", "delete", name], "");
    }
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
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
