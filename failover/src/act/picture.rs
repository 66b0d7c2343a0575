//! What the loop makes of the cluster at each turn, for whoever shows it.

use std::sync::Arc;

use baton_cluster::LeaderRecord;
use baton_cluster::store::{Leadership, Snapshot, Versioned};
use tokio::time::Instant;

use crate::decide::{Decision, Memory, Problem, Refusal};
use crate::model::{ClusterFacts, Policy};

/// One moment.
#[derive(Debug, Clone)]
pub struct Picture {
    /// When it was made.
    pub at: Instant,
    /// What was known.
    pub facts: ClusterFacts,
    /// What is remembered from the turns before.
    pub memory: Memory,
    /// What was decided; a follower decides too, and does nothing.
    pub decision: Decision,
    /// What is due and not done, or waited for.
    pub refusing: Option<Refusal>,
    /// What this controller is.
    pub leadership: Leadership,
    /// etcd as last told.
    pub etcd: Arc<Snapshot>,
    /// What was decided by.
    pub policy: Policy,
    /// Steps under way, in words.
    pub running: Vec<String>,
    /// What is wrong with the controllers themselves.
    pub own_problems: Vec<Problem>,
}

impl Picture {
    /// Who leads, as etcd says, and its term.
    pub fn leader(&self) -> Option<&Versioned<LeaderRecord>> {
        self.etcd.leader.as_ref()
    }

    /// Everything that is wrong, the worst first.
    pub fn problems(&self) -> Vec<&Problem> {
        let mut all: Vec<&Problem> = self.own_problems.iter().chain(&self.decision.problems).collect();
        all.sort_by_key(|p| std::cmp::Reverse(p.severity));
        all
    }
}
