//! What can be wrong with a cluster.

use super::Memory;
use crate::model::{ClusterFacts, Policy};

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

/// Everything that is wrong, the worst first.
pub fn all(facts: &ClusterFacts, memory: &Memory, policy: &Policy) -> Vec<Problem> {
    let _ = (facts, memory, policy);
    Vec::new()
}
