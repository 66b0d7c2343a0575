//! Failover, first half: the truth about what was acknowledged, and the silence of the old host, side by side.

use std::collections::BTreeMap;

use baton_cluster::{ClusterState, Grant, OperationKind, Phase, RelayAccount, Tail};

use super::{Outcome, Plan, Scene, Step, begin};
use crate::decide::candidate::{self, Choice, Wanted};
use crate::decide::fence::{self, Means};
use crate::decide::{Refusal, acker, position, upkeep, verdict};
use crate::model::OrderKind;

/// The truth: a relay that will never acknowledge for the old primary again, and the end of its log.
pub(super) struct Truth {
    pub(super) relay: String,
    pub(super) log_id: String,
    pub(super) tail: Tail,
}

/// The truth, or the steps towards it and what is missing.
type Sought = Result<Truth, (Vec<Step>, Option<Refusal>)>;

pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let mut steps = scene.fence_steps();
    match scene.truth() {
        Ok(truth) => scene.choose(truth, steps),
        Err((more, waiting)) => {
            steps.extend(more);
            Plan { steps, waiting }
        }
    }
}

impl Scene<'_> {
    /// Orders the old primary's agent to fence it, as long as that has not been confirmed.
    pub(super) fn fence_steps(&self) -> Vec<Step> {
        let Some(old) = &self.state.old_primary else { return Vec::new() };
        let fence = self.order(old, OrderKind::Fence {});
        if self.progress.done(&fence).is_some() || !self.facts.nodes.contains_key(old) {
            Vec::new()
        } else {
            vec![fence]
        }
    }

    /// Whether the old primary's agent has said that its server is killed.
    fn killed(&self) -> bool {
        let Some(old) = &self.state.old_primary else { return false };
        self.progress.done(&self.order(old, OrderKind::Fence {})).is_some_and(|r| r.killed == Some(true))
    }

    /// The truth, or the steps towards it and what is missing.
    pub(super) fn truth(&self) -> Sought {
        let (Some(asked), Some(holder)) = (self.state.asked, &self.state.grant_holder) else {
            return Err((Vec::new(), Some(self.nothing_asked())));
        };
        if let Some(relay) = self.forced_relay() {
            return self.told_by(Step::Promise { relay: relay.clone(), grant: asked }, &relay);
        }
        let of_holder = Step::Promise { relay: holder.clone(), grant: asked };
        let promised = matches!(self.progress.outcome(&of_holder), Some(Outcome::Promised { .. }));
        // What was promised holds, whatever has become of the relay since.
        let means = if promised { Ok(Means::Promise { relay: holder.clone() }) } else { fence::means(self.facts) };
        let shortfall = match means {
            Ok(Means::Promise { relay }) => {
                if let Some(instead) = self.instead_of(&of_holder, holder, asked) {
                    return instead;
                }
                let truth = self.told_by(of_holder, &relay)?;
                let Some(shortfall) = fence::shortfall(self.state, &truth.tail.gtid) else {
                    return self.or_what_was_rescued(truth, asked);
                };
                if let Some(deputy) = fence::deputy(self.state, holder, self.facts) {
                    let truth = self.told_by(Step::Promise { relay: deputy.clone(), grant: asked }, &deputy)?;
                    if fence::shortfall(self.state, &truth.tail.gtid).is_none() {
                        return Ok(truth);
                    }
                }
                Some(shortfall)
            }
            Ok(Means::Rescue { relay, node }) => return self.rescued(relay, node, asked),
            Err(missing) => return Err((Vec::new(), Some(missing))),
        };
        match fence::rescue(self.state, holder, &shortfall.unwrap_or_default(), self.facts) {
            Ok(Means::Rescue { relay, node }) => self.rescued(relay, node, asked),
            Ok(Means::Promise { .. }) => Err((Vec::new(), None)),
            Err(missing) => Err((Vec::new(), Some(missing))),
        }
    }

    /// The rescue, where the acker answers and does not promise, whatever its reason: it may hold another token, or be cut off from what it has to ask. It is
    /// asked on beside it.
    fn instead_of(&self, promise: &Step, holder: &str, asked: Grant) -> Option<Sought> {
        let (Outcome::Refused(why) | Outcome::Failed(why)) = self.progress.outcome(promise)? else { return None };
        if self.memory.phase_for < self.policy.probe_timeout {
            return None;
        }
        match fence::rescue_by_another(self.state, holder, &format!("does not promise ({why})"), self.facts) {
            Ok(Means::Rescue { relay, node }) => {
                Some(self.rescued(relay, node, asked).map_err(|(mut steps, waiting)| {
                    steps.push(promise.clone());
                    (steps, waiting)
                }))
            }
            _ => None,
        }
    }

    /// The acker's word suffices. But a standby that has completed itself before the acker promised after all has more, never acknowledged to anybody,
    /// and has passed it on to the replicas that it feeds: then its end is taken, which holds the acker's, or they would be beyond the tail.
    fn or_what_was_rescued(&self, truth: Truth, asked: Grant) -> Sought {
        let Some((relay, node)) = fence::rescued_beyond(self.state, &truth.tail.gtid, self.facts) else {
            return Ok(truth);
        };
        // Reading the end again proves that it is of the same history.
        let again = Step::Rescue { relay: relay.clone(), node: node.clone(), grant: asked };
        let fence = self.state.old_primary.as_deref().map(|old| self.order(old, OrderKind::Fence {}));
        match self.progress.outcome(&again) {
            None if self.killed() => Err((vec![again], None)),
            // Its end is one once the server is killed: that is under way.
            None if fence.is_some_and(|fence| self.progress.outcome(&fence).is_none()) => Err((Vec::new(), None)),
            Some(Outcome::Promised { .. }) => {
                let more = self.told_by(again, &relay).ok();
                Ok(more.filter(|more| position::covers(&more.tail.gtid, &truth.tail.gtid)).unwrap_or(truth))
            }
            _ => Ok(truth),
        }
    }

    /// Begins anew where replicas have more than the tail that was chosen, because a standby completed itself too late to be asked: what it has is the truth
    /// then. Nobody has been named yet.
    pub(super) fn begin_anew(&self, tail: &Tail) -> Option<Plan> {
        let patient = self.memory.phase_for >= self.policy.probe_timeout;
        let old =
            self.state.old_primary.as_deref().filter(|_| patient && self.state.kind == OperationKind::Failover)?;
        let (relay, _) = fence::rescued_beyond(self.state, &tail.gtid, self.facts)?;
        let reason =
            format!("relay {relay} has completed itself beyond the tail {}, and its replicas with it", tail.gtid);
        Some(begin::failover_instead(self, old, &reason, Vec::new()))
    }

    fn rescued(&self, relay: String, node: String, asked: Grant) -> Sought {
        if !self.killed() {
            // The end of its binlog is only an end once the server can't write any more. One that hung in the kernel may have ended since.
            let fence = self.state.old_primary.as_deref().map(|old| self.order(old, OrderKind::Fence {}));
            let again = fence.filter(|fence| self.progress.done(fence).is_some());
            return Err((again.into_iter().collect(), Some(self.waits_for_kill())));
        }
        self.told_by(Step::Rescue { relay: relay.clone(), node, grant: asked }, &relay)
    }

    /// What `relay` told in answer to `step`, if it can be trusted.
    fn told_by(&self, step: Step, relay: &str) -> Sought {
        match self.progress.outcome(&step) {
            Some(Outcome::Promised { log_id, complete, tail }) => match self.distrust(relay, log_id, *complete) {
                None => Ok(Truth { relay: relay.to_owned(), log_id: log_id.clone(), tail: tail.clone() }),
                Some(waiting) => Err((vec![step], Some(waiting))),
            },
            Some(Outcome::Refused(text) | Outcome::Failed(text) | Outcome::Unreachable(text)) => {
                let waiting = Refusal {
                    what: "promotion".to_owned(),
                    why: format!("relay {relay} has not promised: {text}"),
                    hint: "asks again".to_owned(),
                };
                Err((vec![step], Some(waiting)))
            }
            Some(Outcome::Done(_)) | None => Err((vec![step], None)),
        }
    }

    /// Why a promise is worth nothing.
    fn distrust(&self, relay: &str, log_id: &str, complete: bool) -> Option<Refusal> {
        let is_holder = self.state.grant_holder.as_deref() == Some(relay);
        let expected = self.state.grant_log_id.as_deref().filter(|_| is_holder);
        let why = match (complete, expected) {
            _ if self.forced_relay().is_some() => return None,
            (false, _) => format!("the log of relay {relay} is not complete"),
            (true, Some(id)) if id != log_id => format!("relay {relay} has another log than the one that acknowledged"),
            (true, _) => return None,
        };
        let hint = format!("waits for the log of {relay} to be whole, or for the host of the old primary");
        Some(Refusal { what: "promotion".to_owned(), why, hint })
    }

    /// The relay whose log counts as the truth because policy gives up what is missing (`on_missing = "force-after ..."`).
    fn forced_relay(&self) -> Option<String> {
        let limit = self.policy.force_after?;
        if self.memory.stuck_for.is_none_or(|stuck| stuck < limit)
            || fence::means(self.facts).is_ok()
            || !fence::may_be_forced(self.facts)
        {
            return None;
        }
        acker::standbys(self.facts, self.state, None).into_iter().next()
    }

    fn nothing_asked(&self) -> Refusal {
        Refusal {
            what: "promotion".to_owned(),
            why: "the state is of an operation and asks for no grant".to_owned(),
            hint: "the document was written by something else than a controller: mend it by hand".to_owned(),
        }
    }

    fn waits_for_kill(&self) -> Refusal {
        let old = self.state.old_primary.as_deref().unwrap_or_default();
        Refusal {
            what: "promotion".to_owned(),
            why: format!("the end of {old}'s binlog can only be taken once its agent has killed the server"),
            hint: format!("waits for the agent of {old}"),
        }
    }

    /// Who could be promoted, `tail` being final.
    pub(super) fn candidates(
        &self,
        tail: &str,
        teller: Option<&str>,
        failed: &BTreeMap<String, String>,
        old_too: bool,
    ) -> Choice {
        let wanted = Wanted { tail, is_final: true, old: self.state.old_primary.as_deref(), old_too, failed, teller };
        candidate::choose(self.facts, &wanted)
    }

    /// Orders replicas whose relay ends before `tail`, and takes nothing more, to follow the one that has it.
    pub(super) fn feed(&self, tail: &str, teller: &str) -> Vec<Step> {
        let Some(relay) = self.facts.relays.get(teller).filter(|r| r.answers) else { return Vec::new() };
        let source = relay.record.replication.clone();
        let starved = self.facts.nodes.iter().filter(|(_, node)| {
            let server = verdict::agent(node).and_then(|a| a.server.as_ref());
            let replication = server.and_then(|s| s.replication.as_ref());
            replication.is_some_and(|r| candidate::is_starved(r, self.facts, tail, Some(teller)))
        });
        let follow = OrderKind::Follow { source, relay: teller.to_owned() };
        starved.map(|(name, _)| self.order(name, follow.clone())).collect()
    }

    /// Chooses the candidate and records it together with the truth.
    fn choose(&self, truth: Truth, fence: Vec<Step>) -> Plan {
        let teller = Some(truth.relay.as_str());
        let mut choice = self.candidates(&truth.tail.gtid, teller, self.progress.failed(), false);
        // With everybody failed once, all get a second chance, at the pace at which a candidate may fail.
        if choice.best().is_none() && self.memory.phase_for >= self.policy.probe_timeout {
            choice = self.candidates(&truth.tail.gtid, teller, &BTreeMap::new(), false);
        }
        let wished = self.state.candidate.as_deref().filter(|c| choice.fit.iter().any(|f| f == c));
        let Some(best) = wished.or(choice.best()) else {
            let mut steps = fence;
            steps.extend(self.feed(&truth.tail.gtid, &truth.relay));
            steps.extend(self.upkeep(&upkeep::due(self.state, self.facts)));
            let waiting = Refusal {
                what: "promotion".to_owned(),
                why: format!("there is no candidate: {}", choice.summary()),
                hint: "bring one of these nodes into order".to_owned(),
            };
            return Plan::wait(steps, waiting);
        };
        let detail = format!("{} promises {}: tail {}", truth.relay, self.asked_text(), truth.tail.gtid);
        let mut history = self.history(&[("revoked", detail), ("chosen", best.to_owned())]);
        let state = self.with_truth(&truth, best);
        history.tail.clone_from(&state.tail);
        Plan::of(vec![Step::Commit(Box::new(self.commit(state, history)))])
    }

    /// The state once the truth is known: the relay that told it holds what the next grant will be given to.
    pub(super) fn with_truth(&self, truth: &Truth, candidate: &str) -> ClusterState {
        let account = self.facts.relays.get(&truth.relay).map(|r| RelayAccount {
            user: r.record.user.clone(),
            server_id: r.record.server_id,
            host: r.record.host.clone(),
        });
        let same = self.state.grant_holder.as_ref() == Some(&truth.relay);
        ClusterState {
            phase: Phase::CatchingUp,
            candidate: Some(candidate.to_owned()),
            tail: Some(truth.tail.clone()),
            grant_holder: Some(truth.relay.clone()),
            grant_log_id: Some(truth.log_id.clone()),
            grant_account: account.or_else(|| self.state.grant_account.clone().filter(|_| same)),
            ..self.state.clone()
        }
    }

    fn asked_text(&self) -> String {
        self.state.asked.map(|g| g.to_string()).unwrap_or_default()
    }
}
