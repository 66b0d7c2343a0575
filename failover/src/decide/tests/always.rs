//! What holds whatever befalls the cluster: any few faults together.

use proptest::prelude::*;

use super::problems::FAULTS;
use super::*;
use crate::act::plan::{Progress, Stamp, Step, next};
use crate::decide::{ETCD_STALE, fence, guard, verdict};
use crate::model::invariants::check;

/// What takes a part away: of that nothing else can be said.
const LOSSES: &[&str] = &[
    "primary_crashed",
    "primary_frozen",
    "primary_host_gone",
    "primary_agent_lost",
    "agent_lost",
    "replica_down",
    "truth_unreachable",
    "not_bootstrapped",
];

/// All of the faults that leave every part in place, then the first of those that take one away.
fn afflicted(faults: &[usize]) -> ClusterFacts {
    let mut facts = healthy();
    let (losses, others): (Vec<usize>, Vec<usize>) = faults.iter().partition(|f| LOSSES.contains(&FAULTS[**f].0));
    others.iter().chain(losses.first()).for_each(|fault| (FAULTS[*fault].2)(&mut facts));
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_done_is_allowed_and_what_is_not_done_says_why(
        faults in prop::collection::vec(0..FAULTS.len(), 0..5),
        lasting in 0u64..40_000,
    ) {
        let facts = afflicted(&faults);
        let policy = Policy::default();
        let memory = remembered(&facts, ms(lasting), &policy);
        let decision = decide(&facts, &memory, &policy);
        prop_assert_eq!(&decision, &decide(&facts, &memory, &policy));
        let Some(state) = &facts.state else {
            prop_assert_eq!(decision.action, Action::Rest);
            return Ok(());
        };
        if matches!(decision.action, Action::Failover { .. }) {
            prop_assert!(guard::allows(&facts, &policy).is_ok());
            prop_assert!(fence::means(&facts).is_ok());
            prop_assert!(decision.candidate.is_some());
            prop_assert!(facts.etcd_age <= ETCD_STALE);
        }
        let primary = state.primary.as_deref().unwrap_or_default();
        if verdict::sight(primary, &facts, &policy).verdict.is_dead() && decision.action == Action::Rest {
            prop_assert!(decision.refusing.is_some(), "nothing is done about a dead primary, and nothing is said");
        }
        let stamp = Stamp { by: "controller-1", now: "now" };
        for step in next(&decision, &facts, &memory, &Progress::new(), &policy, stamp).steps {
            if let Step::Commit(commit) = step {
                prop_assert_eq!(check(state, &commit.state), Ok(()));
            }
        }
    }
}
