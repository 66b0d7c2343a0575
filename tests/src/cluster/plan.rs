//! What a cluster is to be made of, and how it is started: hosts, etcd, controllers, relays, servers with their agents; then `batonctl bootstrap`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::clock;
use super::daemon::Daemon;
use super::node::{self, Node};
use super::toml::{Toml, quoted};
use super::{Cluster, Inner};
use crate::binaries::binary;
use crate::certs::Certs;
use crate::dir::Bed;
use crate::etcd::Etcd;
use crate::netns::{Host, Net};
use crate::procs::Cmd;
use crate::relay::write_secret;
use crate::template::{self, Accounts, CLUSTER_PASSWORD, RELAY_ACCOUNTS};

/// The cluster's name.
pub const CLUSTER: &str = "shop";
/// The bearer token of everything.
pub const TOKEN: &str = "testbed-token-0123456789";
/// Account with which replicas and clients replicate from relays.
pub const REPLICATION_USER: &str = "repl";
/// Port of the relays' replication.
pub const RELAY_PORT: u16 = 3307;
const RELAY_HTTP: u16 = 8090;
const CONTROLLER_HTTP: u16 = 8091;
const AGENT_HTTP: u16 = 8092;
/// Unix socket paths longer than this are not possible everywhere (108 bytes with the final NUL).
const SOCKET_PATH: usize = 100;
/// The address that clients use.
const VIP: u8 = 100;

/// A key of a configuration file that is to be another: section (`""` is the top), key, literal TOML; empty: the key is left out.
type Change = (String, String, String);

/// What a cluster is to be made of; see [`Bed::cluster`].
#[must_use]
#[derive(Clone)]
pub struct ClusterPlan {
    bed: Bed,
    nodes: u32,
    relays: u32,
    controllers: u32,
    etcd: u32,
    etcd_apart: bool,
    relay_beside: Option<u32>,
    agents: Vec<Change>,
    controller: Vec<Change>,
    relay: Vec<Change>,
    servers: Vec<String>,
    one_agent: Vec<(u32, Change)>,
    without_agents: bool,
    bootstrap: bool,
    etcd_certs: Option<Certs>,
    own_clocks: bool,
    client_interface: Option<String>,
    late: Vec<String>,
}

impl ClusterPlan {
    pub(crate) fn new(bed: &Bed) -> Self {
        let plan = Self {
            bed: bed.clone(),
            nodes: 2,
            relays: 1,
            controllers: 1,
            etcd: 1,
            etcd_apart: false,
            relay_beside: None,
            agents: Vec::new(),
            controller: Vec::new(),
            relay: Vec::new(),
            servers: Vec::new(),
            one_agent: Vec::new(),
            without_agents: false,
            bootstrap: true,
            etcd_certs: None,
            own_clocks: false,
            client_interface: None,
            late: Vec::new(),
        };
        plan.controllers_with("guard", "max", "1000")
    }

    /// Database servers: 2 by default, `db-1` and so on; `db-1` is the first primary.
    pub fn nodes(mut self, count: u32) -> Self {
        self.nodes = count;
        self
    }

    /// Relays: 1 by default, `relay-1` and so on.
    pub fn relays(mut self, count: u32) -> Self {
        self.relays = count.min(RELAY_ACCOUNTS);
        self
    }

    /// Controllers: 1 by default, `controller-1` and so on.
    pub fn controllers(mut self, count: u32) -> Self {
        self.controllers = count;
        self
    }

    /// Members of etcd: 1 by default; they stand on the controllers' hosts, and on hosts of their own where these do not suffice.
    pub fn etcd(mut self, members: u32) -> Self {
        self.etcd = members;
        self
    }

    /// etcd stands on hosts of its own.
    pub fn etcd_apart(mut self) -> Self {
        self.etcd_apart = true;
        self
    }

    /// Three controllers, each with a member of etcd.
    pub fn three_controllers(self) -> Self {
        self.controllers(3).etcd(3)
    }

    /// Clients of etcd have to use TLS.
    pub fn etcd_tls(mut self, certs: &Certs) -> Self {
        self.etcd_certs = Some(certs.clone());
        self
    }

    /// The virtual IP lives on an interface of its own, with a cable of its own.
    pub fn client_interface(mut self, name: &str) -> Self {
        self.client_interface = Some(name.to_owned());
        self
    }

    /// Each program of Baton has a wall clock of its own, which [`Daemon::set_clock`] sets; so has a server, with its agent.
    pub fn own_clocks(mut self) -> Self {
        self.own_clocks = true;
        self
    }

    /// This agent, relay or controller (`db-3`, `relay-2`, ...) is prepared and not started with the others: it joins later.
    pub fn late(mut self, name: &str) -> Self {
        self.late.push(name.to_owned());
        self
    }

    /// The last relay stands on the host of database server `db-<number>` instead of one of its own.
    pub fn last_relay_beside(mut self, number: u32) -> Self {
        self.relay_beside = Some(number);
        self
    }

    /// Sets a key in every `agent.toml` to a literal piece of TOML.
    pub fn agents_with(mut self, section: &str, key: &str, toml: &str) -> Self {
        self.agents.push((section.to_owned(), key.to_owned(), toml.to_owned()));
        self
    }

    /// Sets a key in the `agent.toml` of `db-<number>`.
    pub fn agent_with(mut self, number: u32, section: &str, key: &str, toml: &str) -> Self {
        self.one_agent.push((number, (section.to_owned(), key.to_owned(), toml.to_owned())));
        self
    }

    /// Sets a key in every `controller.toml`. `guard.max` is wide unless set.
    pub fn controllers_with(mut self, section: &str, key: &str, toml: &str) -> Self {
        self.controller.push((section.to_owned(), key.to_owned(), toml.to_owned()));
        self
    }

    /// Sets a key in every `relay.toml`.
    pub fn relays_with(mut self, section: &str, key: &str, toml: &str) -> Self {
        self.relay.push((section.to_owned(), key.to_owned(), toml.to_owned()));
        self
    }

    /// A further option of every server, such as `max-connections=20`; later ones win.
    pub fn server_option(mut self, option: &str) -> Self {
        self.servers.push(option.to_owned());
        self
    }

    /// Servers have no agents: the controllers order them over SQL, and clients use the servers' own addresses.
    pub fn without_agents(mut self) -> Self {
        self.without_agents = true;
        self.controllers_with("address", "provider", "\"none\"")
            .controllers_with("address", "vip", "")
            .controllers_with("mysql", "user", "\"baton_sql\"")
    }

    /// Starts everything, but does not bootstrap.
    pub fn without_bootstrap(mut self) -> Self {
        self.bootstrap = false;
        self
    }

    /// Starts everything, makes `db-1` the primary, and waits until every server has its role and a commit through the virtual IP is acknowledged.
    pub fn start(self) -> Result<Cluster> {
        let cluster = self.assemble()?;
        cluster.start_but(&self.late)?;
        if self.bootstrap {
            cluster.bootstrap("db-1")?;
            let primary = cluster.wait_settled()?;
            match self.without_agents {
                false => cluster.client_session()?.query(super::TABLES)?,
                true => primary.sql(super::TABLES)?,
            };
            // The replicas have the tables too.
            cluster.wait_settled()?;
        }
        Ok(cluster)
    }

    fn assemble(&self) -> Result<Cluster> {
        let net = Net::new()?;
        let hosts =
            |stem: &str, count: u32| (1..=count).map(|i| net.host(&format!("{stem}-{i}"))).collect::<Result<Vec<_>>>();
        let client = net.host("client")?;
        let controller_hosts = hosts("controller", self.controllers)?;
        let node_hosts = hosts("db", self.nodes)?;
        if let Some(interface) = &self.client_interface {
            node_hosts.iter().try_for_each(|host| host.add_cable(interface))?;
        }
        let own = self.relays - u32::from(self.relay_beside.is_some());
        let mut relay_hosts = hosts("relay", own)?;
        if let Some(number) = self.relay_beside {
            relay_hosts.push(node_hosts.get(number as usize - 1).context("no such database server")?.clone());
        }
        let beside = if self.etcd_apart { &[] } else { controller_hosts.as_slice() };
        let further = hosts("etcd", self.etcd.saturating_sub(beside.len() as u32))?;
        let etcd_hosts: Vec<&Host> = beside.iter().chain(&further).take(self.etcd as usize).collect();
        let secrets = Secrets::write(&self.bed)?;
        let mut builder = self.bed.etcd().on(&etcd_hosts);
        if let Some(certs) = &self.etcd_certs {
            builder = builder.tls(certs);
        }
        let etcd = builder.prepare()?;
        let vip = net.spare_ip(VIP);
        let numbered = |hosts: Vec<Host>| (1_u32..).zip(hosts);
        let controllers = numbered(controller_hosts)
            .map(|(number, host)| self.controller(number, &host, &etcd, &secrets, (&format!("{vip}/24"), &node_hosts)))
            .collect::<Result<_>>()?;
        let relays = numbered(relay_hosts)
            .map(|(number, host)| self.relay(number, &host, &etcd, &secrets))
            .collect::<Result<_>>()?;
        let nodes = numbered(node_hosts)
            .map(|(number, host)| self.node(number, &host, &etcd, &secrets))
            .collect::<Result<_>>()?;
        let token = secrets.token.clone();
        Ok(Cluster(Arc::new(Inner {
            bed: self.bed.clone(),
            nodes,
            relays,
            controllers,
            etcd,
            client,
            vip,
            token,
            net,
        })))
    }

    fn controller(
        &self,
        number: u32,
        host: &Host,
        etcd: &Etcd,
        secrets: &Secrets,
        (vip, nodes): (&str, &[Host]),
    ) -> Result<Daemon> {
        let name = format!("controller-{number}");
        let mut toml = Toml::default()
            .text("", "cluster", CLUSTER)
            .text("", "name", &name)
            .text("", "http", format!("0.0.0.0:{CONTROLLER_HTTP}"))
            .text("", "token_file", &secrets.token)
            .text("advertise", "http", host.at(CONTROLLER_HTTP))
            .and(|toml| self.etcd_section(toml, etcd))
            .text("mysql", "user", "baton_probe")
            .text("mysql", "password_file", &secrets.password)
            .text("mysql", "replication_user", REPLICATION_USER)
            .text("mysql", "replication_password_file", &secrets.password)
            .text("address", "provider", "agent")
            .text("address", "vip", vip)
            .over(&self.controller);
        for node in nodes.iter().filter(|_| self.without_agents) {
            let addresses = format!("[{}]", quoted(&node.at(node::PORT)));
            let (name, agent) = (quoted(node.name()), quoted("none"));
            toml = toml
                .entry("nodes", &[("name", name.clone()), ("addresses", addresses), ("agent", agent), ("host", name)]);
        }
        let config = self.write(&name, "controller.toml", &toml)?;
        let cmd = host.cmd(binary("baton-failover")?).args(["controller", "--config"]).arg(&config);
        self.daemon(&name, host, cmd, config, CONTROLLER_HTTP)
    }

    fn relay(&self, number: u32, host: &Host, etcd: &Etcd, secrets: &Secrets) -> Result<Daemon> {
        let name = format!("relay-{number}");
        let mut toml = Toml::default()
            .text("", "cluster", CLUSTER)
            .text("", "name", &name)
            .set("", "server_id", (9000 + number).to_string())
            .text("", "data_dir", self.bed.path(&name).join("data").display().to_string())
            .text("upstream", "user", format!("relay_{number}"))
            .text("upstream", "password_file", &secrets.password)
            .text("listen", "replication", format!("0.0.0.0:{RELAY_PORT}"))
            .text("listen", "http", format!("0.0.0.0:{RELAY_HTTP}"))
            .text("listen", "token_file", &secrets.token)
            .text("lag", "user", "baton_lag")
            .text("lag", "password_file", &secrets.password)
            .and(|toml| self.etcd_section(toml, etcd))
            .text("advertise", "replication", host.at(RELAY_PORT))
            .text("advertise", "http", host.at(RELAY_HTTP))
            .text("advertise", "host", host.name())
            .over(&self.relay);
        let others = (1..=RELAY_ACCOUNTS).map(|other| format!("relay_{other}"));
        for user in others.chain([REPLICATION_USER.to_owned()]) {
            toml = toml.table("users", &[("name", &user), ("password_file", &secrets.password)]);
        }
        let config = self.write(&name, "relay.toml", &toml)?;
        let cmd = host.cmd(binary("baton-relay")?).arg("--config").arg(&config);
        self.daemon(&name, host, cmd, config, RELAY_HTTP)
    }

    fn node(&self, number: u32, host: &Host, etcd: &Etcd, secrets: &Secrets) -> Result<Node> {
        let name = format!("db-{number}");
        let dir = self.bed.path(&name);
        fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
        let (datadir, role) = (dir.join("data"), dir.join("role.cnf"));
        template::copy_with(Accounts::Cluster, &datadir)?;
        let socket = socket_of(&self.bed, &name);
        let (pid_file, options) = (datadir.join("server.pid"), dir.join("server.cnf"));
        fs::write(&options, self.server(number, &datadir, &socket, &pid_file, &role, host))?;
        let mut changes = self.agents.clone();
        changes.extend(self.one_agent.iter().filter(|(of, _)| *of == number).map(|(_, change)| change.clone()));
        let toml = Toml::default()
            .text("", "cluster", CLUSTER)
            .text("", "node", &name)
            .text("", "http", format!("0.0.0.0:{AGENT_HTTP}"))
            .text("", "token_file", &secrets.token)
            .text("", "data_dir", dir.join("agent").display().to_string())
            .list("advertise", "mysql", [host.at(node::PORT)])
            .text("advertise", "http", host.at(AGENT_HTTP))
            .text("advertise", "host", host.name())
            .and(|toml| self.etcd_section(toml, etcd))
            .text("mysql", "socket", socket.display().to_string())
            .text("mysql", "pid_file", pid_file.display().to_string())
            .text("mysql", "user", "baton")
            .text("mysql", "password_file", &secrets.password)
            .text("mysql", "replication_user", REPLICATION_USER)
            .text("mysql", "replication_password_file", &secrets.password)
            .text("address", "interface", self.client_interface.as_deref().unwrap_or("eth0"))
            .text("role_file", "path", role.display().to_string())
            .over(&changes);
        let server = template::program("mariadbd")?;
        let options_of_server = format!("--defaults-file={}", options.display());
        if self.without_agents {
            // The option file includes it.
            fs::write(&role, "")?;
            let cmd = host.cmd(server).arg(options_of_server).args(template::as_user());
            let server = self.daemon(&name, host, cmd, options, 0)?;
            return Ok(Node::new(&name, number, server, datadir, socket));
        }
        let config = self.write(&name, "agent.toml", &toml)?;
        let mut cmd = host.cmd(binary("baton-failover")?).args(["agent", "--config"]).arg(&config);
        cmd = cmd.arg("--exec").arg(server).arg(options_of_server).args(template::as_user());
        let agent = self.daemon(&name, host, cmd, config, AGENT_HTTP)?;
        Ok(Node::new(&name, number, agent, datadir, socket))
    }

    fn etcd_section(&self, toml: Toml, etcd: &Etcd) -> Toml {
        let toml = toml.list("etcd", "endpoints", etcd.endpoints());
        match &self.etcd_certs {
            Some(certs) => toml.text("etcd", "ca_file", certs.ca.display().to_string()),
            None => toml,
        }
    }

    fn daemon(&self, name: &str, host: &Host, mut cmd: Cmd, config: PathBuf, http: u16) -> Result<Daemon> {
        let clock = self.bed.path(format!("{name}.clock"));
        if self.own_clocks {
            cmd = clock::give(cmd, &clock)?;
        }
        Ok(Daemon::new(name, host, cmd, self.bed.log(name), config, http, TOKEN, clock))
    }

    fn server(&self, number: u32, datadir: &Path, socket: &Path, pid_file: &Path, role: &Path, host: &Host) -> String {
        let further: String = self.servers.iter().map(|option| format!("{option}\n")).collect();
        let log = self.bed.log(&format!("{}-server", host.name()));
        // Without an agent nobody else starts replication again.
        let skip = if self.without_agents { "" } else { "skip_slave_start\n" };
        format!(
            "[mariadbd]\n\
             datadir = {}\ntmpdir = {}\nsocket = {}\npid_file = {}\nlog_error = {}\nport = {}\nserver_id = {number}\n\
             bind_address = *\nskip_name_resolve\nreport_host = {}\nreport_port = {}\n\
             loose_performance_schema = 0\ninnodb_buffer_pool_size = 64M\n{}\nkey_buffer_size = 1M\n\
             aria_pagecache_buffer_size = 4M\nmax_connections = 300\ntable_open_cache = 400\n\
             read_only = 1\n{skip}log_bin = mysql-bin\nlog_slave_updates\nrelay_log = relay-bin\n\
             gtid_strict_mode = 1\nslave_parallel_threads = 16\nbinlog_format = ROW\nsync_binlog = 1\ninnodb_flush_log_at_trx_commit = 1\n\
             rpl_semi_sync_master_timeout = 4294967295\nrpl_semi_sync_master_wait_point = AFTER_SYNC\n\
             rpl_semi_sync_master_wait_no_slave = ON\nslave_net_timeout = 5\n\
             {further}!include {}\n",
            datadir.display(),
            template::tmpdir(datadir).display(),
            socket.display(),
            pid_file.display(),
            log.display(),
            node::PORT,
            host.name(),
            node::PORT,
            template::REDO_LOG.trim_start_matches("--"),
            role.display()
        )
    }

    fn write(&self, name: &str, file: &str, toml: &Toml) -> Result<PathBuf> {
        let dir = self.bed.path(name);
        fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
        let path = dir.join(file);
        fs::write(&path, toml.render()).with_context(|| format!("can't write {}", path.display()))?;
        Ok(path)
    }
}

/// Files with secrets that all programs of a cluster share.
struct Secrets {
    token: String,
    password: String,
}

impl Secrets {
    fn write(bed: &Bed) -> Result<Self> {
        let (token, password) = (bed.path("token"), bed.path("password"));
        write_secret(&token, TOKEN)?;
        write_secret(&password, CLUSTER_PASSWORD)?;
        Ok(Self { token: token.display().to_string(), password: password.display().to_string() })
    }
}

fn socket_of(bed: &Bed, name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let socket = bed.path(format!("{name}.sock"));
    if socket.as_os_str().len() <= SOCKET_PATH {
        return socket;
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("baton-{}-{count}-{name}.sock", std::process::id()))
}
