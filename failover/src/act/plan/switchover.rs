//! Switchover, first half: the candidate applies what it has received, writes are blocked while the acker still acknowledges, the candidate takes the
//! rest, then the acker promises. Until that promise any failure puts the old primary back into service.

use baton_cluster::{ClusterState, Phase};

use super::{HistoryChange, Outcome, Plan, Scene, Step, begin};
use crate::decide::Refusal;
use crate::decide::verdict;
use crate::model::{OrderKind, OrderResult};

pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let state = scene.state;
    let (Some(old), Some(candidate), Some(asked)) = (&state.old_primary, &state.candidate, state.asked) else {
        let why = "the state is of a switchover and does not say between whom".to_owned();
        let hint = "the document was written by something else than a controller: mend it by hand".to_owned();
        return Plan::wait(Vec::new(), Refusal { what: "switchover".to_owned(), why, hint });
    };
    if scene.revoked() {
        return scene.take_over(candidate, None);
    }
    let sight = verdict::sight(old, scene.facts, scene.policy);
    if sight.verdict.is_dead() {
        let reason = format!("{old} died while it was switched away from");
        return begin::failover_instead(scene, old, &reason, sight.evidence);
    }
    if !scene.progress.began(state.epoch) {
        return scene.take_back(old, "the controller that led it is gone");
    }
    match scene.ready_to_block(candidate) {
        Ok(None) => {}
        Ok(Some(step)) => return Plan::of(vec![step]),
        Err(why) => return scene.take_back(old, &format!("{candidate} could not catch up: {why}")),
    }
    let blocked = match scene.success(&scene.block(old)) {
        Ok(Some(result)) => result,
        Ok(None) => return Plan::of(vec![scene.block(old)]),
        Err(why) => return scene.take_back(old, &format!("writes on {old} could not be blocked: {why}")),
    };
    let end = blocked.gtid.as_deref().unwrap_or_default();
    let catch_up = scene.catch_up(candidate, end);
    match scene.success(&catch_up) {
        Ok(Some(result)) if result.reached == Some(false) => {
            return scene.take_back(old, &format!("{candidate} did not catch up in time"));
        }
        Ok(Some(_)) => {}
        Ok(None) => return Plan::of(vec![catch_up]),
        Err(why) => return scene.take_back(old, &format!("{candidate} could not catch up: {why}")),
    }
    let promise = Step::Promise { relay: state.grant_holder.clone().unwrap_or_default(), grant: asked };
    match scene.progress.outcome(&promise) {
        Some(Outcome::Refused(why)) => scene.take_back(old, &format!("the acker refuses: {why}")),
        // Nobody can write meanwhile.
        Some(Outcome::Failed(why)) => scene.take_back(old, &format!("the acker does not promise: {why}")),
        Some(Outcome::Unreachable(why)) if scene.memory.phase_for >= scene.policy.block_timeout => {
            scene.take_back(old, &format!("the acker does not promise: {why}"))
        }
        _ => scene.take_over(candidate, scene.ready_meanwhile(candidate, end)),
    }
}

impl Scene<'_> {
    /// What is done while writes go on, since it would lengthen their pause: the candidate applies what it has received, and lets the acker in.
    fn ready_to_block(&self, candidate: &str) -> Result<Option<Step>, String> {
        let near = self.catch_up(candidate, "");
        match self.success(&near)? {
            Some(result) if result.reached == Some(false) => return Err("it does not keep up".to_owned()),
            Some(_) => {}
            None => return Ok(Some(near)),
        }
        let Some(account) = &self.state.grant_account else { return Ok(None) };
        let allow = self.order(candidate, OrderKind::AllowAcker { user: account.user.clone() });
        Ok(self.progress.outcome(&allow).is_none().then_some(allow))
    }

    /// Whether the acker is known to have promised: then it is finished forward.
    fn revoked(&self) -> bool {
        let holder = self.state.grant_holder.as_ref();
        let by_facts =
            holder.and_then(|h| self.facts.relays.get(h)).is_some_and(|r| Some(r.promised) >= self.state.asked);
        by_facts || holder.is_some_and(|h| self.promised_by(h))
    }

    fn promised_by(&self, relay: &str) -> bool {
        let Some(grant) = self.state.asked else { return false };
        let step = Step::Promise { relay: relay.to_owned(), grant };
        matches!(self.progress.outcome(&step), Some(Outcome::Promised { .. }))
    }

    /// The result of an order; none while it is not answered; or why it failed.
    fn success(&self, step: &Step) -> Result<Option<OrderResult>, String> {
        match self.progress.outcome(step) {
            Some(Outcome::Done(result)) => Ok(Some(result.clone())),
            Some(Outcome::Refused(why) | Outcome::Failed(why) | Outcome::Unreachable(why)) => Err(why.clone()),
            Some(Outcome::Promised { .. }) | None => Ok(None),
        }
    }

    /// From the promise on: the tail is the truth, the candidate goes on as in a failover. `meanwhile`: what it does while the acker promises.
    fn take_over(&self, candidate: &str, meanwhile: Option<Step>) -> Plan {
        match self.truth() {
            Ok(truth) => {
                let detail = format!("{} promises: tail {}", truth.relay, truth.tail.gtid);
                let state = self.with_truth(&truth, candidate);
                let mut history = self.history(&[("blocked", String::new()), ("revoked", detail)]);
                history.tail.clone_from(&state.tail);
                let commit = Step::Commit(Box::new(self.commit(state, history)));
                Plan::of(self.ready_meanwhile(candidate, &truth.tail.gtid).into_iter().chain([commit]).collect())
            }
            Err((mut steps, waiting)) => {
                steps.extend(meanwhile);
                Plan { steps, waiting }
            }
        }
    }

    /// What the candidate can do while the acker promises and the truth is recorded, since clients wait: that it is the one stands in etcd already, and it
    /// has everything up to `tail`, behind which nothing can be committed. Should the switchover be taken back, it is told to follow again.
    fn ready_meanwhile(&self, candidate: &str, tail: &str) -> Option<Step> {
        let has_all = self.progress.done(&self.catch_up(candidate, tail)).is_some_and(|r| r.reached != Some(false));
        let prepare = self.order(candidate, OrderKind::Prepare {});
        (has_all && self.progress.outcome(&prepare).is_none()).then_some(prepare)
    }

    /// The old primary serves again: first its server, then the state says so.
    fn take_back(&self, old: &str, why: &str) -> Plan {
        let unblock = self.order(old, OrderKind::Unblock {});
        let waiting = Refusal {
            what: "switchover".to_owned(),
            why: format!("it is taken back: {why}"),
            hint: format!("{old} serves on"),
        };
        match self.progress.outcome(&unblock) {
            Some(Outcome::Done(_)) => {
                let state = ClusterState {
                    phase: Phase::Steady,
                    primary: Some(old.to_owned()),
                    candidate: None,
                    asked: None,
                    tail: None,
                    ..self.state.clone()
                };
                let history = HistoryChange {
                    outcome: Some(("taken_back".to_owned(), Some(old.to_owned()))),
                    ..self.history(&[("taken_back", why.to_owned())])
                };
                Plan { steps: vec![Step::Commit(Box::new(self.commit(state, history)))], waiting: Some(waiting) }
            }
            _ => Plan::wait(vec![unblock], waiting),
        }
    }
}
