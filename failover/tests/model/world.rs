//! The world that controllers act upon: servers with their agents, relays, etcd, messages on their way. Everything that Baton's parts promise
//! of themselves is here in a few lines each; what controllers decide and plan is the shipped code.

use std::collections::BTreeMap;

use baton_cluster::{ClusterState, Grant, Phase, Tail};
use baton_failover::act::plan::{Outcome, Progress, Step};
use baton_failover::model::invariants::{self, Violation};
use baton_failover::model::{OrderKind, OrderNumber, OrderResult};

use crate::Rule;

/// A log: of each transaction the server that first committed it.
pub(crate) type Log = Vec<u8>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Up,
    /// Cut off from everything but the clients beside it.
    Cut,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Primary,
    Replica,
    Fenced,
    Diverged,
}

/// A database server with its agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) host: Host,
    pub(crate) runs: bool,
    /// Its agent has read in etcd that it serves, and is starting it.
    pub(crate) starting: bool,
    pub(crate) writable: bool,
    pub(crate) role: Role,
    pub(crate) log: Log,
    /// The relay that it replicates from.
    pub(crate) source: Option<usize>,
    pub(crate) address: bool,
    pub(crate) last: OrderNumber,
    pub(crate) self_fenced: bool,
    /// Relays whose accounts are locked here.
    pub(crate) locked: [bool; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Relay {
    pub(crate) up: bool,
    pub(crate) log: Log,
    /// Which log it is: another one after the data directory was lost.
    pub(crate) log_number: u8,
    pub(crate) promised: Grant,
    pub(crate) held: bool,
    /// The server whose commits it acknowledges while `held`.
    pub(crate) acks_for: Option<usize>,
    /// Acknowledges only once its log is that long.
    pub(crate) after: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Etcd {
    pub(crate) state: ClusterState,
    pub(crate) revision: u8,
    /// Who leads, and its term.
    pub(crate) leader: Option<(usize, u64)>,
    pub(crate) terms: u64,
    /// The primary of each epoch.
    pub(crate) epochs: BTreeMap<u64, usize>,
    pub(crate) asked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Controller {
    /// The term in which it believes to lead.
    pub(crate) leading: Option<u64>,
    pub(crate) frozen: bool,
    /// What it believes to be in etcd, where that is not what is there.
    pub(crate) stale: Option<(ClusterState, u8)>,
    pub(crate) progress: Progress,
    pub(crate) pending: Vec<Step>,
}

/// An order or a promise on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub(crate) from: usize,
    pub(crate) term: u64,
    pub(crate) step: Step,
    pub(crate) number: OrderNumber,
    /// Nobody waits for its answer any more; it may still arrive.
    pub(crate) late: bool,
}

/// How much may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Left {
    pub(crate) writes: u8,
    pub(crate) crashes: u8,
    pub(crate) host_losses: u8,
    pub(crate) cuts: u8,
    pub(crate) restarts: u8,
    pub(crate) relay_crashes: u8,
    pub(crate) data_losses: u8,
    pub(crate) expiries: u8,
    pub(crate) freezes: u8,
    pub(crate) timeouts: u8,
    pub(crate) retries: u8,
    pub(crate) switchovers: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) etcd: Etcd,
    pub(crate) servers: Vec<Server>,
    pub(crate) relays: Vec<Relay>,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) net: Vec<Message>,
    /// What clients saw committed.
    pub(crate) acked: Log,
    pub(crate) left: Left,
    /// The first violation that a transition showed.
    pub(crate) broken: Option<Violation>,
}

pub(crate) fn server_name(s: usize) -> String {
    format!("db-{}", s + 1)
}

pub(crate) fn relay_name(r: usize) -> String {
    format!("relay-{}", r + 1)
}

/// The index behind a name.
pub(crate) fn index(name: &str) -> usize {
    name.rsplit('-').next().and_then(|n| n.parse::<usize>().ok()).map_or(0, |n| n.saturating_sub(1))
}

pub(crate) fn position(log: &[u8]) -> String {
    log.last().map_or_else(String::new, |origin| format!("0-{}-{}", origin + 1, log.len()))
}

fn length(position: &str) -> usize {
    position.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

impl World {
    pub(crate) fn violated(&mut self, result: Result<(), Violation>) {
        if let (None, Err(violation)) = (&self.broken, result) {
            self.broken = Some(violation);
        }
    }

    /// Whether the relay's stream from the server it acknowledges for is whole.
    pub(crate) fn streams(&self, r: usize) -> Option<usize> {
        let relay = &self.relays[r];
        let s = relay.acks_for.filter(|_| relay.up && relay.held)?;
        let server = &self.servers[s];
        let whole = server.runs && server.host == Host::Up && !server.locked[r] && server.log.starts_with(&relay.log);
        whole.then_some(s)
    }

    /// Servers that can complete a commit now.
    pub(crate) fn able(&self) -> Vec<String> {
        let acked = |s: usize| (0..self.relays.len()).any(|r| self.streams(r) == Some(s));
        let able = (0..self.servers.len()).filter(|s| self.servers[*s].runs && self.servers[*s].writable && acked(*s));
        able.map(server_name).collect()
    }

    /// The acker receives and acknowledges everything that the server has.
    pub(crate) fn take(&mut self, r: usize) -> bool {
        let Some(s) = self.streams(r) else { return false };
        let log = self.servers[s].log.clone();
        let relay = &mut self.relays[r];
        let acks = log.len() >= relay.after && self.acked.len() < log.len();
        if relay.log == log && !acks {
            return false;
        }
        relay.log.clone_from(&log);
        if acks {
            let fine = invariants::acked_is_there(&server_name(s), &self.acked, &log);
            self.violated(fine);
            self.acked = log;
        }
        true
    }

    /// A standby receives what the acker has.
    pub(crate) fn feed(&mut self, r: usize) -> bool {
        let Some(holder) = self.etcd.state.grant_holder.as_deref().map(index) else { return false };
        if holder == r || !self.relays[r].up || !self.relays[holder].up {
            return false;
        }
        let log = self.relays[holder].log.clone();
        let news = log.len() > self.relays[r].log.len() && log.starts_with(&self.relays[r].log);
        if news {
            self.relays[r].log = log;
        }
        news
    }

    /// The relay obeys what it reads in etcd.
    pub(crate) fn relay_watches(&mut self, r: usize) -> bool {
        let state = &self.etcd.state;
        let is_holder = state.grant_holder.as_deref() == Some(&relay_name(r));
        let relay = &mut self.relays[r];
        let before = relay.clone();
        let its_log = state.grant_log_id.as_ref().is_none_or(|id| *id == log_id(r, relay));
        if relay.up && is_holder && its_log && !relay.held && state.grant >= relay.promised {
            relay.promised = state.grant;
            relay.held = true;
            relay.acks_for = self.etcd.epochs.get(&state.grant.epoch).copied();
            relay.after = state.grant_after.as_deref().map_or(0, length);
        } else if relay.up && !is_holder && (relay.promised < state.grant || relay.held) {
            relay.promised = relay.promised.max(state.grant);
            relay.held = false;
            relay.acks_for = None;
        }
        before != *relay
    }

    /// A server whose process has ended is started again by its agent, in the role that etcd says.
    pub(crate) fn restart(&mut self, s: usize) -> bool {
        let state = &self.etcd.state;
        let serves = state.primary.as_deref() == Some(&server_name(s));
        let replaced = state.primary.is_none() && state.old_primary.as_deref() == Some(&server_name(s));
        let server = &mut self.servers[s];
        if server.runs || server.starting || server.host != Host::Up || replaced {
            return false;
        }
        if serves {
            server.starting = true;
            return true;
        }
        server.runs = true;
        server.writable = false;
        if server.role == Role::Primary {
            server.role = Role::Fenced;
        }
        true
    }

    /// The start that was decided is carried out.
    pub(crate) fn started(&mut self, s: usize) -> bool {
        let server = &mut self.servers[s];
        if !server.starting || server.host != Host::Up {
            return false;
        }
        server.starting = false;
        server.runs = true;
        server.writable = true;
        server.address = true;
        server.self_fenced = false;
        server.role = Role::Primary;
        true
    }

    /// What becomes of a message that arrives.
    pub(crate) fn arrive(&mut self, message: &Message, rule: Option<Rule>) -> Outcome {
        match &message.step {
            Step::Promise { relay, grant } => self.promise(index(relay), *grant, message.term),
            Step::Rescue { relay, node, grant } => {
                let (r, s) = (index(relay), index(node));
                if self.etcd.state.phase != Phase::Fencing {
                    return Outcome::Refused("the truth is known".to_owned());
                }
                let promised = self.promise(r, *grant, message.term);
                if !matches!(promised, Outcome::Promised { .. }) {
                    return promised;
                }
                let server = &self.servers[s];
                if server.host != Host::Up || server.runs || !server.log.starts_with(&self.relays[r].log) {
                    return Outcome::Failed("nobody serves the end of the binlog".to_owned());
                }
                self.relays[r].log = server.log.clone();
                told(r, &self.relays[r])
            }
            Step::Order { node, kind, .. } => self.obey(index(node), kind, message.number, rule),
            Step::Commit(_) | Step::RefuseRequest { .. } => Outcome::Failed("no message".to_owned()),
        }
    }

    fn promise(&mut self, r: usize, grant: Grant, term: u64) -> Outcome {
        let current = self.etcd.leader.is_some_and(|(_, t)| t == term) && self.etcd.state.asked == Some(grant);
        let relay = &mut self.relays[r];
        if !relay.up {
            return Outcome::Unreachable("no answer".to_owned());
        }
        if !current || grant < relay.promised {
            return Outcome::Refused("not the present operation's".to_owned());
        }
        relay.promised = grant;
        relay.held = false;
        relay.acks_for = None;
        told(r, relay)
    }

    /// What makes a server writable is obeyed only while etcd still wants it.
    fn still_wanted(&self, s: usize, kind: &OrderKind) -> bool {
        let state = &self.etcd.state;
        let is = |name: &Option<String>| name.as_deref() == Some(&server_name(s));
        match kind {
            OrderKind::Open { .. } => is(&state.primary) || state.phase == Phase::Promoting && is(&state.candidate),
            OrderKind::Unblock {} => is(&state.primary) || state.phase == Phase::Fencing && is(&state.old_primary),
            _ => true,
        }
    }

    fn obey(&mut self, s: usize, kind: &OrderKind, number: OrderNumber, rule: Option<Rule>) -> Outcome {
        if self.servers[s].host != Host::Up {
            return Outcome::Unreachable("no answer".to_owned());
        }
        if number < self.servers[s].last {
            return Outcome::Refused("late".to_owned());
        }
        let grows = invariants::orders_grow(self.servers[s].last, number);
        if rule.is_none() {
            self.violated(grows);
        }
        self.servers[s].last = number.max(self.servers[s].last);
        if !self.still_wanted(s, kind) {
            return Outcome::Refused("the state does not want it".to_owned());
        }
        let acked = self.acked.clone();
        let relays = self.relays.clone();
        let server = &mut self.servers[s];
        let failed = |why: &str| Outcome::Failed(why.to_owned());
        let mut result = OrderResult::default();
        if let OrderKind::Fence {} = kind {
            fence(server);
            return Outcome::Done(OrderResult { killed: Some(true), ..result });
        }
        if !server.runs {
            return failed("the server does not run");
        }
        match kind {
            OrderKind::Block { .. } if !acked.starts_with(&server.log) => return failed("commits wait"),
            OrderKind::Block { .. } => {
                server.writable = false;
                server.address = false;
                result.gtid = Some(position(&server.log));
            }
            OrderKind::Unblock {} if server.role != Role::Primary => return failed("it is not the primary"),
            OrderKind::Unblock {} => {
                server.writable = true;
                server.address = true;
            }
            OrderKind::CatchUp { gtid, .. } => {
                if let Some(relay) = server.source.map(|r| &relays[r]).filter(|r| r.up)
                    && relay.log.starts_with(&server.log)
                {
                    server.log.clone_from(&relay.log);
                }
                result.reached = Some(server.log.len() >= length(gtid));
            }
            OrderKind::Prepare {} => {
                // So it is fenced like a primary if another one takes over.
                server.role = Role::Primary;
                server.source = None;
                result.first_file = Some("b.000001".to_owned());
                result.gtid = Some(position(&server.log));
                result.server_id = Some(u32::try_from(s).unwrap_or(0) + 1);
            }
            OrderKind::Open { .. } => {
                server.writable = true;
                server.address = true;
                server.role = Role::Primary;
                let fine = invariants::acked_is_there(&server_name(s), &acked, &server.log);
                self.violated(fine);
            }
            OrderKind::Follow { relay, .. } => {
                let r = index(relay);
                server.writable = false;
                if !relays[r].log.starts_with(&server.log) {
                    server.role = Role::Diverged;
                    return failed("it has what the log lacks");
                }
                server.role = Role::Replica;
                server.source = Some(r);
            }
            OrderKind::RevokeAcker { user, .. } => {
                server.locked[index(user)] = true;
                result.gtid = Some(position(&server.log));
            }
            OrderKind::AllowAcker { user } => server.locked[index(user)] = false,
            OrderKind::Fence {} | OrderKind::Clone { .. } | OrderKind::Release {} => {}
        }
        Outcome::Done(result)
    }
}

/// What the agent does to give its server up.
pub(crate) fn fence(server: &mut Server) {
    server.runs = false;
    server.starting = false;
    server.writable = false;
    server.address = false;
    server.role = Role::Fenced;
}

pub(crate) fn log_id(r: usize, relay: &Relay) -> String {
    format!("log-{r}-{}", relay.log_number)
}

/// The answer to a promise.
pub(crate) fn told(r: usize, relay: &Relay) -> Outcome {
    let tail = Tail { gtid: position(&relay.log), file: "b.000001".to_owned(), position: 4 };
    Outcome::Promised { log_id: log_id(r, relay), complete: true, tail }
}
