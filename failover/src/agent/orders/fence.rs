//! `fence`: the server is ended at once and for good; one that has started as a replica since is fenced already.

use std::time::Duration;

use tokio::time::timeout;

use super::Refusal;
use crate::agent::core::Core;
use crate::agent::host::Killed;
use crate::agent::kept::Duty;
use crate::agent::role::Start;
use crate::agent::rolefile;
use crate::model::{OrderNumber, OrderResult, ServerRole};

/// For a killed process to end: one with much memory takes a while.
const DEATH: Duration = Duration::from_secs(2);

/// For what was done to be on the disk of this agent. It need not be: what is in memory counts, and that disk may hang.
const NOTED: Duration = Duration::from_millis(500);

/// The address outlives the server by at most this: clients hear of the end of their sessions only while it is here, and would otherwise learn of it by
/// a retransmission, after 200 ms.
const GOODBYE: Duration = Duration::from_millis(20);

/// As ordered.
pub(super) async fn fence(core: &Core, number: OrderNumber) -> Result<OrderResult, Refusal> {
    tracing::warn!(term = number.term, epoch = number.epoch, step = number.step, order = "fence", "ordered");
    core.desk.supersede(number);
    if is_harmless(core) && spare(core, number).await {
        core.metrics.order("fence", true);
        return Ok(OrderResult { killed: Some(true), ..OrderResult::default() });
    }
    let killed = fence_now(core, Some(number), false).await;
    core.metrics.order("fence", killed != Killed::Failed);
    if killed != Killed::Failed {
        return Ok(OrderResult { killed: Some(killed == Killed::Dead), ..OrderResult::default() });
    }
    Err(Refusal::silent("the server could not be killed in time", "order it again; see the agent's log"))
}

/// Whether the process that could commit is gone, and the one that lives was started as a replica and never opened. The order is late then: a
/// kill would only hit the server in the middle of its recovery.
fn is_harmless(core: &Core) -> bool {
    let duty = core.duty.get();
    let replica = matches!(duty.role, ServerRole::Fenced | ServerRole::Replica | ServerRole::Diverged);
    let state = core.host.state();
    replica && duty.opened.is_none() && state.as_replica && state.alive().is_some_and(|p| p.is_alive())
}

/// Notes the order, and lets the server live if nothing has begun to open it meanwhile. Whoever opens says so to `host` first and looks at the
/// role then; here it is the other way round: one of both sees the other.
async fn spare(core: &Core, number: OrderNumber) -> bool {
    let noted = core.duty.change(move |duty| {
        if duty.role != ServerRole::Primary {
            duty.last_order = duty.last_order.max(number);
        }
    });
    if !matches!(timeout(NOTED, noted).await, Ok(Ok(()))) || core.duty.get().last_order < number {
        return false;
    }
    let spared = is_harmless(core);
    if spared {
        core.address.drop_now().await;
        tracing::info!("the server was started as a replica since it was fenced: it goes on");
    }
    spared
}

/// Kills the server and removes the address: the one waits for the other for a moment only, and neither for a disk.
///
/// `number` is that of the order, `by_itself` says that nobody ordered it and this node is cut off.
pub async fn fence_now(core: &Core, number: Option<OrderNumber>, by_itself: bool) -> Killed {
    let was_alive = core.host.alive().is_some();
    // What is in memory counts from here on; its file may follow later.
    let duty = core.duty.clone();
    let change = move |duty: &mut Duty| {
        duty.last_order = number.map_or(duty.last_order, |n| duty.last_order.max(n));
        duty.role = if duty.role == ServerRole::Diverged { ServerRole::Diverged } else { ServerRole::Fenced };
        duty.opened = None;
        duty.blocked = None;
        duty.prepared = None;
        duty.following = None;
        duty.self_fenced = by_itself;
    };
    let noted = tokio::spawn(async move { duty.change(change).await });
    let kill = async {
        let mut kill = std::pin::pin!(core.host.kill(&core.config.mysql.socket, DEATH));
        let killed = timeout(GOODBYE, &mut kill).await;
        core.address.drop_now().await;
        match killed {
            Ok(killed) => killed,
            Err(_) => kill.await,
        }
    };
    let killed = kill.await;
    let noted = match timeout(NOTED, noted).await {
        Ok(Ok(noted)) => noted.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the disk that holds data_dir has not taken it for {NOTED:?}")),
    };
    if let Err(error) = noted {
        tracing::error!(error, "that the server was fenced can't be kept over a restart of the agent");
    }
    if was_alive {
        tracing::warn!(?killed, by_itself, "the server was fenced");
    }
    // A supervisor asks before the next start; others may not.
    if let Some(path) = core.config.role_file.clone().filter(|_| !core.host.is_supervised()) {
        let written = tokio::task::spawn_blocking(move || rolefile::write(&path, &Start::Replica, true));
        let error = match timeout(NOTED, written).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("its disk has not taken it for {NOTED:?}")),
        };
        if let Some(error) = error {
            tracing::error!(error, "the role file can't be written: the server may start in its old role");
        }
    }
    killed
}
