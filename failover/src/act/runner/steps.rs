//! Steps other than commits: begun, not begun twice, tried again after a pause.

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::store::{Change, Snapshot};
use tokio::time::Instant;

use super::{Answer, Done, Runner};
use crate::act::plan::{Outcome, Step};
use crate::model::{ClusterFacts, OrderKind};

/// First pause after a failure; doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(2);

/// When a step that failed may be tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) until: Instant,
    pause: Duration,
}

impl Wait {
    pub(super) fn after(before: Option<&Self>) -> Self {
        let pause = before.map_or(PAUSE, |w| (w.pause * 2).min(LONGEST));
        Self { until: Instant::now() + pause, pause }
    }
}

/// A step as people read it.
pub(super) fn in_words(step: &Step) -> String {
    match step {
        Step::Commit(commit) => format!("record epoch {} in etcd", commit.state.epoch),
        Step::Promise { relay, grant } => format!("have {relay} promise {grant}"),
        Step::Rescue { relay, node, .. } => format!("have {relay} read the end of {node}'s binlog"),
        Step::Order { node, kind, .. } => match kind {
            OrderKind::CatchUp { gtid, .. } if gtid.is_empty() => format!("have {node} apply what it has received"),
            OrderKind::CatchUp { gtid, .. } => format!("have {node} apply everything up to {gtid}"),
            kind => format!("order {node} to {}", kind.name()),
        },
        Step::RefuseRequest { .. } => "refuse the request".to_owned(),
    }
}

impl Runner {
    /// Begins a step, unless it is under way or its pause is not over.
    pub(super) fn start(&mut self, step: Step, facts: &ClusterFacts, etcd: &Arc<Snapshot>, now: Instant) {
        let Some(lead) = &mut self.lead else { return };
        // The time that this turn has taken counts too.
        if self.o.leadership.borrow().term(Instant::now()) != Some(lead.term) {
            return;
        }
        let name = in_words(&step);
        if lead.running.contains(&step) || lead.waits.get(&name).is_some_and(|w| now < w.until) {
            return;
        }
        let (hands, term) = (self.o.hands.clone(), lead.term);
        lead.running.push(step.clone());
        let node_of = |name: &str| facts.nodes.get(name).map(|n| n.record.clone());
        let relay_of = |name: &str| facts.relays.get(name).map(|r| r.record.clone());
        let unknown = |name: &str| Outcome::Failed(format!("nobody knows how to reach {name}"));
        match &step {
            Step::Commit(_) => {}
            Step::Promise { relay, grant } => {
                tracing::info!(relay, %grant, term, "asks the relay to promise");
                let (found, unknown, grant) = (relay_of(relay), unknown(relay), *grant);
                self.tasks.spawn(async move {
                    let outcome = match found {
                        Some(relay) => hands.promise(&relay, term, grant).await,
                        None => unknown,
                    };
                    Done::Step(step, outcome)
                });
            }
            Step::Rescue { relay, node, grant } => {
                tracing::info!(relay, node, %grant, term, "has the relay complete itself from the server's binlog");
                let unknown = unknown(relay);
                let (found, node, grant) = (relay_of(relay), node_of(node), *grant);
                self.tasks.spawn(async move {
                    let outcome = match (found, node) {
                        (Some(relay), Some(node)) => hands.rescue(&relay, &node.http, term, grant).await,
                        _ => unknown,
                    };
                    Done::Step(step, outcome)
                });
            }
            Step::Order { node, epoch, kind } => {
                let number = lead.progress.number(term, *epoch);
                tracing::info!(node, order = kind.name(), term, epoch, step = number.step, "orders the node");
                let (found, unknown, kind) = (node_of(node), unknown(node), kind.clone());
                self.tasks.spawn(async move {
                    let outcome = match found {
                        Some(node) => hands.order(&node, number, kind).await,
                        None => unknown,
                    };
                    Done::Step(step, outcome)
                });
            }
            Step::RefuseRequest { id, .. } => {
                let request = etcd.request.as_ref().filter(|r| r.value.id == *id).map(|r| r.mod_revision);
                let store = self.o.store.clone();
                self.tasks.spawn(async move {
                    let Some(revision) = request else { return Done::Step(step, Outcome::Done(Default::default())) };
                    let key = store.keys().request();
                    let change = Change::new().expect(key.clone(), revision).delete(key);
                    let outcome = match store.commit(term, change).await {
                        Ok(_) => Outcome::Done(Default::default()),
                        Err(error) => Outcome::Failed(error.to_string()),
                    };
                    Done::Step(step, outcome)
                });
            }
        }
    }

    /// A step has ended.
    pub(super) fn finished(&mut self, step: Step, outcome: Outcome) {
        let Some(lead) = &mut self.lead else { return };
        lead.running.retain(|s| *s != step);
        let name = in_words(&step);
        // Also one that was done: a plan that asks for it again has its reasons, but no haste.
        let first = !lead.waits.contains_key(&name);
        let wait = Wait::after(lead.waits.get(&name));
        lead.waits.insert(name.clone(), wait);
        match &outcome {
            Outcome::Promised { complete, tail, .. } => {
                tracing::info!(step = name, complete, tail = tail.gtid, "done");
            }
            Outcome::Done(_) => {
                tracing::info!(step = name, "done");
                if let Step::RefuseRequest { id, why } = &step {
                    tracing::warn!(id, why, "the request is refused");
                    let _ = self.o.answers.send(Answer { id: id.clone(), result: Err(why.clone()) });
                }
            }
            Outcome::Refused(why) | Outcome::Failed(why) | Outcome::Unreachable(why) => {
                if first {
                    tracing::warn!(step = name, why, "failed");
                } else {
                    tracing::debug!(step = name, why, "failed again");
                }
            }
        }
        if let Some(at) = lead.replies.iter().position(|(s, _)| *s == step) {
            let (_, reply) = lead.replies.swap_remove(at);
            let _ = reply.send(outcome);
            return;
        }
        lead.progress.record(&step, outcome);
    }
}
