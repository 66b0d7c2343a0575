//! Does what follows from the cluster's state without an order: see [`super::duty`].

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::ClusterState;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::duty::{Act, Local, verdict};
use super::host::{Killed, ServerProcess};
use super::orders::{OpenWait, Refusal, fence_now, let_go, open, resume};
use super::starting::name_taken;
use crate::model::{OrderNumber, ServerRole};

/// The state is looked at this often, besides at each change. The address is renewed in this rhythm.
const LOOK: Duration = Duration::from_millis(200);
/// A thing that failed is not tried again sooner.
const RETRY: Duration = Duration::from_secs(1);
/// The acker of a server that serves already is waited for before semi-sync is switched on.
const ACKER: Duration = Duration::from_secs(3);

/// Looks and acts until cancelled.
pub async fn run(core: Arc<Core>, cancel: CancellationToken) {
    let mut watchdog = Watchdog { core, decided: false, failed: None, process: None, resumed: false };
    let mut snapshots = watchdog.core.snapshots.clone();
    let mut processes = watchdog.core.host.subscribe();
    let mut observed = watchdog.core.observed.changes();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Ok(()) = snapshots.changed() => {}
            Ok(()) = processes.changed() => {}
            () = observed.next() => {}
            _ = ticks.tick() => {}
        }
        watchdog.look().await;
    }
}

struct Watchdog {
    core: Arc<Core>,
    /// Whether anything was decided about the address yet.
    decided: bool,
    /// What failed last, and when.
    failed: Option<(Act, Instant)>,
    /// The process that was seen last.
    process: Option<i32>,
    /// Whether it was told to replicate on.
    resumed: bool,
}

impl Watchdog {
    async fn look(&mut self) {
        let core = Arc::clone(&self.core);
        let local = self.local();
        let snapshot = core.snapshot();
        let state = snapshot.state.as_ref().map(|s| &s.value);
        let left = snapshot.left.as_ref().map(|l| &l.value);
        let verdict = verdict(state, left, &core.config.node, &core.duty.get(), local);
        if verdict.hands_off {
            // Once it is somebody's business again, it is looked at as by an agent that has just started.
            self.decided = false;
        } else {
            self.address(verdict.hold, local);
        }
        for act in verdict.acts {
            let soon = self.failed.as_ref().is_some_and(|(a, at)| *a == act && at.elapsed() < RETRY);
            if soon {
                continue;
            }
            if let Err(error) = self.act(&act, snapshot.state.as_ref().map_or(0, |s| s.value.epoch)).await {
                tracing::warn!(?act, %error, "what the cluster's state asks for failed; it is tried again");
                self.failed = Some((act, Instant::now()));
            }
        }
    }

    fn local(&mut self) -> Local {
        let core = &self.core;
        let state = core.host.state();
        let process = state.alive().filter(|p| p.is_alive()).map(|p| p.identity().pid);
        if process != self.process {
            self.process = process;
            // A server that was found running does as it was told; only one that has just begun replicates on.
            self.resumed = !state.seen_starting;
        }
        // Not held while it is asked for again below: with a writer in between, neither would ever go on.
        let observed = core.observed.get();
        let answer = observed.answer.filter(|_| process.is_some());
        let replication = answer.and_then(|a| a.status.replication);
        // Whoever stops it from here on means it.
        self.resumed |= replication.as_ref().is_some_and(|r| r.sql || r.io != "No");
        let stopped =
            replication.is_some_and(|r| r.io == "No" && !r.sql && r.sql_error.is_none() && r.io_error.is_none());
        Local {
            alive: process.is_some(),
            read_only: core.read_only(),
            opened_epoch: core.opened_epoch(),
            resumable: stopped && !self.resumed,
        }
    }

    /// Keeps the address or lets go of it. Not before the server was asked once: an agent that was restarted would drop it for nothing.
    fn address(&mut self, hold: bool, local: Local) {
        let core = &self.core;
        let dead = !matches!(core.host.state().process, ServerProcess::Alive(_)) && core.host.is_supervised();
        if !self.decided && local.read_only.is_none() && !dead {
            return;
        }
        let held = core.address.status().borrow().held;
        // Where it can't be read any more, it stays what it is; the status tells why.
        let vip = core.vip().unwrap_or(held);
        match vip.filter(|_| hold) {
            Some(vip) => core.address.hold(vip),
            None if held.is_some() || !self.decided => core.address.let_go(vip),
            None => {}
        }
        // Where it is not known yet what the address is, it may still be there.
        self.decided |= hold || vip.is_some();
    }

    async fn act(&mut self, act: &Act, epoch: u64) -> Result<(), Refusal> {
        let core = Arc::clone(&self.core);
        if let Act::Fence(why) = act {
            tracing::error!(why, "the server is fenced: the cluster's state has changed");
            core.desk.supersede(OrderNumber { term: u64::MAX, epoch: u64::MAX, step: u64::MAX });
            return match fence_now(&core, None, false).await {
                Killed::Dead => Ok(()),
                Killed::Doomed => Err(Refusal::silent("the server is killed and hangs in the kernel", "see its disk")),
                Killed::Failed => Err(Refusal::silent("the server could not be killed", "see the log")),
            };
        }
        let Some(_turn) = core.desk.own_turn(core.duty.get().last_order) else { return Ok(()) };
        match act {
            Act::Fence(_) => Ok(()),
            Act::Open => self.open(epoch).await,
            Act::MakeReadOnly => {
                tracing::warn!("the server is writable, and another node is the primary: it is made read-only");
                Ok(core.db.connect().await?.run("SET GLOBAL read_only=1").await?)
            }
            Act::NoteReplica => note(&core, |duty| (duty.role, duty.given_up) = (ServerRole::Replica, None)).await,
            Act::Resume => {
                resume(&core).await?;
                self.resumed = true;
                Ok(())
            }
            Act::LetGo(epoch) => let_go(&core, *epoch, None).await,
        }
    }

    /// The state is asked for anew, after the server came up: what is known may be older.
    async fn open(&mut self, epoch: u64) -> Result<(), Refusal> {
        let core = &self.core;
        let asked = core.store.state().await.map_err(|e| Refusal::silent(e.to_string(), "etcd has to answer"))?;
        let Some(state) = asked.map(|s| s.value) else { return Ok(()) };
        let local = self.local();
        let core = &self.core;
        let seen = core.duty.get();
        let verdict = verdict(Some(&state), None, &core.config.node, &seen, local);
        if state.epoch != epoch || !verdict.acts.contains(&Act::Open) {
            return Ok(());
        }
        self.is_the_one(&state)?;
        tracing::info!(epoch, "the state names this server primary: it is made writable");
        note(core, move |duty| {
            // An order may have come in between.
            if (duty.last_order, duty.role) != (seen.last_order, seen.role) {
                return;
            }
            duty.role = ServerRole::Primary;
            duty.role_epoch = epoch;
            duty.given_up = None;
            duty.opened = Some((duty.last_order.term, epoch));
            duty.blocked = None;
            duty.following = None;
            duty.self_fenced = false;
        })
        .await?;
        if core.duty.get().opened.is_none_or(|(_, opened)| opened != epoch) {
            return Ok(());
        }
        open(core, epoch, OpenWait::OnlyIfServing(ACKER)).await
    }
}

impl Watchdog {
    /// A second agent of the same name, or a strange data directory, may stand where the primary is meant to be.
    fn is_the_one(&self, state: &ClusterState) -> Result<(), Refusal> {
        let core = &self.core;
        if let Some(why) = name_taken(core) {
            return Err(Refusal::cannot(why, "give each node a name of its own in agent.toml"));
        }
        let snapshot = core.snapshot();
        let Some(record) = snapshot.epochs.get(&state.grant.epoch).filter(|e| e.node == core.config.node) else {
            return Ok(());
        };
        match core.observed.get().answer.map(|a| a.status.server_id) {
            Some(own) if own != record.server_id => Err(Refusal::cannot(
                format!(
                    "the primary of epoch {} has server_id {}, and this server {own}",
                    record.epoch, record.server_id
                ),
                "give each node a name of its own in agent.toml, and its server the server_id that it had",
            )),
            _ => Ok(()),
        }
    }
}

async fn note(core: &Core, change: impl FnOnce(&mut super::kept::Duty) + Send + 'static) -> Result<(), Refusal> {
    let noted = core.duty.change(change).await;
    noted.map_err(|e| Refusal::silent(e.to_string(), "mend the disk that holds data_dir"))
}
