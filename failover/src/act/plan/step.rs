//! What a plan is made of: steps as plain data, and what came of them.

use std::collections::BTreeMap;

use baton_cluster::{ClusterState, EpochRecord, Grant, HistoryRecord, OperationKind, Stage, Tail};

use crate::model::{OrderKind, OrderNumber, OrderResult};

/// One step. The same step asked for again while it is under way is not started twice; asked for again after it failed, it is tried again,
/// with a back-off. Steps that are given together may run side by side; a commit stands last, and nothing more is begun before it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Change the state document, under the leader's fence and at the revision of the state that the plan was made from.
    Commit(Box<Commit>),
    /// Ask a relay to promise `grant` (`POST /v1/promise`). Brings [`Outcome::Promised`].
    Promise {
        /// The relay's name.
        relay: String,
        /// What it is to promise.
        grant: Grant,
    },
    /// Have a standby complete itself from the end of the dead primary's binlog, over that host's agent, and promise `grant`
    /// (`POST /v1/rescue`). Brings [`Outcome::Promised`].
    Rescue {
        /// The standby's name.
        relay: String,
        /// The node whose agent serves its binlog files.
        node: String,
        /// What the standby is to promise.
        grant: Grant,
    },
    /// An order to a node's agent, numbered by [`Progress::number`] at the moment when it is sent. Brings [`Outcome::Done`].
    Order {
        /// The node's name.
        node: String,
        /// Epoch for the order's number.
        epoch: u64,
        /// What it is to do.
        kind: OrderKind,
    },
    /// Remove the request that was refused; `why` goes to whoever follows it.
    RefuseRequest {
        /// The request's id.
        id: String,
        /// One sentence.
        why: String,
    },
}

/// One transaction in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Commit {
    /// The whole new document.
    pub state: ClusterState,
    /// Written to `epochs/<epoch>` with it.
    pub epoch: Option<EpochRecord>,
    /// Changes of `history/<epoch>`, in the same transaction.
    pub history: Vec<HistoryChange>,
    /// The request that is taken up by it and removed with it.
    pub takes_request: Option<String>,
    /// The candidate that is given up by it, and why.
    pub abandons: Option<(String, String)>,
}

/// A change of one history document; the runner reads the document, applies this, and writes it with the commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HistoryChange {
    /// Which: `history/<epoch>`.
    pub epoch: u64,
    /// What kind of operation it is.
    pub kind: OperationKind,
    /// Who served before.
    pub from: Option<String>,
    /// Stages that were reached: name and detail.
    pub stages: Vec<(String, String)>,
    /// The tail, where it is known by now.
    pub tail: Option<Tail>,
    /// What was seen; only with the first change.
    pub evidence: Vec<String>,
    /// The end: `done`, `taken_back` or `superseded`, and who serves.
    pub outcome: Option<(String, Option<String>)>,
}

impl HistoryChange {
    /// The document after this change: `before` is what etcd holds, `state` what is committed with it, `now` RFC 3339, `at_ms` milliseconds
    /// since the operation began.
    pub fn apply(&self, before: Option<HistoryRecord>, state: &ClusterState, now: &str, at_ms: u64) -> HistoryRecord {
        let mut record = before.unwrap_or_else(|| HistoryRecord {
            epoch: self.epoch,
            kind: self.kind,
            from: self.from.clone(),
            to: None,
            cause: state.cause.clone(),
            evidence: Vec::new(),
            started: state.started.clone(),
            finished: None,
            outcome: "running".to_owned(),
            stages: Vec::new(),
            tail: None,
        });
        record.evidence.extend(self.evidence.iter().cloned());
        for (name, detail) in &self.stages {
            record.stages.push(Stage { name: name.clone(), at_ms, detail: detail.clone() });
        }
        if self.tail.is_some() {
            record.tail.clone_from(&self.tail);
        }
        if let Some((outcome, to)) = &self.outcome {
            record.outcome.clone_from(outcome);
            record.to.clone_from(to);
            record.finished = Some(now.to_owned());
        }
        record
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A relay's answer 200 to a promise or a rescue.
    Promised {
        /// Identity of its log.
        log_id: String,
        /// Whether its log is complete.
        complete: bool,
        /// Its end.
        tail: Tail,
    },
    /// An agent's answer 200 to an order.
    Done(OrderResult),
    /// 409: refused for its number or grant; the text is the answer's.
    Refused(String),
    /// 422, 503 or another error that the other side told.
    Failed(String),
    /// No answer: it may or may not have happened.
    Unreachable(String),
}

/// What one leader knows of the effects of its own steps. Nothing in it is needed by a successor, which has everything anew by asking again:
/// every step is idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Progress {
    /// Last outcome of each step.
    outcomes: Vec<(Step, Outcome)>,
    /// Candidates that failed in this operation, with the reason.
    failed: BTreeMap<String, String>,
    /// The epoch of the operation that this leader itself began.
    began: Option<u64>,
    /// Number of the last order.
    last_step: u64,
}

impl Progress {
    /// Of a leader that begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number for the next order: within one term they only grow, so a late one is always refused.
    pub fn number(&mut self, term: u64, epoch: u64) -> OrderNumber {
        self.last_step += 1;
        OrderNumber { term, epoch, step: self.last_step }
    }

    /// Records what came of `step`.
    pub fn record(&mut self, step: &Step, outcome: Outcome) {
        match self.outcomes.iter_mut().find(|(s, _)| s == step) {
            Some((_, old)) => *old = outcome,
            None => self.outcomes.push((step.clone(), outcome)),
        }
    }

    /// Last outcome of `step`; none: not tried yet, or still under way.
    pub fn outcome(&self, step: &Step) -> Option<&Outcome> {
        self.outcomes.iter().find(|(s, _)| s == step).map(|(_, o)| o)
    }

    /// The result of an order that was obeyed.
    pub fn done(&self, step: &Step) -> Option<&OrderResult> {
        match self.outcome(step) {
            Some(Outcome::Done(result)) => Some(result),
            _ => None,
        }
    }

    /// To be called when `commit` is in etcd: forgets the outcomes of what is over, remembers the candidate that was given up.
    pub fn committed(&mut self, commit: &Commit) {
        if let Some((node, why)) = &commit.abandons {
            self.failed.insert(node.clone(), why.clone());
        }
        if commit.state.primary.is_none() {
            self.began = Some(commit.state.epoch);
        }
        self.keep_for(&commit.state);
    }

    /// Forgets what does not belong to `state`: to be called too when the state was changed by somebody else.
    pub fn keep_for(&mut self, state: &ClusterState) {
        self.outcomes.retain(|(step, _)| match step {
            Step::Promise { grant, .. } | Step::Rescue { grant, .. } => state.asked == Some(*grant),
            Step::Order { epoch, .. } => *epoch == state.epoch,
            Step::Commit(_) | Step::RefuseRequest { .. } => false,
        });
        if state.primary.is_some() {
            self.failed.clear();
        }
    }

    /// Whether this leader itself began the operation of `epoch`, or took it further: then nothing was ordered in it that is not recorded here.
    pub fn began(&self, epoch: u64) -> bool {
        self.began == Some(epoch)
    }

    /// Candidates that failed in this operation.
    pub fn failed(&self) -> &BTreeMap<String, String> {
        &self.failed
    }
}
