//! In which role a server starts. Pure.
//!
//! A primary of the *same* epoch starts in the master role: there, truncating its binlog would let GTIDs be used twice. A deposed one starts in
//! the replica role, which truncates what its engine had not committed; but not before the operation is over, since the end of its binlog may be
//! all that there is of the last acknowledged commits. Without knowledge nothing starts.

use baton_cluster::{ClusterState, OperationKind, Phase};

use crate::model::ServerRole;

/// How a server may start. It is read-only in every case but the last but one: writable it becomes later, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Start {
    /// In the master role, semi-sync on from the first instant.
    Primary,
    /// In the replica role (`init_rpl_role=SLAVE`), semi-sync off.
    Replica,
    /// There is no cluster yet: in the master role, semi-sync off.
    Unassigned,
    /// The cluster was given up: as the server was used then, semi-sync off; the primary writable, a replica replicating.
    GivenUp(ServerRole),
    /// Not now, and why.
    Wait(String),
}

/// What etcd said when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// It does not answer.
    Unknown,
    /// There is no state: the cluster was not bootstrapped.
    Nothing,
    /// The state.
    State(&'a ClusterState),
}

/// What this node was, as its agent keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastKnown {
    /// What the server was for.
    pub role: ServerRole,
    /// The epoch in which it became that.
    pub epoch: u64,
    /// The highest epoch that an order was obeyed of: a state of an older one is out of date.
    pub ordered: u64,
    /// What it was for when it was given up.
    pub given_up: Option<ServerRole>,
}

/// See the module.
pub fn start_rule(asked: Asked<'_>, me: &str, last: LastKnown) -> Start {
    let state = match asked {
        Asked::State(state) => state,
        Asked::Nothing => return last.given_up.map_or(Start::Unassigned, Start::GivenUp),
        Asked::Unknown if last.given_up.is_some() => {
            return Start::Wait(
                "etcd does not answer, so it is not known whether the cluster that was given up was taken up again; if Baton is not \
                 wanted any more, start the server without its agent"
                    .to_owned(),
            );
        }
        // It can't have become anything else without an order to this agent.
        Asked::Unknown if last.role == ServerRole::Replica => return Start::Replica,
        Asked::Unknown => {
            return Start::Wait("etcd does not answer, so the role of this server is not known".to_owned());
        }
    };
    if state.epoch < last.ordered {
        return Start::Wait(format!(
            "the state in etcd is of epoch {}, but orders of epoch {} were obeyed",
            state.epoch, last.ordered
        ));
    }
    let is = |name: &Option<String>| name.as_deref() == Some(me);
    match state.phase {
        Phase::Steady if is(&state.primary) => Start::Primary,
        Phase::Steady => Start::Replica,
        // The tail of its epoch may still be read from its binlog; or, in a switchover, it may be put back into service. What an earlier epoch ended with
        // was settled before another server could be named: whoever was fenced for that may be needed.
        _ if is(&state.old_primary) => {
            let what = match state.kind {
                OperationKind::Switchover => "switchover",
                _ => "failover",
            };
            Start::Wait(format!(
                "a {what} away from this server is under way: what is the end of its epoch is not settled"
            ))
        }
        // Its epoch is recorded: what it has beyond the tail can only have come after it was made writable.
        Phase::Promoting if is(&state.candidate) => Start::Primary,
        Phase::Fencing | Phase::CatchingUp | Phase::Promoting => Start::Replica,
    }
}

/// What the server is for once it has started so.
pub fn role_after(start: &Start, last: ServerRole) -> ServerRole {
    match (start, last) {
        (Start::Primary, _) => ServerRole::Primary,
        (Start::Unassigned | Start::GivenUp(_), _) => ServerRole::Unassigned,
        // Until it follows, whatever it was.
        (Start::Replica, ServerRole::Primary | ServerRole::Fenced) => ServerRole::Fenced,
        (Start::Replica, ServerRole::Diverged) => ServerRole::Diverged,
        (Start::Replica, ServerRole::Replica | ServerRole::Unassigned) => ServerRole::Replica,
        (Start::Wait(_), last) => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "db-1";

    fn state(epoch: u64, phase: Phase, kind: OperationKind) -> ClusterState {
        ClusterState { epoch, phase, kind, primary: None, ..ClusterState::bootstrap("db-2", "test", String::new()) }
    }

    fn steady(epoch: u64, primary: &str) -> ClusterState {
        ClusterState { primary: Some(primary.to_owned()), ..state(epoch, Phase::Steady, OperationKind::Failover) }
    }

    fn last(role: ServerRole, ordered: u64) -> LastKnown {
        LastKnown { role, epoch: ordered, ordered, given_up: None }
    }

    fn short(start: &Start) -> &'static str {
        match start {
            Start::Primary => "primary",
            Start::Replica => "replica",
            Start::Unassigned => "unassigned",
            Start::GivenUp(_) => "given up",
            Start::Wait(_) => "wait",
        }
    }

    #[test]
    fn a_server_starts_as_what_the_state_says_and_waits_where_that_is_not_settled() {
        use OperationKind::{Failover, Switchover};
        let old = |s: ClusterState| ClusterState { old_primary: Some(ME.to_owned()), ..s };
        let candidate = |s: ClusterState| ClusterState { candidate: Some(ME.to_owned()), ..s };
        for (name, state, role, ordered, expected) in [
            ("the primary of the same epoch", steady(3, ME), ServerRole::Primary, 3, "primary"),
            ("the same after it fenced itself", steady(3, ME), ServerRole::Fenced, 3, "primary"),
            ("the same after a switchover was taken back", steady(4, ME), ServerRole::Primary, 4, "primary"),
            ("bootstrapped while it was down", steady(1, ME), ServerRole::Unassigned, 0, "primary"),
            ("deposed", steady(4, "db-2"), ServerRole::Primary, 3, "replica"),
            ("a replica", steady(4, "db-2"), ServerRole::Replica, 2, "replica"),
            ("a new node", steady(4, "db-2"), ServerRole::Unassigned, 0, "replica"),
            ("a state older than its orders", steady(3, ME), ServerRole::Fenced, 4, "wait"),
            ("its failover begins", old(state(4, Phase::Fencing, Failover)), ServerRole::Primary, 3, "wait"),
            ("its failover has a tail", old(state(4, Phase::CatchingUp, Failover)), ServerRole::Primary, 3, "wait"),
            ("its failover promotes", old(state(4, Phase::Promoting, Failover)), ServerRole::Fenced, 4, "wait"),
            ("a candidate that was fenced", state(5, Phase::CatchingUp, Failover), ServerRole::Fenced, 4, "replica"),
            ("fenced for an earlier epoch", state(5, Phase::Fencing, Failover), ServerRole::Fenced, 4, "replica"),
            ("its switchover begins", old(state(4, Phase::Fencing, Switchover)), ServerRole::Primary, 4, "wait"),
            ("a bystander of a failover", state(4, Phase::Fencing, Failover), ServerRole::Replica, 0, "replica"),
            (
                "a candidate before its epoch",
                candidate(state(4, Phase::CatchingUp, Failover)),
                ServerRole::Replica,
                4,
                "replica",
            ),
            (
                "a candidate in its epoch",
                candidate(state(4, Phase::Promoting, Failover)),
                ServerRole::Primary,
                4,
                "primary",
            ),
        ] {
            let start = start_rule(Asked::State(&state), ME, last(role, ordered));
            assert_eq!(short(&start), expected, "{name}: {start:?}");
        }
    }

    #[test]
    fn without_etcd_only_a_replica_starts_and_without_a_cluster_everything_starts_read_only() {
        for (role, unknown, nothing) in [
            (ServerRole::Primary, "wait", "unassigned"),
            (ServerRole::Replica, "replica", "unassigned"),
            (ServerRole::Fenced, "wait", "unassigned"),
            (ServerRole::Unassigned, "wait", "unassigned"),
            (ServerRole::Diverged, "wait", "unassigned"),
        ] {
            assert_eq!(short(&start_rule(Asked::Unknown, ME, last(role, 3))), unknown, "{role:?}");
            assert_eq!(short(&start_rule(Asked::Nothing, ME, last(role, 3))), nothing, "{role:?}");
        }
    }

    #[test]
    fn a_server_that_was_given_up_starts_as_it_was_unless_somebody_may_have_taken_it_up_again() {
        let last = LastKnown { given_up: Some(ServerRole::Primary), ..last(ServerRole::Unassigned, 3) };
        assert_eq!(start_rule(Asked::Nothing, ME, last), Start::GivenUp(ServerRole::Primary));
        assert_eq!(short(&start_rule(Asked::Unknown, ME, last)), "wait");
        assert_eq!(start_rule(Asked::State(&steady(4, "db-2")), ME, last), Start::Replica);
        assert_eq!(start_rule(Asked::State(&steady(4, ME)), ME, last), Start::Primary);
    }

    #[test]
    fn who_was_primary_and_starts_as_a_replica_is_fenced_until_it_follows() {
        assert_eq!(role_after(&Start::Replica, ServerRole::Primary), ServerRole::Fenced);
        assert_eq!(role_after(&Start::Replica, ServerRole::Diverged), ServerRole::Diverged);
        assert_eq!(role_after(&Start::Replica, ServerRole::Unassigned), ServerRole::Replica);
        assert_eq!(role_after(&Start::Primary, ServerRole::Fenced), ServerRole::Primary);
        assert_eq!(role_after(&Start::Wait(String::new()), ServerRole::Fenced), ServerRole::Fenced);
    }
}
