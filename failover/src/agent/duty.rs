//! What follows from the cluster's state without an order. Pure.
//!
//! An agent opens its server by itself only where nothing is under way and the state names it; it fences its server as soon as the state says
//! that somebody else takes over without its cooperation.

use baton_cluster::{ClusterState, LeftRecord, OperationKind, Phase};

use super::kept::Duty;
use crate::model::ServerRole;

/// What the agent knows of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Local {
    /// Whether the process lives.
    pub alive: bool,
    /// `read_only`, if the server answers.
    pub read_only: Option<bool>,
    /// Whether this process was made writable, or found so, under the state of this epoch.
    pub opened_epoch: Option<u64>,
    /// Whether replication is set up, with both threads stopped and no error, in a process that has just begun.
    pub resumable: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Act {
    /// As if ordered: somebody else takes over. The text says why.
    Fence(String),
    /// Make the server writable: the state says that it is the primary, and nobody orders it.
    Open,
    /// Keep writes out: the state says that another node is the primary.
    MakeReadOnly,
    /// Note that this node is a replica of an existing cluster.
    NoteReplica,
    /// Replicate on as it was told before the server was restarted.
    Resume,
    /// The cluster was given up in this epoch: let go of the server.
    LetGo(u64),
}

/// What follows from the state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Whether this node is to hold the virtual IP.
    pub hold: bool,
    /// Whether the address is nobody's business any more.
    pub hands_off: bool,
    /// What is to be done, most urgent first.
    pub acts: Vec<Act>,
}

/// See the module. `state` is none while nothing was read of etcd, or there is no cluster; `left` says that it was given up.
pub fn verdict(
    state: Option<&ClusterState>,
    left: Option<&LeftRecord>,
    me: &str,
    duty: &Duty,
    local: Local,
) -> Verdict {
    // Given up, until a later state says that the cluster was taken up again.
    if duty.given_up.is_some() && state.is_none_or(|s| s.epoch <= duty.role_epoch) {
        return Verdict { hands_off: true, ..Verdict::default() };
    }
    let mut verdict = Verdict { hold: may_hold(state, me, duty, local), ..Verdict::default() };
    let Some(state) = state else {
        // Not before the server answers: semi-sync is to be switched off there.
        let left = left.filter(|l| l.state.epoch >= duty.role_epoch && (!local.alive || local.read_only.is_some()));
        verdict.acts.extend(left.map(|l| Act::LetGo(l.state.epoch)));
        return verdict;
    };
    if state.epoch < duty.last_order.epoch {
        // Out of date: what was ordered is newer.
        return verdict;
    }
    let is = |name: &Option<String>| name.as_deref() == Some(me);
    if duty.role == ServerRole::Primary && state.epoch > duty.role_epoch {
        if let Some(why) = deposed(state, me, duty) {
            verdict.hold = false;
            verdict.acts.push(Act::Fence(why));
            return verdict;
        }
    }
    let steady = state.phase == Phase::Steady;
    if steady && is(&state.primary) {
        let opened =
            local.opened_epoch == Some(state.epoch) && duty.blocked.is_none() && duty.role == ServerRole::Primary;
        if local.alive && local.read_only.is_some() && !opened {
            verdict.acts.push(Act::Open);
        }
        return verdict;
    }
    if !steady || state.primary.is_none() || duty.role == ServerRole::Primary {
        return verdict;
    }
    if local.alive && local.read_only == Some(false) {
        verdict.acts.push(Act::MakeReadOnly);
    }
    match duty.role {
        ServerRole::Unassigned => verdict.acts.push(Act::NoteReplica),
        ServerRole::Replica if local.resumable && duty.following.is_some() => verdict.acts.push(Act::Resume),
        _ => {}
    }
    verdict
}

/// Why a server that is the primary of an older epoch is not any more.
fn deposed(state: &ClusterState, me: &str, duty: &Duty) -> Option<String> {
    let is = |name: &Option<String>| name.as_deref() == Some(me);
    // Blocked for this switchover: it writes nothing, and waits for the order to follow.
    let blocked = duty.blocked.is_some_and(|b| b.epoch <= state.epoch);
    let epoch = state.epoch;
    match state.phase {
        _ if is(&state.primary) || is(&state.candidate) => None,
        Phase::Fencing if state.kind == OperationKind::Switchover => None,
        _ if blocked && state.kind == OperationKind::Switchover => None,
        Phase::Steady => {
            let primary = state.primary.as_deref().unwrap_or("nobody");
            Some(format!("{primary} is the primary since epoch {epoch}"))
        }
        Phase::Fencing | Phase::CatchingUp | Phase::Promoting => {
            Some(format!("another server takes over in epoch {epoch}: {}", state.cause.reason))
        }
    }
}

fn may_hold(state: Option<&ClusterState>, me: &str, duty: &Duty, local: Local) -> bool {
    // For the moment in which its clients are sent away it need not be writable.
    let closing = duty.blocked.is_some_and(|b| b.closing);
    let serves = local.alive && (closing || local.read_only == Some(false) && duty.blocked.is_none());
    if !serves || duty.role != ServerRole::Primary || duty.self_fenced {
        return false;
    }
    // Ordered to be writable, and nothing newer is known.
    let ordered = duty.opened.map(|(_, epoch)| epoch);
    match state {
        None => ordered.is_some(),
        Some(state) if state.epoch < duty.last_order.epoch => ordered.is_some_and(|e| e >= duty.last_order.epoch),
        Some(state) if state.phase == Phase::Steady => state.primary.as_deref() == Some(me),
        // Being promoted, and open already; or a switchover away that has not blocked it yet.
        Some(state) if state.candidate.as_deref() == Some(me) => ordered == Some(state.epoch),
        Some(state) => {
            state.kind == OperationKind::Switchover
                && state.phase == Phase::Fencing
                && state.old_primary.as_deref() == Some(me)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::kept::{Blocked, Following};
    use crate::model::OrderNumber;

    const ME: &str = "db-1";

    fn state(epoch: u64, phase: Phase, kind: OperationKind) -> ClusterState {
        let other = ClusterState::bootstrap("db-2", "test", String::new());
        ClusterState { epoch, phase, kind, primary: None, old_primary: Some(ME.to_owned()), ..other }
    }

    fn steady(epoch: u64, primary: &str) -> ClusterState {
        let primary = Some(primary.to_owned());
        ClusterState { primary, old_primary: None, ..state(epoch, Phase::Steady, OperationKind::Failover) }
    }

    fn primary_of(epoch: u64) -> Duty {
        Duty { role: ServerRole::Primary, role_epoch: epoch, opened: Some((1, epoch)), ..Duty::default() }
    }

    fn given_up(epoch: u64) -> Duty {
        Duty { given_up: Some(ServerRole::Primary), role_epoch: epoch, ..Duty::default() }
    }

    fn ordered(duty: Duty, epoch: u64) -> Duty {
        Duty { last_order: OrderNumber { term: 1, epoch, step: 1 }, ..duty }
    }

    const SERVING: Local = Local { alive: true, read_only: Some(false), opened_epoch: Some(3), resumable: false };
    const BOOTED: Local = Local { alive: true, read_only: Some(true), opened_epoch: None, resumable: false };
    const DEAD: Local = Local { alive: false, read_only: None, opened_epoch: None, resumable: false };

    fn names(verdict: &Verdict) -> Vec<&'static str> {
        let name = |act: &Act| match act {
            Act::Fence(_) => "fence",
            Act::Open => "open",
            Act::MakeReadOnly => "read_only",
            Act::NoteReplica => "note",
            Act::Resume => "resume",
            Act::LetGo(_) => "let go",
        };
        verdict.acts.iter().map(name).collect()
    }

    #[test]
    fn what_follows_from_the_state() {
        use OperationKind::{Failover, Switchover};
        let block = |duty: Duty, epoch| Duty { blocked: Some(Blocked { epoch, closing: false }), ..duty };
        let replica = Duty { role: ServerRole::Replica, ..Duty::default() };
        let following = Some(Following { source: "r:1".into(), relay: "r".into() });
        let candidate = |s: ClusterState| ClusterState { candidate: Some(ME.to_owned()), old_primary: None, ..s };
        for (name, state, duty, local, hold, acts) in [
            ("serves", Some(steady(3, ME)), primary_of(3), SERVING, true, vec![]),
            ("etcd was never read", None, primary_of(3), SERVING, true, vec![]),
            ("restarted as primary", Some(steady(3, ME)), primary_of(3), BOOTED, false, vec!["open"]),
            ("dead", Some(steady(3, ME)), primary_of(3), DEAD, false, vec![]),
            ("bootstrapped", Some(steady(1, ME)), Duty::default(), BOOTED, false, vec!["open"]),
            ("adopted while writable", Some(steady(1, ME)), Duty::default(), SERVING, false, vec!["open"]),
            (
                "a failover from it",
                Some(state(4, Phase::Fencing, Failover)),
                primary_of(3),
                SERVING,
                false,
                vec!["fence"],
            ),
            ("was away during one", Some(steady(5, "db-2")), primary_of(3), SERVING, false, vec!["fence"]),
            ("a switchover begins", Some(state(4, Phase::Fencing, Switchover)), primary_of(3), SERVING, true, vec![]),
            (
                "a switchover has blocked it",
                Some(state(4, Phase::Fencing, Switchover)),
                block(ordered(primary_of(3), 4), 4),
                BOOTED,
                false,
                vec![],
            ),
            (
                "a switchover sends its clients away",
                Some(state(4, Phase::Fencing, Switchover)),
                Duty { blocked: Some(Blocked { epoch: 4, closing: true }), ..ordered(primary_of(3), 4) },
                BOOTED,
                true,
                vec![],
            ),
            (
                "its switchover promotes another",
                Some(state(4, Phase::Promoting, Switchover)),
                block(ordered(primary_of(3), 4), 4),
                BOOTED,
                false,
                vec![],
            ),
            (
                "its switchover promotes another though it was never blocked",
                Some(state(4, Phase::Promoting, Switchover)),
                primary_of(3),
                SERVING,
                false,
                vec!["fence"],
            ),
            (
                "its switchover was taken back while the agent was away",
                Some(steady(4, ME)),
                block(ordered(primary_of(3), 4), 4),
                BOOTED,
                false,
                vec!["open"],
            ),
            (
                "its switchover became a failover",
                Some(state(5, Phase::Fencing, Failover)),
                block(ordered(primary_of(3), 4), 4),
                BOOTED,
                false,
                vec!["fence"],
            ),
            (
                "being promoted, not open yet",
                Some(candidate(state(4, Phase::Promoting, Failover))),
                ordered(Duty { opened: None, ..primary_of(4) }, 4),
                BOOTED,
                false,
                vec![],
            ),
            (
                "being promoted, open",
                Some(candidate(state(4, Phase::Promoting, Failover))),
                ordered(primary_of(4), 4),
                SERVING,
                true,
                vec![],
            ),
            (
                "open, and the state that says so has not come yet",
                Some(steady(3, "db-2")),
                ordered(primary_of(4), 4),
                SERVING,
                true,
                vec![],
            ),
            (
                "fenced by order, and the state is older",
                Some(steady(3, ME)),
                {
                    let d = ordered(primary_of(3), 4);
                    Duty { role: ServerRole::Fenced, opened: None, ..d }
                },
                DEAD,
                false,
                vec![],
            ),
            ("a writable replica", Some(steady(3, "db-2")), replica.clone(), SERVING, false, vec!["read_only"]),
            ("a writable server without a cluster", None, Duty::default(), SERVING, false, vec![]),
            ("a new node", Some(steady(3, "db-2")), Duty::default(), BOOTED, false, vec!["note"]),
            (
                "a replica that was restarted",
                Some(steady(3, "db-2")),
                Duty { following, ..replica.clone() },
                Local { resumable: true, ..BOOTED },
                false,
                vec!["resume"],
            ),
            ("a bystander", Some(state(4, Phase::Fencing, Failover)), replica, BOOTED, false, vec![]),
            ("given up", Some(steady(3, ME)), given_up(3), SERVING, false, vec![]),
            ("taken up again after it was given up", Some(steady(4, ME)), given_up(3), SERVING, false, vec!["open"]),
            ("fenced itself", Some(steady(3, ME)), Duty { self_fenced: true, ..primary_of(3) }, DEAD, false, vec![]),
        ] {
            let found = verdict(state.as_ref(), None, ME, &duty, local);
            assert_eq!((found.hold, names(&found)), (hold, acts), "{name}");
        }
    }

    #[test]
    fn a_cluster_that_was_given_up_lets_go_of_its_servers_and_of_their_address() {
        let left = LeftRecord { state: steady(3, ME), by: String::new(), at: String::new() };
        let replica = Duty { role: ServerRole::Replica, role_epoch: 1, ..Duty::default() };
        let silent = Local { read_only: None, ..SERVING };
        let older = LeftRecord { state: steady(2, ME), ..left.clone() };
        for (name, left, duty, local, hands_off, acts) in [
            ("the primary", &left, primary_of(3), SERVING, false, vec!["let go"]),
            ("a replica", &left, replica.clone(), BOOTED, false, vec!["let go"]),
            ("a server that does not run", &left, replica, DEAD, false, vec!["let go"]),
            ("a server that was not asked yet", &left, primary_of(3), silent, false, vec![]),
            ("done", &left, given_up(3), SERVING, true, vec![]),
            ("what was given up before its time", &older, primary_of(3), SERVING, false, vec![]),
        ] {
            let found = verdict(None, Some(left), ME, &duty, local);
            assert_eq!((found.hands_off, names(&found)), (hands_off, acts), "{name}");
            // A state that is there outweighs it.
            let found = verdict(Some(&steady(4, ME)), Some(left), ME, &duty, local);
            assert!(!found.hands_off && !names(&found).contains(&"let go"), "{name}");
        }
    }
}
