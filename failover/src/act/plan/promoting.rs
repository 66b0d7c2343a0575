//! Last step of every change of primary: the one that the state names becomes writable. If it dies here, the next failover begins from it: it
//! may have completed commits.

use baton_cluster::{ClusterState, Phase};

use super::catching_up::ms;
use super::{HistoryChange, Outcome, Plan, Scene, Step, begin};
use crate::decide::verdict;
use crate::decide::{Refusal, candidate};
use crate::model::OrderKind;

pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let Some(candidate) = &scene.state.candidate else {
        let why = "the state is promoting and names no candidate".to_owned();
        let hint = "the document was written by something else than a controller: mend it by hand".to_owned();
        return Plan::wait(Vec::new(), Refusal { what: "promotion".to_owned(), why, hint });
    };
    let open = scene.order(candidate, OrderKind::Open { acker_ms: ms(scene.policy.acker_timeout) });
    if let Some(Outcome::Done(_)) = scene.progress.outcome(&open) {
        return scene.finish(candidate);
    }
    let sight = verdict::sight(candidate, scene.facts, scene.policy);
    if sight.verdict.is_dead() {
        let reason = format!("{candidate} died while it was promoted");
        return begin::failover_instead(scene, candidate, &reason, sight.evidence);
    }
    match scene.progress.outcome(&open) {
        Some(Outcome::Refused(why) | Outcome::Failed(why) | Outcome::Unreachable(why)) => {
            if scene.memory.phase_for >= scene.policy.catch_up_timeout && scene.another_than(candidate) {
                let reason = format!("{candidate} can't be made writable: {why}");
                return begin::failover_instead(scene, candidate, &reason, sight.evidence);
            }
            let waiting = Refusal {
                what: format!("promotion of {candidate}"),
                why: format!("it can't be made writable: {why}"),
                hint: "tries again".to_owned(),
            };
            Plan::wait(vec![open], waiting)
        }
        _ => Plan::of(vec![open]),
    }
}

impl Scene<'_> {
    fn finish(&self, candidate: &str) -> Plan {
        let state = ClusterState {
            phase: Phase::Steady,
            primary: Some(candidate.to_owned()),
            candidate: None,
            asked: None,
            ..self.state.clone()
        };
        let history = HistoryChange {
            outcome: Some(("done".to_owned(), Some(candidate.to_owned()))),
            ..self.history(&[("writable", candidate.to_owned())])
        };
        Plan::of(vec![Step::Commit(Box::new(self.commit(state, history)))])
    }

    fn another_than(&self, candidate: &str) -> bool {
        let tail = self.state.tail.as_ref().map(|t| t.gtid.as_str()).unwrap_or_default();
        let failed = std::collections::BTreeMap::new();
        let wanted = candidate::Wanted {
            tail,
            is_final: false,
            old: Some(candidate),
            old_too: false,
            failed: &failed,
            teller: None,
        };
        candidate::choose(self.facts, &wanted).best().is_some()
    }
}
