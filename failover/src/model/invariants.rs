//! The invariants, written once: used by tests, by the model of the whole cluster, and as a check of every change before it is committed.
//!
//! [`check`] judges two successive states of etcd's document. The predicates below it judge a cluster as somebody sees it from above; no single
//! part of Baton can see that much, but a model and a test can.

use baton_cluster::{ClusterState, OperationKind, Phase};

use super::OrderNumber;

/// A change of state that must never be committed, or a view of the cluster that must never be seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// An epoch is skipped or comes back.
    #[error("epoch {after} after epoch {before}: it stays or grows by one")]
    Epoch {
        /// Before the change.
        before: u64,
        /// After it.
        after: u64,
    },
    /// The document contradicts itself.
    #[error("a state in phase {phase:?} {what}")]
    Shape {
        /// Its phase.
        phase: Phase,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The phase does not follow.
    #[error("{after:?} in epoch {epoch} does not follow on {before:?}")]
    Phase {
        /// Before the change.
        before: Phase,
        /// After it.
        after: Phase,
        /// After it.
        epoch: u64,
    },
    /// The grant goes back, or passes to another relay without being raised.
    #[error("grant {after} after {before}: {what}")]
    Grant {
        /// Before the change.
        before: String,
        /// After it.
        after: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Somebody becomes primary who was not promoted.
    #[error("{node} becomes primary, and was neither promoted in this epoch nor taken back into service")]
    Unpromoted {
        /// The node.
        node: String,
    },
    /// Another candidate, or another tail, within an operation's second half.
    #[error("the {what} changes within epoch {epoch}")]
    Changed {
        /// `candidate` or `tail`.
        what: &'static str,
        /// The epoch.
        epoch: u64,
    },
    /// Invariant 1.
    #[error("{} can complete commits at the same time", .0.join(" and "))]
    TwoCanCommit(Vec<String>),
    /// Invariant 2.
    #[error("{node} becomes writable without {missing}, which clients saw committed")]
    Lost {
        /// The new primary.
        node: String,
        /// What it lacks.
        missing: String,
    },
    /// Invariant 3.
    #[error("the address is held by {}", .0.join(" and "))]
    Address(Vec<String>),
    /// Invariant 4.
    #[error("order {after:?} was obeyed after {before:?}")]
    LateOrder {
        /// The last one obeyed before.
        before: OrderNumber,
        /// The one that was obeyed.
        after: OrderNumber,
    },
}

/// Whether `after` may follow on `before` in etcd.
pub fn check(before: &ClusterState, after: &ClusterState) -> Result<(), Violation> {
    shape(after)?;
    if after.epoch != before.epoch && after.epoch != before.epoch + 1 {
        return Err(Violation::Epoch { before: before.epoch, after: after.epoch });
    }
    phases(before, after)?;
    grants(before, after)?;
    primary(before, after)?;
    second_half(before, after)
}

/// Whether the document agrees with itself.
pub fn shape(state: &ClusterState) -> Result<(), Violation> {
    let wrong = |what| Err(Violation::Shape { phase: state.phase, what });
    if state.grant.epoch > state.epoch {
        return wrong("has a grant of an epoch that has not begun");
    }
    if state.asked.is_some_and(|asked| asked <= state.grant) {
        return wrong("asks for a grant that is not above the one in force");
    }
    match state.phase {
        Phase::Steady if state.primary.is_none() => wrong("names no primary"),
        Phase::Steady if state.candidate.is_some() => wrong("names a candidate"),
        Phase::Steady => Ok(()),
        _ if state.primary.is_some() => wrong("names a primary"),
        Phase::Fencing if state.old_primary.is_none() => wrong("does not say whom it fences"),
        Phase::Fencing | Phase::CatchingUp if state.asked.is_none_or(|asked| asked.epoch != state.epoch) => {
            wrong("does not ask for a grant of its own epoch")
        }
        Phase::Fencing => Ok(()),
        _ if state.candidate.is_none() => wrong("names no candidate"),
        _ if state.tail.is_none() => wrong("does not know the tail"),
        Phase::Promoting if state.grant.epoch != state.epoch => wrong("has no grant of its own epoch"),
        Phase::CatchingUp | Phase::Promoting => Ok(()),
    }
}

fn phases(before: &ClusterState, after: &ClusterState) -> Result<(), Violation> {
    let next_epoch = after.epoch > before.epoch;
    let follows = match (before.phase, after.phase) {
        // An operation begins, anew if need be, with a new epoch.
        (_, Phase::Fencing) => next_epoch,
        // The truth is found; or another candidate is taken, under a new epoch.
        (Phase::Fencing, Phase::CatchingUp) => !next_epoch,
        (Phase::CatchingUp, Phase::CatchingUp) => next_epoch,
        (Phase::CatchingUp, Phase::Promoting) | (Phase::Promoting, Phase::Steady) => !next_epoch,
        // A switchover is taken back.
        (Phase::Fencing, Phase::Steady) => !next_epoch && before.kind == OperationKind::Switchover,
        (Phase::Steady, Phase::Steady) => !next_epoch,
        _ => false,
    };
    match follows {
        true => Ok(()),
        false => Err(Violation::Phase { before: before.phase, after: after.phase, epoch: after.epoch }),
    }
}

fn grants(before: &ClusterState, after: &ClusterState) -> Result<(), Violation> {
    let wrong = |what| Err(Violation::Grant { before: before.grant.to_string(), after: after.grant.to_string(), what });
    if after.grant < before.grant {
        return wrong("it only rises");
    }
    let raised = after.grant > before.grant;
    if raised && before.asked.is_some_and(|asked| after.grant != asked) {
        return wrong("it is not the one that was asked for");
    }
    if raised && before.grant_holder.is_some() && before.asked.is_none() {
        return wrong("its former holder was not revoked");
    }
    let truth_found = after.phase == Phase::CatchingUp;
    if !raised && !truth_found && after.grant_holder != before.grant_holder {
        return wrong("it passes to another relay without being raised");
    }
    Ok(())
}

fn primary(before: &ClusterState, after: &ClusterState) -> Result<(), Violation> {
    let Some(node) = &after.primary else { return Ok(()) };
    let promoted = before.phase == Phase::Promoting && before.candidate.as_ref() == Some(node);
    let taken_back = before.phase == Phase::Fencing && before.old_primary.as_ref() == Some(node);
    let serves_on = before.primary.as_ref() == Some(node);
    match promoted || taken_back || serves_on {
        true => Ok(()),
        false => Err(Violation::Unpromoted { node: node.clone() }),
    }
}

fn second_half(before: &ClusterState, after: &ClusterState) -> Result<(), Violation> {
    let within = matches!(before.phase, Phase::CatchingUp | Phase::Promoting)
        && matches!(after.phase, Phase::CatchingUp | Phase::Promoting);
    if within && after.tail != before.tail {
        return Err(Violation::Changed { what: "tail", epoch: after.epoch });
    }
    if within && after.epoch == before.epoch && after.candidate != before.candidate {
        return Err(Violation::Changed { what: "candidate", epoch: after.epoch });
    }
    Ok(())
}

/// Invariant 1: of the servers that accept writes and whose commits somebody would acknowledge now, there is at most one.
pub fn at_most_one_can_commit<'a>(able: impl Iterator<Item = &'a str>) -> Result<(), Violation> {
    let able: Vec<String> = able.map(str::to_owned).collect();
    if able.len() > 1 { Err(Violation::TwoCanCommit(able)) } else { Ok(()) }
}

/// Invariant 2: what clients saw committed is on `node` before it becomes writable. `acked` and `has` are logs from their beginning.
pub fn acked_is_there<T: PartialEq + std::fmt::Debug>(node: &str, acked: &[T], has: &[T]) -> Result<(), Violation> {
    if has.starts_with(acked) {
        return Ok(());
    }
    let common = acked.iter().zip(has).take_while(|(a, b)| a == b).count();
    Err(Violation::Lost { node: node.to_owned(), missing: format!("{:?}", acked.get(common..).unwrap_or_default()) })
}

/// Invariant 3: the address is held by at most one node.
pub fn address_once<'a>(holders: impl Iterator<Item = &'a str>) -> Result<(), Violation> {
    let holders: Vec<String> = holders.map(str::to_owned).collect();
    if holders.len() > 1 { Err(Violation::Address(holders)) } else { Ok(()) }
}

/// Invariant 4: orders are obeyed in the order of their numbers.
pub fn orders_grow(before: OrderNumber, obeyed: OrderNumber) -> Result<(), Violation> {
    if obeyed >= before { Ok(()) } else { Err(Violation::LateOrder { before, after: obeyed }) }
}
