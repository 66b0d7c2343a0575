//! Real MariaDB servers. Owns the process, its data directory and its port.
//!
//! Promises: started means that it answers queries; administration goes over the unix socket as root, so that ports and proxies see only what a test
//! sends there. Small and not durable against power loss unless asked (`durable`): tests kill processes, not machines.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Rows;
use crate::certs::Certs;
use crate::dir::Bed;
use crate::ports::Port;
use crate::procs::{self, Cmd, Proc};
use crate::sql::{Address, Answer, Sql};
use crate::template::{self, REPL_PASSWORD};
use crate::wait::{DEADLINE, wait_for};

/// How long a query may take before the test fails.
const QUERY: Duration = Duration::from_secs(60);
/// How long a server may take to stop.
const GRACE: Duration = Duration::from_secs(60);
/// Unix socket paths longer than this are not possible everywhere (108 bytes with the final NUL).
const SOCKET_PATH: usize = 100;

/// How a server is to be started; see [`Bed::mariadb`].
#[must_use]
#[derive(Clone)]
pub struct MariaDbBuilder {
    bed: Bed,
    name: String,
    server_id: u32,
    binlog: bool,
    binlog_format: String,
    binlog_checksum: String,
    durable: bool,
    tls: Option<Certs>,
    options: Vec<String>,
}

impl MariaDbBuilder {
    pub(crate) fn new(bed: &Bed, name: &str) -> Self {
        Self {
            bed: bed.clone(),
            name: name.to_owned(),
            server_id: 1,
            binlog: true,
            binlog_format: "ROW".to_owned(),
            binlog_checksum: "CRC32".to_owned(),
            durable: false,
            tls: None,
            options: Vec::new(),
        }
    }

    /// `server_id`; 1 by default.
    pub fn server_id(mut self, id: u32) -> Self {
        self.server_id = id;
        self
    }

    /// Whether it writes a binlog `mysql-bin` (with `log_slave_updates`); on by default.
    pub fn binlog(mut self, on: bool) -> Self {
        self.binlog = on;
        self
    }

    /// `ROW` (default), `MIXED` or `STATEMENT`.
    pub fn binlog_format(mut self, format: &str) -> Self {
        self.binlog_format = format.to_owned();
        self
    }

    /// `CRC32` (default) or `NONE`.
    pub fn binlog_checksum(mut self, checksum: &str) -> Self {
        self.binlog_checksum = checksum.to_owned();
        self
    }

    /// `sync_binlog=1` and `innodb_flush_log_at_trx_commit=1`.
    pub fn durable(mut self, on: bool) -> Self {
        self.durable = on;
        self
    }

    /// Offers TLS with these certificates.
    pub fn tls(mut self, certs: &Certs) -> Self {
        self.tls = Some(certs.clone());
        self
    }

    /// Appliers that work in parallel (`slave_parallel_threads`).
    pub fn parallel_appliers(self, threads: u32) -> Self {
        self.option(&format!("--slave-parallel-threads={threads}"))
    }

    /// Any further option, such as `--max-binlog-size=1M`; later ones win.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Copies the template, starts the server and waits until it answers.
    pub fn start(self) -> Result<MariaDb> {
        let port = Port::lease()?;
        let datadir = self.bed.path(&self.name);
        template::copy_to(&datadir)?;
        let mut socket = self.bed.path(format!("{}.sock", self.name));
        if socket.as_os_str().len() > SOCKET_PATH {
            socket = std::env::temp_dir().join(format!("baton-{}-{}.sock", std::process::id(), port.number()));
        }
        let server = MariaDb(Arc::new(Inner {
            builder: self,
            port,
            datadir,
            socket,
            proc: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
        }));
        server.restart()?;
        Ok(server)
    }

    fn command(&self, port: u16, datadir: &Path, socket: &Path) -> Result<Cmd> {
        let flush = u8::from(self.durable);
        let mut cmd = Cmd::new(template::program("mariadbd")?).arg("--no-defaults").args(template::as_user());
        cmd = cmd.arg(path_option("datadir", datadir)).arg(path_option("socket", socket));
        cmd = cmd.arg(path_option("pid-file", &datadir.join("server.pid")));
        cmd = cmd.arg(path_option("tmpdir", &template::tmpdir(datadir)));
        cmd = cmd.args([format!("--port={port}"), format!("--server-id={}", self.server_id)]);
        cmd = cmd.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--loose-performance-schema=0"]);
        cmd = cmd.args([
            "--innodb-buffer-pool-size=64M",
            template::REDO_LOG,
            "--key-buffer-size=1M",
            "--aria-pagecache-buffer-size=4M",
        ]);
        cmd = cmd.args([
            "--max-connections=300",
            "--table-open-cache=400",
            "--relay-log=relay-bin",
            "--gtid-strict-mode=1",
        ]);
        cmd = cmd.args([format!("--innodb-flush-log-at-trx-commit={}", if self.durable { 1 } else { 2 })]);
        if self.binlog {
            cmd = cmd.args(["--log-bin=mysql-bin", "--log-slave-updates=1"]).arg(format!("--sync-binlog={flush}"));
            cmd = cmd.arg(format!("--binlog-format={}", self.binlog_format));
            cmd = cmd.arg(format!("--binlog-checksum={}", self.binlog_checksum));
        }
        if let Some(certs) = &self.tls {
            cmd = cmd.arg(path_option("ssl-ca", &certs.ca)).arg(path_option("ssl-cert", &certs.cert));
            cmd = cmd.arg(path_option("ssl-key", &certs.key));
        }
        Ok(cmd.args(&self.options))
    }
}

/// A MariaDB server; clones share it, and it is killed when the last one goes.
#[derive(Clone)]
pub struct MariaDb(Arc<Inner>);

struct Inner {
    builder: MariaDbBuilder,
    port: Port,
    datadir: PathBuf,
    socket: PathBuf,
    proc: Mutex<Option<Proc>>,
    idle: Mutex<Vec<Sql>>,
}

impl MariaDb {
    /// Its name in the test bed.
    pub fn name(&self) -> &str {
        &self.0.builder.name
    }

    /// Its `server_id`.
    pub fn server_id(&self) -> u32 {
        self.0.builder.server_id
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.0.port.number()
    }

    /// Its TCP address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// Its unix socket.
    pub fn socket(&self) -> &Path {
        &self.0.socket
    }

    /// Its data directory.
    pub fn datadir(&self) -> &Path {
        &self.0.datadir
    }

    /// The test bed that it lives in.
    pub fn bed(&self) -> &Bed {
        &self.0.builder.bed
    }

    /// The running process.
    pub fn proc(&self) -> Result<Proc> {
        self.0.proc().clone().with_context(|| format!("{} was never started", self.name()))
    }

    /// Starts it, with the same options and `extra` ones, if it does not run; waits until it answers.
    pub fn restart_with(&self, extra: &[&str]) -> Result<()> {
        let mut slot = self.0.proc();
        if slot.as_ref().is_some_and(Proc::is_running) {
            return Ok(());
        }
        self.0.idle().clear();
        let cmd = self.0.builder.command(self.port(), self.datadir(), self.socket())?.args(extra);
        let proc = cmd.spawn(&self.bed().log(self.name()), None)?;
        *slot = Some(proc.clone());
        drop(slot);
        wait_for(&format!("{} to answer", self.name()), DEADLINE, || {
            if let Some(status) = proc.exit() {
                bail!("{} ended with {status} while starting:\n{}", self.name(), procs::tail(proc.log(), 25));
            }
            Ok(self.session().ok())
        })?;
        Ok(())
    }

    /// Starts it again after it was stopped or killed.
    pub fn restart(&self) -> Result<()> {
        self.restart_with(&[])
    }

    /// SIGKILL.
    pub fn kill9(&self) -> Result<()> {
        self.proc()?.kill9();
        Ok(())
    }

    /// SIGTERM, and waits for the clean end.
    pub fn stop(&self) -> Result<()> {
        self.0.idle().clear();
        let status = self.proc()?.term(GRACE)?;
        if !status.success() {
            bail!("{} ended with {status} on SIGTERM:\n{}", self.name(), procs::tail(self.proc()?.log(), 25));
        }
        Ok(())
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn freeze(&self) -> Result<()> {
        self.proc()?.freeze()
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.proc()?.thaw()
    }

    /// Runs statements as root in a fresh or reset session; gives the rows of the last one. Safe to call from several threads.
    pub fn sql(&self, statement: &str) -> Result<Rows> {
        Ok(self.answer(statement)?.rows)
    }

    /// As [`MariaDb::sql`], with column names.
    pub fn answer(&self, statement: &str) -> Result<Answer> {
        let kept = self.0.idle().pop();
        let usable = kept.and_then(|mut sql| sql.reset().ok().map(|()| sql));
        let mut sql = match usable {
            Some(sql) => sql,
            None => self.session()?,
        };
        let answer = sql.answer(statement).with_context(|| format!("on {}", self.name()));
        if !sql.is_broken() {
            self.0.idle().push(sql);
        }
        answer
    }

    /// The first column of the first row; empty text for NULL; an error without rows.
    pub fn value(&self, statement: &str) -> Result<String> {
        let rows = self.sql(statement)?;
        let cell = rows.into_iter().next().and_then(|row| row.into_iter().next());
        Ok(cell.with_context(|| format!("no row on {} for: {statement}", self.name()))?.unwrap_or_default())
    }

    /// A session of one's own as root over the unix socket: to hold locks and transactions open.
    pub fn session(&self) -> Result<Sql> {
        Sql::connect(&Address::Socket(self.0.socket.clone()), "root", "", Some(QUERY))
    }

    /// A session over TCP with a password.
    pub fn session_as(&self, user: &str, password: &str) -> Result<Sql> {
        Sql::connect(&Address::Tcp(self.address()), user, password, Some(QUERY))
    }

    /// Names of its binlog files, oldest first.
    pub fn binlogs(&self) -> Result<Vec<String>> {
        Ok(self.sql("SHOW BINARY LOGS")?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// The path of a binlog file.
    pub fn binlog_path(&self, file: &str) -> PathBuf {
        self.0.datadir.join(file)
    }

    /// `@@gtid_binlog_pos`, sorted by domain.
    pub fn gtid_binlog_pos(&self) -> Result<String> {
        Ok(sorted_gtids(&self.value("SELECT @@gtid_binlog_pos")?))
    }

    /// `@@gtid_slave_pos`: what a replica has applied, sorted by domain.
    pub fn gtid_slave_pos(&self) -> Result<String> {
        Ok(sorted_gtids(&self.value("SELECT @@gtid_slave_pos")?))
    }

    /// File and position of the end of its binlog.
    pub fn master_status(&self) -> Result<(String, u64)> {
        let rows = self.sql("SHOW MASTER STATUS")?;
        let row = rows.first().with_context(|| format!("{} writes no binlog", self.name()))?;
        let cell = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        Ok((cell(0), cell(1).parse().context("SHOW MASTER STATUS gives no position")?))
    }

    /// Checksums of all tables of a database, by table; `None` for a table that can't be read.
    pub fn checksum_tables(&self, database: &str) -> Result<BTreeMap<String, Option<String>>> {
        let query = format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema='{database}' AND table_type='BASE TABLE'"
        );
        let tables: Vec<_> = self.sql(&query)?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        if tables.is_empty() {
            return Ok(BTreeMap::new());
        }
        let list: Vec<_> = tables.iter().map(|table| format!("`{database}`.`{table}`")).collect();
        let rows = self.sql(&format!("CHECKSUM TABLE {}", list.join(", ")))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| <[_; 2]>::try_from(row).ok())
            .filter_map(|[table, sum]| Some((table?, sum)))
            .collect())
    }

    /// Points it at a source of replication, without starting.
    pub fn change_master_to(&self, source: &Source) -> Result<()> {
        self.sql(&source.statement()).map(drop)
    }

    /// `START SLAVE`.
    pub fn start_slave(&self) -> Result<()> {
        self.sql("START SLAVE").map(drop)
    }

    /// `STOP SLAVE`.
    pub fn stop_slave(&self) -> Result<()> {
        self.sql("STOP SLAVE").map(drop)
    }

    /// Points it at a source and starts to replicate.
    pub fn replicate_from(&self, source: &Source) -> Result<()> {
        self.change_master_to(source)?;
        self.start_slave()
    }

    /// `SHOW SLAVE STATUS` by column name; empty if it is no replica.
    pub fn slave_status(&self) -> Result<BTreeMap<String, String>> {
        let answer = self.answer("SHOW SLAVE STATUS")?;
        let row = answer.rows.into_iter().next().unwrap_or_default();
        Ok(answer.columns.into_iter().zip(row.into_iter().map(Option::unwrap_or_default)).collect())
    }

    /// An error if either replication thread has stopped with one.
    pub fn check_replication(&self) -> Result<()> {
        let status = self.slave_status()?;
        let get = |key: &str| status.get(key).map_or("", String::as_str);
        for (thread, running) in [("IO", "Slave_IO_Running"), ("SQL", "Slave_SQL_Running")] {
            let number = get(&format!("Last_{thread}_Errno"));
            if get(running) == "No" && !matches!(number, "" | "0") {
                bail!(
                    "{}: the {thread} thread stopped with error {number}: {}",
                    self.name(),
                    get(&format!("Last_{thread}_Error"))
                );
            }
        }
        Ok(())
    }
}

impl Inner {
    fn proc(&self) -> MutexGuard<'_, Option<Proc>> {
        self.proc.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sql>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(proc) = self.proc().take() {
            proc.kill9();
        }
        let _leftover = fs::remove_file(&self.socket);
    }
}

/// Where a replica begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// `MASTER_USE_GTID=slave_pos`.
    Gtid,
    /// `MASTER_USE_GTID=current_pos`.
    CurrentGtid,
    /// File and position.
    FilePos(String, u64),
}

/// Whether a replica uses TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ssl {
    /// No.
    Off,
    /// Yes, without checking the certificate.
    On,
    /// Yes, and the certificate must be signed by this authority.
    Verify(PathBuf),
}

/// A source of replication: what `CHANGE MASTER TO` says.
#[must_use]
#[derive(Debug, Clone)]
pub struct Source {
    address: SocketAddr,
    user: String,
    password: String,
    start: Start,
    ssl: Ssl,
    heartbeat: Option<f64>,
    retry: u32,
}

impl Source {
    /// At a loopback port, by GTID from the replica's own position, as `repl`.
    pub fn gtid(port: u16) -> Self {
        Self::new(port, Start::Gtid)
    }

    /// At a loopback port, by file and position, as `repl`.
    pub fn file_pos(port: u16, file: &str, position: u64) -> Self {
        Self::new(port, Start::FilePos(file.to_owned(), position))
    }

    /// At a loopback port, as `repl`, retrying every second.
    pub fn new(port: u16, start: Start) -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            user: "repl".to_owned(),
            password: REPL_PASSWORD.to_owned(),
            start,
            ssl: Ssl::Off,
            heartbeat: None,
            retry: 1,
        }
    }

    /// Another account.
    pub fn user(mut self, user: &str, password: &str) -> Self {
        (self.user, self.password) = (user.to_owned(), password.to_owned());
        self
    }

    /// TLS.
    pub fn ssl(mut self, ssl: Ssl) -> Self {
        self.ssl = ssl;
        self
    }

    /// Heartbeat period in seconds; 0 switches heartbeats off.
    pub fn heartbeat(mut self, seconds: f64) -> Self {
        self.heartbeat = Some(seconds);
        self
    }

    /// Seconds between attempts to connect.
    pub fn retry(mut self, seconds: u32) -> Self {
        self.retry = seconds;
        self
    }

    /// The statement.
    pub fn statement(&self) -> String {
        let mut text = format!(
            "CHANGE MASTER TO MASTER_HOST='{}', MASTER_PORT={}, MASTER_USER='{}', MASTER_PASSWORD='{}', MASTER_CONNECT_RETRY={}",
            self.address.ip(),
            self.address.port(),
            self.user,
            self.password,
            self.retry
        );
        if let Some(seconds) = self.heartbeat {
            text += &format!(", MASTER_HEARTBEAT_PERIOD={seconds}");
        }
        text += &match &self.ssl {
            Ssl::Off => ", MASTER_SSL=0".to_owned(),
            Ssl::On => ", MASTER_SSL=1, MASTER_SSL_VERIFY_SERVER_CERT=0".to_owned(),
            Ssl::Verify(ca) => {
                format!(", MASTER_SSL=1, MASTER_SSL_VERIFY_SERVER_CERT=1, MASTER_SSL_CA='{}'", ca.display())
            }
        };
        text + &match &self.start {
            Start::Gtid => ", MASTER_USE_GTID=slave_pos".to_owned(),
            Start::CurrentGtid => ", MASTER_USE_GTID=current_pos".to_owned(),
            Start::FilePos(file, pos) => {
                format!(", MASTER_USE_GTID=no, MASTER_LOG_FILE='{file}', MASTER_LOG_POS={pos}")
            }
        }
    }
}

fn path_option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(format!("--{name}="));
    option.push(path);
    option
}

/// A GTID position with its entries sorted by domain, so that positions can be compared as text.
pub fn sorted_gtids(position: &str) -> String {
    let domain = |gtid: &&str| gtid.split('-').next().and_then(|number| number.parse::<u32>().ok());
    let mut gtids: Vec<&str> = position.split(',').map(str::trim).filter(|gtid| !gtid.is_empty()).collect();
    gtids.sort_by_key(domain);
    gtids.join(",")
}
