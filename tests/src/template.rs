//! Template data directories: one for each server version, made once and copied by every server that is started.
//!
//! Promises: a template is complete or absent (it is made beside and renamed), and made once even when several tests begin together.
//! Its accounts exist before the binlog begins, so a server's log starts empty.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, process};

use anyhow::{Context, Result, bail, ensure};

use crate::dir;
use crate::procs::Cmd;

/// Password of the account `repl`, which may replicate.
pub const REPL_PASSWORD: &str = "repl-secret";
/// Password of the account `monitor`, which may read replication positions.
pub const MONITOR_PASSWORD: &str = "monitor-secret";
/// Password of the account `app`, which may do anything with data.
pub const APP_PASSWORD: &str = "app-secret";
/// InnoDB's redo log, the same for the template and its copies so that no copy has to resize it.
pub const REDO_LOG: &str = "--innodb-log-file-size=16M";

/// The options that every start as root needs.
pub fn as_user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

/// Where a program is: in `PATH` or in the system directories that an ordinary user's `PATH` lacks.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from));
    let found = dirs.map(|dir| dir.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed: run make deps"))
}

/// The server's version, such as `10.11.19-MariaDB-0+deb12u1`.
pub fn server_version() -> Result<String> {
    let output = Command::new(program("mariadbd")?).args(["--no-defaults", "--version"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().skip_while(|word| *word != "Ver").nth(1);
    Ok(version.with_context(|| format!("no version in {text:?}"))?.to_owned())
}

/// Which accounts a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounts {
    /// `repl`, `monitor` and `app`: a server that a relay or a replica is attached to by hand.
    Plain,
    /// Those of a cluster: one for the agent, one for each relay, one for the controllers' probes and one for their orders to servers without an
    /// agent; replicas have none.
    Cluster,
}

/// Copies the template to `datadir`, making it first if there is none.
pub fn copy_to(datadir: &Path) -> Result<()> {
    copy_with(Accounts::Plain, datadir)
}

/// As [`copy_to`], with these accounts.
pub fn copy_with(accounts: Accounts, datadir: &Path) -> Result<()> {
    let template = template(accounts)?;
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).arg(&template).arg(datadir).status()?;
    ensure!(status.success(), "cp of {} to {} ended with {status}", template.display(), datadir.display());
    let temporary = tmpdir(datadir);
    fs::create_dir_all(&temporary).with_context(|| format!("can't create {}", temporary.display()))
}

/// Where the server of this copy keeps its temporary tables: a server that starts deletes those of every other that has the same directory for them.
pub fn tmpdir(datadir: &Path) -> PathBuf {
    datadir.with_extension("tmp")
}

fn template(accounts: Accounts) -> Result<PathBuf> {
    let accounts = match accounts {
        Accounts::Plain => plain(),
        Accounts::Cluster => clustered(),
    };
    let base = dir::base()?;
    let name = format!("template-{}-{:08x}", server_version()?, fingerprint(&accounts));
    let made = base.join(&name);
    if made.exists() {
        return Ok(made);
    }
    let _one_maker = dir::lock(&base.join("template.lock"))?;
    if made.exists() {
        return Ok(made);
    }
    let draft = base.join(format!("{name}.draft"));
    let _leftover = fs::remove_dir_all(&draft);
    make(&draft, &accounts).with_context(|| format!("can't make a template data directory at {}", draft.display()))?;
    fs::rename(&draft, &made).with_context(|| format!("can't rename {}", draft.display()))?;
    Ok(made)
}

fn make(draft: &Path, accounts: &str) -> Result<()> {
    let stem = std::env::temp_dir().join(format!("baton-template-{}", process::id()));
    let data = format!("--datadir={}", draft.display());
    let install = Cmd::new(program("mariadb-install-db")?).args(["--no-defaults", &data, REDO_LOG]);
    let install = install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]).args(as_user());
    install.run(&stem, Duration::from_secs(180))?;
    let script = stem.with_extension("sql");
    fs::write(&script, accounts)?;
    // Bootstrap mode takes statements from standard input, one a line.
    let bootstrap = Cmd::new("sh").args(["-c", "exec \"$@\" <\"$SCRIPT\"", "sh"]).arg(program("mariadbd")?);
    let bootstrap = bootstrap.args(["--no-defaults", "--bootstrap", &data, REDO_LOG]).args(as_user());
    bootstrap.env("SCRIPT", &script).run(&stem, Duration::from_secs(120))?;
    for extension in ["log", "out", "sql"] {
        let _tidy = fs::remove_file(stem.with_extension(extension));
    }
    if !draft.join("mysql").is_dir() {
        bail!("mariadb-install-db made no system tables");
    }
    Ok(())
}

/// How many relays of a cluster have an account of their own: `relay_1` and so on.
pub const RELAY_ACCOUNTS: u32 = 4;
/// Password of the cluster's accounts on servers and relays, but for `app`.
pub const CLUSTER_PASSWORD: &str = "cluster-secret";

fn clustered() -> String {
    let mut text = format!(
        "FLUSH PRIVILEGES;\n\
         CREATE DATABASE test;\n\
         CREATE DATABASE sbtest;\n\
         CREATE USER baton@localhost IDENTIFIED BY '{CLUSTER_PASSWORD}';\n\
         GRANT ALL ON *.* TO baton@localhost WITH GRANT OPTION;\n\
         CREATE USER baton_sql@'%' IDENTIFIED BY '{CLUSTER_PASSWORD}';\n\
         GRANT ALL ON *.* TO baton_sql@'%' WITH GRANT OPTION;\n\
         CREATE USER baton_probe@'%' IDENTIFIED BY '{CLUSTER_PASSWORD}';\n\
         GRANT SLAVE MONITOR ON *.* TO baton_probe@'%';\n\
         CREATE USER baton_lag@'%' IDENTIFIED BY '{CLUSTER_PASSWORD}';\n\
         GRANT SLAVE MONITOR ON *.* TO baton_lag@'%';\n\
         CREATE USER app@'%' IDENTIFIED BY '{APP_PASSWORD}';\n\
         GRANT ALL ON test.* TO app@'%';\n\
         GRANT ALL ON sbtest.* TO app@'%';\n"
    );
    for relay in 1..=RELAY_ACCOUNTS {
        text += &format!(
            "CREATE USER relay_{relay}@'%' IDENTIFIED BY '{CLUSTER_PASSWORD}';\n\
             GRANT REPLICATION SLAVE ON *.* TO relay_{relay}@'%';\n"
        );
    }
    text
}

fn plain() -> String {
    format!(
        "FLUSH PRIVILEGES;\n\
         CREATE DATABASE test;\n\
         CREATE DATABASE sbtest;\n\
         CREATE USER repl@'%' IDENTIFIED BY '{REPL_PASSWORD}';\n\
         GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO repl@'%';\n\
         CREATE USER monitor@'%' IDENTIFIED BY '{MONITOR_PASSWORD}';\n\
         GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO monitor@'%';\n\
         CREATE USER app@'%' IDENTIFIED BY '{APP_PASSWORD}';\n\
         GRANT ALL ON test.* TO app@'%';\n\
         GRANT ALL ON sbtest.* TO app@'%';\n"
    )
}

/// FNV-1a: names the template after what is in it.
fn fingerprint(text: &str) -> u32 {
    text.bytes()
        .chain(REDO_LOG.bytes())
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
