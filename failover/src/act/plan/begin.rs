//! The commit with which an operation begins: its intent is in etcd before anything is done.

use baton_cluster::{Cause, ClusterState, Grant, OperationKind, Phase};

use super::{Commit, HistoryChange, Plan, Scene, Step};
use crate::decide::Decision;

/// Begins a failover.
pub(super) fn failover(scene: &Scene<'_>, decision: &Decision, to: Option<&str>, request: Option<&str>) -> Plan {
    let mut state = scene.begun(OperationKind::Failover, &decision.reason);
    state.candidate = to.map(str::to_owned);
    scene.begin(state, decision, request)
}

/// Begins a switchover to `to`.
pub(super) fn switchover(scene: &Scene<'_>, decision: &Decision, to: &str, request: Option<&str>) -> Plan {
    let mut state = scene.begun(OperationKind::Switchover, &decision.reason);
    state.candidate = Some(to.to_owned());
    scene.begin(state, decision, request)
}

/// Begins a failover in the middle of an operation: from the candidate that died while it was promoted, or from the primary that died while
/// it was switched away from.
pub(super) fn failover_instead(scene: &Scene<'_>, old: &str, reason: &str, evidence: Vec<String>) -> Plan {
    let mut state = scene.begun(OperationKind::Failover, reason);
    state.old_primary = Some(old.to_owned());
    let superseded = HistoryChange {
        outcome: Some(("superseded".to_owned(), None)),
        ..scene.history(&[("superseded", reason.to_owned())])
    };
    let history = vec![superseded, begun_history(&state, evidence)];
    Plan::of(vec![Step::Commit(Box::new(Commit { state, epoch: None, history, takes_request: None, abandons: None }))])
}

fn begun_history(state: &ClusterState, evidence: Vec<String>) -> HistoryChange {
    HistoryChange {
        epoch: state.epoch,
        kind: state.kind,
        from: state.old_primary.clone(),
        stages: vec![("decided".to_owned(), state.cause.reason.clone())],
        tail: None,
        evidence,
        outcome: None,
    }
}

impl Scene<'_> {
    /// The present state turned into the beginning of an operation.
    fn begun(&self, kind: OperationKind, reason: &str) -> ClusterState {
        let before = self.state;
        let epoch = before.epoch + 1;
        ClusterState {
            epoch,
            phase: Phase::Fencing,
            kind,
            primary: None,
            old_primary: before.primary.clone().or_else(|| before.old_primary.clone()),
            candidate: None,
            asked: Some(Grant { epoch, n: 1 }),
            tail: None,
            cause: Cause { by: self.stamp.by.to_owned(), reason: reason.to_owned() },
            started: self.stamp.now.to_owned(),
            ..before.clone()
        }
    }

    fn begin(&self, state: ClusterState, decision: &Decision, request: Option<&str>) -> Plan {
        let history = vec![begun_history(&state, decision.evidence.clone())];
        let takes_request = request.map(str::to_owned);
        Plan::of(vec![Step::Commit(Box::new(Commit { state, epoch: None, history, takes_request, abandons: None }))])
    }
}
