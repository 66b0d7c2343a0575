//! Asks etcd in which role the server may start, and notes the answer.

use std::process::ExitCode;

use baton_cluster::store::{Store, StoreError};

use super::core::Core;
use super::kept::{self, Duty, Known};
use super::role::{Asked, LastKnown, Start, role_after, start_rule};
use super::{rolefile, unfinished};
use crate::config::AgentConfig;
use crate::model::ServerRole;

/// Exit codes of `--may-start`.
pub const MAY_START: u8 = 0;
/// Start in the replica role.
pub const AS_REPLICA: u8 = 10;
/// Do not start.
pub const WAIT: u8 = 11;

/// What to do where there is no state.
const NO_STATE: &str =
    "etcd has no state of this cluster: the server is kept read-only; batonctl bootstrap --primary NODE makes one";

/// Asks, and gives the epoch of the state that the answer rests on.
pub(super) async fn ask(core: &Core) -> (Start, u64) {
    if let Some(why) = name_taken(core) {
        return (Start::Wait(why), 0);
    }
    ask_with(&core.store, &core.config.node, &core.duty.get()).await
}

/// Why this agent does not act for its node: another one does.
pub(super) fn name_taken(core: &Core) -> Option<String> {
    let other = core.taken.get()?;
    Some(format!("another agent, at {other}, is announced as node {:?}: names must differ", core.config.node))
}

async fn ask_with(store: &Store, me: &str, duty: &Duty) -> (Start, u64) {
    let last =
        LastKnown { role: duty.role, epoch: duty.role_epoch, ordered: duty.last_order.epoch, given_up: duty.given_up };
    match store.state().await {
        Ok(Some(state)) => (start_rule(Asked::State(&state.value), me, last), state.value.epoch),
        Ok(None) => (start_rule(Asked::Nothing, me, last), 0),
        Err(error) => {
            let start = start_rule(Asked::Unknown, me, last);
            let start = match (start, error) {
                // What etcd said is of more use than that it did not.
                (Start::Wait(_), error @ (StoreError::Refused { .. } | StoreError::Document { .. })) => {
                    Start::Wait(error.to_string())
                }
                (start, _) => start,
            };
            (start, 0)
        }
    }
}

/// Whether what starts as a replica was a primary before: then its events must not run.
pub(super) fn is_deposed(start: &Start, last: ServerRole) -> bool {
    *start == Start::Replica && matches!(last, ServerRole::Primary | ServerRole::Fenced | ServerRole::Diverged)
}

/// Notes what the server is for once it starts so.
pub(super) async fn adopt_role(core: &Core, start: &Start, epoch: u64) {
    if *start == Start::Unassigned {
        tracing::warn!("{NO_STATE}");
    }
    let changed = core.duty.change({
        let start = start.clone();
        move |duty| note(duty, &start, epoch)
    });
    if let Err(error) = changed.await {
        tracing::error!(%error, "the server's role can't be noted");
    }
}

fn note(duty: &mut Duty, start: &Start, epoch: u64) {
    let role = role_after(start, duty.role);
    if *start != Start::Replica || duty.role != role {
        duty.role_epoch = duty.role_epoch.max(epoch);
    }
    duty.role = role;
    if !matches!(start, Start::GivenUp(_)) {
        duty.given_up = None;
    }
    if *start == Start::Primary {
        duty.self_fenced = false;
    }
    if *start == Start::Replica {
        duty.opened = None;
        duty.blocked = None;
    }
}

/// `--may-start`: asks once, writes the role file, prints the options to add. What the agent keeps is read only: an agent that runs beside
/// notes the role itself when it sees the server.
///
/// # Errors
/// The store can't be set up, or a file can't be read or written.
pub async fn may_start(config: &AgentConfig) -> anyhow::Result<ExitCode> {
    let store = Store::new(&config.cluster, &config.etcd.store())?;
    let duty: Duty = kept::look(&config.data_dir.join("role.json"))?;
    let (start, _) = ask_with(&store, &config.node, &duty).await;
    if let Start::Wait(why) = &start {
        eprintln!("the server is not to be started now: {why}");
        return Ok(ExitCode::from(WAIT));
    }
    unfinished::mend(&kept::look::<Known>(&config.data_dir.join("known.json"))?);
    let quiet = is_deposed(&start, duty.role);
    if let Some(path) = &config.role_file {
        rolefile::write(path, &start, quiet)
            .map_err(|e| anyhow::anyhow!("role_file.path = {}: can't be written: {e}", path.display()))?;
    }
    if start == Start::Unassigned {
        eprintln!("{NO_STATE}");
    }
    if start == Start::Replica {
        println!("{}", rolefile::arguments(&start, quiet).join(" "));
        return Ok(ExitCode::from(AS_REPLICA));
    }
    Ok(ExitCode::from(MAY_START))
}
