//! `release`: the node is given up. The server goes on as it is, also over its restarts, and nothing of the cluster is needed for that any more.
//!
//! In this order: semi-sync off, or commits would wait for an acker that may be taken away from now on; the address made to stay; the options of
//! the next start; then it is noted. What fails leaves the node as it was: it is tried again.

use std::io;

use super::{Refusal, note};
use crate::agent::core::Core;
use crate::agent::kept::Duty;
use crate::agent::role::Start;
use crate::agent::rolefile;
use crate::model::{OrderNumber, OrderResult, ServerRole};

/// As ordered.
pub(super) async fn release(core: &Core, number: OrderNumber) -> Result<OrderResult, Refusal> {
    let_go(core, number.epoch, Some(number)).await?;
    Ok(OrderResult::default())
}

/// Lets go of the server. `epoch` is the last one of the cluster that was given up; `number` that of the order, if it was ordered.
pub async fn let_go(core: &Core, epoch: u64, number: Option<OrderNumber>) -> Result<(), Refusal> {
    let before = core.duty.get();
    let used = before.used_as();
    if core.host.alive().is_some() {
        // Commits that wait return with that: their server stays the primary, nobody will promote another one.
        core.db.connect().await?.run("SET GLOBAL rpl_semi_sync_master_enabled=OFF").await?;
    }
    if used == ServerRole::Primary && before.given_up.is_none() {
        if let Some(vip) = core.vip().unwrap_or_default().filter(|_| core.address.has_interface()) {
            let hint = "see the interface of address.interface; it is tried again";
            core.address.leave(vip).await.map_err(|error| Refusal::silent(error, hint))?;
        }
    }
    if let Some(path) = core.config.role_file.clone() {
        let written = tokio::task::spawn_blocking(move || rolefile::write(&path, &Start::GivenUp(used), false)).await;
        written.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|error| {
            Refusal::silent(format!("the role file can't be written: {error}"), "mend role_file.path")
        })?;
    }
    let given_up = move |duty: &mut Duty| {
        // Whom it follows counts again once the cluster is taken up.
        let kept = Duty { last_order: duty.last_order, ..Duty::default() };
        let kept = Duty { surplus: duty.surplus.take(), following: duty.following.take(), ..kept };
        *duty = Duty { role_epoch: epoch, given_up: Some(used), ..kept };
    };
    match number {
        Some(number) => note(core, number, given_up).await?,
        None => core.duty.change(given_up).await.map_err(|e| {
            Refusal::silent(
                format!("that the node is given up can't be noted: {e}"),
                "mend the disk that holds data_dir",
            )
        })?,
    }
    core.note_opened(None);
    tracing::warn!(epoch, role = ?used, "the cluster was given up: the server is left as it is, semi-sync off");
    Ok(())
}
