//! Commits: one transaction in etcd, with the history of the operation, at the revision that was decided on.

use std::sync::Arc;

use baton_cluster::store::{Change, Snapshot, StoreError, Versioned};
use baton_cluster::{ClusterState, EpochRecord, HistoryRecord, Phase};
use tokio::time::Instant;

use super::begin::After;
use super::steps::Wait;
use super::{Answer, Done, Runner, state_of};
use crate::act::plan::Commit;
use crate::model::invariants;

/// Under which name the pause after a failed commit is kept.
const NAME: &str = "commit";

/// What came of a commit.
pub(super) struct Committed {
    commit: Box<Commit>,
    result: Result<(i64, Vec<HistoryRecord>), StoreError>,
    create_revision: i64,
    began: Option<Instant>,
    took: std::time::Duration,
}

/// What this leader wrote, until etcd's watch has told it.
pub(super) struct Own {
    pub(super) revision: i64,
    state: Versioned<ClusterState>,
    epoch: Option<EpochRecord>,
    takes_request: Option<String>,
}

impl Own {
    /// `told` with it.
    pub(super) fn over(&self, told: &Snapshot) -> Arc<Snapshot> {
        let mut etcd = told.clone();
        etcd.state = Some(self.state.clone());
        if let Some(epoch) = &self.epoch {
            etcd.epochs.insert(epoch.epoch, epoch.clone());
        }
        if etcd.request.as_ref().is_some_and(|r| Some(&r.value.id) == self.takes_request.as_ref()) {
            etcd.request = None;
        }
        Arc::new(etcd)
    }
}

impl Runner {
    /// Writes `commit`. `begins`: whether it begins an operation.
    pub(super) fn commit(&mut self, mut commit: Box<Commit>, etcd: &Arc<Snapshot>, begins: bool, now: Instant) {
        let Some(lead) = &mut self.lead else { return };
        if self.o.leadership.borrow().term(Instant::now()) != Some(lead.term) {
            return;
        }
        if lead.waits.get(NAME).is_some_and(|w| now < w.until) {
            return;
        }
        let before = state_of(etcd);
        let (expected, created) = before.map_or((0, 0), |s| (s.mod_revision, s.create_revision));
        if let Some(Err(violation)) = before.map(|b| invariants::check(&b.value, &commit.state)) {
            // A mistake of ours: nothing is better than that.
            tracing::error!(%violation, state = ?commit.state, "a change of the state would break an invariant: it is not made");
            lead.waits.insert(NAME.to_owned(), Wait::after(lead.waits.get(NAME)));
            return;
        }
        lead.committing = true;
        let (store, term, history) = (self.o.store.clone(), lead.term, lead.history.clone());
        let began = begins.then_some(now);
        // A request is only taken up as it was decided on.
        let request = etcd.request.as_ref().filter(|r| Some(&r.value.id) == commit.takes_request.as_ref());
        if let Some(request) = request {
            commit.state.cause.by.clone_from(&request.value.by);
        }
        let request = request.map(|r| r.mod_revision);
        self.tasks.spawn(async move {
            let keys = store.keys().clone();
            let mut change = Change::new().expect(keys.state(), expected).put(keys.state(), &commit.state);
            if let Some(epoch) = &commit.epoch {
                change = change.put(keys.epoch(epoch.epoch), epoch);
            }
            if let Some(revision) = request {
                change = change.expect(keys.request(), revision).delete(keys.request());
            }
            let written = async {
                let (change, written) = history.extend(&store, &commit.state, &commit.history, change, begins).await?;
                let revision = store.commit(term, change).await?;
                Ok((revision, written))
            };
            let begun = Instant::now();
            let result = written.await;
            let took = begun.elapsed();
            Done::Committed(Box::new(Committed { commit, result, create_revision: created, began, took }))
        });
    }

    /// A commit has ended.
    pub(super) fn committed(&mut self, done: Committed) {
        let Some(lead) = &mut self.lead else { return };
        lead.committing = false;
        let (commit, state) = (done.commit, |c: &Commit| c.state.clone());
        let (revision, written) = match done.result {
            Ok(written) => written,
            Err(error) => {
                lead.waits.insert(NAME.to_owned(), Wait::after(lead.waits.get(NAME)));
                // It may have been written by somebody else, or even by us.
                lead.history.forget();
                tracing::warn!(epoch = commit.state.epoch, %error, "the state could not be changed");
                return;
            }
        };
        // What comes next is another operation, or another part of it.
        lead.waits.clear();
        lead.progress.committed(&commit);
        if done.began.is_some() || super::begin::ends_a_switchover(&commit) {
            if let (Some(recent), true) = (&mut lead.recent, super::begin::is_automatic_failover(&commit)) {
                recent.push(Instant::now());
            }
        }
        let state = state(&commit);
        lead.history.keep(&state, written.clone(), done.began);
        tracing::info!(
            epoch = state.epoch, phase = ?state.phase, kind = ?state.kind, primary = state.primary, candidate = state.candidate,
            grant = %state.grant, holder = state.grant_holder, asked = state.asked.map(|g| g.to_string()),
            took_ms = done.took.as_millis(), reason = state.cause.reason, "the state is changed"
        );
        for record in written.iter().filter(|r| r.outcome != "running") {
            tracing::info!(
                epoch = record.epoch, kind = ?record.kind, from = record.from, to = record.to, outcome = record.outcome,
                ms = record.stages.last().map(|s| s.at_ms), "the operation has ended"
            );
            self.o.metrics.operation_ended(record);
        }
        if let Some(id) = &commit.takes_request {
            let _ = self.o.answers.send(Answer { id: id.clone(), result: Ok(state.epoch) });
        }
        let after = After::of(&written);
        self.own = Some(Own {
            revision,
            state: Versioned {
                value: state.clone(),
                mod_revision: revision,
                create_revision: if done.create_revision == 0 { revision } else { done.create_revision },
            },
            epoch: commit.epoch.clone(),
            takes_request: commit.takes_request.clone(),
        });
        if let (Some(after), Phase::Steady) = (after, state.phase) {
            self.run_after(after, &state);
        }
    }
}
