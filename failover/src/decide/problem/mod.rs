//! What can be wrong with a cluster: a table. Each row has a stable code, a severity, what it means and what to do, and a pure function that
//! says whom it concerns now.

mod acker;
mod cluster;
mod node;
mod primary;

use super::Memory;
use super::verdict::{self, Sight};
use crate::model::{ClusterFacts, NodeFacts, Policy};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Redundancy or visibility is reduced.
    Warning,
    /// Service is interrupted, or the next failure will interrupt it.
    Critical,
}

impl Severity {
    /// `info`, `warning`, `critical`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Stable name, such as `primary_crashed`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The node, relay or other thing that it is about.
    pub subject: String,
    /// One sentence.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// A row of the table.
pub struct Row {
    /// Stable name.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it means, for manuals and for the metric's description.
    pub meaning: &'static str,
    /// What to do.
    pub hint: &'static str,
    /// Whom it concerns now: subject and sentence.
    matches: fn(&Scene<'_>) -> Vec<(String, String)>,
}

/// What rows look at.
struct Scene<'a> {
    facts: &'a ClusterFacts,
    memory: &'a Memory,
    policy: &'a Policy,
    /// The node that serves or is to serve, with the verdict on it.
    primary: Option<(&'a str, Option<&'a NodeFacts>, Sight)>,
}

impl<'a> Scene<'a> {
    fn new(facts: &'a ClusterFacts, memory: &'a Memory, policy: &'a Policy) -> Self {
        let serving = facts.state.as_ref().and_then(|s| s.serving_or_next());
        let primary = serving.map(|name| (name, facts.nodes.get(name), verdict::sight(name, facts, policy)));
        Self { facts, memory, policy, primary }
    }

    /// The primary's name, what is known of it, and the verdict on it.
    fn primary(&self) -> Option<(&'a str, &'a NodeFacts, &Sight)> {
        self.primary.as_ref().and_then(|(name, node, sight)| node.map(|node| (*name, node, sight)))
    }

    /// Every node but the primary.
    fn others(&self) -> impl Iterator<Item = (&'a String, &'a NodeFacts)> {
        let primary = self.primary.as_ref().map(|p| p.0);
        self.facts.nodes.iter().filter(move |(name, _)| Some(name.as_str()) != primary)
    }
}

/// The whole table.
pub fn table() -> impl Iterator<Item = &'static Row> {
    primary::ROWS.iter().chain(acker::ROWS).chain(node::ROWS).chain(cluster::ROWS)
}

/// Everything that is wrong, the worst first.
pub fn all(facts: &ClusterFacts, memory: &Memory, policy: &Policy) -> Vec<Problem> {
    let scene = Scene::new(facts, memory, policy);
    let told = |row: &Row| {
        let found = (row.matches)(&scene);
        let (code, severity, hint) = (row.code, row.severity, row.hint);
        found.into_iter().map(move |(subject, text)| Problem { code, severity, subject, text, hint: hint.to_owned() })
    };
    let mut problems: Vec<Problem> = table().flat_map(|row| told(row).collect::<Vec<_>>()).collect();
    problems.sort_by_key(|p| std::cmp::Reverse(p.severity));
    problems
}

/// One subject.
fn one(subject: &str, text: String) -> Vec<(String, String)> {
    vec![(subject.to_owned(), text)]
}
