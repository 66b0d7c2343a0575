//! What is to be done while one primary serves: in order of urgency, a failover, what was asked for, a change of acker, upkeep.

use baton_cluster::{ClusterState, SwitchoverRequest};

use super::acker::{self, Fault};
use super::candidate::{self, Choice};
use super::fence::{self, Means};
use super::verdict::{self, Verdict, agent};
use super::{Action, Decision, Memory, Refusal, guard, upkeep};
use crate::model::{ClusterFacts, Policy};

struct Scene<'a> {
    state: &'a ClusterState,
    facts: &'a ClusterFacts,
    memory: &'a Memory,
    policy: &'a Policy,
    choice: &'a Choice,
    primary: &'a str,
}

pub(super) fn decide(
    state: &ClusterState,
    facts: &ClusterFacts,
    memory: &Memory,
    policy: &Policy,
    choice: &Choice,
    decision: Decision,
) -> Decision {
    let Some(primary) = state.primary.as_deref() else {
        return decision.refuse(Refusal {
            what: "change".to_owned(),
            why: "the state is steady and names no primary".to_owned(),
            hint: "the document was written by something else than a controller: mend it by hand".to_owned(),
        });
    };
    let scene = Scene { state, facts, memory, policy, choice, primary };
    if let Some(request) = facts.request.as_ref().filter(|r| r.force) {
        return scene.asked_failover(request, decision);
    }
    if let Some(cause) = scene.failover_due() {
        return scene.failover(cause, decision);
    }
    if let Some(request) = &facts.request {
        return scene.asked_switchover(request, decision);
    }
    let decision = match scene.leave_a_dead_link() {
        None => decision,
        Some(Ok((to, cause))) => return decision.act(Action::Switchover { to, request: None }, cause),
        // Everything else goes on.
        Some(Err(refusal)) => decision.refuse(refusal),
    };
    let alive = verdict::sight(primary, facts, policy).verdict == Verdict::Alive;
    if alive && let Some(fault) = scene.acker_change_due() {
        return scene.change_acker(fault, decision);
    }
    match upkeep::due(state, facts) {
        due if due.is_empty() => decision,
        due => {
            let reason = due.iter().map(|u| u.why()).collect::<Vec<_>>().join("; ");
            decision.act(Action::Upkeep(due), reason)
        }
    }
}

impl Scene<'_> {
    /// Why the primary has to be given up, if it has to.
    fn failover_due(&self) -> Option<String> {
        let primary = self.primary;
        match verdict::sight(primary, self.facts, self.policy).verdict {
            Verdict::Crashed => return Some(format!("the server of {primary} has ended")),
            Verdict::Frozen => return Some(format!("the server of {primary} answers nobody, its host does")),
            Verdict::HostGone => return Some(format!("nobody sees anything of {primary}")),
            Verdict::Alive | Verdict::Unknown => {}
        }
        if let Some(bad) = self.memory.disk_bad_for.filter(|bad| *bad >= self.policy.disk_timeout) {
            return Some(format!("the disk of {primary} has not taken writes for {} ms", bad.as_millis()));
        }
        // What the agent says of the server may be a little older than what the relay found.
        if self.memory.lacking_for.is_some_and(|lacking| lacking >= self.policy.probe_timeout)
            && let Some(lost) = acker::lost_by_primary(self.facts)
        {
            let holder = self.state.grant_holder.as_deref().unwrap_or_default();
            return Some(format!("{primary} has lost what acker {holder} has, up to {lost}"));
        }
        if self.policy.switchover_when_agent_lost
            && let Some(lost) = self.memory.agent_lost_for.filter(|lost| *lost >= self.policy.valid_for)
        {
            return Some(format!(
                "the agent of {primary} is gone for {} ms, and the address with it",
                lost.as_millis()
            ));
        }
        match acker::fault(self.facts) {
            Some(Fault::Outdated(promised)) if self.standby().is_none() => Some(format!(
                "acker {} has promised {promised}, can't acknowledge under {} again, and no other relay is there",
                self.state.grant_holder.as_deref().unwrap_or_default(),
                self.state.grant
            )),
            _ => None,
        }
    }

    fn failover(&self, cause: String, decision: Decision) -> Decision {
        let refusal = |why: String, hint: &str| Refusal { what: "failover".to_owned(), why, hint: hint.to_owned() };
        let never_seen = !self.memory.knows(self.primary);
        if never_seen && self.facts.watching_for < self.policy.start_grace {
            return decision.refuse(refusal(
                format!("{} was not seen alive since this controller started: it may still be starting", self.primary),
                "waits for it, and for the rest of the grace time",
            ));
        }
        if let Err(refused) = guard::allows(self.facts, self.policy) {
            return decision.refuse(refused);
        }
        if let Some(refused) = self.surplus_ackers() {
            return decision.refuse(refused);
        }
        self.begin_failover(cause, None, None, decision)
    }

    /// Other clients than the acker could acknowledge: the acker's promise would not bind them.
    fn surplus_ackers(&self) -> Option<Refusal> {
        let long = self.memory.surplus_ackers_for.filter(|d| *d >= self.policy.valid_for)?;
        Some(Refusal {
            what: "failover".to_owned(),
            why: format!(
                "more clients than the acker could acknowledge commits of {}, for {} ms: what they acknowledged may be nowhere else",
                self.primary,
                long.as_millis()
            ),
            hint: "let replicas attach to relays only: SHOW SLAVE HOSTS on the primary names them".to_owned(),
        })
    }

    fn begin_failover(
        &self,
        cause: String,
        to: Option<String>,
        request: Option<String>,
        decision: Decision,
    ) -> Decision {
        let means = fence::means(self.facts);
        // Without the acker there may be no candidate either, because nobody feeds the replicas: then the acker is what is missing.
        if self.choice.best().is_none() && (means.is_ok() || self.may_force()) {
            return decision.refuse(Refusal {
                what: "failover".to_owned(),
                why: format!("{cause}, and there is no candidate: {}", self.choice.summary()),
                hint: "bring one of these nodes into order".to_owned(),
            });
        }
        match means {
            Ok(_) => decision.act(Action::Failover { forced: false, to, request }, cause),
            Err(missing) => match self.may_force() {
                true => {
                    let reason = format!("{cause}; forced although {}", missing.why);
                    decision.act(Action::Failover { forced: true, to, request }, reason)
                }
                false => decision.refuse(Refusal { why: format!("{cause}, but {}", missing.why), ..missing }),
            },
        }
    }

    fn may_force(&self) -> bool {
        let patient = match (self.policy.force_after, self.memory.stuck_for) {
            (Some(limit), Some(stuck)) => stuck >= limit,
            _ => false,
        };
        patient && self.facts.relays.values().any(|r| r.answers) && fence::may_be_forced(self.facts)
    }

    fn asked_failover(&self, request: &SwitchoverRequest, decision: Decision) -> Decision {
        let refuse = |why: String| Action::RefuseRequest { id: request.id.clone(), why };
        if let Some(to) = &request.to
            && !self.choice.fit.contains(to)
        {
            let why = self.choice.why_not(to).unwrap_or("it is not known").to_owned();
            return decision
                .act(refuse(format!("{to} can't be promoted: {why}")), format!("{to} can't be promoted: {why}"));
        }
        let cause = format!("asked for by {}", request.by);
        let decided = self.begin_failover(cause, request.to.clone(), Some(request.id.clone()), decision);
        match &decided.refusing {
            Some(refusal) => {
                let why = refusal.why.clone();
                decided.act(refuse(why.clone()), why)
            }
            None => decided,
        }
    }

    fn asked_switchover(&self, request: &SwitchoverRequest, decision: Decision) -> Decision {
        match preflight(self.facts, self.memory, self.policy, request.to.as_deref()) {
            Ok(to) => {
                let reason = format!("asked for by {}", request.by);
                decision.act(Action::Switchover { to, request: Some(request.id.clone()) }, reason)
            }
            Err(refusal) => {
                let action = Action::RefuseRequest { id: request.id.clone(), why: refusal.why.clone() };
                decision.act(action, refusal.why)
            }
        }
    }

    /// Clients do not reach the primary, whose server and host are well: where policy wants it, the host that they may reach to switch over to, and why. None if
    /// that is not due. Links that come and go move it no more often than once in `valid_for`, and nothing moves while failover is paused or the guard holds.
    fn leave_a_dead_link(&self) -> Option<Result<(String, String), Refusal>> {
        self.memory.link_lost_for.filter(|lost| *lost >= self.policy.probe_timeout)?;
        if !self.policy.switchover_when_link_lost || self.memory.phase_for < self.policy.valid_for {
            return None;
        }
        let cause = format!("the virtual IP's interface on {} has no carrier", self.primary);
        let refuse = |refusal: Refusal| {
            let why = format!("{cause}; {}", refusal.why);
            Some(Err(Refusal { what: "switchover".to_owned(), why, ..refusal }))
        };
        if let Err(refusal) = guard::allows(self.facts, self.policy) {
            return refuse(refusal);
        }
        let mut refused = None;
        for node in self.choice.fit.iter().filter(|node| !candidate::is_cut_off(self.facts, node)) {
            match preflight(self.facts, self.memory, self.policy, Some(node)) {
                Ok(to) => return Some(Ok((to, cause))),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        refuse(refused.unwrap_or_else(|| Refusal {
            what: "switchover".to_owned(),
            why: format!("no other node could take over: {}", self.choice.summary()),
            hint: "see the network of these hosts".to_owned(),
        }))
    }

    fn standby(&self) -> Option<String> {
        let holder = self.state.grant_holder.as_deref();
        acker::standbys(self.facts, self.state, holder).into_iter().next()
    }

    /// The acker's fault, once it has lasted long enough to act on it.
    fn acker_change_due(&self) -> Option<Fault> {
        if self.state.asked.is_some() {
            return Some(Fault::Lost("is being replaced".to_owned()));
        }
        let fault = acker::fault(self.facts)?;
        let patience = match &fault {
            Fault::Nobody | Fault::Outdated(_) | Fault::OnPrimarysHost(_) => return Some(fault),
            // It has a connection to the primary, and commits go on: only the controllers can't see it.
            Fault::Lost(_) if acker::acknowledges(self.facts) && !self.commits_stick() => self.policy.valid_for,
            Fault::Lost(_) => self.policy.probe_timeout,
        };
        self.memory.acker_bad_for.is_some_and(|bad| bad >= patience).then_some(fault)
    }

    /// Whether commits have waited for an ack for so long that the acker gives none.
    fn commits_stick(&self) -> bool {
        self.memory.commits_stuck_for.is_some_and(|stuck| stuck >= self.policy.probe_timeout)
    }

    fn change_acker(&self, fault: Fault, decision: Decision) -> Decision {
        let holder = self.state.grant_holder.as_deref().unwrap_or_default();
        let (reason, relay) = match &fault {
            Fault::Nobody => ("no relay holds the grant".to_owned(), self.standby()),
            Fault::Lost(why) => (format!("acker {holder} {why}"), self.standby().or_else(|| self.holder_anew())),
            Fault::OnPrimarysHost(host) => {
                (format!("acker {holder} stands on the primary's host {host}"), self.standby())
            }
            Fault::Outdated(grant) => (format!("acker {holder} has promised {grant}"), self.standby()),
        };
        match relay {
            Some(to) => decision.act(Action::ChangeAcker { to }, reason),
            None if matches!(fault, Fault::OnPrimarysHost(_)) => decision,
            None => decision.refuse(Refusal {
                what: "change of acker".to_owned(),
                why: format!("{reason}, and no other relay away from the primary's host could acknowledge"),
                hint: "commits wait until such a relay is there".to_owned(),
            }),
        }
    }

    /// The holder itself, where it is fit to begin anew: with a new log, or after a change that was begun and need not have been.
    fn holder_anew(&self) -> Option<String> {
        let holder = self.state.grant_holder.clone()?;
        let relay = self.facts.relays.get(&holder)?;
        let new_log = self.state.grant_log_id.as_ref().is_some_and(|id| *id != relay.log_id);
        let fit = acker::standbys(self.facts, self.state, None).contains(&holder);
        (fit && (new_log || self.state.asked.is_some())).then_some(holder)
    }
}

/// Whether a switchover to `to` (none: the best) may begin now; which node it would be. Nothing is locked before this says yes.
pub fn preflight(facts: &ClusterFacts, memory: &Memory, policy: &Policy, to: Option<&str>) -> Result<String, Refusal> {
    let refuse = |why: String, hint: &str| Err(Refusal { what: "switchover".to_owned(), why, hint: hint.to_owned() });
    let Some((state, primary)) = facts.state.as_ref().and_then(|s| s.primary.as_deref().map(|p| (s, p))) else {
        return refuse("no primary serves at present".to_owned(), "waits for the operation under way: batonctl status");
    };
    let choice = super::foreseen(state, facts);
    // One that has everything could be promoted although its replication is stopped. But somebody has stopped it.
    let runs = |node: &&str| {
        let replication = facts.nodes.get(*node).and_then(agent).and_then(|s| s.server.as_ref()?.replication.as_ref());
        replication.is_some_and(|r| r.sql && r.io != "No")
    };
    let running = choice.fit.iter().map(String::as_str).find(runs);
    let Some(to) = to.or(running).or(choice.best()) else {
        return refuse(format!("there is no candidate: {}", choice.summary()), "bring one of these nodes into order");
    };
    if to == primary {
        return refuse(format!("{to} is the primary already"), "name another node, or none");
    }
    if !facts.nodes.contains_key(to) {
        return refuse(format!("{to} is not known"), "batonctl topology lists the nodes");
    }
    if let Some(why) = choice.why_not(to) {
        return refuse(format!("{to} can't be promoted: {why}"), "bring it into order, or name another node");
    }
    if !runs(&to) {
        return refuse(format!("replication of {to} is stopped"), "START SLAVE on it, or name another node");
    }
    if verdict::sight(primary, facts, policy).verdict != Verdict::Alive {
        return refuse(format!("{primary} is not seen alive"), "batonctl failover gives it up");
    }
    let Some(status) = facts.nodes.get(primary).and_then(agent) else {
        return refuse(format!("the agent of {primary} does not answer, which has to block writes"), "start it");
    };
    if status.server.is_none() {
        return refuse(format!("the agent of {primary} can't reach its server"), "see the agent's log");
    }
    if state.asked.is_some() {
        return refuse("the acker is being changed".to_owned(), "ask again in a moment");
    }
    match acker::fault(facts) {
        None | Some(Fault::OnPrimarysHost(_)) => {}
        Some(fault) => return refuse(fault.text(state), "batonctl topology shows the relays"),
    }
    if !matches!(fence::means(facts), Ok(Means::Promise { .. })) {
        return refuse("the acker can't promise".to_owned(), "batonctl topology shows the relays");
    }
    if memory.surplus_ackers_for.is_some_and(|d| d >= policy.valid_for) {
        return refuse(
            format!("more clients than the acker could acknowledge commits of {primary}"),
            "let replicas attach to relays only",
        );
    }
    let lag = facts.relays.values().filter_map(|r| r.replicas.get(to)).filter_map(|r| r.2).min();
    match lag.filter(|ms| u128::from(*ms) > policy.max_lag.as_millis()) {
        Some(ms) => refuse(
            format!("{to} lags by {ms} ms, and {} are allowed", policy.max_lag.as_millis()),
            "wait until it has caught up",
        ),
        None => Ok(to.to_owned()),
    }
}
