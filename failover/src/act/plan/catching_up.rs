//! Second half of every change of primary: the candidate takes all, becomes ready, and is named.

use std::collections::BTreeMap;

use baton_cluster::{ClusterState, EpochRecord, Grant, OperationKind, Phase, Tail};

use super::{Commit, HistoryChange, Outcome, Plan, Scene, Step};
use crate::decide::{Refusal, fence, position, upkeep, verdict};
use crate::model::{OrderKind, OrderResult};

pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let (Some(candidate), Some(tail)) = (&scene.state.candidate, &scene.state.tail) else {
        let why = "the state is catching up and names no candidate or no tail".to_owned();
        let hint = "the document was written by something else than a controller: mend it by hand".to_owned();
        return Plan::wait(Vec::new(), Refusal { what: "promotion".to_owned(), why, hint });
    };
    let (mut steps, silence) = scene.silence_of_the_old(candidate);
    let ready = match scene.make_ready(candidate, tail) {
        Ok(ready) => ready,
        Err(Held::Steps(more)) => {
            steps.extend(more);
            return Plan { steps, waiting: silence.err() };
        }
        Err(Held::Fault(why, again)) => return scene.give_up(candidate, tail, why, steps, again),
    };
    match silence {
        Err(waiting) => Plan::wait(steps, waiting),
        Ok(how) => scene.name(candidate, tail, &ready, how),
    }
}

/// Why the candidate is not ready.
enum Held {
    /// These have to be done first.
    Steps(Vec<Step>),
    /// It failed; what to try again if there is no other.
    Fault(String, Vec<Step>),
}

impl Scene<'_> {
    /// Steps that silence the old primary, and whether it is silent.
    fn silence_of_the_old(&self, candidate: &str) -> (Vec<Step>, Result<String, Refusal>) {
        let Some(old) = self.state.old_primary.as_deref().filter(|old| *old != candidate) else {
            return (Vec::new(), Ok("there is no other primary".to_owned()));
        };
        let fence = self.order(old, OrderKind::Fence {});
        if let Some(result) = self.progress.done(&fence) {
            let how = if result.killed == Some(true) { "killed" } else { "killed, though it hangs in the kernel" };
            return (Vec::new(), Ok(format!("{old} is {how}")));
        }
        let mut steps = vec![fence];
        // What was taken back before the promise became known serves again, address included: then only the fence silences it.
        let taken_back = self.progress.outcome(&self.order(old, OrderKind::Unblock {})).is_some();
        if self.state.kind == OperationKind::Switchover && !taken_back {
            let block = self.block(old);
            match self.progress.outcome(&block) {
                Some(Outcome::Done(_)) => return (Vec::new(), Ok(format!("{old} is blocked"))),
                None => steps = vec![block],
                Some(_) => {}
            }
        }
        if !self.facts.nodes.contains_key(old) {
            steps.clear();
        }
        (steps, fence::silence(old, self.facts, self.policy))
    }

    pub(super) fn block(&self, node: &str) -> Step {
        let kind = OrderKind::Block { drain_ms: ms(self.policy.drain), timeout_ms: ms(self.policy.block_timeout) };
        self.order(node, kind)
    }

    pub(super) fn catch_up(&self, node: &str, gtid: &str) -> Step {
        // Nobody writes while a switchover waits for it, and it may still be taken back.
        let bound = match self.state.kind {
            OperationKind::Switchover => self.policy.block_timeout.max(self.policy.max_lag),
            _ => self.policy.catch_up_timeout,
        };
        let timeout_ms = ms(bound.min(self.policy.catch_up_timeout));
        self.order(node, OrderKind::CatchUp { gtid: gtid.to_owned(), timeout_ms })
    }

    /// The result of `prepare` once the candidate has everything and only waits to be named.
    fn make_ready(&self, candidate: &str, tail: &Tail) -> Result<OrderResult, Held> {
        let catch_up = self.catch_up(candidate, &tail.gtid);
        if verdict::sight(candidate, self.facts, self.policy).verdict.is_dead() {
            return Err(Held::Fault("its server is dead".to_owned(), vec![catch_up]));
        }
        self.obeyed(&catch_up).and_then(|result| match result.reached {
            Some(false) => Err(Held::Fault(format!("it did not reach {} in time", tail.gtid), vec![catch_up])),
            _ => Ok(()),
        })?;
        let prepare = self.order(candidate, OrderKind::Prepare {});
        let ready = self.obeyed(&prepare)?;
        let gtid = ready.gtid.as_deref().unwrap_or_default();
        if !position::equal(gtid, &tail.gtid) {
            return Err(Held::Fault(format!("it is at {gtid} and the tail is {}", tail.gtid), vec![prepare]));
        }
        if ready.first_file.as_deref().and_then(file_number).is_none() || ready.server_id.is_none() {
            return Err(Held::Fault("it does not name the file that its epoch begins with".to_owned(), vec![prepare]));
        }
        self.let_the_acker_in(candidate)?;
        Ok(ready)
    }

    /// An earlier change of acker may have locked the acker's account on this server. Goes on if that can't be undone: then the acker is
    /// changed once more, afterwards.
    fn let_the_acker_in(&self, candidate: &str) -> Result<(), Held> {
        let Some(account) = &self.state.grant_account else { return Ok(()) };
        let allow = self.order(candidate, OrderKind::AllowAcker { user: account.user.clone() });
        match self.progress.outcome(&allow) {
            None => Err(Held::Steps(vec![allow])),
            Some(_) => Ok(()),
        }
    }

    fn obeyed(&self, step: &Step) -> Result<OrderResult, Held> {
        match self.progress.outcome(step) {
            Some(Outcome::Done(result)) => Ok(result.clone()),
            Some(Outcome::Refused(why) | Outcome::Failed(why) | Outcome::Unreachable(why)) => {
                Err(Held::Fault(why.clone(), vec![step.clone()]))
            }
            Some(Outcome::Promised { .. }) | None => Err(Held::Steps(vec![step.clone()])),
        }
    }

    /// Takes another candidate, under a new epoch; with nobody else, tries the same one again.
    fn give_up(&self, candidate: &str, tail: &Tail, why: String, mut steps: Vec<Step>, again: Vec<Step>) -> Plan {
        let mut failed: BTreeMap<String, String> = self.progress.failed().clone();
        failed.insert(candidate.to_owned(), why.clone());
        let old_too = self.state.kind == OperationKind::Switchover;
        let teller = self.state.grant_holder.as_deref();
        let choice = self.candidates(&tail.gtid, teller, &failed, old_too);
        // With everybody failed once, another gets a second chance, at the pace at which a candidate may fail.
        let second = || {
            let only_this = BTreeMap::from([(candidate.to_owned(), why.clone())]);
            let patient = self.memory.phase_for >= self.policy.probe_timeout;
            self.candidates(&tail.gtid, teller, &only_this, old_too).best().filter(|_| patient).map(str::to_owned)
        };
        let Some(other) = choice.best().map(str::to_owned).or_else(second) else {
            if let Some(anew) = self.begin_anew(tail) {
                return anew;
            }
            steps.extend(again);
            steps.extend(teller.map(|teller| self.feed(&tail.gtid, teller)).unwrap_or_default());
            // Servers that were fenced are fit again once they follow.
            steps.extend(self.upkeep(&upkeep::due(self.state, self.facts)));
            let waiting = Refusal {
                what: format!("promotion of {candidate}"),
                why: format!("{why}; and there is no other candidate: {}", choice.summary()),
                hint: "tries again".to_owned(),
            };
            return Plan::wait(steps, waiting);
        };
        let epoch = self.state.epoch + 1;
        let state = ClusterState {
            epoch,
            candidate: Some(other.clone()),
            asked: Some(Grant { epoch, n: 1 }),
            ..self.state.clone()
        };
        let reason = format!("{candidate}: {why}");
        let superseded = HistoryChange {
            outcome: Some(("superseded".to_owned(), None)),
            ..self.history(&[("superseded", reason.clone())])
        };
        let begun = HistoryChange { epoch, ..self.history(&[("decided", reason), ("chosen", other)]) };
        let commit = Commit {
            state,
            epoch: None,
            history: vec![superseded, begun],
            takes_request: None,
            abandons: Some((candidate.to_owned(), why)),
        };
        Plan::of(vec![Step::Commit(Box::new(commit))])
    }

    /// Records the epoch: from here on it is finished forward.
    fn name(&self, candidate: &str, tail: &Tail, ready: &OrderResult, silence: String) -> Plan {
        let first_file = ready.first_file.clone().unwrap_or_default();
        let (Some(node), Some(first), Some(asked)) =
            (self.facts.nodes.get(candidate), file_number(&first_file), self.state.asked)
        else {
            return Plan::default();
        };
        let epoch = EpochRecord {
            epoch: self.state.epoch,
            node: candidate.to_owned(),
            mysql: node.record.mysql.clone(),
            server_id: ready.server_id.unwrap_or_default(),
            first_file: Some(first_file.clone()),
            shift: file_number(&tail.file).unwrap_or(0) + 1 - first,
            gtid: tail.gtid.clone(),
        };
        let state = ClusterState {
            phase: Phase::Promoting,
            grant: asked,
            grant_after: None,
            asked: None,
            ..self.state.clone()
        };
        let stages = [("caught_up", tail.gtid.clone()), ("prepared", first_file), ("silenced", silence)];
        let mut commit = self.commit(state, self.history(&stages));
        commit.epoch = Some(epoch);
        Plan::of(vec![Step::Commit(Box::new(commit))])
    }
}

/// The number at the end of a binlog file's name.
fn file_number(name: &str) -> Option<i64> {
    name.rsplit_once('.').and_then(|(_, number)| number.parse().ok())
}

pub(super) fn ms(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
