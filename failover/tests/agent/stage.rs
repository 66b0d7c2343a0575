//! Hosts with agents, an etcd, and who orders.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use baton_testbed::sql::Address;
use baton_testbed::template::{self, Accounts, CLUSTER_PASSWORD};
use baton_testbed::{Bed, Cmd, DEADLINE, Etcd, Host, Net, Proc, Sql, wait_for};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "token-of-the-tests";
const HTTP: u16 = 8092;
const PORT: u16 = 3306;

/// The whole stage.
pub(crate) struct Stage {
    pub(crate) bed: Bed,
    pub(crate) net: Net,
    pub(crate) etcd: Etcd,
    pub(crate) etcd_host: Host,
}

/// A node: its host, its server's directory, its agent.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) host: Host,
    pub(crate) datadir: PathBuf,
    socket: PathBuf,
    pub(crate) dir: PathBuf,
    log: PathBuf,
    agent: Mutex<Option<Proc>>,
    command: Cmd,
}

impl Stage {
    pub(crate) fn new(bed: &Bed) -> Result<Self> {
        let net = Net::new()?;
        let etcd_host = net.host("etcd")?;
        let etcd = bed.etcd().on(&[&etcd_host]).start()?;
        etcd.put("/baton/shop/config", &json!({"provider": "agent", "vip": format!("{}/24", net.spare_ip(100))}))?;
        Ok(Self { bed: bed.clone(), net, etcd, etcd_host })
    }

    pub(crate) fn vip(&self) -> Ipv4Addr {
        self.net.spare_ip(100)
    }

    /// A node whose agent supervises its server; not started yet. `further` is added to `[address]` of its configuration.
    pub(crate) fn node(&self, number: u32, further: &str) -> Result<Node> {
        let name = format!("db-{number}");
        let host = self.net.host(&name)?;
        let dir = self.bed.path(&name);
        fs::create_dir_all(&dir)?;
        let (datadir, socket) = (
            dir.join("data"),
            std::env::temp_dir().join(format!("{}-{name}-{}.sock", self.bed.name(), std::process::id())),
        );
        template::copy_with(Accounts::Cluster, &datadir)?;
        for (file, secret) in [("token", TOKEN), ("password", CLUSTER_PASSWORD)] {
            fs::write(dir.join(file), secret)?;
        }
        // A busy machine is not cut off.
        let patient = if further.contains("fence_after") { "" } else { "fence_after = \"3s\"" };
        let (at, d) = (host.ip(), dir.display());
        let endpoint = self.etcd.endpoints().first().cloned().context("etcd has an endpoint")?;
        let config = format!(
            r#"
cluster = "shop"
node = "{name}"
http = "0.0.0.0:{HTTP}"
agent_check = "0.0.0.0:8093"
token_file = "{d}/token"
data_dir = "{d}/agent"
restart_after = "500ms"
[advertise]
mysql = ["{at}:{PORT}"]
http = "{at}:{HTTP}"
host = "{name}"
[etcd]
endpoints = ["{endpoint}"]
[mysql]
socket = "{}"
pid_file = "{}/server.pid"
user = "baton"
password_file = "{d}/password"
replication_user = "relay_{number}"
replication_password_file = "{d}/password"
[role_file]
path = "{d}/role.cnf"
[address]
interface = "eth0"
{patient}
{further}
"#,
            socket.display(),
            datadir.display()
        );
        fs::write(dir.join("agent.toml"), config)?;
        let options = format!(
            "[mariadbd]\ndatadir = {}\ntmpdir = {}\nsocket = {}\npid_file = {}/server.pid\nlog_error = {}\nport = {PORT}\nserver_id = {number}\n\
             bind_address = *\nskip_name_resolve\nloose_performance_schema = 0\ninnodb_buffer_pool_size = 64M\n{}\n\
             log_bin = mysql-bin\nlog_slave_updates\nrelay_log = relay-bin\ngtid_strict_mode = 1\nbinlog_format = ROW\n\
             sync_binlog = 1\ninnodb_flush_log_at_trx_commit = 1\nslave_net_timeout = 5\nevent_scheduler = ON\n!include {d}/role.cnf\n",
            datadir.display(),
            template::tmpdir(&datadir).display(),
            socket.display(),
            datadir.display(),
            self.bed.log(&format!("{name}-server")).display(),
            template::REDO_LOG.trim_start_matches("--"),
        );
        fs::write(dir.join("server.cnf"), options)?;
        let program = env!("CARGO_BIN_EXE_baton-failover");
        let command = host.cmd(program).args(["agent", "--config"]).arg(dir.join("agent.toml"));
        Ok(Node { log: self.bed.log(&name), name, host, datadir, socket, dir, agent: Mutex::new(None), command })
    }

    /// A node whose server answers.
    pub(crate) fn started(&self, number: u32, further: &str) -> Result<Node> {
        let node = self.node(number, further)?;
        node.start()?;
        node.wait_status("the server answers its agent", |s| s["server"].is_object())?;
        Ok(node)
    }

    /// Writes the state: `epoch`, `phase`, and whatever else is to differ from a steady cluster of `primary`.
    pub(crate) fn state(&self, epoch: u64, primary: Option<&str>, changes: &Value) -> Result<()> {
        let mut state = json!({
            "epoch": epoch, "phase": "steady", "kind": "failover", "primary": primary, "old_primary": null, "candidate": null,
            "grant": [epoch, 0], "grant_holder": null, "grant_log_id": null, "asked": null, "tail": null,
            "cause": {"by": "test", "reason": "a test"}, "started": "2026-01-01T00:00:00Z"
        });
        if let (Some(state), Some(changes)) = (state.as_object_mut(), changes.as_object()) {
            state.extend(changes.clone());
        }
        self.etcd.put("/baton/shop/state", &state)
    }

    /// `db-1` as the writable primary of epoch 1, acknowledged by nobody: semi-sync is switched off by hand where a test writes.
    pub(crate) fn primary(&self, further: &str) -> Result<Node> {
        self.state(1, Some("db-1"), &json!({}))?;
        let node = self.started(1, further)?;
        node.wait_value("SELECT @@read_only", "0")?;
        Ok(node)
    }

    /// Records where an epoch begins.
    pub(crate) fn epoch(&self, epoch: u64, node: &str, gtid: &str) -> Result<()> {
        let record = json!({
            "epoch": epoch, "node": node, "mysql": ["x:1"], "server_id": 9, "first_file": null, "shift": 0, "gtid": gtid
        });
        self.etcd.put(&format!("/baton/shop/epochs/{epoch:010}"), &record)
    }
}

impl Node {
    /// Starts the agent, which starts the server.
    pub(crate) fn start(&self) -> Result<()> {
        let server = template::program("mariadbd")?;
        let options = format!("--defaults-file={}", self.dir.join("server.cnf").display());
        let cmd = self.command.clone().arg("--exec").arg(server).arg(options).args(template::as_user());
        *self.agent() = Some(cmd.spawn(&self.log, None)?);
        wait_for(&format!("the agent of {} to listen", self.name), DEADLINE, || {
            ensure!(self.proc()?.is_running(), "the agent has ended:\n{}", baton_testbed::procs::tail(&self.log, 20));
            Ok(self.get("/liveness").ok())
        })?;
        Ok(())
    }

    fn agent(&self) -> std::sync::MutexGuard<'_, Option<Proc>> {
        self.agent.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn proc(&self) -> Result<Proc> {
        self.agent().clone().context("the agent was never started")
    }

    /// Runs another command of the agent to its end.
    pub(crate) fn agent_says(&self, argument: &str) -> Result<(Option<i32>, String)> {
        let out = self.dir.join("said");
        let proc = self.command.clone().arg(argument).spawn(&self.log, Some(&out))?;
        let status = proc.wait_exit(DEADLINE).context("it did not end")?;
        Ok((status.code(), fs::read_to_string(out)?))
    }

    /// The servers on the host.
    pub(crate) fn servers(&self) -> Vec<u32> {
        self.host.pids_of("mariadbd")
    }

    pub(crate) fn session(&self) -> Result<Sql> {
        Sql::connect(&Address::Socket(self.socket.clone()), "root", "", Some(Duration::from_secs(20)))
    }

    pub(crate) fn client(&self) -> Result<Sql> {
        let at = (self.host.ip(), PORT).into();
        self.host
            .inside(|| Sql::connect(&Address::Tcp(at), "app", template::APP_PASSWORD, Some(Duration::from_secs(20))))
    }

    pub(crate) fn sql(&self, statement: &str) -> Result<String> {
        let rows = self.session()?.query(statement).with_context(|| format!("{}: {statement}", self.name))?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
    }

    pub(crate) fn wait_sql(&self) -> Result<()> {
        self.wait_value("SELECT 1", "1")
    }

    pub(crate) fn wait_value(&self, statement: &str, expected: &str) -> Result<()> {
        wait_for(&format!("{} on {} to be {expected}", statement, self.name), DEADLINE, || {
            Ok(self.sql(statement).is_ok_and(|v| v == expected).then_some(()))
        })
    }

    /// One column of `SHOW SLAVE STATUS`.
    pub(crate) fn slave(&self, column: &str) -> Result<String> {
        let answer = self.session()?.answer("SHOW SLAVE STATUS")?;
        let at = answer.columns.iter().position(|c| c == column);
        let cell = answer.rows.first().zip(at).and_then(|(row, at)| row.get(at).cloned().flatten());
        Ok(cell.unwrap_or_default())
    }

    /// GET with the token: status and body.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        self.http(&format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
        ))
    }

    /// Any bytes; the answer's status and body.
    pub(crate) fn http(&self, request: &str) -> Result<(u16, String)> {
        let (code, body) = self.raw(request.as_bytes())?;
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    pub(crate) fn raw(&self, request: &[u8]) -> Result<(u16, Vec<u8>)> {
        let at = (self.host.ip(), HTTP);
        let answer = self.host.inside(|| {
            let mut stream = TcpStream::connect(at)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            stream.write_all(request)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        })?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("no answer")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no status")?;
        Ok((code, answer[end + 4..].to_vec()))
    }

    /// One line of HAProxy's agent-check.
    pub(crate) fn agent_check(&self) -> Result<String> {
        let at = (self.host.ip(), 8093);
        self.host.inside(|| {
            let mut text = String::new();
            TcpStream::connect(at)?.read_to_string(&mut text)?;
            Ok(text.trim().to_owned())
        })
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let (code, body) = self.get("/v1/status")?;
        ensure!(code == 200, "{code}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    pub(crate) fn wait_status(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let waited = wait_for(&format!("{}: {what}", self.name), DEADLINE, || Ok(self.status().ok().filter(|s| is(s))));
        waited.with_context(|| format!("{:?}", self.status()))
    }

    /// An order; the answer's status and body.
    pub(crate) fn order(&self, number: (u64, u64, u64), order: &Value) -> Result<(u16, Value)> {
        let mut body = json!({"term": number.0, "epoch": number.1, "step": number.2});
        if let (Some(body), Some(order)) = (body.as_object_mut(), order.as_object()) {
            body.extend(order.clone());
        }
        let body = body.to_string();
        let (code, body) = self.http(&format!(
            "POST /v1/order HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ))?;
        Ok((code, serde_json::from_str(&body).with_context(|| body.clone())?))
    }

    /// An order that has to be obeyed.
    pub(crate) fn obeys(&self, number: (u64, u64, u64), order: &Value) -> Result<Value> {
        match self.order(number, order)? {
            (200, body) => Ok(body),
            (code, body) => bail!("{} answered {order} with {code}: {body}", self.name),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.host.signal("baton-failover", rustix::process::Signal::KILL);
        self.host.signal("mariadbd", rustix::process::Signal::KILL);
        let _ = fs::remove_file(&self.socket);
    }
}
