//! A cluster that obeys: each step changes the facts as it would change the world.

use baton_cluster::{ClusterState, EpochRecord, HistoryRecord, Phase, Tail};

use super::super::{Outcome, Plan, Progress, Stamp, Step, next};
use crate::decide::{Memory, decide};
use crate::model::fixture::{healthy, ms};
use crate::model::{ClusterFacts, MysqldState, OrderKind, OrderResult, Policy, ServerRole};

pub(super) struct Stage {
    pub(super) facts: ClusterFacts,
    pub(super) memory: Memory,
    pub(super) progress: Progress,
    pub(super) policy: Policy,
    pub(super) epochs: Vec<EpochRecord>,
    pub(super) history: std::collections::BTreeMap<u64, HistoryRecord>,
    /// Everything that was done, in short.
    pub(super) log: Vec<String>,
    /// Asked before each effect: some outcome is what happens instead.
    pub(super) trouble: fn(&mut ClusterFacts, &Step) -> Option<Outcome>,
}

impl Stage {
    pub(super) fn new() -> Self {
        let policy = Policy::default();
        let facts = healthy();
        Self {
            memory: Memory::default().observe(&facts, &policy, ms(0)),
            facts,
            progress: Progress::new(),
            policy,
            epochs: Vec::new(),
            history: Default::default(),
            log: Vec::new(),
            trouble: |_, _| None,
        }
    }

    pub(super) fn state(&self) -> &ClusterState {
        self.facts.state.as_ref().expect("a state")
    }

    pub(super) fn look(&mut self, elapsed: u64) -> Plan {
        self.memory = self.memory.observe(&self.facts, &self.policy, ms(elapsed));
        let decision = decide(&self.facts, &self.memory, &self.policy);
        let stamp = Stamp { by: "controller-1", now: "2026-01-01T00:00:01Z" };
        next(&decision, &self.facts, &self.memory, &self.progress, &self.policy, stamp)
    }

    /// A new leader: nothing but etcd and the facts are left.
    pub(super) fn succeed(&mut self) {
        self.progress = Progress::new();
        self.log.push("-- succession".to_owned());
    }

    /// Does one round; returns whether anything was done.
    pub(super) fn round(&mut self, elapsed: u64) -> bool {
        let plan = self.look(elapsed);
        let done = !plan.steps.is_empty();
        for step in plan.steps {
            self.take(&step);
        }
        done
    }

    /// Rounds until nothing is left to do and the state is steady; at most 200.
    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            let did = self.round(2000);
            if !did && self.state().phase == Phase::Steady {
                return;
            }
        }
        panic!("never settles: {:#?}\n{:#?}", self.log, self.state());
    }

    /// Plays `steps` steps; the last one takes effect and is answered to nobody if `unanswered`. Returns whether the operation ended before.
    pub(super) fn play(&mut self, steps: usize, unanswered: bool) -> bool {
        let mut taken = 0;
        for _ in 0..200 {
            let plan = self.look(2000);
            if plan.steps.is_empty() && self.state().phase == Phase::Steady && self.state().asked.is_none() {
                return true;
            }
            for step in plan.steps {
                if taken == steps {
                    return false;
                }
                taken += 1;
                let before = self.progress.clone();
                self.take(&step);
                if taken == steps && unanswered {
                    self.progress = before;
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn take(&mut self, step: &Step) {
        self.log.push(short(step));
        let outcome = match (self.trouble)(&mut self.facts, step) {
            Some(outcome) => outcome,
            None => match step {
                Step::Commit(commit) => {
                    let before = self.facts.state.clone().expect("a state");
                    crate::model::invariants::check(&before, &commit.state).expect("an allowed change");
                    for change in &commit.history {
                        let old = self.history.remove(&change.epoch);
                        self.history.insert(change.epoch, change.apply(old, &commit.state, "now", 1));
                    }
                    self.epochs.extend(commit.epoch.clone());
                    if commit.takes_request.is_some() {
                        self.facts.request = None;
                    }
                    self.facts.state = Some(commit.state.clone());
                    self.progress.committed(commit);
                    return;
                }
                Step::RefuseRequest { .. } => {
                    self.facts.request = None;
                    return;
                }
                Step::Promise { relay, grant } | Step::Rescue { relay, grant, .. } => {
                    let relay = self.facts.relay(relay);
                    if !relay.answers {
                        Outcome::Unreachable("no answer".to_owned())
                    } else {
                        relay.promised = relay.promised.max(*grant);
                        relay.held = false;
                        let tail =
                            Tail { gtid: relay.head.clone(), file: "mysql-bin.000007".to_owned(), position: 400 };
                        Outcome::Promised { log_id: relay.log_id.clone(), complete: relay.complete, tail }
                    }
                }
                Step::Order { node, kind, .. } => self.obey(node, kind),
            },
        };
        self.progress.record(step, outcome);
    }

    fn obey(&mut self, node: &str, kind: &OrderKind) -> Outcome {
        let answers = self.facts.nodes.get(node).and_then(crate::decide::verdict::agent).is_some();
        if !answers {
            return Outcome::Unreachable("the agent does not answer".to_owned());
        }
        let mut result = OrderResult::default();
        let status = self.facts.status(node);
        if let OrderKind::Fence {} = kind {
            status.role = ServerRole::Fenced;
            status.mysqld = MysqldState::Dead;
            status.server = None;
            status.address = None;
            return Outcome::Done(OrderResult { killed: Some(true), ..result });
        }
        let Some(server) = status.server.as_mut() else {
            return Outcome::Failed("the server does not answer".to_owned());
        };
        match kind {
            OrderKind::Block { .. } => {
                server.read_only = true;
                result.gtid = Some(server.gtid_binlog.clone());
            }
            OrderKind::Unblock {} => server.read_only = false,
            OrderKind::CatchUp { gtid, .. } => {
                server.gtid_binlog.clone_from(gtid);
                server.gtid_slave.clone_from(gtid);
                result.reached = Some(true);
            }
            OrderKind::Prepare {} => {
                server.replication = None;
                result.first_file = Some("mysql-bin.000003".to_owned());
                result.gtid = Some(server.gtid_binlog.clone());
                result.server_id = Some(server.server_id);
            }
            OrderKind::Open { .. } => {
                server.read_only = false;
                status.role = ServerRole::Primary;
            }
            OrderKind::RevokeAcker { .. } => result.gtid = Some(server.gtid_binlog.clone()),
            OrderKind::Follow { source, .. } => {
                let replication = server.replication.get_or_insert_default();
                replication.source.clone_from(source);
                replication.io = "Yes".to_owned();
                replication.sql = true;
                server.read_only = true;
                status.role = ServerRole::Replica;
            }
            _ => {}
        }
        Outcome::Done(result)
    }
}

/// A step in a few words.
pub(super) fn short(step: &Step) -> String {
    match step {
        Step::Commit(c) => {
            let s = &c.state;
            let who = s.serving_or_next().unwrap_or("nobody");
            format!("commit {} {:?} {who} {}", s.epoch, s.phase, s.grant)
        }
        Step::Promise { relay, grant } => format!("promise {relay} {grant}"),
        Step::Rescue { relay, node, grant } => format!("rescue {relay} from {node} {grant}"),
        Step::Order { node, kind, .. } => format!("{} {node}", kind.name()),
        Step::RefuseRequest { why, .. } => format!("refuse: {why}"),
    }
}
