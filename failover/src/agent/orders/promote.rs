//! `catch_up`, `prepare` and `open`: a replica becomes the primary, in three steps that each can be repeated.

use std::time::Duration;

use mysql_async::Row;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Refusal, confirm, events, must_live, note, wants_open};
use crate::agent::core::Core;
use crate::agent::kept::Prepared;
use crate::agent::sql::status::{columns, sorted};
use crate::agent::sql::{Session, SqlError, literal};
use crate::decide::position;
use crate::model::{OrderNumber, OrderResult, ServerRole};

/// How often the appliers are looked at while they work.
const LOOK: Duration = Duration::from_millis(50);
/// How often the acker is looked for.
const ACKER_LOOK: Duration = Duration::from_millis(2);
/// The longest time that may be ordered, in milliseconds.
const LONGEST: u64 = 24 * 60 * 60 * 1000;
/// For the server to say that the time is over.
const SLACK: Duration = Duration::from_secs(3);
/// For statements that sync files: a busy disk takes a while.
const DISK: Duration = Duration::from_secs(10);

/// Waits until everything up to `target` is applied. The appliers are never stopped: what they have received would be thrown away.
pub(super) async fn catch_up(
    core: &Core,
    number: OrderNumber,
    target: &str,
    timeout_ms: u64,
    superseded: &CancellationToken,
) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    if !target.is_empty() {
        // Not in a switchover's preparation, when the address is rightly held.
        ask_for_address(core);
    }
    let limit = Duration::from_millis(timeout_ms.min(LONGEST));
    let (noted, watcher, waiter) = tokio::join!(note(core, number, |_| ()), core.db.connect(), core.db.connect());
    noted?;
    let (mut watcher, mut waiter) = (watcher?, waiter?);
    let done = apply_all(&mut watcher, &mut waiter, target, limit, superseded).await?;
    core.db.keep(watcher);
    core.db.keep(waiter);
    Ok(done)
}

/// As [`catch_up`], over two sessions with the server: one waits, the other watches whether that is of any use.
pub(crate) async fn apply_all(
    watcher: &mut Session,
    waiter: &mut Session,
    target: &str,
    limit: Duration,
    superseded: &CancellationToken,
) -> Result<OrderResult, Refusal> {
    let limit = limit.min(Duration::from_millis(LONGEST));
    let Some(received) = start_appliers(watcher).await? else {
        return without_replication(waiter, target).await;
    };
    let target = if target.is_empty() { received.as_str() } else { target };
    let statement =
        format!("SELECT MASTER_GTID_WAIT({}, {}.{:03})", literal(target), limit.as_secs(), limit.subsec_millis());
    let wait = waiter.rows_within::<(Option<i64>,)>(&statement, limit + SLACK);
    let reached = tokio::select! {
        done = wait => done?.first().is_some_and(|(code,)| *code == Some(0)),
        refusal = until_stopped(watcher) => return Err(refusal),
        () = superseded.cancelled() => return Err(Refusal::Superseded),
    };
    // The watcher was left in the middle of a question.
    let gtid: String = waiter.value("SELECT @@GLOBAL.gtid_binlog_pos").await?;
    Ok(OrderResult { reached: Some(reached), gtid: Some(sorted(&gtid)), ..OrderResult::default() })
}

/// A server that has no source: the old primary of a switchover, say. What it wrote itself is in its binlog, and never counts as applied; what it lacks does not
/// come.
async fn without_replication(session: &mut Session, target: &str) -> Result<OrderResult, Refusal> {
    let row: Option<(String, String)> =
        session.first("SELECT @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_slave_pos").await?;
    let (binlog, applied) = row.unwrap_or_default();
    let all = position::union(&binlog, &applied);
    if !position::covers(&all, target) {
        let error = format!("it replicates from nobody, and lacks {} transactions", position::behind(&all, target));
        return Err(Refusal::cannot(error, "another server has to be promoted; order this one to follow"));
    }
    Ok(OrderResult { reached: Some(true), gtid: Some(sorted(&binlog)), ..OrderResult::default() })
}

/// Taking the address in a moment need not ask then whether somebody has it, which takes a while.
fn ask_for_address(core: &Core) {
    if let Ok(Some(vip)) = core.vip() {
        core.address.ask(vip);
    }
}

/// Both threads: relays have what was received and thrown away. Returns the position of what was received; none if there is no source to replicate from.
async fn start_appliers(session: &mut Session) -> Result<Option<String>, SqlError> {
    let Some(row) = session.first::<Row>("SHOW SLAVE STATUS").await? else { return Ok(None) };
    let mut slave = columns(row);
    if slave.get("Slave_SQL_Running").map(String::as_str) == Some("No") {
        session.run("START SLAVE").await?;
    }
    Ok(Some(slave.remove("Gtid_IO_Pos").unwrap_or_default()))
}

/// Returns when the appliers have stopped: then waiting is of no use.
async fn until_stopped(session: &mut Session) -> Refusal {
    loop {
        sleep(LOOK).await;
        match session.first::<Row>("SHOW SLAVE STATUS").await {
            Ok(Some(row)) => {
                let slave = columns(row);
                let get = |name: &str| slave.get(name).map_or("", String::as_str);
                let number = get("Last_SQL_Errno");
                if get("Slave_SQL_Running") == "No" && !matches!(number, "" | "0") {
                    let error = format!("applying has stopped: {number} {}", get("Last_SQL_Error"));
                    return Refusal::cannot(error, "another server has to be promoted; mend or re-clone this one");
                }
            }
            // No replication: there is nothing that could stop.
            Ok(None) => {}
            Err(error) => return error.into(),
        }
    }
}

/// Replication off, a fresh binlog file, semi-sync on. Read-only still.
pub(super) async fn prepare(core: &Core, number: OrderNumber) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    ask_for_address(core);
    let before = core.duty.get();
    if before.opened.is_some_and(|(_, epoch)| epoch == number.epoch) && core.read_only() == Some(false) {
        return Err(Refusal::cannot(
            format!("this server is the writable primary of epoch {} already", number.epoch),
            "order open, or a new epoch",
        ));
    }
    let noted = note(core, number, move |duty| {
        duty.role = ServerRole::Primary;
        duty.role_epoch = number.epoch;
        duty.following = None;
        duty.blocked = None;
    });
    let (noted, session, second) = tokio::join!(noted, core.db.connect(), core.db.connect());
    noted?;
    let (mut session, mut second) = (session?, second?);
    let is_replica = session.first::<Row>("SHOW SLAVE STATUS").await?.is_some();
    if !is_replica {
        if let Some(told) = told_before(&mut session, before.prepared).await? {
            return answer(&mut session, told).await;
        }
    }
    let prepared = make_ready(&mut session, &mut second, is_replica).await?;
    let kept = prepared.clone();
    // Should this be lost, one more file is begun: the epoch is not recorded before this has answered.
    let noted = note(core, number, move |duty| {
        duty.prepared = Some(kept);
        duty.opened = None;
    });
    let (noted, told) = tokio::join!(noted, answer(&mut session, prepared));
    noted?;
    core.note_opened(None);
    core.db.keep(second);
    core.db.keep(session);
    told
}

/// The steps of [`prepare`] on the server. Two sessions, since both ways wait for the disk while nobody can write.
pub(crate) async fn make_ready(
    session: &mut Session,
    second: &mut Session,
    is_replica: bool,
) -> Result<Prepared, SqlError> {
    // A semi-sync replica ends its dump thread at the source when it stops: a source that is gone is not waited for.
    let replica = "SET GLOBAL read_only=1, GLOBAL rpl_semi_sync_slave_enabled=OFF, GLOBAL rpl_semi_sync_slave_kill_conn_timeout=1";
    session.run(replica).await?;
    let leave = async {
        if is_replica {
            session.run_within("STOP SLAVE", DISK).await?;
            session.run_within("RESET SLAVE ALL", DISK).await?;
        }
        // Not while an applier may commit: it would wait for an acknowledgement.
        session.run("SET GLOBAL rpl_semi_sync_master_enabled=ON").await?;
        binlog_position(session).await
    };
    let begin_file = async {
        let before = binlog_position(second).await?;
        second.run_within("FLUSH BINARY LOGS", DISK).await?;
        Ok((before, last_file(second).await?))
    };
    let (gtid, (before, mut first_file)) = tokio::try_join!(leave, begin_file)?;
    if before != gtid {
        // An applier was still at it, and what it wrote belongs to the file before.
        second.run_within("FLUSH BINARY LOGS", DISK).await?;
        first_file = last_file(second).await?;
    }
    Ok(Prepared { first_file, gtid })
}

/// What is told of it.
pub(crate) async fn answer(session: &mut Session, prepared: Prepared) -> Result<OrderResult, Refusal> {
    Ok(OrderResult {
        first_file: Some(prepared.first_file),
        gtid: Some(prepared.gtid),
        server_id: Some(session.value("SELECT @@GLOBAL.server_id").await?),
        ..OrderResult::default()
    })
}

/// What was told the last time, if nothing was written since.
pub(crate) async fn told_before(
    session: &mut Session,
    prepared: Option<Prepared>,
) -> Result<Option<Prepared>, SqlError> {
    let Some(prepared) = prepared else { return Ok(None) };
    let same = last_file(session).await? == prepared.first_file && binlog_position(session).await? == prepared.gtid;
    let semi_sync: u8 = session.value("SELECT @@GLOBAL.rpl_semi_sync_master_enabled").await?;
    Ok((same && semi_sync != 0).then_some(prepared))
}

async fn last_file(session: &mut Session) -> Result<String, SqlError> {
    let row: Option<Row> = session.first("SHOW MASTER STATUS").await?;
    let file = row.map(columns).and_then(|mut c| c.remove("File")).filter(|f| !f.is_empty());
    file.ok_or_else(|| SqlError::Broken {
        what: "SHOW MASTER STATUS".to_owned(),
        cause: "the server writes no binlog: set log_bin".to_owned(),
    })
}

async fn binlog_position(session: &mut Session) -> Result<String, SqlError> {
    Ok(sorted(&session.value::<String>("SELECT @@GLOBAL.gtid_binlog_pos").await?))
}

/// How long the acker's connection is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenWait {
    /// Before the server becomes writable; then it does anyway: commits wait for the acker.
    Acker(Duration),
    /// Only where the server is writable already and semi-sync is off: switched on without an acker it would hang its clients.
    OnlyIfServing(Duration),
}

/// As ordered.
pub(super) async fn ordered_open(core: &Core, number: OrderNumber, acker_ms: u64) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    let wait = OpenWait::Acker(Duration::from_millis(acker_ms.min(LONGEST)));
    let noted = async {
        confirm(core, number, wants_open).await?;
        note(core, number, move |duty| {
            duty.role = ServerRole::Primary;
            duty.role_epoch = number.epoch;
            duty.opened = Some((number.term, number.epoch));
            duty.blocked = None;
            duty.following = None;
            duty.self_fenced = false;
        })
        .await
    };
    // Each waits for others: for etcd and a disk, and for the acker.
    let ((), session) = tokio::try_join!(noted, ready(core, wait))?;
    make_writable(core, number.epoch, session).await?;
    Ok(OrderResult::default())
}

/// Makes the server writable, semi-sync first, and takes the address. The caller has seen to it that it may, and has noted it.
pub async fn open(core: &Core, epoch: u64, wait: OpenWait) -> Result<(), Refusal> {
    let session = ready(core, wait).await?;
    make_writable(core, epoch, session).await
}

/// A session of a server that can be made writable, and whose acker is there or was waited for. Changes nothing.
async fn ready(core: &Core, wait: OpenWait) -> Result<Session, Refusal> {
    let mut session = core.db.connect().await?;
    refuse_a_replica(&mut session).await?;
    let serving: u8 = session.value("SELECT 1 - @@GLOBAL.read_only").await?;
    match wait {
        OpenWait::OnlyIfServing(_) if serving == 0 => {}
        OpenWait::Acker(limit) | OpenWait::OnlyIfServing(limit) => {
            wait_for_acker(&mut session, limit).await?;
        }
    }
    Ok(session)
}

async fn make_writable(core: &Core, epoch: u64, mut session: Session) -> Result<(), Refusal> {
    core.host.opens();
    if core.duty.get().role != ServerRole::Primary {
        return Err(Refusal::Superseded);
    }
    // One after the other, as they stand there.
    session.run("SET GLOBAL rpl_semi_sync_master_enabled=ON, GLOBAL read_only=0").await?;
    core.note_opened(Some(epoch));
    // The address does not wait for the events, nor they for it.
    let address = async {
        if let Ok(Some(vip)) = core.vip() {
            core.address.hold_now(vip).await;
        }
    };
    let ((), enabled) = tokio::join!(address, wake_events(core, &mut session));
    enabled?;
    Ok(())
}

async fn wake_events(core: &Core, session: &mut Session) -> Result<(), SqlError> {
    let count = events::enable(session).await?;
    if count > 0 {
        tracing::info!(count, "events that replication had disabled are enabled");
    }
    if core.known.get().scheduler == Some(true) {
        events::scheduler(session, true).await?;
    }
    Ok(())
}

/// An error if the server replicates.
pub(crate) async fn refuse_a_replica(session: &mut Session) -> Result<(), Refusal> {
    let Some(row) = session.first::<Row>("SHOW SLAVE STATUS").await? else { return Ok(()) };
    let source = columns(row).remove("Master_Host").unwrap_or_default();
    Err(Refusal::cannot(
        format!("the server replicates from {source}: it can't be made writable"),
        "order prepare first; or STOP SLAVE; RESET SLAVE ALL, if this server is to be the primary",
    ))
}

/// Whether an acker has connected in time.
pub(crate) async fn wait_for_acker(session: &mut Session, limit: Duration) -> Result<bool, SqlError> {
    let deadline = Instant::now() + limit;
    loop {
        let clients: Option<(String, String)> =
            session.first("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_clients'").await?;
        if clients.is_some_and(|(_, n)| n != "0") {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            tracing::warn!(?limit, "the acker has not connected in time: commits wait for it");
            return Ok(false);
        }
        sleep(ACKER_LOOK).await;
    }
}
