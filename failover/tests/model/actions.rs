//! Everything that can happen next, as a `stateright` model: each part may act whenever it can, and faults strike between any two steps.

use std::time::Duration;

use baton_cluster::Phase;
use baton_failover::act::plan::{Commit, Outcome, Stamp, Step, next};
use baton_failover::decide::{Memory, judge};
use baton_failover::model::invariants::{self, check};
use baton_failover::model::{OrderKind, OrderNumber, Policy};
use stateright::{Model, Property};

use crate::view;
use crate::world::{Host, Message, World, fence, index, server_name, told};
use crate::{Cluster, Rule};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A client writes on a server.
    Write(usize),
    /// The acker receives and acknowledges.
    Take(usize),
    /// A standby receives from the acker.
    Feed(usize),
    /// A relay obeys what it reads in etcd.
    Watch(usize),
    /// A controller decides and acts; `late`: what it sees has lasted for long.
    Act {
        controller: usize,
        late: bool,
    },
    /// A controller takes the lead.
    Elect(usize),
    /// A controller learns that it leads no more.
    Learn(usize),
    /// A message arrives and is answered.
    Deliver(usize),
    /// The sender gives up on a message, which may still arrive.
    TimeOut(usize),
    /// The leader's lease ends.
    Expire,
    Freeze(usize),
    Thaw(usize),
    Crash(usize),
    /// The order to prepare arrives, and the server dies before its old source is forgotten.
    DieInPrepare(usize),
    LoseHost(usize),
    Cut(usize),
    SelfFence(usize),
    Heal(usize),
    Restart(usize),
    Started(usize),
    CrashRelay(usize),
    RestartRelay(usize),
    LoseData(usize),
    /// Somebody asks for a switchover.
    Ask,
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.beginning()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        for s in 0..world.servers.len() {
            actions.extend([Action::Write(s), Action::Crash(s), Action::LoseHost(s), Action::Cut(s)]);
            actions.extend([Action::SelfFence(s), Action::Heal(s), Action::Restart(s), Action::Started(s)]);
        }
        for r in 0..world.relays.len() {
            actions.push(Action::Take(r));
            if self.lively_relays {
                actions.extend([Action::Feed(r), Action::Watch(r)]);
            }
            actions.extend([Action::CrashRelay(r), Action::RestartRelay(r), Action::LoseData(r)]);
        }
        for c in 0..world.controllers.len() {
            actions.extend([Action::Elect(c), Action::Learn(c), Action::Freeze(c), Action::Thaw(c)]);
            actions.extend([Action::Act { controller: c, late: false }, Action::Act { controller: c, late: true }]);
        }
        for k in 0..world.net.len() {
            actions.extend([Action::Deliver(k), Action::TimeOut(k)]);
            if self.deaths_in_orders {
                actions.push(Action::DieInPrepare(k));
            }
        }
        actions.extend([Action::Expire, Action::Ask]);
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        if !possible(before, &action) {
            return None;
        }
        let mut world = before.clone();
        let happened = self.happen(&mut world, &action);
        if happened && !self.lively_relays {
            (0..world.relays.len()).for_each(|r| _ = world.relay_watches(r));
        }
        if happened && self.rule.is_none() {
            forget_what_would_be_refused(&mut world);
        }
        (happened && world != *before).then_some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.etcd.state.epoch <= self.epochs
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("no transition breaks an invariant", |_, w: &World| w.broken.is_none()),
            Property::always("at most one server can complete a commit", |_, w: &World| {
                invariants::at_most_one_can_commit(w.able().iter().map(String::as_str)).is_ok()
            }),
            Property::always("the address is held once", |_, w: &World| {
                let names: Vec<String> =
                    (0..w.servers.len()).filter(|s| w.servers[*s].address).map(server_name).collect();
                invariants::address_once(names.iter().map(String::as_str)).is_ok()
            }),
        ];
        all.extend(self.reached.iter().map(|(name, reached)| Property::sometimes(name, *reached)));
        all
    }
}

impl Cluster {
    fn happen(&self, world: &mut World, action: &Action) -> bool {
        match *action {
            Action::Write(s) => {
                let server = &mut world.servers[s];
                let can = server.runs && server.writable && spend(&mut world.left.writes);
                if can {
                    server.log.push(u8::try_from(s).unwrap_or(0));
                }
                can
            }
            Action::Take(r) => world.take(r),
            Action::Feed(r) => world.feed(r),
            Action::Watch(r) => world.relay_watches(r),
            Action::Act { controller, late } => self.act(world, controller, late),
            Action::Elect(c) => {
                let free = world.etcd.leader.is_none();
                let controller = &mut world.controllers[c];
                if !free || controller.frozen || controller.leading.is_some() {
                    return false;
                }
                world.etcd.terms += 1;
                world.etcd.leader = Some((c, world.etcd.terms));
                *controller = Default::default();
                controller.leading = Some(world.etcd.terms);
                world.net.iter_mut().filter(|m| m.from == c).for_each(|m| m.late = true);
                true
            }
            Action::Learn(c) => {
                let leads = world.etcd.leader;
                let controller = &mut world.controllers[c];
                let deposed = controller.leading.is_some_and(|term| leads != Some((c, term)));
                if controller.frozen || !deposed {
                    return false;
                }
                *controller = Default::default();
                true
            }
            Action::Deliver(k) => {
                let message = world.net.remove(k);
                let outcome = world.arrive(&message, self.rule);
                if !message.late {
                    answer(world, &message, outcome);
                }
                true
            }
            Action::DieInPrepare(k) => {
                let message = world.net.remove(k);
                let Step::Order { node, .. } = &message.step else { return false };
                let s = index(node);
                let source = world.servers[s].source;
                let mut outcome = world.arrive(&message, self.rule);
                if matches!(outcome, Outcome::Done(_)) && source.is_some() && spend(&mut world.left.crashes) {
                    let server = &mut world.servers[s];
                    (server.runs, server.source) = (false, source);
                    outcome = Outcome::Failed("the session ended".to_owned());
                } else {
                    return false;
                }
                if !message.late {
                    answer(world, &message, outcome);
                }
                true
            }
            Action::TimeOut(k) => {
                if world.net[k].late || !spend(&mut world.left.timeouts) {
                    return false;
                }
                world.net[k].late = true;
                let message = world.net[k].clone();
                answer(world, &message, Outcome::Unreachable("no answer".to_owned()));
                true
            }
            Action::Expire => world.etcd.leader.take().is_some() && spend(&mut world.left.expiries),
            Action::Freeze(c) => {
                let controller = &mut world.controllers[c];
                if controller.leading.is_none() || controller.frozen || !spend(&mut world.left.freezes) {
                    return false;
                }
                controller.frozen = true;
                controller.stale = Some((world.etcd.state.clone(), world.etcd.revision));
                true
            }
            Action::Thaw(c) => std::mem::take(&mut world.controllers[c].frozen),
            Action::Ask => spend(&mut world.left.switchovers) && !std::mem::replace(&mut world.etcd.asked, true),
            _ => strike(world, action),
        }
    }

    /// A controller looks, decides, plans, and takes the first steps.
    fn act(&self, world: &mut World, c: usize, late: bool) -> bool {
        let Some(term) = world.controllers[c].leading.filter(|_| !world.controllers[c].frozen) else { return false };
        let stale = world.controllers[c].stale.take();
        let (state, revision) = stale.unwrap_or_else(|| (world.etcd.state.clone(), world.etcd.revision));
        let facts = view::facts(world, &state);
        let policy = Policy::default();
        let everybody = Memory {
            seen_alive: (0..world.servers.len()).map(server_name).collect(),
            serving: state.serving_or_next().map(str::to_owned),
            phase: Some((state.epoch, state.phase)),
            phase_for: std::time::Duration::from_secs(60),
            ..Memory::default()
        };
        let lasting = Duration::from_secs(if late { 60 } else { 0 });
        let now = everybody.observe(&facts, &policy, Duration::ZERO);
        if late && now.acker_bad_for.is_none() && matches!(state.phase, Phase::Steady | Phase::Fencing) {
            return false;
        }
        let memory = now.observe(&facts, &policy, lasting);
        let decision = judge(&facts, &memory, &policy);
        let stamp = Stamp { by: "controller", now: "" };
        let plan = next(&decision, &facts, &memory, &world.controllers[c].progress, &policy, stamp);
        let mut acted = false;
        for step in plan.steps {
            acted |= self.start(world, c, term, revision, step);
        }
        acted
    }

    fn start(&self, world: &mut World, c: usize, term: u64, revision: u8, step: Step) -> bool {
        match &step {
            Step::Commit(commit) => return self.commit(world, c, term, revision, commit),
            Step::RefuseRequest { .. } => return std::mem::take(&mut world.etcd.asked),
            Step::Promise { relay, .. } if self.rule == Some(Rule::TailWithoutPromise) => {
                let outcome = told(index(relay), &world.relays[index(relay)]);
                world.controllers[c].progress.record(&step, outcome);
                return true;
            }
            _ => {}
        }
        let controller = &mut world.controllers[c];
        if controller.pending.contains(&step) {
            return false;
        }
        if controller.progress.outcome(&step).is_some() && !spend(&mut world.left.retries) {
            return false;
        }
        let number = match &step {
            Step::Order { epoch, .. } => controller.progress.number(term, *epoch),
            _ => OrderNumber::default(),
        };
        controller.pending.push(step.clone());
        world.net.push(Message { from: c, term, step, number, late: false });
        true
    }

    fn commit(&self, world: &mut World, c: usize, term: u64, revision: u8, commit: &Commit) -> bool {
        let leads = world.etcd.leader == Some((c, term));
        if !leads || revision != world.etcd.revision {
            if !leads {
                world.controllers[c] = Default::default();
                world.net.iter_mut().filter(|m| m.from == c).for_each(|m| m.late = true);
            }
            return true;
        }
        let mut state = commit.state.clone();
        state.cause.reason = String::new();
        if self.rule == Some(Rule::SuccessorAcksAtOnce) {
            state.grant_after = None;
        }
        if self.rule.is_none() {
            let allowed = check(&world.etcd.state, &state);
            world.violated(allowed);
        }
        if let Some(epoch) = &commit.epoch {
            world.etcd.epochs.insert(epoch.epoch, index(&epoch.node));
        }
        if commit.takes_request.is_some() {
            world.etcd.asked = false;
        }
        world.etcd.state = state;
        world.etcd.revision += 1;
        world.controllers[c].progress.committed(commit);
        let progress = world.controllers[c].progress.clone();
        // What is still on its way for an operation that is over is waited for by nobody.
        let epoch = world.etcd.state.epoch;
        world.controllers[c].pending.retain(|s| matches!(s, Step::Order { epoch: e, .. } if *e == epoch));
        let _ = progress;
        true
    }
}

/// Whether it is worth trying: cheap, and never wrong when it says no.
fn possible(world: &World, action: &Action) -> bool {
    let left = &world.left;
    match *action {
        Action::Write(s) => left.writes > 0 && world.servers[s].runs && world.servers[s].writable,
        Action::Take(r) => world.relays[r].held && world.relays[r].up,
        Action::Feed(r) => world.relays[r].up && !world.relays[r].held,
        Action::Act { controller, .. } | Action::Learn(controller) => {
            world.controllers[controller].leading.is_some() && !world.controllers[controller].frozen
        }
        Action::Elect(c) => world.etcd.leader.is_none() && !world.controllers[c].frozen,
        Action::TimeOut(k) => left.timeouts > 0 && !world.net[k].late,
        Action::Expire => left.expiries > 0 && world.etcd.leader.is_some(),
        Action::Freeze(c) => left.freezes > 0 && world.controllers[c].leading.is_some(),
        Action::Thaw(c) => world.controllers[c].frozen,
        Action::Crash(s) => left.crashes > 0 && world.servers[s].runs,
        Action::LoseHost(s) => left.host_losses > 0 && world.servers[s].host == Host::Up,
        Action::Cut(s) => left.cuts > 0 && world.servers[s].host == Host::Up,
        Action::SelfFence(s) => world.servers[s].host == Host::Cut && !world.servers[s].self_fenced,
        Action::Heal(s) => world.servers[s].host != Host::Up,
        Action::Restart(s) => left.restarts > 0 && !world.servers[s].runs,
        Action::Started(s) => world.servers[s].starting,
        Action::DieInPrepare(k) => {
            left.crashes > 0 && matches!(&world.net[k].step, Step::Order { kind: OrderKind::Prepare {}, .. })
        }
        Action::CrashRelay(r) => left.relay_crashes > 0 && world.relays[r].up,
        Action::RestartRelay(r) => !world.relays[r].up,
        Action::LoseData(r) => left.data_losses > 0 && !world.relays[r].up,
        Action::Ask => left.switchovers > 0,
        Action::Deliver(_) | Action::Watch(_) => true,
    }
}

/// Late messages that could only be refused, now and for ever, make no difference.
fn forget_what_would_be_refused(world: &mut World) {
    let leading = world.etcd.leader.map(|(_, term)| term);
    let servers = &world.servers;
    world.net.retain(|m| match &m.step {
        _ if !m.late => true,
        Step::Order { node, .. } => m.number >= servers[index(node)].last,
        _ => leading == Some(m.term),
    });
}

/// The sender has its answer.
fn answer(world: &mut World, message: &Message, outcome: Outcome) {
    let controller = &mut world.controllers[message.from];
    if controller.leading == Some(message.term) {
        controller.pending.retain(|s| *s != message.step);
        controller.progress.record(&message.step, outcome);
    }
}

/// Faults, and what mends them.
fn strike(world: &mut World, action: &Action) -> bool {
    let left = &mut world.left;
    match *action {
        Action::Crash(s) => {
            let server = &mut world.servers[s];
            let strikes = server.runs && spend(&mut left.crashes);
            if strikes {
                server.runs = false;
                server.writable = false;
            }
            strikes
        }
        Action::LoseHost(s) => {
            let server = &mut world.servers[s];
            let strikes = server.host == Host::Up && spend(&mut left.host_losses);
            if strikes {
                server.host = Host::Down;
                server.runs = false;
                server.starting = false;
                server.writable = false;
                server.address = false;
            }
            strikes
        }
        Action::Cut(s) => {
            let server = &mut world.servers[s];
            let strikes = server.host == Host::Up && spend(&mut left.cuts);
            if strikes {
                server.host = Host::Cut;
            }
            strikes
        }
        Action::SelfFence(s) => {
            let server = &mut world.servers[s];
            let due = server.host == Host::Cut && !server.self_fenced;
            if due {
                fence(server);
                server.self_fenced = true;
            }
            due
        }
        Action::Heal(s) => {
            let server = &mut world.servers[s];
            let heals = server.host != Host::Up;
            server.host = Host::Up;
            heals
        }
        Action::Restart(s) => {
            !world.servers[s].runs && world.left.restarts > 0 && world.restart(s) && spend(&mut world.left.restarts)
        }
        Action::Started(s) => world.started(s),
        Action::CrashRelay(r) => {
            let strikes = world.relays[r].up && spend(&mut left.relay_crashes);
            world.relays[r].up &= !strikes;
            strikes
        }
        Action::RestartRelay(r) => !std::mem::replace(&mut world.relays[r].up, true),
        Action::LoseData(r) => {
            let relay = &mut world.relays[r];
            let strikes = !relay.up && spend(&mut left.data_losses);
            if strikes {
                relay.log.clear();
                relay.log_number += 1;
                relay.promised = Default::default();
                relay.held = false;
                relay.acks_for = None;
            }
            strikes
        }
        _ => false,
    }
}

fn spend(budget: &mut u8) -> bool {
    let left = *budget > 0;
    *budget = budget.saturating_sub(1);
    left
}
