//! A database server of a cluster, with its agent as its supervisor, on a host of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::daemon::Daemon;
use crate::Rows;
use crate::mariadb::sorted_gtids;
use crate::netns::Host;
use crate::sql::{Address, Sql};
use crate::template::APP_PASSWORD;
use crate::wait::{DEADLINE, wait_for};

/// The program's name, as the kernel tells it.
const SERVER: &str = "mariadbd";
/// How long a query of a test may take.
const QUERY: Duration = Duration::from_secs(30);
/// The servers' port.
pub(super) const PORT: u16 = 3306;

/// A database server and its agent; clones share it.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    server_id: u32,
    host: Host,
    agent: Daemon,
    datadir: PathBuf,
    socket: PathBuf,
}

impl Node {
    pub(super) fn new(name: &str, server_id: u32, agent: Daemon, datadir: PathBuf, socket: PathBuf) -> Self {
        let (name, host) = (name.to_owned(), agent.host().clone());
        Self(Arc::new(Inner { name, server_id, host, agent, datadir, socket }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The server's `server_id`.
    pub fn server_id(&self) -> u32 {
        self.0.server_id
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Its agent; the server itself where it has none.
    pub fn agent(&self) -> &Daemon {
        &self.0.agent
    }

    /// Whether it has an agent.
    pub fn has_agent(&self) -> bool {
        self.0.agent.serves_http()
    }

    /// The server's data directory.
    pub fn datadir(&self) -> &Path {
        &self.0.datadir
    }

    /// The server's unix socket.
    pub fn socket(&self) -> &Path {
        &self.0.socket
    }

    /// The server's own TCP address.
    pub fn address(&self) -> SocketAddr {
        (self.host().ip(), PORT).into()
    }

    /// SIGKILL to the server, whose agent learns of it.
    pub fn kill_server(&self) -> Result<()> {
        ensure!(self.host().signal(SERVER, Signal::KILL) > 0, "no server runs on {}", self.name());
        Ok(())
    }

    /// SIGSTOP to the server, and waits until all of it has stopped.
    pub fn freeze_server(&self) -> Result<()> {
        let pids = self.host().pids_of(SERVER);
        ensure!(!pids.is_empty(), "no server runs on {}", self.name());
        self.host().freeze_pids(&pids)
    }

    /// SIGCONT to the server.
    pub fn thaw_server(&self) {
        self.host().signal(SERVER, Signal::CONT);
    }

    /// Whether a process of the server is there.
    pub fn runs(&self) -> bool {
        !self.host().pids_of(SERVER).is_empty()
    }

    /// Takes the power from the host: everything on it is killed, the agent first.
    pub fn crash(&self) -> Result<()> {
        self.host().crash()
    }

    /// Whether its interface has the address.
    pub fn holds(&self, address: impl Into<IpAddr>) -> Result<bool> {
        self.host().holds(address)
    }

    /// A session as root over the unix socket.
    pub fn session(&self) -> Result<Sql> {
        self.session_within(QUERY)
    }

    /// As [`Node::session`], each of whose answers may take that long.
    pub fn session_within(&self, limit: Duration) -> Result<Sql> {
        Sql::connect(&Address::Socket(self.0.socket.clone()), "root", "", Some(limit))
    }

    /// A session as `app`, which may not write where `read_only` is set, over the unix socket.
    pub fn app_session(&self) -> Result<Sql> {
        Sql::connect(&Address::Socket(self.0.socket.clone()), "app", APP_PASSWORD, Some(QUERY))
    }

    /// Runs statements as root in a fresh session; gives the rows of the last one.
    pub fn sql(&self, statement: &str) -> Result<Rows> {
        self.session()?.query(statement).with_context(|| format!("on {}", self.name()))
    }

    /// The first column of the first row; empty text for NULL; an error without rows.
    pub fn value(&self, statement: &str) -> Result<String> {
        let cell = self.sql(statement)?.into_iter().next().and_then(|row| row.into_iter().next());
        Ok(cell.with_context(|| format!("no row on {} for: {statement}", self.name()))?.unwrap_or_default())
    }

    /// `@@gtid_binlog_pos`, sorted by domain.
    pub fn gtid(&self) -> Result<String> {
        Ok(sorted_gtids(&self.value("SELECT @@gtid_binlog_pos")?))
    }

    /// `@@read_only`.
    pub fn read_only(&self) -> Result<bool> {
        Ok(self.value("SELECT @@read_only")? == "1")
    }

    /// `SHOW SLAVE STATUS` by column name; empty if it is no replica.
    pub fn slave_status(&self) -> Result<BTreeMap<String, String>> {
        let answer = self.session()?.answer("SHOW SLAVE STATUS")?;
        let row = answer.rows.into_iter().next().unwrap_or_default();
        Ok(answer.columns.into_iter().zip(row.into_iter().map(Option::unwrap_or_default)).collect())
    }

    /// Whether both of its replication threads run.
    pub fn replicates(&self) -> Result<bool> {
        let status = self.slave_status()?;
        let yes = |key: &str| status.get(key).is_some_and(|value| value == "Yes");
        Ok(yes("Slave_IO_Running") && yes("Slave_SQL_Running"))
    }

    /// Checksums of the tables of `test` and `sbtest`.
    pub fn checksums(&self) -> Result<BTreeMap<String, Option<String>>> {
        let query = "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables \
                     WHERE table_schema IN ('test', 'sbtest') AND table_type='BASE TABLE' ORDER BY 1";
        let tables: Vec<_> = self.sql(query)?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        if tables.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = self.sql(&format!("CHECKSUM TABLE {}", tables.join(", ")))?;
        let pairs = rows.into_iter().filter_map(|row| <[_; 2]>::try_from(row).ok());
        Ok(pairs.filter_map(|[table, sum]| Some((table?, sum))).collect())
    }

    /// `GET /v1/status` of its agent.
    pub fn status(&self) -> Result<Value> {
        self.agent().json("/v1/status")
    }

    /// Waits until the server answers over its socket.
    pub fn wait_answers(&self) -> Result<()> {
        wait_for(&format!("the server of {} to answer", self.name()), DEADLINE, || {
            if !self.agent().is_running() && !self.runs() {
                bail!("neither agent nor server of {} run", self.name());
            }
            Ok(self.session().ok().map(drop))
        })
    }
}
