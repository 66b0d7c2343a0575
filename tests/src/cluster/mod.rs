//! A whole cluster on hosts of its own: database servers with their agents, relays, controllers, etcd, and a client's host.
//!
//! Knows only what is documented: command lines, configuration files, HTTP, and the documents in etcd. Promises: a started cluster has one writable
//! primary, whose commits are acknowledged; everything ends with the last clone. Looks at the truth from outside: the servers' own sockets, the
//! hosts' interfaces, the rows that clients were told of ([`Ledger`]).

mod clock;
mod ctl;
mod daemon;
mod node;
mod plan;
mod rounds;
mod start;
mod steps;
mod toml;
mod writers;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use self::ctl::Ended;
pub use self::daemon::Daemon;
pub use self::node::Node;
pub use self::plan::{CLUSTER, ClusterPlan, RELAY_PORT, REPLICATION_USER, TOKEN};
pub use self::rounds::{Fault, Round, Stalls};
pub use self::steps::{Cause, Strike, Struck};
pub use self::writers::{Commit, Ledger, Target, Writers, turns};
use crate::dir::Bed;
use crate::etcd::{Change, Entry, Etcd};
use crate::netns::{Host, Net};
use crate::sql::{Address, Sql};
use crate::template::APP_PASSWORD;
use crate::wait::{DEADLINE, wait_for, wait_until};

/// What the writers write into: `id` orders by commit, `writer` and `n` name a commit once.
pub(crate) const TABLES: &str = "CREATE TABLE IF NOT EXISTS test.ledger (id BIGINT AUTO_INCREMENT PRIMARY KEY, writer INT NOT NULL, \
     n BIGINT NOT NULL, server INT NOT NULL, KEY (writer, n))";
/// Within which every fault has to have ended in one writable primary, or in none with the reason told.
pub const SETTLED: Duration = Duration::from_secs(120);

/// A cluster; clones share it.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    // In the order in which they are to go: what runs first, its hosts last.
    nodes: Vec<Node>,
    relays: Vec<Daemon>,
    controllers: Vec<Daemon>,
    etcd: Etcd,
    client: Host,
    net: Net,
    vip: Ipv4Addr,
    token: String,
    bed: Bed,
}

impl Cluster {
    /// Its database servers, `db-1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.0.nodes
    }

    /// A database server by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes().iter().find(|node| node.name() == name).with_context(|| format!("there is no {name}"))
    }

    /// Its relays, `relay-1` first.
    pub fn relays(&self) -> &[Daemon] {
        &self.0.relays
    }

    /// A relay by name.
    pub fn relay(&self, name: &str) -> Result<&Daemon> {
        self.relays().iter().find(|relay| relay.name() == name).with_context(|| format!("there is no {name}"))
    }

    /// Its controllers, `controller-1` first.
    pub fn controllers(&self) -> &[Daemon] {
        &self.0.controllers
    }

    /// Its etcd.
    pub fn etcd(&self) -> &Etcd {
        &self.0.etcd
    }

    /// The host of the clients.
    pub fn client(&self) -> &Host {
        &self.0.client
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.0.net
    }

    /// The address that clients use.
    pub fn vip(&self) -> Ipv4Addr {
        self.0.vip
    }

    /// The hosts of everything but the clients: of servers, relays and controllers, with etcd's.
    pub fn hosts(&self) -> Vec<&Host> {
        let daemons = self.controllers().iter().chain(self.relays()).map(Daemon::host);
        let mut hosts: Vec<&Host> = daemons.chain(self.nodes().iter().map(Node::host)).collect();
        hosts.extend(self.etcd().hosts());
        hosts.sort_by_key(|host| host.ip());
        hosts.dedup_by_key(|host| host.ip());
        hosts
    }

    /// The test bed that it lives in.
    pub fn bed(&self) -> &Bed {
        &self.0.bed
    }

    /// The file with the token of its HTTP interfaces.
    pub fn token_file(&self) -> &str {
        &self.0.token
    }

    /// A key below `/baton/<cluster>/`.
    pub fn key(&self, name: &str) -> String {
        format!("/baton/{CLUSTER}/{name}")
    }

    /// The document in etcd that says who is primary.
    pub fn state(&self) -> Result<Value> {
        let entry: Option<Entry> = self.etcd().get(&self.key("state"))?;
        Ok(entry.context("the cluster has no state")?.value)
    }

    /// The epoch of the state.
    pub fn epoch(&self) -> Result<u64> {
        self.state()?["epoch"].as_u64().context("a state without an epoch")
    }

    /// The document in etcd about an operation.
    pub fn history(&self, epoch: u64) -> Result<Value> {
        let entry = self.etcd().get(&self.key(&format!("history/{epoch:010}")))?;
        Ok(entry.with_context(|| format!("epoch {epoch} has no history"))?.value)
    }

    /// The controller that leads, by its key in etcd.
    pub fn leader(&self) -> Result<&Daemon> {
        wait_for("a controller to lead", DEADLINE, || {
            let leader = self.etcd().get(&self.key("leader")).ok().flatten();
            let name = leader.and_then(|entry| entry.value["name"].as_str().map(str::to_owned));
            Ok(name.and_then(|name| self.controllers().iter().find(|c| c.name() == name)))
        })
    }

    /// `GET /v1/cluster` of whichever controller answers.
    pub fn view(&self) -> Result<Value> {
        let mut alive = self.controllers().iter().filter(|c| c.is_running());
        alive.find_map(|c| c.json("/v1/cluster").ok()).context("no controller answers")
    }

    /// The primary, once the state is steady; waits for that.
    pub fn primary(&self) -> Result<&Node> {
        self.wait_primary("a steady primary", |_| true)
    }

    /// Waits until the state is steady with a primary other than `node`.
    pub fn wait_primary_other_than(&self, node: &Node) -> Result<&Node> {
        self.wait_primary(&format!("a primary other than {}", node.name()), |name| name != node.name())
    }

    fn wait_primary(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<&Node> {
        let mut last = Value::Null;
        let found = wait_for(what, SETTLED, || {
            let Ok(state) = self.state() else { return Ok(None) };
            let steady = state["phase"] == "steady";
            let name = state["primary"].as_str().filter(|name| steady && good(name)).map(str::to_owned);
            last = state;
            Ok(name)
        });
        let name = found.with_context(|| format!("last state: {last}; {}", self.told()))?;
        self.node(&name)
    }

    /// What the controllers say is wrong, or why they refuse: for messages.
    pub fn told(&self) -> String {
        match self.view() {
            Ok(view) => format!(
                "refusing: {}; problems: {}; operation: {}",
                view["refusing"], view["problems"], view["operation"]
            ),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Waits until a controller refuses something, and gives what it says: `what`, `why`, `hint`.
    pub fn wait_refusal(&self) -> Result<Value> {
        wait_until("a controller to refuse", || Ok(self.view()?["refusing"].clone()), |refusing| !refusing.is_null())
    }

    /// As [`Cluster::wait_refusal`], until what it says has these words.
    pub fn wait_refusal_with(&self, words: &str) -> Result<Value> {
        let refusing = || Ok(self.view()?["refusing"].clone());
        wait_until(&format!("a controller to refuse: {words}"), refusing, |refusing| {
            refusing.to_string().contains(words)
        })
    }

    /// Waits until the controllers tell of a problem with one of these codes; gives it.
    pub fn wait_problem_of(&self, codes: &[&str]) -> Result<Value> {
        let problem = || {
            let view = self.view()?;
            let known = |problem: &&Value| problem["code"].as_str().is_some_and(|code| codes.contains(&code));
            let found = view["problems"].as_array().into_iter().flatten().find(known).cloned();
            found.with_context(|| format!("problems: {}", view["problems"]))
        };
        wait_until(&format!("a problem of {codes:?}"), problem, |_| true)
    }

    /// Every change of the state from now on.
    pub fn watch_state(&self) -> Result<Receiver<Change>> {
        self.etcd().watch(&self.key("state"))
    }

    /// Waits until a watch of the state sees that phase, in an epoch above `epoch`; gives the state.
    pub fn wait_phase(&self, changes: &Receiver<Change>, phase: &str, epoch: u64) -> Result<Value> {
        let end = Instant::now() + SETTLED;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let change =
                changes.recv_timeout(left).with_context(|| format!("phase {phase} never came; {}", self.told()))?;
            let state = change.entry.map(|entry| entry.value).unwrap_or_default();
            if state["phase"] == phase && state["epoch"].as_u64().is_some_and(|now| now > epoch) {
                return Ok(state);
            }
        }
    }

    /// A session as `app` through the virtual IP, from the client's host.
    pub fn client_session(&self) -> Result<Sql> {
        let at = Address::Tcp((self.vip(), 3306).into());
        wait_for("a session through the virtual IP", SETTLED, || {
            Ok(self.client().inside(|| Sql::connect(&at, "app", APP_PASSWORD, Some(DEADLINE))).ok())
        })
    }

    /// Waits until the state is steady, a relay acknowledges, the primary alone is writable and holds the address, and every other server whose
    /// agent runs replicates without an error.
    pub fn wait_settled(&self) -> Result<&Node> {
        let mut why = String::new();
        let settled = wait_for("the cluster to be settled", SETTLED, || match self.settled() {
            Ok(name) => Ok(Some(name)),
            Err(error) => {
                why = format!("{error:#}");
                Ok(None)
            }
        });
        let name = settled.with_context(|| format!("last seen: {why}; {}", self.told()))?;
        self.node(&name)
    }

    fn settled(&self) -> Result<String> {
        let state = self.state()?;
        ensure!(state["phase"] == "steady", "state {state}");
        let name = state["primary"].as_str().context("no primary")?.to_owned();
        let primary = self.node(&name)?;
        let holder = state["grant_holder"].as_str().context("no relay holds the grant")?;
        ensure!(!primary.read_only()?, "{name} is read-only");
        ensure!(!primary.has_agent() || primary.holds(self.vip())?, "{name} does not hold the address");
        let status = self.relay(holder)?.json("/v1/status")?;
        let (upstream, held) = (&status["upstream"]["state"], &status["membership"]["held"]);
        ensure!(upstream == "streaming" && held == true, "{holder}: upstream {upstream}, held {held}");
        let goal = primary.gtid()?;
        for node in self.nodes().iter().filter(|node| node.name() != name && node.agent().is_running()) {
            ensure!(node.read_only()?, "{} is writable", node.name());
            ensure!(!node.holds(self.vip())?, "{} holds the address", node.name());
            ensure!(node.replicates()?, "{} does not replicate: {:?}", node.name(), node.slave_status()?);
            let has = node.gtid()?;
            ensure!(has == goal || primary.gtid()? != goal, "{} has {has}, {name} has {goal}", node.name());
        }
        Ok(name)
    }

    /// At the end of a test: waits until the cluster is settled, then checks that the primary has every commit that a client was told of, each once,
    /// that servers committed in turns, no more of them than there were epochs, and that all servers hold the same.
    pub fn check(&self, ledgers: &[&Ledger]) -> Result<()> {
        let primary = self.wait_settled()?;
        for ledger in ledgers {
            ledger.check_against(primary)?;
        }
        let (turns, epoch) = (writers::turns(ledgers), self.epoch()?);
        ensure!(turns.len() as u64 <= epoch, "servers commit side by side: in {epoch} epochs {turns:?}");
        let goal = primary.gtid()?;
        for node in self.nodes().iter().filter(|node| node.name() != primary.name() && node.agent().is_running()) {
            wait_until(&format!("{} to have {goal}", node.name()), || node.gtid(), |has| *has == goal)?;
            // A transaction is in a server's position a moment before its rows are seen.
            let sums = || Ok((node.checksums()?, primary.checksums()?));
            let what = format!("{} to hold the same as {}", node.name(), primary.name());
            wait_until(&what, sums, |(theirs, ours)| theirs == ours)?;
        }
        Ok(())
    }

    /// An error if more than one server would take a write from `app`, through its own socket: for moments at which nothing is being changed.
    pub fn check_one_writable(&self) -> Result<()> {
        let writable = self.nodes().iter().filter(|node| node.read_only().is_ok_and(|read_only| !read_only));
        let names: Vec<_> = writable.map(Node::name).collect();
        if names.len() > 1 {
            bail!("several servers are writable: {names:?}");
        }
        Ok(())
    }
}
