//! Real etcd, one member or several, on leased ports or on hosts of a [`Net`](crate::Net); and a client of its JSON gateway that shares no code with Baton.
//!
//! Promises: started means that a linearizable read is answered. Never used by Baton itself: it looks at, and tampers with, what Baton keeps there.
//! Source: <https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/>.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::base64::{decode, encode};
use crate::certs::Certs;
use crate::dir::Bed;
use crate::netns::{self, Host};
use crate::ports::Port;
use crate::procs::{self, Cmd, Proc};
use crate::template::program;
use crate::wait::{DEADLINE, wait_for};

/// How long one request may take: a frozen member is left for the next one.
const REQUEST: Duration = Duration::from_secs(3);
/// How long a member may take to stop after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// On 127.0.0.1, without TLS, where clients have to use that.
const SIDE_PORT: u16 = 2381;

/// How etcd is to be started; see [`Bed::etcd`].
#[must_use]
pub struct EtcdBuilder {
    bed: Bed,
    hosts: Vec<Option<Host>>,
    options: Vec<String>,
    certs: Option<Certs>,
}

impl EtcdBuilder {
    pub(crate) fn new(bed: &Bed) -> Self {
        Self { bed: bed.clone(), hosts: vec![None], options: Vec::new(), certs: None }
    }

    /// That many members on leased ports of 127.0.0.1; one by default.
    pub fn members(mut self, count: usize) -> Self {
        self.hosts = vec![None; count.max(1)];
        self
    }

    /// One member on each of these hosts, on ports 2379 and 2380.
    pub fn on(mut self, hosts: &[&Host]) -> Self {
        self.hosts = hosts.iter().map(|host| Some((*host).clone())).collect();
        self
    }

    /// Clients have to use TLS, but for this testbed, which has a port of its own on each host. Needs hosts. The files are read at each new connection.
    pub fn tls(mut self, certs: &Certs) -> Self {
        self.certs = Some(certs.clone());
        self
    }

    /// A further option of every member, such as `--auth-token=simple`.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Starts the members and waits until they answer.
    pub fn start(self) -> Result<Etcd> {
        let etcd = self.prepare()?;
        etcd.start()?;
        Ok(etcd)
    }

    /// Gives the members their places without starting them.
    pub fn prepare(self) -> Result<Etcd> {
        let mut members = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let (ip, client, peer, leases) = match host {
                Some(host) => (host.ip(), CLIENT_PORT, PEER_PORT, Vec::new()),
                None => {
                    let leases = vec![Port::lease()?, Port::lease()?];
                    (Ipv4Addr::LOCALHOST, leases[0].number(), leases[1].number(), leases)
                }
            };
            let name = format!("etcd-{}", index + 1);
            let data = self.bed.path(&name);
            members.push((name, host.clone(), format!("{ip}:{client}"), format!("http://{ip}:{peer}"), data, leases));
        }
        let list: Vec<_> = members.iter().map(|(name, _, _, peer, ..)| format!("{name}={peer}")).collect();
        let list = list.join(",");
        let members = members.into_iter().map(|(name, host, client, peer, data, leases)| {
            let scheme = if self.certs.is_some() { "https" } else { "http" };
            let (url, side) = (format!("{scheme}://{client}"), format!("http://127.0.0.1:{SIDE_PORT}"));
            let plain = if self.certs.is_some() { side } else { url.clone() };
            let listen = if self.certs.is_some() { format!("{url},{plain}") } else { url.clone() };
            let mut cmd =
                host.as_ref().map_or_else(|| program("etcd").map(Cmd::new), |host| Ok(host.cmd(program("etcd")?)))?;
            cmd = cmd.args(["--name", &name, "--data-dir"]).arg(&data);
            cmd = cmd.args(["--listen-client-urls", &listen, "--advertise-client-urls", &url]);
            cmd = cmd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            cmd = cmd.args(["--initial-cluster", &list, "--initial-cluster-token", self.bed.name()]);
            cmd = cmd.args(["--logger", "zap", "--log-level", "warn"]).args(&self.options);
            if let Some(certs) = &self.certs {
                cmd = cmd.arg("--cert-file").arg(&certs.cert).arg("--key-file").arg(&certs.key);
            }
            Ok(Member(Arc::new(Inner {
                name,
                host,
                url,
                plain,
                cmd,
                bed: self.bed.clone(),
                proc: Mutex::new(None),
                _leases: leases,
            })))
        });
        Ok(Etcd { members: members.collect::<Result<_>>()? })
    }
}

/// An etcd cluster. Clones share it.
#[derive(Clone)]
pub struct Etcd {
    members: Vec<Member>,
}

/// One member; clones share it, and it is killed when the last one goes.
#[derive(Clone)]
pub struct Member(Arc<Inner>);

struct Inner {
    name: String,
    host: Option<Host>,
    url: String,
    plain: String,
    cmd: Cmd,
    bed: Bed,
    proc: Mutex<Option<Proc>>,
    _leases: Vec<Port>,
}

/// A value with the revisions that etcd keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value, as JSON; a value that is none becomes a JSON string.
    pub value: Value,
    /// Revision at which the key was created.
    pub create_revision: u64,
    /// Revision of the last change.
    pub mod_revision: u64,
    /// The lease with which it ends; empty: it stays.
    pub lease: String,
}

/// A change that a watch saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// When it arrived.
    pub at: Instant,
    /// The key.
    pub key: String,
    /// What stands there now; none: deleted.
    pub entry: Option<Entry>,
}

impl Member {
    /// Its name, such as `etcd-1`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where clients reach it: `http://10.77.0.11:2379`.
    pub fn endpoint(&self) -> String {
        self.0.url.clone()
    }

    /// The running process.
    pub fn proc(&self) -> Result<Proc> {
        self.0.proc().clone().with_context(|| format!("{} was never started", self.name()))
    }

    /// Starts it if it does not run, and does not wait.
    pub fn spawn(&self) -> Result<()> {
        let mut slot = self.0.proc();
        if !slot.as_ref().is_some_and(Proc::is_running) {
            *slot = Some(self.0.cmd.spawn(&self.0.bed.log(self.name()), None)?);
        }
        Ok(())
    }

    /// Starts it again after it was stopped or killed, and waits until it answers.
    pub fn restart(&self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// SIGKILL.
    pub fn kill9(&self) -> Result<()> {
        self.proc()?.kill9();
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self) -> Result<()> {
        self.proc()?.term(GRACE).map(drop)
    }

    /// SIGSTOP.
    pub fn freeze(&self) -> Result<()> {
        self.proc()?.freeze()
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.proc()?.thaw()
    }

    /// Waits until it answers a linearizable read.
    pub fn wait_ready(&self) -> Result<()> {
        wait_for(&format!("{} to answer", self.name()), DEADLINE, || {
            let proc = self.proc()?;
            if let Some(status) = proc.exit() {
                bail!("{} ended with {status}:\n{}", self.name(), procs::tail(proc.log(), 25));
            }
            Ok(self.call("/v3/kv/range", &json!({"key": encode(b"ready?")})).ok().map(drop))
        })
    }

    /// Whether it leads the members, by its own account.
    pub fn leads(&self) -> Result<bool> {
        let status = self.call("/v3/maintenance/status", &json!({}))?;
        let id = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(!id(&status["leader"]).is_empty() && id(&status["leader"]) == id(&status["header"]["member_id"]))
    }

    fn call(&self, path: &str, body: &Value) -> Result<Value> {
        self.on_host(|| {
            let agent: ureq::Agent =
                ureq::Agent::config_builder().timeout_global(Some(REQUEST)).proxy(None).build().into();
            let mut answer = agent.post(self.0.plain.clone() + path).send_json(body)?;
            Ok(answer.body_mut().read_json()?)
        })
        .with_context(|| format!("{path} of {}", self.name()))
    }

    fn on_host<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.0.host {
            Some(host) => host.inside(act),
            None => act(),
        }
    }
}

impl Inner {
    fn proc(&self) -> MutexGuard<'_, Option<Proc>> {
        self.proc.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Etcd {
    /// Its members, in the order of their hosts.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Starts the members that do not run, and waits until all answer.
    pub fn start(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::spawn)?;
        self.members.iter().try_for_each(Member::wait_ready)
    }

    /// The hosts of its members.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.members.iter().filter_map(|member| member.0.host.as_ref())
    }

    /// Where clients reach the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// The member that leads.
    pub fn leader(&self) -> Result<&Member> {
        wait_for("etcd to have a leader", DEADLINE, || {
            Ok(self.members.iter().find(|member| member.leads().unwrap_or(false)))
        })
    }

    /// SIGSTOP to all members.
    pub fn freeze(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::freeze)
    }

    /// SIGCONT to all members.
    pub fn thaw(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::thaw)
    }

    /// Reads a key, linearizably.
    pub fn get(&self, key: &str) -> Result<Option<Entry>> {
        let answer = self.ask("/v3/kv/range", &json!({"key": encode(key.as_bytes())}))?;
        answer["kvs"].as_array().and_then(|found| found.first()).map(|found| Ok(entry(found)?.1)).transpose()
    }

    /// Reads all keys that begin with `prefix`.
    pub fn list(&self, prefix: &str) -> Result<BTreeMap<String, Entry>> {
        let (key, range_end) = range(prefix);
        let answer = self.ask("/v3/kv/range", &json!({"key": key, "range_end": range_end}))?;
        answer["kvs"].as_array().into_iter().flatten().map(entry).collect()
    }

    /// Writes a key, whoever keeps it.
    pub fn put(&self, key: &str, value: &Value) -> Result<()> {
        let body = json!({"key": encode(key.as_bytes()), "value": encode(value.to_string().as_bytes())});
        self.ask("/v3/kv/put", &body).map(drop)
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.ask("/v3/kv/deleterange", &json!({"key": encode(key.as_bytes())})).map(drop)
    }

    /// Ends the lease of a key, as etcd does when nobody has kept it alive in time; all keys of that lease are gone with it.
    pub fn end_lease_of(&self, key: &str) -> Result<()> {
        let lease = self.get(key)?.map(|entry| entry.lease).filter(|lease| !lease.is_empty());
        let lease = lease.with_context(|| format!("{key} has no lease"))?;
        self.ask("/v3/lease/revoke", &json!({"ID": lease})).map(drop)
    }

    /// Every change below `prefix` from now on, as long as the member that answers lives. Returns once the watch stands.
    pub fn watch(&self, prefix: &str) -> Result<Receiver<Change>> {
        let (key, range_end) = range(prefix);
        let body = json!({"create_request": {"key": key, "range_end": range_end}});
        // The thread holds neither member nor host: both are to end while it reads, and that ends it.
        let member = self.first_alive()?;
        let (name, url, netns) =
            (member.name().to_owned(), member.0.plain.clone() + "/v3/watch", member.0.host.as_ref().map(Host::netns));
        let (sender, changes) = channel();
        let (stands, standing) = channel();
        thread::Builder::new().name("etcd-watch".into()).spawn(move || {
            let mut stands = Some(stands);
            let entered = netns.as_deref().map_or(Ok(()), netns::enter);
            let watched = entered.and_then(|()| {
                let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
                let mut answer = agent.post(url).send_json(&body)?;
                for line in BufReader::new(answer.body_mut().as_reader()).lines() {
                    let line: Value = serde_json::from_str(&line?)?;
                    let _first = stands.take().map(|stands| stands.send(()));
                    for event in line["result"]["events"].as_array().into_iter().flatten() {
                        let (key, found) = entry(&event["kv"])?;
                        let entry = (event["type"] != "DELETE").then_some(found);
                        if sender.send(Change { at: Instant::now(), key, entry }).is_err() {
                            return Ok(());
                        }
                    }
                }
                Ok(())
            });
            if let (Err(error), Some(_)) = (watched, stands) {
                eprintln!("no watch of {name}: {error:#}");
            }
        })?;
        standing.recv_timeout(REQUEST).with_context(|| format!("no watch of {prefix}"))?;
        Ok(changes)
    }

    fn first_alive(&self) -> Result<&Member> {
        let mut alive = self.members.iter().filter(|member| member.proc().is_ok_and(|proc| proc.is_running()));
        alive.next().context("no member of etcd runs")
    }

    /// Asks one member after the other, until one answers.
    fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let mut last = None;
        for member in &self.members {
            match member.call(path, body) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("etcd has no member")?)
    }
}

fn range(prefix: &str) -> (String, String) {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1; // prefixes are text: their last byte is never 0xff
    }
    (encode(prefix.as_bytes()), encode(&end))
}

fn entry(found: &Value) -> Result<(String, Entry)> {
    let text = |field: &str| decode(found[field].as_str().unwrap_or_default());
    let number = |field: &str| found[field].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let value = text("value")?;
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    let lease = found["lease"].as_str().unwrap_or_default().to_owned();
    let entry =
        Entry { value, create_revision: number("create_revision"), mod_revision: number("mod_revision"), lease };
    Ok((text("key")?, entry))
}
