//! Which orders are obeyed. Pure.

use baton_cluster::{ClusterState, OperationKind, Phase};

use crate::model::OrderNumber;

/// Why an order is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotObeyed {
    /// A later one was obeyed already.
    Lower,
    /// Whoever gave it does not lead any more.
    Deposed {
        /// Term of the present leader.
        leader: u64,
    },
}

/// Compares an order's number with the last one obeyed and the present leader's term, as far as it is known. The same number again is obeyed
/// again: every order is idempotent.
pub fn admit(last: OrderNumber, leader: Option<u64>, number: OrderNumber) -> Result<(), NotObeyed> {
    if number < last {
        return Err(NotObeyed::Lower);
    }
    match leader {
        Some(leader) if number.term < leader => Err(NotObeyed::Deposed { leader }),
        _ => Ok(()),
    }
}

/// Whether the state still wants `me` to be writable: being promoted, or serving.
pub fn wants_open(state: &ClusterState, me: &str) -> bool {
    let is = |name: &Option<String>| name.as_deref() == Some(me);
    match state.phase {
        Phase::Steady => is(&state.primary),
        Phase::Promoting => is(&state.candidate),
        Phase::Fencing | Phase::CatchingUp => false,
    }
}

/// Whether the state still allows `me` to be writable again after it was blocked.
pub fn wants_unblock(state: &ClusterState, me: &str) -> bool {
    let is = |name: &Option<String>| name.as_deref() == Some(me);
    match state.phase {
        Phase::Steady => is(&state.primary),
        Phase::Fencing => state.kind == OperationKind::Switchover && is(&state.old_primary),
        Phase::CatchingUp | Phase::Promoting => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_becomes_writable_only_while_the_state_wants_it() {
        use OperationKind::{Failover, Switchover};
        let state = |phase, kind, primary: &str, old: &str, candidate: &str| ClusterState {
            phase,
            kind,
            primary: Some(primary.to_owned()),
            old_primary: Some(old.to_owned()),
            candidate: Some(candidate.to_owned()),
            ..ClusterState::bootstrap("x", "test", String::new())
        };
        for (state, open, unblock) in [
            (state(Phase::Steady, Failover, "me", "", ""), true, true),
            (state(Phase::Steady, Failover, "other", "me", ""), false, false),
            (state(Phase::Promoting, Failover, "", "", "me"), true, false),
            (state(Phase::Promoting, Failover, "", "me", "other"), false, false),
            (state(Phase::CatchingUp, Failover, "", "", "me"), false, false),
            (state(Phase::Fencing, Switchover, "", "me", "other"), false, true),
            (state(Phase::Fencing, Failover, "", "me", "other"), false, false),
        ] {
            assert_eq!((wants_open(&state, "me"), wants_unblock(&state, "me")), (open, unblock), "{state:?}");
        }
    }

    fn number((term, epoch, step): (u64, u64, u64)) -> OrderNumber {
        OrderNumber { term, epoch, step }
    }

    #[test]
    fn late_orders_are_refused_whichever_part_of_their_number_is_lower() {
        let deposed = |leader| Err(NotObeyed::Deposed { leader });
        for (last, leader, new, expected) in [
            ((0, 0, 0), None, (5, 1, 1), Ok(())),
            ((5, 8, 3), Some(5), (5, 8, 4), Ok(())),
            ((5, 8, 3), Some(5), (5, 8, 3), Ok(())),
            ((5, 8, 3), Some(5), (5, 8, 2), Err(NotObeyed::Lower)),
            ((5, 8, 3), Some(5), (5, 7, 9), Err(NotObeyed::Lower)),
            ((5, 8, 3), Some(5), (4, 9, 9), Err(NotObeyed::Lower)),
            ((5, 8, 3), Some(6), (6, 8, 1), Ok(())),
            // The new leader has not ordered anything yet, and the old one does not know of it.
            ((5, 8, 3), Some(6), (5, 8, 4), deposed(6)),
            // This agent has not heard of the new leader yet: the order says so.
            ((5, 8, 3), Some(5), (6, 8, 1), Ok(())),
        ] {
            assert_eq!(admit(number(last), leader, number(new)), expected, "{last:?} {leader:?} {new:?}");
        }
    }
}
