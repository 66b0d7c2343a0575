//! `block` and `unblock`: writes stop for a switchover, within bounds, while the acker still acknowledges.
//!
//! `read_only=1` waits for running statements and commits, and new writes wait behind it. So it is given a time, what stands in its way is cut
//! after `drain_ms`, and it is taken back as a whole if it can't be had. A session that waits for an acknowledgement is never killed: that would
//! complete its commit without one. The order is answered as soon as nothing can be committed; clients and address go while the candidate is made
//! ready, and the next order waits for that.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Refusal, confirm, events, must_live, note, wants_unblock};
use crate::agent::core::Core;
use crate::agent::kept::Blocked;
use crate::agent::sql::status::sorted;
use crate::agent::sql::{Session, SqlError};
use crate::model::{OrderNumber, OrderResult, ServerRole};

/// For the sessions of clients to end, whose address is about to go: without it they would hear of their end by a retransmission, after 200 ms.
const GOODBYE: Duration = Duration::from_millis(3);
/// The address goes after so long, whoever has heard of it.
const LONGEST_GOODBYE: Duration = Duration::from_millis(30);
/// Between two looks at what stands in the way.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// Bounds of what may be ordered.
const LONGEST: u64 = 10 * 60 * 1000;

/// Until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    drained: Instant,
    deadline: Instant,
}

impl Bounds {
    /// Counted from now.
    pub(crate) fn new(drain_ms: u64, timeout_ms: u64) -> Self {
        let after = |ms: u64| Instant::now() + Duration::from_millis(ms.min(LONGEST));
        Self { drained: after(drain_ms), deadline: after(timeout_ms) }
    }

    /// Whether all of the time has passed.
    pub(crate) fn over(self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// See the module.
pub(super) async fn block(
    core: &Core,
    number: OrderNumber,
    bounds: Bounds,
    superseded: &CancellationToken,
    early: oneshot::Sender<OrderResult>,
) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    let role = core.duty.get().role;
    if role != ServerRole::Primary {
        return Err(Refusal::cannot(
            format!("this server is no primary ({role:?}): there is nothing to block"),
            "order the node that the state names",
        ));
    }
    let epoch = number.epoch;
    let noted = note(core, number, move |duty| duty.blocked = Some(Blocked { epoch, closing: true }));
    let (noted, control, blocker) = tokio::join!(noted, core.db.connect(), core.db.connect());
    noted?;
    let (mut control, mut blocker) = match (control, blocker) {
        (Ok(control), Ok(blocker)) => (control, blocker),
        (Err(error), _) | (_, Err(error)) => return Err(give_up(core, None, error.into()).await),
    };
    let gtid = match shut(core, &mut control, &mut blocker, bounds, superseded).await {
        Ok(gtid) => gtid,
        Err(refusal) => return Err(give_up(core, Some(&mut control), refusal).await),
    };
    core.note_opened(None);
    let result = OrderResult { gtid: Some(gtid), ..OrderResult::default() };
    // Nothing can be committed here any more: the candidate need not wait for the rest.
    let _ = early.send(result.clone());
    let ours = [control.id(), blocker.id()];
    tidy(core, &mut control, ours, bounds).await?;
    Ok(result)
}

async fn shut(
    core: &Core,
    control: &mut Session,
    blocker: &mut Session,
    bounds: Bounds,
    superseded: &CancellationToken,
) -> Result<String, Refusal> {
    let scheduled: String = control.value("SELECT @@GLOBAL.event_scheduler").await?;
    if scheduled == "ON" {
        core.known.change(|k| k.scheduler = Some(true)).await.map_err(|e| {
            Refusal::silent(
                format!("the event scheduler's setting can't be kept: {e}"),
                "mend the disk that holds data_dir",
            )
        })?;
        events::scheduler(control, false).await?;
    }
    stop_writes(control, blocker, bounds, superseded).await?;
    Ok(sorted(&control.value::<String>("SELECT @@GLOBAL.gtid_binlog_pos").await?))
}

/// `read_only=1` within bounds, or as before. `control` cuts what stands in the way of `blocker` once the time for draining is over.
pub(crate) async fn stop_writes(
    control: &mut Session,
    blocker: &mut Session,
    Bounds { drained, deadline }: Bounds,
    superseded: &CancellationToken,
) -> Result<(), Refusal> {
    let ours = [control.id(), blocker.id()];
    let patience = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(5);
    // Should the agent die now, the server gives up waiting by itself.
    blocker.run(&format!("SET SESSION lock_wait_timeout={}", patience.as_secs() + 1)).await?;
    let number = blocker.id();
    let setting = blocker.run_within("SET GLOBAL read_only=1", patience);
    let mut setting = std::pin::pin!(setting);
    let set = loop {
        let over = Instant::now() >= deadline || superseded.is_cancelled();
        if over {
            // It may have been done at this very moment: asked below.
            control.run(&format!("KILL QUERY {number}")).await?;
            break setting.await;
        }
        let next = drained.max(Instant::now() + LOOK).min(deadline);
        tokio::select! {
            set = &mut setting => break set,
            () = superseded.cancelled() => {}
            () = sleep_until(next) => {
                if Instant::now() >= drained {
                    cut(control, &ours).await?;
                }
            }
        }
    };
    let read_only: bool = control.value::<u8>("SELECT @@GLOBAL.read_only").await? != 0;
    if !read_only {
        let why = set.err().map(|e| e.to_string()).unwrap_or_default();
        return Err(Refusal::cannot(
            format!("writes could not be blocked in time: {}{why}", obstacles(control, &ours).await),
            "end what holds it up (long transactions, global locks), or allow more time",
        ));
    }
    Ok(())
}

/// Once nobody else can commit: ends the sessions of clients, who would not notice and stay, and lets go of the address.
async fn tidy(core: &Core, control: &mut Session, ours: [u32; 2], bounds: Bounds) -> Result<(), Refusal> {
    let goodbye = async {
        if cut(control, &ours).await? > 0 {
            sleep(GOODBYE).await;
        }
        Ok::<(), SqlError>(())
    };
    // The next primary takes the address in a moment.
    let told = timeout(LONGEST_GOODBYE, goodbye).await;
    let closed = core.duty.change(|duty| {
        if let Some(blocked) = &mut duty.blocked {
            blocked.closing = false;
        }
    });
    let (closed, ()) = tokio::join!(closed, core.address.drop_now());
    closed.map_err(|e| {
        Refusal::silent(format!("that writes are blocked can't be noted: {e}"), "mend the disk that holds data_dir")
    })?;
    let mut fresh;
    let control = match told {
        Ok(told) => {
            told?;
            control
        }
        // Left in the middle of a statement.
        Err(_) => {
            fresh = core.db.connect().await?;
            &mut fresh
        }
    };
    while cut(control, &ours).await? > 0 && !bounds.over() {
        sleep(LOOK / 5).await;
    }
    // Not before: it would wait for a global lock that somebody holds.
    Ok(events::disable(control).await.map(drop)?)
}

/// Sessions of clients, but not those of the agent, of replication and of the server itself, nor those whose commit is under way.
fn sessions(ours: &[u32; 2]) -> String {
    format!(
        "FROM information_schema.PROCESSLIST WHERE ID NOT IN ({}, {}) \
         AND COMMAND NOT IN ('Binlog Dump', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker', 'Killed') \
         AND USER NOT IN ('system user', 'event_scheduler') AND USER <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1) \
         AND COALESCE(STATE, '') NOT IN ('Waiting for semi-sync ACK from slave', 'Commit', 'Writing to binlog')",
        ours[0], ours[1]
    )
}

/// Ends the sessions of clients; how many there were.
pub(crate) async fn cut(control: &mut Session, ours: &[u32; 2]) -> Result<usize, SqlError> {
    let found: Vec<(u64,)> = control.rows(&format!("SELECT ID {}", sessions(ours))).await?;
    if !found.is_empty() {
        // In one go: each one that is cut comes again at once, and its new login takes the processor from those that matter now. Who has ended by himself is
        // none of our business (1094).
        let kills: String = found.iter().map(|(id,)| format!("KILL CONNECTION {id}; ")).collect();
        let statement = format!("BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; {kills}END");
        control.run_called(&statement, "KILL CONNECTION of the clients").await?;
    }
    Ok(found.len())
}

/// What is to be seen of what held the block up.
async fn obstacles(control: &mut Session, ours: &[u32; 2]) -> String {
    let statement = format!("SELECT ID, USER, COMMAND, COALESCE(STATE, '') {} LIMIT 3", sessions(ours));
    let found: Vec<(u64, String, String, String)> = control.rows(&statement).await.unwrap_or_default();
    let waiting: Option<(String, String)> =
        control.first("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'").await.unwrap_or_default();
    let waiting = waiting.map(|(_, n)| n).filter(|n| n != "0");
    let mut text = waiting.map(|n| format!("{n} commits wait for the acker; ")).unwrap_or_default();
    for (id, user, command, state) in found {
        text += &format!("session {id} of {user} ({command} {state}); ");
    }
    text
}

/// Takes everything back that was done, as far as it can be; the address comes back by itself.
async fn give_up(core: &Core, control: Option<&mut Session>, refusal: Refusal) -> Refusal {
    if let Some(control) = control {
        if let Err(error) = reopen(core, control).await {
            tracing::error!(%error, "a block that failed could not be taken back: the server may be read-only still");
            return refusal;
        }
    }
    if let Err(error) = core.duty.change(|duty| duty.blocked = None).await {
        tracing::error!(%error, "that writes are not blocked can't be noted");
    }
    refusal
}

/// Writes again, semi-sync first.
async fn reopen(core: &Core, session: &mut Session) -> Result<(), SqlError> {
    session.run("SET GLOBAL rpl_semi_sync_master_enabled=ON").await?;
    session.run("SET GLOBAL read_only=0").await?;
    events::enable(session).await?;
    if core.known.get().scheduler == Some(true) {
        events::scheduler(session, true).await?;
    }
    Ok(())
}

/// `unblock`.
pub(super) async fn unblock(core: &Core, number: OrderNumber) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    let role = core.duty.get().role;
    if role != ServerRole::Primary {
        return Err(Refusal::cannot(
            format!("this server is no primary ({role:?}): it can't be made writable again"),
            "promote it, if it is to be the primary",
        ));
    }
    let (mut session, ()) = (core.db.connect().await?, confirm(core, number, wants_unblock).await?);
    // Noted first: should the agent die now, the state says the same when it returns.
    note(core, number, move |duty| {
        duty.blocked = None;
        duty.opened = Some((number.term, number.epoch));
        duty.role_epoch = number.epoch;
    })
    .await?;
    reopen(core, &mut session).await?;
    core.note_opened(Some(number.epoch));
    Ok(OrderResult::default())
}
