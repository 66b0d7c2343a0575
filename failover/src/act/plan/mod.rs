//! What is to be done next, as data.
//!
//! Owns every operation's order of steps: failover, switchover and its take-back, changes of acker, upkeep. Promises: a plan is derived from
//! etcd's state and from facts alone, so a successor continues wherever its predecessor stopped; every step is idempotent; intent is in etcd
//! before it is acted on. Never does anything itself, never reads a clock.

mod acker;
mod begin;
mod catching_up;
mod fencing;
mod promoting;
pub mod step;
mod switchover;
#[cfg(test)]
mod tests;

use baton_cluster::{ClusterState, OperationKind, Phase};

pub use step::{Commit, HistoryChange, Outcome, Progress, Step};

use crate::decide::{Action, Decision, Memory, Refusal, Upkeep};
use crate::model::{ClusterFacts, OrderKind, Policy};

/// Names that a plan writes into documents. They are recorded, never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// The controller that acts.
    pub by: &'a str,
    /// The present time, RFC 3339.
    pub now: &'a str,
}

/// The next steps, and what is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// May run side by side. Empty: nothing to do, or only waiting.
    pub steps: Vec<Step>,
    /// What an operation under way waits for; takes precedence over the decision's own refusal.
    pub waiting: Option<Refusal>,
}

impl Plan {
    fn of(steps: Vec<Step>) -> Self {
        Self { steps, waiting: None }
    }

    fn wait(steps: Vec<Step>, waiting: Refusal) -> Self {
        Self { steps, waiting: Some(waiting) }
    }
}

/// Everything that a plan is made from.
struct Scene<'a> {
    state: &'a ClusterState,
    facts: &'a ClusterFacts,
    memory: &'a Memory,
    progress: &'a Progress,
    policy: &'a Policy,
    stamp: Stamp<'a>,
}

/// The next steps of what was decided on `facts`.
pub fn next(
    decision: &Decision,
    facts: &ClusterFacts,
    memory: &Memory,
    progress: &Progress,
    policy: &Policy,
    stamp: Stamp<'_>,
) -> Plan {
    let Some(state) = &facts.state else { return Plan::default() };
    let scene = Scene { state, facts, memory, progress, policy, stamp };
    match &decision.action {
        Action::Rest => Plan::default(),
        Action::RefuseRequest { id, why } => Plan::of(vec![Step::RefuseRequest { id: id.clone(), why: why.clone() }]),
        Action::Failover { to, request, .. } => begin::failover(&scene, decision, to.as_deref(), request.as_deref()),
        Action::Switchover { to, request } => begin::switchover(&scene, decision, to, request.as_deref()),
        Action::ChangeAcker { to } => acker::change(&scene, to),
        Action::Upkeep(due) => Plan::of(scene.upkeep(due)),
        Action::Advance => scene.advance(),
    }
}

impl Scene<'_> {
    fn advance(&self) -> Plan {
        let mut plan = match (self.state.phase, self.state.kind) {
            (Phase::Steady, _) => Plan::default(),
            (Phase::Fencing, OperationKind::Switchover) => switchover::plan(self),
            (Phase::Fencing, _) => fencing::plan(self),
            (Phase::CatchingUp, _) => catching_up::plan(self),
            (Phase::Promoting, _) => promoting::plan(self),
        };
        let commits = plan.steps.iter().any(|s| matches!(s, Step::Commit(_)));
        if let Some(request) = self.facts.request.as_ref().filter(|_| !commits) {
            let why =
                format!("another operation is under way: epoch {}, {}", self.state.epoch, self.state.cause.reason);
            plan.steps.push(Step::RefuseRequest { id: request.id.clone(), why });
        }
        plan
    }

    fn upkeep(&self, due: &[Upkeep]) -> Vec<Step> {
        let step = |upkeep: &Upkeep| match upkeep {
            Upkeep::Follow { node, relay, .. } => {
                let source = self.facts.relays.get(relay)?.record.replication.clone();
                Some(self.order(node, OrderKind::Follow { source, relay: relay.clone() }))
            }
            Upkeep::Open { node } => {
                Some(self.order(node, OrderKind::Open { acker_ms: catching_up::ms(self.policy.acker_timeout) }))
            }
            Upkeep::AllowAcker { node, user } => Some(self.order(node, OrderKind::AllowAcker { user: user.clone() })),
        };
        due.iter().filter_map(step).collect()
    }

    fn order(&self, node: &str, kind: OrderKind) -> Step {
        Step::Order { node: node.to_owned(), epoch: self.state.epoch, kind }
    }

    /// Commits `state` with what `history` says of the operation's present stage.
    fn commit(&self, state: ClusterState, history: HistoryChange) -> Commit {
        Commit { state, epoch: None, history: vec![history], takes_request: None, abandons: None }
    }

    /// A change of the history of the operation under way.
    fn history(&self, stages: &[(&str, String)]) -> HistoryChange {
        HistoryChange {
            epoch: self.state.epoch,
            kind: self.state.kind,
            from: self.state.old_primary.clone(),
            stages: stages.iter().map(|(name, detail)| ((*name).to_owned(), detail.clone())).collect(),
            tail: self.state.tail.clone(),
            evidence: Vec::new(),
            outcome: None,
        }
    }
}
