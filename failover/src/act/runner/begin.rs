//! The beginning and the end of operations: hooks, and their vetoes.

use std::time::Duration;

use baton_cluster::{ClusterState, HistoryRecord, OperationKind, Phase};
use tokio::time::Instant;

use super::{Done, Runner};
use crate::act::hooks::{self, HookFacts};
use crate::act::plan::{Commit, Step};
use crate::decide::Refusal;
use crate::model::ClusterFacts;

/// An operation that a hook has vetoed is not asked about again for so long.
const VETO: Duration = Duration::from_secs(30);

/// The hook before an operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum HookState {
    /// None was run.
    #[default]
    None,
    /// It runs, for this epoch.
    Running(u64),
    /// It agrees, for this epoch and kind.
    Passed(u64, OperationKind),
}

/// What a hook said.
pub(super) struct HookDone {
    epoch: u64,
    kind: OperationKind,
    request: Option<String>,
    result: Result<(), String>,
}

/// An operation that is not begun because a hook said no.
pub(super) struct Veto {
    kind: OperationKind,
    /// The request that it was about.
    request: Option<String>,
    why: String,
    until: Instant,
}

/// The hook after an operation.
pub(super) struct After {
    kind: OperationKind,
    outcome: String,
    from: Option<String>,
}

impl After {
    /// If one of the operations that were written has ended.
    pub(super) fn of(written: &[HistoryRecord]) -> Option<Self> {
        let ended = written.iter().rev().find(|r| r.outcome == "done")?;
        Some(Self { kind: ended.kind, outcome: ended.outcome.clone(), from: ended.from.clone() })
    }
}

/// Whether `commit` begins an operation, rather than going on with one.
pub(super) fn begins(commit: &Commit, before: Option<&ClusterState>) -> bool {
    let was_steady = before.is_some_and(|s| s.phase == Phase::Steady);
    was_steady && commit.state.phase == Phase::Fencing && before.is_some_and(|s| commit.state.epoch > s.epoch)
}

/// Whether it begins a failover that nobody asked for.
pub(super) fn is_automatic_failover(commit: &Commit) -> bool {
    commit.state.kind == OperationKind::Failover && commit.takes_request.is_none()
}

/// Whether it gives a switchover up, whose primary has died: what it begins is another operation.
pub(super) fn ends_a_switchover(commit: &Commit) -> bool {
    let superseded = |outcome: &(String, Option<String>)| outcome.0 == "superseded";
    commit.history.iter().any(|h| h.kind == OperationKind::Switchover && h.outcome.as_ref().is_some_and(superseded))
}

impl Runner {
    /// Runs the hook before an operation. None: go on. Some: not yet, or not at all, and why.
    pub(super) fn hold_to_begin(
        &mut self,
        commit: &Commit,
        facts: &ClusterFacts,
        now: Instant,
    ) -> Option<Option<Refusal>> {
        let config = &self.o.config.hooks;
        let (kind, epoch) = (commit.state.kind, commit.state.epoch);
        let (command, event) = match kind {
            OperationKind::Failover => (&config.before_failover, "before_failover"),
            OperationKind::Switchover => (&config.before_switchover, "before_switchover"),
            OperationKind::Bootstrap => return None,
        };
        if command.is_empty() {
            return None;
        }
        if let Some(veto) = self.refused_begin.as_ref().filter(|v| v.kind == kind && now < v.until) {
            // Another request is another question.
            if commit.takes_request == veto.request || commit.takes_request.is_none() {
                let refusal = refusal(kind, &veto.why);
                if let Some(id) = commit.takes_request.clone() {
                    // It is not taken away yet; that may have failed.
                    let (why, etcd) = (refusal.why.clone(), self.newest_etcd());
                    self.start(Step::RefuseRequest { id, why }, facts, &etcd, now);
                }
                return Some(Some(refusal));
            }
        }
        let lead = self.lead.as_mut()?;
        match lead.hook {
            HookState::Running(_) => return Some(None),
            HookState::Passed(e, k) if (e, k) == (epoch, kind) => {
                lead.hook = HookState::None;
                return None;
            }
            _ => lead.hook = HookState::Running(epoch),
        }
        let (command, limit) = (command.clone(), config.timeout);
        let facts = HookFacts {
            event: event.to_owned(),
            old_primary: commit.state.old_primary.clone().unwrap_or_default(),
            new_primary: commit.state.candidate.clone().unwrap_or_default(),
            new_primary_address: address(facts, commit.state.candidate.as_deref()),
            epoch,
            reason: commit.state.cause.reason.clone(),
            ..self.hook_facts()
        };
        let request = commit.takes_request.clone();
        tracing::info!(event, epoch, "runs the hook");
        self.tasks.spawn(async move {
            let result = hooks::run(&command, &facts, limit).await;
            Done::Hook(HookDone { epoch, kind, request, result })
        });
        Some(None)
    }

    /// The hook before an operation has ended.
    pub(super) fn hook_done(&mut self, done: HookDone) {
        let Some(lead) = &mut self.lead else { return };
        let vetoes = done.kind == OperationKind::Switchover || self.o.config.hooks.veto;
        let why = match done.result {
            Err(why) if vetoes => why,
            result => {
                if let Err(why) = result {
                    tracing::warn!(why, "the hook failed; it has no veto");
                }
                lead.hook = HookState::Passed(done.epoch, done.kind);
                return;
            }
        };
        lead.hook = HookState::None;
        tracing::warn!(why, "the hook vetoes");
        self.o.metrics.vetoes.inc();
        self.refused_begin = Some(Veto {
            kind: done.kind,
            request: done.request.clone(),
            why: why.clone(),
            until: Instant::now() + VETO,
        });
        if let Some(id) = done.request {
            let etcd = self.newest_etcd();
            let facts = self.o.board.facts(&etcd, Vec::new());
            let why = format!("the hook before it says no: {why}");
            self.start(Step::RefuseRequest { id, why }, &facts, &etcd, Instant::now());
        }
    }

    /// Runs the hook after an operation; nobody waits for it.
    pub(super) fn run_after(&self, after: After, state: &ClusterState) {
        let config = &self.o.config.hooks;
        let (command, event) = match after.kind {
            OperationKind::Failover => (&config.after_failover, "after_failover"),
            OperationKind::Switchover => (&config.after_switchover, "after_switchover"),
            OperationKind::Bootstrap => return,
        };
        if command.is_empty() {
            return;
        }
        let etcd = self.o.etcd.borrow().clone();
        let facts = HookFacts {
            event: event.to_owned(),
            old_primary: after.from.unwrap_or_default(),
            new_primary: state.primary.clone().unwrap_or_default(),
            new_primary_address: address(&self.o.board.facts(&etcd, Vec::new()), state.primary.as_deref()),
            epoch: state.epoch,
            reason: state.cause.reason.clone(),
            ..self.hook_facts()
        };
        let (command, limit) = (command.clone(), config.timeout);
        tracing::info!(event, epoch = state.epoch, outcome = after.outcome, "runs the hook");
        tokio::spawn(async move {
            if let Err(why) = hooks::run(&command, &facts, limit).await {
                tracing::warn!(why, "the hook failed");
            }
        });
    }

    fn hook_facts(&self) -> HookFacts {
        HookFacts {
            cluster: self.o.config.cluster.clone(),
            vip: self.o.config.address.vip.clone().unwrap_or_default(),
            controller: self.o.config.name.clone(),
            ..HookFacts::default()
        }
    }
}

fn address(facts: &ClusterFacts, node: Option<&str>) -> String {
    let record = node.and_then(|n| facts.nodes.get(n)).map(|n| &n.record);
    record.and_then(|r| r.mysql.first()).cloned().unwrap_or_default()
}

fn refusal(kind: OperationKind, why: &str) -> Refusal {
    let what = if kind == OperationKind::Failover { "failover" } else { "switchover" };
    Refusal {
        what: what.to_owned(),
        why: format!("the hook before it says no: {why}"),
        hint: "mend what the hook complains of, or take it out of [hooks]".to_owned(),
    }
}
