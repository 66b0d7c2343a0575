//! `clone`: the server's data are replaced by a copy of a replica's, and it follows.
//!
//! The copy comes over HTTP from the donor's agent and is unpacked and prepared beside the old data. Promises: the old data stay where they are
//! until the copy is complete, and are kept aside until the server has started with the new ones and follows.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Refusal, follow, note};
use crate::agent::core::Core;
use crate::agent::host::Wanted;
use crate::agent::sql::literal;
use crate::agent::sql::status::sorted;
use crate::decide::position;
use crate::model::{OrderNumber, OrderResult, ServerRole};

/// For the donor to begin its answer, and between two pieces of it.
const DONOR: Duration = Duration::from_secs(60);
/// For a server to end cleanly, and to answer after its start.
const SERVER: Duration = Duration::from_secs(300);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);

/// Checks what can be checked at once, and leaves the rest to a task of its own.
pub(super) async fn ordered(
    core: &Arc<Core>,
    number: OrderNumber,
    donor: String,
    source: String,
) -> Result<OrderResult, Refusal> {
    let role = core.duty.get().role;
    if role == ServerRole::Primary {
        return Err(Refusal::cannot("this server is the primary: its data are not replaced", "order another node"));
    }
    if !core.host.is_supervised() {
        return Err(Refusal::cannot(
            "this agent does not start its server, so it can't restart it with other data",
            "run the agent with --exec, or copy the data by hand with mariadb-backup",
        ));
    }
    if core.status().is_cloning() {
        return Ok(OrderResult::default());
    }
    let Some(datadir) = core.known.get().server.map(|s| s.datadir) else {
        return Err(Refusal::silent(
            "it is not known where the server keeps its data: it has never answered",
            "start it once",
        ));
    };
    note(core, number, |duty| duty.opened = None).await?;
    start(Arc::clone(core), number, donor, source, datadir);
    Ok(OrderResult::default())
}

/// Runs in a task of its own; progress is in the agent's status.
pub fn start(core: Arc<Core>, number: OrderNumber, donor: String, source: String, datadir: PathBuf) {
    tell(&core, "running: begins");
    tokio::spawn(async move {
        let done = Box::pin(run(&core, number, &donor, source, &datadir)).await;
        core.host.want(Wanted::Running);
        match done {
            Ok(gtid) => tell(&core, &format!("done: the copy of {donor} was taken at {gtid}, and follows")),
            Err(error) => {
                tracing::error!(%error, "the clone failed");
                tell(&core, &format!("failed: {error}"));
            }
        }
    });
}

fn tell(core: &Core, progress: &str) {
    tracing::info!(progress, "clone");
    core.extra.change(|e| e.clone = Some(progress.to_owned()));
}

async fn run(
    core: &Arc<Core>,
    number: OrderNumber,
    donor: &str,
    source: String,
    datadir: &Path,
) -> Result<String, String> {
    let datadir = datadir.components().collect::<PathBuf>();
    let (copy, old) = (beside(&datadir, "clone"), beside(&datadir, "before-clone"));
    let _leftover = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy).map_err(|e| format!("{} can't be made: {e}", copy.display()))?;
    receive(core, donor, &copy).await?;
    tell(core, "running: the copy is being prepared");
    let target = copy.clone();
    blocking(move || {
        run_tool(Command::new("mariadb-backup").arg("--prepare").arg(format!("--target-dir={}", target.display())))
    })
    .await?;
    let gtid = noted_position(&copy)?;
    own(&copy, &datadir)?;

    tell(core, "running: the server is being stopped");
    core.host.want(Wanted::Stopped);
    let mut states = core.host.subscribe();
    if timeout(SERVER, states.wait_for(|s| s.alive().is_none())).await.is_err() {
        return Err(format!("the server did not end within {SERVER:?}; its data are as they were"));
    }
    tell(core, "running: the data are being exchanged");
    exchange(&datadir, &copy, &old)?;
    // Whatever it was: it holds a replica's data now.
    let changed = core.duty.change(|duty| {
        duty.role = ServerRole::Replica;
        duty.following = None;
        duty.prepared = None;
    });
    changed.await.map_err(|e| e.to_string())?;
    roll_back(core).await;
    tell(core, "running: the server starts with the new data");
    match begin(core, number, &gtid, source).await {
        Ok(gtid) => {
            if let Err(error) = fs::remove_dir_all(&old) {
                tracing::warn!(%error, old = %old.display(), "the old data can't be removed");
            }
            Ok(gtid)
        }
        Err(error) => Err(format!("{error}; the old data are in {}", old.display())),
    }
}

/// A directory beside the data, so that renaming is enough.
fn beside(datadir: &Path, what: &str) -> PathBuf {
    let mut name = datadir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    datadir.with_file_name(name)
}

/// Streams the backup into `mbstream`.
async fn receive(core: &Core, donor: &str, to: &Path) -> Result<(), String> {
    let mut stream = core.client.stream(donor, "/v1/backup", DONOR).await.map_err(|e| e.to_string())?;
    let mut unpack = Command::new("mbstream")
        .arg("-x")
        .arg("-C")
        .arg(to)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("mbstream can't be started: {e}; install mariadb-backup"))?;
    let mut pipe = unpack.stdin.take().ok_or("mbstream has no input")?;
    let (mut bytes, mut told) = (0_u64, Instant::now());
    let received = loop {
        match stream.next(DONOR).await {
            Ok(Some(piece)) => {
                bytes += piece.len() as u64;
                // The pipe holds the sender back; it may block for as long as the disk does.
                let written = blocking(move || pipe.write_all(&piece).map(|()| pipe).map_err(|e| e.to_string())).await;
                match written {
                    Ok(back) => pipe = back,
                    Err(error) => break Err(format!("the copy can't be unpacked: {error}")),
                }
            }
            Ok(None) => {
                drop(pipe);
                break Ok(());
            }
            Err(error) => break Err(error.to_string()),
        }
        if told.elapsed() > Duration::from_secs(1) {
            tell(core, &format!("running: {} MiB of {donor} were received", bytes >> 20));
            told = Instant::now();
        }
    };
    if received.is_err() {
        let _gone = unpack.kill();
    }
    let status = blocking(move || wait(unpack)).await?;
    received?;
    if !status {
        return Err("mbstream could not unpack the copy: is there room beside the data directory?".to_owned());
    }
    Ok(())
}

fn wait(mut child: Child) -> Result<bool, String> {
    child.wait().map(|s| s.success()).map_err(|e| e.to_string())
}

fn run_tool(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{name} can't be started: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned();
    Err(format!("{name} ended with {}: {last}", output.status))
}

/// The GTID position of a backup, as the tool has noted it.
fn noted_position(copy: &Path) -> Result<String, String> {
    for name in ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"] {
        if let Ok(text) = fs::read_to_string(copy.join(name)) {
            return gtid_of(&text).ok_or_else(|| format!("{name} of the copy names no GTID: {text:?}"));
        }
    }
    Err("the copy does not say its GTID position: the donor writes no binlog".to_owned())
}

/// `file <tab> position <tab> gtid`; a position of several domains may go over several lines.
fn gtid_of(info: &str) -> Option<String> {
    let text = info.split('\t').nth(2)?.split_whitespace().collect::<String>();
    (!text.is_empty()).then(|| sorted(&text))
}

/// The new data belong to whom the old ones belonged to.
fn own(copy: &Path, like: &Path) -> Result<(), String> {
    let meta = fs::metadata(like).map_err(|e| format!("{} can't be looked at: {e}", like.display()))?;
    let owner = format!("{}:{}", meta.uid(), meta.gid());
    fs::set_permissions(copy, meta.permissions()).map_err(|e| e.to_string())?;
    run_tool(Command::new("chown").arg("-R").arg(owner).arg(copy))
}

fn exchange(datadir: &Path, copy: &Path, old: &Path) -> Result<(), String> {
    let _older = fs::remove_dir_all(old);
    fs::rename(datadir, old).map_err(|e| format!("{} can't be put aside: {e}", datadir.display()))?;
    if let Err(error) = fs::rename(copy, datadir) {
        let back = fs::rename(old, datadir);
        return Err(format!("{} can't be put in place: {error} (the old data: {back:?})", copy.display()));
    }
    Ok(())
}

/// Rolls back what the copy holds half done: transactions that an applier of the donor had prepared, and that waited for those before them to commit
/// (`wait_for_prior_commit` in MariaDB's sql/sql_class.h). They are not in the copy's position, and the server would refuse to start with them.
async fn roll_back(core: &Core) {
    tell(core, "running: what the copy holds half done is rolled back");
    let mut deaths = core.host.deaths();
    core.host.want(Wanted::RolledBack);
    let deadline = Instant::now() + SERVER;
    while Instant::now() < deadline {
        tokio::select! {
            _ended = deaths.recv() => break,
            () = sleep(LOOK) => {}
        }
        // Without a binlog there is nothing to roll back, and it runs.
        if core.host.alive().is_some() && core.db.connect().await.is_ok() {
            break;
        }
    }
    core.host.want(Wanted::Running);
}

/// Gives the new server its position, and lets it follow.
async fn begin(core: &Arc<Core>, number: OrderNumber, noted: &str, source: String) -> Result<String, String> {
    let deadline = Instant::now() + SERVER;
    let mut session = loop {
        match core.db.connect().await {
            Ok(session) if core.host.alive().is_some() => break session,
            Ok(_) | Err(_) if Instant::now() < deadline => sleep(LOOK).await,
            Ok(_) => return Err("the server does not run with the new data".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
    };
    // A replica tells the tool its position before the last transactions have moved it whose rows the copy has. The copy's own table moves with the rows;
    // a primary's does not.
    let applied: String = session.value("SELECT @@GLOBAL.gtid_slave_pos").await.map_err(|e| e.to_string())?;
    let gtid = sorted(&position::union(noted, &applied));
    // Its own binlog begins anew, at the position of the copy: so it is a candidate like any other.
    for statement in [
        "STOP SLAVE".to_owned(),
        "RESET SLAVE ALL".to_owned(),
        "RESET MASTER".to_owned(),
        format!("SET GLOBAL gtid_binlog_state={}", literal(&gtid)),
        format!("SET GLOBAL gtid_slave_pos={}", literal(&gtid)),
    ] {
        session.run_within(&statement, SERVER).await.map_err(|e| e.to_string())?;
    }
    let relay = core.snapshot().relays.values().find(|r| r.replication == source).map(|r| r.name.clone());
    let _turn = core.desk.turn(number).await;
    if core.duty.get().last_order > number {
        return Err("a later order came meanwhile: this server does not follow".to_owned());
    }
    follow::follow(core, number, source, relay.unwrap_or_default()).await.map_err(|e| e.to_string())?;
    Ok(gtid)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_what_the_tool_noted_and_what_the_table_has_counts_in_each_domain() {
        for (noted, applied, expected) in [
            ("0-1-724", "0-1-725", "0-1-725"),
            ("0-2-100,1-1-5", "0-1-90", "0-2-100,1-1-5"),
            ("0-1-7", "", "0-1-7"),
            ("1-1-5", "0-1-3,1-2-9", "0-1-3,1-2-9"),
        ] {
            assert_eq!(sorted(&position::union(noted, applied)), expected, "{noted} {applied}");
        }
    }

    #[test]
    fn the_position_of_a_backup_is_read_in_all_its_forms() {
        for (text, expected) in [
            ("mysql-bin.000003\t328\t0-1-4711\n", Some("0-1-4711")),
            ("mysql-bin.000003\t328\t1-1-5,\n0-1-4711\n", Some("0-1-4711,1-1-5")),
            ("mysql-bin.000003\t328\t\n", None),
            ("mysql-bin.000003\t328\n", None),
            ("", None),
        ] {
            assert_eq!(gtid_of(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn data_are_exchanged_whole_and_the_old_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("mysql");
        let (copy, old) = (beside(&data, "clone"), beside(&data, "before-clone"));
        assert_eq!(copy, dir.path().join("mysql.clone"));
        for (path, text) in [(&data, "old"), (&copy, "new")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("f"), text).unwrap();
        }
        exchange(&data, &copy, &old).unwrap();
        assert_eq!(fs::read_to_string(data.join("f")).unwrap(), "new");
        assert_eq!(fs::read_to_string(old.join("f")).unwrap(), "old");
        exchange(&data, &copy, &old).unwrap_err();
        assert_eq!(fs::read_to_string(data.join("f")).unwrap(), "new", "what could not be exchanged is as it was");
    }
}
